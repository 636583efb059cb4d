//! Frames, described header by header.
//!
//! In: header fields, valid or not. Out: bytes. Checksums are left out, because no verdict depends on them.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header,
    TcpHeader, UdpHeader,
};

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// An IP packet truncated to this many bytes, if it is longer.
    Ip(Packet, usize),
    /// An ARP request.
    Arp {
        /// The sender's address.
        sender: Ipv4Addr,
    },
    /// A VLAN tag and the frame behind it.
    Tagged(Box<Self>),
    /// Another ethertype.
    Other {
        /// The ethertype, host byte order.
        ether_type: u16,
        /// The bytes after it.
        bytes: Vec<u8>,
    },
}

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its addresses, which determine its family.
    pub ends: Ends,
    /// IPv4 options in words of 4 bytes, up to 10. IPv6 has none.
    pub option_words: u8,
    /// IPv6 extension headers in their order. IPv4 has none.
    pub extensions: Vec<Extension>,
    /// Position in a fragmented datagram.
    pub fragment: Option<Fragment>,
    /// The transport header and what follows.
    pub segment: Segment,
}

/// Source and destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Of an IPv4 packet.
    V4(Ipv4Addr, Ipv4Addr),
    /// Of an IPv6 packet.
    V6(Ipv6Addr, Ipv6Addr),
}

/// An IPv6 extension header other than the fragment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Its number in the preceding header.
    pub kind: u8,
    /// Its length field: units of 8 bytes without the first, or 4 bytes without the first two for an
    /// authentication header.
    pub len: u8,
}

/// Number of the IPv6 authentication header, whose length counts differently.
pub const AUTHENTICATION: u8 = 51;
/// Number of the IPv6 fragment header.
const FRAGMENT: u8 = 44;

/// Position in a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification of the datagram; IPv4 uses the lower 16 bits.
    pub id: u32,
    /// Offset in units of 8 bytes.
    pub offset_units: u16,
    /// Whether more fragments follow.
    pub more: bool,
}

/// A transport header and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// TCP.
    Tcp {
        /// Source port.
        src_port: u16,
        /// Destination port.
        dst_port: u16,
        /// All flags, as in the 14th byte of the header.
        flags: u8,
    },
    /// UDP.
    Udp {
        /// Source port.
        src_port: u16,
        /// Destination port.
        dst_port: u16,
    },
    /// SCTP.
    Sctp {
        /// Source port.
        src_port: u16,
        /// Destination port.
        dst_port: u16,
    },
    /// ICMP, or ICMPv6 in an IPv6 packet.
    Icmp {
        /// Type.
        kind: u8,
        /// Identifier of an echo.
        id: u16,
        /// The packet that an error quotes.
        quoted: Option<Box<Packet>>,
    },
    /// Another protocol, or a malformed transport header.
    Other {
        /// Protocol number.
        protocol: u8,
        /// The bytes after the IP header.
        bytes: Vec<u8>,
    },
}

impl Frame {
    /// A whole IP packet.
    pub fn whole(packet: Packet) -> Self {
        Self::Ip(packet, usize::MAX)
    }

    /// The frame with its Ethernet header.
    pub fn bytes(&self) -> Vec<u8> {
        let (ether_type, payload) = self.payload();
        let header = Ethernet2Header {
            source: [2, 0, 0, 0, 0, 1],
            destination: [2, 0, 0, 0, 0, 2],
            ether_type: EtherType(ether_type),
        };
        [header.to_bytes().as_slice(), &payload].concat()
    }

    fn payload(&self) -> (u16, Vec<u8>) {
        match self {
            Self::Ip(packet, len_bytes) => {
                let mut bytes = packet.bytes();
                bytes.truncate(*len_bytes);
                let ether_type = match packet.ends {
                    Ends::V4(..) => EtherType::IPV4,
                    Ends::V6(..) => EtherType::IPV6,
                };
                (ether_type.0, bytes)
            }
            Self::Arp { sender } => {
                // Hardware type Ethernet, protocol IPv4, address lengths 6 and 4, operation request.
                let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1];
                bytes.extend(sender.octets());
                bytes.extend([0; 10]);
                (EtherType::ARP.0, bytes)
            }
            Self::Tagged(inner) => {
                let (ether_type, payload) = inner.payload();
                let tag = [0, 5];
                let bytes = [tag.as_slice(), &ether_type.to_be_bytes(), &payload].concat();
                (EtherType::VLAN_TAGGED_FRAME.0, bytes)
            }
            Self::Other { ether_type, bytes } => (*ether_type, bytes.clone()),
        }
    }
}

impl Packet {
    /// A packet without options, extensions, and fragmentation.
    pub fn plain(ends: Ends, segment: Segment) -> Self {
        Self { ends, option_words: 0, extensions: Vec::new(), fragment: None, segment }
    }

    /// The packet from its IP header on.
    pub fn bytes(&self) -> Vec<u8> {
        let (protocol, segment) = self.segment.bytes(self.ends);
        match self.ends {
            Ends::V4(source, destination) => {
                let fragment =
                    self.fragment.unwrap_or(Fragment { id: 7, offset_units: 0, more: false });
                let options = vec![1; usize::from(self.option_words.min(10)) * 4];
                let len_bytes = Ipv4Header::MIN_LEN + options.len() + segment.len();
                let mut header = Ipv4Header {
                    total_len: u16::try_from(len_bytes).unwrap_or(u16::MAX),
                    identification: u16::try_from(fragment.id & 0xffff).unwrap_or_default(),
                    more_fragments: fragment.more,
                    fragment_offset: IpFragOffset::try_from(fragment.offset_units & 0x1fff)
                        .unwrap_or_default(),
                    time_to_live: 64,
                    protocol: IpNumber(protocol),
                    source: source.octets(),
                    destination: destination.octets(),
                    options: Ipv4Options::try_from(options.as_slice()).unwrap_or_default(),
                    ..Ipv4Header::default()
                };
                header.header_checksum = header.calc_header_checksum();
                [header.to_bytes().as_slice(), &segment].concat()
            }
            Ends::V6(source, destination) => {
                let (first, chain) = self.chain(protocol);
                let header = Ipv6Header {
                    payload_length: u16::try_from(chain.len() + segment.len()).unwrap_or(u16::MAX),
                    next_header: IpNumber(first),
                    hop_limit: 64,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                [header.to_bytes().as_slice(), &chain, &segment].concat()
            }
        }
    }

    /// The extension headers, the fragment header last, and the number of the first header.
    fn chain(&self, protocol: u8) -> (u8, Vec<u8>) {
        let mut next = protocol;
        let mut chain = Vec::new();
        if let Some(Fragment { id, offset_units, more }) = self.fragment {
            let [hi, lo] = ((offset_units << 3) | u16::from(more)).to_be_bytes();
            let [id0, id1, id2, id3] = id.to_be_bytes();
            chain = vec![next, 0, hi, lo, id0, id1, id2, id3];
            next = FRAGMENT;
        }
        for Extension { kind, len } in self.extensions.iter().rev() {
            let len_bytes = match *kind {
                AUTHENTICATION => (usize::from(*len) + 2) * 4,
                _ => (usize::from(*len) + 1) * 8,
            };
            let mut header = vec![0; len_bytes];
            header.splice(..2, [next, *len]);
            chain = [header, chain].concat();
            next = *kind;
        }
        (next, chain)
    }
}

impl Segment {
    fn bytes(&self, ends: Ends) -> (u8, Vec<u8>) {
        let payload = [0xab; 4];
        match self {
            Self::Tcp { src_port, dst_port, flags } => {
                let mut bytes = TcpHeader::new(*src_port, *dst_port, 1, 64_240).to_bytes().to_vec();
                bytes.splice(13..14, [*flags]);
                bytes.extend(payload);
                (IpNumber::TCP.0, bytes)
            }
            Self::Udp { src_port, dst_port } => {
                let header = UdpHeader {
                    source_port: *src_port,
                    destination_port: *dst_port,
                    length: 12,
                    checksum: 0,
                };
                (IpNumber::UDP.0, [header.to_bytes().as_slice(), &payload].concat())
            }
            Self::Sctp { src_port, dst_port } => {
                let ports = [src_port.to_be_bytes(), dst_port.to_be_bytes()].concat();
                (IpNumber::SCTP.0, [ports.as_slice(), &[0; 8], &payload].concat())
            }
            Self::Icmp { kind, id, quoted } => {
                let protocol = match ends {
                    Ends::V4(..) => IpNumber::ICMP,
                    Ends::V6(..) => IpNumber::IPV6_ICMP,
                };
                let [hi, lo] = id.to_be_bytes();
                let mut bytes = vec![*kind, 0, 0, 0, hi, lo, 0, 0];
                match quoted {
                    Some(quoted) => bytes.extend(quoted.bytes()),
                    None => bytes.extend(payload),
                }
                (protocol.0, bytes)
            }
            Self::Other { protocol, bytes } => (*protocol, bytes.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

    use super::*;

    #[test]
    fn frames_are_what_they_say() {
        let ends = Ends::V6(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        let packet = Packet {
            extensions: vec![
                Extension { kind: 0, len: 1 },
                Extension { kind: AUTHENTICATION, len: 3 },
            ],
            ..Packet::plain(ends, Segment::Tcp { src_port: 1, dst_port: 2, flags: 0x12 })
        };
        let frame = Frame::whole(packet).bytes();
        let headers = PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let Some(TransportHeader::Tcp(tcp)) = headers.transport else {
            panic!("no TCP: {headers:?}")
        };
        assert_eq!((tcp.source_port, tcp.destination_port), (1, 2));
        assert!(tcp.syn && tcp.ack && !tcp.fin);
        let ends = Ends::V4(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let packet = Packet {
            option_words: 10,
            fragment: Some(Fragment { id: 9, offset_units: 3, more: true }),
            ..Packet::plain(ends, Segment::Udp { src_port: 1, dst_port: 2 })
        };
        let frame = Frame::whole(packet).bytes();
        let headers = PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let Some(NetHeaders::Ipv4(ip, _)) = headers.net else { panic!("no IPv4: {headers:?}") };
        assert_eq!((ip.identification, ip.fragment_offset.value(), ip.header_len()), (9, 3, 60));
        assert!(ip.more_fragments);
    }
}
