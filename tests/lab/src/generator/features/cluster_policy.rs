//! Features of cluster policies.

use serde_json::Value;

use super::{Features, items, kind_of, text};
use crate::oracle;

/// The features of all cluster policies among these objects.
pub(super) fn of_cluster_policies(objects: &[Value], features: &mut Features) {
    let of_kind = |kind: &'static str| objects.iter().filter(move |object| kind_of(object) == kind);
    let tier = |policy| text(policy, "/spec/tier");
    let policies: Vec<&Value> = of_kind("ClusterNetworkPolicy").collect();
    for policy in &policies {
        of_policy(policy, features);
        if policies.iter().filter(|other| tier(other) == tier(policy)).count() > 1 {
            features.insert("cluster policy: several in one tier");
        }
    }
    let labels = |object: &Value| object.pointer("/metadata/labels").cloned().unwrap_or_default();
    let of_pods: Vec<Value> = of_kind("Pod").map(labels).collect();
    if features.contains("cluster policy: nodes")
        && of_kind("Node").any(|node| of_pods.contains(&labels(node)))
    {
        features.insert("cluster policy: nodes that have labels of a pod");
    }
}

fn of_policy(policy: &Value, features: &mut Features) {
    features.insert(match text(policy, "/spec/tier") {
        "Baseline" => "cluster policy: Baseline",
        _ => "cluster policy: Admin",
    });
    if policy.pointer("/metadata/annotations/netpol~1mode") == Some(&"audit".into()) {
        features.insert("cluster policy: audited");
    }
    let is_beta = text(policy, "/apiVersion").ends_with("v1beta1");
    features.extend(is_beta.then_some("cluster policy: v1beta1"));
    features.insert(match policy.pointer("/spec/subject/pods") {
        Some(Value::Object(_)) => "cluster policy: subject pods",
        _ => "cluster policy: subject namespaces",
    });
    for (rules, peers) in [("/spec/ingress", "/from"), ("/spec/egress", "/to")] {
        let rules = items(policy, rules);
        features.extend(rules.is_empty().then_some("cluster policy: no rules"));
        features.extend((rules.len() > 1).then_some("cluster policy: several rules"));
        let mut known: Vec<&str> = Vec::new();
        for rule in rules {
            of_rule(rule, peers, features);
            let networks: Vec<&str> = items(rule, peers)
                .iter()
                .flat_map(|peer| items(peer, "/networks"))
                .filter_map(Value::as_str)
                .collect();
            for network in &networks {
                for earlier in &known {
                    of_overlap(earlier, network, features);
                }
            }
            known.extend(networks);
        }
    }
    if !oracle::is_understood(policy) {
        features.insert("cluster policy: not understood");
    }
}

fn of_overlap(earlier: &str, later: &str, features: &mut Features) {
    if oracle::block_holds_block(earlier, later) {
        features.insert("cluster policy: network in one that an earlier rule has");
    }
    if oracle::block_holds_block(later, earlier) {
        features.insert("cluster policy: network around one that an earlier rule has");
    }
}

fn of_rule(rule: &Value, peers: &str, features: &mut Features) {
    features.extend(match text(rule, "/action") {
        "Accept" => Some("cluster policy: Accept"),
        "Deny" => Some("cluster policy: Deny"),
        "Pass" => Some("cluster policy: Pass"),
        _ => None,
    });
    let peers = items(rule, peers);
    features.extend((peers.len() > 1).then_some("cluster policy: several peers"));
    for peer in peers {
        let is_set = |name: &str| peer.get(name).is_some_and(|value| !value.is_null());
        features.extend(is_set("namespaces").then_some("cluster policy: namespaces"));
        features.extend(is_set("pods").then_some("cluster policy: pods"));
        features.extend(is_set("networks").then_some("cluster policy: networks"));
        features.extend(is_set("nodes").then_some("cluster policy: nodes"));
        features.extend(is_set("domainNames").then_some("cluster policy: domain names"));
    }
    let protocols = items(rule, "/protocols");
    features.extend(protocols.is_empty().then_some("cluster policy: no protocols"));
    for item in protocols {
        if item.get("destinationNamedPort").is_some() {
            features.insert("cluster policy: named port");
        }
        let names = [
            ("tcp", "cluster policy: tcp"),
            ("udp", "cluster policy: udp"),
            ("sctp", "cluster policy: sctp"),
        ];
        for (name, feature) in names {
            let Some(protocol) = item.get(name) else { continue };
            features.insert(feature);
            features.insert(match protocol.pointer("/destinationPort") {
                None => "cluster policy: every port of a protocol",
                Some(port) if port.get("range").is_some() => "cluster policy: range",
                Some(_) => "cluster policy: number",
            });
        }
    }
}
