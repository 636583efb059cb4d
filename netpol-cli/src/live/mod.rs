//! Commands that ask the agents of a live cluster, from any machine with a kubeconfig.
//!
//! In: access to the API server. Out: what the agents answer, and the nodes that do not answer, each with the reason. Must not:
//! change an object of the cluster, or wait for a node longer than `--node-timeout`.
//!
//! How a command uses it:
//!
//! ```text
//! block_on(async {
//!     let cluster = Cluster::open(&access).await?;          // --kubeconfig, --context, ...
//!     let found = cluster.agents().await?;                  // one agent for each node; nodes without one are silent
//!     let answers = cluster.ask_all(found, &["flows"]).await; // `netpol-agent flows -o json`, on many nodes at the same time
//!     let lines = cluster.ask_all_lines(found, &["drops"]).await; // the same for a command that writes one object a line
//!     let one = cluster.ask(&agent, &["status"]).await;       // the same on one node
//!     exec::follow(&cluster, &agent.pod, &["drops", "--follow", "--attended"], &sender).await; // lines as they come
//! })
//! ```
//!
//! `drops`, `flows` and `explain` have a second route, through [`observer`], which gives the same answers.

mod answer;
pub(crate) mod cluster;
mod drops;
mod duration;
mod exec;
mod explain;
mod flows;
mod follow;
mod observer;
pub(crate) mod output;
mod pods;
mod policy;
mod policy_object;
mod selection;
mod status;
mod wait;

pub(crate) use cluster::{AccessArgs, AgentsArgs};
pub(crate) use drops::{DropEvent, DropsArgs, events};
pub(crate) use duration::parse as parse_duration;
pub(crate) use explain::Ends;
pub(crate) use flows::FlowsArgs;
pub(crate) use observer::ThroughArgs;
pub(crate) use policy::PolicyArgs;
pub(crate) use status::StatusArgs;
pub(crate) use wait::WaitArgs;

use std::future::Future;

use anyhow::Context as _;
use netpol_policy::simulate::Explanation;
use netpol_terminal::Terminal;

/// Runs a command that asks agents. Only such a command has a runtime.
pub(crate) fn block_on<F: Future>(command: F) -> anyhow::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.context("cannot start the async runtime")?.block_on(command))
}

/// `status`: the state of all nodes, or of one pod.
pub(crate) fn status(args: &StatusArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    block_on(status::run(args, terminal))?
}

/// `drops`: dropped packets of all nodes.
pub(crate) fn drops(args: &DropsArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    block_on(drops::run(args, terminal))?
}

/// `wait`: until a policy is in force.
pub(crate) fn wait(args: &WaitArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    block_on(wait::run(args, terminal))?
}

/// `flows`: the live connections of a pod.
pub(crate) fn flows(args: &FlowsArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    block_on(flows::run(args, terminal))?
}

/// `policy`: one policy on all nodes.
pub(crate) fn policy(args: &PolicyArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    block_on(policy::run(args, terminal))?
}

/// `explain --live`: what is in force at both ends of a connection.
///
/// # Errors
/// The cluster cannot be accessed, or it has no agents.
pub(crate) fn explain(
    route: (&AccessArgs, ThroughArgs),
    explanation: &Explanation,
) -> anyhow::Result<Ends> {
    block_on(explain::ends(route, explanation))?
}

/// The same without the objects of the API server, through the observer. Both ends are `NAMESPACE/POD` or an address; port and protocol.
///
/// # Errors
/// The cluster cannot be accessed.
pub(crate) fn explain_in_force(
    access: &AccessArgs,
    ends: (&str, &str),
    connection: (&str, &str),
) -> anyhow::Result<Ends> {
    block_on(explain::ends_in_force(access, ends, connection))?
}
