//! The state machine of a flow: transitions and timeouts. Pure.
//!
//! In: the facts of a packet, the flow so far, the coarse time. Out: the next state. The kernel's conntrack is not used.

use crate::ids::{Direction, Epoch, Nanos, Protocol};
use crate::keys::FlowValue;

/// TCP flag bits in the 14th byte of the header.
pub mod tcp {
    /// The sender has no more data.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Refuses or aborts a connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;

    /// Whether the flags are those of the first packet of a connection.
    #[inline(always)]
    pub const fn opens(flags: u8) -> bool {
        flags & (SYN | ACK) == SYN
    }

    /// 1 if the flags are those of the answer to the first packet of a connection, else 0.
    #[inline(always)]
    pub const fn answers(flags: u8) -> u8 {
        (flags >> 1) & (flags >> 4) & 1
    }

    /// Whether a packet with these flags can be the first one of a flow: not an answer, and nothing that ends a connection.
    #[inline(always)]
    pub const fn begins_flow(flags: u8) -> bool {
        answers(flags) == 0 && flags & RST == 0
    }
}

/// Only the originator has sent packets.
pub const OPENING: u8 = 0;
/// Both ends have sent packets, or the flow was created in the middle of a connection.
pub const OPEN: u8 = 1;
/// A FIN or RST has passed.
pub const CLOSING: u8 = 2;

const SECOND_NS: u64 = 1_000_000_000;

/// Age at which a flow is written again if only its time has changed.
pub const REFRESH_NS: u64 = SECOND_NS;

/// Time without a packet after which a flow has expired, in nanoseconds.
///
/// These are the timeouts of Linux conntrack, so that a connection that is known there is known here.
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

/// Whether the flow has expired.
#[inline(always)]
pub const fn is_expired(flow: &FlowValue, protocol: Protocol, now: Nanos) -> bool {
    // The coarse clock of another CPU may be behind. The difference must then be zero and not huge.
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

/// A packet, as far as it decides whether its flow is current.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Coarse time.
    pub now: Nanos,
    /// The policy generation.
    pub epoch: Epoch,
    /// The direction of the packet.
    pub direction: Direction,
    /// TCP flags, 0 for other protocols.
    pub tcp_flags: u8,
}

/// Whether the flow passes this packet without a new decision and without a write.
#[inline(always)]
pub const fn is_current(flow: &FlowValue, protocol: Protocol, step: &Step) -> bool {
    // REFRESH_NS is less than any timeout.
    let is_fresh = step.now.0.saturating_sub(flow.last_seen.0) < REFRESH_NS;
    let is_decided = flow.epoch.0 == step.epoch.0 && flow.marks & !FlowValue::EXEMPT == 0;
    let state = next_state(flow, protocol, step.direction, step.tcp_flags);
    is_decided && is_fresh && state == flow.state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{IfIndex, RuleId};

    fn flow(state: u8) -> FlowValue {
        FlowValue {
            last_seen: Nanos(0),
            epoch: Epoch(0),
            rule: RuleId::NONE,
            origin: Direction::Egress.to_wire(),
            state,
            marks: 0,
            pad: 0,
            redirect: IfIndex(0),
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
    fn a_flow_created_in_the_middle_of_a_connection_is_open() {
        assert_eq!(first_state(Protocol::TCP, tcp::ACK), OPEN);
        assert_eq!(first_state(Protocol::TCP, tcp::SYN), OPENING);
        assert_eq!(first_state(Protocol::TCP, tcp::RST), CLOSING);
        assert_eq!(first_state(Protocol::UDP, 0), OPENING);
    }

    #[test]
    fn flows_expire_after_their_timeout_and_not_because_of_a_lagging_clock() {
        assert!(!is_expired(&flow(OPENING), Protocol::UDP, Nanos(30 * SECOND_NS)));
        assert!(is_expired(&flow(OPENING), Protocol::UDP, Nanos(30 * SECOND_NS + 1)));
        let seen_later = FlowValue { last_seen: Nanos(100), ..flow(OPEN) };
        assert!(!is_expired(&seen_later, Protocol::TCP, Nanos(50)));
    }
}
