//! Session affinity: which client had which endpoint, and whether that one is still in the list.

use super::abi;

abi! {
    /// One client of one service port.
    pub struct AffinityKey: 16 {
        /// The client: the cookie of its network namespace. The kernel gives none twice until it is started anew.
        pub client: u64,
        /// Id of the service port.
        pub service: u32,
        /// Always zero.
        pub zero: u32,
    }
}

abi! {
    /// What that client got. Refreshed in place, word by word: a reader that gets words of two writes takes a listed
    /// endpoint for a little too long, or chooses once more.
    pub struct Affinity: 16 {
        /// When its last new flow began: nanoseconds of the monotonic clock.
        pub used: u64,
        /// Id of the backend.
        pub backend: u32,
        /// Always zero.
        pub zero: u32,
    }
}

abi! {
    /// One endpoint in one generation of one endpoint list. Present only for service ports with affinity, and only
    /// while the places of that generation are.
    pub struct MemberKey: 12 {
        /// Id of the service port.
        pub service: u32,
        /// Generation of the list.
        pub generation: u32,
        /// Id of the backend.
        pub backend: u32,
    }
}

abi! {
    /// Where in the list it is.
    pub struct Member: 4 {
        /// Place, from zero.
        pub index: u32,
    }
}
