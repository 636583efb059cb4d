//! What happens to two pods of a node and one of another node: packets, changes of policy.

use std::sync::Arc;

use netpol_common::ids::IfIndex;
use netpol_common::keys::EndpointValue;
use netpol_common::mac::Mac;
use netpol_lab::packets::{Ends, Fragment, Frame, Packet, Segment};
use netpol_policy::compile::{AllowMap, AllowMapKey};
use proptest::prelude::*;
use proptest::sample::select;

use crate::cluster_model::{PODS, UPLINK, v4, v6};
use crate::strategies::{allow_map, allow_map_key, endpoint};

/// What happens in a case.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The first pod sends to the second one, or the other way round.
    Send(Sent),
    /// An allow map is replaced.
    SetAllow(AllowMapKey, Arc<AllowMap>),
    /// An endpoint is treated differently.
    SetEndpoint(IfIndex, EndpointValue),
    /// The node forgets the flows of a pod, as when they are evicted.
    Forget,
    /// Time passes: seconds.
    Wait(u64),
}

/// The pod with which the first pod exchanges packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    /// The second pod of the node.
    Near,
    /// One of another node.
    Far,
}

/// A packet between the two pods.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) is_back: bool,
    pub(super) peer: Peer,
    /// By the gateway, which routes it back to the same bridge. Between nodes: at the end of its hops.
    pub(super) is_routed: bool,
    pub(super) is_v6: bool,
    pub(super) option_words: u8,
    pub(super) fragment: Option<Fragment>,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Tcp {
        port: u16,
        flags: u8,
    },
    Udp {
        port: u16,
    },
    Echo,
    /// An ICMP error about a packet of this connection that came from the other pod.
    Unreachable {
        is_tcp: bool,
        port: u16,
    },
}

/// The server's port; the client's are those of the events.
const SERVER_PORT: u16 = 80;

pub(super) fn events() -> impl Strategy<Value = Vec<Event>> {
    let port = || select(vec![40_000_u16, 40_001, 53]);
    let flags = prop_oneof![4 => Just(0x02_u8), 3 => Just(0x12), 6 => Just(0x10), 1 => Just(0x11), 1 => Just(0x04)];
    let kind = prop_oneof![
        8 => (port(), flags).prop_map(|(port, flags)| Kind::Tcp { port, flags }),
        5 => port().prop_map(|port| Kind::Udp { port }),
        1 => Just(Kind::Echo),
        1 => (any::<bool>(), port()).prop_map(|(is_tcp, port)| Kind::Unreachable { is_tcp, port }),
    ];
    let fragment = prop_oneof![
        14 => Just(None),
        1 => (0_u32..2, select(vec![0_u16, 185])).prop_map(|(id, offset_units)| {
            Some(Fragment { id, offset_units, more: offset_units == 0 })
        }),
    ];
    let option_words = prop_oneof![14 => Just(0_u8), 1 => Just(1)];
    let is_routed = prop_oneof![9 => Just(false), 1 => Just(true)];
    let ends = (any::<bool>(), select(vec![Peer::Near, Peer::Far]));
    let sent = (ends, is_routed, any::<bool>(), option_words, fragment, kind).prop_map(
        |((is_back, peer), is_routed, is_v6, option_words, fragment, kind)| Sent {
            is_back,
            peer,
            is_routed,
            is_v6,
            option_words,
            fragment,
            kind,
        },
    );
    let event = prop_oneof![
        24 => sent.prop_map(Event::Send),
        1 => (allow_map_key(), allow_map()).prop_map(|(key, map)| Event::SetAllow(key, map)),
        2 => (select(ENDS.to_vec()), endpoint()).prop_map(|((ifindex, _), value)| Event::SetEndpoint(ifindex, value)),
        1 => Just(Event::Forget),
        2 => select(vec![0_u64, 2, 31, 200]).prop_map(Event::Wait),
    ];
    proptest::collection::vec(event, 4..48)
}

/// The MAC address of the bridge.
pub(super) const GATEWAY: Mac = Mac::new([2, 0, 0, 0, 0, 9]);

/// The two pods, by interface and MAC address.
pub(super) const ENDS: [(IfIndex, Mac); 2] = {
    let [client, server, _] = PODS;
    [
        (IfIndex(client), Mac::new([2, 0, 0, 0, 0, 1])),
        (IfIndex(server), Mac::new([2, 0, 0, 0, 0, 2])),
    ]
};

/// The device that leads to the other node, and its MAC address.
pub(super) const OVERLAY: (IfIndex, Mac) = (IfIndex(UPLINK), Mac::new([2, 0, 0, 0, 0, 8]));

impl Sent {
    /// The frame, addressed to this device.
    pub(super) fn frame_to(&self, other: Mac) -> Vec<u8> {
        // An address that some policies know is the far pod's.
        let peer = match self.peer {
            Peer::Near => 2,
            Peer::Far => 4,
        };
        let (from, to) = if self.is_back { (peer, 1) } else { (1, peer) };
        let ends = |from: u8, to: u8| {
            if self.is_v6 {
                Ends::V6(v6(from.into()), v6(to.into()))
            } else {
                Ends::V4(v4(from), v4(to))
            }
        };
        let ports = |is_back: bool, port| {
            if is_back { (SERVER_PORT, port) } else { (port, SERVER_PORT) }
        };
        let of = |is_tcp: bool, is_back: bool, port: u16, flags: u8| {
            let (src_port, dst_port) = ports(is_back, port);
            if is_tcp {
                Segment::Tcp { src_port, dst_port, flags }
            } else {
                Segment::Udp { src_port, dst_port }
            }
        };
        let segment = match self.kind {
            Kind::Tcp { port, flags } => of(true, self.is_back, port, flags),
            Kind::Udp { port } => of(false, self.is_back, port, 0),
            Kind::Echo => {
                let kind = if self.is_v6 { 128 } else { 8 };
                Segment::Icmp { kind, id: 1, quoted: None }
            }
            Kind::Unreachable { is_tcp, port } => {
                let quoted = Packet {
                    ends: ends(to, from),
                    option_words: 0,
                    extensions: Vec::new(),
                    fragment: None,
                    segment: of(is_tcp, !self.is_back, port, 0x10),
                };
                let kind = if self.is_v6 { 1 } else { 3 };
                Segment::Icmp { kind, id: 0, quoted: Some(Box::new(quoted)) }
            }
        };
        let packet = Packet {
            ends: ends(from, to),
            option_words: self.option_words,
            extensions: Vec::new(),
            fragment: self.fragment,
            segment,
        };
        let mut bytes = Frame::Ip(packet, usize::MAX).bytes();
        let hops = bytes.get_mut(if self.is_v6 { 21 } else { 22 });
        if let (Peer::Far, true, Some(hops)) = (self.peer, self.is_routed, hops) {
            *hops = 1;
        }
        let [(_, own), _] = self.ends();
        let rest = bytes.get(12..).unwrap_or_default();
        [other.octets().as_slice(), own.octets().as_slice(), rest].concat()
    }

    /// Sender and receiver.
    pub(super) fn ends(&self) -> [(IfIndex, Mac); 2] {
        let [client, server] = ENDS;
        let server = match self.peer {
            Peer::Near => server,
            Peer::Far => OVERLAY,
        };
        if self.is_back { [server, client] } else { [client, server] }
    }

    /// The TCP connection: of others conntrack checks no windows, and a later fragment without its first one belongs to none.
    pub(super) fn connection(&self) -> Option<Connection> {
        match self.kind {
            _ if self.fragment.is_some_and(|fragment| fragment.offset_units > 0) => None,
            Kind::Tcp { port, .. } => Some((self.peer, self.is_v6, port)),
            Kind::Udp { .. } | Kind::Echo | Kind::Unreachable { .. } => None,
        }
    }
}

/// The peer, whether it is IPv6, and the client's port.
pub(super) type Connection = (Peer, bool, u16);
