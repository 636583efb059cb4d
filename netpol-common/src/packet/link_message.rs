//! Messages of the link: neighbour discovery and multicast listener discovery.
//!
//! They pass whatever policies say, so they must not leave the link and must not carry a payload. Only messages in the form that
//! the standards prescribe count: RFC 4861 (neighbour discovery), RFC 2710 and RFC 3810 (multicast listener discovery).

use core::mem::MaybeUninit;

use super::bytes::PacketBytes;
use super::headers::{NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION};
use super::parsed::{ETHERNET_LEN, Packet};
use crate::addr::Addr;
use crate::ids::Direction;
use crate::mac::Mac;

const LISTENER_QUERY: u8 = 130;
const LISTENER_REPORT: u8 = 131;
const LISTENER_DONE: u8 = 132;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const REDIRECT: u8 = 137;
const LISTENER_REPORT_V2: u8 = 143;

/// Length of an IPv6 header, bytes.
const IPV6_LEN: u32 = 40;
/// The hop-by-hop header of multicast listener discovery, before ICMPv6: the router alert option, padded to 8 bytes.
const ROUTER_ALERT: [u8; 8] = [58, 0, 5, 2, 0, 0, 1, 0];
/// A message with more options is none of the link.
const MAX_OPTIONS: u32 = 6;
/// A report about more multicast groups is none of the link.
const MAX_GROUPS: u32 = 16;

/// The flags of a neighbour advertisement: router, solicited, override.
const ADVERTISEMENT_FLAGS: u8 = 0xe0;
/// Option of neighbour discovery: the sender's MAC address.
const SOURCE_MAC: u8 = 1;
/// Option of neighbour discovery: the target's MAC address.
const TARGET_MAC: u8 = 2;
/// Option of neighbour discovery: a random number (RFC 3971), which Linux adds to its probes (RFC 7527).
const NONCE: u8 = 14;

/// Whether an unfragmented ICMPv6 packet is a message of the link.
#[inline(always)]
pub fn is_link_message<B: PacketBytes + ?Sized>(
    bytes: &B,
    direction: Direction,
    packet: &Packet,
) -> bool {
    let mut buffer = MaybeUninit::<[u8; 4]>::uninit();
    let Some(&[hi, lo, _, hop_limit]) = bytes.load(ETHERNET_LEN + 4, &mut buffer) else {
        return false;
    };
    let end = ETHERNET_LEN + IPV6_LEN + u32::from(u16::from_be_bytes([hi, lo]));
    let mut buffer = MaybeUninit::<u8>::uninit();
    if bytes.load(end, &mut buffer).is_some() {
        // Bytes behind the packet would be a payload.
        return false;
    }
    let start = packet.transport_offset;
    let mut buffer = MaybeUninit::<[u8; 8]>::uninit();
    let Some(head) = bytes.load(start, &mut buffer) else { return false };
    let Some(len) = end.checked_sub(start) else { return false };
    match (hop_limit, start - ETHERNET_LEN - IPV6_LEN) {
        (255, 0) => is_neighbour_message(bytes, direction, packet, head, len),
        (1, 8) => is_listener_message(bytes, packet, head, len),
        _ => false,
    }
}

/// `head` is the beginning of the message, `len` its length in bytes.
#[inline(always)]
fn is_neighbour_message<B: PacketBytes + ?Sized>(
    bytes: &B,
    direction: Direction,
    packet: &Packet,
    head: &[u8; 8],
    len: u32,
) -> bool {
    let [kind, code, _, _, flags, reserved @ ..] = *head;
    let has_target = matches!(kind, NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT | REDIRECT);
    let mut buffer = MaybeUninit::<Addr>::uninit();
    let target = if has_target {
        bytes.load(packet.quotation_offset(), &mut buffer)
    } else {
        Some(&packet.dst)
    };
    let Some(target) = target else { return false };
    let is_plain = flags == 0 && reserved == [0; 3];
    let is_from_router = packet.src.is_v6_link_local();
    let is_probe = packet.src.is_unspecified();
    let dst = &packet.dst;
    let (is_valid, fixed_len, max_len) = match kind {
        ROUTER_SOLICITATION => {
            (is_plain && (*dst == Addr::ALL_ROUTERS || dst.is_v6_link_local()), 8, 16)
        }
        ROUTER_ADVERTISEMENT => {
            (is_from_router && (*dst == Addr::ALL_NODES || !dst.is_v6_multicast()), 16, 240)
        }
        NEIGHBOUR_SOLICITATION => {
            let is_solicited = *dst == target.solicited_node();
            let is_unicast = dst == target && !is_probe;
            (is_plain && (is_solicited || is_unicast), 24, 40)
        }
        NEIGHBOUR_ADVERTISEMENT => {
            let is_plain = flags | ADVERTISEMENT_FLAGS == ADVERTISEMENT_FLAGS && reserved == [0; 3];
            let is_valid = *dst == Addr::ALL_NODES || !dst.is_v6_multicast();
            (is_plain && is_valid && !is_probe && !target.is_v6_multicast(), 24, 32)
        }
        REDIRECT => (is_plain && is_from_router && !dst.is_v6_multicast(), 40, 48),
        _ => return false,
    };
    if !is_valid || code != 0 || len < fixed_len || len > max_len {
        return false;
    }
    let options = packet.transport_offset + fixed_len;
    has_own_options(bytes, direction, kind, is_probe, options, packet.transport_offset + len)
}

/// Whether the bytes from `offset` to `end` are options that a message of this kind may have, in their fixed sizes.
#[expect(
    clippy::fn_params_excessive_bools,
    clippy::match_same_arms,
    reason = "other forms cost the verifier a tenth more"
)]
#[inline(always)]
fn has_own_options<B: PacketBytes + ?Sized>(
    bytes: &B,
    direction: Direction,
    kind: u8,
    is_probe: bool,
    mut offset: u32,
    end: u32,
) -> bool {
    for _ in 0..MAX_OPTIONS {
        if offset >= end {
            break;
        }
        let mut buffer = MaybeUninit::<[u8; 8]>::uninit();
        let Some(&[option, n_units, mac @ ..]) = bytes.load(offset, &mut buffer) else {
            return false;
        };
        let is_known = match (kind, option, n_units) {
            (ROUTER_SOLICITATION | NEIGHBOUR_SOLICITATION, SOURCE_MAC, 1) => {
                !is_probe && is_senders(bytes, direction, mac)
            }
            (NEIGHBOUR_SOLICITATION, NONCE, 1) => is_probe,
            (NEIGHBOUR_ADVERTISEMENT, TARGET_MAC, 1) => is_senders(bytes, direction, mac),
            (REDIRECT, TARGET_MAC, 1) => true,
            // MAC address, prefix, MTU, route (RFC 4191), name servers and search list (RFC 8106).
            (ROUTER_ADVERTISEMENT, 1 | 5, 1) | (ROUTER_ADVERTISEMENT, 3, 4) => true,
            (ROUTER_ADVERTISEMENT, 24, 1..=3) | (ROUTER_ADVERTISEMENT, 25 | 31, 2..=8) => true,
            _ => false,
        };
        if !is_known {
            return false;
        }
        offset += u32::from(n_units) * 8;
    }
    offset == end
}

/// Whether a pod announces its own MAC address. Routers and other hosts may announce that of another device.
#[inline(always)]
fn is_senders<B: PacketBytes + ?Sized>(bytes: &B, direction: Direction, mac: [u8; 6]) -> bool {
    match direction {
        Direction::Ingress => true,
        Direction::Egress => bytes.pod_mac(direction).is_none_or(|own| own == Mac::new(mac)),
    }
}

/// As [`is_neighbour_message`], behind a hop-by-hop header.
#[inline(always)]
fn is_listener_message<B: PacketBytes + ?Sized>(
    bytes: &B,
    packet: &Packet,
    head: &[u8; 8],
    len: u32,
) -> bool {
    let mut buffer = MaybeUninit::<[u8; 8]>::uninit();
    let alert = bytes.load(ETHERNET_LEN + IPV6_LEN, &mut buffer);
    let [kind, .., hi, lo] = *head;
    let n_groups = u32::from(u16::from_be_bytes([hi, lo]));
    let has_length = match kind {
        LISTENER_QUERY => matches!(len, 24 | 28),
        LISTENER_REPORT | LISTENER_DONE => len == 24,
        LISTENER_REPORT_V2 => n_groups <= MAX_GROUPS && len == 8 + 20 * n_groups,
        _ => false,
    };
    // A report may come before the sender has an address (RFC 3590).
    let is_report = matches!(kind, LISTENER_REPORT | LISTENER_REPORT_V2);
    let is_from_link = packet.src.is_v6_link_local() || (is_report && packet.src.is_unspecified());
    has_length
        && is_from_link
        && packet.dst.is_v6_multicast()
        && alert.is_some_and(|alert| *alert == ROUTER_ALERT)
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::packet::{Parsed, parse};

    const MAC: [u8; 6] = [0x0a, 0x58, 0, 0, 0, 1];
    const LINK_LOCAL: &str = "fe80::1";
    const GLOBAL: &str = "fd00::1";

    fn address(text: &str) -> Addr {
        Addr::from(text.parse::<core::net::IpAddr>().unwrap())
    }

    struct Message<'a> {
        hop_limit: u8,
        src: &'a str,
        dst: &'a str,
        /// The hop-by-hop header.
        extension: &'a [u8],
        icmp: Vec<u8>,
        trailer: &'a [u8],
    }

    impl Message<'_> {
        fn is_of_link(&self, direction: Direction) -> bool {
            let next = if self.extension.is_empty() { 58 } else { 0 };
            let len = u16::try_from(self.extension.len() + self.icmp.len()).unwrap();
            let [hi, lo] = len.to_be_bytes();
            let mut frame = [[1; 6], MAC].concat();
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, hi, lo, next, self.hop_limit]);
            frame.extend(address(self.src).0);
            frame.extend(address(self.dst).0);
            frame.extend(self.extension);
            frame.extend(&self.icmp);
            frame.extend(self.trailer);
            let mut packet = Packet::EMPTY;
            assert_eq!(parse(frame.as_slice(), &mut packet), Parsed::Ip);
            is_link_message(frame.as_slice(), direction, &packet)
        }
    }

    /// A neighbour message about `fe80::2`, with these options.
    fn neighbour(kind: u8, options: &[u8]) -> Vec<u8> {
        [&[kind, 0, 0, 0, 0, 0, 0, 0], address("fe80::2").0.as_slice(), options].concat()
    }

    /// An option with a MAC address.
    fn option(kind: u8, mac: [u8; 6]) -> [u8; 8] {
        [&[kind, 1], mac.as_slice()].concat().try_into().unwrap()
    }

    fn solicitation(options: &[u8]) -> Message<'static> {
        Message {
            hop_limit: 255,
            src: GLOBAL,
            dst: "ff02::1:ff00:2",
            extension: &[],
            icmp: neighbour(NEIGHBOUR_SOLICITATION, options),
            trailer: &[],
        }
    }

    fn report(n_groups: u8, len: usize) -> Message<'static> {
        let mut icmp = vec![LISTENER_REPORT_V2, 0, 0, 0, 0, 0, 0, n_groups];
        icmp.resize(len, 0);
        Message {
            hop_limit: 1,
            src: LINK_LOCAL,
            dst: "ff02::16",
            extension: &ROUTER_ALERT,
            icmp,
            trailer: &[],
        }
    }

    fn both(message: &Message<'_>) -> bool {
        let outcomes = Direction::ALL.map(|direction| message.is_of_link(direction));
        assert_eq!(outcomes[0], outcomes[1]);
        outcomes[0]
    }

    #[test]
    fn the_messages_of_a_kernel_are_of_the_link() {
        let own = option(SOURCE_MAC, MAC);
        let target = option(TARGET_MAC, MAC);
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        assert!(both(&solicitation(&[])));
        assert!(both(&solicitation(&own)));
        assert!(both(&Message { src: "::", ..solicitation(&nonce) }));
        assert!(both(&Message { dst: "fe80::2", ..solicitation(&own) }), "a unicast probe");
        let icmp = neighbour(NEIGHBOUR_ADVERTISEMENT, &target);
        assert!(both(&Message { dst: "ff02::1", icmp: icmp.clone(), ..solicitation(&[]) }));
        assert!(both(&Message { dst: "fe80::9", icmp, ..solicitation(&[]) }));
        let icmp = [[ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0], own].concat();
        assert!(both(&Message { dst: "ff02::2", src: LINK_LOCAL, icmp, ..solicitation(&[]) }));
        assert!(both(&report(2, 48)));
        assert!(both(&Message { src: "::", ..report(1, 28) }));
    }

    #[test]
    fn messages_that_left_a_link_or_carry_a_payload_are_not_of_the_link() {
        let own = option(SOURCE_MAC, MAC);
        assert!(!both(&Message { hop_limit: 254, ..solicitation(&[]) }));
        assert!(!both(&Message { hop_limit: 2, ..report(1, 28) }));
        assert!(!both(&Message { extension: &[], ..report(1, 28) }));
        assert!(!both(&Message { src: GLOBAL, ..report(1, 28) }));
        assert!(!both(&report(1, 240)));
        assert!(!both(&report(17, 8 + 17 * 20)));
        assert!(!both(&Message { trailer: &[7; 240], ..solicitation(&[]) }));
        assert!(!both(&solicitation(&[7; 240][..200])), "an unknown option");
        assert!(!both(&solicitation(&own.repeat(5))), "an option too often");
        assert!(!both(&solicitation(&[14, 1, 1, 2, 3, 4, 5, 6])), "a nonce without a probe");
        assert!(!both(&Message { src: "::", ..solicitation(&own) }));
        assert!(!both(&Message { dst: GLOBAL, ..solicitation(&[]) }), "another target");
        let other = option(SOURCE_MAC, [0x0a, 0x58, 0, 0, 0, 2]);
        assert!(!solicitation(&other).is_of_link(Direction::Egress), "another MAC address");
        assert!(solicitation(&other).is_of_link(Direction::Ingress));
        for kind in [130, 131, 132, 134, 137, 138, 141, 143] {
            let icmp = neighbour(kind, &[0; 216]);
            assert!(!both(&Message { icmp, ..solicitation(&[]) }), "{kind}");
        }
    }

    #[test]
    fn a_router_advertisement_may_have_the_options_of_routers() {
        let prefix = [[3, 4, 64, 0xc0].as_slice(), &[0; 28]].concat();
        let servers = [[25, 3].as_slice(), &[0; 22]].concat();
        let head = [ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        let icmp = [head.as_slice(), &prefix, &servers].concat();
        let advertisement = Message { src: LINK_LOCAL, dst: "ff02::1", icmp, ..solicitation(&[]) };
        assert!(both(&advertisement));
        assert!(!both(&Message { src: GLOBAL, ..advertisement }));
    }
}
