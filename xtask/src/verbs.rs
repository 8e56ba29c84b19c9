//! The command line.

use anyhow::{Context as _, Result, bail};

use crate::build::Profile;
use crate::rings::Ring;
use crate::setup::Need;

/// What `cargo xtask help` prints.
pub(crate) const HELP: &str = "\
cargo xtask VERB

  setup [--for host|demo|test|bench]   find or install what is missing (default: test)
  build [--release]                    the eBPF object, then the workspace around it
  image [--debug]                      the daemon as an OCI image archive, and its bill of materials
  test [host|kernel|lab|cluster] [FILTER]
                                       one ring, or all four in that order
  ci [--lints]                         formatting, tidy, clippy, deny; then all tests (not with --lints)
  book                                 docs/ as a book in HTML
  tidy                                 the rules of the house that no compiler holds
  deny                                 licences and sources of the dependencies
  bench SUITE [--quick] [--json]       measure: connect, packets, coldstart, change, scrape, desired, host
  fuzz [--seconds N]                   hostile packets through the edge's functions on the host (default: a minute)
  demo [--json]                        show the main job on this machine
  help                                 this text";

/// One thing to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Help,
    Setup(Need),
    Build {
        release: bool,
    },
    Image(Profile),
    /// The rings to run, in order, and the tests to pick in each.
    Test {
        rings: Vec<Ring>,
        filter: Option<String>,
    },
    Ci {
        lints_only: bool,
    },
    Book,
    Tidy,
    Deny,
    /// Arguments for the bench program.
    Bench(Vec<String>),
    /// For how many seconds.
    Fuzz(u64),
    /// Arguments for the demo program.
    Demo(Vec<String>),
}

impl Verb {
    /// Reads the arguments after the program's name.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let Some((verb, rest)) = arguments.split_first() else { return Ok(Self::Help) };
        let words: Vec<&str> = rest.iter().map(String::as_str).collect();
        match (verb.as_str(), words.as_slice()) {
            ("help" | "--help" | "-h", _) => Ok(Self::Help),
            ("setup", []) => Ok(Self::Setup(Need::Test)),
            ("setup", ["--for", need]) => Ok(Self::Setup(need.parse()?)),
            ("build", []) => Ok(Self::Build { release: false }),
            ("build", ["--release"]) => Ok(Self::Build { release: true }),
            ("image", []) => Ok(Self::Image(Profile::Release)),
            ("image", ["--debug"]) => Ok(Self::Image(Profile::Dev)),
            ("test", words) => test(words),
            ("ci", []) => Ok(Self::Ci { lints_only: false }),
            ("ci", ["--lints"]) => Ok(Self::Ci { lints_only: true }),
            ("book", []) => Ok(Self::Book),
            ("tidy", []) => Ok(Self::Tidy),
            ("deny", []) => Ok(Self::Deny),
            ("bench", _) => Ok(Self::Bench(rest.to_vec())),
            ("fuzz", []) => Ok(Self::Fuzz(60)),
            ("fuzz", ["--seconds", seconds]) => Ok(Self::Fuzz(
                seconds.parse().with_context(|| format!("`{seconds}` is no number of seconds"))?,
            )),
            ("demo", _) => Ok(Self::Demo(rest.to_vec())),
            (verb @ ("setup" | "build" | "image" | "ci" | "book" | "tidy" | "deny" | "fuzz"), words) => {
                bail!("`{verb}` does not understand `{}`", words.join(" "))
            }
            (verb, _) => bail!("there is no verb `{verb}`"),
        }
    }
}

fn test(words: &[&str]) -> Result<Verb> {
    match words {
        [] => Ok(Verb::Test { rings: Ring::ALL.to_vec(), filter: None }),
        [ring] => Ok(Verb::Test { rings: vec![ring.parse()?], filter: None }),
        [ring, filter] => Ok(Verb::Test { rings: vec![ring.parse()?], filter: Some((*filter).to_owned()) }),
        _ => bail!("`test` takes at most a ring and a filter"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Verb> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Verb::parse(&words)
    }

    #[test]
    fn setup_without_a_purpose_is_for_tests() {
        assert_eq!(parse("setup").unwrap(), Verb::Setup(Need::Test));
        assert_eq!(parse("setup --for demo").unwrap(), Verb::Setup(Need::Demo));
    }

    #[test]
    fn test_without_a_ring_means_all_four_in_order() {
        let rings = vec![Ring::Host, Ring::Kernel, Ring::Lab, Ring::Cluster];
        assert_eq!(parse("test").unwrap(), Verb::Test { rings, filter: None });
    }

    #[test]
    fn a_ring_takes_a_filter() {
        let expected = Verb::Test { rings: vec![Ring::Lab], filter: Some("restart".to_owned()) };
        assert_eq!(parse("test lab restart").unwrap(), expected);
    }

    #[test]
    fn demo_and_bench_pass_their_arguments_on() {
        assert_eq!(parse("demo --json").unwrap(), Verb::Demo(vec!["--json".to_owned()]));
        assert_eq!(
            parse("bench connect --quick").unwrap(),
            Verb::Bench(vec!["connect".to_owned(), "--quick".to_owned()])
        );
    }

    #[test]
    fn fuzz_takes_seconds() {
        assert_eq!(parse("fuzz").unwrap(), Verb::Fuzz(60));
        assert_eq!(parse("fuzz --seconds 5").unwrap(), Verb::Fuzz(5));
        assert!(parse("fuzz --seconds few").unwrap_err().to_string().contains("few"));
    }

    /// Those of the other programs are run; a test that runs itself would not end.
    #[test]
    fn what_the_pages_say_of_xtask_is_understood() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let pages = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
        let others = ["README.md", "CONTRIBUTING.md", "tests/README.md"].map(|name| root.join(name));
        let texts = pages.filter(|path| path.is_file()).chain(others).map(std::fs::read_to_string);
        let texts: Vec<String> = texts.map(Result::unwrap).collect();
        let typed =
            texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.split_once("cargo xtask "));
        let mut count = 0;
        for (_, words) in typed.filter(|(before, _)| before.is_empty() || before.ends_with("= ")) {
            let words = words.split('#').next().unwrap();
            parse(words).unwrap_or_else(|error| panic!("cargo xtask {words}: {error:#}"));
            count += 1;
        }
        assert!(count >= 6, "{count}");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert!(parse("test moon").unwrap_err().to_string().contains("moon"));
        assert!(parse("fly").unwrap_err().to_string().contains("fly"));
        assert!(parse("image --small").unwrap_err().to_string().contains("--small"));
        assert!(parse("build --fast").unwrap_err().to_string().contains("--fast"));
    }
}
