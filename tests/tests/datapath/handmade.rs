//! Sequences of frames and changes whose every verdict is known, for the kernel and for the host.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, Identity, IfIndex, PortBe, Protocol, RuleId};
use netpol_common::keys::{AddressKey, AllowKey, AllowValue, EndpointValue};
use netpol_common::mac::Mac;
use netpol_datapath::{FlowReads, Program, TestContext};
use netpol_lab::packets::{AUTHENTICATION, Ends, Extension, Fragment, Frame, Packet, Segment};
use netpol_lab::privilege::{Need, met};
use netpol_policy::compile::{AllowMap, AllowMapKey, EndpointMapState, MapState};

use super::cluster_model::{PODS, Seen, Step, UPLINK, own_addresses, v4, v6};
use super::fast_slow_equivalence::Equivalence;

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;
/// Egress mark 2, and other bits of the packet mark.
const EGRESS_MARK_2: u32 = 2 << 20;
const OTHER_BITS: u32 = 0xc000;

/// An event and its expected verdict.
enum Event {
    Verdict(Seen, &'static str),
    Change(Step),
}

use Event::{Change, Verdict};

#[track_caller]
fn check(map_state: &MapState, scenario: Vec<Event>) {
    if !met(&[Need::Root]) {
        return;
    }
    let mut equivalence = Equivalence::new(FlowReads::OF_THIS_ARCHITECTURE);
    equivalence.start(map_state);
    for event in scenario {
        match event {
            Change(step) => equivalence.step(&step).unwrap(),
            Verdict(seen, expected) => {
                let outcome = equivalence.see(&seen).unwrap().unwrap();
                assert_eq!(outcome.verdict.as_str(), expected, "{seen:?}");
            }
        }
    }
}

/// Three pods, isolated in these directions; every peer may reach TCP 80 and UDP 53 of them, and vice versa.
fn map_state(isolated: &[Direction]) -> MapState {
    let isolated = isolated.iter().fold(0, |set, direction| set | direction.bit());
    let endpoint = |ifindex: u32| {
        let value = EndpointValue {
            state: EndpointValue::READY,
            isolated,
            egress_mark: u16::try_from(ifindex - 99).unwrap(),
            ..EndpointValue::blocked()
        };
        (
            IfIndex(ifindex),
            EndpointMapState { value, container_id: Arc::from("container"), mac: Mac::UNKNOWN },
        )
    };
    let keys = PODS.iter().flat_map(|ifindex| {
        Direction::ALL.map(|direction| AllowMapKey::new(IfIndex(*ifindex), direction))
    });
    MapState {
        endpoints: PODS.iter().map(|ifindex| endpoint(*ifindex)).collect(),
        addresses: own_addresses(),
        allow: keys
            .map(|key| (key, allowing(&[(Protocol::TCP, 80), (Protocol::UDP, 53)])))
            .collect(),
        defer: [Addr::from(v4(9))].into(),
        egress_marks: BTreeMap::from([(1, IfIndex(100)), (2, IfIndex(101)), (3, IfIndex(102))]),
        ..MapState::default()
    }
}

/// Allows these ports for every peer.
fn allowing(ports: &[(Protocol, u16)]) -> Arc<AllowMap> {
    let entry = |(protocol, port): &(Protocol, u16)| {
        let key = AllowKey::lookup(Identity::ANY, *protocol, PortBe::new(*port));
        (key, AllowValue::allow(RuleId(7)))
    };
    Arc::new(ports.iter().map(entry).collect())
}

fn set_allow(direction: Direction, ports: &[(Protocol, u16)]) -> Event {
    Change(Step::SetAllow(AllowMapKey::new(IfIndex(100), direction), allowing(ports)))
}

fn to_pod(ifindex: u32, packet: Packet) -> Seen {
    let frame = Frame::whole(packet);
    Seen { program: Program::PodIngress, ifindex, ingress_ifindex: UPLINK, mark: OTHER_BITS, frame }
}

fn from_pod(ifindex: u32, packet: Packet) -> Seen {
    Seen { program: Program::PodEgress, ..to_pod(ifindex, packet) }
}

fn tcp(ends: Ends, src_port: u16, dst_port: u16, flags: u8) -> Packet {
    Packet::plain(ends, Segment::Tcp { src_port, dst_port, flags })
}

fn udp(ends: Ends, src_port: u16, dst_port: u16) -> Packet {
    Packet::plain(ends, Segment::Udp { src_port, dst_port })
}

/// An external address and the first pod.
fn inward() -> Ends {
    Ends::V4(v4(4), v4(1))
}

fn outward() -> Ends {
    Ends::V4(v4(1), v4(4))
}

fn unreachable(ends: Ends, quoted: Packet) -> Packet {
    let kind = if matches!(ends, Ends::V4(..)) { 3 } else { 1 };
    Packet::plain(ends, Segment::Icmp { kind, id: 0, quoted: Some(Box::new(quoted)) })
}

#[test]
fn a_connection_ends_in_both_directions_when_its_rule_does_and_goes_on_when_it_returns() {
    let data = || to_pod(100, tcp(inward(), 5000, 80, ACK));
    let answer = || from_pod(100, tcp(outward(), 80, 5000, ACK));
    check(
        &map_state(&[Direction::Ingress]),
        vec![
            Verdict(to_pod(100, tcp(inward(), 5000, 80, SYN)), "allowed"),
            Verdict(from_pod(100, tcp(outward(), 80, 5000, SYN_ACK)), "flow"),
            Verdict(data(), "flow"),
            set_allow(Direction::Ingress, &[(Protocol::TCP, 81)]),
            Verdict(answer(), "revoked"),
            Verdict(data(), "revoked"),
            Verdict(
                to_pod(100, unreachable(inward(), tcp(outward(), 80, 5000, ACK))),
                "not-allowed",
            ),
            Verdict(to_pod(100, tcp(inward(), 5000, 80, SYN)), "not-allowed"),
            set_allow(Direction::Ingress, &[(Protocol::TCP, 80)]),
            Verdict(data(), "flow"),
            Verdict(answer(), "flow"),
        ],
    );
}

#[test]
fn a_connection_that_is_kept_outlives_its_rule_but_no_new_one_begins() {
    let mut map_state = map_state(&[Direction::Ingress]);
    for endpoint in map_state.endpoints.values_mut() {
        endpoint.value.keeps_flows = Direction::Ingress.bit();
    }
    check(
        &map_state,
        vec![
            Verdict(to_pod(100, tcp(inward(), 5000, 80, SYN)), "allowed"),
            set_allow(Direction::Ingress, &[]),
            Verdict(to_pod(100, tcp(inward(), 5000, 80, ACK)), "flow"),
            Verdict(from_pod(100, tcp(outward(), 80, 5000, ACK)), "flow"),
            Verdict(to_pod(100, tcp(inward(), 5001, 80, SYN)), "not-allowed"),
        ],
    );
}

#[test]
fn errors_pass_when_they_quote_a_live_connection_and_only_then() {
    let v6_in = Ends::V6(v6(4), v6(1));
    let v6_out = Ends::V6(v6(1), v6(4));
    let from_elsewhere = unreachable(Ends::V4(v4(3), v4(1)), udp(outward(), 6000, 53));
    check(
        &map_state(&[Direction::Ingress, Direction::Egress]),
        vec![
            Verdict(from_pod(100, udp(outward(), 6000, 53)), "allowed"),
            Verdict(to_pod(100, unreachable(inward(), udp(outward(), 6000, 53))), "icmp-error"),
            // Any router on the path may send the error.
            Verdict(to_pod(100, from_elsewhere), "icmp-error"),
            Verdict(to_pod(100, unreachable(inward(), udp(outward(), 6001, 53))), "not-allowed"),
            Verdict(to_pod(100, unreachable(inward(), udp(inward(), 6000, 53))), "not-allowed"),
            Verdict(from_pod(100, udp(v6_out, 6000, 53)), "allowed"),
            Verdict(to_pod(100, unreachable(v6_in, udp(v6_out, 6000, 53))), "icmp-error"),
            Verdict(to_pod(100, unreachable(v6_in, udp(v6_out, 6001, 53))), "not-allowed"),
        ],
    );
}

#[test]
fn fragments_follow_their_first_one_in_both_families() {
    let fragment = |ends, id, offset_units, more| Packet {
        fragment: Some(Fragment { id, offset_units, more }),
        ..udp(ends, 5000, 53)
    };
    let mut scenario = Vec::new();
    for ends in [inward(), Ends::V6(v6(4), v6(1))] {
        scenario.extend([
            Verdict(to_pod(100, fragment(ends, 1, 185, true)), "fragment-without-first"),
            Verdict(to_pod(100, fragment(ends, 1, 0, true)), "allowed"),
            Verdict(to_pod(100, fragment(ends, 1, 370, false)), "flow"),
            Verdict(to_pod(100, fragment(ends, 1, 185, true)), "flow"),
            Verdict(to_pod(100, fragment(ends, 2, 185, true)), "fragment-without-first"),
            Verdict(to_pod(100, fragment(ends, 1, 1, true)), "tiny-fragment"),
        ]);
    }
    check(&map_state(&[Direction::Ingress]), scenario);
}

/// Later fragments follow the verdict of the latest first fragment, whichever the receiver keeps. A fragment that would
/// overwrite the ports of a first fragment never passes.
#[test]
fn overlapping_fragments_are_judged_by_the_newest_first_one() {
    let fragment = |ends, port, offset_units, more| Packet {
        fragment: Some(Fragment { id: 7, offset_units, more }),
        ..udp(ends, 5000, port)
    };
    let mut scenario = Vec::new();
    for ends in [inward(), Ends::V6(v6(4), v6(1))] {
        scenario.extend([
            Verdict(to_pod(100, fragment(ends, 53, 0, true)), "allowed"),
            Verdict(to_pod(100, fragment(ends, 53, 185, true)), "flow"),
            Verdict(to_pod(100, fragment(ends, 53, 185, true)), "flow"),
            Verdict(to_pod(100, fragment(ends, 54, 0, true)), "not-allowed"),
            Verdict(to_pod(100, fragment(ends, 53, 370, false)), "not-allowed"),
            Verdict(to_pod(100, fragment(ends, 53, 2, false)), "tiny-fragment"),
            Verdict(to_pod(100, fragment(ends, 53, 0, true)), "flow"),
            Verdict(to_pod(100, fragment(ends, 54, 370, false)), "flow"),
        ]);
    }
    check(&map_state(&[Direction::Ingress]), scenario);
}

/// A SYN-ACK without a flow began one, and then the peer's data passed the isolation.
#[test]
fn an_answer_that_answers_nothing_opens_nothing() {
    let data = || to_pod(100, tcp(inward(), 5000, 90, ACK));
    let mut scenario = Vec::new();
    for (flags, verdict) in
        [(SYN_ACK, "not-allowed"), (RST, "not-isolated"), (RST | ACK, "not-isolated")]
    {
        scenario.push(Verdict(from_pod(100, tcp(outward(), 90, 5000, flags)), verdict));
        scenario.push(Verdict(data(), "not-allowed"));
    }
    // The peer may connect to this port: the answer passes, but the peer's data needs the rule again.
    scenario.push(Verdict(from_pod(100, tcp(outward(), 80, 5000, SYN_ACK)), "allowed"));
    scenario.push(Verdict(to_pod(100, tcp(inward(), 5000, 80, ACK)), "allowed"));
    scenario.push(Verdict(from_pod(100, tcp(outward(), 80, 5000, ACK)), "flow"));
    check(&map_state(&[Direction::Ingress]), scenario);

    // The other way: the pod may be reached by everybody, and sends an answer that nobody asked for.
    let sends = |flags| from_pod(100, tcp(outward(), 90, 5000, flags));
    check(
        &map_state(&[Direction::Egress]),
        vec![
            Verdict(sends(SYN_ACK), "not-allowed"),
            Verdict(sends(ACK), "not-allowed"),
            Verdict(to_pod(100, tcp(inward(), 5000, 90, SYN_ACK)), "not-allowed"),
            Verdict(sends(ACK), "not-allowed"),
            // The answer to a SYN that has passed.
            Verdict(to_pod(100, tcp(inward(), 5000, 90, SYN)), "not-isolated"),
            Verdict(sends(SYN_ACK), "flow"),
        ],
    );
}

/// A segment from the middle of a connection is picked up because the flow may have been evicted.
#[test]
fn a_segment_without_a_flow_opens_what_a_syn_would_open_and_nothing_else() {
    for flags in [SYN, ACK] {
        let forbidden = || from_pod(100, tcp(outward(), 5000, 90, flags));
        let allowed = || from_pod(100, tcp(outward(), 5000, 80, flags));
        let data = |from_port| to_pod(100, tcp(inward(), from_port, 5000, ACK));
        check(
            &map_state(&[Direction::Ingress, Direction::Egress]),
            vec![
                Verdict(data(80), "not-allowed"),
                Verdict(forbidden(), "not-allowed"),
                Verdict(data(90), "not-allowed"),
                Verdict(allowed(), "allowed"),
                Verdict(data(80), "flow"),
                Verdict(data(81), "not-allowed"),
                Verdict(to_pod(100, tcp(inward(), 80, 5001, ACK)), "not-allowed"),
                // The connection ends with the rule, as one that a SYN began.
                set_allow(Direction::Egress, &[]),
                Verdict(data(80), "revoked"),
            ],
        );
    }
}

#[test]
fn neighbour_discovery_and_listener_messages_pass_in_their_own_form_only() {
    let message =
        |seen: Seen, [src, dst]: [Ipv6Addr; 2], hop_limit, extension: &[u8], icmp: &[u8]| {
            let next = if extension.is_empty() { 58 } else { 0 };
            let len = u8::try_from(extension.len() + icmp.len()).unwrap();
            let mut bytes = vec![0x60, 0, 0, 0, 0, len, next, hop_limit];
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            bytes.extend(extension);
            bytes.extend(icmp);
            Seen { frame: Frame::Other { ether_type: 0x86dd, bytes }, ..seen }
        };
    let empty = |ends| udp(ends, 0, 0);
    let (inward, outward) = (Ends::V6(v6(4), v6(1)), Ends::V6(v6(1), v6(4)));
    let text = |address: &str| address.parse::<Ipv6Addr>().unwrap();
    let mut scenario = Vec::new();
    for (own, other, seen) in
        [(v6(4), v6(1), to_pod(100, empty(inward))), (v6(1), v6(4), from_pod(100, empty(outward)))]
    {
        let solicitation = [&[135, 0, 0, 0, 0, 0, 0, 0], other.octets().as_slice()].concat();
        let ends = [own, other];
        let check = |hop_limit, ends, extension: &[u8], icmp: &[u8], verdict| {
            Verdict(message(seen.clone(), ends, hop_limit, extension, icmp), verdict)
        };
        scenario.push(check(255, ends, &[], &solicitation, "neighbour-discovery"));
        scenario.push(check(64, ends, &[], &solicitation, "not-allowed"));
        let long = [solicitation.as_slice(), &[7; 200]].concat();
        scenario.push(check(255, ends, &[], &long, "not-allowed"));
        let report = [[143, 0, 0, 0, 0, 0, 0, 1].as_slice(), &[0xff; 20]].concat();
        let alert = [58, 0, 5, 2, 0, 0, 1, 0];
        let on_link = [text("fe80::7"), text("ff02::16")];
        scenario.push(check(1, on_link, &alert, &report, "neighbour-discovery"));
        scenario.push(check(64, on_link, &alert, &report, "not-allowed"));
        scenario.push(check(255, ends, &[], &[144, 0, 0, 0, 0, 0, 0, 0], "not-allowed"));
    }
    scenario.push(Verdict(
        to_pod(
            100,
            Packet { segment: Segment::Icmp { kind: 128, id: 0, quoted: None }, ..empty(inward) },
        ),
        "not-allowed",
    ));
    check(&map_state(&[Direction::Ingress, Direction::Egress]), scenario);
}

#[test]
fn egress_to_a_service_is_decided_where_the_real_destination_is_known() {
    let service = || from_pod(101, tcp(Ends::V4(v4(2), v4(9)), 5000, 80, SYN));
    let there = |program, ifindex, dst_port| Seen {
        program,
        ifindex,
        ingress_ifindex: 101,
        mark: EGRESS_MARK_2 | OTHER_BITS,
        frame: Frame::whole(tcp(Ends::V4(v4(2), v4(1)), 5000, dst_port, SYN)),
    };
    check(
        &map_state(&[Direction::Egress]),
        vec![
            Verdict(service(), "deferred"),
            Verdict(there(Program::UplinkEgress, UPLINK, 80), "allowed"),
            Verdict(there(Program::UplinkEgress, UPLINK, 8080), "not-allowed"),
            Verdict(there(Program::PodIngress, 100, 80), "not-isolated"),
            Verdict(there(Program::PodIngress, 100, 8080), "not-allowed"),
            // Without an egress mark it is no deferred packet.
            Verdict(
                Seen { mark: 0, ..there(Program::UplinkEgress, UPLINK, 8080) },
                "no-egress-mark",
            ),
            Verdict(
                Seen { mark: 9 << 20, ..there(Program::UplinkEgress, UPLINK, 80) },
                "unknown-egress-mark",
            ),
        ],
    );
}

#[test]
fn a_pod_cannot_choose_its_egress_mark_and_an_egress_mark_is_used_once() {
    if !met(&[Need::Root]) {
        return;
    }
    let mut equivalence = Equivalence::new(FlowReads::OF_THIS_ARCHITECTURE);
    equivalence.start(&map_state(&[Direction::Egress]));
    let mut mark_after = |mut seen: Seen, mark| {
        seen.mark = mark;
        equivalence.see(&seen).unwrap().unwrap().mark
    };
    let to_service = || from_pod(101, tcp(Ends::V4(v4(2), v4(9)), 5000, 80, SYN));
    let to_pod_1 = || from_pod(101, tcp(Ends::V4(v4(2), v4(1)), 5000, 80, SYN));
    assert_eq!(mark_after(to_service(), OTHER_BITS), EGRESS_MARK_2 | OTHER_BITS);
    assert_eq!(mark_after(to_service(), (3 << 20) | OTHER_BITS), EGRESS_MARK_2 | OTHER_BITS);
    assert_eq!(mark_after(to_pod_1(), (3 << 20) | OTHER_BITS), OTHER_BITS);
    let arrives = to_pod(100, tcp(Ends::V4(v4(2), v4(1)), 5000, 80, SYN));
    assert_eq!(mark_after(arrives, EGRESS_MARK_2 | OTHER_BITS), OTHER_BITS);
}

/// Found by fuzzing: the flow of the dropped packet admitted packets from the Service's address.
#[test]
fn a_packet_to_a_service_that_drops_for_want_of_an_egress_mark_opens_no_way_back() {
    let mut map_state = map_state(&[Direction::Ingress, Direction::Egress]);
    for endpoint in map_state.endpoints.values_mut() {
        endpoint.value.egress_mark = 0;
    }
    check(
        &map_state,
        vec![
            Verdict(from_pod(100, udp(Ends::V4(v4(1), v4(9)), 5000, 53)), "unknown-egress-mark"),
            Verdict(to_pod(100, udp(Ends::V4(v4(9), v4(1)), 53, 5000)), "not-allowed"),
        ],
    );
}

#[test]
fn the_node_and_the_pod_itself_may_always() {
    let from_node =
        |ingress_ifindex| Seen { ingress_ifindex, ..to_pod(100, tcp(inward(), 5000, 8080, SYN)) };
    check(
        &map_state(&[Direction::Ingress]),
        vec![
            Verdict(from_node(UPLINK), "not-allowed"),
            Verdict(from_node(0), "own-node"),
            Verdict(from_node(100), "hairpin"),
            Verdict(from_pod(100, tcp(outward(), 8080, 5000, SYN_ACK)), "flow"),
        ],
    );
}

#[test]
fn pods_send_from_their_own_addresses_only() {
    let arp = |sender| Seen { frame: Frame::Arp { sender }, ..from_pod(100, udp(outward(), 1, 2)) };
    let router = Segment::Icmp { kind: 134, id: 0, quoted: None };
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    check(
        &map_state(&[]),
        vec![
            Verdict(from_pod(100, udp(outward(), 5000, 53)), "not-isolated"),
            Verdict(from_pod(100, udp(Ends::V4(v4(2), v4(4)), 5000, 53)), "spoofed"),
            Verdict(from_pod(100, udp(Ends::V6(v6(2), v6(4)), 5000, 53)), "spoofed"),
            Verdict(from_pod(100, udp(Ends::V6(link_local, v6(4)), 5000, 53)), "not-isolated"),
            Verdict(from_pod(100, Packet::plain(Ends::V6(v6(1), v6(4)), router)), "spoofed"),
            Verdict(arp(v4(1)), "arp"),
            Verdict(arp(v4(2)), "spoofed"),
            // Packets to it may come from any address.
            Verdict(to_pod(100, udp(Ends::V4(v4(3), v4(1)), 5000, 53)), "not-isolated"),
        ],
    );
}

/// The fast path once compared the source with a sender address that was not recorded yet: all zeros.
#[test]
fn an_established_flow_does_not_permit_another_source_address() {
    let ends = |from, to| (Ends::V6(v6(from), v6(to)), Ends::V6(v6(to), v6(from)));
    let (inward, outward) = ends(4, 1);
    let data = |ends: &Ends| tcp(*ends, 80, 80, ACK);
    let nowhere = Ends::V6(Ipv6Addr::UNSPECIFIED, v6(4));
    check(
        &map_state(&[]),
        vec![
            Verdict(to_pod(100, data(&inward)), "not-isolated"),
            Verdict(to_pod(100, data(&inward)), "flow"),
            Verdict(from_pod(100, data(&nowhere)), "spoofed"),
            Verdict(from_pod(100, data(&Ends::V6(v6(2), v6(4)))), "spoofed"),
            Verdict(from_pod(100, data(&outward)), "flow"),
            Verdict(from_pod(100, data(&outward)), "flow"),
            Verdict(from_pod(100, data(&nowhere)), "spoofed"),
            Verdict(from_pod(100, data(&Ends::V6(v6(2), v6(4)))), "spoofed"),
        ],
    );
}

/// A packet to the pod once refreshed the flow, and with it the permission to send from a removed address.
#[test]
fn a_pod_that_loses_an_address_cannot_send_from_it_on_an_established_flow() {
    let lost = AddressKey { ifindex: IfIndex(100), addr: v4(1).into() };
    check(
        &map_state(&[]),
        vec![
            Verdict(to_pod(100, tcp(inward(), 5000, 80, ACK)), "not-isolated"),
            Verdict(from_pod(100, tcp(outward(), 80, 5000, ACK)), "flow"),
            Verdict(from_pod(100, tcp(outward(), 80, 5000, ACK)), "flow"),
            Change(Step::RemoveAddress(lost)),
            Verdict(to_pod(100, tcp(inward(), 5000, 80, ACK)), "flow"),
            Verdict(from_pod(100, tcp(outward(), 80, 5000, ACK)), "spoofed"),
        ],
    );
}

#[test]
fn a_pod_whose_policy_is_not_known_neither_sends_nor_receives() {
    let mut map_state = map_state(&[]);
    for endpoint in map_state.endpoints.values_mut() {
        endpoint.value.state = EndpointValue::BLOCKED;
    }
    let nobody = |program| Seen { program, ifindex: 103, ..to_pod(103, udp(inward(), 1, 2)) };
    check(
        &map_state,
        vec![
            Verdict(to_pod(100, udp(inward(), 5000, 53)), "blocked"),
            Verdict(from_pod(100, udp(outward(), 5000, 53)), "blocked"),
            Verdict(nobody(Program::PodIngress), "unknown-endpoint"),
            Verdict(nobody(Program::PodEgress), "unknown-endpoint"),
        ],
    );
}

#[test]
fn headers_are_found_behind_options_and_extensions_within_a_bound() {
    let options = Packet { option_words: 10, ..udp(inward(), 5000, 53) };
    let chain = |n: usize| {
        let kinds = [0, 60, 43, AUTHENTICATION, 135, 139, 140, 60, 60];
        let extensions = kinds.into_iter().take(n).map(|kind| Extension { kind, len: 2 }).collect();
        Packet { extensions, ..udp(Ends::V6(v6(4), v6(1)), 5000, 53) }
    };
    let other_port =
        Packet { extensions: chain(7).extensions, ..udp(Ends::V6(v6(4), v6(1)), 5000, 54) };
    check(
        &map_state(&[Direction::Ingress]),
        vec![
            Verdict(to_pod(100, options), "allowed"),
            Verdict(to_pod(100, chain(7)), "allowed"),
            Verdict(to_pod(100, other_port), "not-allowed"),
            Verdict(to_pod(100, chain(8)), "extension-headers"),
        ],
    );
}

/// In a test run the kernel prepends an Ethernet header to every packet, and a program for devices without one reads it as the
/// start of the IP header. So the ethertype of this packet, bytes 13 and 14, is part of its source address too.
#[test]
fn uplinks_without_ethernet_headers_finish_deferred_verdicts_too() {
    if !met(&[Need::Root]) {
        return;
    }
    let mut equivalence = Equivalence::new(FlowReads::OF_THIS_ARCHITECTURE);
    equivalence.start(&map_state(&[Direction::Egress]));
    let source = std::net::Ipv4Addr::new(8, 0, 1, 1);
    let mut run = |dst_port, mark| {
        let packet = tcp(Ends::V4(source, v4(4)), 5000, dst_port, SYN).bytes();
        let context = TestContext { ifindex: UPLINK, ingress_ifindex: 100, mark };
        let outcome =
            equivalence.kernel().test_run(Program::UplinkEgressL3, &packet, context).unwrap();
        (outcome.is_pass(), outcome.mark)
    };
    assert_eq!(run(80, EGRESS_MARK_2), (true, 0));
    assert_eq!(run(8080, EGRESS_MARK_2), (false, 0));
    assert_eq!(run(8080, OTHER_BITS), (true, OTHER_BITS));
}
