//! An outage of the API server during a soak.
//!
//! The state in force at its start must stay in force, whatever changes at the server. Afterwards the agent must catch up within
//! its longest retry delay.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use fastrand::Rng;
use netpol_agent::agent::SourceStatus;
use netpol_proto::{ErrorCode, Request, Response};

use super::cluster_model::{ClusterModel, add, attachment, expect_ok, local_pod};
use super::{N_VERDICTS, ROUND, ROUNDS_PER_CHECK};
use crate::node::wait::{LIMIT, Look, until};
use crate::node::{Host, Lab, agent};

/// The agent's longest retry delay, plus time to list and apply.
const RETURN_LIMIT: Duration = Duration::from_secs(30 + 10);

/// The outcome of an outage.
#[derive(Clone, Debug, Default)]
pub struct Outage {
    /// Its duration.
    pub lasted: Duration,
    /// Verdicts for transient pods, checked against the state at the start.
    pub n_verdicts: u64,
    /// Pods created, and as many deleted, during the outage.
    pub n_pods: u64,
    /// Delay from the server's return to the first packet with an updated verdict.
    pub caught_up: Duration,
    /// The answer to the ADD of an unknown pod, and its delay.
    pub refusal: String,
    /// The sources in the output of `netpol-agent status`.
    pub told: String,
}

impl Outage {
    /// As text.
    pub fn text(&self) -> String {
        let Self { lasted, n_verdicts, n_pods, caught_up, refusal, told } = self;
        let mut text = format!(
            "API server away for {} s: {n_pods} pods created and deleted unseen, {n_verdicts} verdicts as before, all right\n\
             up to date {:.1} s after its return; a known pod was added, an unknown one was told: {refusal}\n",
            lasted.as_secs(),
            caught_up.as_secs_f64(),
        );
        for line in told.lines() {
            writeln!(text, "  status: {line}").ok();
        }
        text
    }
}

/// Stops the server for this long, under load. Must run in the node's network namespace.
#[expect(clippy::disallowed_methods, reason = "load has a pace, and what is measured")]
pub(super) fn run(
    lab: &Lab,
    cluster: &mut ClusterModel,
    rng: &mut Rng,
    lasts: Duration,
    n_each_round: u32,
) -> Result<Outage> {
    let mut outage = Outage::default();
    cluster.api.put(local_pod("expected", 0, None));
    cluster.converge()?;
    let in_force = cluster.snapshot();
    let begin = Instant::now();
    cluster.api.stop();
    wait_for_sources(lab, LIMIT, |source| matches!(source, SourceStatus::Broken { .. }))?;
    let late = thread::scope(|scope| {
        let starts = scope.spawn(|| start_pods(lab));
        let mut next = Instant::now();
        for round in 1.. {
            outage.n_pods += u64::from(cluster.replace_pods(n_each_round)?);
            for _ in 0..N_VERDICTS {
                cluster.ask_stable(rng)?;
            }
            if round % 10 == 0 {
                cluster.change_policy(round)?;
            }
            if round % ROUNDS_PER_CHECK == 0 {
                outage.n_verdicts += cluster.ask_converged(rng, &in_force)?;
            }
            if begin.elapsed() >= lasts && starts.is_finished() {
                break;
            }
            next += ROUND;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        starts.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    ensure!(cluster.is_closed(late.refused)?, "a refused pod is reachable");
    outage.refusal = late.refusal;
    outage.told = sources(lab)?;
    outage.lasted = begin.elapsed();

    cluster.api.start_again()?;
    let back = Instant::now();
    cluster.converge_within(RETURN_LIMIT)?;
    outage.caught_up = back.elapsed();
    wait_for_sources(lab, RETURN_LIMIT, |source| matches!(source, SourceStatus::Synced { .. }))?;
    let now = cluster.snapshot();
    for _ in 0..10 {
        outage.n_verdicts += cluster.ask_converged(rng, &now)?;
    }
    end_pods(lab, cluster)?;
    Ok(outage)
}

/// The outcome of starting pods during the outage.
struct Late {
    /// The interface of the refused pod.
    refused: u32,
    refusal: String,
}

/// Starts a pod that the agent knows and one that it does not.
#[expect(clippy::disallowed_methods, reason = "what is measured")]
fn start_pods(lab: &Lab) -> Result<Late> {
    let node = lab.netns(&Host::Node)?;
    node.configure(
        "link add soe type veth peer name swe\nlink set soe up\n\
         link add sou type veth peer name swu\nlink set sou up\n",
    )?;
    let (known, unknown) = (node.interface_index("soe")?, node.interface_index("sou")?);
    let socket = lab.agent_config().socket();
    let address = |last| Ipv4Addr::new(10, 252, 1, last);
    expect_ok(&socket, &Request::Add(add("expected", "expected", "soe", known, address(1))))?;
    let begin = Instant::now();
    // Longer than the agent's limit for an ADD.
    let request = Request::Add(add("unheard-of", "unheard-of", "sou", unknown, address(2)));
    match agent::call_within(&socket, &request, 2 * LIMIT)? {
        Response::Error { code, message, details: _ } => {
            ensure!(code == ErrorCode::TRY_AGAIN_LATER, "{code:?}: {message}");
            let refusal =
                format!("try again later, {message} (after {} s)", begin.elapsed().as_secs());
            Ok(Late { refused: unknown, refusal })
        }
        Response::Ok => bail!("an unknown pod was added"),
    }
}

/// Removes the pods of [`start_pods`].
fn end_pods(lab: &Lab, cluster: &ClusterModel) -> Result<()> {
    for name in ["expected", "unheard-of"] {
        expect_ok(&lab.agent_config().socket(), &Request::Del(attachment(name)))?;
    }
    lab.netns(&Host::Node)?.configure("link delete soe\nlink delete sou\n")?;
    cluster.forget_pod("expected")
}

fn wait_for_sources(
    lab: &Lab,
    limit: Duration,
    wanted: impl Fn(&SourceStatus) -> bool,
) -> Result<()> {
    until("the sources", limit, || {
        let status = lab.status()?;
        Ok(if status.sources.values().all(&wanted) {
            Look::Done(())
        } else {
            Look::NotYet(format!("{:?}", status.sources))
        })
    })
}

/// The lines about sources that are out of date.
fn sources(lab: &Lab) -> Result<String> {
    let status = lab.agent_config().ask(&["status"])?;
    let lines = status.lines().filter(|line| line.contains("out of date"));
    Ok(lines.map(str::trim).collect::<Vec<_>>().join("\n"))
}
