//! netpol-cni as the main plugin, with addresses from the real host-local.

use netpol_proto::{ErrorCode, Request, Response};
use serde_json::{Value, json};

use crate::fake_agent::FakeAgent;
use crate::node::{NODE_V4, NODE_V6, Node, Pod, VERSIONS, addresses, at_once, can_run, merge};

const V4: &str = "10.77.0.0/24";
const V6: &str = "fd10::/64";

fn config(node: &Node, version: &str, subnets: &[&str]) -> Value {
    node.config(version, json!({ "mtu": 1400, "ipam": node.host_local(subnets) }))
}

/// Checks that the node has no leftovers of pods.
#[track_caller]
fn assert_clean(node: &Node) {
    assert_eq!(node.netns.link_names(), [""; 0]);
    assert_eq!(node.reserved(), [""; 0]);
}

/// Checks that two pods and the node reach each other.
fn check_reachability(subnets: &[&str], node_addresses: &[&str]) {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let _agent = node.willing_agent();
    let config = config(&node, "1.0.0", subnets);
    let (one, two) = (Pod::new("one"), Pod::new("two"));
    let of_one = addresses(&node.cni("ADD", &one, &config).ok());
    let of_two = addresses(&node.cni("ADD", &two, &config).ok());
    assert_eq!((of_one.len(), of_two.len()), (subnets.len(), subnets.len()));
    for (mine, yours) in of_one.iter().zip(&of_two) {
        assert!(node.netns.reaches(mine), "node to {mine}");
        assert!(two.netns.reaches(mine), "pod to {mine}");
        assert!(one.netns.reaches(yours), "pod to {yours}");
    }
    for address in node_addresses {
        assert!(one.netns.reaches(address), "pod to {address}");
    }
    for link in [one.netns.links(), node.netns.links()].concat() {
        assert!(link["ifname"] == "lo" || link["mtu"] == 1400, "{link}");
    }
    for pod in [&one, &two] {
        node.cni("DEL", pod, &config).ok();
    }
    assert_clean(&node);
}

#[test]
fn ipv4_pods_reach_each_other_and_the_node() {
    check_reachability(&[V4], &[NODE_V4]);
}

#[test]
fn ipv6_pods_reach_each_other_and_the_node() {
    check_reachability(&[V6], &[NODE_V6]);
}

#[test]
fn dual_stack_pods_reach_each_other_and_the_node() {
    check_reachability(&[V4, V6], &[NODE_V4, NODE_V6]);
}

#[test]
fn every_version_has_its_own_form_of_the_result() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let agent = node.willing_agent();
    for version in VERSIONS {
        let pod = Pod::new("web");
        let config = config(&node, version, &[V4, V6]);
        let result = node.cni("ADD", &pod, &config).ok();
        assert_eq!(result["cniVersion"], version);
        let Request::Add(add) = agent.requests().pop().unwrap() else { panic!() };
        let interfaces = result["interfaces"].as_array().unwrap();
        assert_eq!(interfaces.len(), 2);
        assert_eq!(
            (&interfaces[0]["name"], interfaces[0].get("sandbox")),
            (&json!(add.host_ifname), None)
        );
        assert_eq!(
            (&interfaces[1]["name"], &interfaces[1]["sandbox"]),
            (&json!("eth0"), &json!(pod.netns.path()))
        );
        let found: Vec<String> = add.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(found, addresses(&result));
        for ip in result["ips"].as_array().unwrap() {
            assert_eq!(ip["interface"], 1);
            assert_eq!(ip.get("version").is_some(), version < "1.0.0", "{ip}");
        }
        assert_eq!(interfaces[1].get("mtu").is_some(), version >= "1.1.0");
        let config = merge(config, json!({ "prevResult": result }));
        if version >= "0.4.0" {
            node.cni("CHECK", &pod, &config).ok();
        }
        node.cni("DEL", &pod, &config).ok();
        assert_clean(&node);
    }
}

#[test]
fn nothing_can_reach_the_pod_before_the_agent_has_agreed() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let netns = node.netns.name.clone();
    // At the agent's turn the interface has its index, but is down and has no route.
    let agent = FakeAgent::start(&node.socket(), move |request| {
        let Request::Add(add) = request else { return Response::Ok };
        let output = |args: &[&str]| {
            let output =
                std::process::Command::new("ip").args(["-n", &netns]).args(args).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let link = output(&["-json", "link", "show", &add.host_ifname]);
        let link: Value = serde_json::from_str(&link).unwrap();
        let is_up = link[0]["flags"].as_array().unwrap().contains(&json!("UP"));
        let has_index = link[0]["ifindex"] == add.host_ifindex;
        let has_route = !output(&["route", "show", "dev", &add.host_ifname]).is_empty();
        if has_index && !is_up && !has_route {
            Response::Ok
        } else {
            Response::error(ErrorCode::ENFORCEMENT, format!("{has_index} {is_up} {has_route}"))
        }
    });
    let pod = Pod::new("web");
    let result = node.cni("ADD", &pod, &config(&node, "1.0.0", &[V4])).ok();
    assert_eq!(agent.verbs(), ["ADD"]);
    assert!(node.netns.reaches(&addresses(&result)[0]));
}

#[test]
fn an_add_that_fails_leaves_nothing_behind() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let pod = Pod::new("web");
    let good = config(&node, "1.0.0", &[V4, V6]);
    let check = |config: &Value, code: ErrorCode| {
        assert_eq!(node.cni("ADD", &pod, config).error(), u64::from(code.0));
        assert_clean(&node);
        assert_eq!(pod.netns.link_names(), [""; 0]);
    };
    check(&good, ErrorCode::TRY_AGAIN_LATER);
    let refusing = FakeAgent::start(&node.socket(), |request| match request {
        Request::Add(_) => Response::error(ErrorCode::ENFORCEMENT, "over capacity"),
        Request::Del(_) | Request::Check(_) | Request::Gc(_) | Request::Status => Response::Ok,
    });
    check(&good, ErrorCode::ENFORCEMENT);
    assert_eq!(refusing.verbs(), ["ADD", "DEL"]);
    drop(refusing);
    let _willing = node.willing_agent();
    let no_plugin = node.config("1.0.0", json!({ "ipam": { "type": "nonexistent" } }));
    assert_eq!(node.cni("ADD", &pod, &no_plugin).error(), u64::from(ErrorCode::PLUGIN.0));
    assert_clean(&node);
    // One free address: .1 is the gateway, .3 the broadcast address.
    let small = config(&node, "1.0.0", &["10.77.1.0/30"]);
    let first = Pod::new("first");
    node.cni("ADD", &first, &small).ok();
    let answer = node.cni("ADD", &pod, &small);
    assert!(answer.message().contains("host-local"), "{}", answer.message());
    assert_eq!(node.netns.link_names().len(), 1);
    assert_eq!(pod.netns.link_names(), [""; 0]);
}

#[test]
fn del_works_without_agent_namespace_and_previous_result_and_twice() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let config = config(&node, "1.0.0", &[V4]);
    for has_netns in [true, false] {
        let agent = node.willing_agent();
        let pod = Pod::new("web");
        node.cni("ADD", &pod, &config).ok();
        drop(agent);
        let del = if has_netns { Node::cni } else { Node::cni_without_netns };
        del(&node, "DEL", &pod, &config).ok();
        assert_clean(&node);
        assert_eq!(pod.netns.link_names(), [""; 0]);
        del(&node, "DEL", &pod, &config).ok();
    }
    // The namespace is gone, and the veth pair with it, but the runtime still names it.
    let _agent = node.willing_agent();
    let pod = Pod::new("gone");
    node.cni("ADD", &pod, &config).ok();
    node.netns.exec(&["ip", "netns", "del", &pod.netns.name]);
    node.cni("DEL", &pod, &config).ok();
    assert_clean(&node);
}

#[test]
fn del_does_all_it_can_and_reports_all_that_failed() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let willing = node.willing_agent();
    let pod = Pod::new("web");
    node.cni("ADD", &pod, &config(&node, "1.0.0", &[V4])).ok();
    drop(willing);
    let _refusing = FakeAgent::start(&node.socket(), |_| {
        Response::error(ErrorCode::ENFORCEMENT, "map is broken")
    });
    let broken = node.config("1.0.0", json!({ "ipam": { "type": "nonexistent" } }));
    let answer = node.cni("DEL", &pod, &broken);
    assert_eq!(answer.error(), u64::from(ErrorCode::TEARDOWN.0));
    let message = answer.message();
    assert!(message.contains("map is broken") && message.contains("nonexistent"), "{message}");
    assert_eq!(node.netns.link_names(), [""; 0]);
}

#[test]
fn a_second_add_is_refused_and_does_not_undo_the_first() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let _agent = node.willing_agent();
    let pod = Pod::new("web");
    let config = config(&node, "1.0.0", &[V4]);
    let result = node.cni("ADD", &pod, &config).ok();
    let answer = node.cni("ADD", &pod, &config);
    assert_eq!(answer.error(), u64::from(ErrorCode::KERNEL.0));
    assert!(answer.message().contains("already has an interface eth0"), "{}", answer.message());
    assert!(node.netns.reaches(&addresses(&result)[0]));
}

#[test]
fn check_sees_what_is_missing() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let agent = node.willing_agent();
    let pod = Pod::new("web");
    let config = config(&node, "1.0.0", &[V4, V6]);
    let result = node.cni("ADD", &pod, &config).ok();
    let config = merge(config, json!({ "prevResult": result }));
    node.cni("CHECK", &pod, &config).ok();
    let check = |expected: &str| {
        let answer = node.cni("CHECK", &pod, &config);
        assert_eq!(answer.error(), u64::from(ErrorCode::CHECK_FAILED.0), "{}", answer.json);
        assert!(answer.message().contains(expected), "{}", answer.message());
    };
    let veth = result["interfaces"][0]["name"].as_str().unwrap();
    let v6 = addresses(&result).pop().unwrap();
    node.netns.exec(&["ip", "-6", "route", "del", &v6, "dev", veth]);
    check("the route to fd10::2");
    pod.netns.exec(&["ip", "address", "del", &format!("{v6}/128"), "dev", "eth0"]);
    check("address fd10::2");
    node.netns.exec(&["ip", "link", "set", veth, "down"]);
    check("the state up");
    pod.netns.exec(&["ip", "link", "del", "eth0"]);
    let answer = node.cni("CHECK", &pod, &config);
    assert_eq!(answer.error(), u64::from(ErrorCode::ENFORCEMENT.0));
    assert_eq!(agent.verbs(), ["ADD", "CHECK"]);
    let without = node.config("1.0.0", json!({ "ipam": node.host_local(&[V4]) }));
    assert_eq!(node.cni("CHECK", &pod, &without).error(), u64::from(ErrorCode::INVALID_CONFIG.0));
}

#[test]
fn gc_removes_the_interfaces_of_this_network_that_are_not_valid() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let agent = node.willing_agent();
    let (valid, stale, other) = (Pod::new("valid"), Pod::new("stale"), Pod::new("other"));
    let config = config(&node, "1.1.0", &[V4]);
    let kept = node.cni("ADD", &valid, &config).ok();
    node.cni("ADD", &stale, &config).ok();
    let ipam = node.host_local(&["10.78.0.0/24"]);
    let other_network = merge(config.clone(), json!({ "name": "other", "ipam": ipam }));
    let others = node.cni("ADD", &other, &other_network).ok();
    let list = json!([{ "containerID": valid.container_id, "ifname": "eth0" }]);
    node.cni("GC", &stale, &merge(config, json!({ "cni.dev/valid-attachments": list }))).ok();
    let mut left = node.netns.link_names();
    left.sort();
    let name = |result: &Value| result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let mut expected = vec![name(&kept), name(&others)];
    expected.sort();
    assert_eq!(left, expected);
    let Some(Request::Gc(gc)) = agent.requests().pop() else { panic!() };
    assert_eq!((gc.network.as_str(), gc.valid_attachments.len()), ("cbr0", 1));
}

#[test]
fn routes_and_dns_of_the_configuration_reach_the_pod() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let _agent = node.willing_agent();
    let pod = Pod::new("web");
    let routes = json!([{ "dst": "10.78.0.0/16", "gw": "10.77.0.1" }]);
    let ipam = merge(node.host_local(&[V4]), json!({ "routes": routes }));
    let dns = json!({ "nameservers": ["10.96.0.10"] });
    let result =
        node.cni("ADD", &pod, &node.config("1.0.0", json!({ "ipam": ipam, "dns": dns }))).ok();
    assert_eq!(result["routes"], routes);
    let routes = pod.netns.exec(&["ip", "route"]);
    for expected in ["default via 169.254.1.1 dev eth0", "10.78.0.0/16 via 169.254.1.1 dev eth0"] {
        assert!(routes.contains(expected), "{routes}");
    }
    assert_eq!(result["dns"], dns);
}

#[test]
fn two_hundred_pods_are_added_and_deleted_at_once() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let agent = node.willing_agent();
    let config = config(&node, "1.0.0", &[V4, V6]);
    let pods: Vec<Pod> = (0..200).map(|n| Pod::new(&format!("p{n}"))).collect();
    let all = std::sync::Mutex::new(Vec::new());
    at_once(pods.len(), |n| {
        let result = node.cni("ADD", &pods[n], &config).ok();
        all.lock().unwrap().extend(addresses(&result));
    });
    let mut all = all.into_inner().unwrap();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 400);
    assert!(pods[0].netns.reaches(&all[399]));
    at_once(pods.len(), |n| {
        node.cni("DEL", &pods[n], &config).ok();
    });
    assert_clean(&node);
    assert_eq!(agent.verbs().len(), 400);
}
