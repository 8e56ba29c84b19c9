//! Licence expressions: `MIT OR Apache-2.0`, `(MIT OR Apache-2.0) AND Unicode-3.0`, and the old `MIT/Apache-2.0`.

use anyhow::{Result, bail};

/// Whether the allowed licences suffice to use something under this expression.
pub(crate) fn permits(expression: &str, allowed: &[String]) -> Result<bool> {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let permitted = either(&mut words, allowed)?;
    match words.next() {
        None => Ok(permitted),
        Some(word) => bail!("`{word}` is unexpected in `{expression}`"),
    }
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words<'_>, allowed: &[String]) -> Result<bool> {
    let mut permitted = both(words, allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        permitted |= both(words, allowed)?;
    }
    Ok(permitted)
}

fn both(words: &mut Words<'_>, allowed: &[String]) -> Result<bool> {
    let mut permitted = one(words, allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        permitted &= one(words, allowed)?;
    }
    Ok(permitted)
}

fn one(words: &mut Words<'_>, allowed: &[String]) -> Result<bool> {
    match words.next() {
        Some("(") => {
            let permitted = either(words, allowed)?;
            match words.next() {
                Some(")") => Ok(permitted),
                _ => bail!("a parenthesis is not closed"),
            }
        }
        Some(word @ (")" | "AND" | "OR" | "WITH")) => bail!("`{word}` stands where a licence should"),
        Some(licence) => Ok(allowed.contains(&with_exception(licence, words))),
        None => bail!("a licence is missing at the end"),
    }
}

fn with_exception(licence: &str, words: &mut Words<'_>) -> String {
    match words.next_if_eq(&"WITH") {
        Some(_) => format!("{licence} WITH {}", words.next().unwrap_or_default()),
        None => licence.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expression: &str, permitted: bool) {
        let allowed = ["MIT", "Apache-2.0", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        assert_eq!(permits(expression, &allowed).unwrap(), permitted, "{expression}");
    }

    #[test]
    fn one_permitted_choice_is_enough() {
        check("MIT", true);
        check("GPL-3.0-only OR MIT", true);
        check("GPL-3.0-only", false);
        check("MIT/Apache-2.0", true);
    }

    #[test]
    fn every_part_of_a_whole_must_be_permitted() {
        check("Apache-2.0 AND ISC", true);
        check("Apache-2.0 AND OpenSSL", false);
        check("(MIT OR Apache-2.0) AND Unicode-3.0", false);
        check("GPL-3.0-only OR (MIT AND ISC)", true);
    }

    #[test]
    fn an_exception_belongs_to_its_licence() {
        check("Apache-2.0 WITH LLVM-exception OR GPL-3.0-only", true);
        check("Apache-2.0 WITH Other-exception", false);
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        assert!(permits("MIT OR", &[]).is_err());
        assert!(permits("(MIT", &[]).is_err());
        assert!(permits("MIT ISC", &[]).is_err());
    }
}
