//! Whole numbers as Go's flags take them: `-999`, `0x10`, `0b11`, `0o17`, `017`, `1_000`.

/// Reads a number of 32 bits. `None` for anything else, and for what does not fit.
pub(super) fn whole(text: &str) -> Option<i32> {
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (base, digits, prefixed) = based(rest);
    if !separated(digits, prefixed) {
        return None;
    }
    let digits = digits.replace('_', "");
    // The standard library would take another sign.
    if !digits.starts_with(|c: char| c.is_digit(base)) {
        return None;
    }
    i32::try_from(sign * i64::from_str_radix(&digits, base).ok()?).ok()
}

/// The base, the digits, and whether a prefix stood before them. A leading zero counts in Go: 017 is fifteen.
fn based(text: &str) -> (u32, &str, bool) {
    for (prefix, base) in [("0x", 16), ("0X", 16), ("0b", 2), ("0B", 2), ("0o", 8), ("0O", 8)] {
        if let Some(digits) = text.strip_prefix(prefix) {
            return (base, digits, true);
        }
    }
    let octal = text.len() > 1 && text.starts_with('0');
    (if octal { 8 } else { 10 }, text, false)
}

/// Underscores stand singly between digits, or between the prefix and the first of them.
fn separated(digits: &str, prefixed: bool) -> bool {
    !digits.ends_with('_') && !digits.contains("__") && (prefixed || !digits.starts_with('_'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::whole;

    #[test]
    fn whole_numbers_are_read_as_go_does() {
        for (text, number) in [
            ("0", 0),
            ("-999", -999),
            ("+5", 5),
            ("1_000", 1000),
            ("0x10", 16),
            ("-0X_fF", -255),
            ("0b101", 5),
            ("0o17", 15),
            ("017", 15),
            ("0_7", 7),
            ("-2147483648", i32::MIN),
        ] {
            assert_eq!(whole(text), Some(number), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for text in [
            "",
            "-",
            "+-5",
            "--5",
            "_1",
            "1_",
            "1__0",
            "0x",
            "0x_",
            "08",
            "1.5",
            "1e3",
            " 1",
            "0b2",
            "x10",
            "2147483648",
            "0x80000000",
            "99999999999999999999",
        ] {
            assert_eq!(whole(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_number_is_read_back(number: i32) {
            prop_assert_eq!(whole(&number.to_string()), Some(number));
        }

        #[test]
        fn no_text_is_too_strange(text in "[-+0-9a-fxob_]{0,12}|.*") {
            let _ = whole(&text);
        }
    }
}
