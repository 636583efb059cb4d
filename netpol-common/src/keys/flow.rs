//! Flows: their keys, their state, and the backends of flows to Services.

use crate::addr::Addr;
use crate::ids::{Epoch, IfIndex, Nanos, PortBe, Protocol, RuleId};
use crate::keys::NodeKey;

wire! {
    /// A connection of a pod.
    pub struct FlowKey {
        /// The pod's host interface.
        pub ifindex: IfIndex,
        /// The remote address.
        pub remote: Addr,
        /// The pod's port, or the identifier of an ICMP echo that the pod started.
        pub local_port: PortBe,
        /// The remote port, or the identifier of an ICMP echo that the peer started.
        pub remote_port: PortBe,
        /// The IP protocol.
        pub protocol: Protocol,
        /// [`FlowKey::AT_POD`] or [`FlowKey::AFTER_NAT`].
        pub stage: u8,
        /// Zero.
        pub pad: [u8; 2],
    }
}

impl FlowKey {
    /// The key of a flow. `ports` holds the pod's port and then the remote port, in memory order.
    ///
    /// The key is written in words, because the kernel reads words, and a processor stalls when it loads a word that was just written
    /// in smaller parts. The same holds for all keys of look-ups.
    #[inline(always)]
    pub const fn new(
        ifindex: IfIndex,
        remote: Addr,
        ports: u32,
        protocol: Protocol,
        stage: u8,
    ) -> Self {
        let [a, b, c, d] = *remote.words();
        let last = u32::from_ne_bytes([protocol.0, stage, 0, 0]);
        zerocopy::transmute!([ifindex.0, a, b, c, d, ports, last])
    }

    /// The key in words, in memory order: interface, remote address, ports, and the rest.
    #[inline(always)]
    pub(crate) const fn words(&self) -> &[u32; 7] {
        zerocopy::transmute_ref!(self)
    }

    /// Addresses before Service translation.
    pub const AT_POD: u8 = 0;
    /// Addresses after Service translation, where a deferred egress verdict is made.
    pub const AFTER_NAT: u8 = 1;
}

wire! {
    /// The state of a flow.
    pub struct FlowValue {
        /// Coarse time of the last packet, refreshed about once a second.
        pub last_seen: Nanos,
        /// The policy generation of the last decision.
        pub epoch: Epoch,
        /// The rule that allowed the flow, if one did.
        pub rule: RuleId,
        /// [`Direction::to_wire`](crate::ids::Direction::to_wire) of the first packet.
        pub origin: u8,
        /// State of the connection, see [`crate::flow`].
        pub state: u8,
        /// Set of `FlowValue::REVOKED`, `EXEMPT` and `DEFERRED`.
        pub marks: u8,
        /// Zero.
        pub pad: u8,
        /// The interface of the peer, if the packets of the connection are redirected to it; 0 if they are not. Native
        /// byte order.
        pub redirect: IfIndex,
    }
}

impl FlowValue {
    /// A flow. `facts` are its origin, state and marks.
    #[inline(always)]
    pub const fn new(last_seen: Nanos, epoch: Epoch, rule: RuleId, facts: [u8; 3]) -> Self {
        let [origin, state, marks] = facts;
        let facts = u32::from_ne_bytes([origin, state, marks, 0]);
        let time: [u32; 2] = zerocopy::transmute!(last_seen.0);
        zerocopy::transmute!([time[0], time[1], epoch.0, rule.0, facts, 0])
    }

    /// The flow, with its packets redirected to this pod interface; 0 for none.
    #[inline(always)]
    #[must_use]
    pub const fn redirected(mut self, redirect: IfIndex) -> Self {
        self.redirect = redirect;
        self
    }

    /// All zeros: memory for a flow that is read.
    pub const UNKNOWN: Self = zerocopy::transmute!([0_u64; 3]);

    /// A policy change has forbidden the flow, or its deferred verdict is not finished. Its packets drop in both directions.
    pub const REVOKED: u8 = 1;
    /// The flow comes from the own node or from the pod itself, and policy does not apply to it.
    pub const EXEMPT: u8 = 2;
    /// The egress verdict is made after Service translation. Together with `REVOKED`: packets from the pod still pass to that hook,
    /// answers drop.
    pub const DEFERRED: u8 = 4;
}

wire! {
    /// A flow in FLOWS.
    pub struct FlowEntry {
        /// The state of the flow.
        pub flow: FlowValue,
        /// The source address of the pod's last packet on this flow, validated in the epoch of `flow`. Unspecified if the pod has
        /// sent none in that epoch. So the address does not have to be looked up for each packet.
        pub local: Addr,
    }
}

wire! {
    /// The backend of a flow to a Service.
    pub struct BackendValue {
        /// The backend's address.
        pub addr: Addr,
        /// The backend's port.
        pub port: PortBe,
        /// Zero.
        pub pad: [u8; 2],
    }
}

impl BackendValue {
    /// A backend.
    #[inline(always)]
    pub const fn new(addr: Addr, port: PortBe) -> Self {
        Self { addr, port, pad: [0; 2] }
    }

    /// A backend whose address is not known: rules for every address allow it, and no others.
    #[inline(always)]
    pub const fn unknown(port: PortBe) -> Self {
        Self::new(Addr::UNSPECIFIED, port)
    }
}

checked! {
    /// Value of `NODE_BACKENDS`.
    pub struct NodeBackendEntry {
        key: NodeKey as [u32; 5],
        value: BackendValue as [u32; 5],
    }
}

checked! {
    /// Value of BACKENDS.
    pub struct BackendEntry {
        key: FlowKey as [u32; 7],
        value: BackendValue as [u32; 5],
    }
}
