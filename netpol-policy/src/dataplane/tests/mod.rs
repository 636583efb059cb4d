//! The order of operations: cases in which a wrong order once opened or closed something, and the law over generated map
//! states with entries that deny. The law over generated clusters is in `tests/tests/incremental`.

mod denies;

use std::net::IpAddr;
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, Hook, Identity, IfIndex, Nanos, PortBe, Protocol, RuleId};
use netpol_common::keys::{AddressKey, AllowKey, AllowValue, EndpointValue};
use netpol_common::mac::Mac;
use netpol_common::verdict::{DEFAULT_MARK_MASK, HookContext};

use super::*;

const POD: IfIndex = IfIndex(100);
const OWN: &str = "10.0.0.1";
const OTHER: &str = "10.0.0.2";
const REMOTE: &str = "8.8.8.8";

/// One pod that is isolated in both directions; `allows` says for whom all ports are open in both.
fn map_state(container_id: &str, own: &[&str], allows: &[Identity]) -> MapState {
    let value = EndpointValue {
        state: EndpointValue::READY,
        isolated: Direction::Ingress.bit() | Direction::Egress.bit(),
        egress_mark: 1,
        ..EndpointValue::blocked()
    };
    let entry = |identity: &Identity| {
        let key = AllowKey {
            prefix_len_bits: AllowKey::ALL_PROTOCOLS_BITS,
            identity: *identity,
            protocol: Protocol(0),
            pad: 0,
            port: PortBe::ZERO,
        };
        (key, AllowValue::allow(RuleId(1)))
    };
    let map: Arc<AllowMap> = Arc::new(allows.iter().map(entry).collect());
    let mut map_state = MapState::default();
    map_state.endpoints.insert(
        POD,
        EndpointMapState { value, container_id: Arc::from(container_id), mac: Mac::UNKNOWN },
    );
    map_state.addresses =
        own.iter().map(|own| AddressKey { ifindex: POD, addr: addr(own) }).collect();
    for direction in Direction::ALL {
        map_state.allow.insert(AllowMapKey::new(POD, direction), Arc::clone(&map));
    }
    map_state.egress_marks.insert(1, POD);
    map_state
}

fn addr(text: &str) -> Addr {
    Addr::from(text.parse::<IpAddr>().unwrap())
}

/// A UDP packet.
fn frame(src: &str, dst: &str) -> Vec<u8> {
    frame_to_port(17, addr(src), addr(dst), 0)
}

/// A packet of UDP or SCTP to this port.
fn frame_to_port(protocol: u8, src: Addr, dst: Addr, port: u16) -> Vec<u8> {
    let mut frame = vec![0; 14 + 20 + 12];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14] = 0x45;
    frame[23] = protocol;
    for (offset, addr) in [(26, src), (30, dst)] {
        frame[offset..offset + 4].copy_from_slice(&addr.0[12..]);
    }
    frame[36..38].copy_from_slice(&port.to_be_bytes());
    frame
}

fn hook_context(hook: Hook, ifindex: IfIndex, mark: u32) -> HookContext {
    HookContext {
        hook,
        ifindex,
        ingress_ifindex: 2,
        has_socket: false,
        is_tagged: false,
        mark,
        mark_mask: DEFAULT_MARK_MASK,
        flow_handle: 0,
        now: Nanos(1),
    }
}

fn passes(maps: &MemoryMaps, hook: Hook, src: &str, dst: &str) -> bool {
    maps.clear_flows();
    maps.judge(frame(src, dst).as_slice(), &hook_context(hook, POD, 0)).outcome.verdict.is_pass()
}

/// Between the two map states this packet never passes, or always does.
#[track_caller]
fn check(old: &MapState, new: &MapState, hook: Hook, ends: [&str; 2], expected: &str) {
    let ops = diff(old, new);
    let mut maps = MemoryMaps::new(old.clone());
    for op in &ops {
        maps.apply(op);
        let found = if passes(&maps, hook, ends[0], ends[1]) { "passes" } else { "drops" };
        // Until then the interface is still the old pod's.
        if !matches!(op, MapOp::RemoveEndpoint(_)) {
            assert_eq!(found, expected, "after {op:?}");
        }
    }
    assert_eq!(maps.map_state(), new);
}

#[test]
fn an_interface_that_is_used_again_keeps_nothing_of_its_old_sandbox() {
    let old = map_state("1", &[OWN], &[Identity::ANY]);
    let mut new = map_state("2", &[OTHER], &[]);
    // Addresses change hands at the same time.
    new.identities.insert(addr(REMOTE), Identity(7));
    check(&old, &new, Hook::PodIngress, [REMOTE, OTHER], "drops");
    check(&old, &new, Hook::PodEgress, [OTHER, REMOTE], "drops");
    check(&old, &new, Hook::PodEgress, [OWN, REMOTE], "drops");
}

#[test]
fn a_source_address_that_begins_is_not_judged_by_the_old_policy() {
    let old = map_state("1", &[OWN], &[Identity::ANY]);
    let new = map_state("1", &[OWN, OTHER], &[]);
    check(&old, &new, Hook::PodEgress, [OTHER, REMOTE], "drops");
}

#[test]
fn a_source_address_that_ends_is_not_judged_by_the_new_policy() {
    let old = map_state("1", &[OWN, OTHER], &[]);
    let new = map_state("1", &[OWN], &[Identity::ANY]);
    check(&old, &new, Hook::PodEgress, [OTHER, REMOTE], "drops");
}

#[test]
fn what_a_rule_allowed_passes_while_enforcement_turns_into_audit() {
    let old = map_state("1", &[OWN], &[Identity::ANY]);
    let mut new = map_state("1", &[OWN], &[]);
    for endpoint in new.endpoints.values_mut() {
        endpoint.value.audited = endpoint.value.isolated;
    }
    check(&old, &new, Hook::PodIngress, [REMOTE, OWN], "passes");
    check(&old, &new, Hook::PodEgress, [OWN, REMOTE], "passes");
}

#[test]
fn a_deferred_packet_of_an_endpoint_that_is_blocked_meanwhile_drops() {
    let mut map_state = map_state("1", &[OWN], &[]);
    map_state.defer.insert(addr(REMOTE));
    let mut maps = MemoryMaps::new(map_state);
    let frame = frame(OWN, REMOTE);
    let outcome = maps.judge(frame.as_slice(), &hook_context(Hook::PodEgress, POD, 0)).outcome;
    assert!(outcome.verdict.is_pass() && outcome.mark != 0);
    maps.apply(&MapOp::SetEndpoint(POD, EndpointMapState::blocked(&Arc::from("1"))));
    let seen = hook_context(Hook::UplinkEgress, IfIndex(2), outcome.mark);
    assert!(!maps.judge(frame.as_slice(), &seen).outcome.verdict.is_pass());
}

#[test]
fn answers_wait_for_the_verdict_that_was_deferred() {
    for (allows, is_answered) in [(&[][..], false), (&[Identity::ANY][..], true)] {
        let mut map_state = map_state("1", &[OWN], allows);
        // Only the flow may permit the answer.
        map_state.allow.remove(&AllowMapKey::new(POD, Direction::Ingress));
        map_state.defer.insert(addr(REMOTE));
        let maps = MemoryMaps::new(map_state);
        let to_pod = hook_context(Hook::PodIngress, POD, 0);
        let answer_passes =
            || maps.judge(frame(REMOTE, OWN).as_slice(), &to_pod).outcome.verdict.is_pass();
        let question = frame(OWN, REMOTE);
        let outcome =
            maps.judge(question.as_slice(), &hook_context(Hook::PodEgress, POD, 0)).outcome;
        assert!(outcome.verdict.is_pass());
        assert!(!answer_passes(), "the verdict is not finished");
        let leaving = HookContext {
            flow_handle: outcome.flow_handle,
            ..hook_context(Hook::UplinkEgress, IfIndex(2), outcome.mark)
        };
        let finished = maps.judge(question.as_slice(), &leaving).outcome.verdict;
        assert_eq!(finished.is_pass(), is_answered);
        assert_eq!(answer_passes(), is_answered, "the verdict is finished");
    }
}
