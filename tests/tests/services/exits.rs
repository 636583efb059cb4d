//! Devices that appear while a pod sends through Services: nothing leaves through them unjudged, with and without an agent.

use std::process::Command;

use netpol_lab::node::nat::feed;
use netpol_lab::node::topology::{NODE, OFFICE};
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Host, Lab, Masquerade, Passing, Service, Shape, Stream, Watch};
use netpol_lab::probe::Protocol;
use serde_json::json;

use crate::cluster::{
    apply_policy, can_run, egress_only_to, expect, lab, pod, sockets, wait_for_services,
};

/// The outside host behind the device that appears.
const BACKENDS: [&str; 2] = ["198.51.100.10:80", "[2001:db8:198::10]:80"];

/// The hardware address of the outside host on that device.
const OFFICE_MAC: &str = "02:00:00:00:00:0a";

/// Interval between messages, microseconds.
const PACE_US: u64 = 500;

/// Messages that are sent while a device is new.
const N_MESSAGES: u64 = 400;

/// A node whose Service has backends outside. `denied` may not reach them, `allowed` may.
struct Outside {
    lab: Lab,
    services: Vec<Service>,
    /// Counts the messages that arrive outside, by sender.
    arrived: Watch,
}

impl Outside {
    fn new(name: &str) -> Self {
        let lab = lab(name, &["denied", "allowed"], |lab| {
            // All other destinations are reached over the office host, too.
            let [v4, v6] = OFFICE;
            let routes = format!("route add default via {v4}\nroute add default via {v6}\n");
            lab.netns(&Host::Node)?.configure(&routes)?;
            let [v4, v6] = NODE;
            // A server on the unspecified address answers datagrams from the source address of the route.
            lab.netns(&Host::Office)?.configure(&format!(
                "address add 198.51.100.10/32 dev lo\naddress add 2001:db8:198::10/128 dev lo nodad\n\
                 route add 10.244.1.0/24 via {v4} src 198.51.100.10\n\
                 route add fd00:10:244:1::/64 via {v6} src 2001:db8:198::10\n"
            ))
        });
        let backends = BACKENDS.iter().map(|backend| backend.parse().unwrap()).collect();
        let services = vec![Service::new("outside", 1, backends)];
        lab.apply_services(Shape::Nftables, Masquerade::Outsiders, &services).unwrap();
        wait_for_services(&lab, &services);
        let blocks = ["198.51.100.0/24", "2001:db8:198::/64"];
        let blocks: Vec<_> =
            blocks.iter().map(|cidr| json!({ "ipBlock": { "cidr": cidr } })).collect();
        apply_policy(&lab, "allow", &json!({}), &egress_only_to("allowed", &json!(blocks)));
        let nowhere = json!([{ "podSelector": { "matchLabels": { "app": "x" } } }]);
        apply_policy(&lab, "deny", &json!({}), &egress_only_to("denied", &nowhere));
        let vips: Vec<_> =
            services[0].addresses.iter().map(|address| (*address, 80).into()).collect();
        expect(&lab, &pod("allowed"), &[(Passing::Yes, vips.clone())]);
        expect(&lab, &pod("denied"), &[(Passing::No, vips)]);
        let senders: Vec<_> = ["denied", "allowed"]
            .into_iter()
            .flat_map(|name| sockets(&lab, &pod(name), 80).into_iter().map(move |at| (name, at)))
            .map(|(name, at)| {
                let family = if at.is_ipv4() { "ip" } else { "ip6" };
                (format!("{name}_{family}"), format!("{family} saddr {}", at.ip()))
            })
            .collect();
        let counters: Vec<_> =
            senders.iter().map(|(name, rule)| (name.as_str(), rule.as_str())).collect();
        let office = lab.netns(&Host::Office).unwrap();
        let hook = "type filter hook prerouting priority -300";
        let arrived = Watch::start(office, "inet", hook, &counters).unwrap();
        Self { lab, services, arrived }
    }

    fn streams(&self, from: &str) -> Vec<Stream> {
        let vips = self.services[0].addresses.iter().map(|address| (*address, 80).into());
        vips.map(|vip| self.lab.stream(&pod(from), Protocol::Udp, vip, PACE_US).unwrap()).collect()
    }

    fn n_arrived(&self, from: &str) -> u64 {
        ["ip", "ip6"]
            .iter()
            .map(|family| self.arrived.count(&format!("{from}_{family}")).unwrap())
            .sum()
    }

    /// Makes a device that leads to the backends, and whose neighbours are known, so that no packet waits for them.
    fn add_exit(&self) {
        let office = self.lab.netns(&Host::Office).unwrap();
        let node = self.lab.netns(&Host::Node).unwrap();
        node.configure(&format!(
            "link add wan0 type veth peer name wan1 address {OFFICE_MAC} netns {}\n",
            office.name()
        ))
        .unwrap();
        office
            .configure(
                "link set wan1 up\naddress add 198.51.100.10/24 dev wan1\n\
                 address add 2001:db8:198::10/64 dev wan1 nodad\n",
            )
            .unwrap();
        node.configure(&format!(
            "link set wan0 up\n\
             neigh replace 198.51.100.10 lladdr {OFFICE_MAC} dev wan0 nud permanent\n\
             neigh replace 2001:db8:198::10 lladdr {OFFICE_MAC} dev wan0 nud permanent\n\
             address add 198.51.100.1/24 dev wan0\n\
             address add 2001:db8:198::1/64 dev wan0 nodad\n"
        ))
        .unwrap();
    }

    fn remove_exit(&self) {
        self.lab.netns(&Host::Node).unwrap().configure("link delete wan0\n").unwrap();
    }
}

fn wait_for_messages(streams: &mut [Stream]) {
    for stream in streams {
        stream.wait_for_messages(N_MESSAGES).unwrap();
    }
}

fn wait_for_answers(streams: &mut [Stream]) {
    for stream in streams {
        stream.wait_for_answers(N_MESSAGES).unwrap();
    }
}

#[test]
fn nothing_leaves_unjudged_through_a_device_that_appears_under_load() {
    if !can_run() {
        return;
    }
    let outside = Outside::new("new-exit");
    let mut denied = outside.streams("denied");
    let mut allowed = outside.streams("allowed");
    wait_for_answers(&mut allowed);
    for _ in 0..5 {
        outside.add_exit();
        wait_for_messages(&mut denied);
        // The agent attaches its program.
        wait_for_answers(&mut allowed);
        outside.remove_exit();
        wait_for_answers(&mut allowed);
    }
    assert_eq!(outside.n_arrived("denied"), 0);
}

#[test]
fn nothing_leaves_unjudged_through_a_device_that_appears_while_no_agent_runs() {
    if !can_run() {
        return;
    }
    let mut outside = Outside::new("new-exit-dead");
    let mut denied = outside.streams("denied");
    let mut allowed = outside.streams("allowed");
    outside.lab.take_agent().unwrap().kill().unwrap();
    // Devices that have their program go on.
    wait_for_answers(&mut allowed);
    outside.add_exit();
    wait_for_messages(&mut denied);
    let n_allowed = outside.n_arrived("allowed");
    wait_for_messages(&mut allowed);
    assert_eq!(outside.n_arrived("allowed"), n_allowed, "no program has judged them");
    outside.lab.start_agent().unwrap();
    wait_for_answers(&mut allowed);
    wait_for_messages(&mut denied);
    outside.lab.take_agent().unwrap().kill().unwrap();
    wait_for_answers(&mut allowed);
    // The device is replaced by another one of the same name.
    outside.remove_exit();
    outside.add_exit();
    wait_for_messages(&mut denied);
    assert_eq!(outside.n_arrived("denied"), 0);
}

#[test]
fn the_table_of_exits_is_made_again_when_others_remove_or_change_it() {
    if !can_run() {
        return;
    }
    let outside = Outside::new("exits-flushed");
    let node = outside.lab.netns(&Host::Node).unwrap();
    let mut allowed = outside.streams("allowed");
    let mut denied = outside.streams("denied");
    let changes = [
        "flush ruleset",
        "delete table inet netpol",
        "flush table inet netpol",
        "flush set inet netpol exits",
        "add table inet netpol { flags dormant; }",
        "add rule inet netpol postrouting accept",
    ];
    for change in changes {
        let n_before = outside.lab.status().unwrap().exit_guard.n_recreated;
        feed(node, Command::new("nft").args(["-f", "-"]), &format!("{change}\n")).unwrap();
        let masquerade = Masquerade::Outsiders;
        outside.lab.apply_services(Shape::Nftables, masquerade, &outside.services).unwrap();
        if change != "flush set inet netpol exits" {
            until("the table", LIMIT, || {
                let guard = outside.lab.status()?.exit_guard;
                let is_there = guard.is_in_place && guard.n_recreated > n_before;
                Ok(if is_there { Look::Done(()) } else { Look::NotYet(format!("{guard:?}")) })
            })
            .unwrap();
        }
        wait_for_answers(&mut allowed);
        outside.add_exit();
        wait_for_messages(&mut denied);
        wait_for_answers(&mut allowed);
        outside.remove_exit();
    }
    assert_eq!(outside.n_arrived("denied"), 0);
}
