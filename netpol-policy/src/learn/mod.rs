//! NetworkPolicies from the connections that pods have had.
//!
//! In: objects, and connections as the agents record them. Out: for each workload of the chosen namespaces a NetworkPolicy that allows
//! what was seen and nothing else, with notes on what no policy can allow; and the connections that policies would drop if they were
//! enforced. Must not: suggest ClusterNetworkPolicies, or read what a policy allows today.
//!
//! `workloads` groups pods, `contacts` finds who has talked to whom, `cover` groups peers and ports into rules, `yaml` writes them,
//! `verify` judges connections.

mod contacts;
mod cover;
mod verify;
mod workloads;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use netpol_common::ids::Direction;

use crate::model::{ObjectName, Transport};
use crate::store::ClusterState;

pub use cover::{LearnedPeer, LearnedPort, LearnedRule};
pub use verify::{WouldDrop, verify};
pub use workloads::WorkloadSelector;
pub use yaml::Mode;

/// A connection of a pod, as its node records it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Observed {
    /// The pod.
    pub pod: ObjectName,
    /// The direction in which it began, from the pod's point of view.
    pub direction: Direction,
    /// The protocol.
    pub transport: Transport,
    /// The destination port, host byte order: the pod's for ingress, the remote one for egress.
    pub port: u16,
    /// The remote address, before Service translation.
    pub remote: IpAddr,
    /// The pod that had the remote address then.
    pub peer: Option<ObjectName>,
}

/// What is learned, and what the objects do not say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The namespaces that get policies; empty for every namespace of a pod with a connection.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Address blocks: an address outside the cluster becomes the narrowest block that contains it, else a block of its own.
    pub blocks: Vec<IpNetwork>,
    /// Addresses of the API server behind the Service `default/kubernetes`, if its backends are not among the objects.
    pub api_servers: Vec<SocketAddr>,
}

/// The policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// One for each workload, by namespace and name.
    pub policies: Vec<LearnedPolicy>,
    /// What no policy can allow, or what the objects do not tell.
    pub notes: BTreeSet<String>,
}

/// The policy of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedPolicy {
    /// Namespace and name of the policy.
    pub name: ObjectName,
    /// The name of the workload.
    pub workload: String,
    /// The pods of the workload.
    pub selector: WorkloadSelector,
    /// What may connect to it.
    pub ingress: Vec<LearnedRule>,
    /// What it may connect to.
    pub egress: Vec<LearnedRule>,
    /// Connections with the own node, which are always allowed.
    pub n_own_node: u64,
    /// Connections of a pod with itself, which are always allowed.
    pub n_itself: u64,
}

/// Learns policies from connections. Each of `observed` counts as one connection.
pub fn learn<'a>(
    state: &ClusterState,
    observed: impl IntoIterator<Item = &'a Observed>,
    options: &Options,
) -> Learned {
    let workloads = workloads::Workloads::of(state);
    let mut contacts = contacts::Contacts::new(state, &workloads, options);
    for connection in observed {
        contacts.add(connection);
    }
    contacts.finish()
}
