//! `sluice probe`: what this kernel can do, and which dataplane would run.

use serde::Serialize;

use super::table::table;
use super::{Answer, Output, Show, present};
use crate::backend::dataplane::{Choice, Floor, Running, outlook};
use crate::backend::probe::{Finding, Findings, Place, probe, verdict};
use crate::privilege;

/// Everything there is to tell.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verdict<'a> {
    features: Vec<&'a Finding>,
    /// `ebpf+nftables`, `ebpf` or `nftables`; absent if none can run.
    dataplane: Option<String>,
    /// Why this one, or why none.
    reason: String,
}

/// Prints what was found. False if no dataplane can run.
pub fn run(choice: Choice, floor: Floor, place: &Place, output: Output) -> anyhow::Result<bool> {
    let findings = probe(place);
    let missing = (privilege::missing(), privilege::missing_for_nftables());
    let show = Show { output, watch: None };
    let answer =
        present(&show, || Ok(answer(&findings, outlook_of(choice, floor, &findings, missing.clone()))))?;
    Ok(answer.dataplane.is_some())
}

/// What the daemon would say of capabilities comes before what the kernel says: it asks in this order too.
fn outlook_of(
    choice: Choice,
    floor: Floor,
    findings: &Findings,
    (for_ebpf, for_nft): (Vec<String>, Vec<String>),
) -> Result<Running, String> {
    let why_not = |missing: Vec<String>, findings: &[Finding]| {
        if missing.is_empty() { verdict(findings).err() } else { Some(missing.join("; ")) }
    };
    let (ebpf, nft) = (why_not(for_ebpf, &findings.ebpf), why_not(for_nft, &findings.nft));
    outlook(choice, floor, ebpf.as_deref().map_or(Ok(()), Err), nft.as_deref().map_or(Ok(()), Err))
}

fn answer(findings: &Findings, outlook: Result<Running, String>) -> Verdict<'_> {
    let (dataplane, reason) = match outlook {
        Ok(Running { dataplane, reason }) => (Some(dataplane), reason),
        Err(reason) => (None, reason),
    };
    Verdict { features: findings.all().collect(), dataplane, reason }
}

impl Answer for Verdict<'_> {
    fn text(&self, _wide: bool) -> String {
        text(self)
    }
}

fn text(answer: &Verdict<'_>) -> String {
    let Verdict { features, dataplane, reason } = answer;
    let row = |finding: &&Finding| {
        let Finding { feature, works, why_not, needed_for } = *finding;
        let works = if *works { "yes" } else { "NO" }.to_owned();
        vec![feature.clone(), works, (*needed_for).to_owned(), why_not.clone().unwrap_or_default()]
    };
    let rows: Vec<Vec<String>> = features.iter().map(row).collect();
    let table = table(&["FEATURE", "WORKS", "NEEDED FOR", "WHY NOT"], &rows);
    let last = match dataplane {
        Some(dataplane) => format!("dataplane {dataplane}: {reason}"),
        None => format!("no dataplane can run: {reason}"),
    };
    format!("{table}\n{last}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Findings {
        let works = |feature: &str| Finding::new(feature, "nftables: all", Ok(()));
        Findings {
            capabilities: vec![Finding::new(
                "CAP_BPF",
                "to load",
                Err("this process does not have it".into()),
            )],
            ebpf: vec![Finding::new("maps", "eBPF: tables", Err("Operation not permitted".into()))],
            nft: vec![works("netlink")],
            edge: Vec::new(),
        }
    }

    fn asked(choice: Choice, missing: [&[&str]; 2]) -> (Findings, Result<Running, String>) {
        let findings = findings();
        let [for_ebpf, for_nft] = missing.map(|list| list.iter().map(|line| (*line).to_owned()).collect());
        let outlook = outlook_of(choice, Floor::Always, &findings, (for_ebpf, for_nft));
        (findings, outlook)
    }

    #[test]
    fn each_feature_is_a_row_and_the_last_line_says_what_would_run() {
        let (findings, outlook) = asked(Choice::Auto, [&["CAP_BPF is missing"], &[]]);
        let expected = "\
FEATURE  WORKS  NEEDED FOR     WHY NOT
CAP_BPF  NO     to load        this process does not have it
maps     NO     eBPF: tables   Operation not permitted
netlink  yes    nftables: all

dataplane nftables: eBPF cannot be used: CAP_BPF is missing
";
        assert_eq!(text(&answer(&findings, outlook)), expected);
    }

    #[test]
    fn where_no_capability_is_missing_the_first_feature_that_fails_is_the_reason() {
        let (findings, outlook) = asked(Choice::Ebpf, [&[], &[]]);
        let text = text(&answer(&findings, outlook));
        let last = "no dataplane can run: eBPF cannot be used: maps: Operation not permitted\n";
        assert!(text.ends_with(last), "{text}");
    }

    #[test]
    fn programs_get_the_same_in_fixed_names() {
        let (findings, outlook) = asked(Choice::Ebpf, [&["CAP_BPF is missing"], &[]]);
        let json = serde_json::to_value(answer(&findings, outlook)).unwrap();
        assert_eq!(json["dataplane"], serde_json::Value::Null);
        assert_eq!(json["reason"], "eBPF cannot be used: CAP_BPF is missing");
        assert_eq!(
            json["features"][2],
            serde_json::json!({"feature": "netlink", "works": true, "whyNot": null, "neededFor": "nftables: all"})
        );
    }
}
