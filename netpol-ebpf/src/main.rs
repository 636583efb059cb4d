//! The kernel edge: TC programs that call [`decide`] and execute the outcome.
//!
//! In: packets at the host's end of pod interfaces and at uplinks. Out: pass or drop, the packet mark,
//! flow entries, counters, events. Must not: decide anything.
//!
//! For the host this is an empty program, so that the usual tools check the crate.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        internal_features,
        reason = "BPF adds atomically, but core offers that only with compare-and-swap"
    )
)]
#![expect(
    clippy::inline_always,
    reason = "the BPF target allows 5 arguments, and 512 bytes of stack over all calls; inlined functions need neither"
)]
#![expect(unsafe_code, reason = "the kernel's context and map values are raw pointers")]
#![warn(clippy::multiple_unsafe_ops_per_block)]

use aya_ebpf::Global;
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::macro_support::{Level, level_enabled};
use netpol_common::identities::family;
use netpol_common::ids::{Hook, Nanos};
use netpol_common::mac::Mac;
use netpol_common::maps::PolicyMaps as _;
use netpol_common::packet::{ETHERNET_LEN, Frame as _, Packet};
use netpol_common::verdict::{DEFAULT_MARK_MASK, Target, decide};

use crate::policy_maps::KernelMaps;
use crate::skb::{FROM_NETWORK_HEADER, Skb, redirect_to_hook, redirect_to_overlay};

mod emit;
mod flows;
mod identities;
mod look_up;
mod maps;
mod policy_maps;
mod skb;

/// `TCX_NEXT`, also `TC_ACT_UNSPEC`: other programs on the device still run.
const NEXT: i32 = -1;
/// `TCX_PASS`: no other program on the device runs.
const LAST: i32 = 0;
/// `TC_ACT_SHOT`.
const DROP: i32 = 2;

/// Bits of the packet mark that carry an egress mark. User space sets it before loading.
#[unsafe(no_mangle)]
static MARK_MASK: Global<u32> = Global::new(DEFAULT_MARK_MASK);

/// TC egress of a pod's host interface: packets to the pod.
#[classifier]
#[inline(always)]
fn pod_ingress(ctx: TcContext) -> i32 {
    act::<ETHERNET_LEN, NEXT>(ctx, Hook::PodIngress)
}

/// TC ingress of a pod's host interface: packets from the pod.
#[classifier]
#[inline(always)]
fn pod_egress(ctx: TcContext) -> i32 {
    act::<ETHERNET_LEN, NEXT>(ctx, Hook::PodEgress)
}

/// [`pod_ingress`] on a TCX link, while the filter of the same device is still attached. Filters run after links; this program ends
/// the chain, so that each packet is judged once.
#[classifier]
#[inline(always)]
fn pod_ingress_last(ctx: TcContext) -> i32 {
    act::<ETHERNET_LEN, LAST>(ctx, Hook::PodIngress)
}

/// The same for [`pod_egress`].
#[classifier]
#[inline(always)]
fn pod_egress_last(ctx: TcContext) -> i32 {
    act::<ETHERNET_LEN, LAST>(ctx, Hook::PodEgress)
}

/// TC egress of the node's other interfaces: packets that leave the node.
#[classifier]
#[inline(always)]
fn uplink_egress(ctx: TcContext) -> i32 {
    act::<ETHERNET_LEN, NEXT>(ctx, Hook::UplinkEgress)
}

/// The same for devices whose frames start with the IP header (tunnels).
#[classifier]
#[inline(always)]
fn uplink_egress_l3(ctx: TcContext) -> i32 {
    act::<0, NEXT>(ctx, Hook::UplinkEgress)
}

/// TC ingress of the node's other interfaces: packets that arrive from outside.
#[classifier]
#[inline(always)]
fn uplink_ingress(ctx: TcContext) -> i32 {
    act::<ETHERNET_LEN, NEXT>(ctx, Hook::UplinkIngress)
}

/// The same for devices whose frames start with the IP header.
#[classifier]
#[inline(always)]
fn uplink_ingress_l3(ctx: TcContext) -> i32 {
    act::<FROM_NETWORK_HEADER, NEXT>(ctx, Hook::UplinkIngress)
}

#[inline(always)]
fn act<const LINK_HEADER_LEN: u32, const PASS: i32>(ctx: TcContext, hook: Hook) -> i32 {
    let skb = Skb::<LINK_HEADER_LEN>(ctx);
    // SAFETY: the helper has no arguments.
    let now = Nanos(unsafe { bpf_ktime_get_coarse_ns() });
    let context = || skb.hook_context(hook, MARK_MASK.load(), now);
    let mut packet = Packet::EMPTY;
    let mut outcome = decide(&KernelMaps, &skb, context, &mut packet);
    let context = context();
    if outcome.mark != context.mark {
        skb.0.set_mark(outcome.mark);
    }
    if outcome.flow_handle != context.flow_handle {
        skb.set_flow_handle(outcome.flow_handle);
    }
    if outcome.verdict.is_reported() {
        emit::report(&outcome, &packet, skb.network_len_bytes(), context.now);
    }
    if level_enabled(Level::Info) {
        if packet == Packet::EMPTY {
            // The packet passed without being parsed.
            let _parsed = skb.parse(&mut packet);
        }
        emit::trace(&skb.0, &outcome, &packet);
    }
    if matches!(hook, Hook::PodEgress) && outcome.redirect.0 != 0 && outcome.verdict.is_pass() {
        return match outcome.target {
            Target::Pod => skb.redirect_to_pod(outcome.redirect),
            Target::Hook => redirect_to_hook(outcome.redirect),
            Target::Overlay if skb.route(&packet.dst) => redirect_to_overlay(outcome.redirect),
            Target::Overlay => DROP,
        };
    }
    if matches!(hook, Hook::UplinkIngress) && outcome.redirect.0 != 0 {
        let gateway = KernelMaps.overlay(family(&packet.dst)).gateway();
        let pod = KernelMaps.mac(outcome.redirect).unwrap_or(Mac::UNKNOWN);
        return if !skb.route(&packet.dst) || !skb.readdress(pod, gateway) {
            DROP
        } else if matches!(outcome.target, Target::Pod) {
            skb.redirect_to_pod(outcome.redirect)
        } else {
            redirect_to_hook(outcome.redirect)
        };
    }
    let action = if outcome.verdict.is_pass() { PASS } else { DROP };
    if outcome.turn_to_audited_sender() {
        emit::report(&outcome, &packet, skb.network_len_bytes(), context.now);
    }
    action
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// The verifier refuses a program that can reach this.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel asks for a GPL-compatible licence before it lets a program call some helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
