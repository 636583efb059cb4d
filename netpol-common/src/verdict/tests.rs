//! Egress marks, one packet at a time. Other verdicts are tested with compiled policies.

use super::{DEFAULT_MARK_MASK, HookContext, Outcome, decide};
use crate::addr::Addr;
use crate::flow::Step;
use crate::ids::{Direction, Epoch, Hook, Identity, IfIndex, Nanos, PortBe, Protocol, RuleId};
use crate::keys::{
    AddressKey, AllowSlots, AllowValue, BackendValue, EndpointValue, FlowKey, FlowValue,
    FragmentKey, FragmentValue, NodeKey, Overlay,
};
use crate::mac::Mac;
use crate::maps::{CurrentFlow, Local, PolicyMaps};
use crate::packet::Packet;
use crate::reason::{DropReason, PassReason, Verdict};

const IFINDEX: IfIndex = IfIndex(7);
const EGRESS_MARK: u16 = 5;

/// One endpoint that no rule allows anything, and whose every destination is deferred.
struct Closed {
    endpoint: EndpointValue,
}

impl PolicyMaps for Closed {
    fn endpoint(&self, ifindex: IfIndex) -> Option<(EndpointValue, AllowSlots, Mac)> {
        (ifindex == IFINDEX).then_some((self.endpoint, AllowSlots(0), Mac::UNKNOWN))
    }
    fn mac(&self, _ifindex: IfIndex) -> Option<Mac> {
        Some(Mac::UNKNOWN)
    }
    fn owns_address(&self, _key: &AddressKey) -> bool {
        true
    }
    fn owner(&self, _addr: &Addr) -> Option<IfIndex> {
        Some(AddressKey::ANY_POD)
    }
    fn overlay(&self, _family: u32) -> Overlay {
        Overlay::NONE
    }
    fn is_behind_overlay(&self, _addr: &Addr) -> bool {
        false
    }
    fn identity(&self, _addr: &Addr) -> Identity {
        Identity::NONE
    }
    fn allow(
        &self,
        _places: AllowSlots,
        _direction: Direction,
        _identity: Identity,
        _protocol: Protocol,
        _port: PortBe,
    ) -> Option<AllowValue> {
        None
    }
    fn current_flow(&self, _key: &FlowKey, _sender: Option<&Addr>, _step: &Step) -> CurrentFlow {
        CurrentFlow::Absent
    }

    fn flow(&self, _key: &FlowKey, _sender: &Addr, _flow: &mut FlowValue) -> Option<bool> {
        None
    }

    fn set_flow(&self, _key: &FlowKey, _flow: &FlowValue, _local: Local<'_>) {}

    fn fragment(&self, _key: &FragmentKey) -> Option<FragmentValue> {
        None
    }
    fn set_fragment(&self, _key: &FragmentKey, _value: &FragmentValue) {}
    fn is_own_node(&self, _: &Addr, _: Protocol, _: PortBe) -> bool {
        false
    }
    fn node_backend(&self, _: &NodeKey) -> Option<BackendValue> {
        None
    }

    fn is_deferred(&self, _addr: &Addr) -> bool {
        true
    }
    fn is_taken(&self, _addr: &Addr) -> bool {
        false
    }
    fn is_tunnel(&self, _remote: &Addr, _protocol: Protocol, _port: PortBe) -> bool {
        false
    }
    fn egress_mark_owner(&self, egress_mark: u16) -> Option<IfIndex> {
        (egress_mark == EGRESS_MARK).then_some(IFINDEX)
    }
    fn store_deferred_flow(&self, _key: &FlowKey) -> u16 {
        0
    }
    fn take_deferred_flow(&self, _flow_handle: u16) -> Option<FlowKey> {
        None
    }
    fn backend(&self, _key: &FlowKey) -> Option<BackendValue> {
        None
    }
    fn set_backend(&self, _key: &FlowKey, _value: &BackendValue) {}
    fn count_rule(&self, _rule: RuleId) {}
    fn epoch(&self) -> Epoch {
        Epoch(1)
    }
}

fn endpoint(isolated: Direction, egress_mark: u16) -> EndpointValue {
    EndpointValue {
        state: EndpointValue::READY,
        isolated: isolated.bit(),
        egress_mark,
        ..EndpointValue::blocked()
    }
}

/// A datagram, seen at a hook of the endpoint's device after it came by another one.
fn see(endpoint: EndpointValue, hook: Hook, egress_mark: u16) -> Outcome {
    let mut frame = [0; 42];
    let headers = [0x08, 0x00, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    frame[12..34].copy_from_slice(&headers);
    frame[34..42].copy_from_slice(&[0, 9, 0, 53, 0, 8, 0, 0]);
    let seen = HookContext {
        hook,
        ifindex: IFINDEX,
        ingress_ifindex: 3,
        has_socket: false,
        is_tagged: false,
        mark: 0x4000,
        mark_mask: DEFAULT_MARK_MASK,
        flow_handle: 0,
        now: Nanos(1),
    };
    let seen = HookContext { mark: seen.mark_with(egress_mark), ..seen };
    let mut packet = Packet::EMPTY;
    decide(&Closed { endpoint }, &frame[..], || seen, &mut packet)
}

#[test]
fn a_deferred_packet_bears_the_egress_mark_of_its_pod_and_not_one_that_the_pod_has_forged() {
    for isolated in Direction::ALL {
        let outcome = see(endpoint(isolated, EGRESS_MARK), Hook::PodEgress, 9);
        assert_eq!(outcome.verdict, Verdict::Pass(PassReason::Deferred));
        assert_eq!(outcome.mark, 0x0050_4000);
    }
}

#[test]
fn without_an_egress_mark_to_give_an_isolated_pod_reaches_nothing_that_is_deferred() {
    let outcome = see(endpoint(Direction::Egress, 0), Hook::PodEgress, 0);
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::UnknownEgressMark));
    let outcome = see(endpoint(Direction::Ingress, 0), Hook::PodEgress, 0);
    assert!(outcome.verdict.is_pass());
    let audited =
        EndpointValue { audited: Direction::Egress.bit(), ..endpoint(Direction::Egress, 0) };
    assert!(see(audited, Hook::PodEgress, 0).verdict.is_pass());
}

#[test]
fn a_packet_with_the_pods_own_egress_mark_comes_from_the_pod_itself_whatever_brought_it() {
    let verdict = |egress_mark| {
        see(endpoint(Direction::Ingress, EGRESS_MARK), Hook::PodIngress, egress_mark).verdict
    };
    assert_eq!(verdict(EGRESS_MARK), Verdict::Pass(PassReason::Hairpin));
    assert_eq!(verdict(0), Verdict::Drop(DropReason::NotAllowed));
    assert_eq!(verdict(9), Verdict::Drop(DropReason::UnknownEgressMark));
}
