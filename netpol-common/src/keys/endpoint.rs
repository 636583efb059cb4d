//! Endpoints: how their packets are treated, and which addresses they may send from.

use crate::addr::Addr;
use crate::ids::{Direction, IfIndex, PortBe, Protocol};
use crate::mac::{Mac, MacSlot};

/// The slots of an endpoint's allow maps. Only the maps interpret the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowSlots(pub u32);

wire! {
    /// How the packets of a pod interface are treated.
    pub struct EndpointValue {
        /// [`EndpointValue::BLOCKED`] or [`EndpointValue::READY`].
        pub state: u8,
        /// Directions in which a policy isolates the pod ([`Direction::bit`]), also in audit mode.
        pub isolated: u8,
        /// Directions in which packets that no rule accepts or denies pass and are reported.
        pub audited: u8,
        /// Directions in which flows survive a policy change that forbids them.
        pub keeps_flows: u8,
        /// [`EndpointValue::FORWARDS`], [`EndpointValue::DEFERS_ALL`], [`EndpointValue::JUDGES_NODE`], [`EndpointValue::SHORT_CUT`],
        /// [`EndpointValue::NODE_NEEDS_RULE`].
        pub traits: u8,
        /// Directions in which an enforced rule drops packets.
        pub denies: u8,
        /// The egress mark of the endpoint, 1 to 4095; 0 for none. Native byte order.
        pub egress_mark: u16,
    }
}

impl EndpointValue {
    /// Nothing passes: the policy is not in force yet.
    pub const BLOCKED: u8 = 0;
    /// The policy is in force.
    pub const READY: u8 = 1;
    /// In `traits`: the pod may send from addresses that are not its own.
    pub const FORWARDS: u8 = 1;
    /// In `traits`: the egress verdict is deferred for every destination, because DEFER lacks some addresses.
    pub const DEFERS_ALL: u8 = 2;
    /// In `traits`: an egress rule can deny connections to the own node.
    pub const JUDGES_NODE: u8 = 4;

    /// In `traits`: packets between this pod and another one with this trait may be redirected from one interface to the other.
    pub const SHORT_CUT: u8 = 8;
    /// In `traits`, together with `JUDGES_NODE`: connections to the own node need a rule that allows them, as any other.
    pub const NODE_NEEDS_RULE: u8 = 16;

    /// The value of an interface whose policy is not known yet.
    pub const fn blocked() -> Self {
        Self {
            state: Self::BLOCKED,
            isolated: 0,
            audited: 0,
            keeps_flows: 0,
            traits: 0,
            denies: 0,
            egress_mark: 0,
        }
    }

    /// Whether a policy isolates the pod in this direction.
    #[inline(always)]
    pub const fn is_isolated(&self, direction: Direction) -> bool {
        self.isolated & direction.bit() != 0
    }

    /// Whether packets that no rule accepts or denies pass and are reported.
    #[inline(always)]
    pub const fn is_audited(&self, direction: Direction) -> bool {
        self.audited & direction.bit() != 0
    }

    /// Whether nothing drops in this direction, although a policy isolates the pod: all that is not allowed is only reported.
    #[inline(always)]
    pub const fn only_reports(&self, direction: Direction) -> bool {
        self.audited & !self.denies & direction.bit() != 0
    }

    /// Whether flows of this origin survive a policy change that forbids them.
    #[inline(always)]
    pub const fn keeps_flows(&self, direction: Direction) -> bool {
        self.keeps_flows & direction.bit() != 0
    }

    /// Whether the pod may send from addresses that are not its own.
    #[inline(always)]
    pub const fn forwards(&self) -> bool {
        self.traits & Self::FORWARDS != 0
    }

    /// Whether an egress rule can deny connections to the own node.
    #[inline(always)]
    pub const fn judges_node(&self) -> bool {
        self.traits & Self::JUDGES_NODE != 0
    }

    /// Whether connections to the own node need a rule that allows them.
    #[inline(always)]
    pub const fn node_needs_rule(&self) -> bool {
        self.traits & Self::NODE_NEEDS_RULE != 0
    }

    /// Whether packets between this pod and another one of which this holds may be redirected.
    #[inline(always)]
    pub const fn takes_short_cut(&self) -> bool {
        self.traits & Self::SHORT_CUT != 0
    }

    /// Whether the egress verdict is deferred for every destination.
    #[inline(always)]
    pub const fn defers_all(&self) -> bool {
        self.traits & Self::DEFERS_ALL != 0
    }
}

wire! {
    /// How the packets of an endpoint are treated, its allow maps, and its MAC address.
    pub struct Endpoint {
        /// How its packets are treated.
        pub value: EndpointValue,
        /// Slots of its allow maps in ALLOW, for ingress and for egress. 0 for none: nothing is allowed. Native byte order.
        pub allow_maps: [u16; 2],
        /// The MAC address of the pod's end of the veth pair; zero if it is not known.
        pub mac: [u8; 6],
        /// Zero.
        pub pad: [u8; 2],
    }
}

checked! {
    /// Value of ENDPOINTS.
    pub struct EndpointEntry {
        key: IfIndex as [u32; 1],
        value: Endpoint as [u32; 5],
    }
}

wire! {
    /// An element of `ENDPOINT_SLOTS`: a copy of the endpoint's entry in ENDPOINTS.
    ///
    /// The map is an array, because it is read for each packet. If two endpoints would need the same element, one of them has none,
    /// and its entry is read from ENDPOINTS.
    pub struct EndpointSlot {
        /// The MAC address and the owner of the element.
        pub mac: MacSlot,
        /// The entry.
        pub entry: EndpointEntry,
    }
}

impl EndpointSlot {
    /// The element is free.
    pub const FREE: Self = zerocopy::transmute!([0_u64; 4]);

    /// The element of an endpoint.
    pub fn new(ifindex: IfIndex, entry: EndpointEntry) -> Self {
        Self { mac: MacSlot::new(ifindex, Mac::new(entry.value.mac)), entry }
    }

    /// Whether this is the element of the endpoint.
    #[inline(always)]
    pub const fn is_of(&self, ifindex: IfIndex) -> bool {
        self.mac.mac_of(ifindex).is_some()
    }
}

impl Endpoint {
    /// An endpoint.
    pub const fn new(value: EndpointValue, allow_maps: [u16; 2], mac: Mac) -> Self {
        Self { value, allow_maps, mac: mac.octets(), pad: [0; 2] }
    }

    /// The slot in ALLOW of the allow map of a direction.
    #[inline(always)]
    pub const fn allow_map(&self, direction: Direction) -> u16 {
        let [ingress, egress] = self.allow_maps;
        match direction {
            Direction::Ingress => ingress,
            Direction::Egress => egress,
        }
    }

    /// Both slots in one number.
    #[inline(always)]
    pub const fn slots(&self) -> AllowSlots {
        let [ingress, egress] = self.allow_maps;
        AllowSlots(ingress as u32 | ((egress as u32) << 16))
    }

    /// One of these slots.
    #[inline(always)]
    pub const fn slot(AllowSlots(slots): AllowSlots, direction: Direction) -> u32 {
        match direction {
            Direction::Ingress => slots & 0xffff,
            Direction::Egress => slots >> 16,
        }
    }
}

wire! {
    /// Key of ADDRESSES: may this interface send from that address? The value is the interface that has the address, 0 if several have
    /// it.
    pub struct AddressKey {
        /// The pod's host interface; [`AddressKey::ANY_POD`] for any of them.
        pub ifindex: IfIndex,
        /// The source address.
        pub addr: Addr,
    }
}

impl AddressKey {
    /// In place of an interface: some pod of this node has the address. Link-local addresses have no such entry, because they are
    /// valid on one link only.
    pub const ANY_POD: IfIndex = IfIndex(0);

    /// The entry of an address of any pod.
    #[inline(always)]
    pub const fn of_any_pod(addr: Addr) -> Self {
        Self { ifindex: Self::ANY_POD, addr }
    }
}

wire! {
    /// Key of `OWN_NODE`: an address of the own node, a port that the node translates at all of them (`NodePorts`), or at one of them
    /// (`hostPorts`, Services). Key of `NODE_BACKENDS`: a port of a Service.
    pub struct NodeKey {
        /// The address; unspecified for a port at all addresses.
        pub addr: Addr,
        /// The protocol of the port; 0 for an address.
        pub protocol: Protocol,
        /// Which of the backends of a Service; else zero.
        pub index: u8,
        /// The port; zero for an address.
        pub port: PortBe,
    }
}

impl NodeKey {
    /// An address.
    #[inline(always)]
    pub const fn address(addr: Addr) -> Self {
        Self { addr, protocol: Protocol(0), index: 0, port: PortBe::ZERO }
    }

    /// A port that is translated at every address.
    #[inline(always)]
    pub const fn port(protocol: Protocol, port: PortBe) -> Self {
        Self::port_of(Addr::UNSPECIFIED, protocol, port)
    }

    /// A port of one address.
    #[inline(always)]
    pub const fn port_of(addr: Addr, protocol: Protocol, port: PortBe) -> Self {
        Self { addr, protocol, index: 0, port }
    }

    /// The key of another backend of this port of a Service.
    #[inline(always)]
    #[must_use]
    pub const fn at(self, index: u8) -> Self {
        Self { index, ..self }
    }

    /// Whether it is an address.
    pub const fn is_address(&self) -> bool {
        self.protocol.0 == 0
    }
}

number! {
    /// Value of KNOWN: whose an address is.
    pub struct Known(pub u8);
}

impl Known {
    /// Nobody's that is known.
    pub const NOBODY: Self = Self(0);
    /// A node's.
    pub const NODE: Self = Self(1);
    /// A pod's, maybe on another node.
    pub const POD: Self = Self(2);
}
