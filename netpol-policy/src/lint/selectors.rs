//! Checks for selectors that select nothing, or other pods than intended.

use std::sync::Arc;

use super::Scope;
use super::checks::{
    CONTRADICTORY_SELECTOR, Check, HOST_NETWORK_POD, NAMESPACE_NAME_LABEL as NAME_LABEL,
    PEER_ON_HOST, PEER_SELECTS_NOTHING, SELECTS_NO_POD, SPLIT_PEER, UNKNOWN_NAMESPACE,
};
use super::context::{Alike, LocatedRule, NAMESPACE_NAME_LABEL, ObjectSet};
use super::finding::Report;
use super::labels::{KeyCondition, is_contradictory};
use crate::model::{Labels, NamespaceMatch, Peer, PodInWords, Policy, Requirement, Selector};

/// The largest number of sets of labels among which the ones that were meant are looked for, so that the work is linear in the number
/// of selectors. More of them hide a hint only.
const MAX_COMPARED: usize = 500;

/// The largest number of letters by which a misspelled label differs.
const MAX_DISTANCE: usize = 2;

/// Checks the policy's `podSelector`, which selects these pods.
pub(super) fn check(
    objects: &ObjectSet<'_>,
    policy: &Policy,
    selected: &[&Alike<'_>],
    report: &mut Report,
) {
    let field = || "spec.podSelector".to_owned();
    let namespace = &policy.name.namespace;
    if is_contradictory(&policy.pod_selector) {
        let message = format!(
            "{} cannot select a pod: its conditions exclude each other",
            policy.pod_selector
        );
        report.add(&CONTRADICTORY_SELECTOR, field(), message);
        return;
    }
    let is_whole = objects.scope == Scope::Complete;
    if is_whole && objects.has_namespaces && objects.state.namespace_labels(namespace).is_none() {
        let message = format!("namespace {namespace} does not exist");
        report.add(&UNKNOWN_NAMESPACE, "metadata.namespace".to_owned(), message);
        return;
    }
    let is_known = objects.has_pods_in(namespace) || (is_whole && objects.has_pods());
    if is_known && selected.is_empty() {
        let pods = objects.pods_in(namespace).iter().map(|alike| &alike.pod.labels);
        let hint = hint(&policy.pod_selector, pods);
        let selector = &policy.pod_selector;
        let message = format!("selects no pod in namespace {namespace}: {selector}{hint}");
        report.add(&SELECTS_NO_POD, field(), message);
    }
    for alike in selected.iter().filter(|alike| alike.pod.host_network) {
        let message = format!(
            "selects {}, which uses the host's network: policies do not apply to it",
            PodInWords(&alike.pod.name)
        );
        report.add(&HOST_NETWORK_POD, field(), message);
    }
}

/// Checks the selectors of a rule's peers.
pub(super) fn check_peers(objects: &ObjectSet<'_>, rule: &LocatedRule<'_>, report: &mut Report) {
    let peers = rule.peers();
    for (index, peer) in peers.iter().enumerate() {
        let Peer::Pods { namespaces, pods } = peer else { continue };
        let field = rule.peer_field(index);
        if let Some(message) = name_label(objects, namespaces) {
            report.add(&NAME_LABEL, field, message);
        } else if let Some((check, message)) =
            selects_nothing(objects, rule.namespace, namespaces, pods)
        {
            report.add(check, field, message);
        } else if is_contradictory_peer(namespaces, pods) {
            let message = format!("{peer} cannot exist: the conditions exclude each other");
            report.add(&CONTRADICTORY_SELECTOR, field, message);
        }
    }
    for (index, pair) in peers.windows(2).enumerate() {
        if let [one, other] = pair
            && (is_split(one, other) || is_split(other, one))
        {
            let message = format!("allows {one}, and also {other}");
            report.add(&SPLIT_PEER, rule.peer_field(index + 1), message);
        }
    }
}

/// Whether one peer is a `namespaceSelector` alone and the other a `podSelector` alone.
fn is_split(one: &Peer, other: &Peer) -> bool {
    let is_namespaces = matches!(
        one,
        Peer::Pods { namespaces: NamespaceMatch::Selected(namespaces), pods }
            if pods.is_everything() && !namespaces.is_everything()
    );
    let is_pods = matches!(
        other,
        Peer::Pods { namespaces: NamespaceMatch::Own, pods } if !pods.is_everything()
    );
    is_namespaces && is_pods
}

fn is_contradictory_peer(namespaces: &NamespaceMatch, pods: &Selector) -> bool {
    let namespaces = match namespaces {
        NamespaceMatch::Own => None,
        NamespaceMatch::Selected(selector) => Some(selector),
    };
    is_contradictory(pods) || namespaces.is_some_and(is_contradictory)
}

/// The message for a selector of namespaces by the label `name`, which no namespace of the set has.
///
/// Source: the API server sets `kubernetes.io/metadata.name` on every namespace, and no other label.
fn name_label(objects: &ObjectSet<'_>, namespaces: &NamespaceMatch) -> Option<String> {
    let NamespaceMatch::Selected(selector) = namespaces else { return None };
    // Only the object of a namespace shows that nobody has added the label. Without it, as without the namespace, it may be there.
    let is_known = |value: &&Arc<str>| objects.known_labels(value).is_some();
    let value = selector.requirements_of("name").find_map(|requirement| match requirement {
        Requirement::In(_, values) => values.iter().find(is_known),
        Requirement::NotIn(..) | Requirement::Exists(_) | Requirement::DoesNotExist(_) => None,
    })?;
    (!objects.namespace_keys.contains("name")).then(|| {
        format!(
            "selects namespaces with name={value}, but namespace {value} has no label name: \
             the API server sets only {NAMESPACE_NAME_LABEL}"
        )
    })
}

/// The check and the message for a peer that selects no existing pod.
fn selects_nothing(
    objects: &ObjectSet<'_>,
    own: &str,
    namespaces: &NamespaceMatch,
    pods: &Selector,
) -> Option<(&'static Check, String)> {
    if is_contradictory_peer(namespaces, pods) {
        return None;
    }
    let is_whole = objects.scope == Scope::Complete;
    let selected: Vec<&str> = match namespaces {
        NamespaceMatch::Own => vec![own],
        NamespaceMatch::Selected(selector) => objects.namespaces(selector).collect(),
    };
    if let (NamespaceMatch::Selected(selector), true, true) =
        (namespaces, objects.has_namespaces, selected.is_empty())
    {
        let labels = objects.state.namespaces().map(|namespace| &namespace.labels);
        let hint = hint(selector, labels);
        // A namespace that the set does not contain may exist.
        return (is_whole || !hint.is_empty())
            .then(|| (&PEER_SELECTS_NOTHING, format!("selects no namespace: {selector}{hint}")));
    }
    let is_known = match namespaces {
        _ if is_whole => objects.has_pods(),
        NamespaceMatch::Own => objects.has_pods_in(own),
        NamespaceMatch::Selected(selector) => is_known(objects, selector, pods, &selected),
    };
    if selected.is_empty() || !is_known {
        return None;
    }
    let mut on_host = None;
    for pod in objects.of_peer(own, namespaces, pods) {
        if !pod.host_network {
            return None;
        }
        on_host.get_or_insert(pod);
    }
    let namespaces = match selected.as_slice() {
        [one] => format!("namespace {one}"),
        several => format!("the {} namespaces that it selects", several.len()),
    };
    if let Some(pod) = on_host {
        let of_node = objects.state.node(&pod.node).map(|node| node.addresses.as_slice());
        let addresses = if pod.reported_addresses.is_empty() {
            of_node.unwrap_or_default()
        } else {
            &pod.reported_addresses
        };
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let of_node = if addresses.is_empty() {
            String::new()
        } else {
            format!(" ({})", addresses.join(", "))
        };
        let message = format!(
            "selects {} in {namespaces}, which uses the host's network: no policy matches its packets, which have \
             the address of its node{of_node}",
            PodInWords(&pod.name)
        );
        return Some((&PEER_ON_HOST, message));
    }
    let labels = selected.iter().flat_map(|namespace| objects.pods_in(namespace));
    let hint = hint(pods, labels.map(|alike| &alike.pod.labels));
    Some((&PEER_SELECTS_NOTHING, format!("selects no pod in {namespaces}: {pods}{hint}")))
}

/// Whether a part of a cluster contains pods of all namespaces that a selector probably selects. It selects these ones of the set.
fn is_known(
    objects: &ObjectSet<'_>,
    selector: &Selector,
    pods: &Selector,
    selected: &[&str],
) -> bool {
    if !selected.iter().all(|namespace| objects.has_pods_in(namespace)) {
        return false;
    }
    let names = KeyCondition::of(selector, NAMESPACE_NAME_LABEL);
    if let Some(mut names) = names.values() {
        return names.all(|name| objects.has_pods_in(name));
    }
    // Without a label that they must have, it selects namespaces that the set lacks.
    let must_have = |requirement: &Requirement| match requirement {
        Requirement::In(..) | Requirement::Exists(_) => true,
        Requirement::NotIn(..) | Requirement::DoesNotExist(_) => false,
    };
    selector.requirements().any(must_have)
        && !objects.of_assumed(selector).any(|alike| pods.matches(&alike.pod.labels))
}

/// The pods that a policy which selects none was probably meant to select; one of those that are alike.
pub(super) fn meant<'s, 'a>(objects: &'s ObjectSet<'a>, policy: &Policy) -> Vec<&'s Alike<'a>> {
    let pods = objects.pods_in(&policy.name.namespace).iter();
    let is_meant = |alike: &&Alike<'_>| {
        !hint(&policy.pod_selector, std::iter::once(&alike.pod.labels)).is_empty()
    };
    pods.take(MAX_COMPARED).filter(is_meant).collect()
}

/// The label that was probably meant, if existing labels meet all requirements but one, and that one almost.
pub(super) fn hint<'a>(selector: &Selector, existing: impl Iterator<Item = &'a Labels>) -> String {
    for labels in existing.take(MAX_COMPARED) {
        let mut failed = selector.requirements().filter(|requirement| !requirement.matches(labels));
        let (Some(Requirement::In(key, values)), None) = (failed.next(), failed.next()) else {
            continue;
        };
        let is_near = |meant: &str| {
            let limit = (meant.chars().count() / 3).min(MAX_DISTANCE);
            values.iter().any(|value| strsim::osa_distance(value, meant) <= limit)
        };
        if let Some(meant) = labels.get(key).filter(|meant| is_near(meant)) {
            return format!(" (did you mean {key}={meant}?)");
        }
        let is_key = |(other, value): &(&Arc<str>, &Arc<str>)| {
            values.contains(value) && strsim::osa_distance(other, key) <= MAX_DISTANCE
        };
        if let Some((other, value)) = labels.iter().find(is_key) {
            return format!(" (did you mean {other}={value}?)");
        }
    }
    String::new()
}
