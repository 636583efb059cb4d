//! The response stream of a watch, which follows the log of one resource.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::contents::{Entry, Filter, Gone, Sort, bookmark_line, event_line};
use super::faults::status_json;
use super::resource::RESOURCES;
use super::{Shared, State};

/// Lines taken from the log at once.
const BATCH_LENGTH: usize = 256;

/// Default timeout of a watch.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(30);

/// One watch.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    changes: watch::Receiver<u64>,
    resource: usize,
    filter: Filter,
    wants_bookmarks: bool,
    /// Everything up to this version has been sent.
    version: u64,
    /// Lines that are sent before any from the log.
    lines: VecDeque<Bytes>,
    /// Whether the watch ends after `lines`.
    is_last: bool,
    /// `Faults::n_endings` at its start.
    n_endings: u64,
    deadline: Instant,
}

/// The parameters of a watch.
#[derive(Debug)]
pub(super) struct Wish {
    /// Number of the resource.
    pub(super) resource: usize,
    /// Which of its objects.
    pub(super) filter: Filter,
    /// Where it starts.
    pub(super) start: Start,
    /// `allowWatchBookmarks`.
    pub(super) wants_bookmarks: bool,
    /// `timeoutSeconds`.
    pub(super) timeout: Option<Duration>,
}

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// After this version.
    After(u64),
    /// With an ADDED event for each object that exists.
    Everything,
    /// With an ADDED event for each object that exists, and the bookmark that ends a streaming list.
    EverythingThenBookmark,
}

impl Watch {
    /// Starts a watch.
    pub(super) fn new(shared: Arc<Shared>, state: &State, wish: Wish) -> Result<Self, Gone> {
        let Wish { resource, filter, start, wants_bookmarks, timeout } = wish;
        let mut lines = VecDeque::new();
        let version = match start {
            Start::After(version) => {
                state.contents.can_watch_from(resource, version)?;
                version
            }
            Start::Everything | Start::EverythingThenBookmark => state.contents.version(),
        };
        let line = |event, object: &Bytes| {
            RESOURCES.get(resource).map(|resource| event_line(event, resource, object))
        };
        if start != Start::After(version) {
            for object in state.contents.all(resource, &filter) {
                lines.extend(line("ADDED", &object));
            }
        }
        if start == Start::EverythingThenBookmark {
            let deleted = &state.faults.deleted_while_listed;
            for (_, object) in deleted.iter().filter(|(number, _)| *number == resource) {
                lines.extend(["ADDED", "DELETED"].into_iter().filter_map(|of| line(of, object)));
            }
            let annotations = json!({ "k8s.io/initial-events-end": "true" });
            lines.push_back(bookmark_line(resource, version, &annotations));
        }
        Ok(Self {
            changes: shared.changes.subscribe(),
            shared,
            resource,
            filter,
            wants_bookmarks,
            version,
            lines,
            is_last: false,
            n_endings: state.faults.n_endings,
            deadline: Instant::now() + timeout.unwrap_or(DEFAULT_TIMEOUT),
        })
    }

    /// A watch that sends 410 Gone and ends.
    pub(super) fn gone(shared: Arc<Shared>, state: &State) -> Self {
        Self::refused(shared, state, gone_line())
    }

    /// A watch that sends one line, and ends.
    pub(super) fn refused(shared: Arc<Shared>, state: &State, line: Bytes) -> Self {
        Self {
            changes: shared.changes.subscribe(),
            shared,
            resource: 0,
            filter: Filter::default(),
            wants_bookmarks: false,
            version: 0,
            lines: VecDeque::from([line]),
            is_last: true,
            n_endings: state.faults.n_endings,
            deadline: Instant::now() + DEFAULT_TIMEOUT,
        }
    }

    /// The next line; `None` at the end, an error to break the connection.
    pub(super) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            self.changes.mark_unchanged();
            let shared = Arc::clone(&self.shared);
            match shared.with(|state| self.step(state)) {
                Step::Line(line) => return Some(Ok(line)),
                Step::Break => return Some(Err(io::ErrorKind::ConnectionReset.into())),
                Step::End => return None,
                Step::Wait => {}
            }
            let deadline = self.deadline;
            if tokio::time::timeout_at(deadline, self.changes.changed()).await.is_err() {
                return None;
            }
        }
    }

    fn step(&mut self, state: &mut State) -> Step {
        if state.faults.is_held || state.faults.muted == Some(self.resource) {
            return Step::Wait;
        }
        if self.lines.is_empty() && !self.is_last {
            self.read_log(state);
        }
        match self.lines.pop_front() {
            Some(line) if state.faults.cut_lines > 0 => {
                if line.is_empty() {
                    state.faults.cut_lines -= 1;
                    return Step::Break;
                }
                self.lines.push_front(Bytes::new());
                Step::Line(line.slice(..line.len() / 2))
            }
            Some(line) => Step::Line(line),
            None if self.is_last || self.n_endings != state.faults.n_endings => Step::End,
            None => Step::Wait,
        }
    }

    fn read_log(&mut self, state: &State) {
        let Ok(entries) = state.contents.since(self.resource, self.version, BATCH_LENGTH) else {
            self.lines.push_back(gone_line());
            self.is_last = true;
            return;
        };
        for Entry { version, key, sort, line } in entries {
            self.version = version;
            let is_meant = match sort {
                Sort::Event => self.filter.has(&key),
                Sort::Bookmark => self.wants_bookmarks,
                Sort::ToAll => true,
            };
            if is_meant {
                self.lines.push_back(line);
            }
        }
    }
}

/// What a watch does next.
#[derive(Debug)]
enum Step {
    Line(Bytes),
    Wait,
    Break,
    End,
}

fn gone_line() -> Bytes {
    error_line(http::StatusCode::GONE, "Expired", "too old resource version")
}

/// The line of an ERROR event.
pub(super) fn error_line(code: http::StatusCode, reason: &str, message: &str) -> Bytes {
    let status = status_json(code, reason, message);
    Bytes::from(format!("{}\n", json!({ "type": "ERROR", "object": status })))
}
