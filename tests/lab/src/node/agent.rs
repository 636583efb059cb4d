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
use super::topology::NODE_NAME;
use super::wait::{LIMIT, Look, until};
use crate::binaries;

/// Lines of the log that an error shows.
const SHOWN_LINES: usize = 20;

/// Where everything of an agent is. No two labs share any of it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its folder for sockets and records.
    pub state: PathBuf,
    /// Its pins, on a BPF file system.
    pub pins: PathBuf,
    /// Where the runtime keeps the results of CNI plugins.
    pub results: PathBuf,
    /// The manifests that it watches.
    pub manifests: PathBuf,
    /// The API server that it listens to instead, if there is one.
    pub kubeconfig: Option<PathBuf>,
    /// What it writes to standard output and standard error.
    pub log: PathBuf,
    /// The capabilities that it has, such as `NET_ADMIN`; `None` for all of root's.
    pub capabilities: Option<Vec<String>>,
    /// The program, if it is not the one of this build.
    pub program: Option<PathBuf>,
    /// What stands before its command, such as a tracer with its arguments.
    pub prefix: Vec<String>,
}

impl Place {
    /// The socket for the CNI plugin.
    pub fn socket(&self) -> PathBuf {
        self.state.join("cni.sock")
    }

    /// Asks the running agent something with another `netpol-agent`; returns what it says.
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
            program,
            prefix,
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
        command.args(["--node", NODE_NAME]);
        command.arg("--pin-root").arg(pins);
        command.arg("--cni-results").arg(results);
        command.arg("--socket").arg(self.socket());
        command.stdin(Stdio::null());
        Ok(command)
    }
}

/// A running agent. Dropped, it is killed.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    place: Place,
}

impl Agent {
    /// Starts it and waits until it can serve an ADD.
    ///
    /// # Errors
    /// It does not start, ends, or is not ready within the time: the message holds the end of its log.
    pub(super) fn start(node: &Netns, place: &Place) -> Result<Self> {
        let mut agent = Self::begin(node, place)?;
        agent.wait_until_ready()?;
        Ok(agent)
    }

    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn begin(node: &Netns, place: &Place) -> Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(&place.log);
        let log = log.with_context(|| format!("opening {}", place.log.display()))?;
        let mut command = place.command()?;
        command.stdout(log.try_clone()?).stderr(log);
        let child = node.spawn(&mut command)?;
        Ok(Self { child, place: place.clone() })
    }

    /// Waits until it can serve an ADD.
    ///
    /// # Errors
    /// It ends, or is not ready within the time: the message holds the end of its log.
    pub(super) fn wait_until_ready(&mut self) -> Result<()> {
        self.wait().with_context(|| self.log_tail())
    }

    fn wait(&mut self) -> Result<()> {
        until("the agent's readiness", LIMIT, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("the agent ended ({status})");
            }
            Ok(match status(&self.place.socket()) {
                Ok(Response::Ok) => Look::Done(()),
                Ok(Response::Error { message, .. }) => Look::NotYet(message),
                Err(error) => Look::NotYet(format!("{error:#}")),
            })
        })
    }

    /// Ends it without warning, as `kill -9` and the kernel's memory killer do.
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

    /// Asks it to end, as the kubelet does, and waits until it has.
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

    /// How it has ended; `None` if it runs.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.place.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(SHOWN_LINES)..).unwrap_or_default();
        format!("the end of the agent's log:\n{}\n", tail.join("\n"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Asks an agent whether it can serve an ADD, as the CNI plugin does.
fn status(socket: &Path) -> Result<Response> {
    call(socket, &Request::Status)
}

/// Asks an agent something, as the CNI plugin does.
///
/// # Errors
/// It does not answer.
pub fn call(socket: &Path, request: &Request) -> Result<Response> {
    call_within(socket, request, LIMIT)
}

/// The same, for an answer that may take so long.
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

/// Makes what a place needs: its folders, and file systems that nobody else uses.
///
/// # Errors
/// A folder cannot be made, or a file system not be mounted.
pub(super) fn prepare(lab: &str, manifests: &Path) -> Result<Place> {
    let folder = teardown::folder(lab);
    let bpf = teardown::bpf_folder(lab);
    let state = teardown::state_folder(lab);
    for path in [&bpf, &state] {
        fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
    }
    // As on a node, where `/run` is one: a file that is replaced there costs no disk's time.
    rustix::mount::mount("tmpfs", &state, "tmpfs", rustix::mount::MountFlags::empty(), None)
        .with_context(|| format!("mounting a tmpfs on {}", state.display()))?;
    rustix::mount::mount("bpf", &bpf, "bpf", rustix::mount::MountFlags::empty(), None)
        .with_context(|| format!("mounting bpffs on {}", bpf.display()))?;
    Ok(Place {
        pins: bpf.join("netpol"),
        results: folder.join("results"),
        manifests: manifests.to_owned(),
        kubeconfig: None,
        log: folder.join("agent.log"),
        capabilities: None,
        program: None,
        prefix: Vec::new(),
        state,
    })
}
