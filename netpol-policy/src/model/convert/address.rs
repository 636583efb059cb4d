//! Addresses and address blocks as the API server has accepted them over time.
//!
//! Source: apimachinery `ParseIPSloppy` and `ParseCIDRSloppy`: leading zeros are decimal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::walk::{Findings, Path, quoted};
use crate::model::Code;

/// Prefix bits of the IPv4-mapped block `::ffff:0:0/96`.
const MAPPED_BITS: u8 = 96;

/// A block, and what is unusual about the way in which it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The block, host bits zero, IPv4 if it was IPv4-mapped.
    pub(super) network: IpNetwork,
    /// Bits behind the prefix were set.
    pub(super) has_host_bits: bool,
    /// It was written as `::ffff:a.b.c.d/n`.
    pub(super) is_mapped: bool,
    /// A number of it has leading zeros.
    pub(super) has_leading_zeros: bool,
}

impl Block {
    /// The unusual ways of writing it, for a message; empty when there is none.
    pub(super) fn oddities(&self) -> Vec<&'static str> {
        let mut oddities = Vec::new();
        if self.has_leading_zeros {
            oddities.push("leading zeros");
        }
        if self.is_mapped {
            oddities.push("an IPv4-mapped address");
        }
        if self.has_host_bits {
            oddities.push("host bits");
        }
        oddities
    }
}

/// The form in which an API server of the current version takes a block; `None` if the text is no block.
pub fn canonical_block(text: &str) -> Option<String> {
    let network = parse_block(text)?.network;
    Some(network.to_string())
}

/// Reads an address; an IPv4-mapped one becomes IPv4.
pub(super) fn parse_address(text: &str) -> Option<IpAddr> {
    parse_sloppy(text).map(|(address, _)| address.to_canonical())
}

/// Adds an address unless it is empty, invalid (a finding) or there already.
pub(super) fn collect_address(
    text: &str,
    path: &Path<'_>,
    addresses: &mut (impl Deref<Target = [IpAddr]> + Extend<IpAddr>),
    findings: &mut Findings,
) {
    if text.is_empty() {
        return;
    }
    match parse_address(text) {
        None => findings.report(
            Code::InvalidAddress,
            path,
            format!("{} is no address: it is left out", quoted(text)),
        ),
        Some(address) if addresses.contains(&address) => {}
        Some(address) => addresses.extend([address]),
    }
}

/// Reads a block. The prefix length must be there.
pub(super) fn parse_block(text: &str) -> Option<Block> {
    let (address, length) = text.split_once('/')?;
    let (address, zeros_in_address) = parse_sloppy(address)?;
    let plain_length = without_leading_zeros(length)?;
    let has_leading_zeros = zeros_in_address || plain_length != length;
    let length: u8 = plain_length.parse().ok()?;
    let (network, is_mapped) = match address {
        IpAddr::V4(v4) => (IpNetwork::V4(Ipv4Network::new(v4, length).ok()?), false),
        IpAddr::V6(v6) => {
            let mapped = v6.to_ipv4_mapped();
            let network = match (mapped, length.checked_sub(MAPPED_BITS)) {
                (Some(v4), Some(length)) => IpNetwork::V4(Ipv4Network::new(v4, length).ok()?),
                (_, _) => IpNetwork::V6(Ipv6Network::new(v6, length).ok()?),
            };
            (network, mapped.is_some())
        }
    };
    let masked = masked(network);
    Some(Block {
        network: masked,
        has_host_bits: masked.ip() != network.ip(),
        is_mapped,
        has_leading_zeros,
    })
}

/// Whether every address of `inner` is in `outer`, which may be equal to it.
pub(super) fn covers(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.ip())
}

fn masked(network: IpNetwork) -> IpNetwork {
    match network {
        IpNetwork::V4(v4) => {
            Ipv4Network::new(v4.network(), v4.prefix()).map_or(network, IpNetwork::V4)
        }
        IpNetwork::V6(v6) => {
            Ipv6Network::new(v6.network(), v6.prefix()).map_or(network, IpNetwork::V6)
        }
    }
}

/// The address, and whether its IPv4 part was written with leading zeros.
fn parse_sloppy(text: &str) -> Option<(IpAddr, bool)> {
    // Without leading zeros, as nearly all are written.
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address, false));
    }
    // The dotted part is all of it, or what follows the last colon.
    let start = text.rfind(':').map_or(0, |colon| colon + 1);
    let (head, dotted) = text.split_at_checked(start)?;
    let mut plain = Vec::with_capacity(4);
    for octet in dotted.split('.') {
        plain.push(without_leading_zeros(octet)?);
    }
    let plain = plain.join(".");
    let has_leading_zeros = plain != dotted;
    if head.is_empty() {
        let address = plain.parse::<Ipv4Addr>().ok()?;
        return Some((IpAddr::V4(address), has_leading_zeros));
    }
    let address = format!("{head}{plain}").parse::<Ipv6Addr>().ok()?;
    Some((IpAddr::V6(address), has_leading_zeros))
}

/// A decimal number without its leading zeros; `None` when it is not made of digits.
fn without_leading_zeros(number: &str) -> Option<&str> {
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let significant = number.trim_start_matches('0');
    Some(if significant.is_empty() { "0" } else { significant })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, &[&str])>) {
        let block = parse_block(text).map(|block| (block.network.to_string(), block.oddities()));
        let expected = expected.map(|(network, oddities)| (network.to_owned(), oddities.to_vec()));
        assert_eq!(block, expected, "{text}");
    }

    #[test]
    fn blocks_are_read_as_older_api_servers_read_them() {
        check("10.0.0.0/8", Some(("10.0.0.0/8", &[])));
        check("10.1.2.3/8", Some(("10.0.0.0/8", &["host bits"])));
        check("10.1.2.3/32", Some(("10.1.2.3/32", &[])));
        check("0.0.0.0/0", Some(("0.0.0.0/0", &[])));
        check("010.0.0.0/08", Some(("10.0.0.0/8", &["leading zeros"])));
        check("000.000.000.000/00", Some(("0.0.0.0/0", &["leading zeros"])));
        check("::ffff:10.0.0.0/104", Some(("10.0.0.0/8", &["an IPv4-mapped address"])));
        check("::ffff:0:0/96", Some(("0.0.0.0/0", &["an IPv4-mapped address"])));
        check("::ffff:0a00:1/128", Some(("10.0.0.1/32", &["an IPv4-mapped address"])));
        check(
            "::ffff:010.0.0.1/104",
            Some(("10.0.0.0/8", &["leading zeros", "an IPv4-mapped address", "host bits"])),
        );
        check("2001:DB8:0:0::/32", Some(("2001:db8::/32", &[])));
        check("2001:db8::1/32", Some(("2001:db8::/32", &["host bits"])));
        check("::/0", Some(("::/0", &[])));
    }

    #[test]
    fn a_mapped_block_wider_than_the_ipv4_addresses_stays_ipv6() {
        check("::ffff:0:0/80", Some(("::/80", &["an IPv4-mapped address", "host bits"])));
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0.0/8",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            " 10.0.0.0/8",
            "10.0.0.0/8 ",
            "10.0.0.256/32",
            "::/129",
            "fe80::1%eth0/64",
            "10.0.0.0/255.0.0.0",
            "0x0a.0.0.0/8",
            "::ffff:10.0.0.0/200",
            "10..0.0/8",
            "10.0.0.0/8/8",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn an_ipv4_mapped_address_is_the_ipv4_address() {
        assert_eq!(parse_address("::ffff:10.0.0.1"), "10.0.0.1".parse().ok());
        assert_eq!(parse_address("010.00.0.1"), "10.0.0.1".parse().ok());
        assert_eq!(parse_address("fd00::1"), "fd00::1".parse().ok());
        for text in ["", "10.0.0.1/32", "None", "10.0.0", "fe80::1%eth0"] {
            assert_eq!(parse_address(text), None, "{text}");
        }
    }

    #[test]
    fn a_block_covers_itself_and_what_is_inside_it() {
        let covers =
            |outer: &str, inner: &str| covers(outer.parse().unwrap(), inner.parse().unwrap());
        assert!(covers("10.0.0.0/8", "10.0.0.0/8"));
        assert!(covers("10.0.0.0/8", "10.9.0.0/16"));
        assert!(!covers("10.9.0.0/16", "10.0.0.0/8"));
        assert!(!covers("10.0.0.0/8", "11.0.0.0/16"));
        assert!(!covers("0.0.0.0/0", "::/0"));
    }
}
