//! What can happen to the short cut while connections use it: each of them goes on, after one retransmission at most.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use netpol_common::maps::ABI_VERSION;
use netpol_lab::binaries::binary;
use netpol_lab::node::netns::Counter;
use netpol_lab::node::second_node::{self, TUNNEL};
use netpol_lab::node::{Bridge, Family, Host, Stream};
use netpol_lab::probe::Protocol;

use super::PORT;
use super::short_cut::{restart, wait_for};
use super::short_cut_nodes::{Nodes, Origin};
use super::upgrade::wait_for_one_version;

/// TCP connections between the pods of the node, and as many between pods of two nodes.
const N_EACH: usize = 32;
/// Microseconds between two messages of a connection.
const PACE_US: u64 = 100_000;

/// The pods of shop, whatever their node, accept and reach each other.
const ALLOW_SHOP: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-far, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {}}]}]
  egress: [{to: [{podSelector: {}}]}]
";

const PODS: [&str; 2] = ["shop/web", "shop/client"];

/// Connections of two nodes, with what happens to them.
struct Life {
    nodes: Nodes,
    streams: Vec<Stream>,
}

impl Life {
    /// Opens the connections; UDP between each pair of pods too.
    fn begin(nodes: Nodes) -> Result<Self> {
        let client = Host::pod("shop/client");
        let mut streams = Vec::new();
        for number in 0..=N_EACH {
            let protocol = if number == 0 { Protocol::Udp } else { Protocol::Tcp };
            let family = if number % 2 == 0 { Family::V4 } else { Family::V6 };
            let origin = if number % 4 < 2 { Origin::Here } else { Origin::There };
            let web = nodes.lab.socket_address(&Host::pod("shop/web"), family, PORT)?;
            streams.push(nodes.lab.stream(&client, protocol, web, PACE_US)?);
            streams.push(nodes.stream(origin, protocol, family, PACE_US)?);
        }
        let mut life = Self { nodes, streams };
        life.go_on("at first")?;
        Ok(life)
    }

    /// Closes the connections.
    fn end(self) -> Result<Nodes> {
        for stream in self.streams {
            let report = stream.finish()?;
            ensure!(report.error.is_none(), "{report:?}");
        }
        Ok(self.nodes)
    }

    /// TCP segments that the pods have sent again.
    fn n_sent_again(&self) -> Result<u64> {
        let here = PODS.into_iter();
        let here = here.map(|pod| self.nodes.lab.netns(&Host::pod(pod)));
        let all = here.chain([Ok(&self.nodes.second.pod)]);
        all.map(|netns| netns?.counter(Counter::TcpSentAgain)).sum()
    }

    /// Waits for five further answers of each connection, of all at the same time.
    fn go_on(&mut self, what: &str) -> Result<()> {
        let wanted: Vec<_> =
            self.streams.iter().map(|stream| stream.report().n_received + 5).collect();
        for (stream, wanted) in self.streams.iter_mut().zip(wanted) {
            stream
                .wait_until("five more answers", |report| report.n_received >= wanted)
                .with_context(|| what.to_owned())?;
        }
        Ok(())
    }

    /// Lets something happen, after which every connection goes on.
    fn meet(&mut self, what: &str, event: impl FnOnce(&mut Nodes) -> Result<()>) -> Result<()> {
        let before = self.n_sent_again()?;
        event(&mut self.nodes).with_context(|| what.to_owned())?;
        self.go_on(what)?;
        let n_again = self.n_sent_again()? - before;
        // As many as the connections have ends.
        ensure!(n_again <= 4 * N_EACH as u64, "{what}: {n_again} segments were sent again");
        Ok(())
    }
}

fn wait_until_on(nodes: &Nodes) -> Result<()> {
    wait_for(&nodes.lab, &PODS, "on")?;
    nodes.wait_for_overlay("on")
}

/// Gives the pins the number of another version, which the agent then replaces.
fn exchange(nodes: &mut Nodes, version: u32) -> Result<()> {
    nodes.lab.take_agent()?.kill()?;
    let pins = nodes.lab.agent_config().pins.clone();
    let [own, other] = [ABI_VERSION, version].map(|version| pins.join(format!("v{version}")));
    fs::rename(own, other)?;
    nodes.lab.start_agent()?;
    wait_for_one_version(&nodes.lab, &pins)?;
    wait_until_on(nodes)
}

fn uninstall(nodes: &mut Nodes) -> Result<()> {
    nodes.lab.take_agent()?.terminate()?;
    let config = nodes.lab.agent_config().clone();
    let nowhere = nodes.lab.folder().join("nowhere");
    fs::create_dir_all(&nowhere)?;
    let mut command = Command::new(binary("netpol-agent")?);
    command.arg("uninstall").arg("--pin-root").arg(&config.pins);
    command.arg("--socket").arg(config.socket());
    command.arg("--conf-dir").arg(&nowhere).arg("--bin-dir").arg(&nowhere);
    let ended = nodes.lab.netns(&Host::Node)?.spawn(command.stdout(Stdio::null()))?.wait()?;
    ensure!(ended.success() && !config.pins.exists(), "{ended}");
    Ok(())
}

fn make_tunnel_anew(nodes: &mut Nodes) -> Result<()> {
    let node = nodes.lab.netns(&Host::Node)?;
    node.configure(&format!("link del {TUNNEL}\n"))?;
    node.configure(&second_node::own_tunnel())?;
    // The other node learns the MAC address of the new device, as from flanneld.
    nodes.second.netns.configure(&format!("neighbour flush dev {TUNNEL}\n"))?;
    nodes.wait_for_overlay("on")
}

fn nodes(name: &str) -> Result<Option<Nodes>> {
    let Some(nodes) = Nodes::new(name)? else { return Ok(None) };
    nodes.lab.set_bridge(Bridge::Filtered)?;
    nodes.lab.manifests().write("allow.yaml", ALLOW_SHOP)?;
    Ok(Some(nodes))
}

#[test]
fn connections_outlive_all_that_happens_to_the_agent() -> Result<()> {
    let Some(nodes) = nodes("short-cut-agent")? else { return Ok(()) };
    let mut life = Life::begin(nodes)?;
    life.meet("killed", |nodes| nodes.lab.take_agent()?.kill())?;
    life.meet("started again", |nodes| {
        nodes.lab.start_agent()?;
        wait_until_on(nodes)
    })?;
    life.meet("upgraded", |nodes| exchange(nodes, ABI_VERSION - 1))?;
    life.meet("downgraded", |nodes| exchange(nodes, ABI_VERSION + 1))?;
    life.meet("uninstalled", uninstall)?;
    life.end()?;
    Ok(())
}

#[test]
fn connections_outlive_all_that_happens_to_devices() -> Result<()> {
    let Some(nodes) = nodes("short-cut-devices")? else { return Ok(()) };
    let mut life = Life::begin(nodes)?;
    life.meet("neighbours forgotten", |nodes| {
        let node = nodes.lab.netns(&Host::Node)?;
        node.configure(&format!("neighbour flush dev cni0\nneighbour flush dev {TUNNEL}\n"))
    })?;
    life.meet("another tunnel", make_tunnel_anew)?;
    life.meet("switched off", |nodes| {
        restart(&mut nodes.lab, "off")?;
        wait_for(&nodes.lab, &PODS, "off")
    })?;
    life.meet("switched on", |nodes| {
        restart(&mut nodes.lab, "nodes")?;
        wait_until_on(nodes)
    })?;
    life.meet("smaller MTU", |nodes| {
        nodes.lab.netns(&Host::Node)?.configure(&format!("link set {TUNNEL} mtu 1400\n"))?;
        nodes.wait_for_overlay("mtu")
    })?;
    life.end()?;
    Ok(())
}
