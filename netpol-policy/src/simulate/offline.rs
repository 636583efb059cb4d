//! A cluster that exists only as objects, in which the address of a pod need not be known.
//!
//! In: objects as they stand in files. Out: verdicts and explanations. Must not: read files.

use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::cluster::Cluster;
use super::engine::{DatapathError, Engine};
use super::explain::{Explanation, States, explain_between};
use super::groups::{GroupKey, PortStarts};
use super::namespaces::with_implicit_namespaces;
use super::placeholder::{Bounds, with_placeholders};
use super::probe::{PodOrIp, Probe, Problem};
use super::routes::own_addresses;
use super::workloads::without_represented;
use crate::compile::LeftOut;
use crate::model::{Diagnostic, Object, ObjectName, Pod};
use crate::resolve::RuleRef;
use crate::store::{ClusterState, Delta, OwnNodeEgress};

/// The verdict on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Denied, whatever the addresses of the pods are.
    Denied,
    /// Allowed for some addresses of pods whose address is not known.
    Possible,
    /// Allowed, whatever the addresses of the pods are.
    Allowed,
}

/// Objects of files. Workloads are pods, and pods without an address have every address.
pub struct OfflineCluster {
    open: fn() -> Engine,
    pod_networks: Vec<IpNetwork>,
    certain: Cluster,
    possible: Option<Cluster>,
    /// The policies as written, if the clusters have others.
    written: Option<ClusterState>,
}

impl OfflineCluster {
    /// An empty cluster. `open` makes the engines. Pods without an address have one of `pod_networks`; if there are none, of
    /// any private network.
    pub fn new(open: fn() -> Engine, pod_networks: Vec<IpNetwork>) -> Self {
        let certain = Cluster::new(open());
        Self { open, pod_networks, certain, possible: None, written: None }
    }

    /// Sets how connections of pods to their own node are treated.
    #[must_use]
    pub fn with_own_node_egress(mut self, egress: OwnNodeEgress) -> Self {
        self.certain = self.certain.with_own_node_egress(egress);
        self
    }

    /// Replaces the set of objects. Missing namespaces are added.
    ///
    /// # Errors
    /// When the engine's maps refuse a change.
    pub fn set(&mut self, objects: Vec<Object>) -> Result<(), DatapathError> {
        let (objects, _) = with_implicit_namespaces(without_represented(objects));
        let Bounds { certain, possible, written } = with_placeholders(objects, &self.pod_networks);
        self.certain.set(certain)?;
        match possible {
            None => self.possible = None,
            Some(possible) => {
                let cluster = self.possible.get_or_insert_with(|| {
                    let egress = self.certain.state().own_node_egress();
                    Cluster::new((self.open)()).with_own_node_egress(egress)
                });
                cluster.set(possible)?;
            }
        }
        self.written = (!written.is_empty()).then(|| {
            let mut state = ClusterState::default();
            for policy in written {
                drop(state.apply(Delta::Upsert(policy)));
            }
            state
        });
        Ok(())
    }

    /// The verdict on a probe, with the reason why its connection cannot exist.
    ///
    /// # Errors
    /// When the engine cannot be used.
    pub fn probe(&mut self, probe: &Probe) -> Result<(Verdict, Option<Problem>), DatapathError> {
        let certain = self.certain.probe(probe)?;
        if certain.is_allowed {
            return Ok((Verdict::Allowed, certain.problem));
        }
        if let (Some(possible), None) = (&mut self.possible, &certain.problem)
            && possible.probe(probe)?.is_allowed
        {
            return Ok((Verdict::Possible, None));
        }
        Ok((Verdict::Denied, certain.problem))
    }

    /// Explains the verdict on a probe, with the `diagnostics` that concern it.
    pub fn explain<'a>(
        &self,
        probe: &Probe,
        diagnostics: impl IntoIterator<Item = &'a Diagnostic>,
    ) -> Explanation {
        let certain = self.certain.state();
        let states = States {
            certain,
            possible: self.possible.as_ref().map(Cluster::state),
            written: self.written_state(),
        };
        let is_left_out = |_: &Pod, rule: &RuleRef| self.certain.left_out().contains_key(rule);
        explain_between(states, probe, diagnostics, is_left_out)
    }

    /// What the verdicts on the connections of pods with other pods depend on: equal for pods that no policy distinguishes.
    pub(super) fn group_keys(&self, pods: &[ObjectName]) -> Vec<Vec<GroupKey>> {
        let of_each = [Some(&self.certain), self.possible.as_ref()]
            .map(|cluster| cluster.map(|cluster| cluster.group_keys(pods)).unwrap_or_default());
        let [certain, possible] = of_each;
        let mut possible = possible.into_iter();
        certain.into_iter().map(|key| [key].into_iter().chain(possible.next()).collect()).collect()
    }

    /// The ports at which the verdicts on connections of these pods can change, for each direction.
    pub(super) fn port_starts(&self, pods: &[ObjectName]) -> Vec<[Arc<PortStarts>; 2]> {
        self.possible.as_ref().unwrap_or(&self.certain).port_starts(pods)
    }

    /// The pods that have an address or a placeholder, by name.
    pub fn pods(&self) -> Vec<PodOrIp> {
        let state = self.state();
        let pods = state.pods().filter(|pod| !own_addresses(state, pod).is_empty());
        pods.map(|pod| PodOrIp::Pod { name: pod.name.clone(), address: None }).collect()
    }

    /// The objects, with placeholders for addresses that are not known.
    pub fn state(&self) -> &ClusterState {
        self.certain.state()
    }

    /// The objects with the connections that are allowed for some address; `None` if they are the same.
    pub(super) fn possible_state(&self) -> Option<&ClusterState> {
        self.possible.as_ref().map(Cluster::state)
    }

    /// The policies as written.
    pub(super) fn written_state(&self) -> &ClusterState {
        self.written.as_ref().unwrap_or(self.certain.state())
    }

    /// The rules that are not in force because they would exceed the map capacities.
    pub(super) fn left_out(&self) -> &LeftOut {
        self.certain.left_out()
    }

    /// The findings on policies over the capacity of the maps.
    pub fn findings(&self) -> Vec<Diagnostic> {
        self.certain.findings()
    }
}
