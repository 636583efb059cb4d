//! The pods' ends of veth pairs: which MAC address and which link-local addresses a pod has.
//!
//! They are read in the pod's namespace at ADD, before the pod's first process starts. A plugin that runs after ours, such as
//! `tuning`, may still change them, so changes are followed for some time after the ADD, unless the new address belongs to another
//! endpoint or to the node. Later changes are those of the pod itself and are ignored: frames with the new address drop. The record
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
        self.changeable.retain(|_, until| *until > now);
        self.changeable.insert(ifindex, now + CHANGES_WITHIN);
    }

    /// The pod's end of this interface may have changed.
    pub fn pod_end_changed(&mut self, ifindex: IfIndex, now: Instant) {
        let may_change = self.changeable.get(&ifindex).is_some_and(|until| *until > now);
        let Some(record) = self.registry.at(ifindex).filter(|_| may_change) else { return };
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
        fixture.agent.pod_end_changed(IFINDEX, now);
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
        let now = fixture.now;
        assert_eq!(after_change(&mut fixture, second, now), second);
        assert_eq!(after_change(&mut fixture, MAC_OF_NODE, now), second);
        assert_eq!(after_change(&mut fixture, third, now + CHANGES_WITHIN), second);
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
