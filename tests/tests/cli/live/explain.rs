//! `explain --live`: both ends, and where they differ from the API.

use expect_test::expect;
use netpol_lab::fake_api::Executed;
use serde_json::{Value, json};

use super::Fleet;
use crate::ci::{assert_valid, schema};

fn put_pod(fleet: &Fleet, name: &str, node: &str, ip: &str) {
    fleet.api.put(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "labels": { "app": name } },
        "spec": { "nodeName": node, "containers": [{ "name": "c" }] },
        "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] },
    }));
}

fn status(pod: &str, protection: &str) -> String {
    let endpoint = json!({ "pod": { "namespace": "shop", "name": pod }, "protection": protection });
    json!({ "version": "0.1.0", "is_in_force": true, "endpoints": [endpoint] }).to_string()
}

/// A node that answers with this status and this explanation.
fn node(fleet: &Fleet, name: &str, status: String, explanation: &Value) {
    let explanation = explanation.to_string();
    fleet.agent(name, move |args| {
        if args.get(1).is_some_and(|command| command == "status") {
            Executed::output(status.clone())
        } else {
            let expected =
                ["explain", "--from", "shop/web", "--to", "shop/redis", "--port", "6379"];
            assert_eq!(args[1..8], expected);
            Executed::Ended { stdout: explanation.clone(), stderr: String::new(), code: 1 }
        }
    });
}

/// web and redis on two nodes; the API has a policy that admits web to redis.
fn fleet() -> (Fleet, Value) {
    let fleet = Fleet::new(&["n1", "n2"]);
    fleet
        .api
        .put(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } }));
    put_pod(&fleet, "web", "n1", "10.0.1.1");
    put_pod(&fleet, "redis", "n2", "10.0.2.1");
    fleet.api.put(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "namespace": "shop", "name": "redis" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "redis" } },
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "web" } } }] }],
        },
    }));
    let text = fleet
        .output("netpol explain --cluster --from shop/web --to shop/redis --port 6379 -o json");
    let explanation = serde_json::from_str(text.strip_prefix("exit code 0\n").unwrap()).unwrap();
    (fleet, explanation)
}

const COMMAND: &str = "netpol explain --cluster --live --from shop/web --to shop/redis --port 6379";

#[test]
fn both_ends_are_asked_and_agree_with_the_api() {
    let (fleet, explanation) = fleet();
    node(&fleet, "n1", status("web", "ready"), &explanation);
    node(&fleet, "n2", status("redis", "ready"), &explanation);
    fleet.check(COMMAND, &expect![[r#"
        exit code 0
        shop/web -> shop/redis 6379/TCP: allowed
          packets: 10.0.1.1 -> 10.0.2.1:6379

        egress: allowed: no policy isolates shop/web for egress

        ingress: allowed: shop/redis is isolated for ingress, and a rule allows the connection
          isolated by shop/redis
          + shop/redis ingress[0] allows every port from pods with app=web of the policy's namespace

        egress on node n1: allowed: no policy isolates shop/web for egress
          policies of the node: in force; pod shop/web: ready

        ingress on node n2: allowed: shop/redis is isolated for ingress, and a rule allows the connection
          policies of the node: in force; pod shop/redis: ready
    "#]]);
}

#[test]
fn a_node_that_is_behind_and_a_pod_without_programs_are_differences() {
    let (fleet, explanation) = fleet();
    let mut behind = explanation.clone();
    behind["is_allowed"] = json!(false);
    behind["ingress"]["is_allowed"] = json!(false);
    behind["ingress"]["verdict"] = json!("not-allowed");
    behind["ingress"]["summary"] =
        json!("denied: shop/redis is isolated for ingress, and no rule allows the connection");
    behind["ingress"]["allowing"] = json!([]);
    behind["ingress"]["isolating"] =
        json!([{ "kind": "NetworkPolicy", "namespace": "shop", "name": "old" }]);
    node(&fleet, "n1", status("web", "unprotected"), &explanation);
    node(&fleet, "n2", status("redis", "ready"), &behind);
    fleet.check(COMMAND, &expect![[r#"
        exit code 1
        shop/web -> shop/redis 6379/TCP: allowed
          packets: 10.0.1.1 -> 10.0.2.1:6379

        egress: allowed: no policy isolates shop/web for egress

        ingress: allowed: shop/redis is isolated for ingress, and a rule allows the connection
          isolated by shop/redis
          + shop/redis ingress[0] allows every port from pods with app=web of the policy's namespace

        egress on node n1: allowed: no policy isolates shop/web for egress
          policies of the node: in force; pod shop/web: unprotected
          ! differs from the API: the pod is unprotected, whatever its policies say

        ingress on node n2: denied: shop/redis is isolated for ingress, and no rule allows the connection
          policies of the node: in force; pod shop/redis: ready
          ! differs from the API: by the API: allowed: shop/redis is isolated for ingress, and a rule allows the connection; on the node: denied: shop/redis is isolated for ingress, and no rule allows the connection
          ! differs from the API: policy shop/redis is not in force on the node
          ! differs from the API: policy shop/old is in force on the node, and not in the API
          ! differs from the API: matching rule shop/redis ingress[0] is not in force on the node
    "#]]);
    let text = fleet.output(&format!("{COMMAND} -o json"));
    let json: Value = serde_json::from_str(text.strip_prefix("exit code 1\n").unwrap()).unwrap();
    assert_eq!(json["ends"][1]["node"], "n2");
    assert_eq!(json["ends"][1]["decision"]["verdict"], "not-allowed");
    fleet.agent("n2", |_| Executed::Hanging { stdout: String::new() });
    let text = fleet.output(&format!("{COMMAND} --node-timeout 300ms"));
    assert!(text.starts_with("exit code 2\n"), "{text}");
    assert!(text.contains("node n2 does not answer: no answer within 300ms"), "{text}");
}

/// The JSON that a command writes, which must be as the schema says.
fn valid(fleet: &Fleet, command: &str, exit_code: u8) -> Value {
    let text = fleet.output(&format!("{command} -o json"));
    let json = text.strip_prefix(&format!("exit code {exit_code}\n")).unwrap();
    let json: String = json.lines().take_while(|line| !line.starts_with("! ")).collect();
    let json = serde_json::from_str(&json).unwrap();
    assert_valid("live-explain.json", &json);
    json
}

#[test]
fn the_json_is_as_its_schema_says() {
    let (fleet, explanation) = fleet();
    node(&fleet, "n1", status("web", "ready"), &explanation);
    // The agent of n2 neither knows the pod nor applies policies to it.
    let mut without_ingress = explanation.clone();
    without_ingress["ingress"] = Value::Null;
    node(&fleet, "n2", status("other", "ready"), &without_ingress);
    let json = valid(&fleet, COMMAND, 1);
    assert_eq!(json["ends"][0]["differences"], json!([]));
    assert_eq!(json["ends"][1]["protection"], Value::Null);
    assert_eq!(json["ends"][1]["decision"], Value::Null);
    fleet.agent("n2", |_| Executed::Hanging { stdout: String::new() });
    let json = valid(&fleet, &format!("{COMMAND} --node-timeout 300ms"), 2);
    assert_eq!(json["unanswered"][0]["node"], "n2");
    let impossible = "netpol explain --cluster --live --from shop/web --to shop/none --port 1";
    let json = valid(&fleet, impossible, 2);
    assert_eq!((&json["ends"], &json["unanswered"]), (&json!([]), &json!([])));
}

/// `explain.json` forbids other fields, so the schema with the nodes' answers repeats it.
#[test]
fn the_schema_has_everything_that_the_schema_without_live_has() {
    let (mut live, mut offline) = (schema("live-explain.json"), schema("explain.json"));
    for schema in [&mut live, &mut offline] {
        schema.as_object_mut().unwrap().remove("title");
    }
    live["required"].as_array_mut().unwrap().retain(|name| name != "ends" && name != "unanswered");
    for name in ["ends", "unanswered"] {
        assert!(live["properties"].as_object_mut().unwrap().remove(name).is_some());
    }
    assert_eq!(live, offline);
}
