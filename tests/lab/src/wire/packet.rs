//! Frames with only the fields that verdicts depend on.

use std::net::{IpAddr, Ipv6Addr};

/// TCP flags of a connection's first packet.
pub const SYN: u8 = 0x02;
/// TCP flags of the answer.
pub const SYN_ACK: u8 = 0x12;
/// TCP flags in the middle of a connection.
pub const ACK: u8 = 0x10;

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Its transport header.
    pub segment: Segment,
}

/// The transport header of a packet; ports in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    /// TCP.
    Tcp {
        /// Source port.
        from: u16,
        /// Destination port.
        to: u16,
        /// The 14th byte of the header.
        flags: u8,
    },
    /// UDP.
    Udp {
        /// Source port.
        from: u16,
        /// Destination port.
        to: u16,
    },
    /// SCTP.
    Sctp {
        /// Source port.
        from: u16,
        /// Destination port.
        to: u16,
    },
    /// ICMP or ICMPv6 echo request.
    EchoRequest {
        /// The identifier.
        id: u16,
    },
    /// ICMP or ICMPv6 echo reply.
    EchoReply {
        /// The identifier.
        id: u16,
    },
    /// Another protocol, by its number.
    Other(u8),
}

impl Packet {
    /// A packet back to the sender.
    #[must_use]
    pub const fn reply(&self) -> Self {
        let segment = match self.segment {
            Segment::Tcp { from, to, flags } => {
                Segment::Tcp { from: to, to: from, flags: if flags == SYN { SYN_ACK } else { ACK } }
            }
            Segment::Udp { from, to } => Segment::Udp { from: to, to: from },
            Segment::Sctp { from, to } => Segment::Sctp { from: to, to: from },
            Segment::EchoRequest { id } => Segment::EchoReply { id },
            Segment::EchoReply { id } => Segment::EchoRequest { id },
            Segment::Other(protocol) => Segment::Other(protocol),
        };
        Self { src: self.dst, dst: self.src, segment }
    }

    /// A later packet of the same connection.
    #[must_use]
    pub const fn next(mut self) -> Self {
        if let Segment::Tcp { flags, .. } = &mut self.segment {
            *flags = ACK;
        }
        self
    }

    /// The bytes, from the Ethernet header on, without checksums.
    pub fn frame(&self) -> Vec<u8> {
        let is_v4 = self.src.is_ipv4() && self.dst.is_ipv4();
        let family = if is_v4 { Family::V4 } else { Family::V6 };
        let (protocol, segment) = self.segment.bytes(family);
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        let length = u16::try_from(segment.len()).unwrap_or(u16::MAX);
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend([0x08, 0x00, 0x45, 0]);
                frame.extend((length + 20).to_be_bytes());
                frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
            }
            (src, dst) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([protocol, 64]);
                frame.extend(as_v6(src).octets());
                frame.extend(as_v6(dst).octets());
            }
        }
        frame.extend(segment);
        frame
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Segment {
    /// Protocol number and bytes.
    fn bytes(self, family: Family) -> (u8, Vec<u8>) {
        let ports = |from: u16, to: u16| {
            let mut bytes = from.to_be_bytes().to_vec();
            bytes.extend(to.to_be_bytes());
            bytes
        };
        let echo = |kind: u8, id: u16| {
            let mut bytes = vec![kind, 0, 0, 0];
            bytes.extend(id.to_be_bytes());
            bytes.extend([0, 1]);
            bytes
        };
        match self {
            Self::Tcp { from, to, flags } => {
                let mut bytes = ports(from, to);
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
                (6, bytes)
            }
            Self::Udp { from, to } => {
                let mut bytes = ports(from, to);
                bytes.extend([0, 8, 0, 0]);
                (17, bytes)
            }
            Self::Sctp { from, to } => {
                let mut bytes = ports(from, to);
                bytes.extend([0, 0, 0, 0, 0, 0, 0, 0]);
                (132, bytes)
            }
            Self::EchoRequest { id } if family == Family::V4 => (1, echo(8, id)),
            Self::EchoRequest { id } => (58, echo(128, id)),
            Self::EchoReply { id } if family == Family::V4 => (1, echo(0, id)),
            Self::EchoReply { id } => (58, echo(129, id)),
            Self::Other(protocol) => (protocol, vec![0; 8]),
        }
    }
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_what_another_parser_reads() {
        let segments = [
            Segment::Tcp { from: 1, to: 80, flags: SYN },
            Segment::Udp { from: 1, to: 53 },
            Segment::EchoRequest { id: 7 },
        ];
        for (src, dst) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            for segment in segments {
                let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
                let frame = Packet { src, dst, segment }.frame();
                let parsed = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
                assert!(parsed.net.is_some() && parsed.transport.is_some(), "{segment:?}");
            }
        }
    }

    #[test]
    fn a_reply_to_a_reply_is_on_the_way_of_the_first_packet() {
        let segment = Segment::Udp { from: 1, to: 53 };
        let packet =
            Packet { src: "10.0.0.1".parse().unwrap(), dst: "10.0.0.2".parse().unwrap(), segment };
        assert_eq!(packet.reply().reply(), packet);
    }
}
