//! Conversations that last: over changes of their service, whatever becomes of the daemon, and a device that flaps.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use lab::agent::Progress;
use lab::client::{Load, Pace};
use lab::link::batch;
use lab::manifest::State;
use lab::{Pod, Protocol};

use crate::stage::PORT;
use crate::stream::{Lane, Stream};
use crate::town::{FAMILIES, Town, node_port};

/// Conversations with the first node's port: each with one endpoint, and every answer is that to the question before it.
struct Talks(Vec<(String, Load)>);

impl Talks {
    /// Over both protocols and families, some of each, so that each endpoint has some.
    fn begin(town: &Town) -> Self {
        let mut all = Vec::new();
        for (v6, protocol) in
            FAMILIES.into_iter().flat_map(|v6| [(v6, Protocol::Tcp), (v6, Protocol::UdpConnected)])
        {
            for number in 0..4 {
                let pace = Pace { keep: true, workers: 1, rate: 50.0, ..Pace::default() };
                let load =
                    Load::start(&town.asker.place(), protocol, node_port(&town.node, v6), pace).unwrap();
                all.push((format!("{protocol:?} {number} v6 {v6}"), load));
            }
        }
        let this = Self(all);
        this.go_on();
        assert_eq!(this.endpoints().len(), 2, "both endpoints have some");
        this
    }

    fn go_on(&self) {
        self.0.iter().for_each(|(_, load)| drop(load.more(15).unwrap()));
    }

    /// Who has answered.
    fn endpoints(&self) -> BTreeSet<String> {
        self.0.iter().flat_map(|(_, load)| load.progress().spread.into_keys()).collect()
    }

    /// Ends them: each had one endpoint and got all its answers.
    fn end(self) {
        for (name, load) in self.0 {
            let end: Progress = load.stop().unwrap();
            assert_eq!((end.failed, end.spread.len()), (0, 1), "{name}: {end:?}");
        }
    }
}

#[test]
fn conversations_outlive_endpoints_that_come_and_go_and_their_own_while_it_ends() {
    let town = Town::new();
    let daemon = town.daemon(&town.node, &[]);
    town.web(&[&town.here, &town.there]);
    let late = town.node.pod("late").unwrap();
    let _server = late.serve(PORT).unwrap();
    let talks = Talks::begin(&town);
    let (here, there) = (&town.here, &town.there);
    let steps: [&[(&Pod, State)]; 5] = [
        &[(&late, State::Ready), (here, State::Ready), (there, State::Ready)],
        &[(there, State::Ready), (here, State::Ready)],
        &[(here, State::Draining), (&late, State::Ready), (there, State::Ready)],
        &[(here, State::Draining), (there, State::Draining)],
        &[(here, State::Ready), (there, State::Ready)],
    ];
    for (endpoints, active) in steps.into_iter().zip([3, 2, 2, 2, 2]) {
        town.put(endpoints, |_| {});
        town.wait(&town.node, active);
        talks.go_on();
    }
    talks.end();
    daemon.no_errors().unwrap();
}

#[test]
fn conversations_outlive_the_daemon() {
    let town = Town::new();
    let mut daemon = town.daemon(&town.node, &[]);
    town.web(&[&town.here, &town.there]);
    let talks = Talks::begin(&town);
    for kill in [false, true] {
        if kill {
            daemon.kill9().unwrap();
        } else {
            daemon.terminate().unwrap();
        }
        talks.go_on();
        daemon.restart().unwrap();
        talks.go_on();
    }
    talks.end();
    daemon.no_errors().unwrap();
}

/// What `ip` needs to be told after a device was down: its routes are gone, and its IPv6 addresses. The node's is there before the
/// device is up again: a neighbour who asks for it too early asks again a second later, and until then nobody could serve.
fn flap_wire(town: &Town) {
    let (v4, v6) = (town.node.v4(), town.node.v6());
    let script = format!(
        "link set wire down\naddr add {v6}/128 dev wire nodad\nlink set wire up\n\
         route add 10.0.0.254 dev wire src {v4}\nroute add default via 10.0.0.254 src {v4}\n\
         route add ::/0 via fe80::1 dev wire src {v6}\n"
    );
    batch(town.node.netns(), &script).unwrap();
}

fn flap_pod(town: &Town) {
    let ([.., number], v4, v6) = (town.here.v4().octets(), town.here.v4(), town.here.v6());
    let (own4, own6) = (town.node.v4(), town.node.v6());
    let script = format!(
        "link set p{number} down\nlink set p{number} up\naddr replace fe80::1/64 dev p{number} nodad\n\
         route add {v4} dev p{number} src {own4}\nroute add {v6} dev p{number} src {own6}\n"
    );
    batch(town.node.netns(), &script).unwrap();
}

impl Town {
    /// Some connections to an address, so many that each endpoint has one (but for once in 30,000).
    fn kept(&self, to: SocketAddr) -> Load {
        let pace = Pace { keep: true, workers: 16, rate: 320.0, ..Pace::default() };
        Load::start(&self.asker.place(), Protocol::Tcp, to, pace).unwrap()
    }
}

#[test]
fn conversations_outlive_a_flap_of_the_device_they_come_by_and_of_that_to_their_endpoint() {
    let town = Town::new();
    let daemon = town.daemon(&town.node, &[]);
    town.web(&[&town.here, &town.there]);
    let to = FAMILIES.map(|v6| node_port(&town.node, v6));
    let loads: Vec<Load> = to.into_iter().map(|to| town.kept(to)).collect();
    let direct = town.here.both(PORT);
    let targets = [to, to, to, direct].concat();
    let stream = Stream::start(&town.asker, &targets, 100);
    for flap in [flap_wire, flap_pod, flap_wire, flap_pod] {
        loads.iter().for_each(|load| drop(load.more(60).unwrap()));
        stream.more(50);
        flap(&town);
    }
    loads.iter().for_each(|load| drop(load.more(60).unwrap()));
    stream.more(50);
    for load in loads {
        let end = load.stop().unwrap();
        assert_eq!((end.failed, end.spread.len()), (0, 2), "no connection was lost: {end:?}");
    }
    let lanes = stream.stop();
    let (served, beside) = lanes.split_at(6);
    // A datagram that is lost with the device is lost, whoever serves.
    let unserved = beside.iter().map(Lane::lost).max().unwrap();
    for lane in served {
        assert_eq!(lane.by.len(), 1, "it kept its endpoint: {lane:?}");
        assert!(
            lane.lost() <= unserved + 10,
            "{:?} of {} to {}, beside {:?}",
            lane.gaps(),
            lane.sent(),
            lane.to,
            beside.iter().map(Lane::gaps).collect::<Vec<_>>()
        );
    }
    daemon.no_errors().unwrap();
}
