//! Tables of flags, files and what follows from them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Command;

use super::super::notes::NOT_YET;
use super::super::{flags, print};
use super::{Detail, Effective, File, Input, LogFormat, resolve};
use crate::desired::settings::{Detector, NodePortAddress, Settings};

const KUBEADM: &str = include_str!("../kubeadm.yaml");
const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

/// Flags are parted by blanks; `-` stands for no file.
fn make(line: &str, body: &str) -> Result<Effective, Vec<String>> {
    let text = if body.starts_with("apiVersion") { body.to_owned() } else { format!("{HEAD}{body}") };
    let file = (body != "-").then(|| File { path: PathBuf::from("c.yaml"), bytes: text.into_bytes() });
    let command = Command::new("run").no_binary_name(true).args(flags::arguments());
    let matches = command
        .try_get_matches_from(line.split_whitespace())
        .unwrap_or_else(|error| panic!("{line}: {error}"));
    let environment = BTreeMap::from([("NODE_NAME", "Env-Node".to_owned())]);
    resolve(Input {
        flags: &flags::given(&matches),
        file: file.as_ref(),
        environment: &environment,
        host_name: "Host\n",
    })
}

#[track_caller]
fn good(line: &str, body: &str) -> Effective {
    make(line, body).unwrap_or_else(|wrong| panic!("{line} {body}: {wrong:#?}"))
}

/// With these flags and this file, a field has this value from there.
#[track_caller]
fn check(line: &str, body: &str, path: &str, expected: &str) {
    let effective = good(line, body);
    let entry = &effective.fields.entries[path];
    assert_eq!(format!("{} {}", entry.value, entry.origin), expected, "{line} {body} {path}");
}

#[track_caller]
fn wrong(line: &str, body: &str, complaints: &[&str]) {
    assert_eq!(
        make(line, body).map(|_| ()),
        Err(complaints.iter().map(|&text| text.to_owned()).collect()),
        "{line} {body}"
    );
}

/// The settings that follow are the default ones, changed so.
#[track_caller]
fn means(line: &str, body: &str, change: impl FnOnce(&mut Settings)) {
    let mut expected = Settings::default();
    change(&mut expected);
    assert_eq!(good(line, body).settings, expected, "{line} {body}");
}

#[track_caller]
fn told(line: &str, body: &str, warnings: &[&str], notes: &[&str]) {
    let effective = good(line, body);
    assert_eq!(effective.warnings, warnings, "{line} {body}");
    for note in notes {
        assert!(
            effective.notes.iter().any(|line| line.contains(note)),
            "{note} is not in {:#?}",
            effective.notes
        );
    }
}

#[test]
fn without_anything_the_defaults_count() {
    for (path, expected) in [
        ("mode", "\"iptables\" default"),
        ("detectLocalMode", "\"ClusterCIDR\" default"),
        ("nodePortAddresses", "[] default"),
        ("bindAddress", "\"0.0.0.0\" default"),
        ("healthzBindAddress", "\"0.0.0.0:10256\" default"),
        ("metricsBindAddress", "\"127.0.0.1:10249\" default"),
        ("oomScoreAdj", "-999 default"),
        ("iptables.minSyncPeriod", "1s default"),
        ("configSyncPeriod", "15m0s default"),
        ("clientConnection.qps", "5 default"),
        ("conntrack.tcpEstablishedTimeout", "24h0m0s default"),
    ] {
        check("", "-", path, expected);
        check("", "", path, expected);
    }
    means("", "-", |_| {});
}

#[test]
fn some_defaults_depend_on_other_fields() {
    check("--proxy-mode nftables", "-", "nodePortAddresses", "[\"primary\"] default of mode nftables");
    check("", "mode: nftables", "nodePortAddresses", "[\"primary\"] default of mode nftables");
    check("", "mode: ipvs", "nodePortAddresses", "[] default");
    check("", "bindAddress: fd00::1", "healthzBindAddress", "\"[::]:10256\" default");
    check("--bind-address ::", "-", "metricsBindAddress", "\"[::1]:10249\" default");
    check("", "healthzBindAddress: 10.0.0.1", "healthzBindAddress", "\"10.0.0.1:10256\" file");
    check(
        "--metrics-bind-address ::",
        "-",
        "metricsBindAddress",
        "\"[::]:10249\" flag --metrics-bind-address",
    );
    check(
        "--healthz-bind-address 1.2.3.4 --healthz-port 99",
        "-",
        "healthzBindAddress",
        "\"1.2.3.4:99\" flag --healthz-bind-address",
    );
    check("--healthz-port 0", "-", "healthzBindAddress", "\"\" flag --healthz-port");
    check("--metrics-port 0", "-", "metricsBindAddress", "\"\" flag --metrics-port");
    check("--healthz-port 0", "", "healthzBindAddress", "\"0.0.0.0:10256\" default");
    check("--healthz-bind-address=", "-", "healthzBindAddress", "\"0.0.0.0:10256\" default");
}

#[test]
fn the_file_replaces_flags_but_for_a_few() {
    check("--cluster-cidr 10.0.0.0/8", "-", "clusterCIDR", "\"10.0.0.0/8\" flag --cluster-cidr");
    check("--cluster-cidr 10.0.0.0/8", "", "clusterCIDR", "\"\" default");
    check("--cluster-cidr 10.0.0.0/8", "clusterCIDR: 11.0.0.0/8", "clusterCIDR", "\"11.0.0.0/8\" file");
    check(
        "--hostname-override A",
        "hostnameOverride: b",
        "hostnameOverride",
        "\"A\" flag --hostname-override",
    );
    check("--node-name=A", "hostnameOverride: b", "hostnameOverride", "\"A\" flag --hostname-override");
    check("--hostname-override=", "hostnameOverride: b", "hostnameOverride", "\"b\" file");
    check("", "", "hostnameOverride", "\"Env-Node\" environment NODE_NAME");
    check("-v 5", "logging: {verbosity: 2}", "logging.verbosity", "5 flag -v");
    check("", "logging: {verbosity: 2}", "logging.verbosity", "2 file");
    check("--logging-format=json", "", "logging.format", "\"json\" flag --logging-format");
    check(
        "--vmodule a=1,b=2",
        "logging: {vmodule: [{filePattern: c, verbosity: 3}]}",
        "logging.vmodule",
        "[{\"filePattern\":\"a\",\"verbosity\":1},{\"filePattern\":\"b\",\"verbosity\":2},\
         {\"filePattern\":\"c\",\"verbosity\":3}] flag --vmodule",
    );
    assert_eq!(good("--master api:1", "").master.as_deref(), Some("api:1"));
    assert_eq!(good("--kubeconfig k", "").kubeconfig, None);
    assert_eq!(good("--kubeconfig k", "-").kubeconfig.as_deref(), Some(Path::new("k")));
}

#[test]
fn flags_that_the_file_replaces_are_named_once() {
    told(
        "--masquerade-all --oom-score-adj=1 --master m -v 2 --hostname-override n",
        "",
        &["--masquerade-all, --oom-score-adj: replaced by the file of --config"],
        &[],
    );
}

#[test]
fn the_section_of_the_active_mode_counts() {
    means("", "iptables: {masqueradeAll: true}", |settings| settings.masquerade_all = true);
    means("", "mode: ipvs\niptables: {masqueradeAll: true}", |settings| settings.masquerade_all = true);
    means("", "nftables: {masqueradeAll: true}", |_| {});
    let primary = |settings: &mut Settings| settings.node_port_addresses = vec![NodePortAddress::Primary];
    means("", "mode: nftables\niptables: {masqueradeAll: true}", primary);
    means("", "mode: nftables\nnftables: {masqueradeAll: true}", |settings| {
        primary(settings);
        settings.masquerade_all = true;
    });
    means("--proxy-mode=nftables --masquerade-all", "-", |settings| {
        primary(settings);
        settings.masquerade_all = true;
    });
    check(
        "--proxy-mode nftables --iptables-sync-period 5s",
        "-",
        "nftables.syncPeriod",
        "5s flag --iptables-sync-period",
    );
    check("--proxy-mode nftables --iptables-sync-period 5s", "-", "iptables.syncPeriod", "30s default");
    check(
        "--iptables-min-sync-period 0",
        "-",
        "iptables.minSyncPeriod",
        "0s flag --iptables-min-sync-period",
    );
    check("", "iptables: {minSyncPeriod: 0s}", "iptables.minSyncPeriod", "1s default");
    wrong(
        "",
        "mode: nftables\nnftables: {syncPeriod: 1s, minSyncPeriod: 2s}",
        &[
            "nftables.syncPeriod: Invalid value: 1s: must be greater than or equal to nftables.minSyncPeriod (from c.yaml)",
        ],
    );
    check("", "nftables: {syncPeriod: 1s, minSyncPeriod: 2s}", "mode", "\"iptables\" default");
}

#[test]
fn the_masquerade_bit_is_that_of_the_active_mode() {
    for (line, body, bit) in [
        ("", "-", 14),
        ("--iptables-masquerade-bit 0", "-", 0),
        ("--proxy-mode ipvs --iptables-masquerade-bit 31", "-", 31),
        ("--proxy-mode nftables --iptables-masquerade-bit 3", "-", 14),
        ("", "iptables: {masqueradeBit: 3}\nnftables: {masqueradeBit: 4}", 3),
        ("", "mode: ipvs\niptables: {masqueradeBit: 3}\nnftables: {masqueradeBit: 4}", 3),
        ("", "mode: nftables\niptables: {masqueradeBit: 3}\nnftables: {masqueradeBit: 4}", 4),
        ("", "mode: nftables\nnftables: {masqueradeBit: 0}", 0),
        ("", KUBEADM, 14),
    ] {
        assert_eq!(good(line, body).masquerade_bit, bit, "{line} {body}");
    }
}

#[test]
fn fields_become_settings() {
    let range = |text: &str| text.parse().unwrap();
    means("", "clusterCIDR: 10.244.1.0/16", |settings| {
        settings.detector = Detector::ClusterCidr { v4: Some("10.244.0.0/16".parse().unwrap()), v6: None };
    });
    means("--cluster-cidr fd00::/8,010.0.0.0/8", "-", |settings| {
        settings.detector = Detector::ClusterCidr {
            v4: Some("10.0.0.0/8".parse().unwrap()),
            v6: Some("fd00::/8".parse().unwrap()),
        };
    });
    means("--detect-local-mode NodeCIDR --cluster-cidr nonsense", "-", |settings| {
        settings.detector = Detector::NodeCidr
    });
    means("", "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}", |settings| {
        settings.detector = Detector::BridgeInterface("cni0".into());
    });
    means("", "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}", |settings| {
        settings.detector = Detector::InterfaceNamePrefix("veth".into());
    });
    means("--nodeport-addresses primary,localhost --nodeport-addresses 10.1.2.3/8,all", "-", |settings| {
        settings.node_port_addresses = vec![
            NodePortAddress::Primary,
            NodePortAddress::Localhost,
            NodePortAddress::Cidr(range("10.0.0.0/8")),
            NodePortAddress::All,
        ];
    });
    means("", "bindAddress: 010.0.0.1", |settings| settings.bind_address = Some("10.0.0.1".parse().unwrap()));
    means("", "bindAddress: \"::\"", |_| {});
    means("", "featureGates: {AllowServiceExternalIPs: false}", |settings| settings.external_ips = false);
    means("--feature-gates AllAlpha=false,AllBeta=false", "-", |_| {});
}

#[test]
fn the_node_has_the_name_given_or_the_hosts() {
    assert_eq!(good("", "").node, "env-node");
    assert_eq!(good("", "hostnameOverride: ' N1 '").node, "n1");
    wrong(
        "",
        "hostnameOverride: ' '",
        &["hostnameOverride: Invalid value: \" \": must not be blank (from c.yaml)"],
    );
    let none = BTreeMap::new();
    let input = Input { flags: &super::Flags::new(), file: None, environment: &none, host_name: "Host\n" };
    assert_eq!(resolve(input).map(|effective| effective.node), Ok("host".to_owned()));
    let nameless = resolve(Input { host_name: "", ..input }).map(|_| ());
    assert_eq!(nameless, Err(vec!["the host has no name; give the Node's with --node-name".to_owned()]));
}

#[test]
fn logs_follow_kube_proxys_scale() {
    for (line, detail) in [
        ("", Detail::Operator),
        ("--v=2", Detail::Operator),
        ("-v4", Detail::Debug),
        ("-v 10", Detail::Trace),
    ] {
        assert_eq!(good(line, "-").detail, detail, "{line}");
    }
    assert_eq!(good("--log-format json", "-").log_format, LogFormat::Json);
}

#[test]
fn every_field_that_cannot_be_is_named_with_value_and_origin() {
    wrong(
        "",
        "iptables: {masqueradeBit: 40}",
        &["iptables.masqueradeBit: Invalid value: 40: must be within the range [0, 31] (from c.yaml)"],
    );
    wrong(
        "",
        "mode: nftables\nnftables: {masqueradeBit: -1}",
        &["nftables.masqueradeBit: Invalid value: -1: must be within the range [0, 31] (from c.yaml)"],
    );
    wrong(
        "--oom-score-adj -1001",
        "-",
        &[
            "oomScoreAdj: Invalid value: -1001: must be within the range [-1000, 1000] (from flag --oom-score-adj)",
        ],
    );
    wrong(
        "",
        "mode: userspace",
        &[
            "mode: Unsupported value: \"userspace\": supported values: \"iptables\", \"ipvs\", \"nftables\" (from c.yaml)",
        ],
    );
    wrong(
        "--detect-local-mode x",
        "-",
        &[
            "detectLocalMode: Unsupported value: \"x\": supported values: \"BridgeInterface\", \"ClusterCIDR\", \"InterfaceNamePrefix\", \"NodeCIDR\" (from flag --detect-local-mode)",
        ],
    );
}

#[test]
fn names_periods_and_addresses_that_cannot_be_are_named_too() {
    wrong(
        "",
        "detectLocalMode: BridgeInterface",
        &["detectLocal.bridgeInterface: Invalid value: \"\": must not be empty"],
    );
    wrong(
        "",
        "detectLocalMode: InterfaceNamePrefix",
        &["detectLocal.interfaceNamePrefix: Invalid value: \"\": must not be empty"],
    );
    let long = r#"detectLocal.interfaceNamePrefix: Invalid value: "sixteen-bytes-xx": must be no more than 15 bytes (from c.yaml)"#;
    wrong(
        "",
        "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: sixteen-bytes-xx}",
        &[long],
    );
    wrong(
        "",
        "clientConnection: {burst: -1}",
        &["clientConnection.burst: Invalid value: -1: must be greater than or equal to 0 (from c.yaml)"],
    );
    wrong(
        "",
        "configSyncPeriod: -1s",
        &["configSyncPeriod: Invalid value: -1s: must be greater than 0 (from c.yaml)"],
    );
    wrong(
        "",
        "iptables: {minSyncPeriod: -1s}",
        &["iptables.minSyncPeriod: Invalid value: -1s: must be greater than or equal to 0 (from c.yaml)"],
    );
    wrong(
        "--iptables-sync-period 0",
        "-",
        &[
            "iptables.syncPeriod: Invalid value: 0s: must be greater than 0 (from flag --iptables-sync-period)",
            "iptables.syncPeriod: Invalid value: 0s: must be greater than or equal to iptables.minSyncPeriod (from flag --iptables-sync-period)",
        ],
    );
    wrong(
        "",
        "bindAddress: node",
        &[
            "bindAddress: Invalid value: \"node\": not a valid textual representation of an IP address (from c.yaml)",
        ],
    );
    wrong(
        "",
        "showHiddenMetricsForVersion: new",
        &["showHiddenMetricsForVersion: Invalid value: \"new\": must be <major>.<minor> (from c.yaml)"],
    );
}

#[test]
fn conntrack_and_ipvs_may_not_be_negative() {
    let negative = "Invalid value: -1: must be greater than or equal to 0 (from c.yaml)";
    let before = "Invalid value: -1s: must be greater than or equal to 0 (from c.yaml)";
    for name in ["maxPerCore", "min"] {
        wrong("", &format!("conntrack: {{{name}: -1}}"), &[&format!("conntrack.{name}: {negative}")]);
    }
    for name in ["tcpEstablishedTimeout", "tcpCloseWaitTimeout", "udpTimeout", "udpStreamTimeout"] {
        wrong("", &format!("conntrack: {{{name}: -1s}}"), &[&format!("conntrack.{name}: {before}")]);
    }
    for name in ["tcpTimeout", "tcpFinTimeout", "udpTimeout"] {
        wrong("", &format!("mode: ipvs\nipvs: {{{name}: -1s}}"), &[&format!("ipvs.{name}: {before}")]);
        good("", &format!("ipvs: {{{name}: -1s}}"));
    }
    wrong(
        "",
        "mode: ipvs\nipvs: {excludeCIDRs: [10.0.0.0/8, x]}",
        &["ipvs.excludeCIDRs[1]: Invalid value: \"x\": must be a valid CIDR (from c.yaml)"],
    );
}

#[test]
fn servers_need_an_address_and_a_port() {
    for (text, what) in [
        ("node:1", "\"node\": must be a valid IP"),
        ("10.0.0.1:0", "\"0\": must be a valid port"),
        ("10.0.0.1:65536", "\"65536\": must be a valid port"),
        ("node", "\"node\": must be IP:port"),
        ("'fd00::1:x'", "\"fd00::1:x\": must be IP:port"),
    ] {
        for path in ["healthzBindAddress", "metricsBindAddress"] {
            wrong("", &format!("{path}: {text}"), &[&format!("{path}: Invalid value: {what} (from c.yaml)")]);
        }
    }
}

#[test]
fn ranges_are_single_or_a_pair() {
    let pair =
        "must be either a single CIDR or a dual-stack pair of CIDRs (e.g. 10.100.0.0/16,fde4:8dba:82e1::/48)";
    let one = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)";
    for text in ["10.0.0.0/8,11.0.0.0/8", "10.0.0.0/8,fd00::/8,11.0.0.0/8"] {
        wrong(
            "",
            &format!("clusterCIDR: {text}"),
            &[&format!("clusterCIDR: Invalid value: {text:?}: {pair} (from c.yaml)")],
        );
    }
    for text in ["10.0.0.1", "10.0.0.0/33", "10.0.0.0/+8", "fd00::/129", "/8"] {
        wrong(
            "",
            &format!("clusterCIDR: {text}"),
            &[&format!("clusterCIDR: Invalid value: {text:?}: {one} (from c.yaml)")],
        );
    }
    wrong(
        "",
        "clusterCIDR: 10.0.0.0/8, fd00::/8",
        &[&format!("clusterCIDR[1]: Invalid value: \" fd00::/8\": {one} (from c.yaml)")],
    );
    wrong(
        "",
        "nodePortAddresses: [primary, node, primary, 10.0.0.1]",
        &[
            "nodePortAddresses[1]: Invalid value: \"node\": must be a valid CIDR or one of the keywords 'primary', 'localhost', 'all' (from c.yaml)",
            "nodePortAddresses[2]: Duplicate value: \"primary\" (from c.yaml)",
            "nodePortAddresses[3]: Invalid value: \"10.0.0.1\": must be a valid CIDR or one of the keywords 'primary', 'localhost', 'all' (from c.yaml)",
        ],
    );
}

#[test]
fn options_of_logs_need_their_gates() {
    wrong(
        "",
        "logging: {format: xml}",
        &["logging.format: Invalid value: \"xml\": Unsupported log format (from c.yaml)"],
    );
    wrong(
        "",
        "logging: {flushFrequency: -1s}",
        &["logging.flushFrequency: Invalid value: -1s: Must be greater than zero (from c.yaml)"],
    );
    wrong(
        "",
        "logging: {verbosity: -1}",
        &["logging.verbosity: Invalid value: -1: must be greater than or equal to 0 (from c.yaml)"],
    );
    wrong(
        "--feature-gates LoggingBetaOptions=false --logging-format json",
        "-",
        &[
            "logging.format: Forbidden: Log format json is disabled, see LoggingBetaOptions feature (from flag --logging-format)",
        ],
    );
    wrong(
        "--log-text-split-stream --log-json-info-buffer-size=1k",
        "-",
        &[
            "logging.options.text.splitStream: Forbidden: Feature LoggingAlphaOptions is disabled (from flag --log-text-split-stream)",
            "logging.options.json.infoBufferSize: Forbidden: Feature LoggingAlphaOptions is disabled (from flag --log-json-info-buffer-size)",
        ],
    );
    good("", "logging: {options: {text: {splitStream: true}}}");
    good("--log-text-split-stream --feature-gates LoggingAlphaOptions=true", "-");
    wrong(
        "--logging-format json --vmodule a=1",
        "-",
        &["logging.vmodule: Forbidden: Only supported for text log format (from flag --vmodule)"],
    );
    wrong(
        "",
        "logging: {vmodule: [{verbosity: 1}, {filePattern: 'a=', verbosity: 1}, {filePattern: a, verbosity: -1}]}",
        &[
            "logging.vmodule[0]: Required value: File pattern must not be empty (from c.yaml)",
            "logging.vmodule[1]: Invalid value: \"a=\": File pattern must not contain equal sign or comma (from c.yaml)",
            "logging.vmodule[2]: Invalid value: -1: must be greater than or equal to 0 (from c.yaml)",
        ],
    );
}

#[test]
fn all_complaints_come_at_once() {
    let wrong = make("", "mode: x\noomScoreAdj: 9999\nhostnameOverride: ' '\nclusterCIDR: y").map(|_| ());
    assert_eq!(wrong.expect_err("wrong").len(), 4);
}

#[test]
fn what_has_no_meaning_costs_one_note() {
    told(
        "",
        "mode: ipvs\nipvs: {scheduler: rr}",
        &[],
        &["mode: ipvs (file): Sluice's own", "ipvs.scheduler: rr (file): Sluice does not use IPVS"],
    );
    told(
        "--conntrack-min 0",
        "-",
        &[],
        &["conntrack.min: 0 (flag --conntrack-min): not set by Sluice: the kernel's value stays"],
    );
    told(
        "--iptables-localhost-nodeports=false",
        "-",
        &[],
        &[
            "iptables.localhostNodePorts: false (flag --iptables-localhost-nodeports): NodePorts are never served at loopback",
        ],
    );
    told(
        "--feature-gates NFTablesNetlink=false,WatchList=true",
        "-",
        &[],
        &["featureGates: NFTablesNetlink, WatchList change nothing here"],
    );
    told(
        "",
        "winkernel: {sourceVip: 1.2.3.4}",
        &[],
        &["winkernel.sourceVip: 1.2.3.4 (file): Sluice runs on Linux only"],
    );
    let usual = good(
        "",
        "iptables: {syncPeriod: 30s, masqueradeAll: false}\nconntrack: {min: 131072}\nmode: nftables\n\
         detectLocalMode: NodeCIDR\nfeatureGates: {AllowServiceExternalIPs: true}",
    );
    let mode = "mode: nftables (file): Sluice's own dataplane is used whatever the mode; it decides whose section's \
                masqueradeAll, masqueradeBit and periods count, and the default of nodePortAddresses";
    assert_eq!(usual.notes, [&NOT_YET[..], &[mode]].concat());
}

#[test]
fn what_is_honoured_costs_no_note() {
    for body in [
        "clusterCIDR: 10.0.0.0/8",
        "clusterCIDR: 10.0.0.0/8\nbindAddress: 10.0.0.1",
        "detectLocalMode: NodeCIDR",
        "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}",
        "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}",
        "clusterCIDR: 10.0.0.0/8\nnodePortAddresses: [primary]",
        "clusterCIDR: 10.0.0.0/8\nnodePortAddresses: []",
        "clusterCIDR: 10.0.0.0/8\niptables: {masqueradeAll: true, masqueradeBit: 3}",
        "clusterCIDR: 10.0.0.0/8\nfeatureGates: {AllowServiceExternalIPs: false}",
        "clusterCIDR: 10.0.0.0/8\nhealthzBindAddress: 10.0.0.1\nmetricsBindAddress: 10.0.0.1",
        "clusterCIDR: 10.0.0.0/8\nbindAddressHardFail: true\niptables: {syncPeriod: 2s}",
        "clusterCIDR: 10.0.0.0/8\noomScoreAdj: 5\nlogging: {format: json, verbosity: 3}",
    ] {
        assert_eq!(good("", body).notes, NOT_YET, "{body}");
    }
}

#[test]
fn a_masquerade_field_of_another_mode_costs_one_note() {
    let nftables_only = "it counts in mode nftables only";
    let others_only = "it counts in modes iptables and ipvs only";
    for (line, body, subject, why) in [
        ("", "nftables: {masqueradeBit: 3}", "nftables.masqueradeBit: 3 (file)", nftables_only),
        (
            "",
            "mode: ipvs\nnftables: {masqueradeAll: true}",
            "nftables.masqueradeAll: true (file)",
            nftables_only,
        ),
        (
            "",
            "mode: nftables\niptables: {masqueradeAll: true}",
            "iptables.masqueradeAll: true (file)",
            others_only,
        ),
        (
            "--proxy-mode nftables --iptables-masquerade-bit 3",
            "-",
            "iptables.masqueradeBit: 3 (flag --iptables-masquerade-bit)",
            others_only,
        ),
    ] {
        told(line, body, &[], &[&format!("{subject}: {why}")]);
    }
    let active = good("", "mode: nftables\nnftables: {masqueradeAll: true, masqueradeBit: 3}");
    assert!(!active.notes.iter().any(|note| note.contains("it counts in")), "{:#?}", active.notes);
}

#[test]
fn without_ranges_of_pods_it_is_said_what_follows() {
    let note = |who: &str| {
        format!(
            "clusterCIDR is empty with detectLocalMode ClusterCIDR: traffic from pods is not told from other traffic: {who} \
             is masqueraded to ClusterIPs, and pods count as outside under externalTrafficPolicy: Local"
        )
    };
    assert_eq!(good("", "-").notes, [&NOT_YET[..], &[&note("nobody")]].concat());
    assert_eq!(good("--masquerade-all", "-").notes, [&NOT_YET[..], &[&note("everybody")]].concat());
}

#[test]
fn what_this_version_does_not_do_is_always_said() {
    for (line, body) in [("", "-"), ("--healthz-port 0", "-"), ("", KUBEADM)] {
        told(line, body, &[], &NOT_YET);
    }
}

#[test]
fn what_is_probably_a_mistake_costs_a_warning() {
    told(
        "--feature-gates Nonsense=true",
        "-",
        &["featureGates.Nonsense: this gate is not known; it changes nothing"],
        &[],
    );
    told(
        "",
        "clusterCIDR: 10.0.0.0/8,fd00::/8\nnodePortAddresses: [10.0.0.0/8]",
        &[
            "clusterCIDR is dual-stack, but nodePortAddresses contains only IPv4 addresses, which means NodePorts on all \
             local IPv6 addresses",
        ],
        &[],
    );
    told(
        "",
        "bindAddress: fd00::1\nnodePortAddresses: [10.0.0.0/8]\nclusterCIDR: 10.0.0.0/8",
        &[
            "bindAddress is of the other family, but nodePortAddresses contains only IPv4 addresses, which means NodePorts \
             on all local IPv6 addresses",
            "bindAddress makes IPv6 first, but clusterCIDR contains only IPv4 addresses; kube-proxy would not start on a node \
             with IPv6 only",
        ],
        &[],
    );
    told(
        "--bind-address 10.0.0.1 --healthz-bind-address [fd00::1]:10256 --metrics-bind-address [::]:10249",
        "-",
        &["bindAddress makes IPv4 first, but healthzBindAddress is an IPv6 address"],
        &[],
    );
    told("", "clusterCIDR: 10.0.0.0/8,fd00::/8\nnodePortAddresses: [10.0.0.0/8, primary]", &[], &[]);
}

#[test]
fn the_file_that_kubeadm_writes_is_taken_as_it_is() {
    for text in [KUBEADM.to_owned(), KUBEADM.replace("mode: \"\"", "mode: iptables")] {
        let effective = good("--hostname-override=n1", &text);
        assert_eq!(effective.warnings, Vec::<String>::new());
        assert_eq!(effective.notes, NOT_YET);
        assert_eq!(effective.node, "n1");
        assert_eq!(effective.kubeconfig.as_deref(), Some(Path::new("/var/lib/kube-proxy/kubeconfig.conf")));
        assert_eq!(effective.oom_score_adj, -999);
    }
}

#[test]
fn a_written_file_says_the_same_again() {
    for line in [
        "",
        "--proxy-mode nftables --masquerade-all --vmodule a=1 --feature-gates WatchList=true",
        "--kube-api-qps 0.1",
    ] {
        let first = good(line, "-");
        let written = serde_norway::to_string(&print::file(&first.fields)).unwrap();
        let second = good("", &written);
        assert_eq!(second.warnings, Vec::<String>::new(), "{written}");
        assert_eq!(second.settings, first.settings, "{written}");
        for (path, entry) in &first.fields.entries {
            assert_eq!(second.fields.entries[path].value, entry.value, "{path}: {written}");
        }
    }
}

#[test]
fn a_written_file_has_nothing_of_the_environment() {
    assert_eq!(print::file(&good("", "-").fields)["hostnameOverride"], "");
    assert_eq!(print::file(&good("--node-name n1", "-").fields)["hostnameOverride"], "n1");
    assert_eq!(print::file(&good("", "hostnameOverride: n2").fields)["hostnameOverride"], "n2");
}

#[test]
fn the_printed_configuration_has_every_field_with_its_origin() {
    let effective = good("--proxy-mode ipvs", "-");
    let text = print::table(&effective, &[]);
    assert!(text.starts_with("FIELD "), "{text}");
    assert!(
        text.lines().any(|line| line.split_whitespace().eq(["mode", "ipvs", "flag", "--proxy-mode"])),
        "{text}"
    );
    assert!(
        text.lines().any(|line| line.split_whitespace().eq(["clusterCIDR", "\"\"", "default"])),
        "{text}"
    );
    assert!(text.contains("note: mode: ipvs"), "{text}");
    let json = print::json(&effective, &[]);
    assert_eq!(
        json["fields"][0],
        serde_json::json!({ "field": "mode", "value": "ipvs", "origin": "flag --proxy-mode" })
    );
    assert_eq!(json["node"], "env-node");
}
