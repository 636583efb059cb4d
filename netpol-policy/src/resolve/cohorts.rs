//! Which cohorts a pod peer selects, by way of the store's indexes.

use std::sync::Arc;

use super::peers::selects_namespace;
use crate::model::{NamespaceMatch, Selector};
use crate::store::{ClusterState, Cohort, CohortId};

/// Whether a peer selects a cohort.
pub(super) fn is_selected(
    state: &ClusterState,
    own_namespace: &str,
    namespaces: &NamespaceMatch,
    pods: &Selector,
    cohort: &Cohort,
) -> bool {
    is_in_namespace(state, own_namespace, namespaces, &cohort.namespace)
        && pods.matches(&cohort.labels)
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

/// Adds the cohorts that a peer selects: those of the shortest list that has them all.
pub(super) fn select(
    state: &ClusterState,
    own_namespace: &str,
    namespaces: &NamespaceMatch,
    pods: &Selector,
    found: &mut Vec<CohortId>,
) {
    let by_label = state.cohort_candidates(pods);
    let by_namespace: Option<Vec<&[CohortId]>> = match namespaces {
        NamespaceMatch::Own => Some(vec![state.cohorts_in(own_namespace)]),
        NamespaceMatch::Selected(selector) if selector.is_everything() => None,
        NamespaceMatch::Selected(selector) => {
            Some(if let Some(names) = state.namespace_candidates(selector) {
                let is_selected = |name: &&Arc<str>| {
                    state.namespace_labels(name).is_some_and(|of| names.is_selected(of))
                };
                names.iter().filter(is_selected).map(|name| state.cohorts_in(name)).collect()
            } else {
                let of_all = state.namespaces().filter(|of| selector.matches(&of.labels));
                of_all.map(|namespace| state.cohorts_in(&namespace.name)).collect()
            })
        }
    };
    let n_in_namespaces =
        by_namespace.as_ref().map_or(usize::MAX, |lists| lists.iter().map(|ids| ids.len()).sum());
    match (by_label, by_namespace) {
        (Some(by_label), _) if by_label.len() <= n_in_namespaces => {
            // Cohorts of one namespace mostly stand side by side.
            let mut latest: Option<(&Arc<str>, bool)> = None;
            found.extend(by_label.iter().copied().filter(|id| {
                let Some(cohort) = state.cohort(*id) else { return false };
                let namespace = &cohort.namespace;
                let known = latest.filter(|(of, _)| Arc::ptr_eq(of, namespace));
                let (_, is_in) = *latest.insert(known.unwrap_or_else(|| {
                    (namespace, is_in_namespace(state, own_namespace, namespaces, namespace))
                }));
                is_in && by_label.is_selected(&cohort.labels)
            }));
        }
        (_, Some(by_namespace)) => {
            found.extend(
                by_namespace.into_iter().flatten().copied().filter(|id| {
                    state.cohort(*id).is_some_and(|cohort| pods.matches(&cohort.labels))
                }),
            );
        }
        (_, None) => {
            let all = state.cohorts().filter(|(_, cohort)| pods.matches(&cohort.labels));
            found.extend(all.map(|(id, _)| id));
        }
    }
}
