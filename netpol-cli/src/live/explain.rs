//! `explain --live`: what the agents of both ends answer, and where it differs from the objects of the API server.
//!
//! In: an explanation from the objects of the API server, and those of the agents of the nodes of both ends. Out: differences. Must not:
//! decide which of them is right.

use std::collections::BTreeSet;

use netpol_policy::model::ObjectName;
use netpol_policy::simulate::{DirectionExplanation, Explanation};
use netpol_terminal::Terminal;
use serde::{Deserialize as _, Serialize};

use super::answer::Status;
use super::cluster::{AccessArgs, Agent, Cluster, Silent};
use super::observer::{Explained, Route, ThroughArgs};
use super::output::printable;

/// One end of a connection, as the agent of its node has it in force.
#[derive(Debug, Serialize)]
pub(crate) struct End {
    /// `egress` at the source, `ingress` at the destination.
    direction: &'static str,
    pod: ObjectName,
    node: String,
    /// Whether all policies that the agent knows are in force on the node.
    is_in_force: bool,
    /// Whether the policies of the pod are in force; `None` if the agent does not know the pod.
    protection: Option<String>,
    /// The verdict that is in force; `None` if policies do not apply.
    decision: Option<DirectionExplanation>,
    /// Where this differs from the objects of the API server.
    differences: Vec<String>,
}

/// Both ends.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Ends {
    ends: Vec<End>,
    unanswered: Vec<Silent>,
}

impl Ends {
    /// Whether a node does not answer.
    pub(crate) fn is_incomplete(&self) -> bool {
        !self.unanswered.is_empty()
    }

    /// Whether a node has something else in force than the API server has.
    pub(crate) fn differ(&self) -> bool {
        self.ends.iter().any(|end| !end.differences.is_empty())
    }

    /// Writes them for people.
    pub(crate) fn write_text(&self, terminal: &mut Terminal<'_>) -> anyhow::Result<()> {
        for End { direction, pod, node, is_in_force, protection, decision, differences } in
            &self.ends
        {
            let summary =
                decision.as_ref().map_or("policies do not apply", |of| of.summary.as_str());
            let protection = protection.as_deref().unwrap_or("unknown to the agent");
            let force = if *is_in_force { "in force" } else { "NOT in force" };
            writeln!(terminal.stdout, "\n{direction} on node {node}: {}", printable(summary))?;
            writeln!(
                terminal.stdout,
                "  policies of the node: {force}; pod {pod}: {}",
                printable(protection)
            )?;
            for difference in differences {
                writeln!(terminal.stdout, "  ! differs from the API: {}", printable(difference))?;
            }
        }
        for Silent { node, reason } in &self.unanswered {
            terminal.complain(&format!("node {node} does not answer: {reason}"));
        }
        Ok(())
    }
}

/// Asks the agents of the nodes of both ends.
///
/// # Errors
/// The cluster cannot be accessed, or it has no agents.
pub(super) async fn ends(
    (access, through): (&AccessArgs, ThroughArgs),
    explanation: &Explanation,
) -> anyhow::Result<Ends> {
    let cluster = Cluster::open(access).await?;
    let route = through.route(&cluster).await;
    let mut ends = Ends::default();
    let protocol = explanation.protocol.to_string();
    // Without a connection there is nothing to ask.
    let Some(packets) = &explanation.connection else { return Ok(ends) };
    let name = |end: &Option<DirectionExplanation>, address: &str| {
        end.as_ref().map_or_else(|| address.to_owned(), |end| end.pod.to_string())
    };
    let from = name(&explanation.egress, &packets.source);
    let to = name(&explanation.ingress, &packets.destination);
    let port = packets.port.to_string();
    if route == Route::Observer {
        let decisions =
            [("egress", &explanation.egress, &to), ("ingress", &explanation.ingress, &from)];
        for (direction, of_api, peer) in decisions {
            if let Some(of_api) = of_api {
                let asked = (of_api.pod.clone(), direction, peer.as_str());
                ends.ask_observer(&cluster, asked, (&port, &protocol), Some(of_api)).await;
            }
        }
        return Ok(ends);
    }
    let found = cluster.agents().await?;
    let args = ["explain", "--from", &from, "--to", &to, "--port", &port, "--protocol", &protocol];
    let decisions = [("egress", &explanation.egress), ("ingress", &explanation.ingress)];
    for (direction, of_api) in decisions {
        let Some(of_api) = of_api else { continue };
        let node = cluster.pod(&of_api.pod).await?.spec.and_then(|spec| spec.node_name);
        let Some(node) = node else { continue };
        let mut on_node = found.clone().on(&[node.clone()].into());
        ends.unanswered.append(&mut on_node.silent);
        for agent in on_node.agents {
            match ask(&cluster, &agent, &args, direction, of_api).await {
                Ok(end) => ends.ends.push(end),
                Err(silent) => ends.unanswered.push(silent),
            }
        }
    }
    Ok(ends)
}

/// Asks the observer about the ends that are pods, without the objects of the API server, which the user may not list.
///
/// # Errors
/// The cluster cannot be accessed.
pub(super) async fn ends_in_force(
    access: &AccessArgs,
    (from, to): (&str, &str),
    connection: (&str, &str),
) -> anyhow::Result<Ends> {
    let cluster = Cluster::open(access).await?;
    let mut ends = Ends::default();
    for (direction, own, peer) in [("egress", from, to), ("ingress", to, from)] {
        if let Some((namespace, name)) = own.split_once('/') {
            let asked = (ObjectName::new(namespace, name), direction, peer);
            ends.ask_observer(&cluster, asked, connection, None).await;
        }
    }
    Ok(ends)
}

impl Ends {
    async fn ask_observer(
        &mut self,
        cluster: &Cluster,
        (pod, direction, peer): (ObjectName, &'static str, &str),
        connection: (&str, &str),
        of_api: Option<&DirectionExplanation>,
    ) {
        match cluster.observed_end(&pod, direction, peer, connection).await {
            Ok(Explained { node, is_in_force, protection, problem, decision }) => {
                let differences = Vec::new();
                let end =
                    End { direction, pod, node, is_in_force, protection, decision, differences };
                self.ends.push(end.compared(problem, of_api));
            }
            Err(error) => {
                let node = format!("of pod {pod}");
                self.unanswered.push(Silent { node, reason: format!("{error:#}") });
            }
        }
    }

    /// Whether an end denies the connection.
    pub(crate) fn deny(&self) -> bool {
        self.ends
            .iter()
            .any(|end| end.decision.as_ref().is_some_and(|decision| !decision.is_allowed))
    }
}

impl End {
    /// Adds what the end says beside its verdict, and where this differs from the objects of the API server, if they are known.
    fn compared(self, problem: Option<String>, of_api: Option<&DirectionExplanation>) -> Self {
        let mut differences: Vec<_> = problem.into_iter().collect();
        if !self.is_in_force {
            differences.push(
                "the node does not have all policies in force that its agent knows".to_owned(),
            );
        }
        match self.protection.as_deref() {
            Some("ready") => {}
            Some(other) => {
                differences.push(format!("the pod is {other}, whatever its policies say"));
            }
            None => differences
                .push("the agent does not know the pod, so nothing is enforced for it".to_owned()),
        }
        if let Some(of_api) = of_api {
            differences.extend(compare(of_api, self.decision.as_ref()));
        }
        Self { differences, ..self }
    }
}

async fn ask(
    cluster: &Cluster,
    agent: &Agent,
    args: &[&str],
    direction: &'static str,
    of_api: &DirectionExplanation,
) -> Result<End, Silent> {
    let misunderstood = |error: serde_json::Error| Silent {
        node: agent.node.clone(),
        reason: format!("its answer is not understood: {error}"),
    };
    let (answer, status) =
        futures::join!(cluster.ask(agent, args), cluster.ask(agent, &["status"]));
    let explained = Explanation::deserialize(answer?).map_err(misunderstood)?;
    let status = Status::deserialize_from(&status?).map_err(misunderstood)?;
    let problem = explained.problem;
    let decision = if direction == "egress" { explained.egress } else { explained.ingress };
    let endpoint = status.endpoints.iter().find(|endpoint| endpoint.pod == of_api.pod);
    let protection = endpoint.map(|endpoint| endpoint.protection.clone());
    let is_in_force = status.is_in_force && status.from_before.is_none();
    let end = End {
        direction,
        pod: of_api.pod.clone(),
        node: agent.node.clone(),
        is_in_force,
        protection,
        decision,
        differences: Vec::new(),
    };
    Ok(end.compared(problem, Some(of_api)))
}

/// Where the verdict that is in force differs from that of the objects.
fn compare(of_api: &DirectionExplanation, on_node: Option<&DirectionExplanation>) -> Vec<String> {
    let Some(on_node) = on_node else {
        return vec![format!("by the API: {}; on the node policies do not apply", of_api.summary)];
    };
    let mut differences = Vec::new();
    if of_api.is_allowed != on_node.is_allowed {
        differences
            .push(format!("by the API: {}; on the node: {}", of_api.summary, on_node.summary));
    }
    let policies = |of: &DirectionExplanation| -> BTreeSet<String> {
        of.isolating.iter().chain(&of.cluster_policies).map(ToString::to_string).collect()
    };
    let rules = |of: &DirectionExplanation| -> BTreeSet<String> {
        of.allowing.iter().chain(&of.denying).map(|of| of.rule.to_string()).collect()
    };
    for (what, of_api, on_node) in [
        ("policy", policies(of_api), policies(on_node)),
        ("matching rule", rules(of_api), rules(on_node)),
    ] {
        let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| -> Vec<String> {
            a.difference(b).cloned().collect()
        };
        differences.extend(
            only(&of_api, &on_node)
                .iter()
                .map(|name| format!("{what} {name} is not in force on the node")),
        );
        differences.extend(
            only(&on_node, &of_api)
                .iter()
                .map(|name| format!("{what} {name} is in force on the node, and not in the API")),
        );
    }
    differences
}
