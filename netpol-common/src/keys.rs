//! Keys and values of the maps, exactly as the kernel stores them.
//!
//! Only integers and byte arrays, explicit padding, no enum and no bool: `zerocopy` proves that there is
//! no hidden padding. A change of any layout bumps [`crate::maps::ABI_VERSION`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::Addr;
use crate::event::EventBudget;
use crate::ids::{Direction, Epoch, Identity, IfIndex, Nanos, PortBe, Protocol, RuleId};
use crate::maps::AllowSlots;

macro_rules! wire {
    ($(#[$meta:meta])* pub struct $name:ident { $($body:tt)* }) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable,
            KnownLayout,
        )]
        #[repr(C)]
        pub struct $name { $($body)* }
    };
}

wire! {
    /// How one pod interface is treated.
    pub struct EndpointValue {
        /// [`EndpointValue::BLOCKED`] or [`EndpointValue::READY`].
        pub state: u8,
        /// Directions in which a policy isolates the pod ([`Direction::bit`]), audited ones included.
        pub isolated: u8,
        /// Directions in which what would be dropped for want of a rule is only reported.
        pub audited: u8,
        /// Directions in which a flow that a policy change forbids lives on.
        pub keeps_flows: u8,
        /// [`EndpointValue::FORWARDS`].
        pub traits: u8,
        /// Zero.
        pub pad: u8,
        /// Number under which a deferred egress verdict finds this endpoint, 1 to 4095; 0 for none. Native byte order.
        pub egress_mark: u16,
    }
}

impl EndpointValue {
    /// Nothing passes: the policy is not in force yet.
    pub const BLOCKED: u8 = 0;
    /// The policy is in force.
    pub const READY: u8 = 1;
    /// In `traits`: may send from addresses that are not its own.
    pub const FORWARDS: u8 = 1;

    /// The value of an interface whose policy is not known yet.
    pub const fn blocked() -> Self {
        Self {
            state: Self::BLOCKED,
            isolated: 0,
            audited: 0,
            keeps_flows: 0,
            traits: 0,
            pad: 0,
            egress_mark: 0,
        }
    }

    /// Whether a policy isolates the pod in this direction.
    #[inline(always)]
    pub const fn is_isolated(&self, direction: Direction) -> bool {
        self.isolated & direction.bit() != 0
    }

    /// Whether would-be drops of this direction pass.
    #[inline(always)]
    pub const fn is_audited(&self, direction: Direction) -> bool {
        self.audited & direction.bit() != 0
    }

    /// Whether forbidden flows of this origin live on.
    #[inline(always)]
    pub const fn keeps_flows(&self, direction: Direction) -> bool {
        self.keeps_flows & direction.bit() != 0
    }

    /// Whether the pod may send from foreign addresses.
    #[inline(always)]
    pub const fn forwards(&self) -> bool {
        self.traits & Self::FORWARDS != 0
    }
}

wire! {
    /// Value of ENDPOINTS.
    pub struct EndpointEntry {
        /// How the interface is treated.
        pub value: EndpointValue,
        /// Places of its allow maps in ALLOW, for ingress and for egress; 0 for none: nothing is allowed. Native byte order.
        pub allow_maps: [u16; 2],
    }
}

impl EndpointEntry {
    /// Where in ALLOW the allow map of a direction is.
    #[inline(always)]
    pub const fn allow_map(&self, direction: Direction) -> u16 {
        let [ingress, egress] = self.allow_maps;
        match direction {
            Direction::Ingress => ingress,
            Direction::Egress => egress,
        }
    }

    /// Both places in one number.
    #[inline(always)]
    pub const fn places(&self) -> AllowSlots {
        let [ingress, egress] = self.allow_maps;
        AllowSlots(ingress as u32 | ((egress as u32) << 16))
    }

    /// One of the places: an index of ALLOW.
    #[inline(always)]
    pub const fn place(AllowSlots(places): AllowSlots, direction: Direction) -> u32 {
        match direction {
            Direction::Ingress => places & 0xffff,
            Direction::Egress => places >> 16,
        }
    }
}

wire! {
    /// Key of ADDRESSES: may this interface send from that address?
    pub struct AddressKey {
        /// The pod's host interface.
        pub ifindex: IfIndex,
        /// The source address.
        pub addr: Addr,
    }
}

wire! {
    /// Key of PREFIXES, a longest-prefix trie over both families.
    pub struct PrefixKey {
        /// Leading bits of `addr` that must match: 0 to 128, for IPv4 96 more than its own prefix length. Native byte order.
        pub prefix_len_bits: u32,
        /// The prefix, host bits zero.
        pub addr: Addr,
    }
}

impl PrefixKey {
    /// The key that looks an address up.
    #[inline(always)]
    pub const fn lookup(addr: Addr) -> Self {
        Self { prefix_len_bits: 128, addr }
    }
}

wire! {
    /// Key of an allow map: may this identity reach that port?
    ///
    /// Fields run from never to most often wildcarded, because the map is a longest-prefix trie: a port can
    /// only be wildcarded from its low bits, a protocol only together with the whole port.
    pub struct AllowKey {
        /// Leading bits of the fields below that must match: [`AllowKey::ALL_PROTOCOLS_BITS`],
        /// or [`AllowKey::ALL_PORTS_BITS`] to [`AllowKey::FULL_BITS`]. Native byte order.
        pub prefix_len_bits: u32,
        /// The remote end's identity, native byte order; always matched whole.
        pub identity: Identity,
        /// The IP protocol.
        pub protocol: Protocol,
        /// Zero, always matched with the protocol.
        pub pad: u8,
        /// Destination port: the pod's for ingress, the remote end's for egress.
        pub port: PortBe,
    }
}

impl AllowKey {
    /// Every protocol and port of an identity.
    pub const ALL_PROTOCOLS_BITS: u32 = 32;
    /// Every port of one protocol.
    pub const ALL_PORTS_BITS: u32 = 48;
    /// One port.
    pub const FULL_BITS: u32 = 64;

    /// The key that looks a packet up.
    #[inline(always)]
    pub const fn lookup(identity: Identity, protocol: Protocol, port: PortBe) -> Self {
        let [hi, lo] = port.0;
        let last = u32::from_ne_bytes([protocol.0, 0, hi, lo]);
        zerocopy::transmute!([Self::FULL_BITS, identity.0, last])
    }
}

wire! {
    /// Value of an allow map.
    pub struct AllowValue {
        /// The rule that put the entry here, for explanations.
        pub rule: RuleId,
        /// [`AllowValue::ALLOW`] or [`AllowValue::DENY`].
        pub verdict: u8,
        /// Zero.
        pub pad: [u8; 3],
    }
}

impl AllowValue {
    /// The packet may pass.
    pub const ALLOW: u8 = 1;
    /// The packet must not pass, whatever less specific entries say.
    pub const DENY: u8 = 0;

    /// An allowing value.
    pub const fn allow(rule: RuleId) -> Self {
        Self { rule, verdict: Self::ALLOW, pad: [0; 3] }
    }
}

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
        /// [`Direction::to_wire`] of the first packet.
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
    /// Value of BACKENDS: where a connection to a Service really goes.
    pub struct BackendValue {
        /// Its address.
        pub addr: Addr,
        /// Its port.
        pub port: PortBe,
        /// Zero.
        pub pad: [u8; 2],
    }
}

wire! {
    /// Key of FRAGMENTS: the datagram that a fragment belongs to.
    pub struct FragmentKey {
        /// The pod's host interface.
        pub ifindex: IfIndex,
        /// IPv4 identification (16 bits) or IPv6 fragment identification, host byte order.
        pub id: u32,
        /// Source address.
        pub src: Addr,
        /// Destination address.
        pub dst: Addr,
        /// The IP protocol; zero for IPv6, where only the first fragment tells it.
        pub protocol: Protocol,
        /// As [`FlowKey::stage`].
        pub stage: u8,
        /// [`Direction::to_wire`] of the packet.
        pub direction: u8,
        /// Zero.
        pub pad: u8,
    }
}

wire! {
    /// Value of FRAGMENTS: what only the first fragment tells.
    pub struct FragmentValue {
        /// Coarse time of the first fragment.
        pub first_seen: Nanos,
        /// Source port.
        pub src_port: PortBe,
        /// Destination port.
        pub dst_port: PortBe,
        /// The transport protocol.
        pub protocol: Protocol,
        /// Zero.
        pub pad: [u8; 3],
    }
}

wire! {
    /// Key of COUNTERS.
    pub struct CounterKey {
        /// The endpoint that the packet is charged to.
        pub ifindex: IfIndex,
        /// [`Direction::to_wire`] as that endpoint sees it.
        pub direction: u8,
        /// [`crate::verdict::Verdict::to_wire`].
        pub verdict: u8,
        /// Zero.
        pub pad: [u8; 2],
    }
}

impl CounterKey {
    /// The counter of a verdict.
    #[inline(always)]
    pub const fn new(ifindex: IfIndex, direction: Direction, verdict: u8) -> Self {
        let last = u32::from_ne_bytes([direction.to_wire(), verdict, 0, 0]);
        zerocopy::transmute!([ifindex.0, last])
    }
}

wire! {
    /// Value of COUNTERS, one per CPU.
    pub struct CounterValue {
        /// Packets.
        pub packets: u64,
        /// Bytes from the network header on.
        pub bytes: u64,
        /// How many of them are recorded.
        pub budget: EventBudget,
    }
}

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};

    use super::*;

    /// A failure here is a change of the wire: bump `maps::ABI_VERSION`.
    #[test]
    fn layouts_are_those_of_this_abi_version() {
        assert_eq!(crate::maps::ABI_VERSION, 4);
        assert_eq!(size_of::<EndpointValue>(), 8);
        assert_eq!(offset_of!(EndpointValue, egress_mark), 6);
        assert_eq!(size_of::<EndpointEntry>(), 12);
        assert_eq!(offset_of!(EndpointEntry, allow_maps), 8);
        assert_eq!(size_of::<AddressKey>(), 20);
        assert_eq!(size_of::<PrefixKey>(), 20);
        assert_eq!(size_of::<AllowKey>(), 12);
        assert_eq!(offset_of!(AllowKey, protocol), 8);
        assert_eq!(offset_of!(AllowKey, port), 10);
        assert_eq!(size_of::<AllowValue>(), 8);
        assert_eq!(size_of::<FlowKey>(), 28);
        assert_eq!(offset_of!(FlowKey, protocol), 24);
        assert_eq!(size_of::<FlowValue>(), 24);
        assert_eq!(offset_of!(FlowValue, origin), 16);
        assert_eq!(size_of::<FlowEntry>(), 40);
        assert_eq!(offset_of!(FlowEntry, local), 24);
        assert_eq!(size_of::<BackendValue>(), 20);
        assert_eq!(size_of::<FragmentKey>(), 44);
        assert_eq!(size_of::<FragmentValue>(), 16);
        assert_eq!(size_of::<CounterKey>(), 8);
        assert_eq!(size_of::<CounterValue>(), 32);
        assert_eq!(size_of::<crate::event::Event>(), 64);
    }
}
