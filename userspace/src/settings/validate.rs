//! What cannot be, said of all fields at once and in kube-proxy's words; and what the fields mean, typed.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::gates;
use super::merge::{Fields, Mode, Origin};
use super::value::{self, Value};
use crate::desired::settings::{Detector, NodePortAddress, Settings};
use crate::model::address;

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const ONE_CIDR: &str = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)";
const ONE_OR_PAIR: &str =
    "must be either a single CIDR or a dual-stack pair of CIDRs (e.g. 10.100.0.0/16,fde4:8dba:82e1::/48)";
const PORTS_ON: &str = "must be a valid CIDR or one of the keywords 'primary', 'localhost', 'all'";
const MODES: &str = r#""iptables", "ipvs", "nftables""#;
const DETECT_MODES: &str = r#""BridgeInterface", "ClusterCIDR", "InterfaceNamePrefix", "NodeCIDR""#;

/// What the fields mean for this node's Services; or every complaint. `file` is the file's name, for the complaints.
pub(super) fn validate(fields: &Fields, file: &str) -> Result<Settings, Vec<String>> {
    let mut check = Check { fields, file, wrong: Vec::new() };
    check.modes();
    check.numbers();
    check.periods();
    check.ipvs();
    check.server("healthzBindAddress");
    check.server("metricsBindAddress");
    check.metrics_version();
    check.logging();
    let settings = Settings {
        detector: check.detector(),
        masquerade_all: fields.is_on(fields.mode.masquerade_all()),
        node_port_addresses: check.node_port_addresses(),
        external_ips: fields.gates().get(gates::EXTERNAL_IPS).copied().unwrap_or(true),
        bind_address: check.bind_address(),
    };
    if check.wrong.is_empty() { Ok(settings) } else { Err(check.wrong) }
}

/// Reads a range as the API long accepted it; what lies below its prefix is dropped.
pub(super) fn cidr(text: &str) -> Option<IpNet> {
    let (address, prefix) = text.split_once('/')?;
    let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
    let prefix: u8 = prefix.parse().ok().filter(|_| digits)?;
    match address::parse(address)? {
        IpAddr::V4(v4) if address.contains(':') => {
            Ipv4Net::new(v4, prefix.checked_sub(96)?).ok().map(IpNet::V4)
        }
        IpAddr::V4(v4) => Ipv4Net::new(v4, prefix).ok().map(IpNet::V4),
        IpAddr::V6(v6) => Ipv6Net::new(v6, prefix).ok().map(IpNet::V6),
    }
    .map(|net| net.trunc())
}

/// A complaint names the field as it stands in the file, and where its value came from.
pub(super) fn complaint(fields: &Fields, file: &str, path: &str, what: &str) -> String {
    let origin = fields.entries.get(path).map_or(Origin::Default, |entry| entry.origin);
    let from = match origin {
        Origin::Default | Origin::Mode(_) => String::new(),
        Origin::File => format!(" (from {file})"),
        Origin::Flag(_) | Origin::Environment(_) => format!(" (from {origin})"),
    };
    format!("{path}{what}{from}")
}

struct Check<'a> {
    fields: &'a Fields,
    file: &'a str,
    wrong: Vec<String>,
}

impl Check<'_> {
    fn complain(&mut self, path: &str, below: &str, what: &str) {
        self.wrong.push(complaint(self.fields, self.file, path, &format!("{below}: {what}")));
    }

    fn invalid(&mut self, path: &str, why: &str) {
        let Some(value) = self.fields.entries.get(path).map(|entry| entry.value.to_string()) else { return };
        self.complain(path, "", &format!("Invalid value: {value}: {why}"));
    }

    fn require(&mut self, path: &str, good: bool, why: &str) {
        if !good {
            self.invalid(path, why);
        }
    }

    fn modes(&mut self) {
        let (mode, detect) = (self.fields.text("mode"), self.fields.text("detectLocalMode"));
        if !["iptables", "ipvs", "nftables"].contains(&mode) {
            self.complain("mode", "", &format!("Unsupported value: {mode:?}: supported values: {MODES}"));
        }
        if !["BridgeInterface", "ClusterCIDR", "InterfaceNamePrefix", "NodeCIDR"].contains(&detect) {
            let what = format!("Unsupported value: {detect:?}: supported values: {DETECT_MODES}");
            self.complain("detectLocalMode", "", &what);
        }
    }

    fn numbers(&mut self) {
        let fields = self.fields;
        let bit = |path| (0..=31).contains(&fields.number(path));
        self.require(
            "iptables.masqueradeBit",
            bit("iptables.masqueradeBit"),
            "must be within the range [0, 31]",
        );
        // As in kube-proxy, what belongs to another mode may be wrong.
        if fields.mode == Mode::NfTables {
            self.require(
                "nftables.masqueradeBit",
                bit("nftables.masqueradeBit"),
                "must be within the range [0, 31]",
            );
        }
        let score = (-1000..=1000).contains(&fields.number("oomScoreAdj"));
        self.require("oomScoreAdj", score, "must be within the range [-1000, 1000]");
        for path in ["clientConnection.burst", "conntrack.maxPerCore", "conntrack.min"] {
            self.require(path, fields.number(path) >= 0, NOT_NEGATIVE);
        }
        for name in ["tcpEstablishedTimeout", "tcpCloseWaitTimeout", "udpTimeout", "udpStreamTimeout"] {
            let path = format!("conntrack.{name}");
            self.require(&path, fields.nanos(&path) >= 0, NOT_NEGATIVE);
        }
    }

    fn periods(&mut self) {
        let fields = self.fields;
        let section = fields.mode.section();
        let (period, least) = (format!("{section}.syncPeriod"), format!("{section}.minSyncPeriod"));
        self.require("configSyncPeriod", fields.nanos("configSyncPeriod") > 0, "must be greater than 0");
        self.require(&period, fields.nanos(&period) > 0, "must be greater than 0");
        self.require(&least, fields.nanos(&least) >= 0, NOT_NEGATIVE);
        let ordered = fields.nanos(&least) <= fields.nanos(&period);
        self.require(&period, ordered, &format!("must be greater than or equal to {least}"));
    }

    fn ipvs(&mut self) {
        let fields = self.fields;
        if fields.mode != Mode::Ipvs {
            return;
        }
        for path in ["ipvs.tcpTimeout", "ipvs.tcpFinTimeout", "ipvs.udpTimeout"] {
            self.require(path, fields.nanos(path) >= 0, NOT_NEGATIVE);
        }
        for (at, text) in fields.list("ipvs.excludeCIDRs").iter().enumerate() {
            if cidr(text).is_none() {
                self.complain(
                    "ipvs.excludeCIDRs",
                    &format!("[{at}]"),
                    &format!("Invalid value: {text:?}: must be a valid CIDR"),
                );
            }
        }
    }

    /// Empty means that there is no such server.
    fn server(&mut self, path: &str) {
        let text = self.fields.text(path);
        if let (false, Err((part, why))) = (text.is_empty(), value::socket(text)) {
            self.complain(path, "", &format!("Invalid value: {part:?}: {why}"));
        }
    }

    fn metrics_version(&mut self) {
        let text = self.fields.text("showHiddenMetricsForVersion");
        let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let good = text.split_once('.').is_some_and(|(major, minor)| number(major) && number(minor));
        self.require("showHiddenMetricsForVersion", text.is_empty() || good, "must be <major>.<minor>");
    }

    fn logging(&mut self) {
        let fields = self.fields;
        let format = fields.text("logging.format");
        let gates = fields.gates();
        self.require("logging.format", ["text", "json"].contains(&format), "Unsupported log format");
        if format == "json" && !gates::is_on(&gates, "LoggingBetaOptions", "AllBeta", true) {
            let what = "Forbidden: Log format json is disabled, see LoggingBetaOptions feature";
            self.complain("logging.format", "", what);
        }
        let flush = fields.nanos("logging.flushFrequency") > 0;
        self.require("logging.flushFrequency", flush, "Must be greater than zero");
        self.require("logging.verbosity", fields.number("logging.verbosity") >= 0, NOT_NEGATIVE);
        self.modules(format);
        if !gates::is_on(&gates, "LoggingAlphaOptions", "AllAlpha", false) {
            self.log_options();
        }
    }

    fn modules(&mut self, format: &str) {
        let entry = self.fields.entries.get("logging.vmodule");
        let Some(Value::Modules(modules)) = entry.map(|entry| &entry.value) else { return };
        if !modules.is_empty() && format != "text" {
            self.complain("logging.vmodule", "", "Forbidden: Only supported for text log format");
        }
        for (at, (pattern, level)) in modules.iter().enumerate() {
            let why = match (pattern.is_empty(), pattern.contains(['=', ',']), *level < 0) {
                (true, _, _) => "Required value: File pattern must not be empty".to_owned(),
                (_, true, _) => {
                    format!("Invalid value: {pattern:?}: File pattern must not contain equal sign or comma")
                }
                (_, _, true) => format!("Invalid value: {level}: {NOT_NEGATIVE}"),
                (false, false, false) => continue,
            };
            self.complain("logging.vmodule", &format!("[{at}]"), &why);
        }
    }

    fn log_options(&mut self) {
        for section in ["logging.options.text", "logging.options.json"] {
            let (split, size) = (format!("{section}.splitStream"), format!("{section}.infoBufferSize"));
            // kube-proxy overlooks a splitStream in the file.
            let flag =
                self.fields.entries.get(split.as_str()).is_some_and(|entry| entry.origin != Origin::File);
            let sized = self.fields.text(&size).chars().any(|digit| ('1'..='9').contains(&digit));
            for (path, set) in [(&split, flag && self.fields.is_on(&split)), (&size, sized)] {
                if set {
                    self.complain(path, "", "Forbidden: Feature LoggingAlphaOptions is disabled");
                }
            }
        }
    }

    fn detector(&mut self) -> Detector {
        let fields = self.fields;
        let (bridge, prefix) = ("detectLocal.bridgeInterface", "detectLocal.interfaceNamePrefix");
        match fields.text("detectLocalMode") {
            "NodeCIDR" => Detector::NodeCidr,
            "BridgeInterface" => {
                self.interface(bridge);
                Detector::BridgeInterface(Arc::from(fields.text(bridge)))
            }
            "InterfaceNamePrefix" => {
                self.interface(prefix);
                Detector::InterfaceNamePrefix(Arc::from(fields.text(prefix)))
            }
            _ => self.cluster_cidr(),
        }
    }

    /// A device's name, or what it begins with. Linux knows none that is longer (`IFNAMSIZ`, with the zero at its end).
    fn interface(&mut self, path: &str) {
        let text = self.fields.text(path);
        self.require(path, !text.is_empty(), "must not be empty");
        self.require(path, text.len() <= 15, "must be no more than 15 bytes");
    }

    fn cluster_cidr(&mut self) -> Detector {
        let (mut v4, mut v6) = (None, None);
        let text = self.fields.text("clusterCIDR");
        let parts: Vec<&str> = text.split(',').filter(|_| !text.is_empty()).collect();
        for (at, part) in parts.iter().enumerate() {
            match cidr(part) {
                Some(IpNet::V4(net)) => v4 = Some(net),
                Some(IpNet::V6(net)) => v6 = Some(net),
                None => {
                    let below = if parts.len() > 1 { format!("[{at}]") } else { String::new() };
                    self.complain("clusterCIDR", &below, &format!("Invalid value: {part:?}: {ONE_CIDR}"));
                }
            }
        }
        let good = parts.iter().filter(|part| cidr(part).is_some()).count();
        let pair = v4.is_some() && v6.is_some();
        self.require("clusterCIDR", parts.len() <= 2 && (good < 2 || pair), ONE_OR_PAIR);
        Detector::ClusterCidr { v4, v6 }
    }

    fn node_port_addresses(&mut self) -> Vec<NodePortAddress> {
        const PATH: &str = "nodePortAddresses";
        let mut read = Vec::new();
        for (at, text) in self.fields.list(PATH).iter().enumerate() {
            let Some(one) = node_port_address(text) else {
                self.complain(PATH, &format!("[{at}]"), &format!("Invalid value: {text:?}: {PORTS_ON}"));
                continue;
            };
            if !matches!(one, NodePortAddress::Cidr(_)) && read.contains(&one) {
                self.complain(PATH, &format!("[{at}]"), &format!("Duplicate value: {text:?}"));
            }
            read.push(one);
        }
        read
    }

    /// An unspecified address stands for none.
    fn bind_address(&mut self) -> Option<IpAddr> {
        let read = address::parse(self.fields.text("bindAddress"));
        let why = "not a valid textual representation of an IP address";
        self.require("bindAddress", read.is_some(), why);
        read.filter(|address| !address.is_unspecified())
    }
}

fn node_port_address(text: &str) -> Option<NodePortAddress> {
    match text {
        "primary" => Some(NodePortAddress::Primary),
        "localhost" => Some(NodePortAddress::Localhost),
        "all" => Some(NodePortAddress::All),
        range => cidr(range).map(NodePortAddress::Cidr),
    }
}
