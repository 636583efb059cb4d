//! Checks for selectors that select nothing, or other pods than intended.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::checks::{
    CONTRADICTORY_SELECTOR, HOST_NETWORK_POD, PEER_SELECTS_NOTHING, SELECTS_NO_POD, SPLIT_PEER,
    UNKNOWN_NAMESPACE,
};
use super::context::{LocatedRule, ObjectSet};
use super::finding::Report;
use crate::model::{NamespaceMatch, Peer, Pod, PodInWords, Policy, Requirement, Selector};

/// Checks the policy's `podSelector`.
pub(super) fn check(objects: &ObjectSet<'_>, policy: &Policy, report: &mut Report<'_>) {
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
    if objects.has_namespaces && objects.state.namespace_labels(namespace).is_none() {
        let message = format!("namespace {namespace} does not exist");
        report.add(&UNKNOWN_NAMESPACE, "metadata.namespace".to_owned(), message);
        return;
    }
    let selected: Vec<&Pod> = objects
        .state
        .pods_in(namespace)
        .filter(|pod| policy.pod_selector.matches(&pod.labels))
        .collect();
    if objects.has_pods && selected.is_empty() {
        let message = format!("selects no pod in namespace {namespace}: {}", policy.pod_selector);
        report.add(&SELECTS_NO_POD, field(), message);
    }
    for pod in selected.into_iter().filter(|pod| pod.host_network) {
        let message = format!(
            "selects {}, which uses the host's network: policies do not apply to it",
            PodInWords(&pod.name)
        );
        report.add(&HOST_NETWORK_POD, field(), message);
    }
}

/// Checks the selectors of a rule's peers.
pub(super) fn check_peers(
    objects: &ObjectSet<'_>,
    rule: &LocatedRule<'_>,
    report: &mut Report<'_>,
) {
    let peers = rule.peers();
    for (index, peer) in peers.iter().enumerate() {
        let Peer::Pods { namespaces, pods } = peer else { continue };
        let field = rule.peer_field(index);
        if let Some(message) = selects_nothing(objects, rule.policy, namespaces, pods) {
            report.add(&PEER_SELECTS_NOTHING, field, message);
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

/// The message for a peer that selects no existing pod.
fn selects_nothing(
    objects: &ObjectSet<'_>,
    policy: &Policy,
    namespaces: &NamespaceMatch,
    pods: &Selector,
) -> Option<String> {
    if is_contradictory_peer(namespaces, pods) {
        return None;
    }
    let state = objects.state;
    let selected: Vec<&str> = match namespaces {
        NamespaceMatch::Own => vec![&policy.name.namespace],
        NamespaceMatch::Selected(selector) => {
            let selected = state.namespaces().filter(|found| selector.matches(&found.labels));
            selected.map(|namespace| &*namespace.name).collect()
        }
    };
    if let (NamespaceMatch::Selected(selector), true, true) =
        (namespaces, objects.has_namespaces, selected.is_empty())
    {
        return Some(format!("selects no namespace: {selector}"));
    }
    if selected.is_empty() || !objects.has_pods {
        return None;
    }
    let mut candidates = selected.iter().flat_map(|namespace| state.pods_in(namespace));
    if candidates.any(|pod| !pod.host_network && pods.matches(&pod.labels)) {
        return None;
    }
    let namespaces = match selected.as_slice() {
        [one] => format!("namespace {one}"),
        several => format!("the {} namespaces that it selects", several.len()),
    };
    Some(format!("selects no pod in {namespaces}: {pods}"))
}

/// Whether no set of labels can match the selector.
fn is_contradictory(selector: &Selector) -> bool {
    let requirements: Vec<&Requirement> = selector.requirements().collect();
    let keys: BTreeSet<&Arc<str>> =
        requirements.iter().map(|requirement| key(requirement)).collect();
    keys.into_iter().any(|wanted| {
        let of_key = || requirements.iter().filter(|requirement| key(requirement) == wanted);
        let must_exist = of_key()
            .any(|requirement| matches!(requirement, Requirement::In(..) | Requirement::Exists(_)));
        let must_not =
            of_key().any(|requirement| matches!(requirement, Requirement::DoesNotExist(_)));
        if must_exist && must_not {
            return true;
        }
        // The values that every `In` contains; the selector is contradictory if each of them is in a `NotIn`.
        let mut allowed: Option<BTreeSet<&Arc<str>>> = None;
        let mut forbidden = BTreeSet::new();
        for requirement in of_key() {
            match requirement {
                Requirement::In(_, values) => {
                    let values: BTreeSet<_> = values.iter().collect();
                    allowed = Some(match allowed {
                        None => values,
                        Some(before) => before.intersection(&values).copied().collect(),
                    });
                }
                Requirement::NotIn(_, values) => forbidden.extend(values),
                Requirement::Exists(_) | Requirement::DoesNotExist(_) => {}
            }
        }
        allowed.is_some_and(|allowed| allowed.iter().all(|value| forbidden.contains(value)))
    })
}

const fn key(requirement: &Requirement) -> &Arc<str> {
    match requirement {
        Requirement::In(key, _)
        | Requirement::NotIn(key, _)
        | Requirement::Exists(key)
        | Requirement::DoesNotExist(key) => key,
    }
}
