//! Real traffic: the program `netpol-probe`, which runs inside the network namespaces of a lab's pods.
//!
//! Three modes: [`serve`] echoes on a list of ports, [`connect`] runs many probes at once and reports their outcomes,
//! [`stream`] sends messages on one connection and reports its progress. The types here are its JSON input and output. Must
//! not: know about policies.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub mod connect;
pub mod serve;
pub mod stream;

/// The line that a server prints to standard output once it answers on all its ports.
pub const READY: &str = "ready";

/// The protocols that a probe speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A TCP connection that echoes some bytes.
    Tcp,
    /// A UDP datagram and its echo.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            other => Err(format!("`{other}` is neither tcp nor udp")),
        }
    }
}

/// One exchange to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The protocol.
    pub protocol: Protocol,
    /// The destination.
    pub destination: SocketAddr,
}

impl Probe {
    /// A TCP connection to try.
    pub fn tcp(destination: SocketAddr) -> Self {
        Self { protocol: Protocol::Tcp, destination }
    }

    /// An exchange of datagrams to try.
    pub fn udp(destination: SocketAddr) -> Self {
        Self { protocol: Protocol::Udp, destination }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.destination)
    }
}

/// The outcome of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// The answer arrived.
    Passed,
    /// No answer within the time limit, as for dropped packets.
    Silent,
    /// Another failure, such as a refused connection or a missing route.
    Failed {
        /// The error.
        error: String,
    },
}

impl Outcome {
    /// Whether the answer arrived.
    pub fn is_passed(&self) -> bool {
        matches!(self, Self::Passed)
    }
}

/// The input of `connect`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// The probes, run concurrently.
    pub probes: Vec<Probe>,
    /// Time limit for an answer, in milliseconds.
    pub timeout_ms: u64,
}

/// Progress of a stream, printed as a line of JSON at every change, at most every [`stream::REPORT_INTERVAL`], and at most
/// once for each message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReport {
    /// Messages sent so far.
    pub n_sent: u64,
    /// Messages that the kernel refused to send, for example before there was a route.
    pub n_refused: u64,
    /// Messages that came back so far.
    pub n_received: u64,
    /// Longest time between two messages that came back, in milliseconds.
    pub longest_gap_ms: u64,
    /// The stream has ended and the wait for answers is over.
    pub ended: bool,
    /// Why the stream ended early, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl StreamReport {
    /// Messages without an answer: lost packets, for a UDP stream that has ended.
    pub fn n_missing(&self) -> u64 {
        self.n_sent.saturating_sub(self.n_received)
    }
}
