//! The real kube-proxy beside `sluice plan`: the same objects, the same configuration, every address, every class of
//! sources. They must agree, but for what `docs/decisions/0009-quirks.md` says.

mod compare;
mod health;
mod packets;
mod plan;
mod rival;
mod ruleset;
mod stage;
mod table;
mod viewpoint;
mod walk;

use stage::Stage;

/// What happens to the scenario, one after the other.
const CHANGES: [&str; 4] =
    ["change-1-draining.yaml", "change-2-gone.yaml", "change-3-policy.yaml", "change-4-zones.yaml"];

#[test]
fn kube_proxy_and_the_plan_agree_about_every_address_before_and_after_changes() {
    let mut stage = Stage::new().unwrap();
    stage.agree("at first");
    stage.probe("at first");
    for file in CHANGES {
        let before = stage.tables().unwrap();
        stage.put(file).unwrap();
        stage.agree(file);
        stage.probe(file);
        assert!(before != stage.tables().unwrap(), "{file} changed nothing");
    }
}

#[test]
fn every_difference_that_is_meant_is_a_recorded_decision() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/decisions/0009-quirks.md");
    let text = std::fs::read_to_string(&file).expect("the page of decisions");
    for decision in &compare::DECISIONS {
        let is_heading =
            |line: &str| line.trim_start_matches('#').trim() == decision.title && line.starts_with('#');
        assert!(text.lines().any(is_heading), "{} has no heading `{}`", file.display(), decision.title);
    }
}
