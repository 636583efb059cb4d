//! The parser.

use core::mem::MaybeUninit;

use super::bytes::PacketBytes;
use super::headers::{
    ArpHeader, ExtensionHeader, Ipv4Header, Ipv6Header, SctpTail, TcpTail, TransportHead,
};
use super::parsed::{ETHERNET_LEN, Fragment, MAX_EXTENSION_HEADERS, Packet, Parsed};
use crate::addr::Addr;
use crate::ids::{PortBe, Protocol};
use crate::reason::DropReason;

pub(super) const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
pub(super) const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
pub(super) const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];

const EXT_HOP_BY_HOP: u8 = 0;
const EXT_ROUTING: u8 = 43;
const EXT_FRAGMENT: u8 = 44;
const EXT_AUTHENTICATION: u8 = 51;
const EXT_DESTINATION: u8 = 60;
const EXT_MOBILITY: u8 = 135;
const EXT_HIP: u8 = 139;
const EXT_SHIM6: u8 = 140;

/// Parses a frame into `packet`.
#[inline(always)]
pub fn parse<B: PacketBytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Parsed {
    let mut buffer = MaybeUninit::uninit();
    let Some(ethertype) = bytes.load::<[u8; 2]>(12, &mut buffer) else { return Parsed::NotIp };
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

/// Parses the packet that an ICMP error of this protocol quotes, from byte `start` of the frame on. Sets only the fields that
/// identify a flow.
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

/// An ICMP error quotes at least 8 bytes of the transport header.
#[inline(always)]
fn parse_quoted_ports<B: PacketBytes + ?Sized>(
    bytes: &B,
    quoted: &mut Packet,
) -> Result<(), DropReason> {
    if matches!(quoted.fragment, Fragment::Later) {
        return Err(DropReason::FragmentWithoutFirst);
    }
    let mut buffer = MaybeUninit::uninit();
    let head = bytes.load(quoted.transport_offset, &mut buffer).ok_or(DropReason::Truncated)?;
    read_ports(quoted, head);
    Ok(())
}

#[inline(always)]
fn parse_arp<B: PacketBytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Parsed {
    let mut buffer = MaybeUninit::uninit();
    match bytes.load::<ArpHeader>(ETHERNET_LEN, &mut buffer) {
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
    let mut buffer = MaybeUninit::<Ipv4Header>::uninit();
    let header = bytes.load(start, &mut buffer).ok_or(DropReason::Truncated)?;
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

/// The position in the datagram. The unit of `offset_units` is 8 bytes; `more` is not zero if fragments follow.
#[inline(always)]
const fn fragment(offset_units: u16, more: u16) -> Result<Fragment, DropReason> {
    match (offset_units, more) {
        (0, 0) => Ok(Fragment::Whole),
        (0, _) => Ok(Fragment::First),
        // A fragment that starts inside the longest transport header could overwrite ports that were judged (RFC 1858).
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
    let mut buffer = MaybeUninit::<Ipv6Header>::uninit();
    let header = bytes.load(start, &mut buffer).ok_or(DropReason::Truncated)?;
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
        let mut buffer = MaybeUninit::<ExtensionHeader>::uninit();
        let extension = bytes.load(offset, &mut buffer).ok_or(DropReason::Truncated)?;
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
    // No network stack splits a transport header over fragments unless it is told to.
    let missing = match packet.fragment {
        Fragment::First => DropReason::TinyFragment,
        Fragment::Whole | Fragment::Later => DropReason::Truncated,
    };
    let offset = packet.transport_offset;
    match packet.protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP | Protocol::ICMP | Protocol::ICMPV6 => {
            let mut buffer = MaybeUninit::uninit();
            read_ports(packet, bytes.load(offset, &mut buffer).ok_or(missing)?);
        }
        _ => return Ok(()),
    }
    match packet.protocol {
        Protocol::TCP => {
            let mut buffer = MaybeUninit::<TcpTail>::uninit();
            packet.tcp_flags = bytes.load(offset + 8, &mut buffer).ok_or(missing)?.flags;
        }
        Protocol::SCTP => {
            let mut buffer = MaybeUninit::<SctpTail>::uninit();
            bytes.load(offset + 8, &mut buffer).ok_or(missing)?;
        }
        _ => {}
    }
    Ok(())
}

/// Sets the ports, or the ICMP type and the identifier.
#[inline(always)]
fn read_ports(packet: &mut Packet, head: &TransportHead) {
    match packet.protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => {
            packet.src_port = PortBe(head.first);
            packet.dst_port = PortBe(head.second);
        }
        Protocol::ICMP | Protocol::ICMPV6 => {
            packet.icmp_type = head.first[0];
            // The identifier takes the place of the port of the end that sent the request.
            if packet.is_echo_request() {
                packet.src_port = PortBe(head.third);
            } else if packet.is_echo_reply() {
                packet.dst_port = PortBe(head.third);
            }
        }
        _ => {}
    }
}
