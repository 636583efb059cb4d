//! Parsing: from frame bytes to what a verdict needs.
//!
//! In: a frame through [`PacketBytes`], starting at the Ethernet header. Out: addresses, protocol, ports,
//! fragment and ICMP facts, or a [`DropReason`]. The walk over IPv6 extension headers is bounded.

use crate::addr::Addr;
use crate::ids::{PortBe, Protocol};
use crate::verdict::DropReason;

/// Bounds-checked access to a frame.
pub trait PacketBytes {
    /// Copies `N` bytes that start `offset` bytes into the frame; `None` beyond its end.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl PacketBytes for [u8] {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

/// Length of an Ethernet header without a tag, bytes.
pub const ETHERNET_LEN: usize = 14;
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
    pub transport_offset: usize,
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
    /// An ARP message about IPv4 with this sender address.
    Arp(Addr),
    /// Another ethertype.
    NotIp,
    /// An IP packet that cannot be understood.
    Malformed(DropReason),
}

/// Reads a frame into `packet`.
#[inline(always)]
pub fn parse<B: PacketBytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Parsed {
    let Some(ethertype) = bytes.load::<2>(12) else { return Parsed::NotIp };
    let outcome = match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(bytes, ETHERNET_LEN, packet),
        ETHERTYPE_IPV6 => parse_ipv6(bytes, ETHERNET_LEN, packet),
        ETHERTYPE_ARP => return parse_arp(bytes),
        _ => return Parsed::NotIp,
    };
    match outcome.and_then(|()| parse_transport(bytes, packet)) {
        Ok(()) => Parsed::Ip,
        Err(reason) => Parsed::Malformed(reason),
    }
}

/// Reads the packet that an ICMP error quotes; only the fields that identify a flow.
///
/// # Errors
/// The reason for which the quotation cannot be understood.
#[inline(always)]
pub fn parse_quoted<B: PacketBytes + ?Sized>(
    bytes: &B,
    error: &Packet,
    quoted: &mut Packet,
) -> Result<(), DropReason> {
    let start = error.transport_offset + 8;
    match error.protocol {
        Protocol::ICMP => parse_ipv4(bytes, start, quoted)?,
        _ => parse_ipv6(bytes, start, quoted)?,
    }
    if matches!(quoted.fragment, Fragment::Later) {
        return Err(DropReason::FragmentWithoutFirst);
    }
    let head = bytes.load::<8>(quoted.transport_offset).ok_or(DropReason::Truncated)?;
    read_ports(quoted, head);
    Ok(())
}

#[inline(always)]
fn parse_arp<B: PacketBytes + ?Sized>(bytes: &B) -> Parsed {
    // Hardware type, protocol type, lengths, operation, sender hardware address, sender protocol address.
    let Some(arp) = bytes.load::<18>(ETHERNET_LEN) else { return Parsed::NotIp };
    let [_, _, proto_hi, proto_lo, hw_len, proto_len, _, _, _, _, _, _, _, _, a, b, c, d] = arp;
    if [proto_hi, proto_lo] != ETHERTYPE_IPV4 || hw_len != 6 || proto_len != 4 {
        return Parsed::NotIp;
    }
    Parsed::Arp(Addr::from_v4([a, b, c, d]))
}

#[inline(always)]
fn parse_ipv4<B: PacketBytes + ?Sized>(
    bytes: &B,
    start: usize,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    let header = bytes.load::<20>(start).ok_or(DropReason::Truncated)?;
    let [
        version_ihl,
        _,
        _,
        _,
        id_hi,
        id_lo,
        frag_hi,
        frag_lo,
        _,
        protocol,
        _,
        _,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ] = header;
    if version_ihl >> 4 != 4 {
        return Err(DropReason::BadHeader);
    }
    let header_len = usize::from(version_ihl & 0x0f) * 4;
    if header_len < 20 {
        return Err(DropReason::BadHeader);
    }
    packet.src = Addr::from_v4([s0, s1, s2, s3]);
    packet.dst = Addr::from_v4([d0, d1, d2, d3]);
    packet.protocol = Protocol(protocol);
    packet.transport_offset = start + header_len;
    packet.fragment_id = u32::from(u16::from_be_bytes([id_hi, id_lo]));
    let units = u16::from_be_bytes([frag_hi & 0x1f, frag_lo]);
    packet.fragment = fragment(units, frag_hi & 0x20)?;
    Ok(())
}

/// The position in the datagram: `offset_units` counts 8 bytes, `more` is not zero if pieces follow.
#[inline(always)]
const fn fragment(offset_units: u16, more: u8) -> Result<Fragment, DropReason> {
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
    start: usize,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    let [version, _, _, _, _, _, mut next, _] =
        bytes.load::<8>(start).ok_or(DropReason::Truncated)?;
    if version >> 4 != 6 {
        return Err(DropReason::BadHeader);
    }
    packet.src = Addr(bytes.load::<16>(start + 8).ok_or(DropReason::Truncated)?);
    packet.dst = Addr(bytes.load::<16>(start + 24).ok_or(DropReason::Truncated)?);
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
        let [after, len, frag_hi, frag_lo, id0, id1, id2, id3] =
            bytes.load::<8>(offset).ok_or(DropReason::Truncated)?;
        match next {
            EXT_FRAGMENT => {
                packet.fragment_id = u32::from_be_bytes([id0, id1, id2, id3]);
                let units = u16::from_be_bytes([frag_hi, frag_lo]) >> 3;
                packet.fragment = fragment(units, frag_lo & 1)?;
                if matches!(packet.fragment, Fragment::Later) {
                    packet.protocol = Protocol(after);
                    packet.transport_offset = offset + 8;
                    return Ok(());
                }
                offset += 8;
            }
            EXT_AUTHENTICATION => offset += (usize::from(len) + 2) * 4,
            _ => offset += (usize::from(len) + 1) * 8,
        }
        next = after;
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
        Protocol::TCP => {
            let header = bytes.load::<20>(offset).ok_or(missing)?;
            let [p0, p1, p2, p3, p4, p5, p6, p7, _, _, _, _, _, flags, _, _, _, _, _, _] = header;
            packet.tcp_flags = flags;
            read_ports(packet, [p0, p1, p2, p3, p4, p5, p6, p7]);
        }
        Protocol::SCTP => {
            let [p0, p1, p2, p3, p4, p5, p6, p7, ..] = bytes.load::<12>(offset).ok_or(missing)?;
            read_ports(packet, [p0, p1, p2, p3, p4, p5, p6, p7]);
        }
        Protocol::UDP | Protocol::ICMP | Protocol::ICMPV6 => {
            let head = bytes.load::<8>(offset).ok_or(missing)?;
            read_ports(packet, head);
        }
        _ => {}
    }
    Ok(())
}

/// Fills in ports, or type and identifier, from the first 8 bytes of a transport header.
#[inline(always)]
fn read_ports(packet: &mut Packet, head: [u8; 8]) {
    let [b0, b1, b2, b3, id_hi, id_lo, _, _] = head;
    match packet.protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => {
            packet.src_port = PortBe([b0, b1]);
            packet.dst_port = PortBe([b2, b3]);
        }
        Protocol::ICMP | Protocol::ICMPV6 => {
            packet.icmp_type = b0;
            // The identifier stands in for the port of the end that asks.
            if packet.is_echo_request() {
                packet.src_port = PortBe([id_hi, id_lo]);
            } else if packet.is_echo_reply() {
                packet.dst_port = PortBe([id_hi, id_lo]);
            }
        }
        _ => {}
    }
}
