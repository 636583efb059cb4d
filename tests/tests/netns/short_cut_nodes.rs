//! Connections between pods of two nodes that pass neither routing nor netfilter of the node that netpol runs on.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use netpol_lab::node::second_node::{
    self, ADDRESSES, Backend, NODE_FILE, POD, SecondNode, TUNNEL, UPLINK,
};
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Family, Host, Lab, Stream, labels};
use netpol_lab::privilege::{Need, met};
use netpol_lab::probe::Protocol;
use serde_json::Value;

use super::live_flows::wait_until_cut;
use super::short_cut::{AS_KUBE_PROXY, all_go_on, nft, nft_in, restart, wait_for};
use super::{PORT, client, lab_without_agent, web};

/// Web accepts the far pod, and the client may connect to it only.
const ALLOW_FAR: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-far, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: far}}}]}]
  egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: far}}}]}]
"#;

const DENY_ALL: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-far, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
"#;

/// Counts the packets that are forwarded between pods of both nodes.
fn seen(backend: Backend) -> String {
    let device = backend.device();
    format!(
        "table inet seen {{
            chain forward {{
                type filter hook forward priority 0
                meta l4proto {{ tcp, udp }} iifname \"{device}\" counter
                meta l4proto {{ tcp, udp }} oifname \"{device}\" counter
            }}
        }}"
    )
}

/// Drops what two routers have not handed on.
const TWO_ROUTERS: &str = "
table inet hops {
    chain input {
        type filter hook input priority 0
        meta l4proto { tcp, udp } ip ttl != 62 counter drop
        meta l4proto { tcp, udp } ip6 hoplimit != 62 counter drop
    }
}";

pub(super) struct Nodes {
    pub(super) lab: Lab,
    pub(super) second: SecondNode,
}

impl Nodes {
    /// Two nodes, the first with web and a client, the second with the far pod; `None` if the machine lacks something.
    pub(super) fn new(name: &str) -> Result<Option<Self>> {
        Self::by(Backend::Vxlan, name)
    }

    fn by(backend: Backend, name: &str) -> Result<Option<Self>> {
        if !met(&[Need::Program("nft")]) {
            return Ok(None);
        }
        let Some(mut lab) = lab_without_agent(name, Wiring::Bridge)? else { return Ok(None) };
        let second = lab.add_second_node_by(backend, "shop/far", &labels(&[("app", "far")]))?;
        lab.set_options(&["--short-cut", "nodes"]);
        lab.start_agent()?;
        lab.manifests().write("allow.yaml", ALLOW_FAR)?;
        for pod in [web(), client()] {
            lab.add_pod(pod)?;
        }
        nft(&lab, &[&seen(backend)])?;
        nft(&lab, &[AS_KUBE_PROXY])?;
        wait_for(&lab, &["shop/web", "shop/client"], "on")?;
        let nodes = Self { lab, second };
        nodes.wait_for_overlay("on")?;
        Ok(Some(nodes))
    }

    /// Waits until the agent says this of the devices of both families.
    pub(super) fn wait_for_overlay(&self, expected: &str) -> Result<()> {
        self.wait_for_overlays(&[expected; 2])
    }

    /// Waits until the agent says this of the devices, one for each family.
    fn wait_for_overlays(&self, expected: &[&str]) -> Result<()> {
        until("the short cut between nodes", LIMIT, || {
            let answer = self.lab.agent_config().ask(&["status", "-o", "json"])?;
            let status: Value = serde_json::from_str(&answer)?;
            let found = status.get("overlay_short_cuts").and_then(Value::as_array);
            let overlays = found.context("no such field")?.iter();
            let shown: Vec<_> =
                overlays.filter_map(|one| one.get("state").and_then(Value::as_str)).collect();
            Ok(if shown == expected { Look::Done(()) } else { Look::NotYet(format!("{found:?}")) })
        })
    }

    /// Number of packets that netfilter has seen on the first node.
    fn n_seen(&self) -> Result<u64> {
        let listed = nft(&self.lab, &["list", "table", "inet", "seen"])?;
        let words: Vec<&str> = listed.split_whitespace().collect();
        let counts = words.windows(2).filter(|pair| pair.first() == Some(&"packets"));
        counts.map(|pair| Ok(pair.get(1).context("no number")?.parse::<u64>()?)).sum()
    }

    /// A stream from the client to the far pod, or from the far pod to web.
    pub(super) fn stream(
        &self,
        origin: Origin,
        protocol: Protocol,
        family: Family,
        pace_us: u64,
    ) -> Result<Stream> {
        match origin {
            Origin::Here => {
                let is_of = |address: &&IpAddr| address.is_ipv4() == matches!(family, Family::V4);
                let address = POD.iter().find(is_of).context("no address")?;
                let far = SocketAddr::new(*address, 80);
                self.lab.stream(&Host::pod("shop/client"), protocol, far, pace_us)
            }
            Origin::There => {
                let web = self.lab.socket_address(&Host::pod("shop/web"), family, PORT)?;
                Stream::start(&self.second.pod, protocol, web, pace_us)
            }
        }
    }

    /// Connections of each kind, none of which netfilter sees.
    fn pass_by(&self) -> Result<()> {
        for inside in [&self.second.pod, self.lab.netns(&Host::pod("shop/web"))?] {
            nft_in(inside, &[TWO_ROUTERS])?;
        }
        finish(self.streams()?)?;
        let n_seen = self.n_seen()?;
        ensure!(n_seen == 0, "netfilter has seen {n_seen} packets");
        Ok(())
    }

    /// Connections end with the policy that allows them, and go on with it. Netfilter sees none of it.
    fn are_cut_by_policies(&self) -> Result<()> {
        let manifests = self.lab.manifests();
        for (origin, protocol) in [(Origin::Here, Protocol::Tcp), (Origin::There, Protocol::Udp)] {
            let mut stream = self.stream(origin, protocol, Family::V4, 1000)?;
            stream.wait_for_answers(50)?;
            manifests.write("allow.yaml", DENY_ALL)?;
            wait_until_cut(&mut stream)?;
            manifests.write("allow.yaml", ALLOW_FAR)?;
            stream.wait_for_answers(50)?;
            ensure!(stream.finish()?.error.is_none());
        }
        ensure!(self.n_seen()? == 0, "{}", self.n_seen()?);
        Ok(())
    }

    /// One stream of each kind, all of which have been answered.
    fn streams(&self) -> Result<Vec<Stream>> {
        let mut streams = Vec::new();
        for origin in [Origin::Here, Origin::There] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for family in [Family::V4, Family::V6] {
                    streams.push(self.stream(origin, protocol, family, 1000)?);
                }
            }
        }
        all_go_on(&mut streams, "at first")?;
        Ok(streams)
    }
}

/// The node whose pod begins a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    Here,
    There,
}

/// Without an error, and without a loss.
fn finish(streams: Vec<Stream>) -> Result<()> {
    for stream in streams {
        let name = stream.name().to_owned();
        let report = stream.finish()?;
        ensure!(report.error.is_none() && report.n_missing() == 0, "{name}: {report:?}");
    }
    Ok(())
}

#[test]
fn packets_between_pods_of_two_nodes_pass_no_netfilter_and_are_routed_all_the_same() -> Result<()> {
    let Some(nodes) = Nodes::new("short-cut-two")? else { return Ok(()) };
    nodes.pass_by()
}

/// With routes instead of a device, the Node objects say which of them lead to pods.
#[test]
fn packets_by_routes_to_nodes_take_it_where_the_node_objects_name_the_networks() -> Result<()> {
    let Some(nodes) = Nodes::by(Backend::HostGw, "short-cut-two-gw")? else { return Ok(()) };
    let node = nodes.lab.netns(&Host::Node)?;
    node.configure(&format!("route add 198.51.100.0/24 via {} dev {UPLINK}\n", ADDRESSES[0]))?;
    nodes.pass_by()?;
    nodes.are_cut_by_policies()?;
    let mut streams = nodes.streams()?;
    nodes.lab.manifests().remove(NODE_FILE)?;
    nodes.wait_for_overlays(&[])?;
    all_go_on(&mut streams, "without the Node object")?;
    ensure!(nodes.n_seen()? > 100, "{}", nodes.n_seen()?);
    for stream in streams {
        ensure!(stream.finish()?.error.is_none());
    }
    Ok(())
}

#[test]
fn a_policy_cuts_connections_between_nodes_and_lets_them_go_on() -> Result<()> {
    let Some(nodes) = Nodes::new("short-cut-two-cut")? else { return Ok(()) };
    nodes.are_cut_by_policies()
}

#[test]
fn connections_between_nodes_outlive_the_agent_and_the_short_cut() -> Result<()> {
    let Some(mut nodes) = Nodes::new("short-cut-two-end")? else { return Ok(()) };
    let mut old = nodes.streams()?;
    nodes.lab.take_agent()?.kill()?;
    all_go_on(&mut old, "after kill -9 of the agent")?;
    nodes.lab.start_agent()?;
    nodes.wait_for_overlay("on")?;
    all_go_on(&mut old, "after a restart")?;
    ensure!(nodes.n_seen()? == 0, "{}", nodes.n_seen()?);
    restart(&mut nodes.lab, "off")?;
    wait_for(&nodes.lab, &["shop/web", "shop/client"], "off")?;
    all_go_on(&mut old, "after the short cut was switched off")?;
    ensure!(nodes.n_seen()? > 100, "{}", nodes.n_seen()?);
    finish(old)
}

#[test]
fn a_tunnel_that_is_made_anew_or_is_too_small_costs_no_connection() -> Result<()> {
    let Some(nodes) = Nodes::new("short-cut-two-new")? else { return Ok(()) };
    let mut old = nodes.streams()?;
    let node = nodes.lab.netns(&Host::Node)?;
    node.configure(&format!("link del {TUNNEL}\n"))?;
    // Until the agent knows, the first packets of new connections go to the old device.
    nodes.wait_for_overlays(&[])?;
    node.configure(&second_node::own_tunnel())?;
    // The other node learns the MAC address of the new device, as from flanneld.
    nodes.second.netns.configure(&format!("neighbour flush dev {TUNNEL}\n"))?;
    all_go_on(&mut old, "with another device")?;
    nodes.wait_for_overlay("on")?;
    let before = nodes.n_seen()?;
    finish(nodes.streams()?)?;
    // Those that began before go on by the usual way.
    ensure!(nodes.n_seen()? > before);
    for stream in old {
        ensure!(stream.finish()?.error.is_none());
    }
    let mut old = nodes.streams()?;
    let before = nodes.n_seen()?;
    all_go_on(&mut old, "on the short cut")?;
    ensure!(nodes.n_seen()? == before);
    node.configure(&format!("link set {TUNNEL} mtu 1400\n"))?;
    nodes.wait_for_overlay("mtu")?;
    all_go_on(&mut old, "with a smaller MTU")?;
    finish(old)
}

#[test]
fn a_netfilter_rule_about_the_tunnel_ends_the_short_cut_between_nodes_only() -> Result<()> {
    let Some(nodes) = Nodes::new("short-cut-two-nft")? else { return Ok(()) };
    let mut streams = nodes.streams()?;
    let rule =
        "add rule inet seen forward oifname flannel.1 ip daddr 10.244.2.0/24 tcp dport 81 drop";
    nft(&nodes.lab, &[rule])?;
    nodes.wait_for_overlay("netfilter")?;
    wait_for(&nodes.lab, &["shop/web", "shop/client"], "on")?;
    let said = nodes.lab.agent_config().ask(&["status"])?;
    ensure!(said.contains("81") && said.contains("flannel.1"), "{said}");
    let before = nodes.n_seen()?;
    all_go_on(&mut streams, "by the usual way")?;
    ensure!(nodes.n_seen()? > before);
    nft(&nodes.lab, &["flush", "table", "inet", "seen"])?;
    nodes.wait_for_overlay("on")?;
    finish(streams)
}

/// Packets between nodes pass the bridge itself, where those between its ports do not.
#[test]
fn rules_and_shapers_of_the_bridge_and_masquerading_plugins_end_the_short_cut_between_nodes()
-> Result<()> {
    let Some(nodes) = Nodes::new("short-cut-two-guard")? else { return Ok(()) };
    let by_rules = [
        "table netdev guard { chain c { type filter hook ingress device cni0 priority 0; meta l4proto tcp drop; }; }",
        "table bridge guard { chain c { type filter hook input priority 0; meta l4proto tcp drop; }; }",
        "table bridge guard { chain c { type filter hook output priority 0; meta l4proto tcp drop; }; }",
        // As the bridge plugin with ipMasq.
        "table ip guard { chain CNI-0123 { ip daddr 10.244.1.0/24 accept; ip daddr != 224.0.0.0/4 masquerade; }; chain POSTROUTING { type nat hook postrouting priority 100; ip saddr 10.244.1.0/24 jump CNI-0123; }; }",
    ];
    for table in by_rules {
        nft(&nodes.lab, &[table])?;
        nodes.wait_for_overlay("netfilter").with_context(|| table.to_owned())?;
        let family = table.split(' ').nth(1).context("no family")?;
        nft(&nodes.lab, &["delete", "table", family, "guard"])?;
        nodes.wait_for_overlay("on")?;
    }
    let node = nodes.lab.netns(&Host::Node)?;
    let tc = |args: &str| -> Result<()> {
        let status = node.spawn(Command::new("tc").args(args.split(' ')))?.wait()?;
        ensure!(status.success(), "tc {args}");
        Ok(())
    };
    tc("qdisc add dev cni0 root tbf rate 100mbit burst 64k latency 50ms")?;
    nodes.wait_for_overlay("program")?;
    wait_for(&nodes.lab, &["shop/web", "shop/client"], "on")?;
    tc("qdisc del dev cni0 root")?;
    nodes.wait_for_overlay("on")
}

#[test]
fn between_nodes_the_short_cut_is_an_option_of_its_own() -> Result<()> {
    let Some(mut nodes) = Nodes::new("short-cut-two-own")? else { return Ok(()) };
    restart(&mut nodes.lab, "on")?;
    wait_for(&nodes.lab, &["shop/web", "shop/client"], "on")?;
    let before = nodes.n_seen()?;
    finish(nodes.streams()?)?;
    ensure!(nodes.n_seen()? - before > 100, "{}", nodes.n_seen()? - before);
    Ok(())
}
