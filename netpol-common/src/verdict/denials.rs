//! The rules that deny, where NetworkPolicies allow everything: on the way to the own node, and of a pod to itself.

use super::deferred::is_hairpin;
use super::hook_context::HookContext;
use super::view::Ruling;
use crate::addr::Addr;
use crate::ids::{Direction, IfIndex, PortBe, Protocol, RuleId};
use crate::keys::{AllowSlots, AllowValue};
use crate::maps::PolicyMaps;
use crate::packet::Packet;
use crate::reason::{DropReason, PassReason, Verdict};

/// What the rules are asked about, in one word for a BPF function: destination port, protocol and directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked(pub u32);

impl Asked {
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

/// The rule that denies a connection to this address, or would if its policy were enforced: its number in the lower half, and
/// [`AllowValue::DENY`] or [`AllowValue::AUDIT`], plus one, in the upper half. 0 if there is none. A number, because the kernel's maps
/// replace this by a global function, which the verifier walks once.
#[inline(always)]
pub fn denial<M: PolicyMaps>(maps: &M, slots: AllowSlots, addr: &Addr, asked: Asked) -> u64 {
    let [.., directions] = asked.0.to_ne_bytes();
    let (protocol, port) = asked.port();
    let identity = maps.identity(addr);
    let mut found = 0;
    let audited = |rule: RuleId| (u64::from(AllowValue::AUDIT) + 1) << 32 | u64::from(rule.0);
    for direction in Direction::ALL {
        if directions & direction.bit() == 0 {
            continue;
        }
        let Some(value) = maps.allow(slots, direction, identity, protocol, port) else { continue };
        let AllowValue { rule, verdict, .. } = value;
        match verdict {
            AllowValue::DENY => {
                maps.count_rule(rule);
                return (u64::from(AllowValue::DENY) + 1) << 32 | u64::from(rule.0);
            }
            AllowValue::AUDIT => found = audited(rule),
            AllowValue::DEFAULT if rule.0 != RuleId::NONE.0 => found = audited(rule),
            _ => {}
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
    match denial >> 32 {
        0 => None,
        1 => Some(Ruling::new(Verdict::Drop(DropReason::Denied), rule)),
        _ => Some(Ruling::new(Verdict::Pass(PassReason::Audited), rule)),
    }
}
