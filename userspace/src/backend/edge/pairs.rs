//! Flows as people see them: one thing, of the two entries that programs have of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use aya::maps::MapData;
use dataplane_ebpf::abi::{EDGE_TRAFFIC, FLOWS, Flow, FlowKey, MASQUERADED, REPLY, Traffic};
use dataplane_ebpf::datapath::edge::header::{TCP, split, swapped};
use dataplane_ebpf::datapath::edge::life;

use super::super::ebpf::table::Table;
use super::flows::{self, State, turned};
use super::image;
use super::object::{broken, home};
use crate::backend::BackendError;
use crate::model::Protocol;

/// A flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Number of the service port, made from its name.
    pub service: u32,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Who asked.
    pub client: SocketAddr,
    /// Whom it named.
    pub address: SocketAddr,
    /// Who serves.
    pub endpoint: SocketAddr,
    /// Whom that takes for the client, where it is this node.
    pub source: Option<SocketAddr>,
    /// Where it is in its life.
    pub state: State,
    /// Seconds since the last packet of either direction.
    pub idle: u32,
}

/// The flows of whichever daemon; nothing if none has an edge layer, or had one.
pub fn read_flows(pin_dir: &Path) -> Result<Option<Vec<Pair>>, BackendError> {
    let home = home(pin_dir);
    let path = home.join(FLOWS);
    let is_there = path.try_exists().map_err(|source| BackendError::Pin { deed: "look at", path, source })?;
    if !is_there {
        return Ok(None);
    }
    let all = flows::open(&home)?.dump()?;
    Ok(Some(join(&all, flows::now())))
}

/// What became of new flows by number of the service port, counted by whichever daemons; nothing if none has an edge layer, or
/// had one.
pub fn read_traffic(pin_dir: &Path) -> Result<Option<BTreeMap<u32, Traffic>>, BackendError> {
    let path = home(pin_dir).join(EDGE_TRAFFIC);
    if !path.exists() {
        return Ok(None);
    }
    let table = MapData::from_pin(&path).map_err(|error| broken(EDGE_TRAFFIC, "open", error))?;
    Ok(Some(Table::new(EDGE_TRAFFIC, table)?.dump()?.into_iter().collect()))
}

/// Shows each flow that is wanted by its service's number and its endpoint; false if there is no table. Of the table no more
/// is held at a time than one reading; a flow may come twice. With it comes the second of its last packet.
pub fn show_flows(
    pin_dir: &Path,
    wanted: &mut dyn FnMut(&Pair) -> bool,
    take: &mut dyn FnMut(&Pair, u32),
) -> Result<bool, BackendError> {
    let home = home(pin_dir);
    let path = home.join(FLOWS);
    let is_there = path.try_exists().map_err(|source| BackendError::Pin { deed: "look at", path, source })?;
    if !is_there {
        return Ok(false);
    }
    let table = flows::open(&home)?;
    let now = flows::now();
    table.scan(|some| {
        for (key, flow) in some {
            let (from, forth, marks) = from_client(&key, &flow);
            if !wanted(&pair(&from, &Known { forth, marks, seen: flow.seen }, now)) {
                continue;
            }
            let sibling = life::sibling(&key, &flow);
            let other = table.get(&sibling)?;
            // Of two entries the client's is shown.
            if flow.marks & REPLY != 0 && other.is_some() {
                continue;
            }
            let both: Vec<_> = other.map(|other| (sibling, other)).into_iter().chain([(key, flow)]).collect();
            join(&both, now).iter().for_each(|pair| take(pair, now.saturating_sub(pair.idle)));
        }
        Ok(())
    })?;
    Ok(true)
}

/// What is known of a flow, seen from the client.
struct Known {
    forth: Flow,
    marks: u32,
    seen: u32,
}

/// Joins the two entries of each flow. One alone says the same of all but its life.
fn join(all: &[(FlowKey, Flow)], now: u32) -> Vec<Pair> {
    let mut flows: BTreeMap<FlowKey, Known> = BTreeMap::new();
    for (key, flow) in all {
        let (key, forth, marks) = from_client(key, flow);
        let known = flows.entry(key).or_insert(Known { forth, marks, seen: flow.seen });
        known.marks |= marks;
        known.seen = known.seen.max(flow.seen);
    }
    flows.iter().map(|(key, known)| pair(key, known, now)).collect()
}

/// The entry for what the client sends, which either of the two tells, and the marks as seen from there.
fn from_client(key: &FlowKey, flow: &Flow) -> (FlowKey, Flow, u32) {
    if flow.marks & REPLY == 0 {
        return (*key, *flow, flow.marks);
    }
    let [source, target] = [key.target, key.source];
    let forth = Flow { source, target, ports: swapped(key.ports), ..*flow };
    (life::sibling(key, flow), forth, turned(flow.marks) | (flow.marks & MASQUERADED))
}

fn pair(key: &FlowKey, Known { forth, marks, seen }: &Known, now: u32) -> Pair {
    let [client, address] = ends(&key.source, &key.target, key.ports);
    let [source, endpoint] = ends(&forth.source, &forth.target, forth.ports);
    Pair {
        service: forth.service,
        protocol: if key.protocol == TCP { Protocol::Tcp } else { Protocol::Udp },
        client,
        address,
        endpoint,
        source: (marks & MASQUERADED != 0).then_some(source),
        state: State::of(key.protocol, *marks),
        idle: now.saturating_sub(*seen),
    }
}

fn ends(source: &[u32; 4], target: &[u32; 4], ports: u32) -> [SocketAddr; 2] {
    let [from, to] = split(ports).map(|port| u16::from_be(port as u16));
    [SocketAddr::new(image::ip(source), from), SocketAddr::new(image::ip(target), to)]
}

#[cfg(test)]
mod tests {
    use dataplane_ebpf::abi::{ANSWERED, NO_EPOCH, PEER_FIN, SEEN_FIN};
    use dataplane_ebpf::datapath::edge::header::{UDP, pair as ports};

    use super::*;

    const NOW: u32 = 1000;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// The two entries of a flow, as the kernel writes them.
    fn entries(protocol: u32, [client, address, source, endpoint]: [&str; 4]) -> [(FlowKey, Flow); 2] {
        let words = |text: &str| image::address(at(text).ip());
        let both = |a: &str, b: &str| ports(image::network(at(a).port()), image::network(at(b).port()));
        let key =
            FlowKey { source: words(client), target: words(address), ports: both(client, address), protocol };
        let flow = Flow {
            source: words(source),
            target: words(endpoint),
            ports: both(source, endpoint),
            marks: if source == client { 0 } else { MASQUERADED },
            list: 1,
            generation: 1,
            seen: NOW - 20,
            service: 7,
            device: 0,
            addresses: [0; 3],
            epoch: NO_EPOCH,
        };
        [(key, flow), (life::sibling(&key, &flow), life::reply(&key, &flow))]
    }

    const DIRECT: [&str; 4] = ["192.0.2.1:5000", "10.0.0.1:30080", "192.0.2.1:5000", "10.1.1.2:8080"];
    const MASQUERADE: [&str; 4] =
        ["[2001:db8::1]:5000", "[fd00::1]:30080", "[fd00::1]:1024", "[fd00:1::2]:8080"];

    /// Either entry alone, and both in either order, are this flow.
    #[track_caller]
    fn check(of: [&str; 4], protocol: u32, name: Protocol, state: State) {
        let [client, address, source, endpoint] = of;
        let [forth, back] = entries(protocol, of);
        let expected = Pair {
            service: 7,
            protocol: name,
            client: at(client),
            address: at(address),
            endpoint: at(endpoint),
            source: (source != client).then(|| at(source)),
            state,
            idle: 20,
        };
        for all in [&[forth][..], &[back], &[forth, back], &[back, forth]] {
            assert_eq!(join(all, NOW), [expected], "{} entries", all.len());
        }
    }

    #[test]
    fn a_flow_is_one_row_with_everybody_in_it() {
        check(DIRECT, TCP, Protocol::Tcp, State::Opening);
        check(DIRECT, UDP, Protocol::Udp, State::New);
        check(MASQUERADE, TCP, Protocol::Tcp, State::Opening);
    }

    /// The marks of what the client sends, and of the answers, make this state.
    #[track_caller]
    fn check_state(protocol: u32, [forth, back]: [u32; 2], state: State) {
        let mut all = entries(protocol, MASQUERADE);
        all[0].1.marks |= forth;
        all[1].1.marks |= back;
        let states: Vec<State> = join(&all, NOW).iter().map(|pair| pair.state).collect();
        assert_eq!(states, [state], "{forth:#x} {back:#x}");
    }

    #[test]
    fn the_state_is_of_both_directions() {
        let both = SEEN_FIN | PEER_FIN;
        check_state(TCP, [0, 0], State::Opening);
        check_state(TCP, [0, ANSWERED], State::Established);
        check_state(TCP, [ANSWERED | SEEN_FIN, ANSWERED | PEER_FIN], State::Closing);
        check_state(TCP, [ANSWERED | PEER_FIN, ANSWERED | SEEN_FIN], State::Closing);
        check_state(TCP, [ANSWERED | both, ANSWERED | both], State::Closed);
        check_state(TCP, [ANSWERED | SEEN_FIN, ANSWERED | SEEN_FIN], State::Closed);
        check_state(UDP, [0, ANSWERED], State::Answered);
    }

    #[test]
    fn the_last_packet_of_either_direction_counts() {
        for (forth, back, idle) in [(10, 5, 5), (5, 10, 5), (0, 10, 0)] {
            let mut all = entries(TCP, DIRECT);
            all[0].1.seen = NOW - forth;
            all[1].1.seen = NOW - back;
            assert_eq!(join(&all, NOW)[0].idle, idle, "{forth} {back}");
        }
        let mut ahead = entries(TCP, DIRECT);
        ahead[1].1.seen = NOW + 1;
        assert_eq!(join(&ahead, NOW)[0].idle, 0, "a clock read later on another processor");
    }

    #[test]
    fn flows_that_differ_in_anything_are_rows_of_their_own() {
        let other = ["192.0.2.1:5001", "10.0.0.1:30080", "192.0.2.1:5001", "10.1.1.2:8080"];
        let all = [entries(TCP, DIRECT), entries(UDP, DIRECT), entries(TCP, other)].concat();
        assert_eq!(join(&all, NOW).len(), 3);
    }
}
