//! Which addresses a callback may reach: none with a special purpose.
//!
//! The tables follow the IANA registries "IPv4 Special-Purpose Address Space" and "IPv6 Special-Purpose Address Space"
//! (RFC 6890 and its updates), with the multicast spaces (RFC 5771, RFC 4291) and an address by which a cloud serves its
//! machines. Networks that the registries call globally reachable, but that no receiver lives in (AS112, AMT, 6to4 relays),
//! are refused as well. Of IPv6 only global unicast (`2000::/3`) is left, without what carries an IPv4 address inside.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is refused: the name of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an address that callbacks may not reach ({0})")]
pub struct Special(pub &'static str);

const fn v4(a: u8, b: u8, c: u8, d: u8) -> u32 {
    Ipv4Addr::new(a, b, c, d).to_bits()
}

/// Network, bits, name and source.
const IPV4: &[(u32, u32, &str)] = &[
    (v4(0, 0, 0, 0), 8, "this network, RFC 791"),
    (v4(10, 0, 0, 0), 8, "private use, RFC 1918"),
    (v4(100, 64, 0, 0), 10, "shared address space, RFC 6598"),
    (v4(127, 0, 0, 0), 8, "loopback, RFC 1122"),
    (v4(168, 63, 129, 16), 32, "Azure's address for its machines"),
    (v4(169, 254, 0, 0), 16, "link local and metadata services, RFC 3927"),
    (v4(172, 16, 0, 0), 12, "private use, RFC 1918"),
    (v4(192, 0, 0, 0), 24, "protocol assignments, RFC 6890"),
    (v4(192, 0, 2, 0), 24, "documentation, RFC 5737"),
    (v4(192, 31, 196, 0), 24, "AS112, RFC 7535"),
    (v4(192, 52, 193, 0), 24, "AMT, RFC 7450"),
    (v4(192, 88, 99, 0), 24, "6to4 relays, RFC 7526"),
    (v4(192, 168, 0, 0), 16, "private use, RFC 1918"),
    (v4(192, 175, 48, 0), 24, "AS112, RFC 7534"),
    (v4(198, 18, 0, 0), 15, "benchmarking, RFC 2544"),
    (v4(198, 51, 100, 0), 24, "documentation, RFC 5737"),
    (v4(203, 0, 113, 0), 24, "documentation, RFC 5737"),
    (v4(224, 0, 0, 0), 4, "multicast, RFC 5771"),
    (v4(240, 0, 0, 0), 4, "reserved and broadcast, RFC 1112, RFC 919"),
];

/// The first six of eight groups.
const fn v6(groups: [u16; 6]) -> u128 {
    let [first, second, third, fourth, fifth, sixth] = groups;
    Ipv6Addr::new(first, second, third, fourth, fifth, sixth, 0, 0).to_bits()
}

/// The same for IPv6. [`check`] leaves nothing outside `2000::/3` anyhow; rows outside it only say more.
const IPV6: &[(u128, u32, &str)] = &[
    (0, 128, "unspecified, RFC 4291"),
    (1, 128, "loopback, RFC 4291"),
    (v6([0, 0, 0, 0, 0, 0xffff]), 96, "IPv4-mapped, RFC 4291"),
    (v6([0, 0, 0, 0, 0xffff, 0]), 96, "IPv4-translated, RFC 2765"),
    (0, 96, "IPv4-compatible, RFC 4291"),
    (v6([0x64, 0xff9b, 0, 0, 0, 0]), 96, "NAT64, RFC 6052"),
    (v6([0x64, 0xff9b, 1, 0, 0, 0]), 48, "local-use NAT64, RFC 8215"),
    (v6([0x100, 0, 0, 0, 0, 0]), 64, "discard only, RFC 6666"),
    (v6([0x100, 0, 0, 1, 0, 0]), 64, "dummy prefix, RFC 9780"),
    (v6([0x2001, 0, 0, 0, 0, 0]), 32, "Teredo, RFC 4380"),
    (v6([0x2001, 0, 0, 0, 0, 0]), 23, "protocol assignments, RFC 2928"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0]), 32, "documentation, RFC 3849"),
    (v6([0x2002, 0, 0, 0, 0, 0]), 16, "6to4, RFC 3056"),
    (v6([0x2620, 0x4f, 0x8000, 0, 0, 0]), 48, "AS112, RFC 7534"),
    (v6([0x3fff, 0, 0, 0, 0, 0]), 20, "documentation, RFC 9637"),
    (v6([0x5f00, 0, 0, 0, 0, 0]), 16, "segment routing, RFC 9602"),
    (v6([0xfc00, 0, 0, 0, 0, 0]), 7, "unique local, RFC 4193"),
    (v6([0xfe80, 0, 0, 0, 0, 0]), 10, "link local, RFC 4291"),
    (v6([0xfec0, 0, 0, 0, 0, 0]), 10, "site local, RFC 3879"),
    (v6([0xff00, 0, 0, 0, 0, 0]), 8, "multicast, RFC 4291"),
];

/// May a callback reach this address? `allowed` are networks that the operator opened.
///
/// # Errors
/// [`Special`] with the name of the network that it belongs to.
pub fn check(address: IpAddr, allowed: &[IpNet]) -> Result<(), Special> {
    if allowed.iter().any(|network| network.contains(&address)) {
        return Ok(());
    }
    match address {
        IpAddr::V4(address) => {
            let bits = address.to_bits();
            let hit = IPV4.iter().find(|(network, length, _)| (bits ^ network).leading_zeros() >= *length);
            hit.map_or(Ok(()), |(_, _, name)| Err(Special(name)))
        }
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            if let Some((_, _, name)) =
                IPV6.iter().find(|(network, length, _)| (bits ^ network).leading_zeros() >= *length)
            {
                return Err(Special(name));
            }
            if bits >> 125 != 1 {
                return Err(Special("outside global unicast, RFC 4291"));
            }
            // Interface ids 0000:5efe:a.b.c.d and 0200:5efe:a.b.c.d tunnel to an IPv4 address.
            if [0x5efe, 0x0200_5efe].contains(&((bits >> 32) & 0xffff_ffff)) {
                return Err(Special("ISATAP, RFC 5214"));
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(text: &str) -> bool {
        check(text.parse().unwrap(), &[]).is_err()
    }

    #[test]
    fn both_ends_of_every_network_are_refused_and_their_neighbors_are_not() {
        for (network, length, name) in IPV4 {
            let last = network | u32::MAX.checked_shr(*length).unwrap_or(0);
            for bits in [*network, last] {
                assert_eq!(check(Ipv4Addr::from_bits(bits).into(), &[]), Err(Special(name)));
            }
        }
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "168.63.129.15",
            "2606:4700::1111",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2400::1",
            "3ffe:ffff::1",
            "2620:4f:8001::1",
            "2a00::5efd:1",
        ] {
            assert!(!refused(public), "{public}");
        }
        for special in [
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::a00:1",
            "100::1",
            "2001::1",
            "2001:0:1::1",
            "2001:2::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2620:4f:8000::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
            "1::1",
            "2a00::5efe:10.0.0.1",
            "2a00::200:5efe:10.0.0.1",
        ] {
            assert!(refused(special), "{special}");
        }
    }

    #[test]
    fn an_operator_may_open_a_network_and_nothing_beside_it() {
        let opened = ["10.1.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()];
        assert!(check("10.1.2.3".parse().unwrap(), &opened).is_ok());
        assert!(check("fd00::7".parse().unwrap(), &opened).is_ok());
        assert!(check("10.2.0.1".parse().unwrap(), &opened).is_err());
        assert!(check("::ffff:10.1.2.3".parse().unwrap(), &opened).is_err());
    }

    proptest! {
        /// Against the standard library's own words, where it has them.
        #[test]
        fn what_the_standard_library_calls_special_is_refused(bits: u32) {
            let address = Ipv4Addr::from_bits(bits);
            let special = address.is_private() || address.is_loopback() || address.is_link_local() || address.is_broadcast()
                || address.is_documentation() || address.is_unspecified() || address.is_multicast();
            let carriers = [address.to_ipv6_mapped(), address.to_ipv6_compatible()];
            prop_assert!(!special || check(address.into(), &[]).is_err());
            prop_assert!(carriers.into_iter().all(|carrier| check(carrier.into(), &[]).is_err()));
        }

        #[test]
        fn of_ipv6_only_global_unicast_is_left(bits: u128) {
            prop_assert!(bits >> 125 == 1 || check(Ipv6Addr::from_bits(bits).into(), &[]).is_err());
        }
    }
}
