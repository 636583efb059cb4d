//! The parser of the fast path: UDP or TCP directly after an IP header without options or extensions.

use zerocopy::FromBytes;

use super::bytes::PacketBytes;
use super::parsed::{ETHERNET_LEN, Fragment, Packet};
use crate::addr::Addr;
use crate::ids::{PortBe, Protocol};

macro_rules! header {
    ($(#[$meta:meta])* struct $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, FromBytes)]
        #[repr(C)]
        struct $name { $($field: $type,)* }
    };
}

header! {
    /// An IPv4 header in words, each in memory order.
    struct Ipv4Words {
        version_ihl: u8,
        service: u8,
        total_len: u16,
        id: u16,
        flags_offset: u16,
        ttl: u8,
        protocol: u8,
        checksum: u16,
        src: u32,
        dst: u32,
    }
}

header! {
    /// An IPv6 header in words.
    struct Ipv6Words {
        version: u8,
        class_flow: [u8; 3],
        payload_len: u16,
        next_header: u8,
        hop_limit: u8,
        src: [u32; 4],
        dst: [u32; 4],
    }
}

header! {
    /// A UDP header, or the first 8 bytes of a TCP header.
    struct Head {
        ports: u32,
        second: u32,
    }
}

header! {
    /// The rest of a TCP header without options.
    struct Tail {
        acknowledgement: u32,
        offset: u8,
        flags: u8,
        window: u16,
        rest: u32,
    }
}

/// The "more fragments" bit and the offset. They are not all zero in a fragment.
const FRAGMENT: u16 = 0x3fff_u16.to_be();
const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();

/// A packet that [`parse_plain`] has parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, then destination port, in memory order.
    pub ports: u32,
    /// [`Protocol::TCP`] or [`Protocol::UDP`].
    pub protocol: Protocol,
    /// TCP flags, zero for UDP.
    pub tcp_flags: u8,
    /// As [`Packet::transport_offset`].
    pub transport_offset: u32,
}

/// Parses an unfragmented TCP segment or UDP datagram after an IP header without options or extensions. If the result is `None`, the
/// packet has to be parsed by [`parse()`](super::parse()), which agrees with this function on all packets that this one parses.
#[inline(always)]
pub fn parse_plain<B: PacketBytes + ?Sized>(bytes: &B) -> Option<Plain> {
    let (src, dst, protocol, transport_offset) = match bytes.peek::<u16>(12)? {
        ETHERTYPE_IPV4 => {
            let header = bytes.peek::<Ipv4Words>(ETHERNET_LEN)?;
            if header.version_ihl != 0x45 || header.flags_offset & FRAGMENT != 0 {
                return None;
            }
            let (src, dst) = (Addr::from_v4_word(header.src), Addr::from_v4_word(header.dst));
            (src, dst, header.protocol, ETHERNET_LEN + 20)
        }
        ETHERTYPE_IPV6 => {
            let header = bytes.peek::<Ipv6Words>(ETHERNET_LEN)?;
            if header.version >> 4 != 6 {
                return None;
            }
            let (src, dst) = (Addr::from_words(header.src), Addr::from_words(header.dst));
            (src, dst, header.next_header, ETHERNET_LEN + 40)
        }
        _ => return None,
    };
    let protocol = Protocol(protocol);
    let tcp_flags = match protocol {
        Protocol::TCP => bytes.peek::<Tail>(transport_offset + 8)?.flags,
        Protocol::UDP => 0,
        _ => return None,
    };
    let ports = bytes.peek::<Head>(transport_offset)?.ports;
    Some(Plain { src, dst, ports, protocol, tcp_flags, transport_offset })
}

impl Plain {
    /// The same packet as [`parse()`](super::parse()) has it.
    #[inline(always)]
    pub const fn packet(&self) -> Packet {
        let Self { src, dst, ports, protocol, tcp_flags, transport_offset } = *self;
        let [s0, s1, d0, d1] = ports.to_ne_bytes();
        Packet {
            src,
            dst,
            fragment_id: 0,
            transport_offset,
            src_port: PortBe([s0, s1]),
            dst_port: PortBe([d0, d1]),
            protocol,
            tcp_flags,
            icmp_type: 0,
            fragment: Fragment::Whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::packet::{Parsed, parse};

    /// A frame with 20 bytes of payload and these bytes after the Ethernet header.
    fn frame(ethertype: [u8; 2], ip: &[u8]) -> Vec<u8> {
        [
            &[0; 12],
            ethertype.as_slice(),
            ip,
            &[0, 7, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0x12],
            &[9; 20],
        ]
        .concat()
    }

    fn v4(protocol: u8) -> Vec<u8> {
        let ip = [0x45, 0, 0, 54, 1, 2, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        frame([0x08, 0x00], &ip)
    }

    fn v6(protocol: u8) -> Vec<u8> {
        let mut ip = [0xfd; 40];
        ip[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 34, protocol, 64]);
        frame([0x86, 0xdd], &ip)
    }

    #[test]
    fn plain_packets_are_parsed() {
        for frame in [v4(6), v4(17), v6(6), v6(17)] {
            let plain = parse_plain(frame.as_slice()).unwrap();
            assert_eq!(plain.packet().dst_port, PortBe::new(80));
            assert_eq!(plain.tcp_flags, if plain.protocol == Protocol::TCP { 0x12 } else { 0 });
        }
        assert_eq!(parse_plain(v4(1).as_slice()), None);
        assert_eq!(parse_plain(v6(44).as_slice()), None);
    }

    proptest! {
        /// Both parsers agree on each packet that this one parses. It parses none with options, extensions or fragments, and no
        /// truncated ones.
        #[test]
        fn both_parsers_agree_on_plain_packets(
            base in prop::sample::select(vec![v4(6), v4(17), v6(6), v6(17), v6(0)]),
            changes in prop::collection::vec((12_usize..60, any::<u8>()), 0..4),
            len_bytes in 0_usize..90,
        ) {
            let mut frame = base;
            for (at, byte) in changes {
                frame[at] = byte;
            }
            frame.truncate(len_bytes);
            if let Some(plain) = parse_plain(frame.as_slice()) {
                let mut packet = Packet::EMPTY;
                prop_assert_eq!(parse(frame.as_slice(), &mut packet), Parsed::Ip);
                // The datagram number matters in fragments only.
                prop_assert_eq!(Packet { fragment_id: 0, ..packet }, plain.packet());
            }
        }
    }
}
