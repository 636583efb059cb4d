//! Addresses and blocks, by bits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::{field, has_only, text};

/// A block as bits of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cidr {
    pub(super) is_v4: bool,
    /// The network's bits; those of IPv4 are the lowest 32.
    bits: u128,
    /// Leading bits that count, of 32 or 128.
    pub(super) length: u32,
    /// Canonical, as current API servers require: no host bits, no leading zeros, not IPv4-mapped.
    pub(super) is_strict: bool,
    has_host_bits: bool,
}

impl Cidr {
    fn width(&self) -> u32 {
        if self.is_v4 { 32 } else { 128 }
    }

    fn holds_bits(&self, bits: u128) -> bool {
        let dropped = self.width() - self.length;
        bits.checked_shr(dropped).unwrap_or(0) == self.bits.checked_shr(dropped).unwrap_or(0)
    }

    /// Families are separate (item 21).
    pub(super) fn holds(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.is_v4 && self.holds_bits(u128::from(v4.to_bits())),
            IpAddr::V6(v6) => !self.is_v4 && self.holds_bits(v6.to_bits()),
        }
    }

    /// Whether `inner` is a strict subset of this block.
    fn strictly_holds(&self, inner: &Self) -> bool {
        self.is_v4 == inner.is_v4 && inner.length > self.length && self.holds_bits(inner.bits)
    }
}

/// Whether an ipBlock is well formed: a valid cidr, and every exception a strict subset of it.
pub(super) fn is_sound(block: &Value) -> bool {
    let except = match field(block, "except") {
        None => &Vec::new(),
        Some(Value::Array(items)) => items,
        Some(_) => return false,
    };
    let Some(cidr) = text(block, &["cidr"]).and_then(parse) else { return false };
    has_only(block, &["cidr", "except"])
        && except.iter().all(|hole| {
            hole.as_str().and_then(parse).is_some_and(|hole| cidr.strictly_holds(&hole))
        })
}

/// Whether a well-formed ipBlock contains an address: in the cidr and in no exception (item 21).
pub(super) fn matches(block: &Value, address: IpAddr) -> bool {
    let holds =
        |item: &Value| item.as_str().and_then(parse).is_some_and(|network| network.holds(address));
    is_sound(block)
        && field(block, "cidr").is_some_and(holds)
        && !super::list(block, &["except"]).iter().any(holds)
}

/// Parses a block as Go's `ParseCIDRSloppy`: host bits are ignored, IPv4-mapped is IPv4 (item 22).
pub(super) fn parse(written: &str) -> Option<Cidr> {
    let (host, length) = written.split_once('/')?;
    let strict_length = length == "0" || !length.starts_with('0');
    let length: u32 = digits(length)?.parse().ok()?;
    let address = raw_address(host)?;
    let strict_host = host.parse::<IpAddr>().is_ok();
    let (is_v4, bits, length, is_mapped) = match address {
        IpAddr::V4(v4) => (true, u128::from(v4.to_bits()), length, false),
        IpAddr::V6(v6) if v6.to_bits() >> 32 == 0xffff && (96..=128).contains(&length) => {
            (true, v6.to_bits() & 0xffff_ffff, length - 96, true)
        }
        IpAddr::V6(v6) => (false, v6.to_bits(), length, v6.to_bits() >> 32 == 0xffff),
    };
    let width = if is_v4 { 32 } else { 128 };
    if length > width {
        return None;
    }
    let host_bits = 1_u128.checked_shl(width - length).unwrap_or(0).wrapping_sub(1);
    let has_host_bits = bits & host_bits != 0;
    let is_strict = strict_host && strict_length && !is_mapped && !has_host_bits;
    Some(Cidr { is_v4, bits, length, is_strict, has_host_bits })
}

/// Whether a block contains a longer one.
pub fn block_holds_block(outer: &str, inner: &str) -> bool {
    let (outer, inner) = (parse(outer), parse(inner));
    outer.zip(inner).is_some_and(|(outer, inner)| outer.strictly_holds(&inner))
}

/// Whether a block has host bits.
pub fn has_host_bits(written: &str) -> bool {
    parse(written).is_some_and(|network| network.has_host_bits)
}

/// Parses an address; leading zeros are decimal, IPv4-mapped is IPv4 (item 22).
pub(super) fn address(written: &str) -> Option<IpAddr> {
    match raw_address(written)? {
        IpAddr::V6(v6) if v6.to_bits() >> 32 == 0xffff => {
            let [.., a, b, c, d] = v6.octets();
            Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
        }
        other @ (IpAddr::V4(_) | IpAddr::V6(_)) => Some(other),
    }
}

fn raw_address(written: &str) -> Option<IpAddr> {
    if !written.contains('.') {
        return written.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let (head, tail) = match written.rfind(':') {
        Some(colon) => written.split_at(colon + 1),
        None => ("", written),
    };
    let mut octets = Vec::new();
    for part in tail.split('.') {
        octets.push(digits(part)?.parse::<u8>().ok()?.to_string());
    }
    let tail = octets.join(".");
    format!("{head}{tail}").parse().ok()
}

/// Parses a decimal number; leading zeros are ignored.
fn digits(written: &str) -> Option<&str> {
    if written.is_empty() || !written.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let short = written.trim_start_matches('0');
    Some(if short.is_empty() { "0" } else { short })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(cidr: &str, except: &[&str], address: &str) -> bool {
        matches(&json!({ "cidr": cidr, "except": except }), address.parse().unwrap())
    }

    #[test]
    fn blocks_hold_what_their_bits_say() {
        assert!(holds("10.0.0.0/8", &[], "10.255.255.255"));
        assert!(!holds("10.0.0.0/8", &[], "11.0.0.0"));
        assert!(holds("0.0.0.0/0", &[], "255.1.2.3"));
        assert!(!holds("0.0.0.0/0", &[], "::1"));
        assert!(!holds("::/0", &[], "1.2.3.4"));
        assert!(holds("fd00::/8", &["fd01::/16"], "fd02::1"));
        assert!(!holds("fd00::/8", &["fd01::/16"], "fd01::1"));
        assert!(holds("10.1.2.3/8", &[], "10.0.0.0"));
        assert!(holds("::ffff:10.0.0.0/104", &[], "10.9.9.9"));
        assert!(holds("010.000.0.0/08", &[], "10.9.9.9"));
        assert!(!holds("10.0.0.0/8", &["10.0.0.0/8"], "10.9.9.9"));
        assert!(!holds("10.0.0.0/8", &["0.0.0.0/0"], "10.9.9.9"));
        assert!(!holds("10.0.0.0/8", &["11.0.0.0/16"], "10.9.9.9"));
    }

    #[test]
    fn what_older_servers_took_is_not_strict() {
        for strict in ["10.0.0.0/8", "0.0.0.0/0", "1.2.3.4/32", "::/0", "fd00::/8", "::1/128"] {
            assert!(parse(strict).unwrap().is_strict, "{strict}");
        }
        for loose in ["10.0.0.1/8", "010.0.0.0/8", "10.0.0.0/08", "::ffff:1.0.0.0/104", "::1/8"] {
            assert!(!parse(loose).unwrap().is_strict, "{loose}");
        }
        for none in ["10.0.0.0", "10.0.0.0/33", "10.0.0/8", "x/8", "::/129", "/8", ""] {
            assert!(parse(none).is_none(), "{none}");
        }
    }
}
