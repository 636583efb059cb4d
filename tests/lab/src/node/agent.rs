//! The real agent, running on the lab's node.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use netpol_proto::{Request, Response};
use rustix::process::{Pid, Signal, kill_process};

use super::netns::Netns;
use super::teardown;
use super::wait::{LIMIT, Look, until};
use crate::binaries;

/// Number of log lines that an error quotes.
const SHOWN_LINES: usize = 20;

/// The configuration of an agent. Labs share none of its paths.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its state directory: socket and records.
    pub state: PathBuf,
    /// Its pins, on a BPF file system.
    pub pins: PathBuf,
    /// The runtime's folder of CNI results.
    pub results: PathBuf,
    /// The manifest directory that it watches.
    pub manifests: PathBuf,
    /// The kubeconfig of the API server that it watches instead, if there is one.
    pub kubeconfig: Option<PathBuf>,
    /// The log: its standard output and standard error.
    pub log: PathBuf,
    /// Its capabilities, such as `NET_ADMIN`; `None` for all.
    pub capabilities: Option<Vec<String>>,
    /// The name of its node.
    pub node: String,
    /// The program, if it is not the one of this build.
    pub program: Option<PathBuf>,
    /// A command prefix, such as a tracer with its arguments.
    pub prefix: Vec<String>,
    /// Further arguments of `netpol-agent run`.
    pub options: Vec<String>,
}

impl Config {
    /// The socket for the CNI plugin.
    pub fn socket(&self) -> PathBuf {
        self.state.join("cni.sock")
    }

    /// Runs a `netpol-agent` subcommand against the running agent; returns its output.
    ///
    /// # Errors
    /// It fails.
    pub fn ask(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(binaries::binary("netpol-agent")?);
        let output = command.args(args).arg("--socket").arg(self.socket()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "netpol-agent {args:?}: {said}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The command that runs an agent.
    ///
    /// # Errors
    /// The agent has not been built.
    pub fn command(&self) -> Result<Command> {
        let Self {
            state: _,
            pins,
            results,
            manifests,
            kubeconfig,
            log: _,
            capabilities,
            node,
            program,
            prefix,
            options,
        } = self;
        let agent = match program {
            Some(program) => program.clone(),
            None => binaries::binary("netpol-agent")?,
        };
        let mut command = match (capabilities, prefix.split_first()) {
            (None, None) => Command::new(agent),
            (None, Some((program, args))) => {
                let mut command = Command::new(program);
                command.args(args).arg(agent);
                command
            }
            (Some(capabilities), _) => {
                let mut set = String::from("-all");
                for name in capabilities {
                    set.extend([",+", &name.to_lowercase()]);
                }
                let mut command = Command::new("setpriv");
                command.arg("--no-new-privs").args(["--bounding-set", &set, "--inh-caps", &set]);
                command.arg(agent);
                command
            }
        };
        command.arg("run").env_remove("KUBECONFIG");
        match kubeconfig {
            Some(kubeconfig) => command.arg("--kubeconfig").arg(kubeconfig),
            None => command.arg("--manifests").arg(manifests),
        };
        command.args(["--node", node]);
        command.arg("--pin-root").arg(pins);
        command.arg("--cni-results").arg(results);
        command.arg("--socket").arg(self.socket()).args(options);
        command.stdin(Stdio::null());
        Ok(command)
    }
}

/// A running agent. Dropped, it is killed.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    config: Config,
}

impl Agent {
    /// Starts the agent and waits until it can serve an ADD.
    ///
    /// # Errors
    /// It does not start, ends, or is not ready within the time: the message holds the end of its log.
    pub(super) fn start(node: &Netns, config: &Config) -> Result<Self> {
        let mut agent = Self::begin(node, config)?;
        agent.wait_until_ready()?;
        Ok(agent)
    }

    /// Starts the agent without waiting.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn begin(node: &Netns, config: &Config) -> Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(&config.log);
        let log = log.with_context(|| format!("opening {}", config.log.display()))?;
        let mut command = config.command()?;
        command.stdout(log.try_clone()?).stderr(log);
        let child = node.spawn(&mut command)?;
        Ok(Self { child, config: config.clone() })
    }

    /// Waits until it can serve an ADD.
    ///
    /// # Errors
    /// It ends, or is not ready within the time: the message holds the end of its log.
    pub(super) fn wait_until_ready(&mut self) -> Result<()> {
        self.wait().with_context(|| self.log_tail())
    }

    fn wait(&mut self) -> Result<()> {
        // On a loaded machine the verifier alone takes many seconds.
        until("the agent's readiness", 3 * LIMIT, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("the agent ended ({status})");
            }
            Ok(match status(&self.config.socket()) {
                Ok(Response::Ok) => Look::Done(()),
                Ok(Response::Error { message, .. }) => Look::NotYet(message),
                Err(error) => Look::NotYet(format!("{error:#}")),
            })
        })
    }

    /// Kills it with SIGKILL, as `kill -9` and the OOM killer do.
    ///
    /// # Errors
    /// It had already ended.
    pub fn kill(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the agent had already ended ({status})");
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM, as the kubelet does, and waits until it has ended.
    ///
    /// # Errors
    /// It does not end within the time.
    pub fn terminate(mut self) -> Result<ExitStatus> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("the agent has no pid")?, Signal::TERM)?;
        until("the agent's end", LIMIT, || {
            Ok(match self.child.try_wait()? {
                Some(status) => Look::Done(status),
                None => Look::NotYet("it running".to_owned()),
            })
        })
    }

    /// Its exit status; `None` while it runs.
    ///
    /// # Errors
    /// `wait` fails.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.config.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(SHOWN_LINES)..).unwrap_or_default();
        format!("the end of the agent's log:\n{}\n", tail.join("\n"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The process may have ended already, and drop cannot return an error.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Asks an agent whether it can serve an ADD, as the CNI plugin does.
fn status(socket: &Path) -> Result<Response> {
    call(socket, &Request::Status)
}

/// Sends an agent a request, as the CNI plugin does.
///
/// # Errors
/// It does not answer.
pub fn call(socket: &Path, request: &Request) -> Result<Response> {
    call_within(socket, request, LIMIT)
}

/// The same, with a time limit for the answer.
///
/// # Errors
/// It does not answer.
pub fn call_within(socket: &Path, request: &Request, limit: Duration) -> Result<Response> {
    let mut stream = UnixStream::connect(socket).context("connecting to its socket")?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(&netpol_proto::encode(request)?)?;
    let mut line = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut line)?;
    Ok(netpol_proto::decode(&line)?)
}

/// Prepares an agent's paths: its folders, and file systems of its own.
///
/// # Errors
/// A folder cannot be made, or a file system not be mounted.
pub(super) fn prepare(lab: &str, node: &str, manifests: &Path) -> Result<Config> {
    let [bpf, state] = teardown::mounts(lab, node);
    for path in [&bpf, &state] {
        fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
    }
    // A tmpfs, as `/run` is on a node.
    rustix::mount::mount("tmpfs", &state, "tmpfs", rustix::mount::MountFlags::empty(), None)
        .with_context(|| format!("mounting a tmpfs on {}", state.display()))?;
    rustix::mount::mount("bpf", &bpf, "bpf", rustix::mount::MountFlags::empty(), None)
        .with_context(|| format!("mounting bpffs on {}", bpf.display()))?;
    Ok(Config {
        pins: bpf.join("netpol"),
        results: teardown::of_node(lab, node, "results"),
        manifests: manifests.to_owned(),
        kubeconfig: None,
        log: teardown::of_node(lab, node, "agent.log"),
        capabilities: None,
        node: node.to_owned(),
        program: None,
        prefix: Vec::new(),
        options: Vec::new(),
        state,
    })
}
