//! The conditions of ClusterNetworkPolicies, written by one elected agent. Why so: `docs/design/policy-status.md`.
//!
//! In: the policies in force on each node. Out: a Lease for each node that says so, a Lease for the elected agent, and the conditions
//! `Accepted` and `Programmed` of each policy. Must not: write what the server has already.

mod conditions;
mod election;
mod nodes;

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Client;

pub use conditions::evaluate;
pub use election::{Candidate, ELECTION};
pub use nodes::{in_force, report};

use super::access::Error;
use super::discovery;

/// The policies in force on a node, by name.
pub type InForce = BTreeMap<Arc<str>, Generation>;

/// Which content of a policy is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Its uid.
    pub uid: Arc<str>,
    /// Its generation.
    pub generation: i64,
    /// Rules of it exceed the capacity of the node's maps.
    pub is_over_capacity: bool,
}

/// The path of the policies; `None` if the server does not have the kind.
///
/// # Errors
/// The server cannot be reached, or does not say which versions it serves.
pub async fn path(client: &Client) -> Result<Option<String>, Error> {
    discovery::path(client).await
}
