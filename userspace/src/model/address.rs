//! Addresses as the API long accepted them: leading zeros are decimal, IPv4 in IPv6 clothing is IPv4. What
//! comes out is an address and so has one form only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Bits of an IPv4-mapped address before the IPv4 address begins.
const MAPPED_BITS: u8 = 96;

/// Reads an address. `None` for anything else, a zone or a blank included.
pub fn parse(text: &str) -> Option<IpAddr> {
    if text.contains(':') { parse_v6(text) } else { parse_v4(text).map(IpAddr::V4) }
}

/// Reads a range such as `10.0.0.0/8`, as leniently as an address. Bits beyond the prefix are cleared.
pub fn parse_range(text: &str) -> Option<IpNet> {
    let (address, bits) = text.split_once('/')?;
    let digits = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
    let bits: u8 = digits.then(|| bits.parse().ok()).flatten()?;
    let range = match parse(address)? {
        IpAddr::V4(v4) if address.contains(':') => {
            IpNet::V4(Ipv4Net::new(v4, bits.checked_sub(MAPPED_BITS)?).ok()?)
        }
        IpAddr::V4(v4) => IpNet::V4(Ipv4Net::new(v4, bits).ok()?),
        IpAddr::V6(v6) => IpNet::V6(Ipv6Net::new(v6, bits).ok()?),
    };
    Some(range.trunc())
}

/// Whether a connection can be made to this address at all.
pub fn can_be_reached(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast(),
    }
}

fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = parse_octet(parts.next()?)?;
    }
    parts.next().is_none().then_some(octets.into())
}

fn parse_octet(text: &str) -> Option<u8> {
    // `u8::from_str` would take a sign.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// Brings each group into the form that the standard library reads.
fn parse_v6(text: &str) -> Option<IpAddr> {
    let groups: Option<Vec<String>> = text.split(':').map(plain_group).collect();
    let address: Ipv6Addr = groups?.join(":").parse().ok()?;
    Some(address.to_canonical())
}

fn plain_group(group: &str) -> Option<String> {
    match group {
        "" => Some(String::new()),
        v4 if v4.contains('.') => parse_v4(v4).map(|address| address.to_string()),
        hex => Some(match hex.trim_start_matches('0') {
            "" => "0".to_owned(),
            digits => digits.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_plain_address_is_itself() {
        check("10.96.0.10", Some("10.96.0.10"));
        check("fd00::10", Some("fd00::10"));
        check("::", Some("::"));
    }

    #[test]
    fn leading_zeros_are_decimal() {
        check("010.096.000.010", Some("10.96.0.10"));
        check("0000001.2.3.4", Some("1.2.3.4"));
        check("0fd00:0:00::00010", Some("fd00::10"));
    }

    #[test]
    fn an_ipv4_mapped_address_is_ipv4() {
        check("::ffff:10.96.0.10", Some("10.96.0.10"));
        check("::FFFF:010.096.0.10", Some("10.96.0.10"));
        check("::ffff:0a60:000a", Some("10.96.0.10"));
    }

    #[test]
    fn an_ipv6_address_gets_its_one_form() {
        check("FD00:0:0:0:0:0:0:A", Some("fd00::a"));
        check("64:ff9b::192.0.2.033", Some("64:ff9b::c000:221"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in
            ["", " ", "10.0.0", "10.0.0.0.1", "10.0.0.256", "10.0.0.+1", "10.0.0.-1", "10..0.1", " 10.0.0.1"]
        {
            check(text, None);
        }
        for text in
            [":", ":::", "fd00::1%eth0", "fd00::1::2", "fd00::g", "[fd00::1]", "1:2:3:4:5:6:7", "10.0.0.1::"]
        {
            check(text, None);
        }
        for text in ["None", "web.example", "10.0.0.1/24", "10.0.0.1:80", "0x0a.0.0.1", "167772161"] {
            check(text, None);
        }
    }

    #[test]
    fn a_range_gets_its_one_form() {
        for (text, canonical) in [
            ("192.0.2.0/24", Some("192.0.2.0/24")),
            ("192.000.002.099/24", Some("192.0.2.0/24")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("FD00::5/16", Some("fd00::/16")),
            ("::ffff:10.1.2.3/104", Some("10.0.0.0/8")),
            ("::ffff:10.1.2.3/8", None),
            ("10.0.0.0/33", None),
            ("10.0.0.0/+8", None),
            ("10.0.0.0/", None),
            ("10.0.0.0", None),
            ("/8", None),
        ] {
            let found = parse_range(text).map(|range| range.to_string());
            assert_eq!(found.as_deref(), canonical, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_address_is_read_back(bytes in any::<[u8; 16]>(), v4 in any::<[u8; 4]>()) {
            let v6 = IpAddr::from(bytes).to_canonical();
            prop_assert_eq!(parse(&v6.to_string()), Some(v6));
            let v4 = IpAddr::from(v4);
            prop_assert_eq!(parse(&v4.to_string()), Some(v4));
        }

        #[test]
        fn zeros_in_front_change_nothing(octets in any::<[u8; 4]>(), zeros in 0_usize..9) {
            let zeros = "0".repeat(zeros);
            let padded: Vec<String> = octets.iter().map(|octet| format!("{zeros}{octet}")).collect();
            prop_assert_eq!(parse(&padded.join(".")), Some(IpAddr::from(octets)));
        }

        #[test]
        fn no_text_is_too_strange(text in "[0-9a-fA-F.:%+ ]{0,24}|.*") {
            if let Some(address) = parse(&text) {
                prop_assert_eq!(parse(&address.to_string()), Some(address));
            }
            if let Some(range) = parse_range(&text) {
                prop_assert_eq!(parse_range(&range.to_string()), Some(range));
            }
        }
    }

    fn check(text: &str, canonical: Option<&str>) {
        assert_eq!(parse(text).map(|address| address.to_string()).as_deref(), canonical, "{text:?}");
    }
}
