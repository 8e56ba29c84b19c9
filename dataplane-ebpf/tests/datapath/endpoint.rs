//! Addresses in the tables: both families in one form.

use std::net::SocketAddr;

use dataplane_ebpf::abi::Endpoint;
use proptest::prelude::*;

use crate::world::endpoint;

#[test]
fn ipv4_is_stored_as_ipv4_mapped() {
    let stored = endpoint("10.96.0.10:80");
    assert_eq!(stored, Endpoint::v4([10, 96, 0, 10], [0, 80]));
    assert_eq!(stored, endpoint("[::ffff:10.96.0.10]:80"));
    assert_eq!(stored.as_v4(), Some([10, 96, 0, 10]));
}

#[test]
fn ipv6_is_never_taken_for_ipv4() {
    for text in ["[fd00::10]:53", "[::]:0", "[::10.96.0.10]:80", "[::1:ffff:10.96.0.10]:80"] {
        assert_eq!(endpoint(text).as_v4(), None, "{text}");
    }
}

proptest! {
    #[test]
    fn every_address_is_read_back(v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>(), port in any::<u16>()) {
        let v4 = SocketAddr::from((v4, port));
        prop_assert_eq!(SocketAddr::from(Endpoint::from(v4)), v4);
        let v6 = SocketAddr::from((v6, port));
        let canonical = SocketAddr::new(v6.ip().to_canonical(), port);
        prop_assert_eq!(SocketAddr::from(Endpoint::from(v6)), canonical);
    }
}
