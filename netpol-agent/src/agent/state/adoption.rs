//! Running pods that are to become endpoints: the pods of this node, and endpoints without programs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netpol_common::ids::IfIndex;
use netpol_policy::model::{Object, ObjectName, Pod};
use netpol_policy::store::Delta;

use crate::discovery::Connection;

/// The pods that run without programs of this agent.
#[derive(Debug, Default)]
pub(in crate::agent) struct Adoption {
    /// The node's name; without it the pods of this node are not known.
    pub(in crate::agent) node: Option<Arc<str>>,
    /// Pods of this node, and some that have been deleted since.
    pub(in crate::agent) local: BTreeSet<ObjectName>,
    /// Uids of pods whose interface a DEL has removed: they end, or another ADD follows.
    pub(in crate::agent) ended: BTreeMap<ObjectName, Arc<str>>,
    /// Endpoints without programs. The value is `None` until a search has read the connections of the pod.
    pub(in crate::agent) detached: BTreeMap<IfIndex, Option<Vec<Connection>>>,
    /// A search has completed since all kinds were listed.
    pub(in crate::agent) has_searched: bool,
}

impl Adoption {
    /// Records which pods are on this node.
    pub(in crate::agent) fn apply(&mut self, delta: &Delta) {
        match delta {
            Delta::Upsert(Object::Pod(pod)) => self.apply_pod(pod),
            Delta::Replace(list) => {
                for object in list.objects() {
                    if let Object::Pod(pod) = object {
                        self.apply_pod(pod);
                    }
                }
            }
            // Names of removed pods stay until the next search, which ignores names without a pod.
            Delta::Upsert(_)
            | Delta::Remove { .. }
            | Delta::UpsertEndpoint(_)
            | Delta::RemoveEndpoint(_)
            | Delta::OwnAddresses(_)
            | Delta::ListedBackends(_)
            | Delta::ShortCuts(_)
            | Delta::PublishedAddresses { .. } => {}
        }
    }

    fn apply_pod(&mut self, pod: &Pod) {
        if self.node.as_ref().is_some_and(|node| *node == pod.node) {
            self.local.insert(pod.name.clone());
        } else {
            self.local.remove(&pod.name);
        }
    }

    /// Adds an endpoint without programs.
    pub(in crate::agent) fn expect(&mut self, ifindex: IfIndex) {
        self.detached.insert(ifindex, None);
    }

    /// Removes an endpoint that has its programs, or is no endpoint any more.
    pub(in crate::agent) fn remove(&mut self, ifindex: IfIndex) {
        self.detached.remove(&ifindex);
    }

    /// Whether an endpoint has no programs yet.
    pub(in crate::agent) fn is_detached(&self, ifindex: IfIndex) -> bool {
        self.detached.contains_key(&ifindex)
    }
}
