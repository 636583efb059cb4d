//! MAC addresses, each in one word.

use crate::addr::Addr;
use crate::ids::IfIndex;

/// A MAC address: its six bytes in memory order, then two zero bytes, in one word. A comparison of bytes would need six loads in
/// BPF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(u64);

/// The bits of a word that are the six bytes.
const BYTES: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);

impl Mac {
    /// The address is not known. No device has this address.
    pub const UNKNOWN: Self = Self(0);

    /// The address with these bytes.
    #[inline(always)]
    pub const fn new([m0, m1, m2, m3, m4, m5]: [u8; 6]) -> Self {
        Self(u64::from_ne_bytes([m0, m1, m2, m3, m4, m5, 0, 0]))
    }

    /// The address in the first six bytes of a word in memory order.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word & BYTES)
    }

    /// The word.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// The six bytes.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 6] {
        let [m0, m1, m2, m3, m4, m5, _, _] = self.0.to_ne_bytes();
        [m0, m1, m2, m3, m4, m5]
    }

    /// Whether this is a group address: multicast or broadcast.
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        let [first, ..] = self.0.to_ne_bytes();
        first & 1 != 0
    }

    /// The link-local address that a kernel generates from the MAC address (RFC 4291, modified EUI-64).
    pub const fn link_local(self) -> Addr {
        let [m0, m1, m2, m3, m4, m5] = self.octets();
        Addr([0xfe, 0x80, 0, 0, 0, 0, 0, 0, m0 ^ 2, m1, m2, 0xff, 0xfe, m3, m4, m5])
    }
}

number! {
    /// The first word of an element of `ENDPOINT_SLOTS`: the MAC address of an endpoint and the part of its interface index that is not
    /// the index of the element.
    pub struct MacSlot(pub u64);
}

impl MacSlot {
    /// The element is free.
    pub const FREE: Self = Self(0);
    /// Low bits of the interface index that are the index of the element.
    pub const INDEX_BITS: u32 = 13;
    /// The tag of interface indexes whose rest does not fit into a tag. Elements with it belong to nobody.
    const TOO_LARGE: u16 = u16::MAX;

    /// The element of an endpoint.
    #[inline(always)]
    pub const fn new(ifindex: IfIndex, mac: Mac) -> Self {
        let [lo, hi] = Self::tag(ifindex).to_ne_bytes();
        Self(mac.0 | u64::from_ne_bytes([0, 0, 0, 0, 0, 0, lo, hi]))
    }

    /// The index of the element of an endpoint.
    #[inline(always)]
    pub const fn index(ifindex: IfIndex) -> u32 {
        ifindex.0 & ((1 << Self::INDEX_BITS) - 1)
    }

    /// The MAC address, if this is the element of the endpoint.
    #[inline(always)]
    pub const fn mac_of(self, ifindex: IfIndex) -> Option<Mac> {
        let is_tagged = self.0 & !BYTES == Self::new(ifindex, Mac::UNKNOWN).0;
        if is_tagged && Self::tag(ifindex) != Self::TOO_LARGE {
            Some(Mac::from_word(self.0))
        } else {
            None
        }
    }

    /// The rest of an interface index, which has 31 bits. Never 0, which means that the element is free.
    #[inline(always)]
    const fn tag(ifindex: IfIndex) -> u16 {
        let rest = (ifindex.0 >> Self::INDEX_BITS) + 1;
        if rest >= Self::TOO_LARGE as u32 {
            return Self::TOO_LARGE;
        }
        let [.., hi, lo] = rest.to_be_bytes();
        u16::from_be_bytes([hi, lo])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac::new([0x0a, 0x58, 10, 244, 1, 7]);

    #[test]
    fn the_link_local_address_is_that_of_the_kernel() {
        let expected: core::net::Ipv6Addr = "fe80::858:aff:fef4:107".parse().unwrap();
        assert_eq!(MAC.link_local(), Addr(expected.octets()));
    }

    #[test]
    fn an_element_belongs_to_one_interface_only() {
        let one = IfIndex(7);
        let other = IfIndex(7 + (1 << MacSlot::INDEX_BITS));
        assert_eq!(MacSlot::index(one), MacSlot::index(other));
        assert_eq!(MacSlot::new(one, MAC).mac_of(one), Some(MAC));
        assert_eq!(MacSlot::new(other, MAC).mac_of(one), None);
        assert_eq!(MacSlot::FREE.mac_of(one), None);
        assert_eq!(MacSlot::new(one, Mac::UNKNOWN).mac_of(one), Some(Mac::UNKNOWN));
        // The largest index that a tag can tell from all others, and the next one.
        let limit = u32::from(MacSlot::TOO_LARGE - 1) << MacSlot::INDEX_BITS;
        let (last, next) = (IfIndex(limit - 1), IfIndex(limit));
        assert_eq!(MacSlot::new(last, MAC).mac_of(last), Some(MAC));
        assert_eq!(MacSlot::new(next, MAC).mac_of(next), None);
        let largest = IfIndex(i32::MAX.unsigned_abs());
        assert_eq!(MacSlot::new(largest, MAC).mac_of(largest), None);
    }

    #[test]
    fn group_addresses_are_those_with_the_lowest_bit_of_the_first_byte() {
        assert!(Mac::new([0xff; 6]).is_group());
        assert!(Mac::new([0x33, 0x33, 0, 0, 0, 1]).is_group());
        assert!(!MAC.is_group());
        assert_eq!(Mac::from_word(u64::MAX).octets(), [0xff; 6]);
    }
}
