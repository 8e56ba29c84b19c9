//! What the datapath may ask and change. The kernel answers with maps and socket storage, the host with collections.

use crate::abi::{
    Affinity, AffinityKey, Backend, Counter, Datagrams, Endpoint, Extent, Holds, Member, MemberKey, Peer,
    Service, ServiceKey, Slot, SlotKey, State,
};

/// How a caller comes, as far as it gets another list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the ClusterIP.
    Inside,
    /// By another address, from a pod.
    Pod,
    /// By another address, from the node itself.
    Node,
}

/// The list of a service port that counts for a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    /// Its generation.
    pub generation: u32,
    /// Its length.
    pub slots: u32,
    /// For how many seconds after its last new flow a client gets the same endpoint; zero: each flow is spread.
    pub timeout: u32,
}

impl List {
    /// The one that a state names for those who come this way.
    pub const fn of(state: &State, way: Way) -> Self {
        let Extent { generation, slots } = match way {
            Way::Inside => state.inside(),
            Way::Pod => state.pod,
            Way::Node => state.node,
        };
        Self { generation, slots, timeout: state.timeout }
    }
}

/// What became of a new connection to a service port, as far as it is counted there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It got an endpoint.
    Opened,
    /// It was refused.
    Refused,
    /// It was left alone.
    Left,
}

/// The questions the datapath may ask.
pub trait Tables {
    /// The service behind an address.
    fn service(&self, key: &ServiceKey) -> Option<Service>;
    /// If this is an address of the node where node ports answer: under which `node` they stand.
    fn node_address(&self, address: &[u8; 16]) -> Option<u8>;
    /// The list of a service port, by its id, for those who come this way.
    fn list(&self, service: u32, way: Way) -> Option<List>;
    /// One place of an endpoint list.
    fn slot(&self, key: &SlotKey) -> Option<Slot>;
    /// Where in an endpoint list an endpoint is; known only for service ports with affinity.
    fn member(&self, key: &MemberKey) -> Option<Member>;
    /// An endpoint by id.
    fn backend(&self, id: u32) -> Option<Backend>;
    /// What a client got of a service port with affinity.
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;
    /// Writes that down; where there is no room for it, the client is spread again the next time.
    fn set_affinity(&self, key: &AffinityKey, value: &Affinity);
    /// The time: nanoseconds of a clock that never goes back.
    fn now(&self) -> u64;
    /// A random number, uniform over all values.
    fn random(&self) -> u32;
    /// Counts an event.
    fn count(&self, counter: Counter);
    /// Counts what became of a new connection for a service port, by its id; zero: nobody knows which.
    fn tally(&self, service: u32, deed: Deed);
    /// Counts one more user of an endpoint, by its id; false if there is no room to.
    fn raise(&self, id: u32, backend: &Backend) -> bool;
    /// Counts one less.
    fn lower(&self, id: u32);
}

/// A socket, also one that ends.
pub trait Holder {
    /// For which endpoints it counts, if it ever did for any.
    fn holds(&mut self) -> Option<&mut Holds>;
}

/// The socket a call is made on, and the address the call is about.
pub trait Socket: Holder {
    /// IP protocol number.
    fn protocol(&self) -> u8;
    /// Who calls: one number for all callers with the same addresses.
    fn client(&self) -> u64;
    /// Whether the caller is in the node's own network namespace, as processes of the host and pods on its network are.
    fn is_node(&self) -> bool;
    /// The remote address: as the application named it (connect, sendmsg), or as the kernel knows it (recvmsg,
    /// getpeername).
    fn remote(&self) -> Endpoint;
    /// Puts another remote address in its place.
    fn set_remote(&mut self, to: &Endpoint);
    /// What a connected socket remembers.
    fn connected(&self) -> Option<Peer>;
    /// Makes a connected socket remember; false if there is no memory for it.
    fn remember_connected(&mut self, peer: &Peer) -> bool;
    /// Makes it forget, if it remembers anything.
    fn forget_connected(&mut self);
    /// The memory of a socket that sends without connecting, if it has any.
    fn datagrams(&self) -> Option<&Datagrams>;
    /// The same to write to, made if it is missing; `None` if there is no memory for it.
    fn datagrams_mut(&mut self) -> Option<&mut Datagrams>;
    /// For which endpoints it counts, made if it is missing; `None` if there is no memory for it.
    fn holds_mut(&mut self) -> Option<&mut Holds>;
}
