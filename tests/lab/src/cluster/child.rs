//! Child processes of a control plane; they end with this process.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Lines of a program's log that an error shows.
const SHOWN_LINES: usize = 12;

/// A running program. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts a program with its output in a log. The kernel kills it when the calling thread ends, for any reason.
    pub(super) fn start(program: &Path, args: &[String], log: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.with_context(|| format!("opening {}", log.display()))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program).args(args);
        // Its own process group: Ctrl-C on the terminal does not reach it.
        command.process_group(0).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Fails if it has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{status}; the end of its log:\n{}", self.log_tail());
        }
        Ok(())
    }

    /// The end of its log.
    pub(super) fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(SHOWN_LINES)..).unwrap_or_default();
        tail.join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The process may have ended already, and drop cannot return an error.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
