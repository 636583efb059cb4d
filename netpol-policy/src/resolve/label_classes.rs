//! The label classes that a pod peer selects, found through the indexes of the store.

use std::sync::Arc;

use netpol_common::ids::Direction;

use super::peers::selects_namespace;
use crate::model::{NamespaceMatch, Peer, Peers, Rule, Selector};
use crate::store::{Candidates, ClusterState, LabelClass, LabelClassId};

/// Whether a peer selects a label class.
pub(super) fn is_selected(
    state: &ClusterState,
    own_namespace: &str,
    namespaces: &NamespaceMatch,
    pods: &Selector,
    label_class: &LabelClass,
) -> bool {
    is_in_namespace(state, own_namespace, namespaces, &label_class.namespace)
        && pods.matches(&label_class.labels)
}

/// Whether a peer of any policy selects a label class. Such pods cannot be reached, or reach others, by that policy while their
/// addresses are not known.
pub fn is_any_peer(state: &ClusterState, label_class: &LabelClass) -> bool {
    let selects = |namespace: &str, rule: &Rule| {
        let peers = match &rule.peers {
            Peers::All => [].as_slice(),
            Peers::AnyOf(peers) => peers.as_slice(),
        };
        peers.iter().any(|peer| match peer {
            Peer::IpBlock(_) | Peer::Nodes(_) => false,
            Peer::Pods { namespaces, pods } => {
                is_selected(state, namespace, namespaces, pods, label_class)
            }
        })
    };
    let mut policies = state.policies();
    let mut cluster_policies = state.cluster_policies();
    policies.any(|policy| {
        let rules = Direction::ALL.into_iter().flat_map(|direction| policy.rules(direction));
        rules.into_iter().any(|rule| selects(&policy.name.namespace, rule))
    }) || cluster_policies.any(|policy| {
        let rules = Direction::ALL.into_iter().flat_map(|direction| policy.rules(direction));
        rules.into_iter().any(|of| selects("", &of.rule))
    })
}

fn is_in_namespace(
    state: &ClusterState,
    own_namespace: &str,
    namespaces: &NamespaceMatch,
    namespace: &str,
) -> bool {
    match namespaces {
        NamespaceMatch::Own => *namespace == *own_namespace,
        NamespaceMatch::Selected(selector) => {
            selects_namespace(selector, state.namespace_labels(namespace))
        }
    }
}

/// Candidates for a namespace selector that are looked at one by one to count their label classes; beyond, all label classes count.
const FEW_NAMESPACES: usize = 64;

/// The work of [`select`], at most: comparisons of a requirement with the labels of a label class or a namespace, and one for
/// each of these.
pub(super) fn n_comparisons(
    state: &ClusterState,
    own_namespace: &str,
    namespaces: &NamespaceMatch,
    pods: &Selector,
) -> usize {
    let mut n_requirements = 1 + pods.requirements().count();
    let mut n_by_namespace = 0;
    let n_in_namespaces = match namespaces {
        NamespaceMatch::Own => state.label_classes_in(own_namespace).len(),
        NamespaceMatch::Selected(selector) if selector.is_everything() => state.n_label_classes(),
        NamespaceMatch::Selected(selector) => {
            let candidates = state.namespace_candidates(selector);
            let n_namespaces = candidates.as_ref().map_or(state.n_namespaces(), Candidates::len);
            let of_namespace = selector.requirements().count();
            n_requirements += of_namespace;
            n_by_namespace = n_namespaces.saturating_mul(1 + of_namespace);
            candidates
                .filter(|_| n_namespaces <= FEW_NAMESPACES)
                .map_or(state.n_label_classes(), |names| {
                    names.iter().map(|name| state.label_classes_in(name).len()).sum()
                })
        }
    };
    let by_label = state.label_class_candidates(pods).map(|candidates| candidates.len());
    let n_label_classes = by_label.map_or(n_in_namespaces, |n| n.min(n_in_namespaces));
    n_label_classes.saturating_mul(n_requirements).saturating_add(n_by_namespace)
}

/// The most by which one more label class, or one more label of a namespace, can raise [`n_comparisons`].
pub(super) fn n_requirements(namespaces: &NamespaceMatch, pods: &Selector) -> usize {
    let of_namespaces = match namespaces {
        NamespaceMatch::Own => 0,
        NamespaceMatch::Selected(selector) => 1 + selector.requirements().count(),
    };
    1 + pods.requirements().count() + of_namespaces
}

/// Adds the label classes that a peer selects, from the shortest list that contains all of them.
pub(super) fn select(
    state: &ClusterState,
    own_namespace: &str,
    namespaces: &NamespaceMatch,
    pods: &Selector,
    found: &mut Vec<LabelClassId>,
) {
    let by_label = state.label_class_candidates(pods);
    let by_namespace: Option<Vec<&[LabelClassId]>> = match namespaces {
        NamespaceMatch::Own => Some(vec![state.label_classes_in(own_namespace)]),
        NamespaceMatch::Selected(selector) if selector.is_everything() => None,
        NamespaceMatch::Selected(selector) => {
            Some(if let Some(names) = state.namespace_candidates(selector) {
                let is_selected = |name: &&Arc<str>| {
                    state.namespace_labels(name).is_some_and(|of| names.is_selected(of))
                };
                names.iter().filter(is_selected).map(|name| state.label_classes_in(name)).collect()
            } else {
                let of_all = state.namespaces().filter(|of| selector.matches(&of.labels));
                of_all.map(|namespace| state.label_classes_in(&namespace.name)).collect()
            })
        }
    };
    let n_in_namespaces =
        by_namespace.as_ref().map_or(usize::MAX, |lists| lists.iter().map(|ids| ids.len()).sum());
    match (by_label, by_namespace) {
        (Some(by_label), _) if by_label.len() <= n_in_namespaces => {
            // Label classes of one namespace are mostly adjacent, so the last answer is reused.
            let mut latest: Option<(&Arc<str>, bool)> = None;
            found.extend(by_label.iter().copied().filter(|id| {
                let Some(label_class) = state.label_class(*id) else { return false };
                let namespace = &label_class.namespace;
                let known = latest.filter(|(of, _)| Arc::ptr_eq(of, namespace));
                let (_, is_in) = *latest.insert(known.unwrap_or_else(|| {
                    (namespace, is_in_namespace(state, own_namespace, namespaces, namespace))
                }));
                is_in && by_label.is_selected(&label_class.labels)
            }));
        }
        (_, Some(by_namespace)) => {
            found.extend(by_namespace.into_iter().flatten().copied().filter(|id| {
                state.label_class(*id).is_some_and(|label_class| pods.matches(&label_class.labels))
            }));
        }
        (_, None) => {
            let all =
                state.label_classes().filter(|(_, label_class)| pods.matches(&label_class.labels));
            found.extend(all.map(|(id, _)| id));
        }
    }
}
