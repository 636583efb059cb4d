//! The addresses that a frame claims for its sender, without the rest of its headers.

use core::mem::MaybeUninit;

use super::bytes::PacketBytes;
use super::headers::{ArpHeader, Ipv4Header, Ipv6Header, TransportHead, claims_target};
use super::parse::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use super::parsed::ETHERNET_LEN;
use crate::addr::Addr;
use crate::ids::Protocol;

/// The addresses that a frame claims for its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The frame is neither IP nor ARP, or it ends before it says.
    None,
    /// The source of an IP packet, or the sender of an ARP message.
    Source(Addr),
    /// The source and the target of a neighbour advertisement or solicitation.
    Both {
        /// The source.
        source: Addr,
        /// The target.
        target: Addr,
    },
}

/// Reads which addresses a frame claims. Fragments and packets whose further headers cannot be parsed have a source too.
#[inline(always)]
pub fn claim<B: PacketBytes + ?Sized>(bytes: &B) -> Claim {
    let mut buffer = MaybeUninit::uninit();
    match bytes.load::<[u8; 2]>(12, &mut buffer) {
        Some(&ETHERTYPE_IPV4) => {
            let mut buffer = MaybeUninit::<Ipv4Header>::uninit();
            let header = bytes.load(ETHERNET_LEN, &mut buffer);
            header.map_or(Claim::None, |header| Claim::Source(Addr::from_v4(header.src)))
        }
        Some(&ETHERTYPE_IPV6) => claim_v6(bytes),
        Some(&ETHERTYPE_ARP) => {
            let mut buffer = MaybeUninit::<ArpHeader>::uninit();
            match bytes.load(ETHERNET_LEN, &mut buffer) {
                Some(arp) if arp.hardware_len == 6 && arp.protocol_len == 4 => {
                    Claim::Source(Addr::from_v4(arp.sender_protocol))
                }
                _ => Claim::None,
            }
        }
        _ => Claim::None,
    }
}

#[inline(always)]
fn claim_v6<B: PacketBytes + ?Sized>(bytes: &B) -> Claim {
    let mut buffer = MaybeUninit::<Ipv6Header>::uninit();
    let Some(header) = bytes.load(ETHERNET_LEN, &mut buffer) else { return Claim::None };
    let source = Addr(header.src);
    if header.next_header != Protocol::ICMPV6.0 {
        return Claim::Source(source);
    }
    let mut buffer = MaybeUninit::<TransportHead>::uninit();
    let kind = bytes.load(ETHERNET_LEN + 40, &mut buffer).map_or(0, |head| head.first[0]);
    if !claims_target(kind, &source) {
        return Claim::Source(source);
    }
    let mut buffer = MaybeUninit::<Addr>::uninit();
    match bytes.load(ETHERNET_LEN + 48, &mut buffer) {
        Some(target) => Claim::Both { source, target: *target },
        None => Claim::Source(source),
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;

    fn frame(ethertype: [u8; 2], content: &[u8]) -> Vec<u8> {
        [&[0; 12], ethertype.as_slice(), content].concat()
    }

    /// A packet from `fd..` with this header behind it.
    fn v6(next_header: u8, behind: &[u8]) -> Vec<u8> {
        let mut header = vec![0x60, 0, 0, 0, 0, 0, next_header, 255];
        header.extend([0xfd; 32]);
        frame(ETHERTYPE_IPV6, &[header.as_slice(), behind].concat())
    }

    #[test]
    fn a_frame_claims_its_source_whatever_follows_and_the_target_of_an_advertisement() {
        let source = Addr([0xfd; 16]);
        let mut ipv4 = vec![0x45, 0, 0, 0, 0, 0, 0x20, 7, 64, 17, 0, 0, 10, 0, 0, 7, 10, 0, 0, 8];
        assert_eq!(
            claim(frame(ETHERTYPE_IPV4, &ipv4).as_slice()),
            Claim::Source(Addr::from_v4([10, 0, 0, 7]))
        );
        ipv4.truncate(15);
        assert_eq!(claim(frame(ETHERTYPE_IPV4, &ipv4).as_slice()), Claim::None);
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 2, 2, 2, 2, 2, 2, 2, 10, 0, 0, 7];
        arp.extend([0; 10]);
        assert_eq!(
            claim(frame(ETHERTYPE_ARP, &arp).as_slice()),
            Claim::Source(Addr::from_v4([10, 0, 0, 7]))
        );
        let target = Addr([0xaa; 16]);
        let message = |kind: u8| [&[kind, 0, 0, 0, 0, 0, 0, 0], target.0.as_slice()].concat();
        assert_eq!(claim(v6(58, &message(136)).as_slice()), Claim::Both { source, target });
        for other in [v6(58, &message(135)), v6(58, &[136]), v6(0, &message(136)), v6(6, &[])] {
            assert_eq!(claim(other.as_slice()), Claim::Source(source));
        }
        assert_eq!(claim(frame([0x81, 0], &[0; 40]).as_slice()), Claim::None);
        assert_eq!(claim([0; 9].as_slice()), Claim::None);
    }
}
