//! `wait`: what is not there, what nobody has to wait for, and the time-out.

use expect_test::expect;
use serde_json::{Value, json};

use super::Fleet;
use crate::ci::assert_valid;

/// A policy for the pods with the label app=web; returns its uid and resourceVersion.
fn put_policy(fleet: &Fleet) -> (String, String) {
    fleet.api.put(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "namespace": "shop", "name": "web", "generation": 4 },
        "spec": { "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Ingress"] },
    }));
    let policy = fleet.api.object("NetworkPolicy", "shop", "web").unwrap();
    let text = |field: &str| policy["metadata"][field].as_str().unwrap().to_owned();
    (text("uid"), text("resourceVersion"))
}

fn put_running(fleet: &Fleet, name: &str, node: &str) {
    fleet.api.put(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "labels": { "app": "web" } },
        "spec": { "nodeName": node, "containers": [{ "name": "c" }] },
        "status": { "phase": "Running", "podIPs": [{ "ip": "10.0.0.1" }] },
    }));
}

fn answer(uid: &str, generation: i64, resource_version: &str, ready: &[&str]) -> Value {
    json!({
        "policy": { "kind": "NetworkPolicy", "namespace": "shop", "name": "web" }, "uid": uid,
        "revision": { "generation": generation, "resource_version": resource_version },
        "is_in_force": true, "from_before": null, "is_held": false, "pods": [], "ready": ready,
        "left_out": [], "rules": [],
    })
}

#[test]
fn a_policy_that_is_missing_is_an_error_and_one_without_pods_is_in_force() {
    let fleet = Fleet::new(&["n1"]);
    fleet.check(
        "netpol wait networkpolicy/web -n shop",
        &expect![[r#"
        exit code 2
        ! netpol: there is no NetworkPolicy shop/web
    "#]],
    );
    put_policy(&fleet);
    fleet.check(
        "netpol wait networkpolicy/web -n shop",
        &expect![[r#"
        exit code 0
        NetworkPolicy shop/web: generation 4 is in force at 0 pods on 0 nodes
    "#]],
    );
    fleet.check("netpol wait clusternetworkpolicy/deny", &expect![[r#"
        exit code 2
        ! netpol: clusternetworkpolicy/deny: a ClusterNetworkPolicy has conditions: kubectl wait --for=condition=Programmed clusternetworkpolicy/deny
    "#]]);
}

#[test]
fn the_time_out_names_each_node_with_the_reason() {
    let fleet = Fleet::new(&["n1", "n2", "n3", "n4"]);
    let (uid, version) = put_policy(&fleet);
    for (pod, node) in [("a", "n1"), ("b", "n2"), ("c", "n3"), ("d", "n9")] {
        put_running(&fleet, pod, node);
    }
    fleet.answers("n1", "policy", &answer(&uid, 4, &version, &["shop/a"]));
    fleet.answers("n2", "policy", &answer(&uid, 3, "1", &["shop/b"]));
    fleet.answers("n3", "policy", &answer(&uid, 4, &version, &[]));
    fleet.agent("n4", |_| panic!("a node without selected pods is asked"));
    fleet.check("netpol wait shop/web --timeout 300ms", &expect![[r#"
        exit code 1
        ! netpol: NetworkPolicy shop/web: generation 4 is not in force on node n2: it has generation 3
        ! netpol: NetworkPolicy shop/web: generation 4 is not in force on node n3: unprotected or blocked: shop/c
        ! netpol: NetworkPolicy shop/web: generation 4 is not in force on node n9: it has no agent
    "#]]);
    let text = fleet.output("netpol wait shop/web --timeout 300ms -o json");
    let json = text.strip_prefix("exit code 1\n").unwrap();
    let json: Value = serde_json::from_str(json).unwrap();
    assert_valid("live-wait.json", &json);
    assert_eq!(json["missing"].as_array().unwrap().len(), 3);
}

#[test]
fn an_agent_with_the_policies_of_an_earlier_run_does_not_have_it_in_force() {
    let fleet = Fleet::new(&["n1"]);
    let (uid, version) = put_policy(&fleet);
    put_running(&fleet, "a", "n1");
    let mut before = answer(&uid, 4, &version, &["shop/a"]);
    before["from_before"] = json!({ "since_unix_s": 1 });
    fleet.answers("n1", "policy", &before);
    let text = fleet.output("netpol wait shop/web --timeout 300ms");
    assert!(text.starts_with("exit code 1\n"), "{text}");
}
