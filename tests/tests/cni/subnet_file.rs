//! Addresses, routes, and MTU from flanneld's subnet file.

use netpol_proto::ErrorCode;
use serde_json::{Value, json};

use crate::node::{NODE_V4, NODE_V6, Node, Pod, addresses, can_run};

const SUBNET_ENV: &str = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\n\
    FLANNEL_IPV6_NETWORK=fd00:10:244::/48\nFLANNEL_IPV6_SUBNET=fd00:10:244:3::1/64\n\
    FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

/// The configuration of the example in `deploy/cni`, with this node's paths.
fn config(node: &Node) -> Value {
    node.config("1.0.0", json!({
        "subnetFile": node.dir.path().join("subnet.env"), "ipam": { "dataDir": node.ipam_dir() },
    }))
}

#[test]
fn flannelds_subnet_mtu_and_routes_are_used() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let _agent = node.willing_agent();
    std::fs::write(node.dir.path().join("subnet.env"), SUBNET_ENV).unwrap();
    let pod = Pod::new("web");
    let result = node.cni("ADD", &pod, &config(&node)).ok();
    assert_eq!(addresses(&result), ["10.244.3.2", "fd00:10:244:3::2"]);
    assert_eq!(
        result["routes"],
        json!([{ "dst": "10.244.0.0/16" }, { "dst": "fd00:10:244::/48" }])
    );
    let link = pod.netns.links().pop().unwrap();
    assert_eq!((&link["ifname"], &link["mtu"]), (&json!("eth0"), &json!(1450)));
    for address in [NODE_V4, NODE_V6] {
        assert!(pod.netns.reaches(address), "{address}");
    }
    node.cni("DEL", &pod, &config(&node)).ok();
    assert_eq!(node.reserved(), [""; 0]);
}

#[test]
fn before_flanneld_has_written_add_says_try_again_later() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let agent = node.willing_agent();
    let pod = Pod::new("web");
    let answer = node.cni("ADD", &pod, &config(&node));
    assert_eq!(answer.error(), u64::from(ErrorCode::TRY_AGAIN_LATER.0));
    assert!(answer.message().contains("flanneld has not written"), "{}", answer.message());
    assert_eq!(node.netns.link_names(), [""; 0]);
    assert!(!agent.verbs().contains(&"ADD"));
}

#[test]
fn del_gives_the_address_back_when_the_file_is_gone() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let _agent = node.willing_agent();
    let file = node.dir.path().join("subnet.env");
    std::fs::write(&file, SUBNET_ENV).unwrap();
    let pod = Pod::new("web");
    node.cni("ADD", &pod, &config(&node)).ok();
    assert_eq!(node.reserved().len(), 2);
    std::fs::remove_file(&file).unwrap();
    node.cni("DEL", &pod, &config(&node)).ok();
    assert_eq!((node.reserved(), node.netns.link_names()), (Vec::new(), Vec::new()));
}
