//! Real traffic: the program `netpol-probe`, which runs inside the network namespaces of a lab's pods.
//!
//! Three modes: [`serve`] answers on a list of ports, [`connect`] tries many connections at once and says what became
//! of each, [`stream`] keeps one connection busy and says how it fares. The types here are what it reads and
//! writes, as JSON. Must not: know what a policy is.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub mod connect;
pub mod serve;
pub mod stream;

/// What a server says on its standard output, as a line of its own, once it answers on all its ports.
pub const READY: &str = "ready";

/// The protocols that a probe speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A connection, some bytes there and back.
    Tcp,
    /// A datagram there and back.
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
    /// How.
    pub protocol: Protocol,
    /// With whom.
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

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// The answer came.
    Passed,
    /// No answer at all within the time: what a dropped packet looks like.
    Silent,
    /// Something else, such as a refusal or a missing route: neither allowed nor dropped.
    Failed {
        /// What the kernel said.
        error: String,
    },
}

impl Outcome {
    /// Did the answer come?
    pub fn is_passed(&self) -> bool {
        matches!(self, Self::Passed)
    }
}

/// What `connect` reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// To try, all at the same time.
    pub probes: Vec<Probe>,
    /// After so long an answer does not count any more, in milliseconds.
    pub timeout_ms: u64,
}

/// How a stream fares. Written as a line of JSON at every change, at most every [`stream::REPORT_INTERVAL`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReport {
    /// Messages sent so far.
    pub n_sent: u64,
    /// Messages that the pod's own kernel refused to send, such as those before it has a route.
    pub n_refused: u64,
    /// Messages that came back so far.
    pub n_received: u64,
    /// Longest time between two messages that came back, in milliseconds.
    pub longest_gap_ms: u64,
    /// No more will be sent, and all that came back within the time is counted.
    pub ended: bool,
    /// Why the stream ended by itself, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl StreamReport {
    /// Messages that did not come back; of a UDP stream that has ended: lost packets.
    pub fn n_missing(&self) -> u64 {
        self.n_sent.saturating_sub(self.n_received)
    }
}
