//! The server process in a pod or on a host.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::netns::Netns;
use crate::binaries::binary;
use crate::probe;

/// A server process. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
}

impl Server {
    /// Starts a server and waits until it answers on all its ports, TCP and UDP.
    ///
    /// # Errors
    /// It cannot be started, or a port is taken.
    pub(super) fn start(netns: &Netns, ports: &[u16]) -> Result<Self> {
        let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
        let mut command = Command::new(binary("netpol-probe")?);
        command.args(["serve", "--ports", &ports.join(",")]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = netns.spawn(&mut command)?;
        let stdout = child.stdout.take().context("a server has no output")?;
        let server = Self { child };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.trim_end() != probe::READY {
            bail!("the server in {} did not start", netns.name());
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may have ended already, and drop cannot return an error.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
