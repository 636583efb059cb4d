//! A sign on a terminal that large input is being read or evaluated.
//!
//! In: the beginning and the end of the work. Out: a line on standard error that disappears, if standard error is a terminal and the work
//! takes long. Must not: write anything else, or delay the end.

use std::io::{self, IsTerminal as _, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::ProgressBar;
use netpol_terminal::Terminal;

/// How long nothing is shown.
const DELAY: Duration = Duration::from_millis(500);
/// Time between two states of the line.
const PACE: Duration = Duration::from_millis(100);

/// Work that goes on. Dropped, it has ended.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The sender and the thread that shows the line; `None` without a terminal.
    shown: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Begins.
    pub(super) fn start(message: String) -> Self {
        if !io::stderr().is_terminal() {
            return Self::default();
        }
        let (sender, ended) = mpsc::channel();
        // Without a thread the line is missing, which is no reason to fail.
        let thread = thread::Builder::new()
            .spawn(move || show(&ProgressBar::new_spinner(), message, &ended, DELAY));
        Self { shown: thread.ok().map(|thread| (sender, thread)) }
    }
}

/// Work whose result goes to standard output while it goes on.
pub(super) struct WhileWriting<'a> {
    out: &'a mut dyn Write,
    progress: Option<Progress>,
    sink: Sink,
}

/// Where the result goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    /// To the terminal that shows the progress, which therefore ends with the first line of the result.
    SameTerminal,
    Elsewhere,
}

impl<'a> WhileWriting<'a> {
    /// Begins. The result is written to the returned value.
    pub(super) fn start(message: &str, terminal: &'a mut Terminal<'_>) -> Self {
        let sink = if terminal.width.is_some() { Sink::SameTerminal } else { Sink::Elsewhere };
        let progress = Some(Progress::start(message.to_owned()));
        Self { out: &mut *terminal.stdout, progress, sink }
    }
}

impl Write for WhileWriting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.sink == Sink::SameTerminal {
            self.progress = None;
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.shown.take() {
            drop(sender);
            thread.join().ok();
        }
    }
}

/// Shows the line from `delay` until the sender is dropped.
fn show(line: &ProgressBar, message: String, ended: &Receiver<()>, delay: Duration) {
    let goes_on = |time| ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
    if !goes_on(delay) {
        return;
    }
    line.set_message(message);
    while goes_on(PACE) {
        line.tick();
    }
    line.finish_and_clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(delay: Duration, work: impl FnOnce(&ProgressBar)) -> ProgressBar {
        let line = ProgressBar::hidden();
        let (sender, ended) = mpsc::channel();
        let thread = thread::spawn({
            let line = line.clone();
            move || show(&line, "reading".to_owned(), &ended, delay)
        });
        work(&line);
        drop(sender);
        thread.join().unwrap();
        line
    }

    #[test]
    fn a_line_is_shown_while_long_work_goes_on_and_removed_at_its_end() {
        let line = shown(Duration::ZERO, |line| {
            while line.message().is_empty() {
                thread::yield_now();
            }
            assert!(!line.is_finished());
        });
        assert!(line.is_finished());
    }

    #[test]
    fn progress_ends_before_the_first_line_of_a_result_on_the_same_terminal() {
        for (sink, is_ended) in [(Sink::SameTerminal, true), (Sink::Elsewhere, false)] {
            let mut out = Vec::new();
            let mut result =
                WhileWriting { out: &mut out, progress: Some(Progress::default()), sink };
            result.flush().unwrap();
            assert!(result.progress.is_some());
            result.write_all(b"a -> b: yes").unwrap();
            assert_eq!(result.progress.is_none(), is_ended, "{sink:?}");
            assert_eq!(out, b"a -> b: yes");
        }
    }

    #[test]
    fn short_work_shows_nothing() {
        let line = shown(Duration::from_mins(1), |_| {});
        assert_eq!((line.message().as_str(), line.is_finished()), ("", false));
    }
}
