//! Protocols, port ranges and port names.

use std::fmt;
use std::sync::Arc;

use netpol_common::ids::Protocol;
use serde::{Deserialize, Serialize};

/// The transport protocols that a policy or a container port can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    /// TCP, also the default when the API field is missing.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Transport {
    /// Every transport.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The API's spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// Reads the API's spelling, which is case-sensitive.
    pub fn from_api(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|transport| transport.as_str() == text)
    }

    /// Reads a protocol as a person types it: the API's spelling in any case.
    ///
    /// # Errors
    /// Which protocols there are.
    pub fn from_argument(text: &str) -> Result<Self, String> {
        Self::from_api(&text.to_uppercase()).ok_or_else(|| "it is TCP, UDP or SCTP".to_owned())
    }

    /// The IP protocol number.
    pub const fn to_wire(self) -> Protocol {
        match self {
            Self::Tcp => Protocol::TCP,
            Self::Udp => Protocol::UDP,
            Self::Sctp => Protocol::SCTP,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An inclusive range of port numbers, host byte order.
///
/// Zero is in no range: the API allows ports 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// `first..=last`; `None` when `first` is zero or above `last`.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || first > last { None } else { Some(Self { first, last }) }
    }

    /// One port; `None` for zero.
    pub const fn single(port: u16) -> Option<Self> {
        Self::new(port, port)
    }

    /// The lowest port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether the range holds `port`.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Name of a container port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName(pub Arc<str>);

impl PortName {
    /// Reads a port name as the API server checks it: at most 15 characters of `a-z`, `0-9` and `-`,
    /// at least one letter, no `--`, no `-` at an end.
    ///
    /// Source: core/v1 ContainerPort.name (IANA service name).
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let plain =
            bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
        let valid = !bytes.is_empty()
            && bytes.len() <= 15
            && plain
            && bytes.iter().any(u8::is_ascii_lowercase)
            && !text.contains("--")
            && !text.starts_with('-')
            && !text.ends_with('-');
        valid.then(|| Self(Arc::from(text)))
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which ports of one protocol a rule's port item means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortSpec {
    /// `port` is missing: every number and name.
    Any,
    /// A number, or a number with `endPort`.
    Range(PortRange),
    /// A name, resolved on the destination pod of each connection.
    Named(PortName),
}

/// One item of a rule's `ports`.
///
/// Source: networking.k8s.io/v1 `NetworkPolicyPort` (a missing protocol is TCP).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMatch {
    /// The protocol.
    pub transport: Transport,
    /// The ports of it.
    pub ports: PortSpec,
}

impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ports {
            PortSpec::Any => write!(f, "{}", self.transport),
            PortSpec::Range(range) => write!(f, "{}/{range}", self.transport),
            PortSpec::Named(name) => write!(f, "{}/{name}", self.transport),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_names_are_checked_as_the_api_server_does() {
        for good in ["http", "a", "x-1", "1a", "abcdefghijklmno"] {
            assert!(PortName::parse(good).is_some(), "{good}");
        }
        for bad in ["", "80", "1-2", "-a", "a-", "a--b", "Http", "a_b", "abcdefghijklmnop"] {
            assert!(PortName::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_range_is_never_empty_and_never_holds_zero() {
        assert!(PortRange::new(0, 5).is_none());
        assert!(PortRange::new(6, 5).is_none());
        assert!(PortRange::new(5, 5).is_some_and(|range| range.contains(5) && !range.contains(6)));
        assert!(
            PortRange::new(1, 65535)
                .is_some_and(|range| range.contains(65535) && !range.contains(0))
        );
    }
}
