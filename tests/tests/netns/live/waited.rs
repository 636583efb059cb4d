//! `wait` on two agents: never before the last of them, and soon after.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netpol_lab::node::{Family, Host};
use netpol_lab::settings::patience;
use rustix::process::{Pid, Signal, kill_process};

use super::{FIRST, Live};
use crate::{DENY_ALL, PORT, visitor};

/// How long after the last node `wait` may return.
const RETURNS_WITHIN: Duration = Duration::from_secs(1);

#[expect(clippy::disallowed_methods, reason = "a test measures time")]
#[test]
fn wait_returns_once_the_last_agent_has_the_policy_in_force_and_not_before() -> Result<()> {
    let Some(mut live) = Live::start("live-wait")? else { return Ok(()) };
    live.lab.add_pod(visitor())?;
    let web = live.lab.socket_address(&Host::pod("shop/web"), Family::V4, PORT)?;
    let visitor = live.lab.netns(&Host::pod("shop/visitor"))?.clone();
    let reaches = || {
        visitor.inside(|| Ok(TcpStream::connect_timeout(&web, Duration::from_millis(200)).is_ok()))
    };
    ensure!(reaches()?, "nothing isolates yet");

    let pid = live.lab.agent_pid().context("no agent")?;
    let agent = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no pid")?;
    kill_process(agent, Signal::STOP)?;
    live.lab.manifests().write("deny.yaml", DENY_ALL)?;
    let wait = ["wait", "networkpolicy/deny-all", "-n", "shop", "--node-timeout", "500ms"];
    let (code, text) = live.output(&[&wait[..], &["--timeout", "1500ms"]].concat())?;
    ensure!(code == 1, "{text}");
    ensure!(
        text.contains(&format!("is not in force on node {FIRST}: no answer within 500ms")),
        "{text}"
    );
    ensure!(!text.contains("node-2:"), "the other node has it: {text}");
    ensure!(reaches()?, "the agent of the first node is stopped");

    let mut command = live.command(&wait)?;
    let mut waiting = live.lab.netns(&Host::Node)?.spawn(&mut command)?;
    std::thread::sleep(Duration::from_millis(1500));
    ensure!(waiting.try_wait()?.is_none(), "it returned before the last node");
    let begin = Instant::now();
    kill_process(agent, Signal::CONT)?;
    ensure!(waiting.wait()?.success());
    let elapsed = begin.elapsed();
    ensure!(!reaches()?, "it returned before the policy was in force");
    println!("returned {elapsed:?} after the last agent went on");
    // The question that is under way ends first, and the agent has to catch up.
    ensure!(elapsed < (RETURNS_WITHIN + Duration::from_millis(500)) * patience(), "{elapsed:?}");
    let (code, text) = live.output(&wait)?;
    ensure!(code == 0 && text.contains("in force at 3 pods on 2 nodes"), "{text}");
    Ok(())
}
