//! Life of a connection: transitions and timeouts, pure.
//!
//! In: what a packet shows, the entry so far, the coarse time. Out: the next state. The kernel's conntrack
//! is never needed.

use crate::ids::{Direction, Epoch, Nanos, Protocol};
use crate::keys::FlowValue;

/// TCP flag bits in the 14th byte of the header.
pub mod tcp {
    /// The sender is done.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Refuses or breaks a connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;

    /// Whether the flags are those of the first packet of a connection.
    #[inline(always)]
    pub const fn opens(flags: u8) -> bool {
        flags & (SYN | ACK) == SYN
    }
}

/// Only the originator has been heard.
pub const OPENING: u8 = 0;
/// Both ends have been heard, or the connection was picked up in the middle.
pub const OPEN: u8 = 1;
/// A FIN or RST was seen.
pub const CLOSING: u8 = 2;

const SECOND_NS: u64 = 1_000_000_000;

/// An entry is written again for its time alone only when this old.
pub const REFRESH_NS: u64 = SECOND_NS;

/// How long an entry lives without a packet, in nanoseconds.
///
/// The values are those of Linux conntrack, so that what survives there survives here.
#[inline(always)]
pub const fn timeout_ns(protocol: Protocol, state: u8) -> u64 {
    let seconds = match (protocol, state) {
        (Protocol::TCP, OPEN) => 432_000,
        (Protocol::TCP, CLOSING) => 120,
        (Protocol::SCTP, OPEN) => 210,
        (Protocol::TCP | Protocol::SCTP, _) => 60,
        (Protocol::UDP, OPEN) => 180,
        (Protocol::UDP | Protocol::ICMP | Protocol::ICMPV6, _) => 30,
        _ => 600,
    };
    seconds * SECOND_NS
}

/// Whether the entry has outlived its timeout.
#[inline(always)]
pub const fn is_expired(flow: &FlowValue, protocol: Protocol, now: Nanos) -> bool {
    // The coarse clock of another CPU may lag behind: then the difference is huge, not small.
    let age_ns = now.0.saturating_sub(flow.last_seen.0);
    age_ns > timeout_ns(protocol, flow.state)
}

/// The state of a connection after its first packet.
#[inline(always)]
pub const fn first_state(protocol: Protocol, tcp_flags: u8) -> u8 {
    match protocol {
        Protocol::TCP if tcp::opens(tcp_flags) => OPENING,
        Protocol::TCP if tcp_flags & (tcp::FIN | tcp::RST) != 0 => CLOSING,
        Protocol::TCP => OPEN,
        _ => OPENING,
    }
}

/// The state after a further packet.
#[inline(always)]
pub const fn next_state(
    flow: &FlowValue,
    protocol: Protocol,
    direction: Direction,
    tcp_flags: u8,
) -> u8 {
    let is_tcp = protocol.0 == Protocol::TCP.0;
    if is_tcp && tcp_flags & (tcp::FIN | tcp::RST) != 0 {
        return CLOSING;
    }
    let is_reply = direction.to_wire() != flow.origin;
    if flow.state == OPENING && is_reply { OPEN } else { flow.state }
}

/// A packet of a connection, as far as it decides whether anything about that is to be written or decided.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Coarse time.
    pub now: Nanos,
    /// The policy generation.
    pub epoch: Epoch,
    /// Where the packet goes.
    pub direction: Direction,
    /// TCP's flags, 0 for other protocols.
    pub tcp_flags: u8,
}

/// Whether a connection passes this packet with nothing to decide and nothing to write.
#[inline(always)]
pub const fn is_settled(flow: &FlowValue, protocol: Protocol, step: &Step) -> bool {
    // Younger than any timeout.
    let is_fresh = step.now.0.saturating_sub(flow.last_seen.0) < REFRESH_NS;
    let is_decided = flow.epoch.0 == step.epoch.0 && flow.marks & !FlowValue::EXEMPT == 0;
    let state = next_state(flow, protocol, step.direction, step.tcp_flags);
    is_decided && is_fresh && state == flow.state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RuleId;

    fn flow(state: u8) -> FlowValue {
        FlowValue {
            last_seen: Nanos(0),
            epoch: Epoch(0),
            rule: RuleId::NONE,
            origin: Direction::Egress.to_wire(),
            state,
            marks: 0,
            pad: [0; 5],
        }
    }

    #[test]
    fn a_connection_opens_with_the_reply_and_closes_with_fin_or_rst() {
        let check = |state, direction, flags, expected| {
            assert_eq!(next_state(&flow(state), Protocol::TCP, direction, flags), expected);
        };
        check(OPENING, Direction::Egress, tcp::SYN, OPENING);
        check(OPENING, Direction::Ingress, tcp::SYN | tcp::ACK, OPEN);
        check(OPEN, Direction::Egress, tcp::ACK, OPEN);
        check(OPEN, Direction::Egress, tcp::FIN | tcp::ACK, CLOSING);
        check(OPEN, Direction::Ingress, tcp::RST, CLOSING);
        check(CLOSING, Direction::Ingress, tcp::ACK, CLOSING);
        assert_eq!(next_state(&flow(OPENING), Protocol::UDP, Direction::Ingress, 0), OPEN);
        assert_eq!(next_state(&flow(OPENING), Protocol::UDP, Direction::Egress, 0), OPENING);
    }

    #[test]
    fn a_connection_picked_up_in_the_middle_counts_as_open() {
        assert_eq!(first_state(Protocol::TCP, tcp::ACK), OPEN);
        assert_eq!(first_state(Protocol::TCP, tcp::SYN), OPENING);
        assert_eq!(first_state(Protocol::TCP, tcp::RST), CLOSING);
        assert_eq!(first_state(Protocol::UDP, 0), OPENING);
    }

    #[test]
    fn entries_expire_after_their_timeout_and_a_lagging_clock_does_not_expire_them() {
        assert!(!is_expired(&flow(OPENING), Protocol::UDP, Nanos(30 * SECOND_NS)));
        assert!(is_expired(&flow(OPENING), Protocol::UDP, Nanos(30 * SECOND_NS + 1)));
        let seen_later = FlowValue { last_seen: Nanos(100), ..flow(OPEN) };
        assert!(!is_expired(&seen_later, Protocol::TCP, Nanos(50)));
    }
}
