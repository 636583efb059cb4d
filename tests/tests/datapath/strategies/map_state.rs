//! Map states, consistent or not, for the packets of these tests.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, Identity, IfIndex, PortBe, Protocol, RuleId};
use netpol_common::keys::{AllowKey, AllowValue, BackendValue, EndpointValue, NodeKey, PrefixKey};
use netpol_common::mac::Mac;
use netpol_policy::compile::{AllowMap, AllowMapKey, EndpointMapState, MapState};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::port;
use crate::cluster_model::{PODS, own_addresses, v4, v6};

fn all_addresses() -> Vec<Addr> {
    let v4 = (1..=4).chain([9]).map(|last| Addr::from(v4(last)));
    let v6 = (1..=4).chain([9]).map(|last| Addr::from(IpAddr::from(v6(last))));
    v4.chain(v6).collect()
}

fn identity() -> impl Strategy<Value = Identity> {
    (1_u32..=4).prop_map(Identity)
}

pub(crate) fn endpoint() -> impl Strategy<Value = EndpointValue> {
    let state = prop_oneof![19 => Just(EndpointValue::READY), 1 => Just(EndpointValue::BLOCKED)];
    let traits = prop_oneof![
        4 => Just(0),
        1 => Just(EndpointValue::FORWARDS),
        1 => Just(EndpointValue::DEFERS_ALL),
        2 => Just(EndpointValue::JUDGES_NODE),
        2 => Just(EndpointValue::JUDGES_NODE | EndpointValue::NODE_NEEDS_RULE),
        3 => Just(EndpointValue::SHORT_CUT),
    ];
    let audited = prop_oneof![3 => Just(0), 1 => 0_u8..4];
    let isolated = prop_oneof![2 => Just(3), 1 => 0_u8..4];
    let denies = prop_oneof![2 => Just(0), 1 => 0_u8..4];
    (state, isolated, audited, denies, 0_u8..4, traits, 0_u16..4).prop_map(
        |(state, isolated, audited, denies, keeps_flows, traits, egress_mark)| EndpointValue {
            state,
            isolated,
            audited,
            keeps_flows,
            traits,
            denies,
            egress_mark,
        },
    )
}

/// Mostly entries that packets of these tests look up.
fn allow_key() -> impl Strategy<Value = AllowKey> {
    let protocol = select(vec![1_u8, 6, 6, 6, 17, 17, 58, 132]);
    let len = prop_oneof![
        1 => Just(AllowKey::ALL_PROTOCOLS_BITS),
        2 => Just(AllowKey::ALL_PORTS_BITS),
        2 => AllowKey::ALL_PORTS_BITS..=AllowKey::FULL_BITS,
        3 => Just(AllowKey::FULL_BITS),
    ];
    (identity(), len, protocol, port()).prop_map(|(identity, prefix_len_bits, protocol, port)| {
        let port_bits = prefix_len_bits.saturating_sub(AllowKey::ALL_PORTS_BITS);
        let mask = u16::MAX.checked_shl(16 - port_bits).unwrap_or(0);
        let has_protocol = prefix_len_bits >= AllowKey::ALL_PORTS_BITS;
        AllowKey {
            prefix_len_bits,
            identity,
            protocol: Protocol(if has_protocol { protocol } else { 0 }),
            pad: 0,
            port: PortBe::new(port & mask),
        }
    })
}

pub(crate) fn allow_map() -> impl Strategy<Value = Arc<AllowMap>> {
    let verdict = prop_oneof![
        4 => Just(AllowValue::ALLOW),
        1 => Just(AllowValue::DENY),
        1 => Just(AllowValue::AUDIT),
        1 => Just(AllowValue::DEFAULT),
        1 => Just(AllowValue::CLOSED),
    ];
    let value = (verdict, 1_u32..9).prop_map(|(verdict, rule)| AllowValue {
        rule: RuleId(rule),
        verdict,
        pad: [0; 3],
    });
    btree_map(allow_key(), value, 0..8).prop_map(Arc::new)
}

pub(crate) fn allow_map_key() -> impl Strategy<Value = AllowMapKey> {
    (select(PODS.to_vec()), any::<bool>()).prop_map(|(ifindex, is_ingress)| {
        let direction = if is_ingress { Direction::Ingress } else { Direction::Egress };
        AllowMapKey::new(IfIndex(ifindex), direction)
    })
}

fn prefixes() -> impl Strategy<Value = BTreeMap<PrefixKey, Identity>> {
    let blocks = [
        (96, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        (104, Ipv4Addr::new(10, 0, 0, 0).into()),
        (126, v4(0).into()),
        (127, v4(2).into()),
        (128, v4(3).into()),
        (0, Ipv6Addr::UNSPECIFIED.into()),
        (64, v6(0).into()),
        (127, v6(2).into()),
    ];
    subsequence(blocks.to_vec(), 0..=blocks.len()).prop_flat_map(|blocks| {
        let n_blocks = blocks.len();
        vec(identity(), n_blocks).prop_map(move |identities| {
            let keys = blocks.iter().map(|(prefix_len_bits, addr)| PrefixKey {
                prefix_len_bits: *prefix_len_bits,
                addr: Addr::from(*addr),
            });
            keys.zip(identities).collect()
        })
    })
}

/// A map state, consistent or not.
pub(crate) fn map_state() -> impl Strategy<Value = MapState> {
    // Frames go from the second address to the third.
    let mac = select(vec![
        Mac::UNKNOWN,
        Mac::UNKNOWN,
        Mac::new([2, 0, 0, 0, 0, 1]),
        Mac::new([2, 0, 0, 0, 0, 2]),
    ]);
    let endpoints = vec((endpoint(), mac), PODS.len());
    let identities = btree_map(select(all_addresses()), identity(), 0..8);
    let allow = btree_map(allow_map_key(), allow_map(), 2..7);
    let defer = subsequence(
        vec![Addr::from(v4(9)), Addr::from(IpAddr::from(v6(9))), Addr::from(v4(4))],
        0..=3,
    );
    let egress_marks =
        subsequence(vec![(1, IfIndex(100)), (2, IfIndex(101)), (3, IfIndex(102))], 2..=3);
    let own_node = subsequence(
        vec![
            NodeKey::address(Addr::from(v4(9))),
            NodeKey::address(Addr::from(IpAddr::from(v6(9)))),
            NodeKey::port(Protocol::TCP, PortBe::new(80)),
            NodeKey::port(Protocol::UDP, PortBe::new(53)),
            NodeKey::port_of(Addr::from(v4(9)), Protocol::TCP, PortBe::new(443)),
        ],
        0..=5,
    );
    let node_backends = (select(all_addresses()), select(all_addresses()), port(), 0..3_usize);
    let node_backends = vec(node_backends, 0..3).prop_map(|drawn| {
        let mut found = BTreeMap::new();
        for (service, backend, number, n_more) in drawn {
            let key = NodeKey::port_of(service, Protocol::TCP, PortBe::new(80));
            found.insert(key, BackendValue::new(backend, PortBe::new(number)));
            for index in (1_u8..).take(n_more) {
                found.insert(key.at(index), BackendValue::unknown(PortBe::new(number)));
            }
        }
        found
    });
    let node = (own_node, node_backends);
    (endpoints, identities, prefixes(), allow, defer, node, egress_marks).prop_map(
        |(endpoints, identities, prefixes, allow, defer, node, egress_marks)| MapState {
            endpoints: endpoints
                .into_iter()
                .zip(PODS)
                .map(|((value, mac), ifindex)| {
                    let container_id = Arc::from(format!("container-{ifindex}"));
                    (IfIndex(ifindex), EndpointMapState { value, container_id, mac })
                })
                .collect(),
            addresses: own_addresses(),
            identities,
            prefixes,
            allow,
            defer: defer.into_iter().collect(),
            own_node: node.0.into_iter().collect(),
            node_backends: node.1,
            egress_marks: egress_marks.into_iter().collect(),
        },
    )
}
