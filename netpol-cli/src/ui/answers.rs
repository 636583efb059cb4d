//! The data for the page, as JSON. It belongs to the page of the same program and is no interface.

use netpol_policy::lint::Level;
use netpol_policy::model::Transport;
use serde::{Deserialize, Serialize};

use super::policies::PolicySummary;
use crate::simulate::Change;

/// The matrix, with everything that the page shows beside it.
#[derive(Debug, Serialize)]
pub(super) struct Overview {
    /// Number by which later questions name these objects.
    pub(super) view: u64,
    pub(super) source: String,
    /// Whether there are drops.
    pub(super) is_live: bool,
    pub(super) n_pods: usize,
    pub(super) n_namespaces: usize,
    /// What could not be read, or is assumed.
    pub(super) problems: Vec<String>,
    pub(super) policies: Vec<PolicySummary>,
    pub(super) rows: Vec<RowSummary>,
    /// The different verdicts of pairs.
    pub(super) patterns: Vec<Vec<VerdictSummary>>,
    /// For each source the pattern of each destination.
    pub(super) cells: Vec<Vec<usize>>,
    /// What an edited policy changes.
    pub(super) changes: Option<Changes>,
}

/// A row and column: a workload, or an address.
#[derive(Debug, Serialize)]
pub(super) struct RowSummary {
    /// `None` for an address.
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    /// The full name, as the commands print it.
    pub(super) title: String,
    pub(super) n_pods: usize,
    /// The names of the first pods, for questions about a pair.
    pub(super) members: Vec<String>,
    /// The ports that its pods declare.
    pub(super) ports: Vec<String>,
}

/// The verdict on a range of ports.
#[derive(Debug, Serialize)]
pub(super) struct VerdictSummary {
    /// `None` for all protocols.
    pub(super) protocol: Option<Transport>,
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) answer: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) change: Option<Change>,
    /// With audited policies enforced, if that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) enforced: Option<&'static str>,
}

/// What changes on every port.
#[derive(Debug, Serialize)]
pub(super) struct Changes {
    pub(super) n_opened: usize,
    pub(super) n_closed: usize,
    /// As `diff` prints them.
    pub(super) text: String,
    pub(super) pairs: Vec<ChangedPair>,
}

/// What changes between two rows.
#[derive(Debug, Serialize)]
pub(super) struct ChangedPair {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) change: Change,
    pub(super) ports: String,
}

/// A question about a connection.
#[derive(Debug, Deserialize)]
pub(super) struct ExplainQuestion {
    pub(super) view: u64,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) port: String,
    pub(super) protocol: String,
}

/// Why a connection is allowed or denied: for each address family with a verdict of its own.
#[derive(Debug, Serialize)]
pub(super) struct Explained {
    pub(super) connections: Vec<ExplainedConnection>,
}

/// The explanation of one connection.
#[derive(Debug, Serialize)]
pub(super) struct ExplainedConnection {
    /// `allowed`, `denied`, `depends` or `impossible`.
    pub(super) verdict: &'static str,
    /// As `explain` prints it.
    pub(super) text: String,
    /// The policies in it, the deciding ones first.
    pub(super) policies: Vec<NamedPolicy>,
}

/// A policy in an explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct NamedPolicy {
    pub(super) kind: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
    /// What it does: `allows`, `denies`, `isolates` and so on.
    pub(super) effect: &'static str,
    /// Its rule, such as `ingress[0]`.
    pub(super) rule: Option<String>,
    pub(super) is_deciding: bool,
}

/// The text of a policy.
#[derive(Debug, Serialize)]
pub(super) struct PolicyText {
    pub(super) text: String,
    pub(super) place: Option<String>,
    /// The line of each rule, such as `ingress[0]`.
    pub(super) rules: Vec<(String, usize)>,
    pub(super) findings: Vec<TextFinding>,
}

/// An edited text.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WhatIfQuestion {
    pub(super) text: String,
    /// The policy that is deleted, by kind, namespace and name.
    pub(super) deleted: Option<PolicyName>,
}

/// Kind, namespace and name of a policy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyName {
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// What an edited text changes.
#[derive(Debug, Serialize)]
pub(super) struct WhatIf {
    pub(super) findings: Vec<TextFinding>,
    /// `None` if the text cannot be read.
    pub(super) overview: Option<Overview>,
}

/// A finding on an edited text.
#[derive(Debug, Serialize)]
pub(super) struct TextFinding {
    /// The line, counted from 1; 0 is the whole text.
    pub(super) line: usize,
    pub(super) level: Level,
    pub(super) code: &'static str,
    pub(super) name: Option<&'static str>,
    pub(super) message: String,
    pub(super) advice: Option<&'static str>,
}
