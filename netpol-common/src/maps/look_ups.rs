//! The look-ups that a verdict needs, and the types of their answers.

use crate::addr::Addr;
use crate::flow::Step;
use crate::ids::{Direction, Epoch, Identity, IfIndex, Nanos, PortBe, Protocol, RuleId};
use crate::keys::{
    AddressKey, AllowSlots, AllowValue, BackendValue, EndpointValue, FlowKey, FlowValue,
    FragmentKey, FragmentValue, Known, NodeKey, Overlay,
};
use crate::mac::Mac;
use crate::packet::Packet;
use crate::verdict::{
    Arrival, Asked, Ruled, View, arrival, denial, denial_at_node, denial_to_itself,
    judge_connection, keeps_redirect, receiver, receiver_mac,
};

/// Whether a packet belongs to an established flow that passes it without a new decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CurrentFlow {
    /// It does.
    Yes {
        /// The rule that allowed the flow.
        rule: RuleId,
        /// See [`FlowValue::redirect`].
        redirect: IfIndex,
    },
    /// The flow has to be decided or written, or another CPU is writing it.
    No,
    /// There is no such flow.
    Absent,
}

impl CurrentFlow {
    /// The answer about a flow that passes the packet.
    #[inline(always)]
    pub const fn of(flow: &FlowValue) -> Self {
        Self::Yes { rule: flow.rule, redirect: flow.redirect }
    }
}

/// What happens to [`FlowEntry::local`](crate::keys::FlowEntry::local) when a flow is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local<'a> {
    /// It stays unchanged. If there is no such flow, nothing is written.
    Kept,
    /// It is cleared.
    Unknown,
    /// It is set to this address.
    At(&'a Addr),
}

/// The state that tells the tunnels between nodes.
pub trait TunnelMaps {
    /// Whose address this is.
    fn known(&self, addr: &Addr) -> Known;
    /// Whether tunnels of nodes use the port; [`PortBe::ZERO`] for protocols without ports.
    fn is_tunnel_port(&self, port: PortBe) -> bool;
}

/// The state that a verdict depends on.
///
/// Implemented by the kernel's maps, by a map state in memory, and by a fake in unit tests.
pub trait PolicyMaps {
    /// How the interface is treated, the slots of its allow maps, and what [`Self::mac`] returns; `None` if the interface is no
    /// endpoint.
    fn endpoint(&self, ifindex: IfIndex) -> Option<(EndpointValue, AllowSlots, Mac)>;
    /// The MAC address of the endpoint, [`Mac::UNKNOWN`] if it is not known; `None` if the interface is no endpoint.
    fn mac(&self, ifindex: IfIndex) -> Option<Mac>;
    /// Whether the interface may send from the address.
    fn owns_address(&self, key: &AddressKey) -> bool;
    /// The pod interface of this node that has the address, [`AddressKey::ANY_POD`] if several have it, `None` if none has it.
    /// Link-local addresses belong to none.
    fn owner(&self, addr: &Addr) -> Option<IfIndex>;
    /// Whether a pod of this node has the address, except for link-local ones.
    fn is_of_local_pod(&self, addr: &Addr) -> bool {
        self.owner(addr).is_some()
    }
    /// The identity of an address: that of the single address, else of the longest prefix, else [`Identity::NONE`].
    fn identity(&self, addr: &Addr) -> Identity;
    /// The longest matching entry of an endpoint's allow map, for the identity or else for [`Identity::ANY`].
    fn allow(
        &self,
        slots: AllowSlots,
        direction: Direction,
        identity: Identity,
        protocol: Protocol,
        port: PortBe,
    ) -> Option<AllowValue>;
    /// Whether [`crate::flow::is_current`] holds for the flow, and, if `sender` is given, whether the pod last sent from that
    /// address on it.
    fn current_flow(&self, key: &FlowKey, sender: Option<&Addr>, step: &Step) -> CurrentFlow;
    /// Copies a flow, also an expired one, to `flow`. Returns whether the pod last sent from `sender` on it; `None` if there is
    /// no such flow.
    fn flow(&self, key: &FlowKey, sender: &Addr, flow: &mut FlowValue) -> Option<bool>;
    /// Adds or replaces a flow. A failure loses only this entry.
    fn set_flow(&self, key: &FlowKey, flow: &FlowValue, local: Local<'_>);
    /// The stored facts of the first fragment of a datagram.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue>;
    /// Stores the facts that only the first fragment of a datagram has.
    fn set_fragment(&self, key: &FragmentKey, value: &FragmentValue);
    /// Whether egress to this address is decided after Service translation.
    fn is_deferred(&self, addr: &Addr) -> bool;
    /// Whether the address is the own node's, and the node does not translate what arrives at this port. The port is
    /// [`PortBe::ZERO`] for protocols without ports.
    fn is_own_node(&self, addr: &Addr, protocol: Protocol, port: PortBe) -> bool;
    /// One of the backends on the own node's network of a port of a Service, by index; `None` behind the last one.
    fn node_backend(&self, key: &NodeKey) -> Option<BackendValue>;
    /// [`crate::verdict::denial`]. The kernel's maps replace it by a global function, because the verifier walks that once.
    fn denial(&self, slots: AllowSlots, addr: &Addr, asked: Asked) -> u64
    where
        Self: Sized,
    {
        denial(self, slots, addr, asked)
    }
    /// [`crate::verdict::denial_at_node`], for the same reason.
    fn denial_at_node(&self, slots: AllowSlots, addr: &Addr, asked: Asked) -> u64
    where
        Self: Sized,
    {
        denial_at_node(self, slots, addr, asked)
    }
    /// [`crate::verdict::denial_to_itself`], for the same reason.
    fn denial_to_itself(
        &self,
        ifindex: IfIndex,
        ingress_ifindex: u32,
        egress_mark: u16,
        packet: &Packet,
    ) -> u64
    where
        Self: Sized,
    {
        denial_to_itself(self, ifindex, ingress_ifindex, egress_mark, packet)
    }
    /// [`crate::verdict::judge_connection`], for the same reason.
    fn judge_connection(&self, view: &View, packet: &Packet) -> Ruled
    where
        Self: Sized,
    {
        judge_connection(self, view, packet)
    }
    /// [`crate::verdict::receiver`]. The kernel's maps replace it by a global function, because the verifier walks that once.
    fn receiver(&self, packet: &Packet, sender: IfIndex, now: Nanos) -> IfIndex
    where
        Self: Sized,
    {
        receiver(self, packet, sender, now)
    }
    /// [`crate::verdict::receiver_mac`], for the same reason.
    fn receiver_mac(&self, packet: &Packet, receiver: IfIndex, sender: IfIndex, now: Nanos) -> Mac
    where
        Self: Sized,
    {
        receiver_mac(self, packet, receiver, sender, now)
    }
    /// [`crate::verdict::keeps_redirect`], for the same reason.
    fn keeps_redirect(&self, packet: &Packet, receiver: IfIndex, sender: IfIndex) -> bool
    where
        Self: Sized,
    {
        keeps_redirect(self, packet, receiver, sender)
    }
    /// [`crate::verdict::arrival`], for the same reason.
    fn arrival(&self, packet: &Packet, receiver: IfIndex, overlay: IfIndex, now: Nanos) -> Arrival
    where
        Self: Sized,
    {
        arrival(self, packet, receiver, overlay, now)
    }
    /// The device that leads to the pods of other nodes, of this family ([`crate::identities::family`]).
    fn overlay(&self, family: u32) -> Overlay;
    /// Whether the address is one of a pod behind that device.
    fn is_behind_overlay(&self, addr: &Addr) -> bool;
    /// Whether a pod or a node has the address, as far as is known.
    fn is_taken(&self, addr: &Addr) -> bool;
    /// [`crate::verdict::is_tunnel`]. The kernel's maps replace it by a global function, because the verifier walks that once.
    fn is_tunnel(&self, remote: &Addr, protocol: Protocol, port: PortBe) -> bool;
    /// The endpoint that an egress mark names.
    fn egress_mark_owner(&self, egress_mark: u16) -> Option<IfIndex>;
    /// Stores the key of a flow whose verdict is deferred. Returns the handle used to look it up again, 0 if it could not be
    /// stored.
    fn store_deferred_flow(&self, key: &FlowKey) -> u16;
    /// Removes and returns the key of a deferred flow.
    fn take_deferred_flow(&self, flow_handle: u16) -> Option<FlowKey>;
    /// The backend of a flow to a Service, if it is known.
    fn backend(&self, key: &FlowKey) -> Option<BackendValue>;
    /// Stores the backend of a flow to a Service. A failure loses only this entry.
    fn set_backend(&self, key: &FlowKey, value: &BackendValue);
    /// Counts a connection that this rule has decided. A failure loses only this count.
    fn count_rule(&self, rule: RuleId);
    /// The current policy generation.
    fn epoch(&self) -> Epoch;
}
