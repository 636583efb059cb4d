//! One endpoint's view of a packet: spoofing, fragments, connections, policy.

use core::mem::MaybeUninit;

use super::policy::{audited, consult};
use super::{DropReason, HookContext, PassReason, Verdict};
use crate::addr::Addr;
use crate::flow;
use crate::ids::{Direction, Epoch, IfIndex, Nanos, Protocol, RuleId};
use crate::keys::{AddressKey, EndpointValue, FlowKey, FlowValue, FragmentKey, FragmentValue};
use crate::maps::{AllowSlots, Local, PolicyMaps};
use crate::packet::{Fragment, Packet, PacketBytes, Parsed};

/// A verdict with the rule behind it.
#[derive(Clone, Copy)]
pub(super) struct Ruling {
    pub(super) verdict: Verdict,
    pub(super) rule: RuleId,
    /// [`HookContext::flow_handle`] of a deferred packet.
    pub(super) flow_handle: u16,
}

impl Ruling {
    #[inline(always)]
    pub(super) const fn pass(reason: PassReason) -> Self {
        Self::new(Verdict::Pass(reason), RuleId::NONE)
    }

    #[inline(always)]
    pub(super) const fn drop(reason: DropReason) -> Self {
        Self::new(Verdict::Drop(reason), RuleId::NONE)
    }

    #[inline(always)]
    pub(super) const fn new(verdict: Verdict, rule: RuleId) -> Self {
        Self { verdict, rule, flow_handle: 0 }
    }
}

/// One endpoint's view of a packet.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub(super) ifindex: IfIndex,
    pub(super) endpoint: EndpointValue,
    pub(super) places: AllowSlots,
    pub(super) direction: Direction,
    /// [`FlowKey::stage`].
    pub(super) stage: u8,
    /// The packet's connection has been looked for, and is not there.
    pub(super) is_unknown: bool,
    /// Policy does not apply to this packet, for this reason.
    pub(super) exempt: Option<PassReason>,
    pub(super) epoch: Epoch,
    pub(super) now: Nanos,
}

impl View {
    /// The view of the hook's own endpoint.
    #[inline(always)]
    pub(super) const fn of_hook(
        seen: &HookContext,
        (endpoint, places): (EndpointValue, AllowSlots),
        direction: Direction,
        epoch: Epoch,
    ) -> Self {
        Self {
            ifindex: seen.ifindex,
            endpoint,
            places,
            direction,
            stage: FlowKey::AT_POD,
            is_unknown: false,
            exempt: None,
            epoch,
            now: seen.now,
        }
    }
}

/// Drops for an isolated pod, passes otherwise: what rules cannot speak about.
#[inline(always)]
pub(super) fn unless_isolated(view: &View, reason: DropReason) -> Ruling {
    if !view.endpoint.is_isolated(view.direction) {
        return Ruling::pass(PassReason::NotIsolated);
    }
    audited(view, view.direction, reason)
}

#[inline(always)]
pub(super) fn judge_arp<M: PolicyMaps>(maps: &M, view: &View, sender: &Addr) -> Ruling {
    let is_own = matches!(view.direction, Direction::Ingress)
        || view.endpoint.forwards()
        || sender.is_unspecified()
        || maps.owns_address(&AddressKey { ifindex: view.ifindex, addr: *sender });
    if is_own { Ruling::pass(PassReason::Arp) } else { Ruling::drop(DropReason::Spoofed) }
}

/// Whether a pod sends from an address that is not its own, claims such an address, or plays router.
#[inline(always)]
pub(super) fn is_spoofed<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    view: &View,
    packet: &Packet,
) -> bool {
    if view.endpoint.forwards() {
        return false;
    }
    if packet.is_router_message() {
        return true;
    }
    if packet.is_neighbour_advertisement() {
        let mut room = MaybeUninit::uninit();
        let target = bytes.load::<Addr>(packet.quotation_offset(), &mut room);
        if target.is_none_or(|target| is_foreign(maps, view, target)) {
            return true;
        }
    }
    // `::` only asks whether an address is free.
    let is_question = packet.src.is_unspecified() && packet.is_neighbour_discovery();
    !is_question && is_foreign(maps, view, &packet.src)
}

/// Link-local addresses are made by the pod's own kernel and never leave the link.
#[inline(always)]
fn is_foreign<M: PolicyMaps>(maps: &M, view: &View, addr: &Addr) -> bool {
    !addr.is_v6_link_local()
        && !maps.owns_address(&AddressKey { ifindex: view.ifindex, addr: *addr })
}

/// Judges an IP packet as one endpoint sees it. What reads deeper into the packet is not called from where connections are
/// looked up: BPF has little stack.
#[inline(always)]
pub(super) fn judge<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    view: &View,
    packet: &Packet,
) -> Ruling {
    if packet.is_neighbour_discovery() {
        return Ruling::pass(PassReason::NeighbourDiscovery);
    }
    if packet.is_icmp_error()
        && matches!(packet.fragment, Fragment::Whole)
        && quotes_flow(maps, bytes, view, packet)
    {
        return Ruling::pass(PassReason::IcmpError);
    }
    judge_connection(maps, view, packet)
}

/// Judges an IP packet by the connection that it belongs to or begins.
#[inline(never)]
fn judge_connection<M: PolicyMaps>(maps: &M, view: &View, packet: &Packet) -> Ruling {
    let mut key = flow_key(view, view.direction, packet);
    match packet.fragment {
        Fragment::Whole => {}
        Fragment::First => note_fragment(maps, view, packet),
        Fragment::Later if resolve_fragment(maps, view, packet, &mut key) => {}
        Fragment::Later => {
            return match view.exempt {
                Some(reason) => Ruling::pass(reason),
                None => unless_isolated(view, DropReason::FragmentWithoutFirst),
            };
        }
    }
    // The first packet of a TCP connection is always decided, whatever an older connection left behind.
    let opens = key.protocol.0 == Protocol::TCP.0 && flow::tcp::opens(packet.tcp_flags);
    if !opens && !view.is_unknown {
        let mut flow = FlowValue::UNKNOWN;
        let found = maps.flow(&key, &packet.src, &mut flow);
        if let Some(is_from_there) = found
            && !flow::is_expired(&flow, key.protocol, view.now)
        {
            let is_new = matches!(view.direction, Direction::Egress) && !is_from_there;
            // What is from somewhere new may be from there: that is known by now.
            let local = if is_new { Local::At(&packet.src) } else { Local::Kept };
            return follow(maps, view, packet, &key, &mut flow, local);
        }
    }
    begin(maps, view, packet, &key)
}

/// The key of the packet's connection. For a quotation `direction` is that of the quoted packet.
#[inline(always)]
const fn flow_key(view: &View, direction: Direction, packet: &Packet) -> FlowKey {
    let (remote, local_port, remote_port) = match direction {
        Direction::Ingress => (packet.src, packet.dst_port, packet.src_port),
        Direction::Egress => (packet.dst, packet.src_port, packet.dst_port),
    };
    let ([l0, l1], [r0, r1]) = (local_port.0, remote_port.0);
    let ports = u32::from_ne_bytes([l0, l1, r0, r1]);
    FlowKey::new(view.ifindex, remote, ports, packet.protocol, view.stage)
}

/// Whether an ICMP error quotes a packet of a live connection of this endpoint.
#[inline(never)]
fn quotes_flow<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    view: &View,
    error: &Packet,
) -> bool {
    let mut quoted = Packet::EMPTY;
    let parsed = bytes.parse_quoted(error.protocol, error.quotation_offset(), &mut quoted);
    if parsed != Parsed::Ip || quoted.src != error.dst {
        return false;
    }
    let key = flow_key(view, view.direction.reversed(), &quoted);
    let mut flow = FlowValue::UNKNOWN;
    maps.flow(&key, &quoted.src, &mut flow).is_some()
        && flow.marks & FlowValue::REVOKED == 0
        && !flow::is_expired(&flow, key.protocol, view.now)
}

/// The datagram that a fragment is of.
#[inline(always)]
fn datagram(view: &View, packet: &Packet) -> FragmentKey {
    FragmentKey {
        ifindex: view.ifindex,
        id: packet.fragment_id,
        src: packet.src,
        dst: packet.dst,
        protocol: if packet.src.is_v4() { packet.protocol } else { Protocol(0) },
        stage: view.stage,
        direction: view.direction.to_wire(),
        pad: 0,
    }
}

/// Notes what only the first fragment tells.
#[inline(never)]
fn note_fragment<M: PolicyMaps>(maps: &M, view: &View, packet: &Packet) {
    let first = FragmentValue {
        first_seen: view.now,
        src_port: packet.src_port,
        dst_port: packet.dst_port,
        protocol: packet.protocol,
        pad: [0; 3],
    };
    maps.set_fragment(&datagram(view, packet), &first);
}

/// Completes the key of a later fragment's connection; false if the first fragment is not known.
#[inline(never)]
fn resolve_fragment<M: PolicyMaps>(
    maps: &M,
    view: &View,
    packet: &Packet,
    key: &mut FlowKey,
) -> bool {
    let Some(first) = maps.fragment(&datagram(view, packet)) else { return false };
    // Linux gives a datagram 30 s (IPv4) or 60 s (IPv6) to arrive; numbers are used again later.
    if view.now.0.saturating_sub(first.first_seen.0) > 60_000_000_000 {
        return false;
    }
    key.protocol = first.protocol;
    (key.local_port, key.remote_port) = match view.direction {
        Direction::Ingress => (first.dst_port, first.src_port),
        Direction::Egress => (first.src_port, first.dst_port),
    };
    true
}

/// A packet of a known connection; `local` is where the pod sends from, if that is new.
#[inline(always)]
fn follow<M: PolicyMaps>(
    maps: &M,
    view: &View,
    packet: &Packet,
    key: &FlowKey,
    flow: &mut FlowValue,
    local: Local<'_>,
) -> Ruling {
    let origin = if flow.origin == Direction::Ingress.to_wire() {
        Direction::Ingress
    } else {
        Direction::Egress
    };
    let mut audit = false;
    let is_old = flow.epoch != view.epoch;
    if is_old {
        flow.epoch = view.epoch;
        if flow.marks & FlowValue::EXEMPT == 0 {
            let ruling = consult(maps, view, origin, key);
            let was_revoked = flow.marks & FlowValue::REVOKED != 0;
            flow.marks &= !FlowValue::REVOKED;
            if matches!(view.direction, Direction::Egress) {
                flow.marks &= !FlowValue::DEFERRED;
            }
            match ruling.verdict {
                Verdict::Pass(PassReason::Deferred) => {
                    flow.marks |= FlowValue::DEFERRED;
                    // Nothing new is known: what is revoked stays revoked until it is.
                    if was_revoked {
                        flow.marks |= FlowValue::REVOKED;
                    }
                }
                Verdict::Pass(reason) => {
                    flow.rule = ruling.rule;
                    audit = matches!(reason, PassReason::Audited);
                }
                Verdict::Drop(_) => {
                    let is_kept = view.endpoint.keeps_flows(origin) && !was_revoked;
                    if !is_kept {
                        flow.rule = ruling.rule;
                        flow.marks |= FlowValue::REVOKED;
                    }
                }
            }
        }
    }
    let state = flow::next_state(flow, key.protocol, view.direction, packet.tcp_flags);
    // What comes to the pod does not tell whether it may still send from where it did: its next packet is looked at for that.
    let local = match view.direction {
        Direction::Ingress if is_old => Local::Unknown,
        Direction::Ingress | Direction::Egress => local,
    };
    let is_written = is_old
        || local != Local::Kept
        || state != flow.state
        || view.now.0.saturating_sub(flow.last_seen.0) >= flow::REFRESH_NS;
    if is_written {
        flow.state = state;
        flow.last_seen = view.now;
        maps.set_flow(key, flow, local);
    }
    let is_revoked = flow.marks & FlowValue::REVOKED != 0;
    if flow.marks & FlowValue::DEFERRED != 0 && matches!(view.direction, Direction::Egress) {
        let mut ruling = Ruling::new(Verdict::Pass(PassReason::Deferred), flow.rule);
        if is_written || is_revoked {
            ruling.flow_handle = maps.store_deferred_flow(key);
        }
        return ruling;
    }
    if is_revoked {
        return match view.exempt {
            Some(reason) => Ruling::pass(reason),
            None => Ruling::new(Verdict::Drop(DropReason::Revoked), flow.rule),
        };
    }
    let reason = if audit { PassReason::Audited } else { PassReason::Flow };
    Ruling::new(Verdict::Pass(reason), flow.rule)
}

/// The first packet of a connection, or one from the middle of a connection that is not known.
#[inline(always)]
fn begin<M: PolicyMaps>(maps: &M, view: &View, packet: &Packet, key: &FlowKey) -> Ruling {
    let mut ruling = match view.exempt {
        Some(reason) => Ruling::pass(reason),
        None => consult(maps, view, view.direction, key),
    };
    // Only packets that pass may leave a trace: else a pod could open the way for its answers.
    if let Verdict::Pass(reason) = ruling.verdict {
        let marks = match reason {
            PassReason::OwnNode | PassReason::Hairpin => FlowValue::EXEMPT,
            PassReason::Deferred => FlowValue::DEFERRED,
            PassReason::NotIsolated
            | PassReason::Allowed
            | PassReason::Flow
            | PassReason::Arp
            | PassReason::NeighbourDiscovery
            | PassReason::IcmpError
            | PassReason::NoEgressMark
            | PassReason::Audited => 0,
        };
        let state = flow::first_state(key.protocol, packet.tcp_flags);
        let facts = [view.direction.to_wire(), state, marks];
        let local = match view.direction {
            Direction::Ingress => Local::Unknown,
            Direction::Egress => Local::At(&packet.src),
        };
        let flow = FlowValue::new(view.now, view.epoch, ruling.rule, facts);
        maps.set_flow(key, &flow, local);
        if matches!(reason, PassReason::Deferred) {
            ruling.flow_handle = maps.store_deferred_flow(key);
        }
    }
    ruling
}
