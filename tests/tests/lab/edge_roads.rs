//! Roads of the edge layer: questions that come by one device while answers leave by another, and roads that change under
//! load.

use lab::client::{Load, Pace};
use lab::link::{End, batch, cable};
use lab::manifest::State;
use lab::netns::Netns;
use lab::{Pod, Protocol};
use serde_json::json;

use crate::stage::PORT;
use crate::stream::{Lane, Stream};
use crate::town::{FAMILIES, Town, count, edge, node_port, own, seen};

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

impl Town {
    /// A second cable from the first node to the wire, by which it reaches the one who asks.
    fn lay_side(&self) {
        let wire = self.stage.lab.wire().netns();
        let node = self.node.netns();
        cable(&End { netns: wire, name: "s1" }, &End { netns: node, name: "side" }).unwrap();
        batch(wire, "addr add fe80::1/64 dev s1 nodad\n").unwrap();
        let (v4, v6) = (self.asker.v4(), self.asker.v6());
        let (own4, own6) = (self.node.v4(), self.node.v6());
        let ways = format!(
            "route add {v4} via 10.0.0.254 dev side onlink src {own4}\nroute add {v6} via fe80::1 dev side src {own6}\n"
        );
        batch(node, &ways).unwrap();
    }

    /// `web` with this policy and one endpoint, once that is in force.
    fn only(&self, pod: &Pod, policy: &str) {
        self.put(&[(pod, State::Ready)], |service| service["spec"]["externalTrafficPolicy"] = json!(policy));
        self.wait(&self.node, 1);
    }
}

/// A column of a device's counts: what it has received, and what it has sent.
fn packets(netns: &Netns, device: &str, column: usize) -> u64 {
    let table = netns.run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?)).unwrap();
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{device}:")));
    let words = line.unwrap_or_else(|| panic!("no {device} in {table}")).split_whitespace();
    words.map(|word| word.parse().unwrap()).nth(column).unwrap()
}

const RECEIVED: usize = 1;
const SENT: usize = 9;

#[test]
fn answers_that_leave_by_another_device_of_the_layer_are_translated_there() {
    let town = Town::new();
    town.lay_side();
    let daemon = town.daemon(&town.node, &["--devices=wire,side"]);
    for (pod, source) in [(&town.here, &town.asker), (&town.there, &town.node)] {
        town.only(pod, "Cluster");
        for (v6, protocol) in FAMILIES.into_iter().flat_map(|v6| BOTH.map(|protocol| (v6, protocol))) {
            let to = node_port(&town.node, v6);
            let before = (count(&town.node, "opened"), packets(town.node.netns(), "side", SENT));
            let answer = town.asker.call(protocol, to).unwrap();
            assert_eq!(seen(&answer), (pod.name().to_owned(), own(source, v6)), "{protocol:?}");
            assert_eq!(answer.peer, to.to_string());
            assert_eq!(count(&town.node, "opened") - before.0, 1, "{}", edge(&town.node));
            assert!(packets(town.node.netns(), "side", SENT) > before.1, "the answer took the other way");
        }
    }
    daemon.no_errors().unwrap();
}

/// The programs at the endpoint's device see the answers, whatever the way.
#[test]
fn answers_that_leave_by_a_device_of_others_are_translated_where_they_come_in() {
    let town = Town::new();
    town.lay_side();
    let daemon = town.daemon(&town.node, &["--devices=wire"]);
    for policy in ["Local", "Cluster"] {
        town.only(&town.here, policy);
        for (v6, protocol) in FAMILIES.into_iter().flat_map(|v6| BOTH.map(|protocol| (v6, protocol))) {
            let to = node_port(&town.node, v6);
            let before = (count(&town.node, "opened"), packets(town.node.netns(), "side", SENT));
            let answer = town.asker.call(protocol, to).unwrap();
            assert_eq!(seen(&answer), ("here".to_owned(), own(&town.asker, v6)), "{policy} {protocol:?}");
            assert_eq!(answer.peer, to.to_string());
            assert_eq!(count(&town.node, "opened") - before.0, 1, "{}", edge(&town.node));
            assert!(packets(town.node.netns(), "side", SENT) > before.1, "the answer took the other way");
        }
    }
    daemon.no_errors().unwrap();
}

/// Through the stack answers are translated where they leave, and here nobody would do that.
#[test]
fn flows_whose_answers_no_program_would_see_are_left_and_served() {
    let town = Town::new();
    town.lay_side();
    let daemon = town.daemon(&town.node, &["--devices=wire", "--forwarding=stack"]);
    // nftables masquerades under the one policy.
    for (policy, source) in [("Local", &town.asker), ("Cluster", &town.node)] {
        town.only(&town.here, policy);
        for (v6, protocol) in FAMILIES.into_iter().flat_map(|v6| BOTH.map(|protocol| (v6, protocol))) {
            let to = node_port(&town.node, v6);
            let before = count(&town.node, "left");
            let answer = town.asker.call(protocol, to).unwrap();
            let expected = ("here".to_owned(), own(source, v6));
            assert_eq!(seen(&answer), expected, "{policy} {protocol:?} {}", edge(&town.node));
            assert_eq!(answer.peer, to.to_string());
            assert!(count(&town.node, "left") > before, "{}", edge(&town.node));
        }
    }
    assert_eq!(count(&town.node, "opened"), 0, "{}", edge(&town.node));
    daemon.no_errors().unwrap();
}

/// Datagrams and connections to the first node's port, and datagrams past it to the endpoint itself.
struct Traffic {
    stream: Stream,
    loads: Vec<Load>,
}

/// Datagrams a second to each of four targets.
const RATE: u32 = 600;
/// So many datagrams may be on their way at once when a machine is busy.
const AT_ONCE: usize = 6;

impl Traffic {
    fn begin(town: &Town, endpoint: &Pod) -> Self {
        let served = FAMILIES.map(|v6| node_port(&town.node, v6));
        let stream = Stream::start(&town.asker, &[served, endpoint.both(PORT)].concat(), RATE);
        let pace = Pace { keep: true, workers: 2, rate: 100.0, ..Pace::default() };
        let load = |to| Load::start(&town.asker.place(), Protocol::Tcp, to, pace).unwrap();
        let this = Self { stream, loads: served.map(load).into() };
        this.go_on();
        this
    }

    fn go_on(&self) {
        self.stream.more(u64::from(RATE) / 2);
        self.loads.iter().for_each(|load| drop(load.more(20).unwrap()));
    }

    /// Ends it: no connection was lost, and of datagrams not many more than beside it.
    fn end(self, more: usize) {
        let ends: Vec<_> = self.loads.into_iter().map(|load| load.stop().unwrap()).collect();
        let lanes = self.stream.stop();
        let line =
            |lane: &Lane| format!("{}: {} of {}, {:?}", lane.to, lane.lost(), lane.sent(), lane.gaps());
        let said: Vec<String> = lanes.iter().map(line).collect();
        assert!(ends.iter().all(|end| end.failed == 0), "{ends:?} lost: {said:#?}");
        let (served, beside) = lanes.split_at(2);
        let unserved = beside.iter().map(Lane::lost).max().unwrap();
        assert!(served.iter().all(|lane| lane.lost() <= unserved + more), "lost: {said:#?}");
    }
}

/// The far end has another hardware address besides; what is sent there is counted apart.
#[test]
fn a_neighbour_with_another_hardware_address_is_followed_without_loss() {
    const FIRST: &str = "02:00:00:00:00:76";
    const SECOND: &str = "02:00:00:00:00:77";
    let town = Town::new();
    let daemon = town.daemon(&town.node, &[]);
    town.only(&town.here, "Cluster");
    let (node, pod) = (town.node.netns(), town.here.netns());
    let ([.., number], v4, v6) = (town.here.v4().octets(), town.here.v4(), town.here.v6());
    batch(pod, &format!("link set eth0 address {FIRST}\n")).unwrap();
    let known = |address: &str| {
        let neighbour =
            |ip: &str| format!("neigh replace {ip} lladdr {address} nud permanent dev p{number}\n");
        batch(node, &(neighbour(&v4.to_string()) + &neighbour(&v6.to_string()))).unwrap();
    };
    known(FIRST);
    let traffic = Traffic::begin(&town, &town.here);
    let second =
        format!("link add second link eth0 address {SECOND} type macvlan mode bridge\nlink set second up\n");
    batch(pod, &second).unwrap();
    known(SECOND);
    traffic.go_on();
    let before = packets(pod, "second", RECEIVED);
    traffic.stream.more(300);
    let came = packets(pod, "second", RECEIVED) - before;
    assert!(came > 1000, "of 1200 datagrams, half of them served, {came} came to the new address");
    known(FIRST);
    traffic.go_on();
    batch(pod, "link del second\n").unwrap();
    traffic.go_on();
    batch(node, &format!("neigh del {v4} dev p{number}\nneigh del {v6} dev p{number}\n")).unwrap();
    traffic.go_on();
    traffic.end(AT_ONCE);
    daemon.no_errors().unwrap();
}

/// Nobody is told before: what is lost until then is lost beside it, too.
#[test]
fn a_hardware_address_that_changes_at_once_loses_no_more_than_it_must() {
    let town = Town::new();
    let daemon = town.daemon(&town.node, &[]);
    town.only(&town.here, "Cluster");
    let ([.., number], v4, v6) = (town.here.v4().octets(), town.here.v4(), town.here.v6());
    let traffic = Traffic::begin(&town, &town.here);
    for last in ["81", "82", "83"] {
        batch(town.here.netns(), &format!("link set eth0 address 02:00:00:00:00:{last}\n")).unwrap();
        let told = |ip: &str| {
            format!("neigh replace {ip} lladdr 02:00:00:00:00:{last} nud permanent dev p{number}\n")
        };
        batch(town.node.netns(), &(told(&v4.to_string()) + &told(&v6.to_string()))).unwrap();
        traffic.go_on();
    }
    // What a message from the kernel to the daemon takes.
    traffic.end(3 * RATE as usize / 20);
    daemon.no_errors().unwrap();
}

#[test]
fn a_next_hop_that_moves_to_another_device_is_followed_without_loss() {
    let town = Town::new();
    let daemon = town.daemon(&town.node, &[]);
    town.only(&town.here, "Cluster");
    let (node, pod) = (town.node.netns(), town.here.netns());
    let ([.., number], v4, v6) = (town.here.v4().octets(), town.here.v4(), town.here.v6());
    let (own4, own6) = (town.node.v4(), town.node.v6());
    let traffic = Traffic::begin(&town, &town.here);
    cable(&End { netns: node, name: "other" }, &End { netns: pod, name: "eth1" }).unwrap();
    // A host answers for an IPv6 address only on the link that has it.
    batch(pod, &format!("link set eth1 address 02:00:00:00:00:77\naddr add {v6}/128 dev eth1 nodad\n"))
        .unwrap();
    batch(node, "addr add fe80::1/64 dev other nodad\n").unwrap();
    let ways = format!("route replace {v4} dev other src {own4}\nroute replace {v6} dev other src {own6}\n");
    batch(node, &ways).unwrap();
    traffic.go_on();
    let back = format!(
        "route replace {own4} dev eth1\nroute replace default via {own4} dev eth1\nroute replace ::/0 via fe80::1 dev eth1\n"
    );
    batch(pod, &back).unwrap();
    traffic.go_on();
    batch(node, &format!("link set p{number} down\n")).unwrap();
    traffic.go_on();
    traffic.end(AT_ONCE);
    daemon.no_errors().unwrap();
}

#[test]
fn the_way_to_another_node_moves_and_is_asked_for_again_without_loss() {
    let town = Town::new();
    town.lay_side();
    let daemon = town.daemon(&town.node, &["--devices=wire,side"]);
    town.only(&town.there, "Cluster");
    let node = town.node.netns();
    let traffic = Traffic::begin(&town, &town.there);
    for device in ["side", "wire", "side"] {
        let ways = format!(
            "route replace 10.1.2.0/24 via 10.0.0.254 dev {device} onlink src {}\n\
             route replace fd00:1:2::/64 via fe80::1 dev {device} src {}\n",
            town.node.v4(),
            town.node.v6()
        );
        batch(node, &ways).unwrap();
        traffic.go_on();
        batch(node, &format!("neigh del 10.0.0.254 dev {device}\nneigh del fe80::1 dev {device}\n")).unwrap();
        traffic.go_on();
    }
    traffic.end(AT_ONCE);
    daemon.no_errors().unwrap();
}
