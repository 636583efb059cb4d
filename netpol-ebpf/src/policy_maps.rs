//! The look-ups that a verdict needs, in the kernel's maps.
//!
//! The kernel may give the element of an entry to another key while a program reads it. What the program has read is then wrong:
//!
//! * The entries of ENDPOINTS and their copies, of BACKENDS, `NODE_BACKENDS` and FRAGMENTS carry a check word ([`EndpointEntry::value_of`]).
//! * An entry of `DEFERRED_FLOWS` is replaced or removed before it is taken if two packets got the same handle, or if the agent
//!   removes the entries of an endpoint that is gone. [`KernelMaps::store_deferred_flow`] says what the same handle can do.
//! * Of DEFER and `OWN_NODE` only the presence of a key matters, and of ADDRESSES too: the interface in an entry is looked up again.
//! * The first word of an element of `ENDPOINT_SLOTS` is a MAC address. If a program reads parts of two addresses, the packet does not
//!   have this address and takes the slow path, or drops in the moment in which the address changes.
//! * An entry of KNOWN is one byte. In the moment in which its address is removed, it may be read as that of another address.
//! * An element of OVERLAY is read in three words. In the moment in which it changes, a packet may take the usual way.
//! * The nodes of PREFIXES, of `OVERLAY_PREFIXES` and of allow maps do not change, and are freed after a grace period.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use netpol_common::addr::Addr;
use netpol_common::flow::Step;
use netpol_common::ids::{Direction, Epoch, Identity, IfIndex, Nanos, PortBe, Protocol, RuleId};
use netpol_common::keys::{
    AddressKey, AllowKey, AllowSlots, AllowValue, BackendEntry, BackendValue, Endpoint,
    EndpointEntry, EndpointSlot, EndpointValue, FlowKey, FlowValue, FragmentEntry, FragmentKey,
    FragmentValue, Known, NodeBackendEntry, NodeKey, Overlay, PrefixKey,
};
use netpol_common::mac::{Mac, MacSlot};
use netpol_common::maps::{self, CurrentFlow, Local, PolicyMaps, TunnelMaps};
use netpol_common::packet::Packet;
use netpol_common::verdict::{self, Arrival, Asked, Ruled, View};

use crate::look_up::{copy, find};
use crate::maps::{
    ADDRESSES, ALLOW, BACKENDS, DEFER, DEFERRED_FLOWS, EGRESS_MARKS, ENDPOINT_SLOTS, ENDPOINTS,
    EPOCH, FRAGMENTS, KNOWN, NODE_BACKENDS, OVERLAY, OVERLAY_PREFIXES, OWN_NODE, PREFIXES,
    RULE_COUNTS, TUNNEL_PORTS,
};
use crate::{flows, identities};

/// Copies an [`EndpointEntry`] in words of eight bytes, as its fields are read: a processor waits if it has to put a load together
/// from two stores. Returns 0 if the interface is none. A global function, because the verifier walks a global function only once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_endpoint(ifindex: u32, endpoint: *mut [u64; 3]) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(endpoint) = (unsafe { endpoint.as_mut() }) else { return 0 };
    let ifindex = IfIndex(ifindex);
    if let Some(element) = ENDPOINT_SLOTS.get_ptr(MacSlot::index(ifindex)) {
        // SAFETY: an element of ENDPOINT_SLOTS.
        let words = unsafe { copy::<[u64; 4]>(element.cast()) };
        let slot: EndpointSlot = zerocopy::transmute!(words);
        if slot.is_of(ifindex) && slot.entry.value_of(&ifindex).is_some() {
            let [_, words @ ..] = words;
            *endpoint = words;
            return 1;
        }
    }
    let Some(element) = ENDPOINTS.get_ptr(ifindex) else { return 0 };
    // SAFETY: an element of ENDPOINTS, which is aligned to eight bytes.
    let words = unsafe { copy::<[u64; 3]>(element.cast()) };
    let entry: EndpointEntry = zerocopy::transmute!(words);
    if entry.value_of(&ifindex).is_none() {
        return 0;
    }
    *endpoint = words;
    1
}

/// The MAC address of an endpoint as a word, all ones if the interface is none. A global function as [`find_endpoint`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_mac(ifindex: u32) -> u64 {
    let mut words = [0_u64; 3];
    if find_endpoint(ifindex, &raw mut words) == 0 {
        return u64::MAX;
    }
    let EndpointEntry { value: endpoint, .. } = zerocopy::transmute!(words);
    Mac::new(endpoint.mac).word()
}

/// Copies a [`BackendValue`] in words. Returns 0 if not all of it belongs to the key. A global function as [`find_endpoint`]; the
/// caller looks the key up, because older kernels (6.1) accept no argument of a global function as the key of a map.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn copy_backend(
    key: *const FlowKey,
    entry: *const BackendEntry,
    backend: *mut [u32; 5],
) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(backend) = (unsafe { backend.as_mut() }) else { return 0 };
    if entry.is_null() {
        return 0;
    }
    // SAFETY: an element of BACKENDS.
    let [words @ .., check] = unsafe { copy::<[u32; 6]>(entry.cast()) };
    *backend = words;
    u32::from(check_backend(key, backend) == check)
}

/// The check word of a backend, 0 for null pointers. A global function as [`find_endpoint`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn check_backend(key: *const FlowKey, backend: *const [u32; 5]) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    // SAFETY: the caller's own, or null.
    let Some(backend) = (unsafe { backend.as_ref() }) else { return 0 };
    BackendEntry::check_word(key, &zerocopy::transmute!(*backend))
}

/// Copies the [`FragmentValue`] of a datagram in words. Returns 0 if there is none. A global function as [`find_endpoint`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_fragment(key: *const FragmentKey, value: *mut [u64; 2]) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    // SAFETY: the caller's own, or null.
    let Some(value) = (unsafe { value.as_mut() }) else { return 0 };
    let slot = key.slot(flows::seed());
    let Some(element) = FRAGMENTS.get_ptr(slot) else { return 0 };
    // SAFETY: an element of FRAGMENTS.
    let words = unsafe { copy::<[u64; 3]>(element.cast()) };
    let entry: FragmentEntry = zerocopy::transmute!(words);
    let Some(found) = entry.value_of(key) else { return 0 };
    *value = zerocopy::transmute!(*found);
    1
}

/// Stores the [`FragmentValue`] of a datagram. Returns 0 after a failure. A global function as [`find_endpoint`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn store_fragment(key: *const FragmentKey, value: *const FragmentValue) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    // SAFETY: the caller's own, or null.
    let Some(value) = (unsafe { value.as_ref() }) else { return 0 };
    let slot = key.slot(flows::seed());
    u32::from(FRAGMENTS.insert(slot, FragmentEntry::new(key, value), 0).is_ok())
}

/// [`verdict::is_tunnel`] for a port and a protocol in memory order. A global function as [`find_endpoint`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_tunnel(remote: *const Addr, port_and_protocol: u32) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(remote) = (unsafe { remote.as_ref() }) else { return 0 };
    // SAFETY: a reference. Copied, because older kernels (6.1) accept no argument of a global function as the key of a map.
    let remote = unsafe { copy(remote) };
    let [hi, lo, protocol, _] = port_and_protocol.to_ne_bytes();
    let is_it = verdict::is_tunnel(&KernelMaps, &remote, Protocol(protocol), PortBe([hi, lo]));
    u32::from(is_it)
}

/// [`PolicyMaps::is_taken`] as a global function, as [`find_endpoint`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_taken(addr: *const Addr) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(addr) = (unsafe { addr.as_ref() }) else { return 0 };
    // SAFETY: a reference. Copied for the reason that `is_tunnel` has.
    let addr = unsafe { copy(addr) };
    u32::from(KernelMaps.is_of_local_pod(&addr) || KernelMaps.known(&addr) != Known::NOBODY)
}

/// [`PolicyMaps::denial`] as a global function, as [`find_endpoint`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_denial(slots: u32, addr: *const Addr, asked: u32) -> u64 {
    // SAFETY: the caller's own, or null.
    let Some(addr) = (unsafe { addr.as_ref() }) else { return 0 };
    // SAFETY: a reference. Copied for the reason that `is_tunnel` has.
    let addr = unsafe { copy(addr) };
    verdict::denial(&KernelMaps, AllowSlots(slots), &addr, Asked(asked))
}

/// [`PolicyMaps::denial_at_node`] as a global function, as [`find_endpoint`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_denial_at_node(slots: u32, addr: *const Addr, asked: u32) -> u64 {
    // SAFETY: the caller's own, or null.
    let Some(addr) = (unsafe { addr.as_ref() }) else { return 0 };
    verdict::denial_at_node(&KernelMaps, AllowSlots(slots), addr, Asked(asked))
}

/// [`PolicyMaps::denial_to_itself`] as a global function, as [`find_endpoint`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_denial_to_itself(
    ifindex: u32,
    ingress_ifindex: u32,
    egress_mark: u16,
    packet: *const Packet,
) -> u64 {
    // SAFETY: the caller's own, or null.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    let ifindex = IfIndex(ifindex);
    verdict::denial_to_itself(&KernelMaps, ifindex, ingress_ifindex, egress_mark, packet)
}

/// [`PolicyMaps::receiver`] as a global function, as [`find_endpoint`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_receiver(packet: *const Packet, sender: u32, now: u64) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    verdict::receiver(&KernelMaps, packet, IfIndex(sender), Nanos(now)).0
}

/// [`PolicyMaps::receiver_mac`] as a word, as a global function, as [`find_endpoint`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn receiver_mac(packet: *const Packet, receiver: u32, sender: u32, now: u64) -> u64 {
    // SAFETY: the caller's own, or null.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    let (receiver, sender) = (IfIndex(receiver), IfIndex(sender));
    verdict::receiver_mac(&KernelMaps, packet, receiver, sender, Nanos(now)).word()
}

/// [`PolicyMaps::keeps_redirect`] as a global function, as [`find_endpoint`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn keeps_redirect(packet: *const Packet, receiver: u32, sender: u32) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    let (receiver, sender) = (IfIndex(receiver), IfIndex(sender));
    u32::from(verdict::keeps_redirect(&KernelMaps, packet, receiver, sender))
}

/// [`PolicyMaps::arrival`] as a global function, as [`find_endpoint`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_arrival(packet: *const Packet, receiver: u32, overlay: u32, now: u64) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    let (receiver, overlay) = (IfIndex(receiver), IfIndex(overlay));
    verdict::arrival(&KernelMaps, packet, receiver, overlay, Nanos(now)).0
}

/// [`PolicyMaps::is_behind_overlay`] as a global function, as [`find_endpoint`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_behind_overlay(addr: *const Addr) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(addr) = (unsafe { addr.as_ref() }) else { return 0 };
    // SAFETY: a reference. Copied for the reason that `is_tunnel` has.
    let key = PrefixKey::lookup(unsafe { copy(addr) });
    // SAFETY: the types are those of OVERLAY_PREFIXES, and only the presence of an element matters.
    u32::from(unsafe { find::<_, _, u8>(&OVERLAY_PREFIXES, &key) }.is_some())
}

/// Words of a [`View`].
const N_VIEW_WORDS: usize = size_of::<View>() / size_of::<u64>();

/// [`PolicyMaps::judge_connection`] as a global function, as [`find_endpoint`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_connection(view: *const [u64; N_VIEW_WORDS], packet: *const Packet) -> u64 {
    // SAFETY: the caller's own view, or null.
    let Some(view) = (unsafe { view.cast::<View>().as_ref() }) else { return 0 };
    // SAFETY: the caller's own, or null.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    verdict::judge_connection(&KernelMaps, view, packet).0
}

/// Whether an address is the own node's. A global function, as [`find_endpoint`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_node_address(addr: *const Addr) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(addr) = (unsafe { addr.as_ref() }) else { return 0 };
    // SAFETY: a reference. Copied for the reason that `is_tunnel` has.
    let key = NodeKey::address(unsafe { copy(addr) });
    u32::from(OWN_NODE.get_ptr(key).is_some())
}

/// Whether the own node translates a port of this address. A function of its own, because BPF has little stack.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_translated(addr: *const Addr, port_and_protocol: u32) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(addr) = (unsafe { addr.as_ref() }) else { return 0 };
    let [hi, lo, protocol, _] = port_and_protocol.to_ne_bytes();
    // SAFETY: a reference. Copied for the reason that `is_tunnel` has.
    let key = NodeKey::port_of(unsafe { copy(addr) }, Protocol(protocol), PortBe([hi, lo]));
    let everywhere = NodeKey { addr: Addr::UNSPECIFIED, ..key };
    u32::from(OWN_NODE.get_ptr(everywhere).is_some() || OWN_NODE.get_ptr(key).is_some())
}

/// [`PolicyMaps::count_rule`] as a global function, as [`find_endpoint`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_rule(rule: u32) -> u32 {
    let rule = RuleId(rule);
    if let Some(count) = RULE_COUNTS.get_ptr_mut(rule) {
        // SAFETY: the value is this CPU's own, and the kernel runs one TC program at a time on a CPU. If the agent removes the
        // entry at the same time, the kernel may give the memory to another rule, which then counts this connection.
        unsafe { *count += 1 };
        return 1;
    }
    // If the map is full, this rule is not counted. User space sees that the map is full.
    u32::from(RULE_COUNTS.insert(rule, 1, 0).is_ok())
}

/// The kernel's maps.
pub(crate) struct KernelMaps;

impl TunnelMaps for KernelMaps {
    #[inline(always)]
    fn known(&self, addr: &Addr) -> Known {
        match KNOWN.get_ptr(addr) {
            // SAFETY: an element of the map.
            Some(known) => unsafe { copy(known) },
            None => Known::NOBODY,
        }
    }

    #[inline(always)]
    fn is_tunnel_port(&self, port: PortBe) -> bool {
        let port = u32::from(port.get());
        let Some(word) = TUNNEL_PORTS.get_ptr(port / u64::BITS) else { return false };
        // SAFETY: an element of the map.
        let word = unsafe { copy(word) };
        word >> (port % u64::BITS) & 1 != 0
    }
}

impl PolicyMaps for KernelMaps {
    #[inline(always)]
    fn endpoint(&self, ifindex: IfIndex) -> Option<(EndpointValue, AllowSlots, Mac)> {
        let mut words = [0_u64; 3];
        if find_endpoint(ifindex.0, &raw mut words) == 0 {
            return None;
        }
        let EndpointEntry { value: endpoint, .. } = zerocopy::transmute!(words);
        Some((endpoint.value, endpoint.slots(), Mac::new(endpoint.mac)))
    }

    #[inline(always)]
    fn mac(&self, ifindex: IfIndex) -> Option<Mac> {
        if let Some(element) = ENDPOINT_SLOTS.get_ptr(MacSlot::index(ifindex)) {
            // SAFETY: an element of ENDPOINT_SLOTS.
            let slot: MacSlot = unsafe { copy(element.cast()) };
            if let Some(mac) = slot.mac_of(ifindex) {
                return Some(mac);
            }
        }
        let word = find_mac(ifindex.0);
        (word != u64::MAX).then_some(Mac::from_word(word))
    }

    #[inline(always)]
    fn owns_address(&self, key: &AddressKey) -> bool {
        ADDRESSES.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn owner(&self, addr: &Addr) -> Option<IfIndex> {
        // SAFETY: an element of the map.
        ADDRESSES.get_ptr(AddressKey::of_any_pod(*addr)).map(|owner| unsafe { copy(owner) })
    }

    #[inline(always)]
    fn receiver(&self, packet: &Packet, sender: IfIndex, now: Nanos) -> IfIndex {
        IfIndex(find_receiver(packet, sender.0, now.0))
    }

    #[inline(always)]
    fn receiver_mac(&self, packet: &Packet, receiver: IfIndex, sender: IfIndex, now: Nanos) -> Mac {
        Mac::from_word(receiver_mac(packet, receiver.0, sender.0, now.0))
    }

    #[inline(always)]
    fn keeps_redirect(&self, packet: &Packet, receiver: IfIndex, sender: IfIndex) -> bool {
        keeps_redirect(packet, receiver.0, sender.0) != 0
    }

    #[inline(always)]
    fn arrival(&self, packet: &Packet, receiver: IfIndex, overlay: IfIndex, now: Nanos) -> Arrival {
        Arrival(find_arrival(packet, receiver.0, overlay.0, now.0))
    }

    #[inline(always)]
    fn overlay(&self, family: u32) -> Overlay {
        let Some(element) = OVERLAY.get_ptr(family) else { return Overlay::NONE };
        // SAFETY: an element of the map, which is aligned to eight bytes.
        zerocopy::transmute!(unsafe { copy::<[u64; 3]>(element.cast()) })
    }

    #[inline(always)]
    fn is_behind_overlay(&self, addr: &Addr) -> bool {
        is_behind_overlay(addr) != 0
    }

    #[inline(always)]
    fn identity(&self, addr: &Addr) -> Identity {
        if let Some(identity) = identities::entry(addr).identity() {
            return identity;
        }
        // SAFETY: the types are those of PREFIXES, and its nodes do not change.
        let found = unsafe { find::<_, _, Identity>(&PREFIXES, &PrefixKey::lookup(*addr)) };
        found.copied().unwrap_or(Identity::NONE)
    }

    #[inline(always)]
    fn allow(
        &self,
        slots: AllowSlots,
        direction: Direction,
        identity: Identity,
        protocol: Protocol,
        port: PortBe,
    ) -> Option<AllowValue> {
        let map = ALLOW.get(Endpoint::slot(slots, direction))?;
        if identity != Identity::NONE {
            let key = AllowKey::lookup(identity, protocol, port);
            // SAFETY: the types are those of allow maps, whose nodes do not change.
            if let Some(value) = unsafe { find::<_, _, AllowValue>(map, &key) } {
                return Some(*value);
            }
        }
        let key = AllowKey::lookup(Identity::ANY, protocol, port);
        // SAFETY: as above.
        unsafe { find::<_, _, AllowValue>(map, &key) }.copied()
    }

    #[inline(always)]
    fn current_flow(&self, key: &FlowKey, sender: Option<&Addr>, step: &Step) -> CurrentFlow {
        flows::current(key, sender, step)
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey, sender: &Addr, flow: &mut FlowValue) -> Option<bool> {
        flows::read(key, sender, flow)
    }

    #[inline(always)]
    fn set_flow(&self, key: &FlowKey, flow: &FlowValue, local: Local<'_>) {
        flows::write(key, flow, local);
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        let mut words = [0_u64; 2];
        (find_fragment(key, &raw mut words) != 0).then(|| zerocopy::transmute!(words))
    }

    #[inline(always)]
    fn set_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        // A failure loses the other fragments: they drop.
        store_fragment(key, value);
    }

    #[inline(always)]
    fn is_deferred(&self, addr: &Addr) -> bool {
        DEFER.get_ptr(addr).is_some()
    }

    #[inline(always)]
    fn denial(&self, slots: AllowSlots, addr: &Addr, asked: Asked) -> u64 {
        find_denial(slots.0, addr, asked.0)
    }

    #[inline(always)]
    fn denial_at_node(&self, slots: AllowSlots, addr: &Addr, asked: Asked) -> u64 {
        find_denial_at_node(slots.0, addr, asked.0)
    }

    #[inline(always)]
    fn denial_to_itself(
        &self,
        ifindex: IfIndex,
        ingress_ifindex: u32,
        egress_mark: u16,
        packet: &Packet,
    ) -> u64 {
        find_denial_to_itself(ifindex.0, ingress_ifindex, egress_mark, packet)
    }

    #[inline(always)]
    fn judge_connection(&self, view: &View, packet: &Packet) -> Ruled {
        Ruled(judge_connection(core::ptr::from_ref(view).cast(), packet))
    }

    #[inline(always)]
    fn is_own_node(&self, addr: &Addr, protocol: Protocol, port: PortBe) -> bool {
        let [hi, lo] = port.0;
        is_node_address(addr) != 0
            && is_translated(addr, u32::from_ne_bytes([hi, lo, protocol.0, 0])) == 0
    }

    #[inline(always)]
    fn node_backend(&self, key: &NodeKey) -> Option<BackendValue> {
        let element = NODE_BACKENDS.get_ptr(key)?;
        // SAFETY: an element of the map.
        let words = unsafe { copy::<[u32; 6]>(element.cast()) };
        let entry: NodeBackendEntry = zerocopy::transmute!(words);
        // What is read while it is replaced counts as a backend that is not known.
        Some(entry.value_of(key).copied().unwrap_or(BackendValue::unknown(PortBe::ZERO)))
    }

    #[inline(always)]
    fn is_taken(&self, addr: &Addr) -> bool {
        is_taken(addr) != 0
    }

    #[inline(always)]
    fn is_tunnel(&self, remote: &Addr, protocol: Protocol, port: PortBe) -> bool {
        let [hi, lo] = port.0;
        is_tunnel(remote, u32::from_ne_bytes([hi, lo, protocol.0, 0])) != 0
    }

    #[inline(always)]
    fn egress_mark_owner(&self, egress_mark: u16) -> Option<IfIndex> {
        // SAFETY: an element of the map.
        let owner = unsafe { copy(EGRESS_MARKS.get_ptr(u32::from(egress_mark))?) };
        (owner.0 != 0).then_some(owner)
    }

    /// A function of its own, because BPF has little stack.
    ///
    /// The handle is random. Two packets between the hooks get the same one very seldom; if they are of the same pod, then the
    /// answers on one flow are judged by the backend of the other.
    #[inline(never)]
    fn store_deferred_flow(&self, key: &FlowKey) -> u16 {
        // SAFETY: the helper has no arguments.
        let handle = unsafe { bpf_get_prandom_u32() } % (maps::N_DEFERRED_FLOWS - 1) + 1;
        match DEFERRED_FLOWS.insert(handle, key, 0) {
            Ok(()) => u16::try_from(handle).unwrap_or(0),
            Err(_) => 0,
        }
    }

    #[inline(always)]
    fn take_deferred_flow(&self, flow_handle: u16) -> Option<FlowKey> {
        let handle = u32::from(flow_handle);
        // SAFETY: an element of the map.
        let words = unsafe { copy::<[u32; 7]>(DEFERRED_FLOWS.get_ptr(handle)?.cast()) };
        DEFERRED_FLOWS.remove(handle).ok();
        Some(zerocopy::transmute!(words))
    }

    #[inline(always)]
    fn backend(&self, key: &FlowKey) -> Option<BackendValue> {
        let mut words = [0_u32; 5];
        let entry = BACKENDS.get_ptr(key)?;
        (copy_backend(key, entry, &raw mut words) != 0).then(|| zerocopy::transmute!(words))
    }

    #[inline(always)]
    fn set_backend(&self, key: &FlowKey, value: &BackendValue) {
        // After a failure answers are judged when the pod itself sends again.
        let check = check_backend(key, core::ptr::from_ref(value).cast());
        BACKENDS.insert(key, BackendEntry { value: *value, check }, 0).ok();
    }

    #[inline(always)]
    fn count_rule(&self, rule: RuleId) {
        count_rule(rule.0);
    }

    #[inline(always)]
    fn epoch(&self) -> Epoch {
        match EPOCH.get_ptr(0) {
            // SAFETY: an element of EPOCH.
            Some(epoch) => unsafe { copy(epoch) },
            None => Epoch(0),
        }
    }
}
