//! Colour for people at a terminal. It says nothing that the words do not say.

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

/// Words that stand out wherever they stand.
const WORDS: [(&str, &str); 12] = [
    ("NOT", RED),
    ("NO", RED),
    ("ALARM", RED),
    ("missing", RED),
    ("reject", YELLOW),
    ("drop", YELLOW),
    ("kept", YELLOW),
    ("left", YELLOW),
    ("unknown", YELLOW),
    ("active", GREEN),
    ("established", GREEN),
    ("synced", GREEN),
];

/// Whether a terminal wants colour: not if the operator says `NO_COLOR`, or the terminal knows none.
pub(super) fn is_wanted(terminal: bool) -> bool {
    let says_no = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    terminal && !says_no && !is_dumb
}

/// Heads of tables become bold, words that matter coloured; widths stay as they are.
pub(super) fn dress(text: &str, wanted: bool) -> String {
    if !wanted {
        return text.to_owned();
    }
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn line(line: &str) -> String {
    let words = || line.split_whitespace();
    let is_head = words().count() > 1 && words().all(|word| word.chars().all(|c| c.is_ascii_uppercase()));
    if is_head {
        return format!("{BOLD}{line}{PLAIN}");
    }
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

fn word(word: &str) -> String {
    let bare = word.trim_matches([',', ';', ':', '(', ')']);
    match WORDS.iter().find(|(known, _)| *known == bare) {
        Some((_, colour)) => word.replacen(bare, &format!("{colour}{bare}{PLAIN}"), 1),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::dress;

    const TABLE: &str = "NAME  VERDICT\nweb   drop\nNOT in force: api";

    #[test]
    fn heads_and_alarms_stand_out_for_those_who_want_it() {
        assert_eq!(dress(TABLE, false), TABLE);
        let expected =
            "\x1b[1mNAME  VERDICT\x1b[0m\nweb   \x1b[33mdrop\x1b[0m\n\x1b[31mNOT\x1b[0m in force: api";
        assert_eq!(dress(TABLE, true), expected);
    }

    #[test]
    fn nothing_but_colour_is_added() {
        let dressed = dress("state (NOT synced), kept;  2", true);
        let red = "\x1b[31mNOT\x1b[0m";
        let expected = format!("state ({red} \x1b[32msynced\x1b[0m), \x1b[33mkept\x1b[0m;  2");
        assert_eq!(dressed, expected);
    }
}
