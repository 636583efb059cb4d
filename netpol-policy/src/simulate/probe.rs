//! Questions and answers.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use crate::model::{ObjectName, PortName, Transport};

/// A question: may this connection be opened?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Who opens it.
    pub from: End,
    /// Whom it is for.
    pub to: End,
    /// The destination port.
    pub port: PortChoice,
    /// The protocol.
    pub transport: Transport,
}

/// One end of a probe.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A pod, by any of its addresses or by the one given.
    Pod {
        /// Which pod.
        name: ObjectName,
        /// Which of its addresses; `None` for the first one that the other end has the family of.
        address: Option<IpAddr>,
    },
    /// An address, whoever holds it.
    Address(IpAddr),
}

impl End {
    /// A pod by any of its addresses.
    pub fn pod(namespace: &str, name: &str) -> Self {
        Self::Pod { name: ObjectName::new(namespace, name), address: None }
    }
}

/// `NAMESPACE/POD`, `NAMESPACE/POD@ADDRESS` or `ADDRESS`.
impl FromStr for End {
    type Err = NotAnEnd;

    fn from_str(text: &str) -> Result<Self, NotAnEnd> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let not_an_end = || NotAnEnd { text: text.to_owned() };
        let (name, address) = match text.split_once('@') {
            None => (text, None),
            Some((name, address)) => {
                (name, Some(address.parse().map_err(|_not_an_address| not_an_end())?))
            }
        };
        let (namespace, pod) = name.split_once('/').ok_or_else(not_an_end)?;
        if namespace.is_empty() || pod.is_empty() || pod.contains('/') {
            return Err(not_an_end());
        }
        Ok(Self::Pod { name: ObjectName::new(namespace, pod), address })
    }
}

/// A text that names no end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither NAMESPACE/POD nor an address")]
pub struct NotAnEnd {
    text: String,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { name, address: None } => write!(f, "{name}"),
            Self::Pod { name, address: Some(address) } => write!(f, "{name}@{address}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// The destination port of a probe.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortChoice {
    /// A number, host byte order.
    Number(u16),
    /// The name of a port of the destination pod. Of several numbers the first one is meant, as for a Service's
    /// `targetPort`: containers in order, then sidecars.
    Name(Arc<str>),
}

/// A number, or else a name.
impl From<&str> for PortChoice {
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(Arc::from(text)), Self::Number)
    }
}

impl PortChoice {
    /// A port as a person types it.
    ///
    /// # Errors
    /// Why it is no port.
    pub fn from_argument(text: &str) -> Result<Self, String> {
        let port = Self::from(text);
        let is_valid = match &port {
            Self::Number(number) => *number != 0,
            Self::Name(name) => PortName::parse(name).is_some(),
        };
        if is_valid {
            Ok(port)
        } else {
            Err("it is neither a number from 1 to 65535 nor a port name".to_owned())
        }
    }
}

impl fmt::Display for PortChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The answer to a probe.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether the source's egress and the destination's ingress both let it pass.
    pub is_allowed: bool,
    /// Why the probe is no possible connection; then it is not allowed, but see [`Problem::NoBackend`].
    pub problem: Option<Problem>,
}

/// Why a probe is no possible connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No object of this name.
    #[error("there is no pod {0}")]
    UnknownPod(ObjectName),
    /// Pending, finished, or a newer pod holds its addresses.
    #[error("pod {0} holds no address")]
    NoAddress(ObjectName),
    /// The probe names an address that is not the pod's.
    #[error("pod {0} does not hold {1}")]
    ForeignAddress(ObjectName, IpAddr),
    /// One end has only IPv4, the other only IPv6 addresses.
    #[error("the ends have no address family in common")]
    NoCommonFamily,
    /// A Service address, where no packet arrives; nor is it known where else it does. Only rules for every destination
    /// allow egress to it.
    #[error("{0} is the address of a Service, and no pod behind this port of it is known")]
    NoBackend(IpAddr),
    /// The destination gives the port name no number.
    #[error("{end} has no {transport} port named {name}")]
    UnknownPort {
        /// The destination.
        end: End,
        /// The name.
        name: Arc<str>,
        /// The protocol of the probe.
        transport: Transport,
    },
    /// More endpoints than egress marks: a deferred verdict would be lost.
    #[error("there are more pods than verdicts after Service translation can be told apart")]
    NoEgressMark,
}

impl Problem {
    /// A stable code for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownPod(_) => "unknown-pod",
            Self::NoAddress(_) => "no-address",
            Self::ForeignAddress(..) => "foreign-address",
            Self::NoCommonFamily => "no-common-family",
            Self::NoBackend(_) => "no-backend",
            Self::UnknownPort { .. } => "unknown-port",
            Self::NoEgressMark => "no-egress mark",
        }
    }
}
