//! Connectivity, measured with real packets.

use std::fmt;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::netns::Netns;
use super::wait::{LIMIT, Look, until};
use super::{Family, Host, Lab, Stream};
use crate::binaries::binary;
use crate::probe::{Outcome, Probe, Protocol, Task};

/// Time limit for an answer, which takes a millisecond on an idle machine.
const ANSWER_LIMIT_MS: u64 = 300;

/// Whether traffic passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Passing {
    /// In both families.
    Yes,
    /// In neither: all packets are dropped.
    No,
}

impl Lab {
    /// Runs probes from many hosts concurrently; returns the outcomes in the same order.
    ///
    /// # Errors
    /// A host does not exist, or a probe could not be run.
    pub fn probe(&self, tries: &[(Host, Vec<Probe>)]) -> Result<Vec<Vec<Outcome>>> {
        let mut running = Vec::new();
        for (from, probes) in tries {
            running.push(start(self.netns(from)?, probes)?);
        }
        running.into_iter().map(finish).collect()
    }

    /// Waits until traffic passes, or does not pass, in both families. The explanations must say the same.
    ///
    /// # Errors
    /// The deadline passes: the message contains the outcomes, and commands for inspection. An explanation differs.
    pub fn expect(
        &self,
        passing: Passing,
        from: &Host,
        to: &Host,
        protocol: Protocol,
        port: u16,
    ) -> Result<()> {
        let probes = self.await_packets(passing, from, to, protocol, port)?;
        probes.into_iter().try_for_each(|probe| self.check_explanations(from, probe, passing))
    }

    /// The same for packets about which another thing than a policy decides, such as their MAC address. Explanations need not say
    /// the same. Returns the probes.
    ///
    /// # Errors
    /// The deadline passes: the message contains the outcomes, and commands for inspection.
    pub fn await_packets(
        &self,
        passing: Passing,
        from: &Host,
        to: &Host,
        protocol: Protocol,
        port: u16,
    ) -> Result<Vec<Probe>> {
        let mut probes = Vec::new();
        for family in Family::BOTH {
            let destination = self.socket_address(to, family, port)?;
            probes.push(Probe { protocol, destination });
        }
        let tries = [(from.clone(), probes.clone())];
        let wanted = match passing {
            Passing::Yes => Outcome::Passed,
            Passing::No => Outcome::Silent,
        };
        let what = format!("{from} to {to}, {protocol} {port}: {wanted:?}");
        until(&what, LIMIT, || {
            let outcomes = self.probe(&tries)?.concat();
            Ok(if outcomes.iter().all(|outcome| *outcome == wanted) {
                Look::Done(())
            } else {
                Look::NotYet(format!("{outcomes:?}"))
            })
        })
        .with_context(|| format!("log of the agent:\n{}", self.agent_log().unwrap_or_default()))?;
        Ok(probes)
    }

    /// Starts a stream of messages, one every `pace_us` microseconds.
    ///
    /// # Errors
    /// A host does not exist, or the stream cannot be started.
    pub fn stream(
        &self,
        from: &Host,
        protocol: Protocol,
        destination: SocketAddr,
        pace_us: u64,
    ) -> Result<Stream> {
        Stream::start(self.netns(from)?, protocol, destination, pace_us)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod(name) => name,
            Self::Node => "the node",
            Self::Office => "the office",
            Self::Guest => "the guest",
        })
    }
}

fn start(netns: &Netns, probes: &[Probe]) -> Result<Child> {
    let mut command = Command::new(binary("netpol-probe")?);
    command.arg("connect").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = netns.spawn(&mut command)?;
    let task = Task { probes: probes.to_vec(), timeout_ms: ANSWER_LIMIT_MS };
    let mut stdin = child.stdin.take().context("a probe has no input")?;
    stdin.write_all(serde_json::to_string(&task)?.as_bytes())?;
    Ok(child)
}

fn finish(child: Child) -> Result<Vec<Outcome>> {
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("a probe failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("reading what a probe says")
}

#[expect(clippy::print_stderr, reason = "a failed removal in drop can only be printed")]
pub(super) fn tell(text: &str) {
    eprintln!("{text}");
}
