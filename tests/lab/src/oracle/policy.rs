//! One policy's verdict on one connection.

use serde_json::{Map, Value};

use super::labels::{self, Reading};
use super::pods::{ClusterModel, namespace_of};
use super::{Direction, Talk, block, field, has_only, list, ports};

/// A policy's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// It does not isolate the pod in this direction.
    Nothing,
    /// It isolates the pod, and no rule of it allows the connection.
    Deny,
    /// It isolates the pod, and a rule allows the connection.
    Allow,
}

/// The verdict of a policy of the pod's namespace.
pub(super) fn says(
    cluster: &ClusterModel<'_>,
    policy: &Value,
    pod: &Value,
    direction: Direction,
    talk: &Talk<'_>,
) -> Says {
    let spec = field(policy, "spec").unwrap_or(&Value::Null);
    let subject = subject(policy, spec, pod);
    let is_of_its_types = is_of_types(spec, direction);
    if !subject.holds || (!is_of_its_types && knows_all_fields(policy, spec)) {
        return Says::Nothing;
    }
    // A policy with an invalid podSelector must not allow anything, because it is unclear which pods it means. An unknown
    // field isolates in both directions, but does not bring rules into force that the policy types leave out.
    if !subject.is_sound || !is_of_its_types {
        return Says::Deny;
    }
    let (rules, peers) = match direction {
        Direction::Ingress => (list(spec, &["ingress"]), "from"),
        Direction::Egress => (list(spec, &["egress"]), "to"),
    };
    let matches = |rule: &Value| rule_matches(cluster, rule, peers, namespace_of(policy), talk);
    if rules.iter().any(matches) { Says::Allow } else { Says::Deny }
}

/// `spec.podSelector`; absent is empty (item 4). An invalid condition does not narrow it. If the selector is absent, an
/// unknown field may be a misspelt selector.
fn subject(policy: &Value, spec: &Value, pod: &Value) -> Reading {
    if !spec.is_object() && !spec.is_null() {
        return Reading { holds: true, is_sound: false };
    }
    let mut reading = labels::read(field(spec, "podSelector"), &labels::of(pod));
    reading.is_sound &= field(spec, "podSelector").is_some() || knows_all_fields(policy, spec);
    reading
}

/// An unknown field may be a misspelt `policyTypes`: then the policy isolates in both directions.
fn knows_all_fields(policy: &Value, spec: &Value) -> bool {
    has_only(policy, &["apiVersion", "kind", "metadata", "spec", "status"])
        && has_only(spec, &["podSelector", "policyTypes", "ingress", "egress"])
}

/// `spec.policyTypes` (item 6). If the types are invalid: both.
fn is_of_types(spec: &Value, direction: Direction) -> bool {
    let types = match field(spec, "policyTypes") {
        None => &Vec::new(),
        Some(Value::Array(types)) => types,
        Some(_) => return true,
    };
    if types.is_empty() {
        return match direction {
            Direction::Ingress => true,
            Direction::Egress => match field(spec, "egress") {
                None => false,
                Some(Value::Array(rules)) => !rules.is_empty(),
                Some(_) => true,
            },
        };
    }
    let is_known = |item: &Value| matches!(item.as_str(), Some("Ingress" | "Egress"));
    if types.len() > 2 || !types.iter().all(is_known) {
        return true;
    }
    let wanted = match direction {
        Direction::Ingress => "Ingress",
        Direction::Egress => "Egress",
    };
    types.iter().any(|item| item.as_str() == Some(wanted))
}

/// A rule matches if its peers and its ports both match (item 8).
fn rule_matches(
    cluster: &ClusterModel<'_>,
    rule: &Value,
    peers_field: &str,
    own_namespace: &str,
    talk: &Talk<'_>,
) -> bool {
    if !has_only(rule, &[peers_field, "ports"]) {
        return false;
    }
    let peers = match field(rule, peers_field) {
        None => true,
        // Empty: everybody [9].
        Some(Value::Array(peers)) => {
            peers.is_empty()
                || peers.iter().any(|peer| peer_matches(cluster, peer, own_namespace, talk))
        }
        Some(_) => false,
    };
    let ports = match field(rule, "ports") {
        None => true,
        // Empty: every port and protocol [10].
        Some(Value::Array(items)) => {
            items.is_empty() || items.iter().any(|item| ports::matches(item, talk))
        }
        Some(_) => false,
    };
    peers && ports
}

/// One item of `from` or `to` [17, 18, 21].
fn peer_matches(
    cluster: &ClusterModel<'_>,
    peer: &Value,
    own_namespace: &str,
    talk: &Talk<'_>,
) -> bool {
    // The destination of a Service without backends is unknown, so it matches no peer.
    if !peer_is_sound(peer) || talk.is_virtual {
        return false;
    }
    if let Some(block) = field(peer, "ipBlock") {
        return block::matches(block, talk.remote);
    }
    let Some(pod) = talk.remote_pod else { return false };
    let namespace = namespace_of(pod);
    let in_namespace = match field(peer, "namespaceSelector") {
        None => namespace == own_namespace,
        Some(selector) => {
            let labels = namespace_labels(cluster.namespace(namespace), namespace);
            labels::read(Some(selector), &labels).holds
        }
    };
    in_namespace && labels::read(field(peer, "podSelector"), &labels::of(pod)).holds
}

/// Whether an item of `from` or `to` is valid.
pub(super) fn peer_is_sound(peer: &Value) -> bool {
    let fields = ["podSelector", "namespaceSelector", "ipBlock"];
    let is_sound = |selector: Option<&Value>| labels::read(selector, &Map::new()).is_sound;
    let (pods, namespaces) = (field(peer, "podSelector"), field(peer, "namespaceSelector"));
    let has_selector = pods.is_some() || namespaces.is_some();
    has_only(peer, &fields)
        && match field(peer, "ipBlock") {
            Some(block) => !has_selector && block::is_sound(block),
            None => has_selector && is_sound(pods) && is_sound(namespaces),
        }
}

/// The labels of a namespace, including the name label that the API server adds (item 20). A namespace that is not among
/// the objects has only that label.
pub(super) fn namespace_labels(namespace: Option<&Value>, name: &str) -> Map<String, Value> {
    let mut labels = namespace.map(labels::of).unwrap_or_default();
    labels.insert("kubernetes.io/metadata.name".to_owned(), Value::String(name.to_owned()));
    labels
}
