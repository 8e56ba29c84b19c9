//! Whether what was printed is what a page says.

/// In a page, anything: a part of a line, or, alone on it, any number of lines.
const ANYTHING: &str = "...";

/// Whether the lines are as the page has them. Room between words does not matter, nor do moments.
pub fn is_as_told(told: &[String], printed: &str) -> bool {
    let told: Vec<String> = told.iter().map(|line| plain(line)).filter(|line| !line.is_empty()).collect();
    let printed: Vec<String> = printed.lines().map(plain).filter(|line| !line.is_empty()).collect();
    lines(&told, &printed)
}

fn lines(told: &[String], printed: &[String]) -> bool {
    match told {
        [] => printed.is_empty(),
        [first, rest @ ..] if first == ANYTHING => {
            (0..=printed.len()).any(|skipped| lines(rest, &printed[skipped..]))
        }
        [first, rest @ ..] => match printed {
            [line, others @ ..] => within(first, line) && lines(rest, others),
            [] => false,
        },
    }
}

/// Whether the parts of a line are in it in their order, the first at its beginning and the last at its end.
fn within(told: &str, line: &str) -> bool {
    let Some((first, rest)) = told.split_once(ANYTHING) else { return told == line };
    let Some(behind) = line.strip_prefix(first) else { return false };
    ends_as(rest, behind)
}

fn ends_as(told: &str, line: &str) -> bool {
    match told.split_once(ANYTHING) {
        None => line.ends_with(told),
        Some((part, rest)) => line.find(part).is_some_and(|at| ends_as(rest, &line[at + part.len()..])),
    }
}

/// One space between words, and every moment the same.
fn plain(line: &str) -> String {
    line.split_whitespace().map(moments).collect::<Vec<_>>().join(" ")
}

fn moments(word: &str) -> String {
    let mut rest = word;
    let mut text = String::new();
    while let Some((at, length)) = moment(rest) {
        text.push_str(&rest[..at]);
        text.push_str("(moment)");
        rest = &rest[at + length..];
    }
    text + rest
}

/// Where `2026-11-22T00:28:24.6Z` or the like begins, and how long it is.
fn moment(text: &str) -> Option<(usize, usize)> {
    let at = text
        .match_indices('T')
        .map(|(at, _)| at)
        .find(|at| *at >= 10 && is_date(&text.as_bytes()[at - 10..*at]))?;
    let behind = &text[at + 1..];
    let clock = behind
        .find('Z')
        .filter(|end| behind[..*end].chars().all(|c| c.is_ascii_digit() || ":.".contains(c)))?;
    Some((at - 10, 10 + 1 + clock + 1))
}

fn is_date(bytes: &[u8]) -> bool {
    bytes.iter().zip("dddd-dd-dd".bytes()).all(|(byte, kind)| match kind {
        b'd' => byte.is_ascii_digit(),
        other => *byte == other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(told: &str, printed: &str, is_same: bool) {
        let told: Vec<String> = told.lines().map(str::to_owned).collect();
        assert_eq!(is_as_told(&told, printed), is_same, "{told:?} {printed:?}");
    }

    #[test]
    fn room_does_not_matter_and_words_do() {
        check("a  b", "a b\n", true);
        check("a b", "a c", false);
        check("a", "a\nb", false);
        check("a\nb", "a", false);
    }

    #[test]
    fn three_dots_stand_for_a_part_or_for_lines() {
        check("a ... d", "a b c d", true);
        check("x...z...", "x y z and more", true);
        check("a ... d", "a b c", false);
        check("a\n...\nd", "a\nb\nc\nd", true);
        check("a\n...", "a", true);
        check("...\nd", "a\nb", false);
    }

    #[test]
    fn moments_are_all_the_same() {
        check(
            "{\"t\":\"2026-11-22T00:28:24.6Z\",\"u\":1}",
            "{\"t\":\"2027-01-02T10:00:00.123456Z\",\"u\":1}",
            true,
        );
        check(
            "{\"t\":\"2026-11-22T00:28:24.6Z\",\"u\":1}",
            "{\"t\":\"2027-01-02T10:00:00.123456Z\",\"u\":2}",
            false,
        );
        check("Two of Them", "Two of Them", true);
    }
}
