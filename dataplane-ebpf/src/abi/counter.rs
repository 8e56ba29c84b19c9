//! Event counts. Only service traffic is counted, and only when something is decided: once for each flow that is let
//! through. A call that is refused or left alone is remembered by nobody, so a socket that sends datagrams without
//! connecting counts for each of them.

/// Index into the map of counters.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// A `connect()` was translated.
    Connected = 0,
    /// A datagram opened a new flow to an endpoint.
    DatagramFlow = 1,
    /// Refused: the service has no usable endpoint.
    NoEndpoint = 2,
    /// Refused: the endpoint list changed at every try.
    Unsettled = 3,
    /// Translated, but the socket could not remember it (no memory): the peer shows as the endpoint's address.
    Forgotten = 4,
    /// Left untranslated, for a packet filter to drop: others serve, but not here.
    NoLocalEndpoint = 5,
    /// Translated, but not counted for its endpoint or service port: there was no room or no memory.
    Uncounted = 6,
}

impl Counter {
    /// Every counter, in index order.
    pub const ALL: [Self; 7] = [
        Self::Connected,
        Self::DatagramFlow,
        Self::NoEndpoint,
        Self::Unsettled,
        Self::Forgotten,
        Self::NoLocalEndpoint,
        Self::Uncounted,
    ];

    /// Name for metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::DatagramFlow => "datagramFlow",
            Self::NoEndpoint => "noEndpoint",
            Self::Unsettled => "unsettled",
            Self::Forgotten => "forgotten",
            Self::NoLocalEndpoint => "noLocalEndpoint",
            Self::Uncounted => "uncounted",
        }
    }
}
