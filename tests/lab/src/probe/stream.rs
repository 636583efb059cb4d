//! Sends messages on one connection at a fixed pace and counts the answers.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::connect::unspecified;
use super::{Protocol, StreamReport};

/// Minimum time between reports.
pub const REPORT_INTERVAL: Duration = Duration::from_millis(10);

/// Maximum wait for answers after the last message.
const LAST_ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The message.
const MESSAGE: &[u8; 8] = b"netpol.\n";

/// The socket.
enum Connection {
    Tcp(TcpStream),
    Udp { socket: UdpSocket, destination: SocketAddr },
}

impl Connection {
    async fn open(protocol: Protocol, destination: SocketAddr) -> io::Result<Self> {
        match protocol {
            Protocol::Tcp => {
                let stream = TcpStream::connect(destination).await?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            // Not connected, because `connect` needs a route, which a pod may not have yet.
            Protocol::Udp => {
                let socket = UdpSocket::bind((unspecified(destination), 0)).await?;
                Ok(Self::Udp { socket, destination })
            }
        }
    }

    /// Sends `unsent` without waiting; returns the number of bytes sent, `None` if the kernel refused.
    fn send(&self, unsent: &[u8]) -> io::Result<Option<usize>> {
        let sent = match self {
            Self::Tcp(stream) => stream.try_write(unsent),
            Self::Udp { socket, destination } => socket.try_send_to(unsent, *destination),
        };
        match (self, sent) {
            (_, Ok(n_bytes)) => Ok(Some(n_bytes)),
            (_, Err(error)) if error.kind() == ErrorKind::WouldBlock => Ok(Some(0)),
            (Self::Udp { .. }, Err(_)) => Ok(None),
            (Self::Tcp(_), Err(error)) => Err(error),
        }
    }

    /// Waits for bytes and returns their number. Cancel safe.
    async fn receive(&self) -> io::Result<usize> {
        let mut buffer = [0; 4096];
        loop {
            let received = match self {
                Self::Tcp(stream) => {
                    stream.readable().await?;
                    stream.try_read(&mut buffer)
                }
                Self::Udp { socket, .. } => {
                    socket.readable().await?;
                    socket.try_recv(&mut buffer)
                }
            };
            match received {
                Ok(0) => {
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed by the server"));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

/// The counters, in bytes, because TCP may split messages.
#[derive(Default)]
struct Tally {
    n_bytes_sent: usize,
    n_bytes_received: usize,
    n_refused: u64,
    longest_gap: Duration,
    last_received: Option<Instant>,
    ended: bool,
    error: Option<String>,
}

impl Tally {
    /// Sends the rest of a message, or the next one.
    fn send(&mut self, connection: &Connection) {
        let unsent = MESSAGE.get(self.n_bytes_sent % MESSAGE.len()..).unwrap_or(MESSAGE);
        match connection.send(unsent) {
            Ok(Some(n_bytes)) => self.n_bytes_sent += n_bytes,
            Ok(None) => self.n_refused += 1,
            Err(error) => self.error = Some(error.to_string()),
        }
    }

    fn receive(&mut self, received: io::Result<usize>) {
        match received {
            Ok(n_bytes) => {
                let now = Instant::now();
                self.n_bytes_received += n_bytes;
                if let Some(before) = self.last_received.replace(now) {
                    self.longest_gap = self.longest_gap.max(now.duration_since(before));
                }
            }
            Err(error) => self.error = Some(error.to_string()),
        }
    }

    fn report(&self) -> StreamReport {
        let n_messages = |n_bytes| u64::try_from(n_bytes / MESSAGE.len()).unwrap_or(u64::MAX);
        StreamReport {
            n_sent: n_messages(self.n_bytes_sent),
            n_refused: self.n_refused,
            n_received: n_messages(self.n_bytes_received),
            longest_gap_ms: u64::try_from(self.longest_gap.as_millis()).unwrap_or(u64::MAX),
            ended: self.ended,
            error: self.error.clone(),
        }
    }
}

/// Sends a message every `pace` until `stop` completes, and calls `report` with the progress.
///
/// # Errors
/// The connection cannot be opened, or `report` failed. A later failure is part of the last report.
pub async fn run(
    protocol: Protocol,
    destination: SocketAddr,
    pace: Duration,
    stop: impl Future<Output = ()>,
    mut report: impl FnMut(&StreamReport) -> Result<()>,
) -> Result<()> {
    let connection = Connection::open(protocol, destination)
        .await
        .with_context(|| format!("opening a stream to {protocol} {destination}"))?;
    let mut tally = Tally::default();
    let mut stop = std::pin::pin!(stop);
    let mut messages = interval(pace);
    messages.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reports = interval(REPORT_INTERVAL.max(pace));
    let mut last_report = None;
    while tally.error.is_none() {
        tokio::select! {
            () = &mut stop => break,
            _ = messages.tick() => tally.send(&connection),
            received = connection.receive() => tally.receive(received),
            _ = reports.tick() => {
                let next = tally.report();
                if last_report.as_ref() != Some(&next) {
                    report(&next)?;
                    last_report = Some(next);
                }
            }
        }
    }
    while tally.error.is_none() && tally.n_bytes_received < tally.n_bytes_sent {
        match timeout(LAST_ANSWER_LIMIT, connection.receive()).await {
            Ok(received) => tally.receive(received),
            Err(_elapsed) => break,
        }
    }
    tally.ended = true;
    report(&tally.report())
}
