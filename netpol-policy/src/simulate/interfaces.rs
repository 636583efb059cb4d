//! Interface numbers for the simulated pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netpol_common::ids::IfIndex;
use netpol_common::maps::N_EGRESS_MARKS;

use crate::model::{ObjectName, Pod};
use crate::store::{ClusterState, Delta, Endpoint, PodEnd};

/// The uplink: frames of sources that are not pods arrive here, and frames to destinations that are not pods leave here.
pub(super) const UPLINK: IfIndex = IfIndex(2);

/// The first interface of a pod; the others follow without gaps.
pub const FIRST_INTERFACE: IfIndex = IfIndex(100);

/// One interface for every pod that has an address. A pod keeps its interface as long as it has an address; a new pod of the
/// same name gets a new interface. Numbers are reused, as in the kernel.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    by_pod: BTreeMap<(ObjectName, Arc<str>), Endpoint>,
    free: BTreeSet<u32>,
    /// Number of interface numbers, in use and free.
    n_numbers: u32,
    /// Number of interfaces created so far.
    n_made: u64,
}

impl Interfaces {
    /// The interface of a pod; `None` if the pod has no address.
    pub(super) fn of(&self, pod: &Pod) -> Option<&Endpoint> {
        self.by_pod.get(&key(pod))
    }

    /// Adds and removes interfaces so that they match the pods of `state`. Returns the changes as deltas.
    pub(super) fn follow(&mut self, state: &ClusterState) -> Vec<Delta> {
        let attached: BTreeMap<_, _> = state
            .pods()
            .filter(|pod| !pod.addresses().is_empty())
            .map(|pod| (key(pod), pod))
            .collect();
        let mut deltas = Vec::new();
        let free = &mut self.free;
        self.by_pod.retain(|key, endpoint| {
            let stays = attached.contains_key(key);
            if !stays {
                free.insert(endpoint.ifindex.0 - FIRST_INTERFACE.0);
                deltas.push(Delta::RemoveEndpoint(endpoint.ifindex));
            }
            stays
        });
        for (key, pod) in attached {
            if !self.by_pod.contains_key(&key) {
                let endpoint = self.make(pod);
                deltas.push(Delta::UpsertEndpoint(endpoint.clone()));
                self.by_pod.insert(key, endpoint);
            }
        }
        deltas
    }

    fn make(&mut self, pod: &Pod) -> Endpoint {
        let number = self.free.pop_first().unwrap_or_else(|| {
            self.n_numbers += 1;
            self.n_numbers - 1
        });
        self.n_made += 1;
        let egress_mark = Some(number + 1).filter(|egress_mark| *egress_mark < N_EGRESS_MARKS);
        Endpoint {
            ifindex: IfIndex(FIRST_INTERFACE.0 + number),
            container_id: Arc::from(self.n_made.to_string()),
            pod: pod.name.clone(),
            pod_uid: Arc::clone(&pod.uid),
            egress_mark: egress_mark
                .and_then(|egress_mark| u16::try_from(egress_mark).ok())
                .unwrap_or(0),
            addresses: Vec::new(),
            pod_end: PodEnd::default(),
        }
    }
}

fn key(pod: &Pod) -> (ObjectName, Arc<str>) {
    (pod.name.clone(), Arc::clone(&pod.uid))
}
