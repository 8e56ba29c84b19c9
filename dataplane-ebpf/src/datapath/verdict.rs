//! The only words that leave the datapath.

/// What becomes of a call.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No service has this address: the call goes on as it came.
    NotOurs,
    /// Nobody here may answer, though others serve elsewhere: the call goes on as it came, and what it sends is for the
    /// packet filter to drop. A call that failed would tell the caller that nobody serves.
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
