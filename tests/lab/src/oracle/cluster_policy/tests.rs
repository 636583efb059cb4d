//! The readings of single rules and policies, by hand; whole policies are in `tests/scenarios/cluster_policies`.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::*;
use crate::case::{End, Port, Probe, Protocol};
use crate::oracle::{Counted, Oracle};

fn objects() -> Vec<Value> {
    let pod = |namespace: &str, name: &str, ip: &str, ports: Value| {
        json!({
            "kind": "Pod", "metadata": { "name": name, "namespace": namespace, "labels": { "app": name } },
            "spec": { "nodeName": "n1", "containers": [{ "name": "c", "ports": ports }] },
            "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] },
        })
    };
    vec![
        json!({ "kind": "Node", "metadata": { "name": "n2", "labels": { "zone": "a" } },
            "status": { "addresses": [{ "type": "InternalIP", "address": "192.168.0.2" }] } }),
        json!({ "kind": "Namespace", "metadata": { "name": "x", "labels": { "team": "blue" } } }),
        pod("x", "a", "10.0.0.1", json!([])),
        pod("y", "b", "10.0.0.2", json!([{ "name": "http", "containerPort": 80 }])),
    ]
}

/// What an egress rule of x/a does with TCP to port 80 of an address.
#[track_caller]
fn check(rule: &Value, to: &str, expected: Option<Action>) {
    let objects = objects();
    let cluster = ClusterModel::new(&objects, Counted::Enforced);
    let remote: IpAddr = to.parse().unwrap();
    let remote_pod = cluster.owner(remote);
    let talk = Talk {
        remote,
        remote_pod,
        destination_pod: remote_pod,
        protocol: Protocol::Tcp,
        port: 80,
        is_virtual: false,
        is_hairpin: false,
        is_translated: false,
    };
    assert_eq!(acts(&cluster, rule, Direction::Egress, &talk), expected, "{rule} {to}");
}

const POD: &str = "10.0.0.2";
const OUTSIDE: &str = "8.8.8.8";

#[test]
fn a_rule_matches_by_peer_and_protocol() {
    let deny = |to: Value, protocols: Value| json!({ "name": "r", "action": "Deny", "to": [to], "protocols": protocols });
    let denied = Some(Action::Deny);
    let to_pods = |peer: Value, is_pod: Option<Action>, is_outside: Option<Action>| {
        check(&deny(peer.clone(), json!(null)), POD, is_pod);
        check(&deny(peer, json!(null)), OUTSIDE, is_outside);
    };
    to_pods(json!({ "namespaces": {} }), denied, None);
    to_pods(json!({ "namespaces": { "matchLabels": { "team": "blue" } } }), None, None);
    let b = json!({ "matchLabels": { "app": "b" } });
    to_pods(json!({ "pods": { "namespaceSelector": {}, "podSelector": b } }), denied, None);
    to_pods(json!({ "networks": ["8.0.0.0/7"] }), None, denied);
    to_pods(json!({ "networks": ["::/0", "0.0.0.0/0"], "nodes": null }), denied, denied);
    to_pods(json!({ "networks": ["::/0"] }), None, None);
    check(
        &deny(json!({ "nodes": { "matchLabels": { "zone": "a" } } }), json!(null)),
        "192.168.0.2",
        denied,
    );
    check(
        &deny(json!({ "nodes": { "matchLabels": { "zone": "b" } } }), json!(null)),
        "192.168.0.2",
        None,
    );

    let at = |protocol: Value, expected: Option<Action>| {
        check(&deny(json!({ "namespaces": {} }), json!([protocol])), POD, expected);
    };
    at(json!({ "tcp": { "destinationPort": { "number": 80 } } }), denied);
    at(json!({ "tcp": { "destinationPort": { "number": 81 } } }), None);
    at(json!({ "udp": { "destinationPort": { "number": 80 } } }), None);
    at(json!({ "tcp": { "destinationPort": { "range": { "start": 79, "end": 80 } } } }), denied);
    at(
        json!({ "tcp": { "destinationPort": { "range": { "start": 80, "end": 81 }, "number": null } } }),
        denied,
    );
    at(json!({ "tcp": { "destinationPort": { "range": { "start": 81, "end": 65535 } } } }), None);
    at(json!({ "tcp": {} }), denied);
    at(json!({ "destinationNamedPort": "http" }), denied);
    at(json!({ "destinationNamedPort": "https" }), None);
}

#[test]
fn a_rule_that_is_not_understood_accepts_nothing_or_denies_everything() {
    let peer = json!([{ "namespaces": { "matchLabels": { "team": "red" } } }]);
    let mut rules = vec![
        json!({ "protocols": null }),
        json!({ "to": null }),
        json!({ "to": [] }),
        json!({ "to": {} }),
        json!({ "to": peer, "from": peer }),
        json!({ "to": peer, "ports": [] }),
        json!({ "to": peer, "protocols": [] }),
        json!({ "to": peer, "protocols": {} }),
    ];
    for to in [
        json!(null),
        json!({}),
        json!({ "namespaces": null }),
        json!({ "namespaces": {}, "networks": ["0.0.0.0/0"] }),
        json!({ "namespaces": {}, "other": 1 }),
        json!({ "namespaces": { "matchExpressions": [{ "key": "a", "operator": "in", "values": ["b"] }] } }),
        json!({ "namespaces": { "matchLabel": {} } }),
        json!({ "pods": { "podSelector": {} } }),
        json!({ "pods": { "namespaceSelector": {} } }),
        json!({ "networks": [] }),
        json!({ "networks": "0.0.0.0/0" }),
        json!({ "networks": ["10.0.0.0"] }),
        json!({ "networks": ["10.0.0.0/8", null] }),
        json!({ "nodes": { "matchLabels": { "zone": 1 } } }),
        json!({ "domainNames": ["example.com"] }),
        json!({ "ipBlock": { "cidr": "0.0.0.0/0" } }),
    ] {
        rules.push(json!({ "to": [peer[0], to] }));
    }
    for protocol in [
        json!(null),
        json!({}),
        json!({ "tcp": null }),
        json!({ "tcp": {}, "udp": {} }),
        json!({ "icmp": {} }),
        json!({ "tcp": { "flags": ["syn"] } }),
        json!({ "tcp": { "destinationPort": {} } }),
        json!({ "tcp": { "destinationPort": 80 } }),
        json!({ "tcp": { "destinationPort": { "number": 0 } } }),
        json!({ "tcp": { "destinationPort": { "number": 65536 } } }),
        json!({ "tcp": { "destinationPort": { "number": 1, "range": { "start": 1, "end": 2 } } } }),
        json!({ "tcp": { "destinationPort": { "range": { "start": 2, "end": 2 } } } }),
        json!({ "tcp": { "destinationPort": { "range": { "start": 2 } } } }),
        json!({ "destinationNamedPort": "" }),
        json!({ "namedPort": "http" }),
        json!({ "portNumber": { "protocol": "TCP", "port": 80 } }),
    ] {
        let known = json!({ "udp": { "destinationPort": { "number": 53 } } });
        rules.push(json!({ "to": peer, "protocols": [known, protocol] }));
    }
    for rule in rules {
        let with_action = |action: Value| {
            let mut rule = rule.clone();
            rule["action"] = action;
            rule
        };
        check(&with_action(json!("Accept")), POD, None);
        for action in [json!("Deny"), json!("Pass"), json!("Allow"), json!(null)] {
            check(&with_action(action.clone()), POD, Some(Action::Deny));
            check(&with_action(action), OUTSIDE, Some(Action::Deny));
        }
    }
    check(&json!({ "action": "Allow", "to": peer }), OUTSIDE, Some(Action::Deny));
    check(&Value::Null, OUTSIDE, Some(Action::Deny));
}

fn policy(spec: &Value) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": { "name": "p" }, "spec": spec,
    })
}

/// Whether x/a reaches y/b at a TCP port.
fn reaches(policies: &[Value], port: u16) -> [bool; 2] {
    let objects = [objects(), policies.to_vec()].concat();
    let pod = |namespace: &str, pod: &str| End::Pod {
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        ip: None,
    };
    let probe = Probe {
        from: pod("x", "a"),
        to: pod("y", "b"),
        port: Port::Number(port),
        protocol: Protocol::Tcp,
    };
    [Oracle::new(&objects), Oracle::with_audited(&objects)].map(|oracle| oracle.allows(&probe))
}

#[test]
fn a_policy_that_is_not_understood_denies_what_it_says_and_lets_nothing_through() {
    let deny_81 = json!([{ "action": "Deny", "to": [{ "namespaces": {} }],
        "protocols": [{ "tcp": { "destinationPort": { "number": 81 } } }] }]);
    let sound = json!({ "tier": "Admin", "priority": 0, "subject": { "namespaces": { "matchLabels": { "team": "blue" } } }, "egress": deny_81 });
    assert_eq!(reaches(&[policy(&sound)], 80), [true; 2]);
    assert_eq!(reaches(&[policy(&sound)], 81), [false; 2]);
    for (name, value) in [
        ("tier", json!("Platform")),
        ("tier", json!(null)),
        ("priority", json!(1001)),
        ("priority", json!(-1)),
        ("priority", json!(null)),
        ("subject", json!(null)),
        ("subject", json!({})),
        ("subject", json!({ "serviceAccounts": {} })),
        (
            "subject",
            json!({ "namespaces": {}, "pods": { "namespaceSelector": {}, "podSelector": {} } }),
        ),
        ("subject", json!({ "pods": { "podSelector": { "matchLabels": { "app": "a" } } } })),
        (
            "subject",
            json!({ "namespaces": { "matchExpressions": [{ "key": "team", "operator": "Like", "values": ["b"] }] } }),
        ),
        ("egress", json!({})),
        ("rules", json!([])),
    ] {
        let mut spec = sound.clone();
        spec[name] = value;
        assert_eq!(reaches(&[policy(&spec)], 81), [false; 2], "{spec}");
        // A rule that is understood denies what it says.
        let is_readable = name != "egress";
        assert_eq!(reaches(&[policy(&spec)], 80), [is_readable; 2], "{spec}");
        if !is_readable {
            continue;
        }
        for (action, allows) in [("Accept", true), ("Pass", false)] {
            spec["egress"][0]["action"] = json!(action);
            assert_eq!(reaches(&[policy(&spec)], 81), [allows; 2], "{spec}");
            let others = json!({ "tier": "Admin", "priority": 9, "subject": { "namespaces": {} }, "egress": deny_81 });
            let mut others = policy(&others);
            others["metadata"]["name"] = json!("others");
            assert_eq!(reaches(&[policy(&spec), others], 81), [false; 2], "{spec}");
        }
    }
}

#[test]
fn an_audited_policy_counts_only_for_what_is_audited() {
    let deny = json!({ "tier": "Baseline", "priority": 3, "subject": { "namespaces": {} },
        "egress": [{ "action": "Deny", "to": [{ "namespaces": {} }] }] });
    let mut audited = policy(&deny);
    audited["metadata"]["annotations"] = json!({ "netpol/mode": "audit" });
    assert_eq!(reaches(&[audited], 80), [true, false]);
}
