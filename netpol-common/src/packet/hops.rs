//! The field that limits the number of hops of a packet.

use super::parsed::ETHERNET_LEN;
use crate::addr::Addr;

/// The offset of the field in a frame with a packet to this address: the TTL of IPv4, the hop limit of IPv6.
#[inline(always)]
pub const fn hops_offset(dst: &Addr) -> u32 {
    ETHERNET_LEN + if dst.is_v4() { 8 } else { 7 }
}

/// TTL, protocol and checksum of an IPv4 header after a router has decremented the TTL (RFC 1624).
#[inline(always)]
pub const fn routed_v4([ttl, protocol, hi, lo]: [u8; 4]) -> [u8; 4] {
    let sum = u16::from_be_bytes([hi, lo]) as u32 + 0x100;
    let [_, carry, hi, lo] = sum.to_be_bytes();
    // The sum of ones' complements: a carry is added, and 0xffff stands for zero.
    let [_, _, hi, lo] = match (carry, hi, lo) {
        (0, 0xff, 0xff) => [0; 4],
        _ => (u32::from_be_bytes([0, 0, hi, lo]) + carry as u32).to_be_bytes(),
    };
    [ttl.wrapping_sub(1), protocol, hi, lo]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The sum of all words of a header, which is 0xffff if its checksum is right.
    fn sum(words: [u16; 10]) -> u16 {
        let mut sum: u32 = words.into_iter().map(u32::from).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    proptest! {
        #[test]
        fn the_checksum_stays_right(
            mut words in any::<[u16; 10]>(),
            protocol: u8,
            ttl in 1_u8..,
        ) {
            words[4] = u16::from_be_bytes([ttl, protocol]);
            words[5] = 0;
            words[5] = !sum(words);
            let [c0, c1] = words[5].to_be_bytes();
            let [ttl_after, protocol_after, c0, c1] = routed_v4([ttl, protocol, c0, c1]);
            prop_assert_eq!((ttl_after, protocol_after), (ttl - 1, protocol));
            words[4] = u16::from_be_bytes([ttl_after, protocol]);
            words[5] = u16::from_be_bytes([c0, c1]);
            prop_assert_eq!(sum(words), 0xffff);
        }
    }
}
