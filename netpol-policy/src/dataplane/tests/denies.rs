//! Invariant I4 over generated map states whose allow maps allow, deny and defer to the default verdict: after every single
//! operation nothing passes that both map states forbid, and nothing drops that both allow.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use netpol_common::keys::PrefixKey;
use netpol_common::mac::Mac;
use netpol_common::maps::PolicyMaps as _;
use netpol_common::verdict::Asked;
use proptest::collection::btree_map;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::compile::ambiguous;

/// Interfaces of two pods, whose own addresses are 10.0.1.100 and 10.0.1.101.
const PODS: [IfIndex; 2] = [IfIndex(100), IfIndex(101)];
const UDP: u8 = 17;
const SCTP: u8 = 132;
/// Remote addresses are 10.0.0.0 to 10.0.0.7.
const N_REMOTES: u8 = 8;

fn own_address(ifindex: IfIndex) -> Addr {
    let last = u8::try_from(ifindex.0).unwrap();
    Addr::from(IpAddr::V4(Ipv4Addr::new(10, 0, 1, last)))
}

fn remote(last: u8) -> Addr {
    Addr::from(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
}

fn identity() -> impl Strategy<Value = Identity> {
    (4_u32..8).prop_map(Identity)
}

fn identities() -> impl Strategy<Value = BTreeMap<Addr, Identity>> {
    btree_map((0..N_REMOTES).prop_map(remote), identity(), 0..5)
}

/// Blocks of one to eight of the remote addresses. The identity of a block can be none: an exception.
fn prefixes() -> impl Strategy<Value = BTreeMap<PrefixKey, Identity>> {
    let key = (0..N_REMOTES, 0..=3_u32).prop_map(|(last, host_bits)| PrefixKey {
        prefix_len_bits: 128 - host_bits,
        addr: remote(last >> host_bits << host_bits),
    });
    let identity = prop_oneof![1 => Just(Identity::NONE), 4 => identity()];
    btree_map(key, identity, 0..5)
}

fn allow_key() -> impl Strategy<Value = AllowKey> {
    let identity = prop_oneof![2 => Just(Identity::ANY), 3 => identity()];
    let rest = prop_oneof![
        1 => Just((0, 0, AllowKey::ALL_PROTOCOLS_BITS)),
        2 => select(vec![UDP, SCTP]).prop_map(|protocol| (protocol, 0, AllowKey::ALL_PORTS_BITS)),
        4 => (select(vec![UDP, SCTP]), select(vec![12, 15, 16]))
            .prop_map(|(protocol, bits)| (protocol, 80, AllowKey::ALL_PORTS_BITS + bits)),
    ];
    (identity, rest).prop_map(|(identity, (protocol, port, prefix_len_bits))| AllowKey {
        prefix_len_bits,
        identity,
        protocol: Protocol(protocol),
        pad: 0,
        port: PortBe::new(port),
    })
}

fn allow_map() -> impl Strategy<Value = Arc<AllowMap>> {
    let value = prop_oneof![
        3 => (1..4_u32).prop_map(|rule| AllowValue::allow(RuleId(rule))),
        2 => (1..4_u32).prop_map(|rule| AllowValue::deny(RuleId(rule))),
        1 => (1..4_u32).prop_map(|rule| AllowValue::audit(RuleId(rule))),
        1 => Just(AllowValue::DEFAULT_VALUE),
        1 => (1..4_u32).prop_map(|rule| AllowValue::audited_default(RuleId(rule))),
    ];
    btree_map(allow_key(), value, 0..7).prop_map(Arc::new)
}

fn endpoint() -> impl Strategy<Value = EndpointMapState> {
    let isolated = prop_oneof![3 => Just(3_u8), 1 => 0..4_u8];
    let audited = prop_oneof![2 => Just(0_u8), 1 => 0..4_u8];
    let denies = 0..4_u8;
    let container_id = prop_oneof![19 => Just("1"), 1 => Just("2")];
    (isolated, audited, denies, container_id).prop_map(
        |(isolated, audited, denies, container_id)| EndpointMapState {
            value: EndpointValue {
                state: EndpointValue::READY,
                isolated,
                audited: audited & isolated,
                denies: denies & isolated,
                ..EndpointValue::blocked()
            },
            container_id: Arc::from(container_id),
            mac: Mac::UNKNOWN,
        },
    )
}

fn states() -> impl Strategy<Value = MapState> {
    let endpoints = [endpoint(), endpoint()];
    let maps = [allow_map(), allow_map(), allow_map(), allow_map()];
    (endpoints, identities(), prefixes(), maps).prop_map(
        |(endpoints, identities, prefixes, maps)| {
            let mut state = MapState { identities, prefixes, ..MapState::default() };
            let keys = PODS.into_iter().flat_map(|ifindex| {
                Direction::ALL.map(|direction| AllowMapKey::new(ifindex, direction))
            });
            for (ifindex, endpoint) in PODS.into_iter().zip(endpoints) {
                state.addresses.insert(AddressKey { ifindex, addr: own_address(ifindex) });
                state.endpoints.insert(ifindex, endpoint);
            }
            for (key, map) in keys.zip(maps) {
                if state.endpoints[&key.ifindex].value.is_isolated(key.direction) {
                    state.allow.insert(key, map);
                }
            }
            state
        },
    )
}

/// Removes the entries of identities that no address and no prefix has: `compile` writes none.
fn without_unheld(state: &mut MapState) {
    let held = state.held_identities();
    for map in state.allow.values_mut() {
        let is_used =
            |key: &AllowKey| key.identity == Identity::ANY || held.contains(&key.identity);
        Arc::make_mut(map).retain(|key, _| is_used(key));
    }
}

/// Two states of which the second keeps some parts of the first, with the identities that `compile` would give.
fn changes() -> impl Strategy<Value = (MapState, MapState)> {
    (states(), states(), 0..32_u8).prop_map(|(mut old, mut new, kept)| {
        without_unheld(&mut old);
        if kept & 1 != 0 {
            new.identities.clone_from(&old.identities);
        }
        if kept & 2 != 0 {
            new.prefixes.clone_from(&old.prefixes);
        }
        if kept & 4 != 0 {
            new.endpoints.clone_from(&old.endpoints);
            new.allow.retain(|key, _| old.allow.contains_key(key));
            for (key, map) in &old.allow {
                new.allow.entry(*key).or_insert_with(|| Arc::clone(map));
            }
        }
        for (bit, ifindex) in [8, 16].into_iter().zip(PODS) {
            let keeps = |key: &AllowMapKey| kept & bit != 0 && key.ifindex == ifindex;
            for (key, map) in old.allow.iter().filter(|(key, _)| keeps(key)) {
                if let Some(new) = new.allow.get_mut(key) {
                    *new = Arc::clone(map);
                }
            }
        }
        without_unheld(&mut new);
        let renumbered = ambiguous(&old, &new);
        let number = |identity: Identity| {
            if renumbered.contains(&identity) { Identity(identity.0 + 100) } else { identity }
        };
        for identity in new.identities.values_mut().chain(new.prefixes.values_mut()) {
            *identity = number(*identity);
        }
        for map in new.allow.values_mut() {
            let entries = map.iter();
            *map = Arc::new(
                entries
                    .map(|(key, value)| {
                        (AllowKey { identity: number(key.identity), ..*key }, *value)
                    })
                    .collect(),
            );
        }
        (old, new)
    })
}

/// Packets between each pod and each remote address, on both sides of each boundary of ports.
fn packets() -> Vec<(Hook, IfIndex, Vec<u8>)> {
    let mut packets = Vec::new();
    for ifindex in PODS {
        let own = own_address(ifindex);
        for remote in (0..N_REMOTES).map(remote) {
            for (protocol, port) in [(UDP, 79), (UDP, 80), (UDP, 90), (SCTP, 80)] {
                let ingress = frame_to_port(protocol, remote, own, port);
                packets.push((Hook::PodIngress, ifindex, ingress));
                let egress = frame_to_port(protocol, own, remote, port);
                packets.push((Hook::PodEgress, ifindex, egress));
            }
            // No rule can describe a later fragment whose first one is not known.
            let fragment = later_fragment(remote, own);
            packets.push((Hook::PodIngress, ifindex, fragment));
        }
    }
    packets
}

fn later_fragment(src: Addr, dst: Addr) -> Vec<u8> {
    let mut frame = frame_to_port(UDP, src, dst, 80);
    // Its offset in units of eight bytes.
    frame[21] = 1;
    frame
}

fn passes_at(maps: &MemoryMaps, (hook, ifindex, frame): &(Hook, IfIndex, Vec<u8>)) -> bool {
    maps.clear_flows();
    maps.judge(frame.as_slice(), &hook_context(*hook, *ifindex, 0)).outcome.verdict.is_pass()
}

/// Whether rules deny what NetworkPolicies always allow: connections to this address as to the own node.
fn is_denied_by_a_rule(maps: &MemoryMaps, ifindex: IfIndex, remote: &Addr, port: u16) -> bool {
    let (endpoint, slots, _) = maps.endpoint(ifindex).unwrap();
    // Its rules are not asked before the entry of the endpoint says so.
    if !endpoint.is_isolated(Direction::Egress) {
        return false;
    }
    let [hi, lo] = port.to_be_bytes();
    let asked = Asked(u32::from_ne_bytes([hi, lo, UDP, Direction::Egress.bit()]));
    maps.denial(slots, remote, asked) >> 32 == 1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn every_operation_keeps_to_the_verdicts_that_both_map_states_give((old, new) in changes()) {
        let mut maps = MemoryMaps::new(old.clone());
        let after = MemoryMaps::new(new.clone());
        let agreed: Vec<_> = packets()
            .into_iter()
            .filter(|(_, ifindex, _)| {
                // An interface of another sandbox is another endpoint.
                old.endpoints[ifindex].container_id == new.endpoints[ifindex].container_id
            })
            .filter_map(|packet| {
                let verdict = passes_at(&maps, &packet);
                (verdict == passes_at(&after, &packet)).then_some((packet, verdict))
            })
            .collect();
        let places = PODS.into_iter().filter(|ifindex| {
            old.endpoints[ifindex].container_id == new.endpoints[ifindex].container_id
        });
        let questions = places.flat_map(|ifindex| {
            (0..N_REMOTES).flat_map(move |last| [79, 80, 90].map(|port| (ifindex, remote(last), port)))
        });
        let agreed_denials: Vec<_> = questions
            .filter_map(|(ifindex, remote, port)| {
                let is_denied = is_denied_by_a_rule(&maps, ifindex, &remote, port);
                (is_denied == is_denied_by_a_rule(&after, ifindex, &remote, port))
                    .then_some((ifindex, remote, port, is_denied))
            })
            .collect();
        let ops = diff(&old, &new);
        for (n, op) in ops.iter().enumerate() {
            maps.apply(op);
            for (ifindex, remote, port, is_denied) in &agreed_denials {
                prop_assert_eq!(
                    is_denied_by_a_rule(&maps, *ifindex, remote, *port), *is_denied,
                    "{} to {} port {} after operation {} of {:#?}", ifindex, remote, port, n, ops
                );
            }
            for (packet, verdict) in &agreed {
                prop_assert_eq!(
                    passes_at(&maps, packet), *verdict,
                    "{:?} after operation {} of {:#?}", packet, n, ops
                );
            }
        }
        prop_assert_eq!(maps.map_state(), &new);
    }
}
