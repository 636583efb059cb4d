//! An explanation as a value, for JSON and for text.

use netpol_common::ids::Direction;
use serde::{Deserialize, Serialize};

use crate::model::{ObjectName, Transport};
use crate::resolve::{EndVerdict, MissReason, PolicyRef, RuleRef, Tier};

/// The verdict on a connection, and the policies and rules that lead to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The source, as given in the probe.
    pub from: String,
    /// The destination, as given in the probe.
    pub to: String,
    /// The destination port, as given in the probe.
    pub port: String,
    /// The protocol.
    pub protocol: Transport,
    /// Whether the source's egress policies and the destination's ingress policies both allow the connection.
    pub is_allowed: bool,
    /// Whether they would allow the connection for some address of a pod whose address is not known. `is_allowed` is then
    /// false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_possible: bool,
    /// The reason why the connection cannot exist; the fields below are then empty.
    pub problem: Option<String>,
    /// If the destination is a Service address: its backend pods, each with the verdict.
    pub service: Option<String>,
    /// If the source or the destination is a block: the addresses that are allowed and those that are denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<String>,
    /// Addresses and port of the evaluated connection, after Service translation.
    pub connection: Option<Packets>,
    /// Which of these addresses are known only because the pod's node publishes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<String>,
    /// The verdict of the source's egress policies; `None` if policies do not apply to the source.
    pub egress: Option<DirectionExplanation>,
    /// The verdict of the destination's ingress policies; `None` if policies do not apply to the destination.
    pub ingress: Option<DirectionExplanation>,
    /// Findings on the policies that isolate the source or the destination.
    pub diagnostics: Vec<String>,
}

/// Addresses and port of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packets {
    /// Source address, or the pod if its address is not known.
    pub source: String,
    /// Destination address, or the pod if its address is not known.
    pub destination: String,
    /// Destination port, host byte order.
    pub port: u16,
}

/// The verdict of one pod's policies of one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectionExplanation {
    /// The pod.
    pub pod: ObjectName,
    /// The direction, from the pod's point of view.
    pub direction: Direction,
    /// The verdict.
    pub verdict: EndVerdict,
    /// Whether the verdict passes the connection.
    pub is_allowed: bool,
    /// The verdict as a sentence.
    pub summary: String,
    /// The tier whose rules, or whose implied deny, decided; `None` if no policy did.
    pub tier: Option<Tier>,
    /// The policies that isolate the pod in this direction.
    pub isolating: Vec<PolicyRef>,
    /// The ClusterNetworkPolicies with rules for the pod in this direction, in their order of precedence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_policies: Vec<PolicyRef>,
    /// The rule that denies the connection, or would if its policy were enforced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denying: Option<RuleExplanation>,
    /// The rules that match the connection and pass it on to the next tier.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passing: Vec<RuleExplanation>,
    /// The rules that allow the connection.
    pub allowing: Vec<RuleExplanation>,
    /// The rules that allow the connection for some address of a pod whose address is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub possible: Vec<RuleExplanation>,
    /// The other rules of these policies, the nearest misses first.
    pub misses: Vec<RuleExplanation>,
}

/// Whether one rule allows the connection, and why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleExplanation {
    /// The rule.
    pub rule: RuleRef,
    /// The part of the rule that does not match; `None` if the rule matches the connection.
    pub miss: Option<MissReason>,
    /// The rule and the reason as a sentence.
    pub sentence: String,
}
