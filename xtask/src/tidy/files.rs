//! Rules for any file: how it is named, how it begins, and words that have no place in the tree.

use super::Complaint;

/// A function in such a file lacks a home.
const NAMES: [&str; 6] = ["utils", "helpers", "common", "misc", "types", "manager"];

/// Words of one machine or one person. Written in two halves, so that this file does not contain them.
const WORDS: [(&str, &str); 8] = [
    (concat!("/ho", "me/"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("../sha", "red"), "a path outside this tree"),
    (concat!("crates", ".io"), "a registry's host"),
    (concat!("pypi", ".org"), "a registry's host"),
    (concat!("pythonhosted", ".org"), "a registry's host"),
    (concat!("proxy.golang", ".org"), "a registry's host"),
];

/// Written by cargo and go, registries and all.
const GENERATED: [&str; 2] = ["Cargo.lock", "go.sum"];

pub(super) fn judge(file: &str, text: &str) -> Vec<Complaint> {
    let mut found = Vec::new();
    let mut complain = |line, text: String| found.push(Complaint { file: file.to_owned(), line, text });
    if let Some(name) = empty_name(file) {
        complain(1, format!("`{name}` says nothing: name the file after its subject"));
    }
    if file.ends_with(".rs") && !text.starts_with("//!") {
        complain(1, "the file does not begin with `//!`: say what it is about".to_owned());
    }
    if !GENERATED.iter().any(|name| file.ends_with(name)) {
        for (number, line) in (1..).zip(text.lines()) {
            for (word, what) in WORDS.iter().filter(|(word, _)| line.contains(word)) {
                complain(number, format!("`{word}` is {what}"));
            }
        }
    }
    found
}

fn empty_name(file: &str) -> Option<&str> {
    let parts = file.split('/').map(|part| part.strip_suffix(".rs").unwrap_or(part));
    parts.filter(|_| file.ends_with(".rs")).find(|part| NAMES.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(file: &str, text: &str, expected: &[(usize, &str)]) {
        let found = judge(file, text);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (complaint, (line, part)) in found.iter().zip(expected) {
            assert_eq!(complaint.line, *line, "{complaint:?}");
            assert!(complaint.text.contains(part), "{complaint:?}");
        }
    }

    #[test]
    fn a_rust_file_says_first_what_it_is_about() {
        check("a/b.rs", "//! B.\n", &[]);
        check("a/b.rs", "use x;\n", &[(1, "//!")]);
        check("a/b.md", "use x;\n", &[]);
    }

    #[test]
    fn a_file_or_folder_is_named_after_its_subject() {
        check("a/utils.rs", "//! U.\n", &[(1, "utils")]);
        check("a/common/b.rs", "//! B.\n", &[(1, "common")]);
        check("a/types_of_service.rs", "//! T.\n", &[]);
    }

    #[test]
    fn no_path_of_one_machine_and_no_registry_is_named() {
        let text = format!("//! B.\n// see {}me\n", WORDS[0].0);
        check("a/b.rs", &text, &[(2, "machine")]);
        check("Cargo.lock", WORDS[4].0, &[]);
        check("README.md", WORDS[4].0, &[(1, "registry")]);
    }
}
