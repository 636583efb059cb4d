//! Addresses of both families in one type.

use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IPv6 address, or an IPv4 address in its IPv4-mapped form (`::ffff:a.b.c.d`). Network byte order.
///
/// Aligned to 4 bytes, so that BPF, which has no unaligned access, copies words. An alignment of 8 bytes would pad keys that have an
/// address after a number of 4 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4))]
pub struct Addr(pub [u8; 16]);

/// The third word of an IPv4 address.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Addr {
    /// Bits in front of an IPv4 address in its mapped form.
    pub const V4_PREFIX_BITS: u8 = 96;
    /// `::`, also in place of a missing address.
    pub const UNSPECIFIED: Self = Self([0; 16]);
    /// All nodes of the link (`ff02::1`).
    pub const ALL_NODES: Self = Self([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    /// All routers of the link (`ff02::2`).
    pub const ALL_ROUTERS: Self = Self([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);

    /// The mapped form of an IPv4 address, given in network byte order.
    #[inline(always)]
    pub const fn from_v4(octets: [u8; 4]) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(octets))
    }

    /// The mapped form of an IPv4 address, given in the byte order of a packet.
    #[inline(always)]
    pub const fn from_v4_word(octets: u32) -> Self {
        Self::from_words([0, 0, MAPPED, octets])
    }

    /// The address with these words in memory order.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        zerocopy::transmute!(words)
    }

    /// The address in words, each in memory order. A comparison of bytes would need 16 loads in BPF.
    #[inline(always)]
    pub const fn words(&self) -> &[u32; 4] {
        zerocopy::transmute_ref!(self)
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let [a, b, c, _] = *self.words();
        a | b == 0 && c == MAPPED
    }

    /// Whether this is an IPv6 link-local address (`fe80::/10`).
    #[inline(always)]
    pub const fn is_v6_link_local(&self) -> bool {
        self.0[0] == 0xfe && self.0[1] & 0xc0 == 0x80
    }

    /// Whether this is an IPv6 multicast address (`ff00::/8`).
    #[inline(always)]
    pub const fn is_v6_multicast(&self) -> bool {
        self.0[0] == 0xff
    }

    /// Whether packets to this address are for several hosts: multicast of either family, or `255.255.255.255`.
    #[inline(always)]
    pub const fn is_for_many(&self) -> bool {
        // 224.0.0.0/4, reserved addresses, and the broadcast address.
        self.is_v6_multicast() || (self.is_v4() && self.0[12] >= 0xe0)
    }

    /// The multicast group of this IPv6 address for neighbour discovery (RFC 4291).
    #[inline(always)]
    #[must_use]
    pub const fn solicited_node(&self) -> Self {
        let [.., a, b, c] = self.0;
        Self([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
    }

    /// Whether this is `0.0.0.0` or `::`.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        let [a, b, c, d] = *self.words();
        a | b | d == 0 && (c == 0 || c == MAPPED)
    }

    /// The address as the standard library has it: IPv4 for a mapped address.
    pub const fn to_ip(self) -> IpAddr {
        Ipv6Addr::from_octets(self.0).to_canonical()
    }
}

impl PartialEq for Addr {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let (own, other) = (self.words(), other.words());
        let differences =
            (own[0] ^ other[0]) | (own[1] ^ other[1]) | (own[2] ^ other[2]) | (own[3] ^ other[3]);
        differences == 0
    }
}

impl Eq for Addr {}

impl Hash for Addr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// The order of the bytes. A comparison of numbers is inlined, one of slices would be a call.
impl Ord for Addr {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        u128::from_be_bytes(self.0).cmp(&u128::from_be_bytes(other.0))
    }
}

impl PartialOrd for Addr {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(v4: Ipv4Addr) -> Self {
        Self::from_v4(v4.octets())
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_ip(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_the_round_trip() {
        for text in ["10.1.2.3", "0.0.0.0", "255.255.255.255", "::", "fe80::1", "2001:db8::5"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Addr::from(ip).to_ip(), ip);
            assert_eq!(Addr::from(ip).is_v4(), ip.is_ipv4());
            assert_eq!(Addr::from(ip).is_unspecified(), ip.is_unspecified());
        }
    }
}
