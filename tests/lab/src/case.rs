//! One cluster with questions about it, in the format of `netpol-agent simulate --cases`.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One line of a cases file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Kubernetes objects, raw.
    pub objects: Vec<Value>,
    /// The questions.
    pub probes: Vec<Probe>,
    /// Consecutive cases with the same sequence are successive states of one cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
}

/// May this connection be made?
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Probe {
    /// Who opens it.
    pub from: End,
    /// Whom it should reach.
    pub to: End,
    /// The destination port.
    pub port: Port,
    /// The protocol.
    pub protocol: Protocol,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum End {
    /// A pod, with one of its addresses if it has several.
    Pod {
        /// `metadata.namespace`.
        namespace: String,
        /// `metadata.name`.
        pod: String,
        /// One of its addresses.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ip: Option<IpAddr>,
    },
    /// An address, whoever owns it.
    Address {
        /// The address.
        ip: IpAddr,
    },
}

/// A destination port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Port {
    /// Its number, host byte order.
    Number(u16),
    /// Its name, resolved on the destination pod.
    Name(String),
}

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The API's spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { namespace, pod, ip: None } => write!(f, "{namespace}/{pod}"),
            Self::Pod { namespace, pod, ip: Some(ip) } => write!(f, "{namespace}/{pod}@{ip}"),
            Self::Address { ip } => write!(f, "{ip}"),
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, port, protocol } = self;
        let protocol = protocol.as_str();
        match port {
            Port::Number(number) => write!(f, "{from} -> {to} {protocol}/{number}"),
            Port::Name(name) => write!(f, "{from} -> {to} {protocol}/{name}"),
        }
    }
}
