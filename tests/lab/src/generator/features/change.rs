//! Features of a change between two states.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Features, items, kind_of, text};
use crate::case::Case;

/// The features of the change from one state to the next.
pub(super) fn of_change(before: &Case, after: &Case, features: &mut Features) {
    let by_name = |case: &Case| -> BTreeMap<(String, String, String), Value> {
        let key = |object: &Value| {
            let name = |pointer| text(object, pointer).to_owned();
            (kind_of(object).to_owned(), name("/metadata/namespace"), name("/metadata/name"))
        };
        case.objects.iter().map(|object| (key(object), object.clone())).collect()
    };
    let (old, new) = (by_name(before), by_name(after));
    for (key, object) in &new {
        match (key.0.as_str(), old.get(key)) {
            ("Pod", None) => features.insert("change: pod added"),
            ("Namespace", None) => features.insert("change: namespace created"),
            ("NetworkPolicy", None) => features.insert("change: policy added"),
            ("ClusterNetworkPolicy", None) => features.insert("change: cluster policy added"),
            ("Pod", Some(previous)) => {
                of_pod_change(previous, object, features);
                false
            }
            ("Namespace", Some(previous)) if previous != object => {
                features.insert("change: namespace labels")
            }
            ("NetworkPolicy", Some(previous)) if previous != object => {
                features.insert("change: policy edited")
            }
            ("ClusterNetworkPolicy", Some(previous)) if previous != object => {
                of_cluster_policy_change(previous, object, features);
                features.insert("change: cluster policy edited")
            }
            ("Node", Some(previous)) if previous != object => {
                features.insert("change: node labels")
            }
            _ => false,
        };
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        features.extend(match key.0.as_str() {
            "Pod" => Some("change: pod removed"),
            "Namespace" => Some("change: namespace deleted"),
            "NetworkPolicy" => Some("change: policy removed"),
            "ClusterNetworkPolicy" => Some("change: cluster policy removed"),
            _ => None,
        });
    }
    let owners = |objects: &BTreeMap<(String, String, String), Value>| {
        let mut owners = BTreeMap::new();
        for (key, pod) in objects.iter().filter(|(key, _)| key.0 == "Pod") {
            for ip in items(pod, "/status/podIPs") {
                owners.insert(text(ip, "/ip").to_owned(), key.clone());
            }
        }
        owners
    };
    let (old, new) = (owners(&old), owners(&new));
    if new.iter().any(|(ip, owner)| old.get(ip).is_some_and(|before| before != owner)) {
        features.insert("change: address moves");
    }
}

fn of_cluster_policy_change(before: &Value, after: &Value, features: &mut Features) {
    let differs = |pointer: &str| before.pointer(pointer) != after.pointer(pointer);
    features.extend(differs("/spec/priority").then_some("change: priority"));
    let is_reordered = |pointer: &str| {
        let (old, new) = (items(before, pointer), items(after, pointer));
        old != new && old.len() == new.len() && old.iter().all(|rule| new.contains(rule))
    };
    let is_reordered = is_reordered("/spec/ingress") || is_reordered("/spec/egress");
    features.extend(is_reordered.then_some("change: order of rules"));
}

fn of_pod_change(before: &Value, after: &Value, features: &mut Features) {
    let differs = |pointer: &str| before.pointer(pointer) != after.pointer(pointer);
    if differs("/metadata/creationTimestamp") {
        features.insert("change: pod replaced under its name");
        return;
    }
    features.extend(differs("/metadata/labels").then_some("change: pod labels"));
    features.extend(differs("/spec/containers").then_some("change: container ports"));
    let is_finished = matches!(text(after, "/status/phase"), "Succeeded" | "Failed");
    features.extend((differs("/status/phase") && is_finished).then_some("change: pod finished"));
}
