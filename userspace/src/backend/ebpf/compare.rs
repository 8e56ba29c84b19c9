//! What the tables hold beside what they should hold. Pure.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use dataplane_ebpf::abi::{DROP, Extent, INSIDE, ServiceKey};

use super::describe::{address_of, in_list};
use super::image::{Entries, Numbers, entries, in_force};
use super::read::Installed;
use super::{HookState, Verdict};
use crate::backend::difference::Difference;
use crate::desired::ServicePort;
use crate::model::ServicePortName;

/// Everything in which they differ.
pub fn differences(installed: &Installed, want: &[(ServicePortName, ServicePort)]) -> Vec<Difference> {
    let wanted: BTreeMap<&ServicePortName, &ServicePort> =
        want.iter().map(|(name, port)| (name, port)).collect();
    let mut numbers = Numbers::beside(installed.ports.values(), u32::MAX);
    let nothing = Entries::default();
    let mut all = Vec::new();
    let names: BTreeSet<&ServicePortName> = installed.ports.keys().chain(wanted.keys().copied()).collect();
    for name in names {
        let have = installed.ports.get(name).unwrap_or(&nothing);
        // With the numbers that it has, it is the same, or it differs in something that counts.
        let want = wanted.get(name).map(|port| entries(name, port, have, &mut numbers)).unwrap_or_default();
        if want != *have {
            all.extend(of_port(name, &want, have));
        }
    }
    all.extend((installed.strays.drops() > 0).then(|| {
        row("", "entries that bear no name".to_owned(), None, Some(installed.strays.drops().to_string()))
    }));
    all
}

/// Hooks that no program of ours hangs on.
pub fn unhooked(hooks: &[HookState]) -> Vec<Difference> {
    let off = hooks.iter().filter(|hook| !hook.attached);
    off.map(|hook| row("", format!("hook {}", hook.hook), Some("attached".to_owned()), None)).collect()
}

/// What does not hold together, whatever is wanted: lists with gaps, and places in lists that lead to nobody.
pub fn torn(installed: &Installed) -> Vec<Difference> {
    let ports = installed.ports.iter().flat_map(|(name, entries)| torn_port(name, entries));
    let strays = installed.strays.drops();
    let stray = || row("", "entries that bear no name".to_owned(), None, Some(strays.to_string()));
    ports.chain((strays > 0).then(stray)).collect()
}

fn torn_port(name: &ServicePortName, entries: &Entries) -> Vec<Difference> {
    let service = format!("{name}/{} {}", name.protocol, name.family);
    let known: BTreeSet<u32> = entries.backends.iter().map(|(id, _)| *id).collect();
    let leads = |backend: u32| backend == DROP || known.contains(&backend);
    let gaps = in_force(&entries.state).into_iter().filter_map(|extent| {
        let places = entries.slots.iter().filter(|(key, _)| key.generation == extent.generation);
        let whole = places.filter(|(_, slot)| leads(slot.backend)).count();
        let endpoints = |count: usize| Some(format!("{count} endpoints"));
        let what = format!("list of generation {}", extent.generation);
        (whole != extent.slots as usize)
            .then(|| row(&service, what, endpoints(extent.slots as usize), endpoints(whole)))
    });
    let mut gaps: Vec<_> = gaps.collect();
    gaps.dedup();
    gaps
}

fn row(service: &str, what: String, plan: Option<String>, kernel: Option<String>) -> Difference {
    Difference { dataplane: "ebpf".into(), service: service.to_owned(), what, plan, kernel }
}

/// Where the entries of one service port are not as they should be; it is known that they are not.
pub(super) fn of_port(name: &ServicePortName, want: &Entries, have: &Entries) -> Vec<Difference> {
    let service = format!("{name}/{} {}", name.protocol, name.family);
    let mut all = Vec::new();
    let sides = [want, have].map(|entries| entries.services.iter().copied().collect::<BTreeMap<_, _>>());
    let keys: BTreeSet<ServiceKey> = sides.iter().flat_map(|side| side.keys().copied()).collect();
    for key in keys {
        let side = |at: usize| {
            sides
                .get(at)?
                .get(&key)
                .map(|found| if found.side == INSIDE { "for ClusterIPs" } else { "for others" }.to_owned())
        };
        all.extend(differ(&service, format!("address {}", address_of(&key)), side(0), side(1)));
    }
    let lists = |entries: &Entries| [entries.state.inside(), entries.state.pod, entries.state.node];
    let whose = ["at the ClusterIP", "for pods elsewhere", "for the node elsewhere"];
    for ((whose, plan), kernel) in whose.into_iter().zip(lists(want)).zip(lists(have)) {
        all.extend(differ(&service, format!("list {whose}"), list(want, plan), list(have, kernel)));
    }
    let timeout =
        |entries: &Entries| (entries.state.timeout != 0).then(|| format!("{}s", entries.state.timeout));
    all.extend(differ(&service, "session affinity".to_owned(), timeout(want), timeout(have)));
    let endpoints = |entries: &Entries| (!entries.backends.is_empty()).then(|| known(entries));
    all.extend(differ(&service, "endpoints known".to_owned(), endpoints(want), endpoints(have)));
    if all.is_empty() {
        all.push(row(
            &service,
            "entries behind the lists".to_owned(),
            Some("as planned".into()),
            Some("others".into()),
        ));
    }
    all
}

fn differ(service: &str, what: String, plan: Option<String>, kernel: Option<String>) -> Option<Difference> {
    (plan != kernel).then(|| row(service, what, plan, kernel))
}

fn list(entries: &Entries, extent: Extent) -> Option<String> {
    if extent.generation == 0 {
        return None;
    }
    let (verdict, endpoints) = in_list(entries, extent);
    Some(if verdict == Verdict::Forward { words(endpoints) } else { verdict.as_str().to_owned() })
}

fn known(entries: &Entries) -> String {
    words(entries.backends.iter().map(|(_, backend)| backend.endpoint.into()).collect())
}

fn words(mut endpoints: Vec<SocketAddr>) -> String {
    endpoints.sort_unstable();
    endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ebpf::sample::{name, port};

    fn installed(ports: &[(ServicePortName, ServicePort)]) -> Installed {
        let mut numbers = Numbers::beside(std::iter::empty::<&Entries>(), 100);
        let entries = |(name, port): &(ServicePortName, ServicePort)| {
            (name.clone(), entries(name, port, &Entries::default(), &mut numbers))
        };
        Installed { ports: ports.iter().map(entries).collect(), ..Installed::default() }
    }

    #[track_caller]
    fn check(
        have: &[(ServicePortName, ServicePort)],
        want: &[(ServicePortName, ServicePort)],
        expected: &[&str],
    ) {
        let found = differences(&installed(have), want);
        let text = |one: &Difference| {
            let [plan, kernel] =
                [&one.plan, &one.kernel].map(|side| side.clone().unwrap_or_else(|| "-".to_owned()));
            format!("{}: {} < {plan} > {kernel}", one.service, one.what)
        };
        assert_eq!(found.iter().map(text).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_as_it_should_be_is_no_difference() {
        let ports = [(name(1), port(1, &[1, 2], &[3])), (name(2), port(2, &[], &[]))];
        check(&ports, &ports, &[]);
    }

    #[test]
    fn endpoints_addresses_and_services_that_differ_are_named() {
        let (one, two) = ((name(1), port(1, &[1, 2], &[])), (name(1), port(1, &[1], &[])));
        let both = "10.1.0.1:8080,10.1.0.2:8080";
        let lines = [
            format!("default/s1:http/TCP IPv4: list at the ClusterIP < {both} > 10.1.0.1:8080"),
            format!("default/s1:http/TCP IPv4: endpoints known < {both} > 10.1.0.1:8080"),
        ];
        check(&[two], &[one], &lines.each_ref().map(String::as_str));
        let gone = (name(1), port(1, &[1], &[]));
        let lines = [
            "default/s1:http/TCP IPv4: address 10.96.0.1:80 < - > for ClusterIPs",
            "default/s1:http/TCP IPv4: list at the ClusterIP < - > 10.1.0.1:8080",
            "default/s1:http/TCP IPv4: endpoints known < - > 10.1.0.1:8080",
        ];
        check(std::slice::from_ref(&gone), &[], &lines);
    }

    #[test]
    fn a_list_with_a_gap_or_an_endpoint_nobody_knows_does_not_hold_together() {
        let whole = installed(&[(name(1), port(1, &[1, 2], &[3])), (name(2), port(2, &[], &[]))]);
        assert_eq!(torn(&whole), []);
        let check = |harm: fn(&mut Entries)| {
            let mut torn_one = whole.clone();
            harm(torn_one.ports.get_mut(&name(1)).unwrap());
            let [found] = torn(&torn_one).try_into().unwrap();
            assert_eq!(
                (found.plan.as_deref(), found.kernel.as_deref()),
                (Some("2 endpoints"), Some("1 endpoints"))
            );
        };
        check(|entries| entries.slots = entries.slots[1..].into());
        check(|entries| entries.backends = entries.backends[1..].into());
    }

    #[test]
    fn who_only_keeps_flows_is_another_thing_than_who_gets_new_ones() {
        let lines =
            ["default/s1:http/TCP IPv4: list at the ClusterIP < 10.1.0.1:8080 > 10.1.0.1:8080,10.1.0.2:8080"];
        check(&[(name(1), port(1, &[1, 2], &[]))], &[(name(1), port(1, &[1], &[2]))], &lines);
    }
}
