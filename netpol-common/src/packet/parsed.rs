//! The facts that the parser finds.

use super::headers::claims_target;
use crate::addr::Addr;
use crate::ids::{PortBe, Protocol};
use crate::reason::DropReason;

/// Length of an Ethernet header without a tag, bytes.
pub const ETHERNET_LEN: u32 = 14;
/// Offset in a frame of the sender's MAC address in an ARP message, bytes.
pub const ARP_SENDER_OFFSET: u32 = ETHERNET_LEN + 8;
/// A packet with more IPv6 extension headers is malformed.
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// Position of a packet in its datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// The whole datagram.
    #[default]
    Whole,
    /// The first of several fragments, which has the ports.
    First,
    /// A later fragment, without a transport header.
    Later,
}

/// The facts about an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Datagram number of a fragment, host byte order.
    pub fragment_id: u32,
    /// Offset of the transport header in the frame, bytes.
    pub transport_offset: u32,
    /// Source port, zero if the protocol has none.
    pub src_port: PortBe,
    /// Destination port, zero if the protocol has none.
    pub dst_port: PortBe,
    /// The transport protocol behind all extension headers.
    pub protocol: Protocol,
    /// TCP flags, zero otherwise.
    pub tcp_flags: u8,
    /// ICMP or ICMPv6 type, zero otherwise.
    pub icmp_type: u8,
    /// Position in the datagram.
    pub fragment: Fragment,
}

impl Packet {
    /// A packet before it is parsed.
    pub const EMPTY: Self = Self {
        src: Addr::UNSPECIFIED,
        dst: Addr::UNSPECIFIED,
        fragment_id: 0,
        transport_offset: 0,
        src_port: PortBe::ZERO,
        dst_port: PortBe::ZERO,
        protocol: Protocol(0),
        tcp_flags: 0,
        icmp_type: 0,
        fragment: Fragment::Whole,
    };

    /// The type is one of neighbour discovery (ICMPv6 133 to 137) or multicast listener discovery (130 to 132, 143). Whether the
    /// packet is such a message, [`is_link_message`](super::is_link_message) tells.
    #[inline(always)]
    pub const fn has_link_message_type(&self) -> bool {
        self.protocol.0 == Protocol::ICMPV6.0
            && matches!(self.fragment, Fragment::Whole)
            && matches!(self.icmp_type, 130..=137 | 143)
    }

    /// A message that claims an address of the link, which is at [`Packet::quotation_offset`].
    #[inline(always)]
    pub const fn claims_address(&self) -> bool {
        self.protocol.0 == Protocol::ICMPV6.0 && claims_target(self.icmp_type, &self.src)
    }

    /// The first fragment of a neighbour solicitation or advertisement, which nobody sends (RFC 6980).
    #[inline(always)]
    pub const fn is_fragmented_discovery(&self) -> bool {
        self.protocol.0 == Protocol::ICMPV6.0
            && matches!(self.fragment, Fragment::First)
            && matches!(self.icmp_type, 133..=137)
    }

    /// A router advertisement or redirect, which only a router may send.
    ///
    /// Source: RFC 792, RFC 1256, RFC 4861.
    #[inline(always)]
    pub const fn is_router_message(&self) -> bool {
        match self.protocol {
            Protocol::ICMP => matches!(self.icmp_type, 5 | 9),
            Protocol::ICMPV6 => matches!(self.icmp_type, 134 | 137),
            _ => false,
        }
    }

    /// Offset in the frame of the packet that an ICMP error quotes, or of the target of neighbour discovery, bytes.
    #[inline(always)]
    pub const fn quotation_offset(&self) -> u32 {
        self.transport_offset + 8
    }

    /// An ICMP error, which quotes the packet that caused it.
    #[inline(always)]
    pub const fn is_icmp_error(&self) -> bool {
        match self.protocol {
            Protocol::ICMP => matches!(self.icmp_type, 3 | 4 | 11 | 12),
            Protocol::ICMPV6 => matches!(self.icmp_type, 1..=4),
            _ => false,
        }
    }

    /// An ICMP echo request.
    #[inline(always)]
    pub const fn is_echo_request(&self) -> bool {
        match self.protocol {
            Protocol::ICMP => self.icmp_type == 8,
            Protocol::ICMPV6 => self.icmp_type == 128,
            _ => false,
        }
    }

    /// An ICMP echo reply.
    #[inline(always)]
    pub const fn is_echo_reply(&self) -> bool {
        match self.protocol {
            Protocol::ICMP => self.icmp_type == 0,
            Protocol::ICMPV6 => self.icmp_type == 129,
            _ => false,
        }
    }
}

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// An IP packet. The [`Packet`] is set.
    Ip,
    /// An ARP message about IPv4. [`Packet::src`] is the sender.
    Arp,
    /// Another ethertype.
    NotIp,
    /// An IP packet that cannot be parsed.
    Malformed(DropReason),
}

impl Parsed {
    /// The kind as a number, because the global functions of the kernel programs can return nothing else.
    #[inline(always)]
    pub const fn to_wire(self) -> u32 {
        match self {
            Self::Ip => 0,
            Self::Arp => 1,
            Self::NotIp => 2,
            Self::Malformed(reason) => reason as u32,
        }
    }

    /// The inverse of [`Parsed::to_wire`]. Other numbers are malformed packets.
    #[inline(always)]
    pub fn from_wire(wire: u32) -> Self {
        match wire {
            0 => Self::Ip,
            1 => Self::Arp,
            2 => Self::NotIp,
            reason => Self::Malformed(
                u8::try_from(reason)
                    .ok()
                    .and_then(|reason| DropReason::try_from(reason).ok())
                    .unwrap_or(DropReason::BadHeader),
            ),
        }
    }
}
