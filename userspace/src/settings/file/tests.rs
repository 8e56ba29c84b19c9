//! Tables of files, whole and broken, and what is read from them.

use proptest::prelude::*;

use super::{Decoded, decode};

const KUBEADM: &str = include_str!("../kubeadm.yaml");
const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn read(text: &str) -> Result<Decoded, Vec<String>> {
    decode("c.yaml", text.as_bytes())
}

/// A file with this below its head is read as these fields, each `path=value`.
#[track_caller]
fn check(body: &str, fields: &[&str]) {
    let decoded = read(&format!("{HEAD}{body}")).unwrap_or_else(|wrong| panic!("{body}: {wrong:?}"));
    let found: Vec<String> = decoded.values.iter().map(|(path, value)| format!("{path}={value}")).collect();
    assert_eq!(found, fields, "{body}");
    assert_eq!(decoded.warnings, Vec::<String>::new(), "{body}");
}

#[track_caller]
fn warned(body: &str, warnings: &[&str]) {
    let decoded = read(&format!("{HEAD}{body}")).unwrap_or_else(|wrong| panic!("{body}: {wrong:?}"));
    let expected: Vec<String> = warnings.iter().map(|warning| format!("c.yaml: {warning}")).collect();
    assert_eq!(decoded.warnings, expected, "{body}");
}

#[track_caller]
fn wrong(body: &str, complaints: &[&str]) {
    let expected: Vec<String> = complaints.iter().map(|complaint| format!("c.yaml: {complaint}")).collect();
    assert_eq!(read(&format!("{HEAD}{body}")), Err(expected), "{body}");
}

#[test]
fn fields_are_read_by_kind() {
    check("mode: nftables # a comment", &[r#"mode="nftables""#]);
    check(
        "iptables: {masqueradeBit: 0, masqueradeAll: true}",
        &["iptables.masqueradeAll=true", "iptables.masqueradeBit=0"],
    );
    check(
        "conntrack:\n  tcpEstablishedTimeout: 0s\n  min: 0",
        &["conntrack.min=0", "conntrack.tcpEstablishedTimeout=0s"],
    );
    check(
        "iptables: {masqueradeAll: yes, masqueradeBit: 5.0}",
        &["iptables.masqueradeAll=true", "iptables.masqueradeBit=5"],
    );
    check("clientConnection: {qps: 2.5}", &["clientConnection.qps=2.5"]);
    check("nodePortAddresses: [primary, 10.0.0.0/8]", &[r#"nodePortAddresses=["primary","10.0.0.0/8"]"#]);
    check("featureGates: {A: true}", &[r#"featureGates={"A":true}"#]);
    check("logging: {flushFrequency: 1000000000}", &["logging.flushFrequency=1s"]);
    check("logging: {flushFrequency: 1m}", &["logging.flushFrequency=1m0s"]);
    check(
        "logging: {options: {json: {infoBufferSize: 64Ki}}}",
        &[r#"logging.options.json.infoBufferSize="64Ki""#],
    );
    check(
        "logging: {vmodule: [{filePattern: a, verbosity: 3}]}",
        &[r#"logging.vmodule=[{"filePattern":"a","verbosity":3}]"#],
    );
}

#[test]
fn json_is_read_like_yaml() {
    let text =
        r#"{"apiVersion":"kubeproxy.config.k8s.io/v1alpha1","kind":"KubeProxyConfiguration","mode":"ipvs"}"#;
    assert_eq!(read(text), read(&format!("{HEAD}mode: ipvs")));
    assert_eq!(read(&format!("\u{feff}---\n{HEAD}mode: ipvs\n...\n")), read(&format!("{HEAD}mode: ipvs")));
}

#[test]
fn what_is_empty_is_not_set() {
    check(
        "detectLocal: {bridgeInterface: \"\"}\nnodePortAddresses: null\nconfigSyncPeriod: 0s\nipvs: null",
        &[],
    );
    check("iptables: {masqueradeBit: null, syncPeriod: 0s}\nfeatureGates: {}\nlogging: {}", &[]);
}

#[test]
fn the_file_that_kubeadm_writes_costs_no_warning() {
    for text in [KUBEADM.to_owned(), KUBEADM.replace("mode: \"\"", "mode: iptables")] {
        let decoded = read(&text).expect("kubeadm's file");
        assert_eq!(decoded.warnings, Vec::<String>::new());
        assert!(decoded.values.contains_key("clusterCIDR"));
    }
}

#[test]
fn unknown_fields_cost_a_warning_each() {
    warned("Mode: ipvs", &[r#"unknown field "Mode" is ignored"#]);
    warned(
        "iptables: {bit: 3, x: {y: 1}}",
        &[r#"unknown field "iptables.bit" is ignored"#, r#"unknown field "iptables.x" is ignored"#],
    );
    warned("iptables.masqueradeBit: 3", &[r#"unknown field "[\"iptables.masqueradeBit\"]" is ignored"#]);
    warned("1: 2", &[r#"unknown field "1" is ignored"#]);
    warned(
        "logging: {vmodule: [{filePattern: a, x: 1}]}",
        &[r#"unknown field "logging.vmodule[0].x" is ignored"#],
    );
}

#[test]
fn of_duplicate_fields_the_last_one_counts() {
    let text =
        format!("{HEAD}iptables:\n  masqueradeBit: 3\n  masqueradeBit: 4\nmode: ipvs\nmode: nftables\n");
    let decoded = read(&text).expect("readable");
    assert_eq!(decoded.values["mode"].to_string(), "\"nftables\"");
    assert_eq!(decoded.values["iptables.masqueradeBit"].to_string(), "4");
    warned("mode: a\nmode: b", &[r#"duplicate field "mode": the last one counts"#]);
    warned(
        "iptables: {masqueradeBit: x, masqueradeBit: 4}",
        &[r#"duplicate field "iptables.masqueradeBit": the last one counts"#],
    );
    warned("mode: a\n---\nmode: b", &["holds more than one document; only the first is read"]);
}

#[test]
fn a_value_of_the_wrong_type_is_an_error_with_path_and_value() {
    wrong("mode: 3", &["mode: Invalid value: 3: must be a text"]);
    wrong(
        "iptables: {masqueradeAll: \"true\"}",
        &["iptables.masqueradeAll: Invalid value: \"true\": must be true or false"],
    );
    wrong(
        "oomScoreAdj: 99999999999",
        &["oomScoreAdj: Invalid value: 99999999999: must be a whole number of 32 bits"],
    );
    wrong(
        "configSyncPeriod: 15",
        &["configSyncPeriod: Invalid value: 15: must be a duration such as 5s, 100ms or 1h30m"],
    );
    wrong(
        "iptables: 3\nnodePortAddresses: primary",
        &[
            "iptables: Invalid value: 3: must be a section with fields",
            "nodePortAddresses: Invalid value: \"primary\": must be a list of texts",
        ],
    );
    wrong("nodePortAddresses: [a, 1]", &["nodePortAddresses[1]: Invalid value: 1: must be a text"]);
    wrong("featureGates: {A: 1}", &["featureGates.A: Invalid value: 1: must be true or false"]);
    wrong(
        "logging: {vmodule: [a, {verbosity: x}]}",
        &[
            "logging.vmodule[0]: Invalid value: \"a\": must have filePattern and verbosity",
            "logging.vmodule[1].verbosity: Invalid value: \"x\": must be a whole number of 32 bits",
        ],
    );
    wrong("clientConnection: {qps: .inf}", &["clientConnection.qps: Invalid value: inf: must be a number"]);
}

#[test]
fn a_file_of_another_kind_is_an_error() {
    let complaint = |text: &str| read(text).map(|_| ()).expect_err(text).join("\n");
    assert_eq!(
        complaint("kind: KubeProxyConfiguration"),
        "c.yaml: apiVersion: Required value: must be \"kubeproxy.config.k8s.io/v1alpha1\""
    );
    assert_eq!(
        complaint("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: Pod\nmode: 3"),
        "c.yaml: kind: Unsupported value: \"Pod\": supported values: \"KubeProxyConfiguration\""
    );
    assert!(complaint("apiVersion: v1\nkind: ConfigMap").contains("config.conf"));
    assert_eq!(
        complaint("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: {token: hush}"),
        "c.yaml: kind: must be \"KubeProxyConfiguration\", but is a mapping"
    );
    assert_eq!(complaint(""), "c.yaml: must be a KubeProxyConfiguration, but is nothing");
    assert!(complaint("mode: [").contains("could not be read"));
    assert!(decode("c.yaml", &[0xff, 0xfe]).expect_err("no text")[0].contains("is not text"));
}

#[test]
fn a_secret_that_was_taken_for_the_file_is_not_shown() {
    for text in [
        "hush",
        "- hush",
        "token: hush",
        "hush: [",
        "-----BEGIN KEY-----\nhush\n",
        "kind: Secret\ndata: {a: hush}",
        "\"hush",
        "a: &x hush\nb: *hush",
        "{apiVersion: {a: hush}, kind: [hush]}",
        "!hush {a: b}",
        "a: 'hush'hush",
    ] {
        let complaints = read(text).map(|_| ()).expect_err(text).join("\n");
        assert!(!complaints.contains("hush"), "{text}: {complaints}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_read_or_refused_by_name(bytes in any::<Vec<u8>>()) {
        named(&bytes)?;
    }

    #[test]
    fn a_damaged_file_is_read_or_refused_by_name(
        damage in proptest::collection::vec((0..KUBEADM.len(), 0_usize..12, "[ -~\n]{0,12}"), 1..6)
    ) {
        let mut bytes = KUBEADM.as_bytes().to_vec();
        for (at, length, instead) in damage {
            let at = at.min(bytes.len());
            let end = (at + length).min(bytes.len());
            bytes.splice(at..end, instead.bytes());
        }
        named(&bytes)?;
    }

    #[test]
    fn a_field_with_another_value_is_read_or_refused_by_name(
        field in 0..super::fields::FIELDS.len(),
        value in "[0-9]{1,12}|-?[0-9.]{1,6}|true|null|~|\\[[a-z,]{0,6}\\]|\\{[a-z]: [0-9]\\}|[a-zA-Z:/.*&!|>'\"-]{0,8}"
    ) {
        let path = super::fields::FIELDS[field].path;
        let indented: Vec<String> =
            path.split('.').enumerate().map(|(depth, key)| format!("{}{key}:", "  ".repeat(depth))).collect();
        named(format!("{HEAD}{} {value}\n", indented.join("\n")).as_bytes())?;
    }
}

fn named(bytes: &[u8]) -> Result<(), TestCaseError> {
    let lines = match decode("c.yaml", bytes) {
        Ok(decoded) => decoded.warnings,
        Err(wrong) => {
            prop_assert!(!wrong.is_empty());
            wrong
        }
    };
    prop_assert!(lines.iter().all(|line| line.starts_with("c.yaml: ")), "{lines:?}");
    Ok(())
}
