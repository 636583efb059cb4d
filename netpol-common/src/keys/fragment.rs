//! Datagrams in fragments: the ports, which only the first fragment holds.

use crate::addr::Addr;
use crate::ids::{IfIndex, Nanos, PortBe, Protocol};

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
        /// The IP protocol; zero for IPv6, because only the first fragment has it.
        pub protocol: Protocol,
        /// As [`FlowKey::stage`](super::FlowKey::stage).
        pub stage: u8,
        /// [`Direction::to_wire`](crate::ids::Direction::to_wire) of the packet.
        pub direction: u8,
        /// Zero.
        pub pad: u8,
    }
}

wire! {
    /// Value of FRAGMENTS: facts that only the first fragment of a datagram has.
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
