//! Where the daemon answers over HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use super::merge::Fields;
use super::value;

/// Addresses of the servers, and what goes with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where load balancers and probes ask; `None`: nowhere.
    pub healthz: Option<SocketAddr>,
    /// Where metrics and the configuration are read; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Whether the daemon ends if it cannot listen there.
    pub hard_fail: bool,
    /// The longest that a change may wait before the daemon counts as unhealthy: twice the period of the active mode's section.
    pub patience: Duration,
}

impl Listen {
    /// What validated fields say.
    pub(super) fn of(fields: &Fields) -> Self {
        let period = fields.nanos(&format!("{}.syncPeriod", fields.mode.section()));
        Self {
            healthz: address(fields.text("healthzBindAddress")),
            metrics: address(fields.text("metricsBindAddress")),
            hard_fail: fields.is_on("bindAddressHardFail"),
            patience: Duration::from_nanos(period.unsigned_abs()).saturating_mul(2),
        }
    }
}

/// An empty text is nowhere.
fn address(text: &str) -> Option<SocketAddr> {
    value::socket(text).ok().map(SocketAddr::from)
}

#[cfg(test)]
mod tests {
    use super::super::{File, Flags, Input, resolve};

    #[test]
    fn without_a_word_it_listens_where_kube_proxy_does() {
        check("", "0.0.0.0:10256 127.0.0.1:10249 60s");
        check("bindAddress: fd00::1", "[::]:10256 [::1]:10249 60s");
    }

    #[test]
    fn what_is_said_counts() {
        check("healthzBindAddress: 10.0.0.1", "10.0.0.1:10256 127.0.0.1:10249 60s");
        check(
            "healthzBindAddress: '[fd00::1]:1'\nmetricsBindAddress: 0.0.0.0:2",
            "[fd00::1]:1 0.0.0.0:2 60s",
        );
        check("bindAddressHardFail: true", "0.0.0.0:10256 127.0.0.1:10249 60s hard");
    }

    #[test]
    fn the_period_is_that_of_the_active_mode() {
        let periods = "iptables: {syncPeriod: 2s}\nnftables: {syncPeriod: 3s}\nipvs: {syncPeriod: 4s}\n";
        check(periods, "0.0.0.0:10256 127.0.0.1:10249 4s");
        check(&format!("mode: nftables\n{periods}"), "0.0.0.0:10256 127.0.0.1:10249 6s");
        check(&format!("mode: ipvs\n{periods}"), "0.0.0.0:10256 127.0.0.1:10249 8s");
    }

    #[test]
    fn a_port_of_zero_is_nowhere() {
        let mut flags = Flags::new();
        flags.insert("healthz-port", super::value::Value::Int(0));
        assert_eq!(shown(&flags, None), "- 127.0.0.1:10249 60s");
    }

    #[track_caller]
    fn check(text: &str, listens: &str) {
        let text = if text.is_empty() { "{}" } else { text };
        let file = File { path: "config.yaml".into(), bytes: head(text).into_bytes() };
        assert_eq!(shown(&Flags::new(), Some(&file)), listens, "{text}");
    }

    fn head(text: &str) -> String {
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        if text == "{}" { head.to_owned() } else { format!("{head}{text}") }
    }

    fn shown(flags: &Flags, file: Option<&File>) -> String {
        let environment = std::collections::BTreeMap::new();
        let input = Input { flags, file, environment: &environment, host_name: "n1" };
        let super::Listen { healthz, metrics, hard_fail, patience } = resolve(input).unwrap().listen;
        let one =
            |address: Option<std::net::SocketAddr>| address.map_or("-".to_owned(), |one| one.to_string());
        let hard = if hard_fail { " hard" } else { "" };
        format!("{} {} {}s{hard}", one(healthz), one(metrics), patience.as_secs())
    }
}
