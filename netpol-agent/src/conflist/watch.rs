//! The entry and the binary, kept in place.
//!
//! In: two directories, and somebody who says stop. Out: an [`Event`] for each change and each new problem.
//! The directories are looked at again and again instead of being watched by events: a look reads a few short
//! files, needs no library, and also sees what happens below a mount or a link.
//! Must not: act on anything but the current content.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::plan::Step;
use super::{Binary, Entry, Error, Report, binary, folder};

/// What to keep in place.
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
    /// The time between two looks. A pod that starts between a foreign change and our look has no policy until
    /// the agent finds it, so it should be short.
    pub interval: Duration,
}

/// What a watch has to tell.
#[derive(Debug)]
pub enum Event {
    /// The plugins' directory was changed.
    Binary(Binary),
    /// The configuration directory was changed.
    Step(Step),
    /// This file has our entry, since the start or since a problem ended.
    InPlace(PathBuf),
    /// Something stands in the way. Told once until it is over.
    Problem(Error),
}

/// Installs, and installs again whenever somebody undoes it, until `stop` gets a message or loses its sender.
pub fn watch(options: &Options, stop: &Receiver<()>, tell: &mut dyn FnMut(Event)) {
    let mut state = State::default();
    loop {
        state.look(options, tell);
        match stop.recv_timeout(options.interval) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// What the last look found.
#[derive(Default)]
struct State {
    binary: Option<binary::Trace>,
    file: Option<PathBuf>,
    problems: BTreeSet<String>,
}

impl State {
    fn look(&mut self, options: &Options, tell: &mut dyn FnMut(Event)) {
        let mut problems = Vec::new();
        let trace = binary::trace(&options.bin_dir);
        if trace.is_none() || trace != self.binary {
            match binary::install(&options.plugin, &options.bin_dir) {
                Ok(Binary::Unchanged(_)) => self.binary = trace,
                Ok(change) => {
                    self.binary = binary::trace(&options.bin_dir);
                    tell(Event::Binary(change));
                }
                Err(problem) => problems.push(problem),
            }
        }
        // A list that names a binary which is not there would keep every pod from starting.
        let report = if self.binary.is_some() {
            folder::install(&options.conf_dir, &options.entry)
        } else {
            Ok(Report::default())
        };
        let file = match report {
            Ok(Report { steps, problems: found, file }) => {
                for step in steps {
                    tell(Event::Step(step));
                }
                problems.extend(found);
                file
            }
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        let mut known = BTreeSet::new();
        for problem in problems {
            let text = text(&problem);
            if !self.problems.contains(&text) {
                tell(Event::Problem(problem));
            }
            known.insert(text);
        }
        self.problems = known;
        if let Some(file) = &file
            && self.file.as_ref() != Some(file)
        {
            tell(Event::InPlace(file.clone()));
        }
        self.file = file;
    }
}

/// A problem with its causes. Where in a file it is does not count: a file may be half written at each look.
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
