//! The paths a file speaks of: in `use` lines, with their braces opened, and in the code itself.

/// A path from its root, such as `crate::model::ServiceName`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mention {
    pub(super) line: usize,
    pub(super) path: String,
    /// A lone word in the code: a keyword, a name, or a method, but no crate.
    pub(super) lone: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Colons,
    Mark(char),
}

/// Every path in `code`, and every single word. `module` is where the code stands, such as `crate::model::parse`.
pub(super) fn mentioned(code: &str, module: &str) -> Vec<Mention> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((line, token)) = tokens.get(at) {
        match token {
            Token::Word("use") => at = tree(&tokens, at + 1, "", &mut found),
            Token::Word(word) => at = plain(&tokens, at + 1, *line, word, &mut found),
            Token::Colons | Token::Mark(_) => at += 1,
        }
    }
    for mention in &mut found {
        mention.path = from_root(&mention.path, module);
    }
    found
}

/// One `use` tree after `prefix`; gives the place behind it.
fn tree(tokens: &[(usize, Token<'_>)], mut at: usize, prefix: &str, found: &mut Vec<Mention>) -> usize {
    let mut path = prefix.to_owned();
    while let Some((line, token)) = tokens.get(at) {
        at += 1;
        match token {
            Token::Word("as") => at += 1,
            Token::Word(word) => join(&mut path, word),
            Token::Colons => {}
            Token::Mark('{') => return branches(tokens, at, &path, found),
            Token::Mark('*') => join(&mut path, "*"),
            Token::Mark(_) => {
                found.push(Mention { line: *line, path, lone: false });
                return at - 1;
            }
        }
    }
    at
}

fn branches(tokens: &[(usize, Token<'_>)], mut at: usize, prefix: &str, found: &mut Vec<Mention>) -> usize {
    loop {
        match tokens.get(at) {
            None => return at,
            Some((_, Token::Mark('}'))) => return at + 1,
            Some((_, Token::Mark(','))) => at += 1,
            Some(_) => at = tree(tokens, at, prefix, found),
        }
    }
}

/// A path in the code, or a single word.
fn plain(
    tokens: &[(usize, Token<'_>)],
    mut at: usize,
    line: usize,
    first: &str,
    found: &mut Vec<Mention>,
) -> usize {
    let mut path = first.to_owned();
    while let [(_, Token::Colons), (_, Token::Word(word)), ..] = &tokens[at..] {
        join(&mut path, word);
        at += 2;
    }
    let lone = path == first;
    found.push(Mention { line, path, lone });
    at
}

fn join(path: &mut String, word: &str) {
    if !path.is_empty() {
        path.push_str("::");
    }
    path.push_str(word);
}

/// Replaces leading `self` and `super`.
fn from_root(path: &str, module: &str) -> String {
    let mut here: Vec<&str> = module.split("::").collect();
    let mut rest: Vec<&str> = path.split("::").collect();
    let mut relative = false;
    while let Some(step @ ("self" | "super")) = rest.first().copied() {
        relative = true;
        if step == "super" {
            here.pop();
        }
        rest.remove(0);
    }
    if relative { here.into_iter().chain(rest).collect::<Vec<_>>().join("::") } else { path.to_owned() }
}

fn tokens(code: &str) -> Vec<(usize, Token<'_>)> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(code.lines()) {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let (token, length) = token(rest, first);
            found.push((number, token));
            rest = rest[length..].trim_start();
        }
    }
    found
}

fn token(rest: &str, first: char) -> (Token<'_>, usize) {
    if rest.starts_with("::") {
        return (Token::Colons, 2);
    }
    let length = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
    if length > 0 { (Token::Word(&rest[..length]), length) } else { (Token::Mark(first), first.len_utf8()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: &str, module: &str, expected: &[&str]) {
        let paths: Vec<String> = mentioned(code, module).into_iter().map(|mention| mention.path).collect();
        assert_eq!(paths, expected, "{code}");
    }

    #[test]
    fn braces_are_opened() {
        check("use a::{b, c::{d, e as f}, *};", "crate", &["a::b", "a::c::d", "a::c::e", "a::*"]);
        check("use a;\nuse b::c;", "crate", &["a", "b::c"]);
    }

    #[test]
    fn a_path_in_the_code_counts_as_well() {
        check("tracing::info(x)", "crate", &["tracing::info", "x"]);
    }

    #[test]
    fn relative_paths_are_told_from_the_root() {
        check("use super::name::Name;", "crate::model::parse", &["crate::model::name::Name"]);
        check("use self::image::Entries;", "crate::backend::ebpf", &["crate::backend::ebpf::image::Entries"]);
        check("use super::super::desired;", "crate::backend::ebpf", &["crate::desired"]);
    }

    #[test]
    fn a_mention_knows_its_line() {
        let mentions = mentioned("a\n\nuse b::{\n c,\n d,\n};", "crate");
        assert_eq!(mentions.iter().map(|mention| mention.line).collect::<Vec<_>>(), [1, 4, 5]);
    }
}
