//! Chained behind the real bridge and host-local plugins.

use netpol_proto::{Add, Attachment, Check, ErrorCode, PodRef, Request, Response};
use serde_json::{Value, json};

use crate::fake_agent::FakeAgent;
use crate::node::{Namespace, Node, Pod, VERSIONS, addresses, at_once, can_run, merge};

/// The newest version that Debian's plugins support.
const NEWEST_OF_BRIDGE: &str = "1.0.0";

fn bridge_config(node: &Node, version: &str, subnets: &[&str]) -> Value {
    let version = if version == "1.1.0" { NEWEST_OF_BRIDGE } else { version };
    json!({
        "cniVersion": version, "name": "cbr0", "type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
        "hairpinMode": true, "ipam": node.host_local(subnets),
    })
}

/// ADD of the bridge plugin, in the form of `version`.
fn bridge_add(node: &Node, pod: &Pod, version: &str, subnets: &[&str]) -> Value {
    let result = node.other("bridge", "ADD", pod, &bridge_config(node, version, subnets)).ok();
    merge(result, json!({ "cniVersion": version }))
}

fn attachment(pod: &Pod) -> Attachment {
    Attachment { container_id: pod.container_id.clone(), container_ifname: "eth0".into() }
}

#[test]
fn every_version_is_passed_through_and_the_agent_learns_the_exact_interface() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let agent = node.willing_agent();
    for version in VERSIONS {
        let pod = Pod::new("web");
        let previous = bridge_add(&node, &pod, version, &["10.77.0.0/24", "fd10::/64"]);
        let config = node.config(version, json!({ "prevResult": previous }));
        assert_eq!(node.cni("ADD", &pod, &config).ok(), previous, "{version}");

        let veth = previous["interfaces"][1]["name"].as_str().unwrap();
        let link = node.netns.links().into_iter().find(|link| link["ifname"] == veth).unwrap();
        let host_ifindex = u32::try_from(link["ifindex"].as_u64().unwrap()).unwrap();
        let expected = Request::Add(Add {
            attachment: attachment(&pod),
            network: "cbr0".into(),
            netns: pod.netns.path(),
            host_ifname: veth.into(),
            host_ifindex,
            pod: PodRef {
                namespace: "shop".into(),
                name: "web".into(),
                uid: Some("uid-of-web".into()),
            },
            addresses: addresses(&previous)
                .iter()
                .map(|address| address.parse().unwrap())
                .collect(),
            is_unshaped: false,
        });
        assert_eq!(agent.requests().last(), Some(&expected), "{version}");

        if version >= "0.4.0" {
            assert_eq!(node.cni("CHECK", &pod, &config).ok(), Value::Null, "{version}");
            let expected = Request::Check(Check { attachment: attachment(&pod), host_ifindex });
            assert_eq!(agent.requests().last(), Some(&expected), "{version}");
        }
        assert_eq!(node.cni("DEL", &pod, &config).ok(), Value::Null, "{version}");
        assert_eq!(agent.requests().last(), Some(&Request::Del(attachment(&pod))), "{version}");
    }
}

#[test]
fn a_result_of_an_older_version_is_converted() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let _agent = node.willing_agent();
    let pod = Pod::new("web");
    let previous = bridge_add(&node, &pod, "0.4.0", &["10.77.0.0/24"]);
    assert_eq!(previous["ips"][0]["version"], "4");
    let result =
        node.cni("ADD", &pod, &node.config("1.0.0", json!({ "prevResult": previous }))).ok();
    assert_eq!((&result["cniVersion"], result["ips"][0].get("version")), (&json!("1.0.0"), None));
    let result = node.cni("ADD", &pod, &node.config("0.3.1", json!({ "prevResult": result }))).ok();
    assert_eq!(
        (&result["cniVersion"], &result["ips"][0]["version"]),
        (&json!("0.3.1"), &json!("4"))
    );
}

#[test]
fn the_kernel_and_not_the_previous_result_says_which_interface_it_is() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let agent = node.willing_agent();
    let (one, two) = (Pod::new("one"), Pod::new("two"));
    let of_one = bridge_add(&node, &one, "1.0.0", &["10.77.0.0/24"]);
    let mut of_two = bridge_add(&node, &two, "1.0.0", &["10.77.0.0/24"]);
    let veth = of_two["interfaces"][1]["name"].clone();
    of_two["interfaces"][1]["name"] = of_one["interfaces"][1]["name"].clone();
    node.cni("ADD", &two, &node.config("1.0.0", json!({ "prevResult": of_two }))).ok();
    let Request::Add(add) = agent.requests().remove(0) else { panic!() };
    assert_eq!(json!(add.host_ifname), veth);
}

#[test]
fn a_namespace_that_cannot_be_entered_leaves_the_previous_result_if_it_names_one_veth() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let agent = node.willing_agent();
    let pod = Pod::new("vm");
    let mut previous = bridge_add(&node, &pod, "1.0.0", &["10.77.0.0/24"]);
    let config = |previous: &Value| node.config("1.0.0", json!({ "prevResult": previous }));
    // As with a runtime whose sandboxes are no network namespaces.
    let other = tempfile::NamedTempFile::new().unwrap();
    node.cni_at("ADD", &pod, other.path(), &config(&previous)).ok();
    let Some(Request::Add(add)) = agent.requests().pop() else { panic!() };
    assert_eq!(json!(add.host_ifname), previous["interfaces"][1]["name"]);

    let second = Pod::new("second");
    let seconds = bridge_add(&node, &second, "1.0.0", &["10.77.0.0/24"]);
    previous["interfaces"].as_array_mut().unwrap().push(seconds["interfaces"][1].clone());
    let answer = node.cni_at("ADD", &pod, other.path(), &config(&previous));
    assert_eq!(answer.error(), u64::from(ErrorCode::ENFORCEMENT.0));
    assert!(answer.message().contains("names 2 veth interfaces"), "{}", answer.message());
}

#[test]
fn without_an_agent_add_says_try_again_later() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let pod = Pod::new("web");
    let previous = bridge_add(&node, &pod, "1.0.0", &["10.77.0.0/24"]);
    let config = node.config("1.0.0", json!({ "prevResult": previous }));
    let answer = node.cni("ADD", &pod, &config);
    assert_eq!(answer.error(), u64::from(ErrorCode::TRY_AGAIN_LATER.0));
    assert!(answer.message().contains("netpol-agent does not answer"), "{}", answer.message());
    assert_eq!(node.cni("CHECK", &pod, &config).error(), u64::from(ErrorCode::TRY_AGAIN_LATER.0));
}

#[test]
fn an_agent_that_refuses_or_dies_fails_the_add() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let pod = Pod::new("web");
    let previous = bridge_add(&node, &pod, "1.0.0", &["10.77.0.0/24"]);
    let config = node.config("1.0.0", json!({ "prevResult": previous }));
    let refusing = FakeAgent::start(&node.socket(), |_| {
        Response::error(ErrorCode::ENFORCEMENT, "over capacity")
    });
    let answer = node.cni("ADD", &pod, &config);
    assert_eq!((answer.error(), answer.json["msg"].as_str()), (103, Some("over capacity")));
    drop(refusing);
    let _dying = FakeAgent::start(&node.socket(), |_| panic!("on purpose"));
    assert_eq!(node.cni("ADD", &pod, &config).error(), u64::from(ErrorCode::TRY_AGAIN_LATER.0));
}

#[test]
fn what_cannot_be_enforced_is_refused_before_the_agent_is_asked() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let agent = node.willing_agent();
    let config = node.config("1.0.0", json!({ "prevResult": { "cniVersion": "1.0.0" } }));
    let check = |pod: &Pod, expected: &str| {
        let answer = node.cni("ADD", pod, &config);
        assert_eq!(answer.error(), u64::from(ErrorCode::ENFORCEMENT.0), "{}", answer.json);
        assert!(answer.message().contains(expected), "{}", answer.message());
    };
    let pod = Pod::new("web");
    check(&pod, "no interface eth0");
    pod.netns.exec(&["ip", "link", "add", "eth0", "type", "bridge"]);
    check(&pod, "of kind bridge");
    // The peer is in a third namespace, with an index that also exists on the node.
    let (pod, third) = (Pod::new("far"), Namespace::new("third"));
    node.netns.exec(&["ip", "link", "add", "mine", "type", "veth", "peer", "name", "yours"]);
    let pair = ["type", "veth", "peer", "name", "far", "netns", &third.name];
    pod.netns.exec(&[&["ip", "link", "add", "eth0"][..], &pair].concat());
    check(&pod, "is not in the host's network namespace");
    let config = node.config("1.0.0", json!({}));
    assert_eq!(node.cni("ADD", &pod, &config).error(), u64::from(ErrorCode::INVALID_CONFIG.0));
    assert_eq!(agent.verbs(), [""; 0]);
}

#[test]
fn check_sees_that_the_interface_was_replaced() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let agent = node.willing_agent();
    let pod = Pod::new("web");
    let previous = bridge_add(&node, &pod, "1.0.0", &["10.77.0.0/24"]);
    let config = node.config("1.0.0", json!({ "prevResult": previous }));
    node.cni("ADD", &pod, &config).ok();
    pod.netns.exec(&["ip", "link", "del", "eth0"]);
    assert_eq!(node.cni("CHECK", &pod, &config).error(), u64::from(ErrorCode::ENFORCEMENT.0));
    let pair = ["type", "veth", "peer", "name", "other", "netns", &node.netns.name];
    pod.netns.exec(&[&["ip", "link", "add", "eth0"][..], &pair].concat());
    node.cni("CHECK", &pod, &config).ok();
    let indices: Vec<u32> = agent
        .requests()
        .iter()
        .filter_map(|request| match request {
            Request::Add(add) => Some(add.host_ifindex),
            Request::Check(check) => Some(check.host_ifindex),
            Request::Del(_) | Request::Gc(_) | Request::Status => None,
        })
        .collect();
    // The agent notices that this is another interface.
    assert_ne!(indices[0], indices[1]);
}

#[test]
fn fifty_pods_come_and_go_at_once() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let agent = node.willing_agent();
    let pods: Vec<Pod> = (0..50).map(|n| Pod::new(&format!("p{n}"))).collect();
    at_once(pods.len(), |n| {
        let pod = &pods[n];
        let previous = bridge_add(&node, pod, "1.0.0", &["10.77.0.0/24"]);
        let config = node.config("1.0.0", json!({ "prevResult": previous }));
        assert_eq!(node.cni("ADD", pod, &config).ok(), previous);
        node.cni("DEL", pod, &config).ok();
        node.other("bridge", "DEL", pod, &bridge_config(&node, "1.0.0", &["10.77.0.0/24"])).ok();
    });
    let mut by_pod: std::collections::BTreeMap<String, u32> = std::collections::BTreeMap::new();
    for request in agent.requests() {
        if let Request::Add(add) = request {
            by_pod.insert(add.pod.name, add.host_ifindex);
        }
    }
    let mut indices: Vec<u32> = by_pod.into_values().collect();
    indices.sort_unstable();
    indices.dedup();
    assert_eq!(indices.len(), 50);
    assert_eq!(node.reserved(), [""; 0]);
}
