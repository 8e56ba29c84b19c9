//! Rust text without what is no code: comments, strings, and the tests at its end.

/// The same text with comments, strings and characters blanked out. Lines keep their numbers.
pub(super) fn code(text: &str) -> String {
    let mut rest = text;
    let mut code = String::with_capacity(text.len());
    while let Some(first) = rest.chars().next() {
        match blank(rest, code.chars().next_back()) {
            Some(length) => {
                let (gone, after) = rest.split_at(length);
                code.extend(gone.chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }));
                rest = after;
            }
            None => {
                code.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    code
}

/// What ships: everything before the tests at the end of the file.
pub(super) fn without_tests(code: &str) -> &str {
    let tests = code.match_indices("#[cfg(test)]").find(|(at, found)| {
        let after = code[at + found.len()..].trim_start();
        after.starts_with("mod ") && after.find(['{', ';']).is_some_and(|at| after[at..].starts_with('{'))
    });
    tests.map_or(code, |(at, _)| &code[..at])
}

/// The length of what is no code at the beginning of `rest`.
fn blank(rest: &str, before: Option<char>) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(rest.find("*/").map_or(rest.len(), |end| end + 2));
    }
    if rest.starts_with('"') {
        return Some(string(rest));
    }
    let in_word = before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    if rest.starts_with('r') && !in_word {
        return raw_string(rest);
    }
    if rest.starts_with('\'') { character(rest) } else { None }
}

fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `r"..."` and `r#"..."#`.
fn raw_string(rest: &str) -> Option<usize> {
    let hashes = rest[1..].chars().take_while(|letter| *letter == '#').count();
    let body = rest[1 + hashes..].strip_prefix('"')?;
    let closing = format!("\"{}", "#".repeat(hashes));
    Some(body.find(&closing).map_or(rest.len(), |end| 2 + hashes + end + closing.len()))
}

/// A character; a lifetime is code.
fn character(rest: &str) -> Option<usize> {
    let mut letters = rest.char_indices().skip(1);
    let (_, first) = letters.next()?;
    if first == '\\' {
        return rest[2..].char_indices().skip(1).find(|(_, letter)| *letter == '\'').map(|(at, _)| at + 3);
    }
    let (at, second) = letters.next()?;
    (second == '\'').then_some(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let words: Vec<String> = code(text).split_whitespace().map(str::to_owned).collect();
        assert_eq!(words.join(" "), expected, "{text}");
    }

    #[test]
    fn comments_are_no_code() {
        check("a // tokio::x\nb /* kube::y */ c", "a b c");
    }

    #[test]
    fn strings_and_characters_are_no_code() {
        check(r#"a "tokio \" ::x" b"#, "a b");
        check("a r#\"x \" y\"# b", "a b");
        check("a 'x' '\\'' '\"' b", "a b");
        check("bar\"x\"", "bar");
    }

    #[test]
    fn a_lifetime_is_code() {
        check("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}");
    }

    #[test]
    fn lines_keep_their_numbers() {
        assert_eq!(code("a\n/* b\nc */\nd").lines().count(), 4);
    }

    #[test]
    fn the_tests_at_the_end_do_not_ship() {
        assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests { b }"), "a\n");
        assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests;\nb"), "a\n#[cfg(test)]\nmod tests;\nb");
    }
}
