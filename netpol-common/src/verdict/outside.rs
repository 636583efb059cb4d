//! Packets that arrive from outside: nobody there sends from the address of a pod of this node.

use super::hook_context::HookContext;
use super::outcome::Outcome;
use crate::addr::Addr;
use crate::ids::{Direction, IfIndex, RuleId};
use crate::keys::AddressKey;
use crate::maps::PolicyMaps;
use crate::packet::{self, Claim, Frame, Packet};
use crate::reason::{DropReason, PassReason, Verdict};

/// A packet arrives through a device that is no pod's. It costs one look-up, of the source address.
#[inline(always)]
pub(super) fn at_uplink_ingress<M: PolicyMaps, B: Frame + ?Sized>(
    maps: &M,
    bytes: &B,
    context: &HookContext,
    packet: &mut Packet,
) -> Outcome {
    let is_impersonated = match packet::claim(bytes) {
        Claim::None => false,
        Claim::Source(source) => is_impersonated(maps, context, &source),
        Claim::Both { source, target } => {
            is_impersonated(maps, context, &source) || is_impersonated(maps, context, &target)
        }
    };
    let verdict = if is_impersonated {
        // For the report.
        bytes.parse(packet);
        Verdict::Drop(DropReason::Impersonated)
    } else {
        Verdict::Pass(PassReason::FromOutside)
    };
    Outcome {
        verdict,
        rule: RuleId::NONE,
        mark: context.mark,
        flow_handle: context.flow_handle,
        ifindex: context.ifindex,
        direction: Direction::Ingress,
        audited_sender: IfIndex(0),
        redirect: IfIndex(0),
    }
}

/// Whether the address is that of a pod behind another device. The device can be a pod's own that was an uplink until now.
#[inline(always)]
fn is_impersonated<M: PolicyMaps>(maps: &M, context: &HookContext, addr: &Addr) -> bool {
    maps.is_of_local_pod(addr)
        && !maps.owns_address(&AddressKey { ifindex: context.ifindex, addr: *addr })
}
