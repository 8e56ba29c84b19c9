//! What the kernel has beside what is computed, and what is said of it.

use crate::backend::dataplane::Running;
use crate::explain::Candidate;

use super::super::{Edge, Tried};
use super::*;

/// `web` at 192.0.2.9:80 with endpoints 1 and 2.
fn computed(kind: Kind, action: Word) -> Answering {
    let used = |last: u8| Candidate { endpoint: format!("10.1.0.{last}:80"), used: true, why: String::new() };
    let is_forward = action == Word::Forward;
    Answering {
        service: "default/web".to_owned(),
        protocol: "TCP".to_owned(),
        kind,
        address: "192.0.2.9:80".parse().unwrap(),
        source_ranges: Vec::new(),
        admitted: Some(true),
        action,
        list: None,
        candidates: if is_forward { vec![used(1), used(2)] } else { Vec::new() },
        masquerade: is_forward.then_some(Masquerade::Always),
        why_masquerade: None,
        affinity_seconds: None,
        notes: Vec::new(),
    }
}

fn found(verdict: &'static str, last: &[u8]) -> Found {
    let endpoints = last.iter().map(|last| SocketAddr::from(([10, 1, 0, *last], 80))).collect();
    let has = Has {
        service: "default/web".to_owned(),
        verdict,
        endpoints,
        affinity_seconds: None,
        masquerade: None,
    };
    Found { unread: None, has: Some(has) }
}

fn tried(verdict: &'static str, last: Option<u8>) -> Edge {
    let endpoint = last.map(|last| SocketAddr::from(([10, 1, 0, last], 80)));
    Edge { outcomes: vec![Tried { verdict, endpoint, source: None, packets: 1 }], ..Edge::default() }
}

fn kernel(socket: Found, nftables: Found, edge: Edge) -> Kernel {
    let running = Some(Running { dataplane: "ebpf+nftables".to_owned(), reason: String::new() });
    Kernel { running, socket, nftables, edge, ..Kernel::default() }
}

fn case<'a>(caller: Caller, computed: Option<&'a Answering>, kernel: &'a Kernel) -> Case<'a> {
    Case {
        caller,
        is_here: Some(caller != Caller::Outside),
        protocol: Protocol::Tcp,
        address: "192.0.2.9:80".parse().unwrap(),
        is_own: false,
        has_daemon: true,
        computed,
        kernel,
    }
}

#[track_caller]
fn check(caller: Caller, computed: Option<&Answering>, kernel: &Kernel, layer: Layer, expected: &[&str]) {
    let case = case(caller, computed, kernel);
    assert_eq!(served_by(&case).0, layer);
    assert_eq!(alarms(&case), expected);
}

#[test]
fn a_kernel_as_computed_is_no_alarm() {
    let (both, should) = (|| found("forward", &[1, 2]), computed(Kind::ExternalIP, Word::Forward));
    let all = kernel(both(), both(), tried("forward", Some(2)));
    check(Caller::Pod, Some(&should), &all, Layer::Socket, &[]);
    check(Caller::Outside, Some(&should), &all, Layer::Edge, &[]);
    let left = kernel(both(), both(), tried("left", None));
    check(Caller::Outside, Some(&should), &left, Layer::Nftables, &[]);
    let refused = kernel(found("reject", &[]), found("reject", &[]), tried("left", None));
    check(Caller::Outside, Some(&computed(Kind::NodePort, Word::Reject)), &refused, Layer::Nftables, &[]);
    check(
        Caller::Pod,
        None,
        &kernel(Found::default(), Found::default(), Edge::default()),
        Layer::Nobody,
        &[],
    );
}

#[test]
fn lists_and_verdicts_that_differ_are_named() {
    let should = computed(Kind::ExternalIP, Word::Forward);
    let wrong = kernel(found("forward", &[1, 3]), found("reject", &[]), tried("forward", Some(7)));
    let socket = "the socket layer lacks 10.1.0.2:80; has too many: 10.1.0.3:80";
    let nft = "nftables says reject, computed is forward";
    let edge = "the edge's program chose 10.1.0.7:80, which is not in the list";
    check(Caller::Pod, Some(&should), &wrong, Layer::Socket, &[nft, socket, edge]);
    check(Caller::Outside, Some(&should), &wrong, Layer::Edge, &[nft, edge]);
    let dropped = kernel(Found::default(), found("forward", &[1, 2]), tried("drop", None));
    check(
        Caller::Outside,
        Some(&should),
        &dropped,
        Layer::Edge,
        &["the edge's program says drop, computed is forward"],
    );
}

#[test]
fn what_is_there_and_should_not_be_and_the_other_way_round() {
    let nothing = kernel(Found::default(), Found::default(), Edge::default());
    let should = computed(Kind::ClusterIP, Word::Forward);
    let said = ["nftables has nothing at this address", "the socket layer has nothing at this address"];
    check(Caller::Pod, Some(&should), &nothing, Layer::Nftables, &said);
    let stray = kernel(Found::default(), found("forward", &[1]), tried("forward", Some(1)));
    let nft = "nftables has default/web at this address, and no Service should be there";
    check(
        Caller::Outside,
        None,
        &stray,
        Layer::Edge,
        &[nft, "the edge's program serves an address that no Service should have"],
    );
}

#[test]
fn source_ranges_are_nftables_business_here_and_the_edges_for_others() {
    let ranges = vec!["203.0.113.0/24".to_owned()];
    let should = Answering {
        source_ranges: ranges,
        admitted: Some(false),
        ..computed(Kind::LoadBalancer, Word::Forward)
    };
    let kept_out = kernel(Found::default(), found("forward", &[1, 2]), tried("drop", None));
    check(Caller::Pod, Some(&should), &kept_out, Layer::Nftables, &[]);
    check(Caller::Outside, Some(&should), &kept_out, Layer::Edge, &[]);
    let let_in = kernel(Found::default(), found("forward", &[1, 2]), tried("forward", Some(1)));
    check(
        Caller::Outside,
        Some(&should),
        &let_in,
        Layer::Edge,
        &["the edge's program says forward, computed is drop"],
    );
}

#[test]
fn without_the_daemon_nobody_knows_what_should_be() {
    let some = kernel(found("forward", &[1]), found("reject", &[]), Edge::default());
    let case = Case { has_daemon: false, ..case(Caller::Pod, None, &some) };
    assert_eq!((served_by(&case).0, alarms(&case)), (Layer::Socket, Vec::new()));
}

#[test]
fn nobody_is_masqueraded_at_a_socket() {
    let should = computed(Kind::ExternalIP, Word::Forward);
    let all = kernel(found("forward", &[1, 2]), found("forward", &[1, 2]), Edge::default());
    let case = case(Caller::Pod, Some(&should), &all);
    assert!(masquerade(&case, Layer::Socket).starts_with("no: at connect()"));
    assert!(masquerade(&case, Layer::Nftables).starts_with("yes"));
}
