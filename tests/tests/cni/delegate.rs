//! netpol-cni runs the main plugin as its delegate.

use netpol_proto::ErrorCode;
use serde_json::{Value, json};

use crate::node::{Node, Pod, VERSIONS, addresses, can_run, merge};

fn config(node: &Node, version: &str) -> Value {
    let ipam = node.host_local(&["10.77.0.0/24", "fd10::/64"]);
    let delegate =
        json!({ "type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipam": ipam });
    node.config(version, json!({ "delegate": delegate }))
}

#[test]
fn the_delegates_result_is_ours_in_every_version_and_del_takes_it_back() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let agent = node.willing_agent();
    for version in VERSIONS {
        let pod = Pod::new("web");
        let config = config(&node, version);
        let result = node.cni("ADD", &pod, &config).ok();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["interfaces"][0]["name"], "cni0");
        assert_eq!(result["ips"][0].get("version").is_some(), version < "1.0.0", "{result}");
        for address in addresses(&result) {
            assert!(node.netns.reaches(&address), "{version} {address}");
        }
        let config = merge(config, json!({ "prevResult": result }));
        if version >= "0.4.0" {
            node.cni("CHECK", &pod, &config).ok();
        }
        node.cni("DEL", &pod, &config).ok();
        node.cni("DEL", &pod, &config).ok();
        assert_eq!(node.netns.link_names(), ["cni0"]);
        assert_eq!(node.reserved(), [""; 0]);
    }
    let older = ["ADD", "DEL", "DEL"];
    let newer = ["ADD", "CHECK", "DEL", "DEL"];
    assert_eq!(agent.verbs(), [&older[..], &older, &newer, &newer, &newer].concat());
}

#[test]
fn without_an_agent_nothing_is_left_of_what_the_delegate_made() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let pod = Pod::new("web");
    let answer = node.cni("ADD", &pod, &config(&node, "1.0.0"));
    assert_eq!(answer.error(), u64::from(ErrorCode::TRY_AGAIN_LATER.0));
    assert_eq!(node.netns.link_names(), ["cni0"]);
    assert_eq!(pod.netns.link_names(), [""; 0]);
    assert_eq!(node.reserved(), [""; 0]);
}

#[test]
fn a_second_add_is_refused_and_does_not_undo_the_first() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let _agent = node.willing_agent();
    let pod = Pod::new("web");
    let result = node.cni("ADD", &pod, &config(&node, "1.0.0")).ok();
    assert_eq!(
        node.cni("ADD", &pod, &config(&node, "1.0.0")).error(),
        u64::from(ErrorCode::KERNEL.0)
    );
    assert!(node.netns.reaches(&addresses(&result)[0]));
}

#[test]
fn a_delegate_that_is_missing_or_fails_is_named() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let agent = node.willing_agent();
    let pod = Pod::new("web");
    let missing = node.config("1.0.0", json!({ "delegate": { "type": "nonexistent" } }));
    let answer = node.cni("ADD", &pod, &missing);
    assert_eq!(answer.error(), u64::from(ErrorCode::PLUGIN.0));
    assert!(answer.message().contains("nonexistent"), "{}", answer.message());
    let failing = node.config("1.0.0", json!({ "delegate": { "type": "bridge", "vlan": -5 } }));
    let answer = node.cni("ADD", &pod, &failing);
    assert!(answer.message().contains("plugin bridge failed on ADD"), "{}", answer.message());
    assert!(!agent.verbs().contains(&"ADD"));
}

#[test]
fn gc_and_status_leave_a_delegate_in_peace_that_is_too_old_for_them() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let agent = node.willing_agent();
    let pod = Pod::new("web");
    let config = merge(config(&node, "1.1.0"), json!({ "cni.dev/valid-attachments": [] }));
    node.cni("STATUS", &pod, &config).ok();
    node.cni("GC", &pod, &config).ok();
    assert_eq!(agent.verbs(), ["STATUS", "GC"]);
}
