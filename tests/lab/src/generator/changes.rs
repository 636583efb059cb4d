//! Changes of a cluster over time.

use serde_json::Value;

use super::cluster::{self, labels};
use super::{Cluster, Draw as _, Rng, cluster_policies, policies};

/// Makes one random change.
pub fn change(rng: &mut Rng, cluster: &mut Cluster) {
    if cluster.has_tiers && rng.chance(35) {
        return change_tiers(rng, cluster);
    }
    match rng.usize(..14) {
        0..=2 => with_pod(rng, cluster, |rng, pod| pod.labels = labels(rng)),
        3 => relabel_namespace(rng, cluster),
        4 => replace_pod(rng, cluster),
        5 => reuse_address(rng, cluster),
        6 => remove_pod(rng, cluster),
        7 => add_pod(rng, cluster),
        8 => with_pod(rng, cluster, |rng, pod| {
            pod.phase = Some(rng.one_of(["Succeeded", "Running", "Failed"]));
        }),
        9 => with_pod(rng, cluster, |rng, pod| pod.containers = cluster::containers(rng)),
        10 => renew_namespace(rng, cluster),
        11 => remove_policy(rng, cluster),
        _ => put_policy(rng, cluster),
    }
}

/// Changes a policy of the cluster, or the labels of a node.
fn change_tiers(rng: &mut Rng, cluster: &mut Cluster) {
    let index = rng.usize(..=cluster.cluster_policies.len());
    match rng.usize(..6) {
        0 => {
            let is_node = |object: &&mut Value| object.get("kind") == Some(&Value::from("Node"));
            let nodes: Vec<&mut Value> = cluster.others.iter_mut().filter(is_node).collect();
            if let Some(node) = rng.choice(nodes) {
                cluster::label_node(rng, node);
            }
        }
        1 if index < cluster.cluster_policies.len() => {
            cluster.cluster_policies.swap_remove(index);
        }
        2 | 3 if index < cluster.cluster_policies.len() => {
            let mut policy = cluster.cluster_policies.swap_remove(index);
            cluster_policies::alter(rng, cluster, &mut policy);
            cluster.cluster_policies.push(policy);
        }
        _ => {
            let new_name = format!("c{}", rng.usize(..5));
            cluster.cluster_policies.retain(|other| name(other) != new_name);
            let policy = cluster_policies::cluster_policy(rng, cluster, &new_name);
            cluster.cluster_policies.push(policy);
        }
    }
}

fn with_pod(
    rng: &mut Rng,
    cluster: &mut Cluster,
    change: impl FnOnce(&mut Rng, &mut super::PodFacts),
) {
    if let Some(pod) = rng.choice(&mut cluster.pods) {
        change(rng, pod);
    }
}

fn relabel_namespace(rng: &mut Rng, cluster: &mut Cluster) {
    if let Some(namespace) = rng.choice(&mut cluster.namespaces) {
        let name = name(namespace).to_owned();
        *namespace = cluster::namespace(rng, &name);
    }
}

/// Replaces a pod by a new one of the same name.
fn replace_pod(rng: &mut Rng, cluster: &mut Cluster) {
    if cluster.pods.is_empty() {
        return;
    }
    let old = cluster.pods.swap_remove(rng.usize(..cluster.pods.len()));
    cluster.add_pod(rng, &old.namespace, &old.name);
    // Some CNI plugins assign the old address again.
    if rng.chance(40)
        && let Some(pod) = cluster.pods.last_mut()
        && !pod.host_network
        && !old.host_network
    {
        pod.addresses = old.addresses;
    }
}

/// Moves an address from a deleted pod to a new one.
fn reuse_address(rng: &mut Rng, cluster: &mut Cluster) {
    if cluster.pods.is_empty() {
        return;
    }
    let old = cluster.pods.swap_remove(rng.usize(..cluster.pods.len()));
    let namespace = rng.choice(&cluster.inhabited()).cloned().unwrap_or_else(|| "x".to_owned());
    let name = format!("n{}", cluster.n_born);
    cluster.add_pod(rng, &namespace, &name);
    if let Some(pod) = cluster.pods.last_mut()
        && !pod.host_network
        && !old.host_network
    {
        pod.addresses.clone_from(&old.addresses);
    }
}

fn remove_pod(rng: &mut Rng, cluster: &mut Cluster) {
    if cluster.pods.len() > 1 {
        cluster.pods.swap_remove(rng.usize(..cluster.pods.len()));
    }
}

fn add_pod(rng: &mut Rng, cluster: &mut Cluster) {
    let namespace = rng.choice(&cluster.inhabited()).cloned().unwrap_or_else(|| "x".to_owned());
    let name = format!("n{}", cluster.n_born);
    cluster.add_pod(rng, &namespace, &name);
}

/// Deletes a namespace with all its objects, or recreates one with a single pod.
fn renew_namespace(rng: &mut Rng, cluster: &mut Cluster) {
    let chosen = rng.one_of(cluster::NAMESPACES);
    let existed = cluster.namespaces.iter().any(|namespace| name(namespace) == chosen);
    if existed && cluster.inhabited().len() > 1 {
        cluster.namespaces.retain(|namespace| name(namespace) != chosen);
        cluster.pods.retain(|pod| pod.namespace != chosen);
        cluster.policies.retain(|policy| namespace_of(policy) != chosen);
    } else if !existed {
        let namespace = cluster::namespace(rng, chosen);
        cluster.namespaces.push(namespace);
        // Its pods may have been known before the Namespace object.
        if !cluster.inhabited().iter().any(|inhabited| inhabited == chosen) {
            cluster.add_pod(rng, chosen, "a");
        }
    }
}

fn remove_policy(rng: &mut Rng, cluster: &mut Cluster) {
    if !cluster.policies.is_empty() {
        cluster.policies.swap_remove(rng.usize(..cluster.policies.len()));
    }
}

/// Adds a policy or replaces one.
fn put_policy(rng: &mut Rng, cluster: &mut Cluster) {
    let namespace = rng.choice(&cluster.inhabited()).cloned().unwrap_or_else(|| "x".to_owned());
    let new_name = format!("p{}", rng.usize(..4));
    let policy = policies::policy(rng, cluster, &namespace, &new_name);
    let is_same = |other: &Value| namespace_of(other) == namespace && name(other) == new_name;
    cluster.policies.retain(|other| !is_same(other));
    cluster.policies.push(policy);
}

fn name(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

fn namespace_of(object: &Value) -> &str {
    object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default()
}
