//! What a service is called, kept beside its numbers so that a dump can be read without the daemon.

use super::abi;

/// Room for `namespace/name:port`: three DNS labels of at most 63 bytes and two separators.
pub const NAME_BYTES: usize = 192;

abi! {
    /// `namespace/name:port` (`namespace/name` for an unnamed port), with protocol and family.
    pub struct Name: 196 {
        /// UTF-8, zero-filled.
        pub text: [u8; NAME_BYTES],
        /// Bytes of `text` in use.
        pub length: u8,
        /// IP protocol number.
        pub protocol: u8,
        /// 4 or 6.
        pub family: u8,
        /// Always zero.
        pub zero: u8,
    }
}
