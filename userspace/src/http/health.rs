//! Whether the daemon is well, judged by what its loop last said and by the clock.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::answer::Answer;
use crate::desired::HealthCheck;
use crate::model::ServiceName;
use crate::reconcile::outlet::{Moment, Pulse};

/// What the loop last said, and when it is looked at.
#[derive(Clone, Debug)]
pub(super) struct Look {
    /// How the loop is doing.
    pub(super) pulse: Pulse,
    /// This moment.
    pub(super) now: Moment,
    /// The longest that a change may wait.
    pub(super) patience: Duration,
}

/// The order of the fields is kube-proxy's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    status: BTreeMap<&'static str, Family>,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Family {
    last_updated: String,
    healthy: bool,
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    blockers: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceBody<'a> {
    service: Names<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Names<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl Look {
    /// Whether no change has waited too long. Where there is nothing to do, all is well.
    pub(super) fn is_healthy(&self) -> bool {
        self.waited().is_none_or(|waited| waited < self.patience) && !self.hangs()
    }

    fn waited(&self) -> Option<Duration> {
        self.pulse.waiting_since.map(|since| self.now.run.saturating_sub(since.run))
    }

    /// What waits for a loop that does not come round has not even been counted.
    fn hangs(&self) -> bool {
        self.now.run.saturating_sub(self.pulse.beat.run) >= self.patience
    }

    /// Whether the daemon should be left running.
    pub(super) fn livez(&self) -> Answer {
        let healthy = self.is_healthy();
        Answer::probe(healthy, &self.body(healthy, None))
    }

    /// Whether new connections should be sent to this node.
    pub(super) fn healthz(&self) -> Answer {
        let eligible = self.pulse.eligible;
        let well = self.is_healthy() && eligible;
        Answer::probe(well, &self.body(well, Some(eligible)))
    }

    /// Whether what the objects say is in force here.
    pub(super) fn readyz(&self) -> Answer {
        let late = self.waited().filter(|waited| *waited >= self.patience);
        let late = late.map(|waited| format!("a change has waited for {} seconds", waited.as_secs()));
        let hangs = self.hangs().then(|| "the loop hangs".to_owned());
        let blockers: Vec<String> = self.pulse.blockers.iter().cloned().chain(late).chain(hangs).collect();
        let ready = blockers.is_empty();
        Answer::probe(ready, &Ready { ready, blockers })
    }

    /// Whether a load balancer should send this Service's connections to this node. Whether the node is about to go is
    /// not asked: its endpoints end by themselves.
    pub(super) fn service(&self, service: &ServiceName, local_endpoints: usize) -> Answer {
        let healthy = self.is_healthy();
        let ServiceName { namespace, name } = service;
        let body = ServiceBody {
            service: Names { namespace, name },
            local_endpoints,
            service_proxy_healthy: healthy,
        };
        Answer::check(healthy && local_endpoints > 0, local_endpoints, &body)
    }

    /// Where all is well, the last update is this moment: somebody may look at how old it is, and idleness is no fault.
    fn body(&self, well: bool, node_eligible: Option<bool>) -> Body {
        let updated = time(self.pulse.updated);
        let healthy = self.is_healthy();
        let family = Family { last_updated: updated.clone(), healthy };
        Body {
            last_updated: if well { time(self.now) } else { updated },
            current_time: time(self.now),
            node_eligible,
            healthy,
            // One loop serves both.
            status: BTreeMap::from([("IPv4", family.clone()), ("IPv6", family)]),
        }
    }
}

/// What a load balancer is told of the Service that has this port in this family.
pub(super) fn endpoints(checks: &[HealthCheck], family: crate::model::Family) -> usize {
    checks.iter().find(|check| check.family == family).map_or(0, |check| check.local_endpoints)
}

/// RFC 3339 with as many digits as are needed.
fn time(moment: Moment) -> String {
    let since = SignedDuration::try_from(moment.wall).unwrap_or_default();
    Timestamp::from_duration(since).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn idleness_is_health_however_long() {
        check(look(None, true, 100_000), [200, 200, 200]);
    }

    #[test]
    fn a_change_may_wait_for_just_less_than_the_patience() {
        check(look(Some(10), true, 69), [200, 200, 200]);
        check(look(Some(10), true, 70), [503, 503, 503]);
    }

    #[test]
    fn a_loop_that_does_not_come_round_is_not_idle() {
        let mut look = look(None, true, 100);
        look.pulse.beat = at(41);
        check(look.clone(), [200, 200, 200]);
        look.pulse.beat = at(40);
        assert_eq!(look.readyz().body, r#"{"ready":false,"blockers":["the loop hangs"]}"#);
        check(look, [503, 503, 503]);
    }

    #[test]
    fn a_node_that_is_about_to_go_fails_for_load_balancers_only() {
        check(look(None, false, 10), [503, 200, 200]);
        check(look(Some(10), false, 69), [503, 200, 200]);
    }

    #[test]
    fn what_is_in_the_way_is_named_and_lateness_with_it() {
        let mut look = look(Some(10), true, 75);
        look.pulse.blockers = vec!["the kernel refuses: no".to_owned()];
        let Answer { status, body, .. } = look.readyz();
        let text =
            r#"{"ready":false,"blockers":["the kernel refuses: no","a change has waited for 65 seconds"]}"#;
        assert_eq!((status, &*body), (503, text));
        look.pulse.waiting_since = None;
        let text = r#"{"ready":false,"blockers":["the kernel refuses: no"]}"#;
        assert_eq!((look.readyz().status, &*look.readyz().body), (503, text));
        look.pulse.blockers.clear();
        assert_eq!(&*look.readyz().body, r#"{"ready":true,"blockers":[]}"#);
    }

    #[test]
    fn bodies_have_kube_proxys_fields_in_its_order() {
        let family = r#"{"lastUpdated":"1970-01-01T00:00:05Z","healthy":true}"#;
        let status = format!(r#""healthy":true,"status":{{"IPv4":{family},"IPv6":{family}}}}}"#);
        let now = r#""currentTime":"1970-01-01T00:01:09.5Z""#;
        let mut look = look(None, true, 69);
        look.now.wall += Duration::from_millis(500);
        let well = format!(r#"{{"lastUpdated":"1970-01-01T00:01:09.5Z",{now},{status}"#);
        assert_eq!(look.livez().body, well);
        look.pulse.eligible = false;
        let going = format!(r#"{{"lastUpdated":"1970-01-01T00:00:05Z",{now},"nodeEligible":false,{status}"#);
        assert_eq!(look.healthz().body, going);
        assert_eq!(look.healthz().content_type, "application/json");
    }

    #[test]
    fn a_service_is_well_with_an_endpoint_here_and_a_proxy_that_is() {
        let name = ServiceName { namespace: "default".into(), name: "web".into() };
        let of = |look: Look, count| {
            let Answer { status, weight, .. } = look.service(&name, count);
            (status, weight)
        };
        assert_eq!(of(look(None, true, 5), 2), (200, Some(2)));
        assert_eq!(of(look(None, false, 5), 2), (200, Some(2)), "also on a node that is about to go");
        assert_eq!(of(look(None, true, 5), 0), (503, Some(0)));
        assert_eq!(of(look(Some(10), true, 70), 2), (503, Some(2)));
        let body = "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        assert_eq!(look(None, true, 5).service(&name, 2).body, body);
    }

    /// Updated at second 5, looked at later by a loop that is awake; with a change that has waited since then.
    fn look(since: Option<u64>, eligible: bool, now: u64) -> Look {
        let pulse = Pulse {
            waiting_since: since.map(at),
            beat: at(now),
            updated: at(5),
            eligible,
            blockers: Vec::new(),
        };
        Look { pulse, now: at(now), patience: PATIENCE }
    }

    fn at(seconds: u64) -> Moment {
        Moment { run: Duration::from_secs(seconds), wall: Duration::from_secs(seconds) }
    }

    #[track_caller]
    fn check(look: Look, [healthz, livez, readyz]: [u16; 3]) {
        let found = [look.healthz(), look.livez(), look.readyz()].map(|answer| answer.status);
        assert_eq!(found, [healthz, livez, readyz], "{look:?}");
    }
}
