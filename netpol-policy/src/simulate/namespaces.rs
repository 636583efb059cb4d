//! Namespaces that a set of objects mentions and does not contain.
//!
//! In: objects. Out: objects of such namespaces, and whether a verdict can depend on their labels. Must not: evaluate policies.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{Namespace, NamespaceMatch, Object, Peer, Peers, Requirement, Rule, Selector};

/// The label that the API server sets: the name of the namespace.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Adds a Namespace for each namespace that an object is in and that has no Namespace object. Its only label is the one that
/// the API server sets, its name. Returns the names of the added namespaces too.
pub fn with_implicit_namespaces(mut objects: Vec<Object>) -> (Vec<Object>, Vec<Arc<str>>) {
    let missing = missing(&objects);
    objects.extend(missing.iter().map(|name| {
        let labels = [(Arc::from(NAMESPACE_NAME_LABEL), Arc::clone(name))].into_iter().collect();
        Object::Namespace(Namespace {
            name: Arc::clone(name),
            labels,
            terminating: false,
            allows_forwarding: false,
        })
    }));
    (objects, missing)
}

/// The namespaces that objects are in and that have no Namespace object.
fn missing(objects: &[Object]) -> Vec<Arc<str>> {
    let mut existing = BTreeSet::new();
    let mut mentioned = BTreeSet::new();
    for object in objects {
        match object {
            Object::Namespace(namespace) => {
                existing.insert(Arc::clone(&namespace.name));
            }
            Object::Policy(_) | Object::Pod(_) | Object::Service(_) => {
                mentioned.insert(object.object_ref().name.namespace);
            }
            Object::ClusterPolicy(_) | Object::Node(_) => {}
        }
    }
    mentioned.difference(&existing).cloned().collect()
}

/// The namespaces without a Namespace object, if a policy selects namespaces by another label than their name: a verdict can then
/// differ from the one in a cluster, where they have labels of their own.
pub fn assumed_namespaces(objects: &[Object]) -> Vec<Arc<str>> {
    let is_needed = objects.iter().any(|object| match object {
        Object::Policy(policy) => {
            policy.ingress.iter().chain(policy.egress.iter()).any(depends_on_labels)
        }
        Object::ClusterPolicy(policy) => {
            let rules = policy.ingress.iter().chain(policy.egress.iter());
            is_by_label(&policy.subject.namespaces)
                || rules.map(|rule| &rule.rule).any(depends_on_labels)
        }
        Object::Namespace(_) | Object::Pod(_) | Object::Service(_) | Object::Node(_) => false,
    });
    if is_needed { missing(objects) } else { Vec::new() }
}

/// Whether a rule selects namespaces by another label than their name.
fn depends_on_labels(rule: &Rule) -> bool {
    let Peers::AnyOf(peers) = &rule.peers else { return false };
    peers.iter().any(|peer| match peer {
        Peer::Pods { namespaces: NamespaceMatch::Selected(selector), pods: _ } => {
            is_by_label(selector)
        }
        Peer::Pods { namespaces: NamespaceMatch::Own, pods: _ }
        | Peer::IpBlock(_)
        | Peer::Nodes(_) => false,
    })
}

fn is_by_label(selector: &Selector) -> bool {
    selector.requirements().any(|requirement| {
        let (Requirement::In(key, _)
        | Requirement::NotIn(key, _)
        | Requirement::Exists(key)
        | Requirement::DoesNotExist(key)) = requirement;
        **key != *NAMESPACE_NAME_LABEL
    })
}
