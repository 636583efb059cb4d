//! Connections: the key of a flow, what is known of it, and the backend of a flow to a Service.

use crate::addr::Addr;
use crate::ids::{Epoch, IfIndex, Nanos, PortBe, Protocol, RuleId};

wire! {
    /// One connection as one pod sees it.
    pub struct FlowKey {
        /// The pod's host interface.
        pub ifindex: IfIndex,
        /// The other end.
        pub remote: Addr,
        /// The pod's port, or the identifier of an ICMP echo that the pod started.
        pub local_port: PortBe,
        /// The other end's port, or the identifier of an ICMP echo that the other end started.
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
    /// The key of a connection; `ports` holds the pod's port and then the other end's, as they stand in memory.
    ///
    /// Written in words, as the kernel reads it: a processor waits long for a word that was written in smaller parts. So are
    /// all keys that packets are looked up by.
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

    /// The interface, the other end's address, both ports, and the rest, as they stand in memory.
    #[inline(always)]
    pub(crate) const fn words(&self) -> &[u32; 7] {
        zerocopy::transmute_ref!(self)
    }

    /// Addresses as the pod itself sees them.
    pub const AT_POD: u8 = 0;
    /// Addresses after Service translation: where a deferred egress verdict is made.
    pub const AFTER_NAT: u8 = 1;
}

wire! {
    /// What is known of a connection.
    pub struct FlowValue {
        /// Coarse time of the last packet, refreshed about once a second.
        pub last_seen: Nanos,
        /// The policy generation of the last decision.
        pub epoch: Epoch,
        /// The rule that allowed it, if one did.
        pub rule: RuleId,
        /// [`Direction::to_wire`](crate::ids::Direction::to_wire) of the first packet.
        pub origin: u8,
        /// Progress of the connection, see [`crate::flow`].
        pub state: u8,
        /// Set of `FlowValue::REVOKED`, `EXEMPT` and `DEFERRED`.
        pub marks: u8,
        /// Zero.
        pub pad: [u8; 5],
    }
}

impl FlowValue {
    /// A connection; `facts` are its origin, state and marks.
    #[inline(always)]
    pub const fn new(last_seen: Nanos, epoch: Epoch, rule: RuleId, facts: [u8; 3]) -> Self {
        let [origin, state, marks] = facts;
        let facts = u32::from_ne_bytes([origin, state, marks, 0]);
        let time: [u32; 2] = zerocopy::transmute!(last_seen.0);
        zerocopy::transmute!([time[0], time[1], epoch.0, rule.0, facts, 0])
    }

    /// Room for what is known of one.
    pub const UNKNOWN: Self = zerocopy::transmute!([0_u64; 3]);

    /// A policy change forbade it: drops in both directions.
    pub const REVOKED: u8 = 1;
    /// From the own node or from the pod itself: policy does not apply.
    pub const EXEMPT: u8 = 2;
    /// The egress verdict is made after Service translation. Together with `REVOKED`: what the pod sends still goes
    /// there, answers drop.
    pub const DEFERRED: u8 = 4;
}

wire! {
    /// What FLOWS holds of a connection.
    pub struct FlowEntry {
        /// What is known of the connection.
        pub flow: FlowValue,
        /// The address that the pod last sent from on this connection, and may by the policy generation of `flow`; unspecified
        /// if it has not sent in that. Which spares looking it up for each packet.
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

checked! {
    /// Value of BACKENDS.
    pub struct BackendEntry {
        key: FlowKey as [u32; 7],
        value: BackendValue as [u32; 5],
    }
}
