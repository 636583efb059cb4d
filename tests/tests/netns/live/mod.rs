//! `kubectl netpol` on two nodes with real agents: through the API server of this process, which runs the agent's program.

mod asked;
mod observed;
mod shown;
mod waited;

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use netpol_lab::binaries::binary;
use netpol_lab::fake_api::{Executed, FakeApi};
use netpol_lab::node::agent::Config;
use netpol_lab::node::second_node::{NAME as SECOND, NewPod};
use netpol_lab::node::topology::NODE_NAME as FIRST;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Family, Host, Lab, SecondNode};
use serde_json::json;

use super::two_nodes::TwoNodes;
use super::web;

/// Two nodes with an agent each. On the first is shop/web, on the second shop/client.
struct Live {
    lab: Lab,
    api: Arc<FakeApi>,
    _second: SecondNode,
    second_agent: Config,
    pod: NewPod,
}

impl Live {
    fn start(name: &str) -> Result<Option<Self>> {
        Self::start_observed(name, None)
    }

    /// The same. The agents connect to an observer with these tokens.
    fn start_observed(name: &str, tokens: Option<[&str; 2]>) -> Result<Option<Self>> {
        let nodes = TwoNodes::start_observed(name, web(), &json!([]), tokens)?;
        let Some(nodes) = nodes else { return Ok(None) };
        let TwoNodes { lab, api, second, second_agent, client } = nodes;
        let live = Self { lab, api, _second: second, second_agent, pod: client };
        for (node, config) in [(FIRST, live.lab.agent_config()), (SECOND, &live.second_agent)] {
            live.put_agent(node, config)?;
        }
        Ok(Some(live))
    }

    /// The agent's pod, in which commands run as on the node.
    fn put_agent(&self, node: &str, config: &Config) -> Result<()> {
        let name = format!("netpol-agent-{node}");
        let put = self.api.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": "netpol-system",
                "labels": { "app.kubernetes.io/name": "netpol-agent" },
            },
            "spec": { "nodeName": node, "hostNetwork": true, "containers": [{ "name": "agent" }] },
            "status": { "phase": "Running" },
        }));
        put.context("not put")?;
        let (agent, socket) = (binary("netpol-agent")?, config.socket());
        self.api.execute("netpol-system", &name, move |args| {
            let mut command = Command::new(&agent);
            command.args(args.iter().skip(1)).arg("--socket").arg(&socket);
            Executed::Program(Box::new(command))
        });
        Ok(())
    }

    /// A command on a machine that reaches the API server.
    fn command(&self, args: &[&str]) -> Result<Command> {
        let kubeconfig = self.lab.agent_config().kubeconfig.as_ref().context("no kubeconfig")?;
        // Another user's file is named by the command.
        let is_own = args.contains(&"--kubeconfig");
        let mut command = Command::new(binary("kubectl-netpol")?);
        if is_own {
            command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            return Ok(command);
        }
        command.args(args).arg("--kubeconfig").arg(kubeconfig).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    /// What a command prints, and its exit code.
    fn output(&self, args: &[&str]) -> Result<(i32, String)> {
        let child = self.lab.netns(&Host::Node)?.spawn(&mut self.command(args)?)?;
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        Ok((output.status.code().context("killed")?, text))
    }

    /// Waits until a command prints all of these texts.
    fn expect(&self, args: &[&str], texts: &[&str]) -> Result<String> {
        until(&format!("{args:?} prints {texts:?}"), LIMIT, || {
            let (_, text) = self.output(args)?;
            let is_complete = texts.iter().all(|expected| text.contains(expected));
            Ok(if is_complete { Look::Done(text) } else { Look::NotYet(text) })
        })
    }

    fn follow(&self, args: &[&str]) -> Result<Following> {
        let mut child = self.lab.netns(&Host::Node)?.spawn(&mut self.command(args)?)?;
        let stdout = child.stdout.take().context("no output")?;
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                drop(send.send(line));
            }
        });
        Ok(Following { child, lines })
    }

    /// Sends one SYN from the pod on the second node to a port of web.
    fn knock(&self, port: u16) -> Result<()> {
        let web = self.lab.socket_address(&Host::pod("shop/web"), Family::V4, port)?;
        self.pod.netns.inside(|| try_to_connect(web))
    }
}

/// Sends a SYN, and gives up before the next one.
#[expect(clippy::unnecessary_wraps, reason = "the form of what runs in a namespace")]
fn try_to_connect(to: SocketAddr) -> Result<()> {
    // Whether it succeeds is shown by what is reported.
    drop(TcpStream::connect_timeout(&to, Duration::from_millis(100)));
    Ok(())
}

/// A command that follows. Dropped, it is killed.
struct Following {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Following {
    /// Waits for a line with all of these texts. Returns it and how long it took.
    fn expect(&self, texts: &[&str]) -> Result<(String, Duration)> {
        #[expect(clippy::disallowed_methods, reason = "a test measures time")]
        let begin = Instant::now();
        let mut others = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            if texts.iter().all(|text| line.contains(text)) {
                return Ok((line, begin.elapsed()));
            }
            others.push(line);
        }
        bail!("no line with {texts:?}, but {others:#?}")
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
