//! Interfaces for pods that have none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netpol_common::ids::IfIndex;
use netpol_common::maps::N_TICKETS;

use crate::model::{ObjectName, Pod};
use crate::store::{ClusterState, Delta, Endpoint};

/// Through which frames of everybody who is no pod arrive, and pods' frames leave.
pub(super) const UPLINK: IfIndex = IfIndex(2);

/// The first interface of a pod.
const FIRST: u32 = 100;

/// One interface for every pod that holds an address. A pod keeps its interface while it does; another pod of the same
/// name gets another one.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    by_pod: BTreeMap<(ObjectName, Arc<str>), Endpoint>,
    /// Tickets given back, and how many were ever given out.
    free_tickets: BTreeSet<u16>,
    n_tickets: u16,
    n_made: u32,
}

impl Interfaces {
    /// The interface of a pod; `None` if it holds no address.
    pub(super) fn of(&self, pod: &Pod) -> Option<&Endpoint> {
        self.by_pod.get(&key(pod))
    }

    /// What changes in the endpoints of `state` for its pods of now.
    pub(super) fn follow(&mut self, state: &ClusterState) -> Vec<Delta> {
        let attached: BTreeMap<_, _> = state
            .pods()
            .filter(|pod| !pod.addresses().is_empty())
            .map(|pod| (key(pod), pod))
            .collect();
        let mut deltas = Vec::new();
        let free_tickets = &mut self.free_tickets;
        self.by_pod.retain(|key, endpoint| {
            let stays = attached.contains_key(key);
            if !stays {
                free_tickets.extend((endpoint.ticket != 0).then_some(endpoint.ticket));
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
        let ifindex = IfIndex(FIRST + self.n_made);
        self.n_made += 1;
        Endpoint {
            ifindex,
            container_id: Arc::from(""),
            pod: pod.name.clone(),
            pod_uid: Arc::clone(&pod.uid),
            ticket: self.ticket(),
            addresses: Vec::new(),
        }
    }

    /// A ticket that no other interface has; 0 when there is none left.
    fn ticket(&mut self) -> u16 {
        if let Some(ticket) = self.free_tickets.pop_first() {
            return ticket;
        }
        if u32::from(self.n_tickets) + 1 >= N_TICKETS {
            return 0;
        }
        self.n_tickets += 1;
        self.n_tickets
    }
}

fn key(pod: &Pod) -> (ObjectName, Arc<str>) {
    (pod.name.clone(), Arc::clone(&pod.uid))
}
