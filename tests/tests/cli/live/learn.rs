//! `learn` from the agents of a cluster.
#![expect(
    clippy::indexing_slicing,
    reason = "JSON of a test has the fields that the test gives it"
)]

use expect_test::expect;
use netpol_lab::repository;
use serde_json::{Value, json};

use super::Fleet;

/// A cluster with the objects of `deploy/learn`, whose agents have recorded its connections.
fn shop() -> Fleet {
    let fleet = Fleet::new(&["n1", "n2"]);
    let folder = repository::path("deploy/learn");
    let text = std::fs::read_to_string(folder.join("objects.yaml")).unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    for mut object in objects {
        object["metadata"]["uid"] = object["metadata"]["name"].clone();
        fleet.api.put(object);
    }
    fleet.api.put(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "kubernetes", "namespace": "default" },
        "spec": { "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{ "port": 443 }] },
    }));
    fleet.api.put(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": { "kubernetes.io/service-name": "kubernetes" },
        },
        "endpoints": [{ "addresses": ["192.168.0.9"] }], "ports": [{ "name": "https", "port": 6443 }],
    }));
    let flows = std::fs::read_to_string(folder.join("flows.json")).unwrap();
    let mut flows: Vec<Value> = serde_json::from_str(&flows).unwrap();
    let mut to_api = flows[0].clone();
    (to_api["remote"], to_api["remote_port"], to_api["protocol"]) =
        (json!("10.96.0.1"), json!(443), json!("TCP"));
    flows.push(to_api);
    let of_front = |flow: &Value| flow["pod"]["name"] != "redis-0";
    let (front, redis): (Vec<Value>, Vec<Value>) = flows.into_iter().partition(of_front);
    fleet.answers("n1", "flows", &Value::Array(front));
    fleet.answers("n2", "flows", &Value::Array(redis));
    fleet
}

#[test]
fn the_agents_of_all_nodes_are_asked_and_the_api_server_is_named_by_its_addresses() {
    let fleet = shop();
    let output = fleet.output("netpol learn -n shop --for 0s");
    let api = "    - ipBlock: { cidr: \"192.168.0.9/32\" }\n    ports:\n    - { protocol: TCP, port: 6443 }\n";
    assert!(output.starts_with("exit code 0\n") && output.contains(api), "{output}");
    let folder = repository::path("deploy/learn");
    let learned = std::fs::read_to_string(folder.join("learned.yaml")).unwrap();
    let without_api = output.replace(&format!("  - to:\n    # 1 connection\n{api}"), "");
    assert!(without_api.contains(&learned), "{output}");
    // Nothing is in force yet.
    let output = fleet.output("netpol learn -n shop --for 0s --verify");
    assert!(
        output.starts_with("exit code 0\nnone of 9 recorded connections would drop"),
        "{output}"
    );
}

#[test]
fn a_node_that_does_not_answer_is_named() {
    let fleet = shop();
    fleet.put_agent("n2", "Pending");
    let output = fleet.output("netpol learn -n shop --for 0s");
    let problems: Vec<_> = output.lines().filter(|line| line.starts_with("! ")).collect();
    assert!(output.starts_with("exit code 2\n"), "{output}");
    expect![[r#"
        ! netpol: node n2 does not answer: its agent, pod netpol-agent-n2, is Pending
        ! netpol: left out: ICMP, which NetworkPolicies cannot allow without all other protocols (1)"#]].assert_eq(&problems.join("\n"));
}
