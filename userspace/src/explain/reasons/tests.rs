//! Reasons in rows: who calls, what answers, who is in the list and why.

use crate::desired::{Context, FamilyContext, Settings};
use crate::model::sample::{apply_service, apply_slice, service, slice};
use crate::model::{External, Policy, Service};

use super::*;

/// A cluster on node n1, whose pods are 10.1.0.0/16.
fn check(of: Service, endpoints: &str, question: &str, expected: &[&str]) {
    let mut cluster = Cluster::of_node("n1", crate::model::Origin::Folder);
    cluster.take(apply_service(of));
    cluster.take(apply_slice(slice("web-0", "web", "http:8080", endpoints)));
    let pods = Some(Pods::Within("10.1.0.0/16".parse().unwrap()));
    let v4 = FamilyContext { pods, ..FamilyContext::default() };
    let context = Context {
        node: "n1".into(),
        external_ips: true,
        v4,
        ..Context::of(&Settings::default(), &"n1".into(), None)
    };
    let mut desired = Desired::new(context);
    let dirty = cluster.dirty();
    desired.update(&cluster, dirty);
    let found = reasons(&cluster, &desired, &question.parse().unwrap());
    let mut said = vec![format!("{:?}, here {:?}", found.caller, found.is_here)];
    for one in &found.answers {
        said.push(format!(
            "{} {:?} {} {:?} {:?}",
            one.service, one.kind, one.address, one.action, one.masquerade
        ));
        said.extend(one.list.iter().map(|list| format!("{}: {}", list.list, list.rule)));
        said.extend(
            one.candidates
                .iter()
                .map(|one| format!("{}{} {}", if one.used { "+" } else { "-" }, one.endpoint, one.why)),
        );
    }
    said.extend(found.notes.into_iter().filter(|note| !note.contains("not read all")));
    assert_eq!(said, expected, "{question}");
}

fn web() -> Service {
    service("web", "10.96.0.10", "http:80")
}

#[test]
fn each_candidate_has_a_reason() {
    let lines = [
        "Pod, here None",
        "default/web:http ClusterIP 10.96.0.10:80 Forward Some(Hairpin)",
        "cluster: all ready endpoints",
        "+10.1.0.1:8080 all ready endpoints",
        "-10.1.0.2:8080 not ready (slice web-0)",
    ];
    check(web(), "10.1.0.1 10.1.0.2=", "10.1.0.9 10.96.0.10:80", &lines);
    check(web(), "10.1.0.1 10.1.0.2=", "pod default/web:http", &lines);
    check(web(), "10.1.0.1 10.1.0.2=", "pod default/web:80", &lines);
}

#[test]
fn a_local_policy_leaves_callers_from_outside_the_endpoints_here() {
    let external = External { external_ips: Box::new(["192.0.2.9".parse().unwrap()]), ..External::default() };
    let of =
        || Service { external_policy: Policy::Local, external: Some(Box::new(external.clone())), ..web() };
    let local = [
        "Outside, here Some(false)",
        "default/web:http ExternalIP 192.0.2.9:80 Forward Some(Hairpin)",
        "local: ready endpoints on node n1",
        "+10.1.0.1:8080 ready endpoints on node n1",
        "-10.1.0.2:8080 not local: it is on node n2 (slice web-0)",
    ];
    check(of(), "10.1.0.1@n1 10.1.0.2@n2", "203.0.113.5 192.0.2.9:80", &local);
    let cluster = [
        "Node, here Some(true)",
        "default/web:http ExternalIP 192.0.2.9:80 Forward Some(Always)",
        "cluster: all ready endpoints",
        "+10.1.0.1:8080 all ready endpoints",
        "+10.1.0.2:8080 all ready endpoints",
    ];
    check(of(), "10.1.0.1@n1 10.1.0.2@n2", "node 192.0.2.9:80", &cluster);
}

#[test]
fn what_no_service_has_is_told_apart() {
    let other =
        "10.96.0.10 is the ClusterIP of default/web, which has no port 81/TCP: new flows are rejected";
    check(web(), "", "pod 10.96.0.10:81", &["Pod, here None", other]);
    let foreign = "no Service has 198.51.100.1:80/TCP: the flow is none of ours";
    check(web(), "", "outside 198.51.100.1:80", &["Outside, here Some(false)", foreign]);
    let ports = "default/web has no port 81/TCP that is served here; its ports: http 80/TCP";
    check(web(), "", "outside default/web:81", &["Outside, here Some(false)", ports]);
}

#[test]
fn addresses_of_another_family_than_the_callers_are_left_out() {
    let both = service("web", "10.96.0.10 fd00::10", "http:80");
    let lines = ["Pod, here None", "default/web:http ClusterIP 10.96.0.10:80 Reject None"];
    check(both, "", "10.1.0.9 default/web:80", &lines);
}
