//! Keeps the entry and the binary installed.
//!
//! In: two directories, the agent's socket, and a signal to stop. Out: an [`Event`] for each change and each new error.
//! The entry is added once this node's agent has served, because with the entry and without an agent no pod of the node starts.
//! From then on it is put back whenever it is missing, also while no agent runs.
//! The directories are polled and not watched by inotify, because a poll reads a few short files and also covers mounts and
//! the targets of symbolic links.
//! Must not: depend on anything but the current content.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::binary::{self, Binary, Fingerprint};
use super::error::Error;
use super::folder::{self, Report};
use super::plan::Step;
use netpol_cni::client;
use netpol_cni::conflist::Entry;
use netpol_proto::Request;

/// What to keep installed, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The runtime's directory of configurations.
    pub conf_dir: PathBuf,
    /// The runtime's directory of plugins.
    pub bin_dir: PathBuf,
    /// The binary to copy.
    pub plugin: PathBuf,
    /// Our entry.
    pub entry: Entry,
    /// The agent's socket, as this process sees it.
    pub socket: PathBuf,
    /// The interval of the polls. It should be short, because a pod that starts after another program has removed the entry
    /// has no policy until the agent finds it.
    pub interval: Duration,
}

/// A change or an error.
#[derive(Debug)]
pub enum Event {
    /// The plugins' directory was changed.
    Binary(Binary),
    /// The configuration directory was changed.
    Step(Step),
    /// This file has our entry. Sent at the start, and after an error is over.
    InPlace(PathBuf),
    /// An error. Sent once, until it is over.
    Problem(Error),
}

/// Installs the entry and the binary, and again whenever they are removed or changed, until `stop` gets a message or its sender
/// is dropped.
pub fn watch(options: &Options, stop: &Receiver<()>, send: &mut dyn FnMut(Event)) {
    let mut state = State::default();
    loop {
        state.poll(options, send);
        match stop.recv_timeout(options.interval) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The result of the last poll.
#[derive(Default)]
struct State {
    /// Whether the agent has served on this node, or the directory shows that it did.
    has_served: bool,
    binary: Option<Fingerprint>,
    file: Option<PathBuf>,
    problems: BTreeSet<String>,
}

impl State {
    fn poll(&mut self, options: &Options, send: &mut dyn FnMut(Event)) {
        let mut problems = Vec::new();
        let found = binary::fingerprint(&options.bin_dir);
        if found.is_none() || found != self.binary {
            match binary::install(&options.plugin, &options.bin_dir) {
                Ok(Binary::Unchanged(_)) => self.binary = found,
                Ok(change) => {
                    self.binary = binary::fingerprint(&options.bin_dir);
                    send(Event::Binary(change));
                }
                Err(problem) => problems.push(problem),
            }
        }
        let report = self.install(options);
        let file = match report {
            Ok(Report { steps, problems: found, file }) => {
                for step in steps {
                    send(Event::Step(step));
                }
                problems.extend(found);
                file
            }
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        let mut current = BTreeSet::new();
        for problem in problems {
            let text = text(&problem);
            if !self.problems.contains(&text) {
                send(Event::Problem(problem));
            }
            current.insert(text);
        }
        self.problems = current;
        if let Some(file) = &file
            && self.file.as_ref() != Some(file)
        {
            send(Event::InPlace(file.clone()));
        }
        self.file = file;
    }

    fn install(&mut self, options: &Options) -> Result<Report, Error> {
        // No pod could start with an entry whose binary is missing.
        if self.binary.is_none() {
            return Ok(Report::default());
        }
        if !self.has_served && !folder::was_installed(&options.conf_dir)? {
            client::ask(&options.socket, &Request::Status)
                .map_err(|source| Error::NoAgent { source })?;
        }
        self.has_served = true;
        folder::install(&options.conf_dir, &options.entry)
    }
}

/// An error with its causes, without positions in a file, because a file may be half written at each poll.
fn text(problem: &Error) -> String {
    let mut text = problem.to_string();
    let mut cause = problem.source();
    while let Some(error) = cause {
        if error.is::<serde_json::Error>() {
            break;
        }
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
