//! Every field of KubeProxyConfiguration v1alpha1: its flag, its kind, its default, and what becomes of it here.
//!
//! This table is the only place that knows the fields one by one; reading, defaults, notes, printing and the
//! documentation follow it.

use super::value::Kind;

/// A field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Where it stands in the file.
    pub path: &'static str,
    /// kube-proxy's flag for it.
    pub flag: Option<&'static str>,
    /// What it can hold.
    pub kind: Kind,
    /// Its default, written as for the flag.
    pub default: &'static str,
    /// Whether zero or nothing in the file stands for the default.
    pub zero: Zero,
    /// What becomes of it.
    pub stance: Stance,
}

/// What zero (or an empty text, or an empty list) in the file stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zero {
    /// For the default.
    Unset,
    /// For itself.
    Counts,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stance {
    /// It does what it does in kube-proxy; the text says what.
    Honoured(&'static str),
    /// It is accepted, and the text says what happens instead.
    Instead(&'static str),
}

/// A flag of kube-proxy that is no field.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Its name without dashes.
    pub name: &'static str,
    /// What it can hold.
    pub kind: Kind,
    /// What becomes of it.
    pub stance: Stance,
}

/// The field with this path.
pub fn find(path: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.path == path)
}

/// Whether fields stand below this path.
pub fn is_section(path: &str) -> bool {
    FIELDS.iter().any(|field| field.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

const fn field(
    path: &'static str,
    flag: &'static str,
    kind: Kind,
    default: &'static str,
    stance: Stance,
) -> Field {
    let flag = if flag.is_empty() { None } else { Some(flag) };
    Field { path, flag, kind, default, zero: Zero::Unset, stance }
}

/// A field of which zero in the file is a value like any other.
const fn exact(
    path: &'static str,
    flag: &'static str,
    kind: Kind,
    default: &'static str,
    stance: Stance,
) -> Field {
    Field { zero: Zero::Counts, ..field(path, flag, kind, default, stance) }
}

const NO_IPVS: Stance = Stance::Instead("Sluice does not use IPVS; endpoints are chosen at random");
const NO_WINDOWS: Stance = Stance::Instead("Sluice runs on Linux only");
const PERIOD: Stance = Stance::Instead(
    "each change is written at once and only where it differs; there is no periodic rewriting to slow or to speed",
);
const CONNTRACK: Stance = Stance::Instead("not set by Sluice: the kernel's value stays");
const HEALTHZ: Stance = Stance::Honoured("where /healthz, /livez and /readyz answer (`docs/health.md`)");
const METRICS: Stance = Stance::Honoured("where /metrics, /proxyMode, /configz and a plain /healthz answer");
const SYNC_PERIOD: Stance = Stance::Honoured(
    "twice this, in the section of the active mode, a change may wait before probes fail; each change is written at once, and \
     there is no periodic rewriting",
);
const CLIENT: Stance =
    Stance::Instead("the client speaks JSON, and lists and watches without a limit of its own");
const LOGS: Stance = Stance::Instead("Sluice logs to standard error, unbuffered, with one verbosity for all");
const MASQUERADE_ALL: Stance =
    Stance::Honoured("all traffic to ClusterIPs is masqueraded; counts in the section of the active mode");
const MASQUERADE_BIT: Stance = Stance::Honoured(
    "the bit of the packet mark that asks for masquerading; counts in the section of the active mode",
);

/// All fields, in the order in which they are printed.
pub const FIELDS: &[Field] = &[
    field(
        "mode",
        "proxy-mode",
        Kind::Text,
        "",
        Stance::Instead(
            "Sluice's own dataplane is used whatever the mode; it decides whose section's masqueradeAll, masqueradeBit \
             and periods count, and the default of nodePortAddresses",
        ),
    ),
    field(
        "bindAddress",
        "bind-address",
        Kind::Ip,
        "0.0.0.0",
        Stance::Honoured(
            "a specific address stands for the node's own of its family, and makes that family first",
        ),
    ),
    field("healthzBindAddress", "healthz-bind-address", Kind::IpPort, "0.0.0.0:10256", HEALTHZ),
    field("metricsBindAddress", "metrics-bind-address", Kind::IpPort, "127.0.0.1:10249", METRICS),
    field(
        "bindAddressHardFail",
        "bind-address-hard-fail",
        Kind::Bool,
        "false",
        Stance::Honoured(
            "the daemon ends if it cannot listen at these two at start; without it, it tries again every 5 s",
        ),
    ),
    field(
        "enableProfiling",
        "profiling",
        Kind::Bool,
        "false",
        Stance::Instead("Sluice has no profiling over HTTP"),
    ),
    field(
        "showHiddenMetricsForVersion",
        "show-hidden-metrics-for-version",
        Kind::Text,
        "",
        Stance::Instead("Sluice hides no metrics"),
    ),
    field(
        "hostnameOverride",
        "hostname-override",
        Kind::Text,
        "",
        Stance::Honoured("the Node's name, trimmed and in lower case; without it the host's name"),
    ),
    field(
        "clientConnection.kubeconfig",
        "kubeconfig",
        Kind::Text,
        "",
        Stance::Honoured("the kubeconfig; without it and --master, the pod's service account"),
    ),
    field(
        "clientConnection.contentType",
        "kube-api-content-type",
        Kind::Text,
        "application/vnd.kubernetes.protobuf",
        CLIENT,
    ),
    field("clientConnection.acceptContentTypes", "", Kind::Text, "", CLIENT),
    field("clientConnection.qps", "kube-api-qps", Kind::Float, "5", CLIENT),
    field("clientConnection.burst", "kube-api-burst", Kind::Int, "10", CLIENT),
    field(
        "configSyncPeriod",
        "config-sync-period",
        Kind::Duration,
        "15m",
        Stance::Instead("objects are not handled again while they stay the same"),
    ),
    field(
        "clusterCIDR",
        "cluster-cidr",
        Kind::Text,
        "",
        Stance::Honoured(
            "addresses of pods, one range or one of each family, with detectLocalMode ClusterCIDR",
        ),
    ),
    field(
        "detectLocalMode",
        "detect-local-mode",
        Kind::Text,
        "",
        Stance::Honoured("how traffic from pods is told; without it ClusterCIDR"),
    ),
    field(
        "detectLocal.bridgeInterface",
        "pod-bridge-interface",
        Kind::Text,
        "",
        Stance::Honoured("the interface of pods, with detectLocalMode BridgeInterface"),
    ),
    field(
        "detectLocal.interfaceNamePrefix",
        "pod-interface-name-prefix",
        Kind::Text,
        "",
        Stance::Honoured("how names of pods' interfaces begin, with detectLocalMode InterfaceNamePrefix"),
    ),
    field(
        "nodePortAddresses",
        "nodeport-addresses",
        Kind::List,
        "",
        Stance::Honoured(
            "the node's addresses that accept NodePorts: ranges, primary, localhost, all; without it all, in mode \
             nftables primary",
        ),
    ),
    field("iptables.masqueradeAll", "masquerade-all", Kind::Bool, "false", MASQUERADE_ALL),
    exact("iptables.masqueradeBit", "iptables-masquerade-bit", Kind::Int, "14", MASQUERADE_BIT),
    exact(
        "iptables.localhostNodePorts",
        "iptables-localhost-nodeports",
        Kind::Bool,
        "true",
        Stance::Instead("NodePorts are never served at loopback addresses"),
    ),
    field("iptables.syncPeriod", "iptables-sync-period", Kind::Duration, "30s", SYNC_PERIOD),
    field("iptables.minSyncPeriod", "iptables-min-sync-period", Kind::Duration, "1s", PERIOD),
    field("nftables.masqueradeAll", "", Kind::Bool, "false", MASQUERADE_ALL),
    exact("nftables.masqueradeBit", "", Kind::Int, "14", MASQUERADE_BIT),
    field("nftables.syncPeriod", "", Kind::Duration, "30s", SYNC_PERIOD),
    field("nftables.minSyncPeriod", "", Kind::Duration, "1s", PERIOD),
    field("ipvs.syncPeriod", "ipvs-sync-period", Kind::Duration, "30s", SYNC_PERIOD),
    field("ipvs.minSyncPeriod", "ipvs-min-sync-period", Kind::Duration, "0", NO_IPVS),
    field("ipvs.scheduler", "ipvs-scheduler", Kind::Text, "", NO_IPVS),
    field("ipvs.excludeCIDRs", "ipvs-exclude-cidrs", Kind::List, "", NO_IPVS),
    field("ipvs.strictARP", "ipvs-strict-arp", Kind::Bool, "false", NO_IPVS),
    field("ipvs.tcpTimeout", "ipvs-tcp-timeout", Kind::Duration, "0", NO_IPVS),
    field("ipvs.tcpFinTimeout", "ipvs-tcpfin-timeout", Kind::Duration, "0", NO_IPVS),
    field("ipvs.udpTimeout", "ipvs-udp-timeout", Kind::Duration, "0", NO_IPVS),
    exact("conntrack.maxPerCore", "conntrack-max-per-core", Kind::Int, "32768", CONNTRACK),
    exact("conntrack.min", "conntrack-min", Kind::Int, "131072", CONNTRACK),
    exact(
        "conntrack.tcpEstablishedTimeout",
        "conntrack-tcp-timeout-established",
        Kind::Duration,
        "24h",
        CONNTRACK,
    ),
    exact(
        "conntrack.tcpCloseWaitTimeout",
        "conntrack-tcp-timeout-close-wait",
        Kind::Duration,
        "1h",
        CONNTRACK,
    ),
    field("conntrack.tcpBeLiberal", "conntrack-tcp-be-liberal", Kind::Bool, "false", CONNTRACK),
    field("conntrack.udpTimeout", "conntrack-udp-timeout", Kind::Duration, "0", CONNTRACK),
    field("conntrack.udpStreamTimeout", "conntrack-udp-timeout-stream", Kind::Duration, "0", CONNTRACK),
    exact(
        "oomScoreAdj",
        "oom-score-adj",
        Kind::Int,
        "-999",
        Stance::Honoured("written to /proc/self/oom_score_adj at start"),
    ),
    field(
        "featureGates",
        "feature-gates",
        Kind::Gates,
        "",
        Stance::Honoured("AllowServiceExternalIPs counts; every other gate is accepted and changes nothing"),
    ),
    field(
        "logging.format",
        "logging-format",
        Kind::Text,
        "text",
        Stance::Honoured("how to log: text or json"),
    ),
    field("logging.flushFrequency", "log-flush-frequency", Kind::Nanos, "5s", LOGS),
    field(
        "logging.verbosity",
        "v",
        Kind::Int,
        "0",
        Stance::Honoured("how much to log: up to 3 what an operator needs, from 4 debug, from 6 trace"),
    ),
    field("logging.vmodule", "vmodule", Kind::Modules, "", LOGS),
    field("logging.options.text.splitStream", "log-text-split-stream", Kind::Bool, "false", LOGS),
    field("logging.options.text.infoBufferSize", "log-text-info-buffer-size", Kind::Quantity, "0", LOGS),
    field("logging.options.json.splitStream", "log-json-split-stream", Kind::Bool, "false", LOGS),
    field("logging.options.json.infoBufferSize", "log-json-info-buffer-size", Kind::Quantity, "0", LOGS),
    field("portRange", "", Kind::Text, "", Stance::Instead("it has no meaning in kube-proxy either")),
    field("winkernel.networkName", "", Kind::Text, "", NO_WINDOWS),
    field("winkernel.sourceVip", "", Kind::Text, "", NO_WINDOWS),
    field("winkernel.enableDSR", "", Kind::Bool, "false", NO_WINDOWS),
    field("winkernel.rootHnsEndpointName", "", Kind::Text, "", NO_WINDOWS),
    field("winkernel.forwardHealthCheckVip", "", Kind::Bool, "false", NO_WINDOWS),
    field("windowsRunAsService", "", Kind::Bool, "false", NO_WINDOWS),
];

/// Flags of kube-proxy that are no fields. Those that ask for another deed than running are Sluice's own.
pub const FLAGS: &[Flag] = &[
    Flag {
        name: "master",
        kind: Kind::Text,
        stance: Stance::Honoured("the API server's address; counts before that of the kubeconfig"),
    },
    Flag {
        name: "healthz-port",
        kind: Kind::Int,
        stance: Stance::Honoured("the port of healthzBindAddress if that has none; 0: nothing answers"),
    },
    Flag {
        name: "metrics-port",
        kind: Kind::Int,
        stance: Stance::Honoured("the port of metricsBindAddress if that has none; 0: nothing answers"),
    },
    Flag { name: "boot-id-file", kind: Kind::Text, stance: Stance::Instead("Sluice needs no boot id") },
    Flag { name: "machine-id-file", kind: Kind::Text, stance: Stance::Instead("Sluice needs no machine id") },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::{FIELDS, FLAGS, Stance, find, is_section};

    const BEGIN: &str = "<!-- fields: a test writes this table with UPDATE=1 -->\n";
    const END: &str = "<!-- end of fields -->\n";

    #[test]
    fn the_documentation_has_every_field_and_every_flag() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let text = fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once(BEGIN).unwrap();
        let (table, after) = rest.split_once(END).unwrap();
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", written())).unwrap();
        } else {
            assert_eq!(table, written(), "write it anew with UPDATE=1");
        }
    }

    fn written() -> String {
        let mut text = "| field | flag | default | what Sluice does |\n|---|---|---|---|\n".to_owned();
        for field in FIELDS {
            let flag = field.flag.map(|flag| format!("`--{flag}`")).unwrap_or_default();
            let default = if field.default.is_empty() { "" } else { &format!("`{}`", field.default) };
            text += &format!("| `{}` | {flag} | {default} | {} |\n", field.path, said(field.stance));
        }
        for flag in FLAGS {
            text += &format!("| | `--{}` | | {} |\n", flag.name, said(flag.stance));
        }
        text
    }

    fn said(stance: Stance) -> String {
        match stance {
            Stance::Honoured(what) => format!("**honoured**: {what}"),
            Stance::Instead(what) => format!("accepted: {what}"),
        }
    }

    #[test]
    fn every_path_and_every_flag_is_there_once() {
        let paths: BTreeSet<&str> = FIELDS.iter().map(|field| field.path).collect();
        assert_eq!(paths.len(), FIELDS.len());
        let names = FIELDS.iter().filter_map(|field| field.flag).chain(FLAGS.iter().map(|flag| flag.name));
        let names: Vec<&str> = names.collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }

    #[test]
    fn every_default_can_be_read() {
        for field in FIELDS {
            assert!(field.kind.parse(field.default).is_ok(), "{}", field.path);
        }
    }

    #[test]
    fn a_section_is_no_field() {
        assert!(is_section("iptables") && is_section("logging.options.text") && find("iptables").is_none());
        assert!(!is_section("mode") && !is_section("ipt") && find("mode").is_some());
    }
}
