//! The only words that leave the datapath.

/// What becomes of a call.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No service has this address: the call goes on as it came.
    NotOurs,
    /// Nobody here may answer, though others serve elsewhere: the call goes on as it came. A call that failed would tell
    /// the caller that nobody serves. What it sends is for a packet filter to drop; this layer drops nothing, and without
    /// such a filter the packets leave the node with the service's address.
    Left,
    /// The address was exchanged.
    Translated,
    /// The call fails with ECONNREFUSED.
    Refused(Reason),
}

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The service has no usable endpoint.
    NoEndpoint,
    /// The endpoint list changed under every try.
    Unsettled,
}
