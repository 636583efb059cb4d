//! Reports which ClusterNetworkPolicies are in force on this node and, if this agent is elected, writes the conditions of all of them.
//!
//! In: what is in force. Out: a Lease of this node, the Lease of the elected agent, conditions. Must not: end the agent, or send a
//! request while there has never been such a policy.

use std::sync::Arc;
use std::time::Duration;

use netpol_kube::policy_status::{self, Candidate, InForce};
use netpol_kube::{Access, Error, published};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

/// How often things happen. The defaults suit a cluster; tests use shorter durations.
#[derive(Clone, Copy, Debug)]
pub struct Periods {
    /// Time between two looks of an agent that is not elected.
    pub candidate: Duration,
    /// Time between two looks of the elected agent at all nodes.
    pub elected: Duration,
    /// How long the elected agent stays so without renewing.
    pub lease: Duration,
    /// Least time between two reports of this node.
    pub report: Duration,
}

impl Default for Periods {
    fn default() -> Self {
        Self {
            candidate: Duration::from_mins(1),
            elected: Duration::from_secs(15),
            lease: Duration::from_mins(1),
            report: Duration::from_secs(2),
        }
    }
}

/// Reports, and writes conditions while elected, until the sender of `in_force` is dropped.
pub async fn run(
    access: Access,
    node: Arc<str>,
    mut in_force: watch::Receiver<InForce>,
    periods: Periods,
) {
    if in_force.wait_for(|in_force| !in_force.is_empty()).await.is_err() {
        return;
    }
    let mut candidate = Candidate::new(Arc::clone(&node), periods.lease);
    let mut reported: Option<InForce> = None;
    let mut is_elected = false;
    let mut next_look = Instant::now();
    loop {
        let now = in_force.borrow_and_update().clone();
        if reported.as_ref() != Some(&now) {
            match report(&access, &node, &now).await {
                Ok(()) => reported = Some(now.clone()),
                Err(error) => {
                    warn!(error, "ClusterNetworkPolicies in force on this node not reported");
                }
            }
        }
        if next_look <= Instant::now() && !now.is_empty() {
            match look(&access, &mut candidate).await {
                Ok(was) => {
                    if was && !is_elected {
                        info!(
                            "elected: this agent writes the conditions of ClusterNetworkPolicies"
                        );
                    }
                    is_elected = was;
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "conditions of ClusterNetworkPolicies not written");
                }
            }
            next_look =
                Instant::now() + if is_elected { periods.elected } else { periods.candidate };
        }
        // Changes meanwhile share a report.
        sleep(periods.report).await;
        tokio::select! {
            () = tokio::time::sleep_until(next_look) => {}
            changed = in_force.changed() => if changed.is_err() { return },
        }
    }
}

async fn report(access: &Access, node: &str, in_force: &InForce) -> Result<(), String> {
    let client = access.client();
    let uid = published::node_uid(&client, node).await.map_err(|error| error.to_string())?;
    let uid = uid.ok_or_else(|| "the Node of this agent does not exist".to_owned())?;
    let written = policy_status::report(&client, node, &uid, in_force).await;
    written.map_err(|error| error.to_string())
}

/// Stands for election and, if elected, writes conditions. Returns whether this agent is elected.
async fn look(access: &Access, candidate: &mut Candidate) -> Result<bool, Error> {
    let client = access.client();
    let Some(path) = policy_status::path(&client).await? else { return Ok(false) };
    if !candidate.stand(&client).await? {
        return Ok(false);
    }
    let nodes = policy_status::in_force(&client).await?;
    let n_writes = policy_status::evaluate(&client, &path, &nodes).await?;
    debug!(n_writes, n_nodes = nodes.len(), "conditions of ClusterNetworkPolicies");
    Ok(true)
}
