//! A socket in both worlds: in the kernel under the programs, and on the host.

use std::net::SocketAddr;

use dataplane_ebpf::abi::{
    Backend, DROP, Endpoint, Extent, INSIDE, Member, MemberKey, OUTSIDE, Service, ServiceKey, Slot, SlotKey,
    State,
};
use dataplane_ebpf::datapath::{List, Tables, Verdict, Way, holds, socket};
use dataplane_ebpf::host::{HostSocket, HostTables};

use crate::rig::Rig;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// A socket in both worlds, under the same tables.
pub(crate) struct Twin<'a> {
    pub(crate) rig: &'a mut Rig,
    pub(crate) tables: &'a HostTables,
    pub(crate) host: HostSocket,
    pub(crate) is_v6: bool,
}

impl<'a> Twin<'a> {
    pub(crate) fn open(rig: &'a mut Rig, tables: &'a HostTables, protocol: u8, is_v6: bool) -> Self {
        rig.fill(tables);
        let kind =
            format!("open {}{}", if protocol == TCP { "tcp" } else { "udp" }, if is_v6 { 6 } else { 4 });
        assert_eq!(rig.ask(&kind), "ok");
        let host = HostSocket::new(protocol, Endpoint::from(SocketAddr::from(([0, 0, 0, 0], 0))));
        let host = HostSocket { is_node: rig.is_node, ..host };
        let mut twin = Self { rig, tables, host, is_v6 };
        twin.close_the_one_before();
        twin
    }

    /// The caller has one socket at a time.
    fn close_the_one_before(&mut self) {
        let Some((mut host, uses, traffic)) = self.rig.host.take() else {
            self.tables.uses.take();
            self.tables.traffic.take();
            return;
        };
        self.tables.uses.replace(uses);
        self.tables.traffic.replace(traffic);
        holds::release(&mut host, self.tables);
        self.compare_counts("after the end of a socket");
    }

    /// What is counted in both worlds.
    fn compare_counts(&mut self, when: &str) {
        let (uses, traffic) = self.rig.counts();
        assert_eq!(
            (&uses, &traffic),
            (&*self.tables.uses.borrow(), &*self.tables.traffic.borrow()),
            "{when}"
        );
        self.rig.host = Some((self.host.clone(), uses, traffic));
    }

    /// As this socket's family writes it.
    fn written(&self, address: SocketAddr) -> SocketAddr {
        match (address, self.is_v6) {
            (SocketAddr::V4(v4), true) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
            (SocketAddr::V4(_) | SocketAddr::V6(_), _) => address,
        }
    }

    pub(crate) fn connect(&mut self, to: SocketAddr) -> Option<SocketAddr> {
        let (word, went) = self.rig.watch(&format!("connect {}", self.written(to)));
        let (word, went) = if word == "ok" && self.host.protocol == UDP {
            self.sent_while_connected()
        } else {
            (word, went)
        };
        self.host.remote = to.into();
        self.draw(to, went);
        let verdict = socket::connect(&mut self.host, self.tables);
        if self.host.protocol == UDP && self.is_v6 && to.is_ipv4() && verdict == Verdict::Left {
            // The kernel hands such a socket's datagram to IPv4 with the address, as if it were not connected.
            assert_eq!(socket::send(&mut self.host, self.tables), Verdict::Left);
        }
        self.compare(to, verdict, &word, went);
        went
    }

    /// A datagram is how a connected socket shows where it is connected to.
    fn sent_while_connected(&mut self) -> (String, Option<SocketAddr>) {
        self.rig.watch("write")
    }

    pub(crate) fn send(&mut self, to: SocketAddr) -> Option<SocketAddr> {
        let (word, went) = self.rig.watch(&format!("send {}", self.written(to)));
        self.host.remote = to.into();
        self.draw(to, went);
        let verdict = socket::send(&mut self.host, self.tables);
        self.compare(to, verdict, &word, went);
        went
    }

    /// Gives the host the chance that leads to the place which the kernel chose.
    fn draw(&self, to: SocketAddr, went: Option<SocketAddr>) {
        let (Some(went), Some(service)) = (went, self.answers(to)) else { return };
        let way = match (service.side, self.host.is_node) {
            (INSIDE, _) => Way::Inside,
            (_, true) => Way::Node,
            (_, false) => Way::Pod,
        };
        let Some(list) = self.tables.list(service.id, way) else { return };
        let found = (0..list.slots).find(|index| self.endpoint(&service, &list, *index) == Some(went.into()));
        if let Some(index) = found {
            let random = (u64::from(index) << 32).div_ceil(u64::from(list.slots));
            self.tables.random.set(u32::try_from(random).expect("an index below the length"));
        }
    }

    fn answers(&self, to: SocketAddr) -> Option<Service> {
        let (to, protocol) = (Endpoint::from(to), self.host.protocol);
        let services = &self.tables.services;
        services.get(&ServiceKey::new(&to, protocol)).copied().or_else(|| {
            let node = self.tables.node_address(&to.address)?;
            services.get(&ServiceKey::node_port(to.port, protocol, node)).copied()
        })
    }

    fn endpoint(&self, service: &Service, list: &List, index: u32) -> Option<Endpoint> {
        let slot = SlotKey { service: service.id, generation: list.generation, index };
        let Slot { backend } = self.tables.slots.get(&slot)?;
        self.tables.backends.get(backend).map(|backend| backend.endpoint)
    }

    fn compare(&mut self, to: SocketAddr, verdict: Verdict, word: &str, went: Option<SocketAddr>) {
        let host = (!matches!(verdict, Verdict::Refused(_))).then(|| SocketAddr::from(self.host.remote));
        assert_eq!(went, host, "to {to}: {verdict:?} on the host, {word} in the kernel");
        if matches!(verdict, Verdict::Refused(_)) {
            assert_eq!(word, "ECONNREFUSED", "to {to}");
        }
        if matches!(verdict, Verdict::NotOurs | Verdict::Left) {
            assert_eq!(went, Some(to));
        }
        self.compare_counts(&format!("after a call to {to}"));
    }

    pub(crate) fn peername(&mut self, backend: SocketAddr) {
        self.host.remote = backend.into();
        socket::peer_name(&mut self.host);
        let expected = self.written(self.host.remote.into());
        assert_eq!(self.rig.ask("peername"), expected.to_string());
    }

    pub(crate) fn receive(&mut self, from: SocketAddr) {
        self.host.remote = from.into();
        socket::receive(&mut self.host);
        let expected = self.written(self.host.remote.into());
        assert_eq!(self.rig.ask(&format!("inject {from}")), expected.to_string(), "from {from}");
    }
}

/// Tables under construction.
#[derive(Default)]
pub(crate) struct Builder {
    pub(crate) tables: HostTables,
    pub(crate) next_backend: u32,
}

impl Builder {
    pub(crate) fn service(&mut self, id: u32, address: SocketAddr, protocol: u8, endpoints: &[SocketAddr]) {
        let slots = u32::try_from(endpoints.len()).expect("a short list");
        self.tables.services.insert(ServiceKey::new(&address.into(), protocol), Service { id, side: INSIDE });
        self.tables.states.insert(id, State { generation: 1, slots, ..State::NONE });
        for (index, endpoint) in (0..).zip(endpoints) {
            self.next_backend += 1;
            let backend = Backend { endpoint: (*endpoint).into(), zero: [0; 2], service: id };
            self.tables.backends.insert(self.next_backend, backend);
            let slot = SlotKey { service: id, generation: 1, index };
            self.tables.slots.insert(slot, Slot { backend: self.next_backend });
        }
    }

    /// Gives a service an address for outside, and its port as a node port. Pods get the first of its endpoints there, the
    /// node the last; without the last, the node's flows are refused, and without any, the pods' are dropped.
    pub(crate) fn outside(&mut self, id: u32, address: SocketAddr, protocol: u8, endpoints: &[SocketAddr]) {
        let node = if address.is_ipv6() { 6 } else { 4 };
        let keys = [
            ServiceKey::new(&address.into(), protocol),
            ServiceKey::node_port(node_port(id).to_be_bytes(), protocol, node),
        ];
        self.tables.services.extend(keys.map(|key| (key, Service { id, side: OUTSIDE })));
        let (pods, last) = (endpoints.first(), endpoints.get(1));
        let pod = self.list(id, 2, pods.copied());
        let node = last.map_or(Extent { generation: 3, slots: 0 }, |last| self.list(id, 3, Some(*last)));
        let state = self.tables.states.entry(id).or_insert(State::NONE);
        (state.pod, state.node) = (pod, node);
    }

    /// A list of one; of those that are dropped, if it is nobody.
    fn list(&mut self, id: u32, generation: u32, endpoint: Option<SocketAddr>) -> Extent {
        let backend = endpoint.map_or(DROP, |endpoint| {
            self.next_backend += 1;
            let backend = Backend { endpoint: endpoint.into(), zero: [0; 2], service: id };
            self.tables.backends.insert(self.next_backend, backend);
            self.next_backend
        });
        self.tables.slots.insert(SlotKey { service: id, generation, index: 0 }, Slot { backend });
        Extent { generation, slots: 1 }
    }

    /// A service whose flows are dropped.
    pub(crate) fn dropped(&mut self, id: u32, address: SocketAddr, protocol: u8) {
        self.service(id, address, protocol, &[]);
        self.tables.states.insert(id, State { generation: 1, slots: 1, ..State::NONE });
        self.tables.slots.insert(SlotKey { service: id, generation: 1, index: 0 }, Slot { backend: DROP });
    }

    /// Gives a service affinity.
    pub(crate) fn stick(&mut self, service: u32, timeout: u32) {
        let tables = &mut self.tables;
        tables.states.get_mut(&service).expect("a service").timeout = timeout;
        for (key, slot) in
            tables.slots.iter().filter(|(key, slot)| key.service == service && slot.backend != DROP)
        {
            let member = MemberKey { service, generation: key.generation, backend: slot.backend };
            tables.members.insert(member, Member { index: key.index });
        }
    }
}

pub(crate) fn vip(number: u8, is_v6: bool) -> SocketAddr {
    let text = if is_v6 { format!("[fd00:96::{number:x}]:80") } else { format!("10.96.0.{number}:80") };
    text.parse().expect("an address")
}

/// The node port of a service.
pub(crate) fn node_port(id: u32) -> u16 {
    30_000 + u16::try_from(id).expect("a small number")
}

pub(crate) fn pod(number: u8, port: u16, is_v6: bool) -> SocketAddr {
    let text = if is_v6 { format!("[fd00:1::{number:x}]:{port}") } else { format!("10.1.0.{number}:{port}") };
    text.parse().expect("an address")
}

/// Every kind of socket that can name an address of this family.
pub(crate) fn kinds(is_v6: bool) -> Vec<(u8, bool)> {
    let all = [(TCP, false), (UDP, false), (TCP, true), (UDP, true)];
    all.into_iter().filter(|(_, socket_v6)| *socket_v6 || !is_v6).collect()
}
