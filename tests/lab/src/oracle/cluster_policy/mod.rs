//! The tiers of `ClusterNetworkPolicy`, Admin and Baseline.
//!
//! In: the policies of a tier, a pod, a connection. Out: what the tier decides. Numbers with a C are items of
//! CLUSTER-POLICY.md. It reads the JSON anew for each connection, as the rest of the oracle.

mod peers;
mod protocols;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use super::labels::{self, Reading};
use super::pods::{ClusterModel, name_of, namespace_of};
use super::policy::namespace_labels;
use super::{Direction, Talk, field, has_only, text};

/// A tier of cluster policies; that of `NetworkPolicy` lies between the two (C1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    Admin,
    Baseline,
}

/// `action` of a rule (C4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Accept,
    Deny,
    Pass,
}

/// The group; its versions have the same fields.
const GROUP: &str = "policy.networking.k8s.io";

/// Whether an object is a `ClusterNetworkPolicy` of the Kubernetes API; other groups have kinds of this name. Without a group it is
/// one: what is not understood opens nothing.
pub(super) fn is_one(object: &Value) -> bool {
    text(object, &["kind"]) == Some("ClusterNetworkPolicy")
        && text(object, &["apiVersion"])
            .and_then(|version| version.split_once('/'))
            .is_none_or(|(group, _)| group == GROUP)
        && !name_of(object).is_empty()
}

/// What a tier decides about a connection: whether it is allowed; `None` hands it to the next tier.
pub(super) fn says(
    cluster: &ClusterModel<'_>,
    tier: Tier,
    pod: &Value,
    direction: Direction,
    talk: &Talk<'_>,
) -> Option<bool> {
    let mut policies: Vec<&Value> =
        cluster.cluster_policies().filter(|policy| tier_of(policy) == tier).collect();
    // Lower numbers first; ties in the order of the names (C2).
    policies.sort_by_key(|policy| (priority(policy).unwrap_or(0), name_of(policy)));
    let mut actions = policies.into_iter().flat_map(|policy| {
        let subject = subject(cluster, spec_of(policy), pod);
        let is_sound = subject.is_sound && is_sound(policy);
        let rules = if subject.holds { rules(policy, direction) } else { &[] };
        // The rules of a policy that is not understood match what they say, and none of them lets a connection through.
        rules.iter().filter_map(move |rule| match acts(cluster, rule, direction, talk)? {
            action if is_sound => Some(action),
            Action::Accept => None,
            Action::Deny | Action::Pass => Some(Action::Deny),
        })
    });
    // The first rule that matches is the tier's last word: Pass skips the rest of it (C4).
    match actions.next()? {
        Action::Accept => Some(true),
        Action::Deny => Some(false),
        Action::Pass => None,
    }
}

/// Whether a policy and all its rules are understood.
pub fn is_understood(policy: &Value) -> bool {
    let spec = spec_of(policy);
    let subject = field(spec, "subject").unwrap_or(&Value::Null);
    let rules_are_sound =
        |direction| rules(policy, direction).iter().all(|rule| rule_is_sound(rule, direction));
    is_sound(policy)
        && peers::is_sound(subject, Direction::Ingress)
        && rules_are_sound(Direction::Ingress)
        && rules_are_sound(Direction::Egress)
}

/// What a rule that is not wholly understood does with any connection: it accepts nothing; if it does not accept, it denies
/// everything (C9).
fn closed(rule: &Value) -> Option<Action> {
    (text(rule, &["action"]) != Some("Accept")).then_some(Action::Deny)
}

/// What a rule does with a connection, if its policy is understood; `None` if it does not match.
fn acts(
    cluster: &ClusterModel<'_>,
    rule: &Value,
    direction: Direction,
    talk: &Talk<'_>,
) -> Option<Action> {
    if !rule_is_sound(rule, direction) {
        return closed(rule);
    }
    let protocols = items(rule, "protocols");
    let has_peer =
        items(rule, peers_field(direction)).iter().any(|peer| peers::matches(cluster, peer, talk));
    let has_protocol =
        protocols.is_empty() || protocols.iter().any(|item| protocols::matches(item, talk));
    action(rule).filter(|_| has_peer && has_protocol)
}

fn rule_is_sound(rule: &Value, direction: Direction) -> bool {
    let peers_field = peers_field(direction);
    let (peers, protocols) = (items(rule, peers_field), items(rule, "protocols"));
    action(rule).is_some()
        && has_only(rule, &["name", "action", peers_field, "protocols"])
        // There is no rule without peers (C6), but one without protocols, which means all of them (C8).
        && !peers.is_empty()
        && peers.iter().all(|peer| peers::is_sound(peer, direction))
        && (field(rule, "protocols").is_none() || !protocols.is_empty())
        && protocols.iter().all(protocols::is_sound)
}

fn action(rule: &Value) -> Option<Action> {
    match text(rule, &["action"])? {
        "Accept" => Some(Action::Accept),
        "Deny" => Some(Action::Deny),
        "Pass" => Some(Action::Pass),
        _ => None,
    }
}

const fn peers_field(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    }
}

/// The pods that a policy is about (C5). An invalid condition does not narrow them.
fn subject(cluster: &ClusterModel<'_>, spec: &Value, pod: &Value) -> Reading {
    match field(spec, "subject") {
        Some(subject) => {
            let mut reading = selected(cluster, subject, Some(pod));
            reading.is_sound &= has_only(subject, &["namespaces", "pods"]);
            reading
        }
        None => Reading { holds: true, is_sound: false },
    }
}

/// Whether the selectors of a subject or peer hold for a pod: exactly one of `namespaces` and `pods` (C5, C6). Without a pod,
/// only their soundness counts.
fn selected(cluster: &ClusterModel<'_>, of: &Value, pod: Option<&Value>) -> Reading {
    let (namespaces, pods) = (field(of, "namespaces"), field(of, "pods"));
    let inner = pods.unwrap_or(&Value::Null);
    let (of_namespaces, of_pods) = match pods {
        Some(_) => (field(inner, "namespaceSelector"), field(inner, "podSelector")),
        None => (namespaces, None),
    };
    let namespace = pod.map(namespace_of).unwrap_or_default();
    let its_labels = namespace_labels(cluster.namespace(namespace), namespace);
    let by_namespace = labels::read(of_namespaces, &its_labels);
    let by_pod = labels::read(of_pods, &pod.map(labels::of).unwrap_or_default());
    let is_one_of_them = match (namespaces, pods) {
        (Some(_), None) => true,
        (None, Some(pods)) => {
            of_namespaces.is_some()
                && of_pods.is_some()
                && has_only(pods, &["namespaceSelector", "podSelector"])
        }
        _ => false,
    };
    Reading {
        holds: by_namespace.holds && by_pod.holds,
        is_sound: is_one_of_them && by_namespace.is_sound && by_pod.is_sound,
    }
}

/// Whether all of a policy but its subject and rules is understood.
fn is_sound(policy: &Value) -> bool {
    has_only(policy, &["apiVersion", "kind", "metadata", "spec", "status"])
        && has_only(spec_of(policy), &["tier", "priority", "subject", "ingress", "egress"])
        && matches!(text(spec_of(policy), &["tier"]), Some("Admin" | "Baseline"))
        && priority(policy).is_some_and(|priority| priority <= 1000)
}

/// An unknown tier may be the first.
fn tier_of(policy: &Value) -> Tier {
    match text(spec_of(policy), &["tier"]) {
        Some("Baseline") => Tier::Baseline,
        _ => Tier::Admin,
    }
}

fn priority(policy: &Value) -> Option<u64> {
    field(spec_of(policy), "priority").and_then(Value::as_u64)
}

fn spec_of(policy: &Value) -> &Value {
    field(policy, "spec").unwrap_or(&Value::Null)
}

/// A policy's rules of a direction, in order. Anything but a list is taken as one rule, which nobody understands.
fn rules(policy: &Value, direction: Direction) -> &[Value] {
    let name = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    match field(spec_of(policy), name) {
        None => &[],
        Some(Value::Array(rules)) => rules,
        Some(_) => &[Value::Null],
    }
}

/// The items of a list field; none if it is absent or no list.
fn items<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    super::list(value, &[name])
}

/// Whether a JSON object has exactly one field that is not null.
fn has_one_field(value: &Value) -> bool {
    let is_set = |field: &&Value| !field.is_null();
    value.as_object().is_some_and(|fields| fields.values().filter(is_set).count() == 1)
}

/// Whether a selector is valid, without asking whom it selects.
fn selector_is_sound(selector: &Value) -> bool {
    labels::read(Some(selector), &Map::new()).is_sound
}
