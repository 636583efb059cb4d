//! Packets that arrive from outside: nobody there sends from the address of a pod of this node. Those of pods of other nodes may take the
//! short cut.

use super::hook_context::HookContext;
use super::judge::quoted_flow;
use super::outcome::{Outcome, Target};
use super::short_cut::{Arrival, is_addressed, is_routable};
use super::spoofing::own_mac;
use super::view::View;
use crate::addr::Addr;
use crate::identities::{N_FAMILIES, family};
use crate::ids::{Direction, Epoch, IfIndex, RuleId};
use crate::keys::{AddressKey, AllowSlots, EndpointValue};
use crate::mac::Mac;
use crate::maps::PolicyMaps;
use crate::packet::{self, Claim, Fragment, Frame, Packet, Parsed, parse_plain};
use crate::reason::{DropReason, PassReason, Verdict};

/// A packet arrives through a device that is no pod's. It costs one look-up, of the source address, and some more if pods of other nodes
/// are behind the device.
#[inline(always)]
pub(super) fn at_uplink_ingress<M: PolicyMaps, B: Frame + ?Sized>(
    maps: &M,
    bytes: &B,
    context: &HookContext,
    packet: &mut Packet,
) -> Outcome {
    let mut outcome = Outcome {
        verdict: Verdict::Pass(PassReason::FromOutside),
        rule: RuleId::NONE,
        mark: context.mark,
        flow_handle: context.flow_handle,
        ifindex: context.ifindex,
        direction: Direction::Ingress,
        audited_sender: IfIndex(0),
        redirect: IfIndex(0),
        target: Target::Hook,
    };
    let is_addressed_here = |family| {
        let overlay = maps.overlay(family);
        // Never, if frames have no link header: then the rest is no part of the program.
        overlay.ifindex == context.ifindex && is_addressed(bytes, overlay.device())
    };
    let is_overlay = !context.is_tagged && (0..N_FAMILIES).any(is_addressed_here);
    let plain = if is_overlay { parse_plain(bytes) } else { None };
    let is_impersonated = match plain {
        Some(plain) => {
            *packet = plain.packet();
            is_impersonated(maps, context, &plain.src)
        }
        None => match packet::claim(bytes) {
            Claim::None => false,
            Claim::Source(source) => is_impersonated(maps, context, &source),
            Claim::Both { source, target } => {
                is_impersonated(maps, context, &source) || is_impersonated(maps, context, &target)
            }
        },
    };
    if is_impersonated {
        // For the report.
        bytes.parse(packet);
        outcome.verdict = Verdict::Drop(DropReason::Impersonated);
        return outcome;
    }
    if !is_overlay {
        return outcome;
    }
    let is_error = plain.is_none()
        && bytes.parse(packet) == Parsed::Ip
        && packet.is_icmp_error()
        && matches!(packet.fragment, Fragment::Whole);
    if plain.is_none() && !is_error {
        return outcome;
    }
    let overlay = maps.overlay(family(&packet.dst));
    let Some(receiver) = maps.owner(&packet.dst) else { return outcome };
    if overlay.ifindex != context.ifindex
        || !is_routable(bytes, packet, overlay.device())
        || own_mac(maps, receiver) == Mac::UNKNOWN
    {
        return outcome;
    }
    let arrival = if is_error {
        arrival_of_error(maps, bytes, context, packet, receiver)
    } else {
        maps.arrival(packet, receiver, context.ifindex, context.now)
    };
    if arrival != Arrival::USUAL {
        outcome.redirect = receiver;
    }
    if arrival == Arrival::POD {
        outcome.target = Target::Pod;
    } else if arrival == Arrival::HOOK {
        outcome.flow_handle = HookContext::REDIRECTED;
    }
    outcome
}

/// Where an ICMP error goes: as the connection that it is about.
#[inline(always)]
fn arrival_of_error<M: PolicyMaps, B: Frame + ?Sized>(
    maps: &M,
    bytes: &B,
    context: &HookContext,
    packet: &Packet,
    receiver: IfIndex,
) -> Arrival {
    let blocked = (EndpointValue::blocked(), AllowSlots(0));
    let mut view = View::of_hook(context, blocked, Direction::Ingress, Epoch(0));
    view.ifindex = receiver;
    match quoted_flow(maps, bytes, &view, packet) {
        Some(redirect) if redirect == context.ifindex => Arrival::HOOK,
        Some(_) | None => Arrival::USUAL,
    }
}

/// Whether the address is that of a pod behind another device. The device can be a pod's own that was an uplink until now.
#[inline(always)]
fn is_impersonated<M: PolicyMaps>(maps: &M, context: &HookContext, addr: &Addr) -> bool {
    maps.is_of_local_pod(addr)
        && !maps.owns_address(&AddressKey { ifindex: context.ifindex, addr: *addr })
}
