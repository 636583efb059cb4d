//! Looks whether the programs are still attached, and attaches them again.
//!
//! In: the kernel's notifications about filters, and the time, because nothing tells that a TCX link is detached. Out: programs
//! that are attached again, connections that are judged again, a warning and a finding. A connection that began
//! while a program was missing can be taken for one that began in the other direction, so `adopt` corrects it.

use std::collections::BTreeMap;
use std::time::Instant;

use netpol_common::ids::{IfIndex, Nanos};
use netpol_datapath::netlink::FilterChange;
use netpol_policy::dataplane::MapOp;
use netpol_policy::dataplane::port::{DeviceRole, Kernel, Presence};
use netpol_policy::model::{Kind, ObjectName, ObjectRef};
use tracing::{error, warn};

use crate::agent::clock::monotonic_now;
use crate::agent::state::Agent;

/// What made the agent look at the programs.
#[derive(Clone, Copy, Debug)]
enum Occasion {
    /// The kernel has told of a change of a filter.
    Notification,
    /// The look of every second.
    Tick,
}

impl Occasion {
    /// As the log has it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Notification => "notification",
            Self::Tick => "tick",
        }
    }
}

impl<K: Kernel> Agent<K> {
    /// What is done once a second while no other input waits.
    pub fn tick(&mut self, now: Instant) {
        self.look_at_programs(now);
        self.prepare();
    }

    /// Looks at all devices.
    pub fn look_at_programs(&mut self, now: Instant) {
        let guarded = self.guarded();
        let begin = monotonic_now();
        if self.look_at(&guarded, Occasion::Tick, now) {
            self.detached.complete_at = Some(begin);
        }
        self.keep_exits();
        self.follow_short_cuts();
        self.detached.refused.retain(|ifindex| guarded.contains_key(ifindex));
        self.detached.expire(now);
    }

    /// Looks at the devices of these notifications.
    pub fn filters_changed(&mut self, changes: &[FilterChange], now: Instant) {
        let mut guarded = self.guarded();
        if !changes.contains(&FilterChange::Any) {
            guarded.retain(|ifindex, _| changes.contains(&FilterChange::Of(*ifindex)));
        }
        self.look_at(&guarded, Occasion::Notification, now);
        self.follow_short_cuts();
    }

    /// Attaches programs again where they are missing. Returns whether all devices have theirs now.
    fn look_at(
        &mut self,
        devices: &BTreeMap<IfIndex, DeviceRole>,
        occasion: Occasion,
        now: Instant,
    ) -> bool {
        if devices.is_empty() {
            return true;
        }
        let found = match self.kernel.presence(devices) {
            Ok(found) => found,
            Err(error) => {
                if !self.detached.is_blind {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "the kernel does not report which programs are attached");
                }
                self.detached.is_blind = true;
                return false;
            }
        };
        self.detached.is_blind = false;
        let mut is_complete = true;
        let mut n_repaired = 0;
        for (ifindex, presence) in found {
            let is_missing = match presence {
                Presence::Missing => true,
                Presence::Links | Presence::Filters => {
                    self.detached.refused.remove(&ifindex);
                    self.exits.open(ifindex);
                    false
                }
                // It is removed from the endpoints with the next list of devices.
                Presence::NoDevice => {
                    self.exits.close(ifindex);
                    false
                }
            };
            // The worker thread changes the attachment at this moment.
            if !is_missing || self.migrations.is_under_way_at(ifindex) {
                is_complete &= !is_missing;
                continue;
            }
            let role = devices.get(&ifindex).copied().unwrap_or(DeviceRole::Pod);
            let is_repaired = self.attach_again(ifindex, role, occasion, now);
            if is_repaired {
                self.exits.open(ifindex);
            } else {
                self.exits.close(ifindex);
            }
            is_complete &= is_repaired;
            n_repaired += usize::from(is_repaired);
        }
        if n_repaired > 0 {
            // Every flow is decided again with its next packet.
            if let Err(error) = self.perform(&[MapOp::BumpEpoch]) {
                let error = &error as &dyn std::error::Error;
                error!(error, "connections are not judged again");
            }
        }
        is_complete
    }

    fn attach_again(
        &mut self,
        ifindex: IfIndex,
        role: DeviceRole,
        occasion: Occasion,
        now: Instant,
    ) -> bool {
        let attached = match role {
            DeviceRole::Pod => self.kernel.attach_pod(ifindex),
            DeviceRole::Uplink(framing) => self.kernel.attach_uplink(ifindex, framing),
        };
        let pod = self.state.endpoint(ifindex).map(|endpoint| endpoint.pod.clone());
        let shown = pod.as_ref().map(ToString::to_string);
        let since = self.detached.complete_at;
        let gap_ms =
            since.map(|since| monotonic_now().0.saturating_sub(since.0).div_ceil(1_000_000));
        match attached {
            Ok(()) => {
                warn!(pod = shown, %ifindex, at_most_ms = gap_ms, found_by = occasion.as_str(), "programs had been detached by others, and are attached again");
                let object = match role {
                    DeviceRole::Pod => {
                        self.detached.n_pods += 1;
                        self.detached.uncorrected.insert(ifindex, since.unwrap_or(Nanos(0)));
                        pod.map(|name| ObjectRef { kind: Kind::Pod, name })
                    }
                    DeviceRole::Uplink(_) => {
                        self.detached.n_uplinks += 1;
                        let node = self.adoption.node.as_deref();
                        node.map(|node| ObjectRef {
                            kind: Kind::Node,
                            name: ObjectName::new("", node),
                        })
                    }
                };
                if let Some(object) = object {
                    self.detached.record(object, now);
                }
                self.detached.refused.remove(&ifindex);
                true
            }
            Err(error) => {
                if self.detached.refused.insert(ifindex) {
                    let error = &error as &dyn std::error::Error;
                    error!(pod = shown, %ifindex, error, "programs have been detached by others, and cannot be attached again");
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use netpol_datapath::netlink::{Device, Devices, Leads, Obstacle};
    use netpol_policy::dataplane::port::Framing;
    use netpol_proto::Response;

    use super::*;
    use crate::agent::answers::routes::{self, Detail};
    use crate::agent::answers::status::Protection;
    use crate::agent::fake_kernel::FakeKernel;
    use crate::agent::tests::{Fixture, fixture, found, full_lists, pod, update};

    fn with_an_endpoint() -> Fixture {
        let mut fixture = fixture();
        drop(fixture.agent.update(full_lists()));
        drop(fixture.agent.update(update(pod("a"))));
        assert_eq!(fixture.add().try_recv(), Ok(Response::Ok));
        fixture.agent.look_at_programs(fixture.now);
        assert_eq!(fixture.agent.describe().n_reattached, [0, 0]);
        fixture
    }

    #[test]
    fn removed_programs_are_attached_again_and_reported_for_an_hour() {
        let mut fixture = with_an_endpoint();
        let now = fixture.now;
        let agent = &mut fixture.agent;
        agent.kernel.attached.clear();
        assert_eq!(agent.describe().endpoints[0].protection, Protection::Unprotected);
        agent.filters_changed(&[FilterChange::Of(IfIndex(8))], now);
        assert!(agent.kernel.attached.is_empty(), "the change is of another device");
        agent.filters_changed(&[FilterChange::Of(IfIndex(7))], now);
        assert_eq!(agent.kernel.attached, [IfIndex(7)]);
        assert_eq!(agent.kernel.log.last(), Some(&MapOp::BumpEpoch));
        let object = ObjectRef { kind: Kind::Pod, name: ObjectName::new("x", "a") };
        agent.sync();
        assert_eq!(agent.take_found(), [object]);
        let status = agent.describe();
        assert_eq!(status.endpoints[0].protection, Protection::Ready);
        assert_eq!((status.n_reattached, status.diagnostics.len()), ([1, 0], 1));
        agent.look_at_programs(now + Duration::from_hours(2));
        agent.sync();
        assert_eq!(agent.describe().diagnostics, Vec::<String>::new());
    }

    #[test]
    fn only_devices_with_programs_and_bridges_are_exits_and_a_removed_table_is_made_again() {
        let mut fixture = fixture();
        let agent = &mut fixture.agent;
        agent.kernel.exits = Some(BTreeSet::new());
        drop(agent.update(full_lists()));
        drop(agent.update(update(pod("a"))));
        agent.sync();
        let exits = |agent: &Agent<FakeKernel>| agent.kernel.exits.clone().unwrap();
        assert_eq!(exits(agent), [].into(), "the devices are not listed yet");
        let device = |name: &str, leads| Device {
            name: name.to_owned(),
            leads,
            is_up: true,
            has_carrier: true,
            short_cut: Err(Obstacle::NoBridge),
            has_address: true,
            framing: Framing::Ethernet,
        };
        let by_ifindex = [
            (IfIndex(2), device("cni0", Leads::ToPorts)),
            (IfIndex(3), device("eth0", Leads::Away)),
        ];
        let devices = Devices { by_ifindex: by_ifindex.into(), ..Devices::default() };
        agent.set_devices(devices, |ifindex| ifindex == IfIndex(7), fixture.now);
        agent.sync();
        assert_eq!(exits(agent), [IfIndex(1), IfIndex(2), IfIndex(3)].into());
        assert_eq!(fixture.add().try_recv(), Ok(Response::Ok));
        let agent = &mut fixture.agent;
        assert_eq!(exits(agent), [IfIndex(1), IfIndex(2), IfIndex(3), IfIndex(7)].into());

        agent.kernel.exits = Some(BTreeSet::new());
        agent.look_at_programs(fixture.now);
        assert_eq!(exits(agent), [IfIndex(1), IfIndex(2), IfIndex(3), IfIndex(7)].into());
        assert_eq!(agent.describe().exit_guard.n_recreated, 1);

        agent.kernel.attached.retain(|ifindex| *ifindex != IfIndex(3));
        agent.kernel.refuses_attach = true;
        agent.look_at_programs(fixture.now);
        assert_eq!(exits(agent), [IfIndex(1), IfIndex(2), IfIndex(7)].into());
        agent.kernel.exits = None;
        agent.look_at_programs(fixture.now);
        let guard = agent.describe().exit_guard;
        assert_eq!((guard.is_in_place, guard.problem.as_deref()), (false, Some("map is full")));
    }

    #[test]
    fn connections_of_a_pod_whose_programs_were_removed_are_read_once_and_corrected() {
        let mut fixture = with_an_endpoint();
        let agent = &mut fixture.agent;
        assert!(agent.wanted().known.is_empty());
        agent.kernel.attached.clear();
        agent.look_at_programs(fixture.now);
        assert_eq!(agent.wanted().known.len(), 1);
        agent.adopt(vec![found(7)], fixture.now);
        let corrected: Vec<_> =
            agent.kernel.corrected.iter().map(|(ifindex, _, n)| (*ifindex, *n)).collect();
        assert_eq!(corrected, [(IfIndex(7), 1)]);
        assert!(agent.wanted().known.is_empty());
    }

    #[test]
    fn programs_that_cannot_be_attached_again_or_not_be_seen_make_the_agent_unready() {
        let mut fixture = with_an_endpoint();
        let agent = &mut fixture.agent;
        agent.kernel.attached.clear();
        agent.kernel.refuses_attach = true;
        agent.look_at_programs(fixture.now);
        let reasons = |agent: &Agent<_>| routes::unreadiness(&agent.describe(), Detail::Names);
        assert_eq!(reasons(agent), ["unprotected: pod x/a: interface 7 has no programs"]);
        agent.kernel.refuses_attach = false;
        agent.look_at_programs(fixture.now);
        assert_eq!(reasons(agent), [""; 0]);
        agent.kernel.is_blind = true;
        assert_eq!(
            reasons(agent),
            ["the kernel does not report which programs are attached: map is full"]
        );
        assert_eq!(agent.describe().endpoints[0].protection, Protection::Unprotected);
    }
}
