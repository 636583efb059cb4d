//! A stream of messages in the background of a test.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, bail};

use super::netns::Netns;
use super::wait::{LIMIT, Look, until};
use crate::binaries::binary;
use crate::probe::{Protocol, StreamReport};

/// A `netpol-probe stream` in a namespace. Dropped, it is killed.
#[derive(Debug)]
pub struct Stream {
    child: Child,
    /// The stream continues while this is open.
    stdin: Option<ChildStdin>,
    latest: Arc<Mutex<StreamReport>>,
    reader: Option<JoinHandle<()>>,
    name: String,
}

impl Stream {
    /// Starts sending a message every `pace_us` microseconds.
    ///
    /// # Errors
    /// The program cannot be started. A failed connection is an error of [`Stream::wait_until`].
    pub fn start(
        from: &Netns,
        protocol: Protocol,
        destination: SocketAddr,
        pace_us: u64,
    ) -> Result<Self> {
        let mut command = Command::new(binary("netpol-probe")?);
        command.args(["stream", &protocol.to_string().to_lowercase(), &destination.to_string()]);
        command.args(["--pace-us", &pace_us.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = from.spawn(&mut command)?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the stream has no output")?;
        let latest = Arc::new(Mutex::new(StreamReport::default()));
        let shared = Arc::clone(&latest);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(report) = serde_json::from_str(&line) {
                    *shared.lock().unwrap_or_else(PoisonError::into_inner) = report;
                }
            }
        });
        let name = format!("the {protocol} stream to {destination}");
        Ok(Self { child, stdin, latest, reader: Some(reader), name })
    }

    /// Its protocol and destination, in words.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The latest report.
    pub fn report(&self) -> StreamReport {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a report that satisfies a condition; returns it.
    ///
    /// # Errors
    /// The deadline passes, or the stream ends before.
    pub fn wait_until(
        &mut self,
        what: &str,
        wanted: impl Fn(&StreamReport) -> bool,
    ) -> Result<StreamReport> {
        let name = self.name.clone();
        until(&format!("{what} of {name}"), LIMIT, || {
            let ended = self.child.try_wait()?;
            if ended.is_some() {
                self.read_to_the_end()?;
            }
            let report = self.report();
            match ended {
                _ if wanted(&report) => Ok(Look::Done(report)),
                Some(status) => bail!("{name} ended ({status}): {report:?}"),
                None => Ok(Look::NotYet(format!("{report:?}"))),
            }
        })
    }

    /// Waits until `n` more messages have come back.
    ///
    /// # Errors
    /// As [`Stream::wait_until`].
    pub fn wait_for_answers(&mut self, n: u64) -> Result<StreamReport> {
        let before = self.report().n_received;
        self.wait_until(&format!("{n} more answers"), |now| now.n_received >= before + n)
    }

    /// Waits until `n` more messages have been sent.
    ///
    /// # Errors
    /// As [`Stream::wait_until`].
    pub fn wait_for_messages(&mut self, n: u64) -> Result<StreamReport> {
        let before = self.report().n_sent;
        self.wait_until(&format!("{n} more messages"), |now| now.n_sent >= before + n)
    }

    /// Stops sending and waits for outstanding answers; returns the last report.
    ///
    /// # Errors
    /// It does not end within the time.
    pub fn finish(mut self) -> Result<StreamReport> {
        drop(self.stdin.take());
        self.wait_until("the end", |report| report.ended)
    }

    fn read_to_the_end(&mut self) -> Result<()> {
        match self.reader.take() {
            Some(reader) => reader.join().ok().context("the reader of a stream panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // The process may have ended already, and drop cannot return an error.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
