//! `status` of nodes and pods, and how nodes are named that do not answer.

use std::time::Duration;

use expect_test::expect;
use http::StatusCode;
use netpol_lab::fake_api::Executed;
use netpol_policy::model::Kind;
use serde_json::{Value, json};

use super::{Fleet, timed};
use crate::ci::assert_valid;

/// The answer of a healthy agent with one pod.
fn healthy(pod: &str) -> Value {
    json!({
        "version": "0.1.0", "is_in_force": true, "from_before": null, "lag_ms": null, "epoch": 3, "n_changes": 2,
        "sources": {
            "NetworkPolicy": { "state": "synced", "heard_s": 4 },
            "Pod": { "state": "synced", "heard_s": 1 },
        },
        "missing": [],
        "policies": [{ "policy": { "kind": "NetworkPolicy", "namespace": "shop", "name": "web" },
            "n_endpoints": { "ingress": 1 }, "is_held": false, "left_out": [] }],
        "n_awaiting_gc": 0, "n_awaiting_migration": 0, "blind": null, "unidentified": [],
        "endpoints": [endpoint(pod, "ready")],
        "diagnostics": [],
    })
}

fn endpoint(pod: &str, protection: &str) -> Value {
    json!({
        "pod": { "namespace": "shop", "name": pod }, "ifindex": 7, "addresses": ["10.244.1.5", "fd00::5"],
        "protection": protection, "attached": "tcx", "isolated": ["ingress"], "audited": [], "forwards": false,
        "n_allow_entries": 2,
    })
}

#[test]
fn status_is_a_row_for_each_node_and_names_those_that_do_not_answer() {
    let fleet = Fleet::new(&["n1", "n2", "n3", "n4", "n5"]);
    fleet.put_node("n6");
    fleet.put_agent("n5", "Pending");
    fleet.answers("n1", "status", &healthy("web-0"));
    let mut behind = healthy("web-1");
    behind["is_in_force"] = json!(false);
    behind["lag_ms"] = json!(1200);
    behind["sources"]["Pod"] =
        json!({ "state": "broken", "error": "10.96.0.1: timeout\u{1b}[2J", "since_s": 30 });
    behind["endpoints"] = json!([endpoint("web-1", "unprotected"), endpoint("web-2", "blocked")]);
    behind["policies"][0]["left_out"] = json!(["ingress[0]"]);
    behind["n_awaiting_gc"] = json!(2);
    fleet.answers("n2", "status", &behind);
    fleet.agent("n3", |_| Executed::Ended {
        stdout: String::new(),
        stderr: "netpol-agent: no agent answers on /run/netpol/agent.sock\n".to_owned(),
        code: 2,
    });
    fleet.agent("n4", |_| Executed::Hanging { stdout: "{\"version\":".to_owned() });
    fleet.check(
        "netpol status --node-timeout 300ms",
        &expect![[r#"
        exit code 2
        NODE   POLICIES       LAG      SOURCE         PODS   UNPROTECTED   BLOCKED   LEFTOVERS
        n1     in force       0        heard 4s ago   1      0             0         0
        n2     NOT in force   1200ms   Pod 30s old    2      1             1         2
        n3     no answer      -        -              -      -             -         -
        n4     no answer      -        -              -      -             -         -
        n5     no answer      -        -              -      -             -         -
        n6     no answer      -        -              -      -             -         -
        ! node n2: Pod objects: 10.96.0.1: timeout�[2J
        ! node n2: pod shop/web-1: unprotected: its interface has no programs
        ! node n2: pod shop/web-2: blocked: all packets drop until its policy is in force
        ! node n2: policy shop/web: over capacity, not in force: ingress[0]
        ! netpol: node n3 does not answer: no agent answers on /run/netpol/agent.sock
        ! netpol: node n4 does not answer: no answer within 300ms
        ! netpol: node n5 does not answer: its agent, pod netpol-agent-n5, is Pending
        ! netpol: node n6 does not answer: it has no agent
    "#]],
    );
    fleet.check("netpol status --node-timeout 300ms -o wide", &expect![[r#"
        exit code 2
        NODE   POLICIES       LAG      SOURCE         PODS   UNPROTECTED   BLOCKED   LEFTOVERS   SELECTING   OVER-CAPACITY   EPOCH   VERSION   AGENT
        n1     in force       0        heard 4s ago   1      0             0         0           1           0               3       0.1.0     netpol-agent-n1
        n2     NOT in force   1200ms   Pod 30s old    2      1             1         2           1           1               3       0.1.0     netpol-agent-n2
        n3     no answer      -        -              -      -             -         -           -           -               -       -         -
        n4     no answer      -        -              -      -             -         -           -           -               -       -         -
        n5     no answer      -        -              -      -             -         -           -           -               -       -         -
        n6     no answer      -        -              -      -             -         -           -           -               -       -         -
        ! node n2: Pod objects: 10.96.0.1: timeout�[2J
        ! node n2: pod shop/web-1: unprotected: its interface has no programs
        ! node n2: pod shop/web-2: blocked: all packets drop until its policy is in force
        ! node n2: policy shop/web: over capacity, not in force: ingress[0]
        ! netpol: node n3 does not answer: no agent answers on /run/netpol/agent.sock
        ! netpol: node n4 does not answer: no answer within 300ms
        ! netpol: node n5 does not answer: its agent, pod netpol-agent-n5, is Pending
        ! netpol: node n6 does not answer: it has no agent
    "#]]);
}

#[test]
fn status_as_json_and_yaml_has_the_whole_answers_and_the_silent_nodes() {
    let fleet = Fleet::new(&["n1", "n2"]);
    fleet.answers("n1", "status", &healthy("web-0"));
    fleet.agent("n2", |_| Executed::Refused(StatusCode::FORBIDDEN));
    let text = fleet.output("netpol status -o json");
    let (code, rest) = text.split_once('\n').unwrap();
    assert_eq!(code, "exit code 2");
    let (json, problems) = rest.split_at(rest.find("! netpol").unwrap());
    let report: Value = serde_json::from_str(json).unwrap();
    assert_valid("live-status.json", &report);
    assert_eq!(report["nodes"][0]["node"], "n1");
    assert_eq!(report["nodes"][0]["status"], healthy("web-0"));
    assert_eq!(report["unanswered"][0]["node"], "n2");
    assert!(
        problems.contains("get and create of pods/exec in namespace netpol-system"),
        "{problems}"
    );
    let yaml = fleet.output("netpol status -o yaml");
    assert!(yaml.contains("node: n1\n") && yaml.contains("unanswered:\n"), "{yaml}");
}

#[test]
fn both_protocols_of_exec_and_a_broken_connection_are_understood() {
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io"] {
        let fleet = Fleet::new(&["n1"]);
        fleet.api.set_exec_protocol(protocol);
        fleet.answers("n1", "status", &healthy("web-0"));
        assert!(fleet.output("netpol status").starts_with("exit code 0\n"), "{protocol}");
        fleet.agent("n1", |_| Executed::Broken { stdout: "{".to_owned() });
        let (text, elapsed) = timed(|| fleet.output("netpol status --node-timeout 1m"));
        assert!(text.contains("node n1 does not answer: the connection broke off"), "{text}");
        assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
    }
}

#[test]
fn fifty_nodes_answer_within_a_second() {
    let names: Vec<String> = (0..50).map(|n| format!("n{n:02}")).collect();
    let fleet = Fleet::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for name in &names {
        fleet.answers(name, "status", &healthy("web"));
    }
    let (text, elapsed) = timed(|| fleet.output("netpol status"));
    assert!(text.starts_with("exit code 0\n"), "{text}");
    assert_eq!(text.matches("in force").count(), 50);
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
}

#[test]
fn status_of_a_pod_asks_its_node_only() {
    let fleet = Fleet::new(&["n1", "n2"]);
    fleet.put_pod("shop", "web-0", "n1");
    fleet.put_pod("shop", "new", "n1");
    let mut audited = healthy("web-0");
    audited["endpoints"][0]["audited"] = json!(["ingress"]);
    fleet.answers("n1", "status", &audited);
    fleet.agent("n2", |_| panic!("the other node is asked"));
    fleet.check(
        "netpol status pod/web-0 -n shop",
        &expect![[r#"
        exit code 0
        pod shop/web-0 on node n1
          policies of the node: in force
          protection: ready: its policies are in force
          addresses: 10.244.1.5, fd00::5
          isolated: ingress
          audited, so packets are only reported: ingress
          interface: 7, entries of its allow maps: 2
    "#]],
    );
    let text = fleet.output("netpol status shop/web-0 -o json");
    let json = text.strip_prefix("exit code 0\n").unwrap();
    assert_valid("live-status-pod.json", &serde_json::from_str(json).unwrap());
    fleet.check(
        "netpol status shop/new",
        &expect![[r#"
        exit code 1
        pod shop/new on node n1
          policies of the node: in force
          protection: unknown to the agent; the pod is Running
    "#]],
    );
    fleet.check(
        "netpol status shop/none",
        &expect![[r#"
        exit code 2
        ! netpol: there is no pod shop/none
    "#]],
    );
    fleet.check(
        "netpol status deploy/shop/web",
        &expect![[r#"
        exit code 2
        ! netpol: deploy/shop/web is no pod: write NAME, pod/NAME or NAMESPACE/NAME
    "#]],
    );
}

#[test]
fn a_pod_with_the_nodes_network_has_no_policy() {
    let fleet = Fleet::new(&["n1"]);
    fleet.answers("n1", "status", &healthy("web-0"));
    let text = fleet.output("netpol status netpol-system/netpol-agent-n1");
    assert!(text.starts_with("exit code 0\n"), "{text}");
    assert!(text.contains("its network is the node's (spec.hostNetwork)"), "{text}");
}

#[test]
fn a_cluster_without_agents_or_rights_is_an_error_with_advice() {
    let fleet = Fleet::new(&[]);
    fleet.check("netpol status", &expect![[r#"
        exit code 2
        ! netpol: namespace netpol-system has no pod with the label app.kubernetes.io/name=netpol-agent: is netpol installed there? --agent-namespace names another one
    "#]]);
    fleet.api.forbid(Some(Kind::Pod));
    fleet.check("netpol status", &expect![[r#"
        exit code 2
        ! netpol: cannot list the agents' pods in namespace netpol-system: the API server answers 403 Forbidden: /api/v1/namespaces/netpol-system/pods is forbidden
    "#]]);
    fleet.check("netpol status --context other", &expect![[r#"
        exit code 2
        ! netpol: cannot access the cluster: kubeconfig DIR/kubeconfig: failed to load current context: other
    "#]]);
}

#[test]
fn without_the_right_to_list_nodes_those_with_agents_are_asked() {
    let fleet = Fleet::new(&["n1"]);
    fleet.api.forbid(Some(Kind::Node));
    fleet.answers("n1", "status", &healthy("web-0"));
    assert!(fleet.output("netpol status").starts_with("exit code 0\n"));
}
