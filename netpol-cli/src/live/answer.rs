//! The parts of the agents' answers that commands read. Other fields of another version's answer are passed on in JSON.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netpol_policy::model::ObjectName;
use netpol_policy::resolve::PolicyRef;
use serde::Deserialize;

/// `netpol-agent status -o json`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) is_in_force: bool,
    #[serde(default)]
    pub(super) from_before: Option<serde_json::Value>,
    #[serde(default)]
    pub(super) lag_ms: Option<u64>,
    #[serde(default)]
    pub(super) epoch: Option<u32>,
    #[serde(default)]
    pub(super) sources: BTreeMap<String, Source>,
    #[serde(default)]
    pub(super) missing: Vec<String>,
    #[serde(default)]
    pub(super) policies: Vec<Policy>,
    #[serde(default)]
    pub(super) n_awaiting_gc: usize,
    #[serde(default)]
    pub(super) n_awaiting_migration: Option<usize>,
    #[serde(default)]
    pub(super) blind: Option<String>,
    #[serde(default)]
    pub(super) unidentified: Vec<Interface>,
    #[serde(default)]
    pub(super) netfilter: Netfilter,
    #[serde(default)]
    pub(super) endpoints: Vec<Endpoint>,
    #[serde(default)]
    pub(super) diagnostics: Vec<String>,
}

/// What others have in netfilter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Netfilter {
    pub(super) engines: BTreeMap<String, EngineObjects>,
}

/// Tables and chains of another NetworkPolicy engine.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EngineObjects {
    pub(super) n: usize,
}

/// The watch of a kind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Source {
    pub(super) state: String,
    pub(super) heard_s: Option<u64>,
    pub(super) since_s: Option<u64>,
    pub(super) error: Option<String>,
}

/// A policy that selects endpoints of the node.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Policy {
    pub(super) policy: PolicyRef,
    #[serde(default)]
    pub(super) left_out: Vec<String>,
}

/// An interface of no known pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) state: String,
}

/// A pod of the node.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Endpoint {
    pub(super) pod: ObjectName,
    pub(super) protection: String,
    #[serde(default)]
    pub(super) ifindex: u32,
    #[serde(default)]
    pub(super) addresses: Vec<IpAddr>,
    #[serde(default)]
    pub(super) isolated: Vec<String>,
    #[serde(default)]
    pub(super) audited: Vec<String>,
    #[serde(default)]
    pub(super) forwards: bool,
    #[serde(default)]
    pub(super) n_allow_entries: usize,
}

impl Status {
    /// Reads an answer.
    ///
    /// # Errors
    /// A field is missing or has another type.
    pub(super) fn deserialize_from(value: &serde_json::Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(value)
    }
}
