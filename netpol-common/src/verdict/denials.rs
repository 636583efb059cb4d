//! The rules that deny, where NetworkPolicies allow everything: on the way to the own node, and of a pod to itself. If connections to the
//! own node need a rule ([`EndpointValue::NODE_NEEDS_RULE`]), what no rule allows is denied too.

use super::deferred::is_hairpin;
use super::hook_context::HookContext;
use super::view::Ruling;
use crate::addr::Addr;
use crate::ids::{Direction, IfIndex, PortBe, Protocol, RuleId};
use crate::keys::{AllowSlots, AllowValue, EndpointValue, NodeKey};
use crate::maps::{self, PolicyMaps};
use crate::packet::{Fragment, Packet};
use crate::reason::{DropReason, PassReason, Verdict};

// A backend of either family has a number in the byte of the directions.
const _: () = assert!(2 * maps::MAX_BACKENDS_OF_PORT < 1 << (8 - Asked::BACKEND_SHIFT));

/// What the rules are asked about, in one word for a BPF function: destination port, protocol, and directions, with what happens where no
/// rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked(pub u32);

impl Asked {
    /// Beside the directions: what no rule allows drops.
    const DROPS: u8 = 4;
    /// Beside the directions: what no rule allows is reported.
    const REPORTS: u8 = 8;
    /// Beside the directions, from this bit on: one more than the index of the backend that is asked about.
    const BACKEND_SHIFT: u32 = 4;

    /// The destination of a packet of this endpoint to the own node.
    #[inline(always)]
    pub(super) const fn to_node(packet: &Packet, endpoint: EndpointValue) -> Self {
        let egress = Direction::Egress;
        // A later fragment has no ports, and is nothing without the first one.
        let needs_rule = endpoint.node_needs_rule()
            && endpoint.is_isolated(egress)
            && !matches!(packet.fragment, Fragment::Later);
        let default = match (needs_rule, endpoint.is_audited(egress)) {
            (false, _) => 0,
            (true, false) => Self::DROPS,
            (true, true) => Self::REPORTS,
        };
        Self::of(packet, egress.bit() | default)
    }

    /// The same about this backend of the port of a Service, instead of the address.
    #[inline(always)]
    const fn about_backend(self, index: u8) -> Self {
        let [hi, lo, protocol, directions] = self.0.to_ne_bytes();
        let backend = (index + 1) << Self::BACKEND_SHIFT;
        Self(u32::from_ne_bytes([hi, lo, protocol, directions | backend]))
    }

    /// The index of the backend, if it is about one.
    #[inline(always)]
    const fn backend(self) -> Option<u8> {
        let [.., directions] = self.0.to_ne_bytes();
        (directions >> Self::BACKEND_SHIFT).checked_sub(1)
    }

    /// The answer of an entry that leaves the verdict to the default: `rule` would deny what NetworkPolicies always allow.
    #[inline(always)]
    const fn by_default(self, rule: RuleId) -> u64 {
        let [.., directions] = self.0.to_ne_bytes();
        if directions & Self::DROPS != 0 {
            NOT_ALLOWED
        } else if directions & Self::REPORTS != 0 || rule.0 != RuleId::NONE.0 {
            audited(rule)
        } else {
            0
        }
    }

    /// The answer of an entry that drops, but for what NetworkPolicies always allow ([`AllowValue::CLOSED`]).
    #[inline(always)]
    const fn if_closed(self) -> u64 {
        let [.., directions] = self.0.to_ne_bytes();
        if directions & (Self::DROPS | Self::REPORTS) != 0 { NOT_ALLOWED } else { 0 }
    }

    /// The destination of a packet, in these directions ([`Direction::bit`]).
    #[inline(always)]
    pub(super) const fn of(packet: &Packet, directions: u8) -> Self {
        // The identifier of an ICMP echo is no port.
        let [hi, lo] = match packet.protocol {
            Protocol::TCP | Protocol::UDP | Protocol::SCTP => packet.dst_port.0,
            _ => PortBe::ZERO.0,
        };
        Self(u32::from_ne_bytes([hi, lo, packet.protocol.0, directions]))
    }

    /// The protocol and the port.
    #[inline(always)]
    pub const fn port(self) -> (Protocol, PortBe) {
        let [hi, lo, protocol, _] = self.0.to_ne_bytes();
        (Protocol(protocol), PortBe([hi, lo]))
    }
}

/// The [`denial`] if no rule allows the connection.
const NOT_ALLOWED: u64 = (AllowValue::CLOSED as u64 + 1) << 32;

/// The [`denial`] by an enforced rule.
#[inline(always)]
const fn denied(rule: RuleId) -> u64 {
    (AllowValue::DENY as u64 + 1) << 32 | rule.0 as u64
}

/// The [`denial`] by a rule of an audited policy, which would deny, or by no rule of audited policies.
#[inline(always)]
const fn audited(rule: RuleId) -> u64 {
    (AllowValue::AUDIT as u64 + 1) << 32 | rule.0 as u64
}

/// The rule that denies a connection to this address, or would if its policy were enforced: its number in the lower half, and
/// [`AllowValue::DENY`] or [`AllowValue::AUDIT`], plus one, in the upper half. If no rule allows what needs one, [`AllowValue::CLOSED`] plus
/// one, without a rule. 0 if nothing denies. A number, because the kernel's maps replace this by a global function, which the verifier walks
/// once.
#[inline(always)]
pub fn denial<M: PolicyMaps>(maps: &M, slots: AllowSlots, addr: &Addr, asked: Asked) -> u64 {
    let [.., directions] = asked.0.to_ne_bytes();
    let (protocol, mut port) = asked.port();
    let mut addr = *addr;
    if let Some(index) = asked.backend() {
        let key = NodeKey::port_of(addr, protocol, port).at(index);
        let Some(backend) = maps.node_backend(&key) else { return NO_BACKEND };
        (addr, port) = (backend.addr, backend.port);
    }
    let identity = maps.identity(&addr);
    let mut found = 0;
    for direction in Direction::ALL {
        if directions & direction.bit() == 0 {
            continue;
        }
        let value = maps.allow(slots, direction, identity, protocol, port);
        let AllowValue { rule, verdict, .. } = value.unwrap_or(AllowValue::DEFAULT_VALUE);
        let number = match verdict {
            AllowValue::DENY => {
                maps.count_rule(rule);
                return denied(rule);
            }
            AllowValue::AUDIT => audited(rule),
            AllowValue::DEFAULT => asked.by_default(rule),
            AllowValue::CLOSED => asked.if_closed(),
            _ => 0,
        };
        if number != 0 {
            found = number;
        }
    }
    found
}

/// What [`denial`] answers about a backend that does not exist.
const NO_BACKEND: u64 = u64::MAX;

/// The [`denial`] of a connection to the own node, or to a port of a Service, asked about each backend on the own node's network: to
/// these the packet passes no other hook. One that drops comes before one that is only reported. What the node translates goes on to a
/// pod, and is judged there.
#[inline(always)]
pub fn denial_at_node<M: PolicyMaps>(
    maps: &M,
    slots: AllowSlots,
    addr: &Addr,
    asked: Asked,
) -> u64 {
    let (protocol, port) = asked.port();
    if maps.is_own_node(addr, protocol, port) {
        return maps.denial(slots, addr, asked);
    }
    let mut found = 0;
    for index in 0..2 * maps::MAX_BACKENDS_OF_PORT {
        let number = maps.denial(slots, addr, asked.about_backend(index));
        if number == NO_BACKEND {
            break;
        }
        if number != 0 {
            found = number;
        }
        if number != 0 && number >> 32 != audited(RuleId::NONE) >> 32 {
            break;
        }
    }
    found
}

/// The [`denial`] of a connection of a pod to itself through a Service, in both directions. 0 for any other packet to the pod, and for
/// answers, which have no egress mark. The source is not read, because the node may have replaced it.
#[inline(always)]
pub fn denial_to_itself<M: PolicyMaps>(
    maps: &M,
    ifindex: IfIndex,
    ingress_ifindex: u32,
    egress_mark: u16,
    packet: &Packet,
) -> u64 {
    if egress_mark == 0 || !is_hairpin(maps, ifindex, ingress_ifindex, egress_mark) {
        return 0;
    }
    let Some((_, slots, _)) = maps.endpoint(ifindex) else { return 0 };
    let both = Direction::Ingress.bit() | Direction::Egress.bit();
    maps.denial(slots, &packet.dst, Asked::of(packet, both))
}

/// The ruling of an enforced [`denial_to_itself`].
#[inline(always)]
pub(super) fn denied_to_itself<M: PolicyMaps>(
    maps: &M,
    context: &HookContext,
    packet: &Packet,
) -> Option<Ruling> {
    ruled_to_itself(maps, context, packet).filter(|ruling| !ruling.verdict.is_pass())
}

/// The ruling of an audited [`denial_to_itself`], which counts for its rule. Asked after [`denied_to_itself`], which found no enforced
/// one, and only once for a connection.
#[inline(always)]
pub(super) fn audited_to_itself<M: PolicyMaps>(
    maps: &M,
    context: &HookContext,
    packet: &Packet,
) -> Option<Ruling> {
    let audited =
        ruled_to_itself(maps, context, packet).filter(|ruling| ruling.verdict.is_pass())?;
    maps.count_rule(audited.rule);
    Some(audited)
}

#[inline(always)]
fn ruled_to_itself<M: PolicyMaps>(
    maps: &M,
    context: &HookContext,
    packet: &Packet,
) -> Option<Ruling> {
    let HookContext { ifindex, ingress_ifindex, .. } = *context;
    ruling(maps.denial_to_itself(ifindex, ingress_ifindex, context.egress_mark(), packet))
}

/// The ruling of a [`denial`].
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the lower half is a rule")]
pub(super) const fn ruling(denial: u64) -> Option<Ruling> {
    let rule = RuleId(denial as u32);
    if denial == 0 {
        None
    } else if denial == denied(rule) {
        Some(Ruling::new(Verdict::Drop(DropReason::Denied), rule))
    } else if denial == audited(rule) {
        Some(Ruling::new(Verdict::Pass(PassReason::Audited), rule))
    } else {
        Some(Ruling::drop(DropReason::NotAllowed))
    }
}
