//! `policy` on all nodes, and `flows` with the rules that allow them now.

use expect_test::expect;
use serde_json::{Value, json};

use super::Fleet;
use crate::ci::assert_valid;

fn fleet() -> Fleet {
    let fleet = Fleet::new(&["n1", "n2", "n3"]);
    fleet.api.put(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "namespace": "shop", "name": "web", "generation": 4 },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"] },
    }));
    let policy = fleet.api.object("NetworkPolicy", "shop", "web").unwrap();
    let version = policy["metadata"]["resourceVersion"].clone();
    let pod = |name: &str, protection: &str| json!({ "pod": { "namespace": "shop", "name": name }, "directions": ["ingress"], "protection": protection });
    let rule = |index: u64, n: u64, s: u64| {
        json!({
            "policy": { "kind": "NetworkPolicy", "namespace": "shop", "name": "web" }, "direction": "ingress",
            "index": index, "name": "", "action": "Accept", "tier": "NetworkPolicy", "n_connections": n, "counted_s": s,
        })
    };
    let answer = |generation: u64,
                  version: &Value,
                  pods: &[Value],
                  rules: &[Value],
                  left_out: &[&str]| {
        json!({
            "policy": { "kind": "NetworkPolicy", "namespace": "shop", "name": "web" }, "uid": "u",
            "revision": { "generation": generation, "resource_version": version }, "is_in_force": true,
            "from_before": null, "is_held": false, "pods": pods, "ready": [], "left_out": left_out, "rules": rules,
        })
    };
    let pods = [pod("a", "ready"), pod("b", "blocked")];
    fleet.answers(
        "n1",
        "policy",
        &answer(4, &version, &pods, &[rule(0, 7, 60), rule(1, 0, 60)], &[]),
    );
    let behind = answer(
        3,
        &json!("1"),
        &[pod("c", "ready")],
        &[rule(0, 5, 9), rule(1, 0, 604_800)],
        &["ingress[1]"],
    );
    fleet.answers("n2", "policy", &behind);
    fleet.answers("n3", "policy", &answer(4, &version, &[], &[], &[]));
    fleet
}

#[test]
fn a_policy_is_shown_with_its_nodes_pods_and_rules() {
    let fleet = fleet();
    fleet.check(
        "netpol policy networkpolicy/web -n shop",
        &expect![[r#"
        exit code 1
        NetworkPolicy shop/web: generation 4 concerns 3 pods on 2 nodes
        NODE   GENERATION   IN-FORCE   PODS   OVER-CAPACITY
        n1     4            yes        2      -
        n2     3            not yet    1      ingress[1]

        POD      NODE   ISOLATED   PROTECTION
        shop/a   n1     ingress    ready
        shop/b   n1     ingress    blocked
        shop/c   n2     ingress    ready

        RULE         CONNECTIONS   NOTE
        ingress[0]   12            -
        ingress[1]   0             unused for 7 d
    "#]],
    );
    let text = fleet.output("netpol policy shop/web -o json");
    let json = text.strip_prefix("exit code 1\n").unwrap();
    assert_valid("live-policy.json", &serde_json::from_str(json).unwrap());
}

#[test]
fn flows_name_the_rule_that_allows_them_now_or_say_that_it_is_gone() {
    let fleet = Fleet::new(&["n1", "n2"]);
    fleet.put_pod("shop", "redis", "n1");
    let flow = |origin: &str, remote: &str, rule: Value, now: Value| {
        json!({
            "pod": { "namespace": "shop", "name": "redis" }, "origin": origin, "protocol": "TCP", "local_port": 6379,
            "remote": remote, "remote_port": 40_000, "peer": null, "state": "open", "rule": rule, "tier": null,
            "idle_s": 3, "now": now,
        })
    };
    let allowed =
        |rules: &[&str]| json!({ "is_allowed": true, "rules": rules, "summary": "allowed" });
    let denied = json!({ "is_allowed": false, "rules": [], "summary": "denied: no rule allows the connection" });
    let flows = json!([
        flow(
            "ingress",
            "10.0.0.9",
            json!("shop/a ingress[0]"),
            allowed(&["shop/a ingress[0]", "shop/b ingress[1]"])
        ),
        flow("ingress", "fd00::9", json!("shop/gone ingress[0]"), denied.clone()),
        flow("ingress", "10.0.0.8", json!("shop/gone ingress[0]"), allowed(&["shop/b ingress[1]"])),
        flow("egress", "192.0.2.1", Value::Null, allowed(&[])),
        flow("ingress", "10.0.0.7", Value::Null, denied),
    ]);
    let text = flows.to_string();
    fleet.agent("n1", move |args| {
        assert_eq!(args, ["netpol-agent", "flows", "--pod", "shop/redis", "-o", "json"]);
        netpol_lab::fake_api::Executed::output(text.clone())
    });
    fleet.agent("n2", |_| panic!("the other node is asked"));
    fleet.check("netpol flows pod/redis -n shop", &expect![[r#"
        exit code 0
        ORIGIN    PEER        PORT        CLIENT-PORT   STATE   IDLE   ALLOWED-NOW-BY                         NOTE
        ingress   10.0.0.9    6379/TCP    40000         open    3s     shop/a ingress[0], shop/b ingress[1]   -
        ingress   fd00::9     6379/TCP    40000         open    3s     nothing                                began by shop/gone ingress[0], which does not allow it any more; now denied: no rule allows the connection
        ingress   10.0.0.8    6379/TCP    40000         open    3s     shop/b ingress[1]                      began by shop/gone ingress[0], which does not allow it any more
        egress    192.0.2.1   40000/TCP   6379          open    3s     -                                      -
        ingress   10.0.0.7    6379/TCP    40000         open    3s     nothing                                began before the pod was isolated; now denied: no rule allows the connection
    "#]]);
    let text = fleet.output("netpol flows shop/redis -o json");
    let json = text.strip_prefix("exit code 0\n").unwrap();
    assert_valid("live-flows.json", &serde_json::from_str(json).unwrap());
}
