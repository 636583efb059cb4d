//! New interfaces without an ADD: closed at once until it is known whose they are.
//!
//! Without our entry in the CNI configuration nobody announces a pod, and the runtime writes whose interface it is only when all
//! plugins are done. So a new veth that leads into another namespace is blocked: it gets the programs, and without an endpoint these drop
//! everything. The runtime's result identifies it, an ADD does too, and its pod becomes an endpoint without having been open.
//! An interface that is not identified in 100 ms of its use is unblocked, because it may belong to another runtime; `status` names it, and
//! the search for its pod goes on.

use std::time::Instant;

use netpol_common::ids::IfIndex;
use netpol_datapath::netlink::Device;
use netpol_policy::dataplane::port::{Kernel, NewInterface};
use tracing::{debug, error, info, warn};

use crate::agent::state::Agent;
use crate::agent::state::unidentified::{BLOCKED_FOR, Means};

/// Whether a blocked interface already has the programs of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Programs {
    /// It has.
    Attached,
    /// They have to be attached.
    Missing,
}

impl<K: Kernel> Agent<K> {
    /// Blocks a new veth that leads into another namespace, unless it is an endpoint already. The time of its block begins when it
    /// has its carrier: before, no packet could pass in any case.
    pub fn interface_appeared(&mut self, ifindex: IfIndex, device: Device, now: Instant) {
        if self.unidentified.see(ifindex, device, now) {
            self.block(ifindex, now);
        }
    }

    pub(in crate::agent) fn block(&mut self, ifindex: IfIndex, now: Instant) {
        let can_identify = self.adoption.node.is_some()
            && self.is_primed
            && !self.must_search()
            && self.freshness.missing().is_empty();
        if !can_identify || self.registry.at(ifindex).is_some() {
            return;
        }
        let is_unshaped = self.unidentified.block(ifindex, now) == Means::Filters;
        let new = NewInterface { ifindex, is_unshaped };
        let (failed, _nothing) = self.kernel.attach_and_apply(&[new], &[]);
        for (ifindex, error) in failed {
            // The interface may be gone already.
            debug!(%ifindex, %error, "new interface not blocked");
            self.unidentified.unblock(ifindex);
            // One of the programs may be attached.
            drop(self.kernel.detach_pod(ifindex));
        }
    }

    /// When [`Agent::unblock_unidentified`] has something to do.
    pub fn next_unblocking(&self) -> Option<Instant> {
        self.unidentified.next_overdue()
    }

    /// Unblocks the interfaces that could not be identified in time.
    pub fn unblock_unidentified(&mut self, now: Instant) {
        if self.is_primed && !self.must_search() && self.freshness.missing().is_empty() {
            self.unidentified.resume(now);
        }
        let overdue = self.unidentified.overdue(now);
        if overdue.is_empty() {
            return;
        }
        for ifindex in overdue {
            self.unidentified.unblock(ifindex);
            self.unidentified.means = Means::Links;
            self.unidentified.n_unblocked += 1;
            match self.kernel.detach_pod(ifindex) {
                Ok(()) => {
                    let for_ms = BLOCKED_FOR.as_millis();
                    warn!(%ifindex, for_ms, "interface of no known pod unblocked: its packets are not judged");
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    error!(%ifindex, error, "interface of no known pod stays blocked");
                }
            }
        }
        self.gc_schedule.record_call(now);
        self.follow_uplinks();
    }

    /// Takes an interface that becomes an endpoint from the blocked ones.
    pub(in crate::agent) fn take_blocked(&mut self, new: NewInterface) -> Programs {
        let NewInterface { ifindex, is_unshaped } = new;
        let Some(means) = self.unidentified.unblock(ifindex) else { return Programs::Missing };
        if !is_unshaped && means == Means::Filters {
            // A later plugin may need the queueing discipline that holds the filters. The pod does not run yet.
            if let Err(error) = self.kernel.detach_pod(ifindex) {
                let error = &error as &dyn std::error::Error;
                info!(%ifindex, error, "filters of a new interface stay");
            }
            return Programs::Missing;
        }
        match self.kernel.is_attached(ifindex) {
            Ok(true) => Programs::Attached,
            Ok(false) | Err(_) => Programs::Missing,
        }
    }

    /// The interfaces that lead into other namespaces and are no endpoints.
    pub(in crate::agent) fn unidentified(&self) -> impl Iterator<Item = (IfIndex, &str)> {
        self.unidentified.names().filter(|(ifindex, _)| self.registry.at(*ifindex).is_none())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use netpol_common::keys::EndpointValue;
    use netpol_datapath::netlink::{Devices, Leads};
    use netpol_policy::dataplane::port::Framing;
    use netpol_policy::model::{Object, Pod};
    use netpol_policy::store::Delta;
    use netpol_proto::Response;

    use super::*;
    use crate::agent::answers::status::{InterfaceState, UnidentifiedStatus};
    use crate::agent::state::unidentified::Unidentified;
    use crate::agent::tests::{FakeKernel, Fixture, fixture, found, full_lists, pod, update};

    const IFINDEX: IfIndex = IfIndex(7);

    fn veth(n: u32) -> Device {
        Device {
            name: format!("veth{n}"),
            leads: Leads::ToNamespace,
            is_up: true,
            has_carrier: true,
            short_cut: Ok(IfIndex(2)),
            has_address: false,
            framing: Framing::Ethernet,
        }
    }

    /// The node's devices, if these lead into pods.
    fn devices(veths: &[u32]) -> Devices {
        // As in kind, whose nodes are containers.
        let uplink = Device { name: "eth0".to_owned(), has_address: true, ..veth(3) };
        let veths = veths.iter().map(|n| (IfIndex(*n), veth(*n)));
        let by_ifindex = veths.chain([(IfIndex(3), uplink)]).collect();
        Devices { by_ifindex, ..Devices::default() }
    }

    /// Pod a as it is when its ADD is under way: the API reports no address.
    fn starting_pod() -> Delta {
        let Delta::Upsert(Object::Pod(pod)) = pod("a") else { panic!("a pod") };
        Delta::Upsert(Object::Pod(Pod { reported_addresses: [].into_iter().collect(), ..pod }))
    }

    /// An agent that knows the devices of the node, and a pod that starts.
    fn with_a_starting_pod() -> Fixture {
        let mut fixture = fixture();
        fixture.agent = fixture.agent.on_node(Some(Arc::from("n")));
        drop(fixture.agent.update(full_lists()));
        drop(fixture.agent.update(update(starting_pod())));
        fixture.agent.adopt(Vec::new(), fixture.now);
        fixture.agent.set_devices(devices(&[]), |_| true, fixture.now);
        fixture.agent.sync();
        fixture.agent.kernel.attached.clear();
        fixture
    }

    fn unidentified(agent: &Agent<FakeKernel>) -> Vec<(u32, InterfaceState)> {
        let of = |status: UnidentifiedStatus| (status.ifindex, status.state);
        agent.describe().unidentified.into_iter().map(of).collect()
    }

    #[test]
    fn a_new_interface_is_closed_at_once_and_its_pod_is_ready_when_the_result_names_it() {
        let mut fixture = with_a_starting_pod();
        let agent = &mut fixture.agent;
        assert!(agent.wanted().is_empty(), "the pod has no interface yet");
        agent.interface_appeared(IFINDEX, veth(7), fixture.now);
        assert_eq!(agent.kernel.attached, [IFINDEX]);
        assert_eq!(unidentified(agent), [(7, InterfaceState::Blocked)]);
        agent.set_devices(devices(&[7]), |_| true, fixture.now);
        assert!(!agent.uplinks.contains_key(&IFINDEX));
        let wanted = agent.wanted();
        assert_eq!((wanted.pods.len(), wanted.is_repeated()), (1, false));
        agent.adopt(vec![found(7)], fixture.now);
        agent.sync();
        let endpoint = agent.map_state().endpoints[&IFINDEX].value.state;
        assert_eq!((endpoint, agent.kernel.attached.len()), (EndpointValue::READY, 2));
        assert_eq!(unidentified(agent), []);
        agent.unblock_unidentified(fixture.now + 2 * BLOCKED_FOR);
        assert!(agent.kernel.attached.contains(&IFINDEX));
    }

    #[test]
    fn an_interface_that_nobody_identifies_is_unblocked_named_and_adopted_later() {
        let mut fixture = with_a_starting_pod();
        let agent = &mut fixture.agent;
        agent.interface_appeared(IFINDEX, veth(7), fixture.now);
        agent.set_devices(devices(&[7]), |_| true, fixture.now);
        assert_eq!(agent.next_unblocking(), Some(fixture.now + BLOCKED_FOR));
        agent.unblock_unidentified(fixture.now + BLOCKED_FOR / 2);
        assert_eq!(unidentified(agent), [(7, InterfaceState::Blocked)]);
        agent.unblock_unidentified(fixture.now + BLOCKED_FOR);
        assert_eq!(agent.next_unblocking(), None);
        assert!(agent.uplinks.contains_key(&IFINDEX), "as any other device");
        assert_eq!(agent.unidentified.n_unblocked, 1);
        agent.set_devices(devices(&[7]), |_| true, fixture.now);
        assert_eq!(agent.next_unblocking(), None, "blocked once only");
        agent.adopt(vec![found(7)], fixture.now);
        agent.sync();
        assert_eq!(agent.map_state().endpoints[&IFINDEX].value.state, EndpointValue::READY);
    }

    /// An ADD of a loaded node takes a second. Until its plugin sets the pod's end up, the interface passes nothing anyway.
    #[test]
    fn the_time_of_a_block_begins_when_packets_could_pass() {
        let mut fixture = with_a_starting_pod();
        let (agent, now) = (&mut fixture.agent, fixture.now);
        agent.interface_appeared(IFINDEX, Device { has_carrier: false, ..veth(7) }, now);
        agent.unblock_unidentified(now + 10 * BLOCKED_FOR);
        assert_eq!(unidentified(agent), [(7, InterfaceState::Blocked)]);
        let later = now + 11 * BLOCKED_FOR;
        agent.interface_appeared(IFINDEX, veth(7), later);
        assert_eq!(agent.next_unblocking(), Some(later + BLOCKED_FOR));
    }

    #[test]
    fn what_was_there_before_the_first_list_or_cannot_be_identified_is_not_blocked() {
        let mut fixture = fixture();
        fixture.agent = fixture.agent.on_node(Some(Arc::from("n")));
        let agent = &mut fixture.agent;
        agent.interface_appeared(IFINDEX, veth(7), fixture.now);
        agent.set_devices(devices(&[7, 8]), |_| true, fixture.now);
        agent.interface_appeared(IfIndex(9), veth(9), fixture.now);
        assert_eq!(agent.kernel.attached, [], "no kind has been listed");
        drop(agent.update(full_lists()));
        agent.adopt(Vec::new(), fixture.now);
        agent.sync();
        agent.kernel.attached.clear();
        agent.set_devices(devices(&[7, 8, 9, 10]), |_| true, fixture.now);
        assert!(agent.unidentified.is_blocked(IfIndex(10)), "the notification was lost");
        for old in [7, 8, 9] {
            assert!(!agent.unidentified.is_blocked(IfIndex(old)));
        }
    }

    #[test]
    fn an_add_takes_the_blocked_interface_and_a_limited_one_gets_links() {
        let mut fixture = with_a_starting_pod();
        fixture.agent.interface_appeared(IfIndex(8), veth(8), fixture.now);
        fixture.agent.set_devices(devices(&[]), |_| true, fixture.now);
        fixture.agent.interface_appeared(IFINDEX, veth(7), fixture.now);
        assert_eq!(fixture.agent.kernel.on_filters, [IfIndex(8)].into(), "no ADD has followed");
        fixture.agent.kernel.on_filters.clear();
        fixture.agent.kernel.attached = vec![IFINDEX];
        assert_eq!(fixture.add().try_recv(), Ok(Response::Ok));
        assert_eq!(fixture.agent.kernel.attached, [IFINDEX], "it has its programs already");
        fixture.agent.interface_appeared(IfIndex(9), veth(9), fixture.now);
        assert_eq!(fixture.agent.kernel.on_filters, [IfIndex(9)].into());
        let new = NewInterface { ifindex: IfIndex(9), is_unshaped: false };
        assert_eq!(fixture.agent.take_blocked(new), Programs::Missing);
        assert_eq!(fixture.agent.kernel.on_filters, [].into());
    }

    #[test]
    fn what_an_ended_agent_has_left_blocked_is_unblocked_by_the_next_one() {
        let mut fixture = with_a_starting_pod();
        let path = fixture.dir.path().join("unidentified.json");
        let agent = &mut fixture.agent;
        agent.unidentified = Unidentified::open(path.clone());
        agent.set_devices(devices(&[]), |_| true, fixture.now);
        agent.interface_appeared(IFINDEX, veth(7), fixture.now);
        assert_eq!(fs::read_to_string(&path).unwrap(), r#"[[7,"veth7"]]"#);
        agent.unidentified = Unidentified::open(path.clone());
        assert!(agent.unidentified.is_blocked(IFINDEX));
        agent.set_devices(devices(&[7]), |_| true, fixture.now);
        assert!(!agent.uplinks.contains_key(&IFINDEX));
        agent.unblock_unidentified(fixture.now);
        agent.unblock_unidentified(fixture.now + BLOCKED_FOR);
        assert!(agent.uplinks.contains_key(&IFINDEX));
        assert_eq!(fs::read_to_string(&path).unwrap(), "[]");
    }
}
