//! Probes and their results.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::model::{ObjectName, PortName, Transport};

/// A connection to evaluate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The source.
    pub from: PodOrIp,
    /// The destination.
    pub to: PodOrIp,
    /// The destination port.
    pub port: PortChoice,
    /// The protocol.
    pub transport: Transport,
}

/// The source or destination of a probe.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodOrIp {
    /// A pod.
    Pod {
        /// Namespace and name.
        name: ObjectName,
        /// The address to use; `None` for the pod's first address of a family that the peer has too.
        address: Option<IpAddr>,
    },
    /// An address, of a pod or of anything else.
    Address(IpAddr),
    /// Every address of a block.
    Block(IpNetwork),
    /// Every address that belongs to no pod, node or Service.
    External,
    /// A node.
    Node(Arc<str>),
    /// The pods of a Service. As a destination, the Service itself.
    Service(ObjectName),
}

impl PodOrIp {
    /// A pod, without a choice of address.
    pub fn pod(namespace: &str, name: &str) -> Self {
        Self::Pod { name: ObjectName::new(namespace, name), address: None }
    }

    /// Namespace and name, if it is a pod.
    pub const fn pod_name(&self) -> Option<&ObjectName> {
        match self {
            Self::Pod { name, address: _ } => Some(name),
            Self::Address(_)
            | Self::Block(_)
            | Self::External
            | Self::Node(_)
            | Self::Service(_) => None,
        }
    }
}

/// `NAMESPACE/POD`, `NAMESPACE/POD@ADDRESS` or `ADDRESS`.
impl FromStr for PodOrIp {
    type Err = InvalidPodOrIp;

    fn from_str(text: &str) -> Result<Self, InvalidPodOrIp> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let invalid = || InvalidPodOrIp { text: text.to_owned() };
        let (name, address) = match text.split_once('@') {
            None => (text, None),
            Some((name, address)) => {
                (name, Some(address.parse().map_err(|_not_an_address| invalid())?))
            }
        };
        let (namespace, pod) = name.split_once('/').ok_or_else(invalid)?;
        if namespace.is_empty() || pod.is_empty() || pod.contains('/') {
            return Err(invalid());
        }
        Ok(Self::Pod { name: ObjectName::new(namespace, pod), address })
    }
}

/// A text that is neither a pod nor an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither NAMESPACE/POD nor an IP address")]
pub struct InvalidPodOrIp {
    text: String,
}

impl fmt::Display for PodOrIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { name, address: None } => write!(f, "{name}"),
            Self::Pod { name, address: Some(address) } => write!(f, "{name}@{address}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Block(block) => write!(f, "{block}"),
            Self::External => f.write_str("external"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Service(name) => write!(f, "svc/{}/{}", name.namespace, name.name),
        }
    }
}

/// The destination port of a probe.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortChoice {
    /// A number, host byte order.
    Number(u16),
    /// The name of a port of the destination pod. If several ports have the name, the first one is used, as for a Service's
    /// `targetPort`: containers in order, then sidecars.
    Name(Arc<str>),
}

/// A number if the text is one, else a name.
impl From<&str> for PortChoice {
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(Arc::from(text)), Self::Number)
    }
}

impl PortChoice {
    /// Parses a command-line argument.
    ///
    /// # Errors
    /// The text is neither a port number nor a valid port name.
    pub fn from_argument(text: &str) -> Result<Self, String> {
        let port = Self::from(text);
        let is_valid = match &port {
            Self::Number(number) => *number != 0,
            Self::Name(name) => PortName::parse(name).is_some(),
        };
        if is_valid {
            Ok(port)
        } else {
            Err("not a port number from 1 to 65535 or a port name".to_owned())
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

/// The result of a probe.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    /// Whether the source's egress policies and the destination's ingress policies both allow the connection.
    pub is_allowed: bool,
    /// The reason why the connection cannot exist. `is_allowed` is then false, except for [`Problem::NoBackend`].
    pub problem: Option<Problem>,
}

/// The reason why the connection of a probe cannot exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// There is no Pod object of this name.
    #[error("pod {0} does not exist")]
    UnknownPod(ObjectName),
    /// The pod is pending or finished, or a newer pod has its addresses.
    #[error("pod {0} has no IP address")]
    NoAddress(ObjectName),
    /// The probe names an address that the pod does not have.
    #[error("pod {0} does not have address {1}")]
    ForeignAddress(ObjectName, IpAddr),
    /// There is no Node object of this name, or it has no address.
    #[error("node {0} does not exist, or has no address")]
    UnknownNode(Arc<str>),
    /// There is no Service of this name.
    #[error("Service {0} does not exist")]
    UnknownService(ObjectName),
    /// The Service has no backend that could be a source.
    #[error("Service {0} has no backend")]
    NoSource(ObjectName),
    /// The Service has no backend for the port.
    #[error("Service {service} has no backend for port {port}/{transport}")]
    NoBackendOf {
        /// The Service.
        service: ObjectName,
        /// The port.
        port: PortChoice,
        /// The protocol of the probe.
        transport: Transport,
    },
    /// Every address of the block belongs to a pod, node or Service.
    #[error("there is no address outside the cluster")]
    NothingExternal,
    /// One of source and destination has only IPv4 addresses, the other only IPv6 addresses.
    #[error("source and destination have no address family in common")]
    NoCommonFamily,
    /// A Service address, or a translated port of a node, without a backend pod. Only rules for all destinations allow egress to it.
    #[error("{0} has no backend pod for this port")]
    NoBackend(IpAddr),
    /// The Service has no selector, and `EndpointSlices`, which an agent does not list, name its backends.
    #[error("Service {0} has no selector, and its EndpointSlices are not known")]
    UnknownBackends(ObjectName),
    /// The destination has no port of this name.
    #[error("{destination} has no {transport} port named {name}")]
    UnknownPort {
        /// The destination.
        destination: PodOrIp,
        /// The name.
        name: Arc<str>,
        /// The protocol of the probe.
        transport: Transport,
    },
    /// The source pod has no egress mark, because there are more pods than marks, so its deferred verdict would be lost.
    #[error("the source pod has no egress mark, because there are more pods than egress marks")]
    NoEgressMark,
}

impl Problem {
    /// A stable code for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownPod(_) => "unknown-pod",
            Self::NoAddress(_) => "no-address",
            Self::ForeignAddress(..) => "foreign-address",
            Self::UnknownNode(_) => "unknown-node",
            Self::UnknownService(_) => "unknown-service",
            Self::NothingExternal => "nothing-external",
            Self::NoCommonFamily => "no-common-family",
            Self::NoBackend(_) | Self::NoBackendOf { .. } | Self::NoSource(_) => "no-backend",
            Self::UnknownBackends(_) => "unknown-backends",
            Self::UnknownPort { .. } => "unknown-port",
            Self::NoEgressMark => "no-egress-mark",
        }
    }
}
