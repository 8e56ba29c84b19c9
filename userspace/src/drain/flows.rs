//! Flows that somebody still has, by layer, as far as each layer can tell.

use serde::{Deserialize, Serialize};

/// Who serves a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Layer {
    /// Sockets of pods and processes on this node.
    Socket,
    /// The edge layer's own table.
    Edge,
    /// The packet filter, by connection tracking.
    Nftables,
    /// Connection tracking saw it go to the endpoint's own address: the socket layer's, or of whoever named the endpoint.
    Direct,
}

impl Layer {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Socket, Self::Edge, Self::Nftables, Self::Direct];

    /// As people and programs read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Edge => "edge",
            Self::Nftables => "nftables",
            Self::Direct => "direct",
        }
    }
}

/// What one layer tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// How many there are; `None`: see `unknown`.
    pub flows: Option<u64>,
    /// Why nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// Of those, how many had packets between two looks; `None` if there was one look, or too many flows to compare.
    #[serde(default)]
    pub moving: Option<u64>,
    /// Seconds since the last packet of any of them, where that is known of all.
    #[serde(default)]
    pub idle_seconds: Option<u32>,
    /// Seconds since the oldest of them began, where that is known of all.
    #[serde(default)]
    pub oldest_seconds: Option<u64>,
}

/// What all layers tell of one endpoint of a service port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flows {
    /// Sockets of this node.
    pub socket: Tally,
    /// The edge layer.
    pub edge: Tally,
    /// The packet filter.
    pub nftables: Tally,
    /// Straight to the endpoint.
    pub direct: Tally,
}

/// How far an endpoint has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// A layer has flows of it.
    Draining,
    /// No layer that can tell has any, and one cannot tell.
    Unknown,
    /// No layer has any.
    Drained,
}

impl State {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Unknown => "unknown",
            Self::Drained => "drained",
        }
    }
}

impl Tally {
    /// It has so many.
    pub fn of(flows: u64) -> Self {
        Self { flows: Some(flows), ..Self::default() }
    }

    /// It cannot tell.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self { unknown: Some(why.into()), ..Self::default() }
    }
}

impl Flows {
    /// What one layer tells.
    pub const fn of(&self, layer: Layer) -> &Tally {
        match layer {
            Layer::Socket => &self.socket,
            Layer::Edge => &self.edge,
            Layer::Nftables => &self.nftables,
            Layer::Direct => &self.direct,
        }
    }

    /// Flows of the service port itself: what goes straight to the endpoint may be anybody's.
    fn own(&self) -> [&Tally; 3] {
        [&self.socket, &self.edge, &self.nftables]
    }

    /// How many flows of the service port are known of.
    pub fn known(&self) -> u64 {
        self.own().into_iter().filter_map(|tally| tally.flows).sum()
    }

    /// How far it has come.
    pub fn state(&self) -> State {
        if self.known() > 0 {
            State::Draining
        } else if self.own().into_iter().any(|tally| tally.flows.is_none()) {
            State::Unknown
        } else {
            State::Drained
        }
    }

    /// Whether there is nothing to wait for: no layer that can tell has flows, and one can. Where the socket layer cannot tell,
    /// what goes straight to the endpoint is taken for its.
    pub fn is_quiet(&self) -> bool {
        let for_socket = if self.socket.flows.is_none() { self.direct.flows } else { None };
        let can_tell = self.own().into_iter().any(|tally| tally.flows.is_some());
        can_tell && self.known() == 0 && for_socket.unwrap_or(0) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts of socket, edge, nftables and what goes straight to the endpoint; below zero: unknown.
    #[track_caller]
    fn check(counts: [i64; 4], state: State, is_quiet: bool) {
        let [socket, edge, nftables, direct] =
            counts.map(|count| u64::try_from(count).map_or_else(|_| Tally::unknown("so"), Tally::of));
        let flows = Flows { socket, edge, nftables, direct };
        assert_eq!((flows.state(), flows.is_quiet()), (state, is_quiet), "{counts:?}");
    }

    #[test]
    fn an_endpoint_drains_as_long_as_a_layer_has_flows() {
        check([1, 0, 0, 0], State::Draining, false);
        check([-1, 2, 0, 0], State::Draining, false);
        check([0, -1, 3, 9], State::Draining, false);
        check([0, 0, 0, 0], State::Drained, true);
    }

    #[test]
    fn what_goes_straight_there_counts_only_where_the_socket_layer_cannot_tell() {
        check([0, 0, 0, 5], State::Drained, true);
        check([-1, 0, 0, 5], State::Unknown, false);
        check([-1, 0, 0, 0], State::Unknown, true);
        check([-1, 0, 0, -1], State::Unknown, true);
    }

    #[test]
    fn where_nobody_can_tell_nothing_is_quiet() {
        check([-1, -1, -1, 0], State::Unknown, false);
        check([-1, -1, -1, -1], State::Unknown, false);
        check([0, -1, -1, 0], State::Unknown, true);
    }
}
