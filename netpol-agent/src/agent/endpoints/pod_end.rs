//! The pods' ends of veth pairs: which MAC address and which link-local addresses a pod has.
//!
//! They are read in the pod's namespace at ADD, before the pod's first process starts. A plugin that runs after ours, such as
//! `tuning`, may still change them. The kernel reports changes in other namespaces only to who has `CAP_NET_BROADCAST`, so the agent
//! reads the pod's end again for some time after the ADD, at growing intervals. It follows a change unless the new address belongs
//! to another endpoint or to the node. Later changes are those of the pod itself and are ignored: frames with the new address drop. The record
//! outlives the agent, because a pod could otherwise change its address and wait for the next agent.

use std::time::{Duration, Instant};

use netpol_common::ids::IfIndex;
use netpol_common::mac::Mac;
use netpol_policy::dataplane::port::Kernel;
use netpol_policy::store::{Delta, PodEnd};
use tracing::{info, warn};

use crate::agent::state::Agent;
use crate::agent::state::registry::Record;

/// How long after an ADD plugins may change the pod's end of the veth pair.
const CHANGES_WITHIN: Duration = Duration::from_secs(30);
/// The time from the ADD to the next look at the pod's end. It doubles with each look, so that a change is in force after at most as
/// much time as has passed between the ADD and the change.
const FIRST_LOOK: Duration = Duration::from_millis(10);

/// A new interface whose end in the pod may still change.
#[derive(Clone, Copy, Debug)]
pub(in crate::agent) struct ChangeableEnd {
    added: Instant,
    next_look: Instant,
}

impl<K: Kernel> Agent<K> {
    /// Reads the pod's end. If that fails, its MAC address is not checked.
    pub(in crate::agent) fn read_pod_end(&self, ifindex: IfIndex) -> PodEnd {
        self.kernel.pod_end(ifindex).unwrap_or_else(|error| {
            warn!(%ifindex, %error, "MAC address of the pod not known: it is not checked");
            PodEnd::default()
        })
    }

    /// Reads the pods' ends that an earlier agent has not recorded.
    pub(in crate::agent) fn read_missing_pod_ends(&mut self) {
        let records = self.registry.records();
        let missing: Vec<IfIndex> = records
            .filter(|record| record.pod_end().mac == Mac::UNKNOWN)
            .map(Record::ifindex)
            .collect();
        for ifindex in missing {
            let pod_end = self.read_pod_end(ifindex);
            self.registry.set_pod_end(ifindex, pod_end);
        }
    }

    /// Follows changes of a pod's end from now on, for a while.
    pub(in crate::agent) fn expect_pod_end(&mut self, ifindex: IfIndex, now: Instant) {
        let end = ChangeableEnd { added: now, next_look: now + FIRST_LOOK };
        self.changeable.insert(ifindex, end);
    }

    /// When [`Self::look_at_pod_ends`] is to be called next.
    pub fn next_look_at_pod_ends(&self) -> Option<Instant> {
        self.changeable.values().map(|end| end.next_look).min()
    }

    /// Reads the pods' ends whose time has come, and follows their changes.
    pub fn look_at_pod_ends(&mut self, now: Instant) {
        let due = self.changeable.iter().filter(|(_, end)| end.next_look <= now);
        let due: Vec<_> = due.map(|(ifindex, end)| (*ifindex, *end)).collect();
        for (ifindex, ChangeableEnd { added, next_look: _ }) in due {
            let age = now.duration_since(added);
            if age < CHANGES_WITHIN {
                self.follow_pod_end(ifindex);
                self.changeable.insert(ifindex, ChangeableEnd { added, next_look: now + age });
            } else {
                self.changeable.remove(&ifindex);
            }
        }
    }

    fn follow_pod_end(&mut self, ifindex: IfIndex) {
        let Some(record) = self.registry.at(ifindex) else { return };
        let Ok(pod_end) = self.kernel.pod_end(ifindex) else { return };
        if pod_end.mac == record.pod_end().mac {
            return;
        }
        if self.is_taken(ifindex, pod_end.mac) {
            warn!(%ifindex, mac = ?pod_end.mac.octets(), "changed MAC address of a pod refused: it is that of another pod or of the node");
            return;
        }
        info!(%ifindex, mac = ?pod_end.mac.octets(), "MAC address of a new pod changed");
        if let Some(endpoint) = self.registry.set_pod_end(ifindex, pod_end) {
            self.apply_delta(Delta::UpsertEndpoint(endpoint));
        }
    }

    /// Whether another endpoint or a device of the node has the MAC address. Unknown devices count as the node's.
    fn is_taken(&self, ifindex: IfIndex, mac: Mac) -> bool {
        let mut records = self.registry.records();
        mac == Mac::UNKNOWN
            || mac.is_group()
            || records.any(|record| record.ifindex() != ifindex && record.pod_end().mac == mac)
            || self.kernel.is_mac_of_node(mac).unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::tests::{Fixture, MAC_OF_NODE, fixture, full_lists, pod, update};

    const IFINDEX: IfIndex = IfIndex(7);

    fn with_mac(mac: Mac) -> PodEnd {
        PodEnd { mac, link_local: Vec::new() }
    }

    /// The MAC address in the maps after the pod's end has changed to this one.
    fn after_change(fixture: &mut Fixture, mac: Mac, now: Instant) -> Mac {
        fixture.agent.kernel.pod_ends.insert(IFINDEX, with_mac(mac));
        fixture.agent.look_at_pod_ends(now);
        fixture.agent.sync();
        fixture.agent.map_state().endpoints[&IFINDEX].mac
    }

    #[test]
    fn a_plugin_may_change_the_mac_address_for_a_while_but_not_to_one_that_is_taken() {
        let mut fixture = fixture();
        drop(fixture.agent.update(full_lists()));
        drop(fixture.agent.update(update(pod("a"))));
        let [first, second, third] = [1, 2, 3].map(|last| Mac::new([10, 0, 0, 0, 0, last]));
        fixture.agent.kernel.pod_ends.insert(IFINDEX, with_mac(first));
        drop(fixture.add());
        assert_eq!(fixture.agent.map_state().endpoints[&IFINDEX].mac, first);
        let look = |fixture: &Fixture| fixture.agent.next_look_at_pod_ends().unwrap();
        assert_eq!(look(&fixture), fixture.now + FIRST_LOOK);
        let now = look(&fixture);
        assert_eq!(after_change(&mut fixture, second, now), second);
        assert_eq!(look(&fixture), fixture.now + 2 * FIRST_LOOK);
        let now = look(&fixture);
        assert_eq!(after_change(&mut fixture, MAC_OF_NODE, now), second);
        let late = fixture.now + CHANGES_WITHIN;
        assert_eq!(after_change(&mut fixture, third, late), second);
        assert_eq!(fixture.agent.next_look_at_pod_ends(), None);
    }

    #[test]
    fn a_mac_address_that_cannot_be_read_is_not_checked() {
        let mut fixture = fixture();
        drop(fixture.agent.update(full_lists()));
        drop(fixture.agent.update(update(pod("a"))));
        drop(fixture.add());
        assert_eq!(fixture.agent.map_state().endpoints[&IFINDEX].mac, Mac::UNKNOWN);
    }
}
