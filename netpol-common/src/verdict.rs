//! The verdict: what happens to a packet, and why.
//!
//! In: a frame, where it was seen, and map look-ups. Out: an [`Outcome`]. The order of the questions is the
//! order of the functions in this file.

use core::fmt;

use crate::addr::Addr;
use crate::flow;
use crate::ids::{Direction, Epoch, Hook, Identity, IfIndex, Nanos, PortBe, Protocol, RuleId};
use crate::keys::{
    AddressKey, AllowKey, AllowMapKey, AllowValue, EndpointValue, FlowKey, FlowValue, FragmentKey,
    FragmentValue,
};
use crate::maps::PolicyMaps;
use crate::packet::{Fragment, Packet, PacketBytes, Parsed};

macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $wire:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant = $wire,)* }

        impl $name {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The reason as metrics and logs spell it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl TryFrom<u8> for $name {
            type Error = u8;

            fn try_from(wire: u8) -> Result<Self, u8> {
                match wire { $($wire => Ok(Self::$variant),)* other => Err(other) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }
    };
}

reasons! {
    /// Why a packet passes.
    PassReason {
        /// No policy isolates the pod in this direction.
        NotIsolated = 1, "not-isolated";
        /// A rule allows it.
        Allowed = 2, "allowed";
        /// It belongs to a connection that was allowed.
        Flow = 3, "flow";
        /// The source is a process of the pod's own node.
        OwnNode = 4, "own-node";
        /// The pod reaches itself through a Service.
        Hairpin = 5, "hairpin";
        /// Egress to a Service or to the own node: decided after Service translation, if at all.
        Deferred = 6, "deferred";
        /// ARP from the pod's own address, or to the pod.
        Arp = 7, "arp";
        /// IPv6 neighbour or multicast listener discovery.
        NeighbourDiscovery = 8, "neighbour-discovery";
        /// An ICMP error about a live connection.
        IcmpError = 9, "icmp-error";
        /// Leaves the node and is no deferred packet.
        NoTicket = 10, "no-ticket";
        /// Would be dropped, but the policies that isolate the pod are only audited.
        Audited = 11, "audited";
    }
}

reasons! {
    /// Why a packet is dropped.
    DropReason {
        /// A policy isolates the pod and no rule allows this.
        NotAllowed = 128, "not-allowed";
        /// An entry that denies.
        Denied = 129, "denied";
        /// A policy change forbade the connection.
        Revoked = 130, "revoked";
        /// The pod's policy is not in force yet.
        Blocked = 131, "blocked";
        /// The interface is no endpoint although the program hangs there.
        UnknownEndpoint = 132, "unknown-endpoint";
        /// The source address is not the pod's.
        Spoofed = 133, "spoofed";
        /// The packet ends before its headers do.
        Truncated = 134, "truncated";
        /// A header contradicts itself.
        BadHeader = 135, "bad-header";
        /// More IPv6 extension headers than are walked.
        ExtensionHeaders = 136, "extension-headers";
        /// A fragment whose datagram's first fragment was not seen.
        FragmentWithoutFirst = 137, "fragment-without-first";
        /// A fragment that splits or rewrites the transport header.
        TinyFragment = 138, "tiny-fragment";
        /// Neither IP nor ARP, or a tagged frame, to or from an isolated pod.
        NotIp = 139, "not-ip";
        /// A deferred packet whose endpoint is gone.
        UnknownTicket = 140, "unknown-ticket";
    }
}

/// What happens to a packet.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It goes on.
    Pass(PassReason),
    /// It ends here.
    Drop(DropReason),
}

impl Verdict {
    /// Whether the packet goes on.
    #[inline(always)]
    pub const fn is_pass(self) -> bool {
        matches!(self, Self::Pass(_))
    }

    /// The number of the reason; 128 and above are drops.
    #[inline(always)]
    pub const fn to_wire(self) -> u8 {
        match self {
            Self::Pass(reason) => reason as u8,
            Self::Drop(reason) => reason as u8,
        }
    }

    /// Whether the packet is counted and reported: drops, and would-be drops of an audit.
    #[inline(always)]
    pub const fn is_reported(self) -> bool {
        matches!(self, Self::Drop(_) | Self::Pass(PassReason::Audited))
    }

    /// The reason in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass(reason) => reason.as_str(),
            Self::Drop(reason) => reason.as_str(),
        }
    }
}

impl TryFrom<u8> for Verdict {
    type Error = u8;

    fn try_from(wire: u8) -> Result<Self, u8> {
        PassReason::try_from(wire)
            .map(Self::Pass)
            .or_else(|_| DropReason::try_from(wire).map(Self::Drop))
    }
}

/// Where and when a packet was seen.
#[derive(Clone, Copy, Debug)]
pub struct Sighting {
    /// The hook.
    pub hook: Hook,
    /// The hook's device.
    pub ifindex: IfIndex,
    /// The device through which the packet came to this node; 0 if the node itself made it
    /// (`__sk_buff.ingress_ifindex`).
    pub ingress_ifindex: u32,
    /// A socket of this node is attached to the packet (`__sk_buff.sk`).
    pub has_socket: bool,
    /// The frame carries a VLAN tag (`__sk_buff.vlan_present`).
    pub is_tagged: bool,
    /// The packet mark.
    pub mark: u32,
    /// The bits of the mark that carry a ticket: 12 adjacent ones.
    pub ticket_mask: u32,
    /// Coarse monotonic time.
    pub now: Nanos,
}

impl Sighting {
    #[inline(always)]
    const fn ticket(&self) -> u16 {
        let ticket = (self.mark & self.ticket_mask) >> (self.ticket_mask.trailing_zeros() & 31);
        let [.., hi, lo] = ticket.to_be_bytes();
        u16::from_be_bytes([hi, lo])
    }

    #[inline(always)]
    const fn mark_with(&self, ticket: u16) -> u32 {
        let [hi, lo] = ticket.to_be_bytes();
        let bits = u32::from_be_bytes([0, 0, hi, lo]) << (self.ticket_mask.trailing_zeros() & 31);
        (self.mark & !self.ticket_mask) | (bits & self.ticket_mask)
    }
}

/// A verdict and all that follows from it.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What happens.
    pub verdict: Verdict,
    /// The rule that decided, if one did.
    pub rule: RuleId,
    /// The packet's new mark.
    pub mark: u32,
    /// The endpoint whose policy decided: not the hook's own one for a deferred egress verdict.
    pub ifindex: IfIndex,
    /// The direction as that endpoint sees it.
    pub direction: Direction,
}

/// A verdict with the rule behind it.
#[derive(Clone, Copy)]
struct Ruling {
    verdict: Verdict,
    rule: RuleId,
}

impl Ruling {
    #[inline(always)]
    const fn pass(reason: PassReason) -> Self {
        Self { verdict: Verdict::Pass(reason), rule: RuleId::NONE }
    }

    #[inline(always)]
    const fn drop(reason: DropReason) -> Self {
        Self { verdict: Verdict::Drop(reason), rule: RuleId::NONE }
    }
}

/// One endpoint's view of a packet.
#[derive(Clone, Copy)]
struct View {
    ifindex: IfIndex,
    endpoint: EndpointValue,
    direction: Direction,
    /// [`FlowKey::stage`].
    stage: u8,
    /// Policy does not apply to this packet, for this reason.
    exempt: Option<PassReason>,
    epoch: Epoch,
    now: Nanos,
}

/// Decides about one frame, and notes in `maps` what later packets need. `packet` is scratch space that
/// afterwards holds what was read from the frame.
///
/// This is the only place where packets are judged: in the kernel, in simulations and in tests.
#[inline(always)]
pub fn decide<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    seen: &Sighting,
    packet: &mut Packet,
) -> Outcome {
    // Kept in memory: else LLVM gives each byte of an address a register, which in BPF is a stack slot.
    let packet = core::hint::black_box(packet);
    match seen.hook {
        Hook::PodEgress => at_pod(maps, bytes, seen, Direction::Egress, packet),
        Hook::PodIngress => at_pod(maps, bytes, seen, Direction::Ingress, packet),
        Hook::UplinkEgress => at_uplink(maps, bytes, seen, packet),
    }
}

/// A packet leaves the node: finishes a deferred egress verdict.
#[inline(always)]
fn at_uplink<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    seen: &Sighting,
    packet: &mut Packet,
) -> Outcome {
    let mut outcome = Outcome {
        verdict: Verdict::Pass(PassReason::NoTicket),
        rule: RuleId::NONE,
        mark: seen.mark,
        ifindex: seen.ifindex,
        direction: Direction::Egress,
    };
    if seen.ticket() == 0 {
        return outcome;
    }
    outcome.mark = seen.mark_with(0);
    let parsed = bytes.parse(packet);
    let ruling = match parsed {
        Parsed::Ip => finish_deferred(maps, bytes, seen, packet, &mut outcome.ifindex),
        Parsed::Arp => Ruling::pass(PassReason::Arp),
        Parsed::NotIp => Ruling::drop(DropReason::NotIp),
        Parsed::Malformed(reason) => Ruling::drop(reason),
    };
    outcome.verdict = ruling.verdict;
    outcome.rule = ruling.rule;
    outcome
}

/// A packet arrives at or comes from a pod.
#[inline(always)]
fn at_pod<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    seen: &Sighting,
    direction: Direction,
    packet: &mut Packet,
) -> Outcome {
    let mut outcome = Outcome {
        verdict: Verdict::Drop(DropReason::UnknownEndpoint),
        rule: RuleId::NONE,
        mark: seen.mark_with(0),
        ifindex: seen.ifindex,
        direction,
    };
    let Some(endpoint) = maps.endpoint(seen.ifindex) else { return outcome };
    if endpoint.state != EndpointValue::READY {
        outcome.verdict = Verdict::Drop(DropReason::Blocked);
        return outcome;
    }
    // Read first: what is decided with a state that changes meanwhile counts as old.
    let epoch = maps.epoch();
    let mut view = View {
        ifindex: seen.ifindex,
        endpoint,
        direction,
        stage: FlowKey::AT_POD,
        exempt: None,
        epoch,
        now: seen.now,
    };
    let parsed = bytes.parse(packet);
    let ruling = match parsed {
        Parsed::Arp => judge_arp(maps, &view, packet.src),
        Parsed::NotIp => unless_isolated(&view, DropReason::NotIp),
        Parsed::Malformed(reason) => unless_isolated(&view, reason),
        Parsed::Ip if seen.is_tagged && endpoint.is_isolated(direction) => {
            unless_isolated(&view, DropReason::NotIp)
        }
        Parsed::Ip => match direction {
            Direction::Egress => {
                if is_spoofed(maps, &view, packet) {
                    Ruling::drop(DropReason::Spoofed)
                } else {
                    judge(maps, bytes, &view, packet)
                }
            }
            Direction::Ingress => {
                let is_hairpin = seen.ingress_ifindex == seen.ifindex.0;
                if seen.ticket() != 0 && !is_hairpin {
                    let mut owner = seen.ifindex;
                    let ruling = finish_deferred(maps, bytes, seen, packet, &mut owner);
                    if !ruling.verdict.is_pass() {
                        outcome.ifindex = owner;
                        outcome.direction = Direction::Egress;
                        outcome.verdict = ruling.verdict;
                        return outcome;
                    }
                }
                if is_hairpin {
                    view.exempt = Some(PassReason::Hairpin);
                } else if seen.ingress_ifindex == 0 && seen.has_socket {
                    view.exempt = Some(PassReason::OwnNode);
                }
                judge(maps, bytes, &view, packet)
            }
        },
    };
    outcome.verdict = ruling.verdict;
    outcome.rule = ruling.rule;
    if matches!(ruling.verdict, Verdict::Pass(PassReason::Deferred))
        && endpoint.is_isolated(direction)
    {
        outcome.mark = seen.mark_with(endpoint.ticket);
    }
    outcome
}

/// The egress verdict of the pod that sent a deferred packet, now that the real destination is known.
/// Leaves that pod's interface in `owner`.
#[inline(always)]
fn finish_deferred<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    seen: &Sighting,
    packet: &Packet,
    owner: &mut IfIndex,
) -> Ruling {
    let Some(ifindex) = maps.ticket_owner(seen.ticket()) else {
        return Ruling::drop(DropReason::UnknownTicket);
    };
    *owner = ifindex;
    let Some(endpoint) = maps.endpoint(ifindex) else {
        return Ruling::drop(DropReason::UnknownTicket);
    };
    let view = View {
        ifindex,
        endpoint,
        direction: Direction::Egress,
        stage: FlowKey::AFTER_NAT,
        exempt: None,
        epoch: maps.epoch(),
        now: seen.now,
    };
    judge(maps, bytes, &view, packet)
}

/// Drops for an isolated pod, passes otherwise: what rules cannot speak about.
#[inline(always)]
fn unless_isolated(view: &View, reason: DropReason) -> Ruling {
    if !view.endpoint.is_isolated(view.direction) {
        return Ruling::pass(PassReason::NotIsolated);
    }
    audited(view, view.direction, reason)
}

/// A drop for want of a rule, or a pass that is reported when the isolation is only audited.
#[inline(always)]
fn audited(view: &View, direction: Direction, reason: DropReason) -> Ruling {
    if view.endpoint.is_audited(direction) {
        Ruling::pass(PassReason::Audited)
    } else {
        Ruling::drop(reason)
    }
}

#[inline(always)]
fn judge_arp<M: PolicyMaps>(maps: &M, view: &View, sender: Addr) -> Ruling {
    let is_own = matches!(view.direction, Direction::Ingress)
        || view.endpoint.forwards()
        || sender.is_unspecified()
        || maps.owns_address(&AddressKey { ifindex: view.ifindex, addr: sender });
    if is_own { Ruling::pass(PassReason::Arp) } else { Ruling::drop(DropReason::Spoofed) }
}

/// Whether a pod sends from an address that is not its own, or plays router.
#[inline(always)]
fn is_spoofed<M: PolicyMaps>(maps: &M, view: &View, packet: &Packet) -> bool {
    if view.endpoint.forwards() {
        return false;
    }
    if packet.is_router_message() {
        return true;
    }
    if maps.owns_address(&AddressKey { ifindex: view.ifindex, addr: packet.src }) {
        return false;
    }
    // Link-local addresses are made by the pod's own kernel and never leave the link; `::` only asks whether
    // an address is free.
    let is_local = packet.src.is_v6_link_local()
        || (packet.src.is_unspecified() && packet.is_neighbour_discovery());
    !is_local
}

/// Judges an IP packet as one endpoint sees it.
#[inline(always)]
fn judge<M: PolicyMaps, B: PacketBytes + ?Sized>(
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
    let mut key = flow_key(view, view.direction, packet);
    if !matches!(packet.fragment, Fragment::Whole)
        && !resolve_fragment(maps, view, packet, &mut key)
    {
        return match view.exempt {
            Some(reason) => Ruling::pass(reason),
            None => unless_isolated(view, DropReason::FragmentWithoutFirst),
        };
    }
    // The first packet of a TCP connection is always decided, whatever an older connection left behind.
    if !(key.protocol.0 == Protocol::TCP.0 && flow::tcp::opens(packet.tcp_flags))
        && let Some(flow) = maps.flow(&key)
        && !flow::is_expired(&flow, key.protocol, view.now)
    {
        return follow(maps, view, packet, &key, flow);
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
    FlowKey {
        ifindex: view.ifindex,
        remote,
        local_port,
        remote_port,
        protocol: packet.protocol,
        stage: view.stage,
        pad: [0; 2],
    }
}

/// Whether an ICMP error quotes a packet of a live connection of this endpoint.
#[inline(always)]
fn quotes_flow<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    view: &View,
    error: &Packet,
) -> bool {
    let mut quoted = Packet::EMPTY;
    // Kept in memory, as `decide` does with its own.
    let quoted = core::hint::black_box(&mut quoted);
    let parsed = bytes.parse_quoted(error.protocol, error.quotation_offset(), quoted);
    if parsed != Parsed::Ip || quoted.src != error.dst {
        return false;
    }
    let key = flow_key(view, view.direction.reversed(), quoted);
    maps.flow(&key).is_some_and(|flow| {
        flow.marks & FlowValue::REVOKED == 0 && !flow::is_expired(&flow, key.protocol, view.now)
    })
}

/// Completes the key of a fragment's connection; false if the first fragment is not known.
#[inline(always)]
fn resolve_fragment<M: PolicyMaps>(
    maps: &M,
    view: &View,
    packet: &Packet,
    key: &mut FlowKey,
) -> bool {
    let datagram = FragmentKey {
        ifindex: view.ifindex,
        id: packet.fragment_id,
        src: packet.src,
        dst: packet.dst,
        protocol: if packet.src.is_v4() { packet.protocol } else { Protocol(0) },
        stage: view.stage,
        direction: view.direction.to_wire(),
        pad: 0,
    };
    if matches!(packet.fragment, Fragment::First) {
        let first = FragmentValue {
            first_seen: view.now,
            src_port: packet.src_port,
            dst_port: packet.dst_port,
            protocol: packet.protocol,
            pad: [0; 3],
        };
        maps.set_fragment(&datagram, &first);
        return true;
    }
    let Some(first) = maps.fragment(&datagram) else { return false };
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

/// A packet of a known connection.
#[inline(always)]
fn follow<M: PolicyMaps>(
    maps: &M,
    view: &View,
    packet: &Packet,
    key: &FlowKey,
    old: FlowValue,
) -> Ruling {
    let mut flow = old;
    let origin = if old.origin == Direction::Ingress.to_wire() {
        Direction::Ingress
    } else {
        Direction::Egress
    };
    let mut audit = false;
    if old.epoch != view.epoch {
        flow.epoch = view.epoch;
        if old.marks & FlowValue::EXEMPT == 0 {
            let ruling = consult(maps, view, origin, key);
            flow.marks &= !(FlowValue::REVOKED | FlowValue::DEFERRED);
            match ruling.verdict {
                Verdict::Pass(reason) => {
                    flow.rule = ruling.rule;
                    audit = matches!(reason, PassReason::Audited);
                    if matches!(reason, PassReason::Deferred) {
                        flow.marks |= FlowValue::DEFERRED;
                    }
                }
                Verdict::Drop(_) => {
                    let is_kept =
                        view.endpoint.keeps_flows(origin) && old.marks & FlowValue::REVOKED == 0;
                    if !is_kept {
                        flow.rule = ruling.rule;
                        flow.marks |= FlowValue::REVOKED;
                    }
                }
            }
        }
    }
    flow.state = flow::next_state(&old, key.protocol, view.direction, packet.tcp_flags);
    if flow != old || view.now.0.saturating_sub(old.last_seen.0) >= flow::REFRESH_NS {
        flow.last_seen = view.now;
        maps.set_flow(key, &flow);
    }
    if flow.marks & FlowValue::REVOKED != 0 {
        return match view.exempt {
            Some(reason) => Ruling::pass(reason),
            None => Ruling { verdict: Verdict::Drop(DropReason::Revoked), rule: flow.rule },
        };
    }
    let reason = if audit {
        PassReason::Audited
    } else if flow.marks & FlowValue::DEFERRED != 0 && matches!(view.direction, Direction::Egress) {
        PassReason::Deferred
    } else {
        PassReason::Flow
    };
    Ruling { verdict: Verdict::Pass(reason), rule: flow.rule }
}

/// The first packet of a connection, or one from the middle of a connection that is not known.
#[inline(always)]
fn begin<M: PolicyMaps>(maps: &M, view: &View, packet: &Packet, key: &FlowKey) -> Ruling {
    let ruling = match view.exempt {
        Some(reason) => Ruling::pass(reason),
        None => consult(maps, view, view.direction, key),
    };
    // Only packets that pass may leave a trace: else a pod could open the way for its answers.
    if let Verdict::Pass(reason) = ruling.verdict {
        let flow = FlowValue {
            last_seen: view.now,
            epoch: view.epoch,
            rule: ruling.rule,
            origin: view.direction.to_wire(),
            state: flow::first_state(key.protocol, packet.tcp_flags),
            marks: match reason {
                PassReason::OwnNode | PassReason::Hairpin => FlowValue::EXEMPT,
                PassReason::Deferred => FlowValue::DEFERRED,
                PassReason::NotIsolated
                | PassReason::Allowed
                | PassReason::Flow
                | PassReason::Arp
                | PassReason::NeighbourDiscovery
                | PassReason::IcmpError
                | PassReason::NoTicket
                | PassReason::Audited => 0,
            },
            pad: [0; 5],
        };
        maps.set_flow(key, &flow);
    }
    ruling
}

/// Asks the policy: may this connection, begun in `origin`, exist?
#[inline(always)]
fn consult<M: PolicyMaps>(maps: &M, view: &View, origin: Direction, key: &FlowKey) -> Ruling {
    if !view.endpoint.is_isolated(origin) {
        return Ruling::pass(PassReason::NotIsolated);
    }
    let port = match origin {
        Direction::Ingress => key.local_port,
        Direction::Egress => key.remote_port,
    };
    if matches!(origin, Direction::Egress)
        && view.stage == FlowKey::AT_POD
        && maps.is_deferred(&key.remote)
    {
        return Ruling::pass(PassReason::Deferred);
    }
    // An echo's identifier is no port.
    let port = match key.protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => port,
        _ => PortBe::ZERO,
    };
    let map = AllowMapKey::new(view.ifindex, origin);
    let identity = maps.identity(&key.remote);
    let mut entry = None;
    if identity != Identity::NONE {
        entry = maps.allow(&map, &AllowKey::lookup(identity, key.protocol, port));
    }
    if entry.is_none() {
        entry = maps.allow(&map, &AllowKey::lookup(Identity::ANY, key.protocol, port));
    }
    match entry {
        Some(value) if value.verdict == AllowValue::ALLOW => {
            Ruling { verdict: Verdict::Pass(PassReason::Allowed), rule: value.rule }
        }
        Some(value) => Ruling { verdict: Verdict::Drop(DropReason::Denied), rule: value.rule },
        None => audited(view, origin, DropReason::NotAllowed),
    }
}
