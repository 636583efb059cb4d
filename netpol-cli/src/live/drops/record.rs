//! A record of `netpol-agent drops -o json`.

use std::net::{IpAddr, SocketAddr};

use netpol_policy::model::ObjectName;
use serde::Deserialize;

/// A dropped packet, or one that audit mode has let pass.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Record {
    #[serde(default)]
    pub(super) unix_ms: u64,
    pub(super) pod: Option<ObjectName>,
    #[serde(default)]
    is_pod_hidden: bool,
    pub(super) direction: String,
    pub(super) reason: String,
    pub(super) protocol: String,
    pub(super) source: IpAddr,
    pub(super) source_port: u16,
    pub(super) destination: IpAddr,
    pub(super) destination_port: u16,
    pub(super) peer: Option<ObjectName>,
    #[serde(default)]
    pub(super) policies: Vec<ObjectName>,
    #[serde(default)]
    pub(super) rule: Option<String>,
    #[serde(default)]
    pub(super) tier: Option<String>,
    #[serde(default)]
    pub(super) n_suppressed: u64,
}

/// Drops without a record.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct NotShown {
    pub(super) pod: Option<ObjectName>,
    #[serde(default)]
    pub(super) direction: Option<String>,
    #[serde(default)]
    pub(super) reason: Option<String>,
    #[serde(rename = "n_not_shown")]
    pub(super) n: u64,
}

/// What is the same for repeated drops. The client's port is not part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) node: String,
    pub(super) pod: Option<ObjectName>,
    is_pod_hidden: bool,
    pub(super) direction: String,
    pub(super) peer: Option<ObjectName>,
    pub(super) remote: IpAddr,
    pub(super) protocol: String,
    pub(super) port: u16,
    pub(super) reason: String,
    pub(super) why: String,
}

impl Record {
    pub(super) fn key(&self, node: &str) -> Key {
        let is_egress = self.direction == "egress";
        Key {
            node: node.to_owned(),
            pod: self.pod.clone(),
            is_pod_hidden: self.is_pod_hidden,
            direction: self.direction.clone(),
            peer: self.peer.clone(),
            remote: if is_egress { self.destination } else { self.source },
            protocol: self.protocol.clone(),
            port: self.destination_port,
            reason: self.reason.clone(),
            why: self.why(),
        }
    }

    /// Source and destination with their ports.
    pub(super) fn ends(&self) -> [String; 2] {
        [(self.source, self.source_port), (self.destination, self.destination_port)]
            .map(|(address, port)| SocketAddr::new(address, port).to_string())
    }

    /// The rule that denies it, else the policies that isolate the pod.
    fn why(&self) -> String {
        match (&self.rule, &self.tier) {
            (Some(rule), Some(tier)) => format!("{rule} ({tier} tier)"),
            (Some(rule), None) => rule.clone(),
            (None, _) => {
                let names: Vec<_> = self.policies.iter().take(3).map(ToString::to_string).collect();
                match self.policies.len().saturating_sub(names.len()) {
                    0 => names.join(", "),
                    n => format!("{} and {n} more", names.join(", ")),
                }
            }
        }
    }
}

impl Key {
    /// The pod; one that is gone, or that the user may not see, has no name.
    pub(super) fn pod_in_words(&self) -> String {
        let nameless = if self.is_pod_hidden { "(not yours)" } else { "(removed pod)" };
        self.pod.as_ref().map_or_else(|| nameless.to_owned(), ToString::to_string)
    }

    /// The peer's name and address.
    pub(super) fn peer_in_words(&self) -> String {
        match &self.peer {
            Some(peer) => format!("{peer} ({})", self.remote),
            None => self.remote.to_string(),
        }
    }

    /// `80/TCP`, or the protocol if it has no ports.
    pub(super) fn port_in_words(&self) -> String {
        if self.port == 0 {
            self.protocol.clone()
        } else {
            format!("{}/{}", self.port, self.protocol)
        }
    }
}
