//! Parsing: from frame bytes to what a verdict needs.
//!
//! In: a frame through [`PacketBytes`], starting at the Ethernet header. Out: addresses, protocol, ports,
//! fragment and ICMP facts, or a [`DropReason`]. The walk over IPv6 extension headers is bounded.

use core::mem::MaybeUninit;

use zerocopy::FromBytes;

use crate::addr::Addr;
use crate::ids::{PortBe, Protocol};
use crate::verdict::DropReason;

/// Bounds-checked access to a frame.
pub trait PacketBytes {
    /// Copies the bytes that start `offset` bytes into the frame to `room`; `None` beyond the frame's end.
    ///
    /// The caller provides the room, because BPF has little stack: a header that is returned by value is
    /// spread over it byte by byte.
    fn load<'a, T: FromBytes>(&self, offset: u32, room: &'a mut MaybeUninit<T>) -> Option<&'a T>;

    /// Reads the frame: [`parse`], which the kernel programs call as a function that is verified by itself.
    #[inline(always)]
    fn parse(&self, packet: &mut Packet) -> Parsed {
        parse(self, packet)
    }

    /// Reads what an ICMP error quotes: [`parse_quoted`], likewise.
    #[inline(always)]
    fn parse_quoted(&self, protocol: Protocol, start: u32, quoted: &mut Packet) -> Parsed {
        parse_quoted(self, protocol, start, quoted)
    }
}

impl PacketBytes for [u8] {
    fn load<'a, T: FromBytes>(&self, offset: u32, room: &'a mut MaybeUninit<T>) -> Option<&'a T> {
        let bytes = self.get(usize::try_from(offset).ok()?..)?.get(..size_of::<T>())?;
        Some(room.write(T::read_from_bytes(bytes).ok()?))
    }
}

macro_rules! header {
    ($(#[$meta:meta])* struct $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(FromBytes)]
        #[repr(C, align(4))]
        struct $name { $($field: $type,)* }
    };
}

header! {
    /// RFC 826, for Ethernet and IPv4, without the target's half.
    struct ArpHeader {
        hardware_type: [u8; 2],
        protocol_type: [u8; 2],
        hardware_len: u8,
        protocol_len: u8,
        operation: [u8; 2],
        sender_hardware: [u8; 6],
        sender_protocol: [u8; 4],
        target: [u8; 2],
    }
}

header! {
    /// RFC 791, without options.
    struct Ipv4Header {
        version_ihl: u8,
        service: u8,
        total_len: [u8; 2],
        id: [u8; 2],
        flags_offset: [u8; 2],
        ttl: u8,
        protocol: u8,
        checksum: [u8; 2],
        src: [u8; 4],
        dst: [u8; 4],
    }
}

header! {
    /// RFC 8200.
    struct Ipv6Header {
        version_class_flow: [u8; 4],
        payload_len: [u8; 2],
        next_header: u8,
        hop_limit: u8,
        src: [u8; 16],
        dst: [u8; 16],
    }
}

header! {
    /// First 8 bytes of every IPv6 extension header; all of a fragment header.
    struct ExtensionHeader {
        next_header: u8,
        len: u8,
        offset_flags: [u8; 2],
        id: [u8; 4],
    }
}

header! {
    /// First 8 bytes of TCP, UDP, SCTP, ICMP and ICMPv6. In ICMP, `first` starts with the type.
    struct TransportHead {
        first: [u8; 2],
        second: [u8; 2],
        third: [u8; 2],
        fourth: [u8; 2],
    }
}

header! {
    /// The rest of a TCP header without options.
    struct TcpTail {
        acknowledgement: [u8; 4],
        offset: u8,
        flags: u8,
        window: [u8; 2],
        checksum: [u8; 2],
        urgent: [u8; 2],
    }
}

/// Length of an Ethernet header without a tag, bytes.
pub const ETHERNET_LEN: u32 = 14;
/// How many IPv6 extension headers are walked before the packet counts as malformed.
pub const MAX_EXTENSION_HEADERS: usize = 8;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];

const EXT_HOP_BY_HOP: u8 = 0;
const EXT_ROUTING: u8 = 43;
const EXT_FRAGMENT: u8 = 44;
const EXT_AUTHENTICATION: u8 = 51;
const EXT_DESTINATION: u8 = 60;
const EXT_MOBILITY: u8 = 135;
const EXT_HIP: u8 = 139;
const EXT_SHIM6: u8 = 140;

header! {
    /// The rest of SCTP's common header.
    struct SctpTail {
        checksum: [u8; 4],
    }
}

/// Position of a packet in its datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// The whole datagram.
    #[default]
    Whole,
    /// The first of several pieces: it holds the ports.
    First,
    /// A further piece: no transport header.
    Later,
}

/// What an IP packet shows.
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
    /// A packet of which nothing is known yet.
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

    /// Neighbour discovery (ICMPv6 133 to 137) and multicast listener discovery (130 to 132, 143).
    ///
    /// Source: RFC 4861, RFC 2710, RFC 3810.
    #[inline(always)]
    pub const fn is_neighbour_discovery(&self) -> bool {
        self.protocol.0 == Protocol::ICMPV6.0
            && matches!(self.fragment, Fragment::Whole)
            && matches!(self.icmp_type, 130..=137 | 143)
    }

    /// Router advertisement or redirect: what a pod that is no router must not send.
    #[inline(always)]
    pub const fn is_router_message(&self) -> bool {
        self.protocol.0 == Protocol::ICMPV6.0 && matches!(self.icmp_type, 134 | 137)
    }

    /// Where an ICMP error's quotation starts in the frame, bytes.
    #[inline(always)]
    pub const fn quotation_offset(&self) -> u32 {
        self.transport_offset + 8
    }

    /// An ICMP error that quotes the packet which caused it.
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

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// An IP packet; the [`Packet`] is filled in.
    Ip,
    /// An ARP message about IPv4; [`Packet::src`] is the sender.
    Arp,
    /// Another ethertype.
    NotIp,
    /// An IP packet that cannot be understood.
    Malformed(DropReason),
}

impl Parsed {
    /// As a number, for functions that can return nothing else.
    #[inline(always)]
    pub const fn to_wire(self) -> u32 {
        match self {
            Self::Ip => 0,
            Self::Arp => 1,
            Self::NotIp => 2,
            Self::Malformed(reason) => reason as u32,
        }
    }

    /// The opposite of [`Parsed::to_wire`]; other numbers are malformed packets.
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

/// Reads a frame into `packet`.
#[inline(always)]
pub fn parse<B: PacketBytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Parsed {
    let mut room = MaybeUninit::uninit();
    let Some(ethertype) = bytes.load::<[u8; 2]>(12, &mut room) else { return Parsed::NotIp };
    let outcome = match *ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(bytes, ETHERNET_LEN, packet),
        ETHERTYPE_IPV6 => parse_ipv6(bytes, ETHERNET_LEN, packet),
        ETHERTYPE_ARP => return parse_arp(bytes, packet),
        _ => return Parsed::NotIp,
    };
    match outcome.and_then(|()| parse_transport(bytes, packet)) {
        Ok(()) => Parsed::Ip,
        Err(reason) => Parsed::Malformed(reason),
    }
}

/// Reads the packet that an ICMP error of this protocol quotes, `start` bytes into the frame; only the fields
/// that identify a flow.
#[inline(always)]
pub fn parse_quoted<B: PacketBytes + ?Sized>(
    bytes: &B,
    protocol: Protocol,
    start: u32,
    quoted: &mut Packet,
) -> Parsed {
    let outcome = match protocol {
        Protocol::ICMP => parse_ipv4(bytes, start, quoted),
        _ => parse_ipv6(bytes, start, quoted),
    };
    match outcome.and_then(|()| parse_quoted_ports(bytes, quoted)) {
        Ok(()) => Parsed::Ip,
        Err(reason) => Parsed::Malformed(reason),
    }
}

/// 8 bytes of a transport header are all that an error has to quote.
#[inline(always)]
fn parse_quoted_ports<B: PacketBytes + ?Sized>(
    bytes: &B,
    quoted: &mut Packet,
) -> Result<(), DropReason> {
    if matches!(quoted.fragment, Fragment::Later) {
        return Err(DropReason::FragmentWithoutFirst);
    }
    let mut room = MaybeUninit::uninit();
    let head = bytes.load(quoted.transport_offset, &mut room).ok_or(DropReason::Truncated)?;
    read_ports(quoted, head);
    Ok(())
}

#[inline(always)]
fn parse_arp<B: PacketBytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Parsed {
    let mut room = MaybeUninit::uninit();
    match bytes.load::<ArpHeader>(ETHERNET_LEN, &mut room) {
        Some(arp)
            if arp.protocol_type == ETHERTYPE_IPV4
                && arp.hardware_len == 6
                && arp.protocol_len == 4 =>
        {
            packet.src = Addr::from_v4(arp.sender_protocol);
            Parsed::Arp
        }
        _ => Parsed::NotIp,
    }
}

#[inline(always)]
fn parse_ipv4<B: PacketBytes + ?Sized>(
    bytes: &B,
    start: u32,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    let mut room = MaybeUninit::<Ipv4Header>::uninit();
    let header = bytes.load(start, &mut room).ok_or(DropReason::Truncated)?;
    if header.version_ihl >> 4 != 4 {
        return Err(DropReason::BadHeader);
    }
    let header_len = u32::from(header.version_ihl & 0x0f) * 4;
    if header_len < 20 {
        return Err(DropReason::BadHeader);
    }
    packet.src = Addr::from_v4(header.src);
    packet.dst = Addr::from_v4(header.dst);
    packet.protocol = Protocol(header.protocol);
    packet.transport_offset = start + header_len;
    packet.fragment_id = u32::from(u16::from_be_bytes(header.id));
    let flags_offset = u16::from_be_bytes(header.flags_offset);
    packet.fragment = fragment(flags_offset & 0x1fff, flags_offset & 0x2000)?;
    Ok(())
}

/// The position in the datagram: `offset_units` counts 8 bytes, `more` is not zero if pieces follow.
#[inline(always)]
const fn fragment(offset_units: u16, more: u16) -> Result<Fragment, DropReason> {
    match (offset_units, more) {
        (0, 0) => Ok(Fragment::Whole),
        (0, _) => Ok(Fragment::First),
        // A piece that starts inside the longest transport header could rewrite what was judged (RFC 1858).
        (1 | 2, _) => Err(DropReason::TinyFragment),
        _ => Ok(Fragment::Later),
    }
}

#[inline(always)]
fn parse_ipv6<B: PacketBytes + ?Sized>(
    bytes: &B,
    start: u32,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    let mut room = MaybeUninit::<Ipv6Header>::uninit();
    let header = bytes.load(start, &mut room).ok_or(DropReason::Truncated)?;
    if header.version_class_flow[0] >> 4 != 6 {
        return Err(DropReason::BadHeader);
    }
    packet.src = Addr(header.src);
    packet.dst = Addr(header.dst);
    let mut next = header.next_header;
    packet.fragment = Fragment::Whole;
    let mut offset = start + 40;
    for _ in 0..MAX_EXTENSION_HEADERS {
        let is_extension = matches!(
            next,
            EXT_HOP_BY_HOP
                | EXT_ROUTING
                | EXT_FRAGMENT
                | EXT_AUTHENTICATION
                | EXT_DESTINATION
                | EXT_MOBILITY
                | EXT_HIP
                | EXT_SHIM6
        );
        if !is_extension {
            packet.protocol = Protocol(next);
            packet.transport_offset = offset;
            return Ok(());
        }
        let mut room = MaybeUninit::<ExtensionHeader>::uninit();
        let extension = bytes.load(offset, &mut room).ok_or(DropReason::Truncated)?;
        match next {
            EXT_FRAGMENT => {
                packet.fragment_id = u32::from_be_bytes(extension.id);
                let offset_flags = u16::from_be_bytes(extension.offset_flags);
                packet.fragment = fragment(offset_flags >> 3, offset_flags & 1)?;
                if matches!(packet.fragment, Fragment::Later) {
                    packet.protocol = Protocol(extension.next_header);
                    packet.transport_offset = offset + 8;
                    return Ok(());
                }
                offset += 8;
            }
            EXT_AUTHENTICATION => offset += (u32::from(extension.len) + 2) * 4,
            _ => offset += (u32::from(extension.len) + 1) * 8,
        }
        next = extension.next_header;
    }
    Err(DropReason::ExtensionHeaders)
}

#[inline(always)]
fn parse_transport<B: PacketBytes + ?Sized>(
    bytes: &B,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    if matches!(packet.fragment, Fragment::Later) {
        return Ok(());
    }
    // A transport header that is split over fragments is only ever made on purpose.
    let missing = match packet.fragment {
        Fragment::First => DropReason::TinyFragment,
        Fragment::Whole | Fragment::Later => DropReason::Truncated,
    };
    let offset = packet.transport_offset;
    match packet.protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP | Protocol::ICMP | Protocol::ICMPV6 => {
            let mut room = MaybeUninit::uninit();
            read_ports(packet, bytes.load(offset, &mut room).ok_or(missing)?);
        }
        _ => return Ok(()),
    }
    match packet.protocol {
        Protocol::TCP => {
            let mut room = MaybeUninit::<TcpTail>::uninit();
            packet.tcp_flags = bytes.load(offset + 8, &mut room).ok_or(missing)?.flags;
        }
        Protocol::SCTP => {
            let mut room = MaybeUninit::<SctpTail>::uninit();
            bytes.load(offset + 8, &mut room).ok_or(missing)?;
        }
        _ => {}
    }
    Ok(())
}

/// Fills in ports, or type and identifier.
#[inline(always)]
fn read_ports(packet: &mut Packet, head: &TransportHead) {
    match packet.protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => {
            packet.src_port = PortBe(head.first);
            packet.dst_port = PortBe(head.second);
        }
        Protocol::ICMP | Protocol::ICMPV6 => {
            packet.icmp_type = head.first[0];
            // The identifier stands in for the port of the end that asks.
            if packet.is_echo_request() {
                packet.src_port = PortBe(head.third);
            } else if packet.is_echo_reply() {
                packet.dst_port = PortBe(head.third);
            }
        }
        _ => {}
    }
}
