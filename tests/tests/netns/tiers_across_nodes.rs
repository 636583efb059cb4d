//! ClusterNetworkPolicies decide about connections between two nodes: the ends are judged by the programs of different nodes.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netpol_agent::agent::DropRecord;
use netpol_lab::node::agent::Config;
use netpol_lab::node::objects::node;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Family, Host, PodSpec, Stream};
use netpol_lab::probe::Protocol;
use netpol_policy::resolve::Tier;
use serde_json::{Value, json};

use super::live_flows::wait_until_cut;
use super::two_nodes::{CLIENT, TwoNodes};
use super::{ALLOW_CLIENTS, DENY_WEB, sctp};

/// Within this time an answer arrives or none does.
const ANSWER: Duration = Duration::from_millis(300);

/// The connections of each state of the cluster: to web on the first node, to client on the second, and from client to the first node.
const CONNECTIONS: [&str; 11] = [
    "web TCP/80",
    "web TCP/443",
    "web UDP/80",
    "web SCTP/80",
    "web SCTP/443",
    "client TCP/80",
    "client TCP/443",
    "client UDP/80",
    "client SCTP/80",
    "client SCTP/443",
    "node TCP/80",
];

/// Distinguishes SCTP packets.
static TAG: AtomicU32 = AtomicU32::new(1);

/// A policy for one of the pods.
fn policy(name: &str, tier: &str, priority: u16, subject: &str, rules: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{ name: {name} }}\n\
         spec: {{ tier: {tier}, priority: {priority}, subject: {subject}, {rules} }}\n"
    )
}

/// The pods with the label, as subject or peer.
fn pods(label: &str) -> String {
    format!(
        "{{ pods: {{ namespaceSelector: {{}}, podSelector: {{ matchLabels: {{ {label} }} }} }} }}"
    )
}

fn port(protocol: &str, number: u16) -> String {
    format!("{{ {protocol}: {{ destinationPort: {{ number: {number} }} }} }}")
}

fn nodes(name: &str) -> Result<Option<TwoNodes>> {
    let web = PodSpec::new("shop/web", &[("app", "web")], &[80, 443]);
    let named = json!([{ "name": "web", "containerPort": 80, "protocol": "TCP" }]);
    let Some(nodes) = TwoNodes::start(name, web.clone(), &named)? else { return Ok(None) };
    // The same name is another number here.
    let path = nodes.lab.manifests().folder().join(web.file());
    let mut object: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let ports = object.pointer_mut("/spec/containers/0/ports").context("no ports")?;
    *ports = json!([{ "name": "web", "containerPort": 443, "protocol": "TCP" }]);
    nodes.lab.manifests().write_object(&web.file(), &object)?;
    Ok(Some(nodes))
}

impl TwoNodes {
    fn write(&self, file: &str, content: &str) -> Result<()> {
        self.lab.manifests().write(file, content)
    }

    fn remove(&self, files: &[&str]) -> Result<()> {
        files.iter().try_for_each(|file| self.lab.manifests().remove(file))
    }

    /// Waits until just the [`CONNECTIONS`] that begin with one of these texts are dropped, in both families.
    fn expect_drops(&self, dropped: &[&str]) -> Result<()> {
        let is_dropped = |text: &&str| dropped.iter().any(|start| text.starts_with(start));
        let names = |text| Family::BOTH.map(|family| name(text, family));
        let expected: BTreeSet<_> =
            CONNECTIONS.into_iter().filter(is_dropped).flat_map(names).collect();
        until(&format!("drops of {dropped:?}"), LIMIT, || {
            let found = self.drops()?;
            Ok(if found == expected { Look::Done(()) } else { Look::NotYet(format!("{found:?}")) })
        })
        .with_context(|| format!("log: {}", self.lab.agent_log().unwrap_or_default()))
    }

    /// The names of those of [`CONNECTIONS`] that are dropped.
    fn drops(&self) -> Result<BTreeSet<String>> {
        let mut drops = BTreeSet::new();
        std::thread::scope(|scope| -> Result<()> {
            let mut running = Vec::new();
            for text in CONNECTIONS {
                for family in Family::BOTH {
                    let probe = scope.spawn(move || self.passes(text, family));
                    running.push((name(text, family), probe));
                }
            }
            for (name, probe) in running {
                let passes = probe.join().ok().context("a probe panicked")?;
                if !passes.with_context(|| name.clone())? {
                    drops.insert(name);
                }
            }
            Ok(())
        })?;
        Ok(drops)
    }

    fn passes(&self, connection: &str, family: Family) -> Result<bool> {
        let (to, what) = connection.split_once(' ').context("no destination")?;
        let (protocol, port) = what.split_once('/').context("no port")?;
        let port = port.parse()?;
        let web = Host::pod("shop/web");
        let at = |host: &Host| self.lab.socket_address(host, family, port);
        let (source, destination, address) = match to {
            "web" => (&self.client.netns, self.lab.netns(&web)?, at(&web)?),
            "node" => (&self.client.netns, self.lab.netns(&Host::Node)?, at(&Host::Node)?),
            _ => {
                let [v4, v6] = CLIENT;
                let address = if family == Family::V4 { v4 } else { v6 };
                (self.lab.netns(&web)?, &self.client.netns, SocketAddr::new(address, port))
            }
        };
        match protocol {
            "TCP" => source.inside(|| echoes_tcp(address)),
            "UDP" => source.inside(|| echoes_udp(address)),
            _ => {
                let tag = TAG.fetch_add(1, Ordering::Relaxed);
                sctp::arrives(source, destination, address, tag, ANSWER)
            }
        }
    }

    fn stream(&self, protocol: Protocol, family: Family) -> Result<Stream> {
        let to = self.lab.socket_address(&Host::pod("shop/web"), family, 80)?;
        Stream::start(&self.client.netns, protocol, to, 1000)
    }
}

fn name(connection: &str, family: Family) -> String {
    format!("{connection} {family:?}")
}

/// Whether a message comes back. Silence is a drop; nothing else may go wrong.
fn echoes_tcp(address: SocketAddr) -> Result<bool> {
    let mut stream = match TcpStream::connect_timeout(&address, ANSWER) {
        Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(false),
        stream => stream?,
    };
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"tiers")?;
    is_answered(stream.read_exact(&mut [0; 5]))
}

fn echoes_udp(address: SocketAddr) -> Result<bool> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(ANSWER))?;
    socket.send(b"tiers")?;
    is_answered(socket.recv(&mut [0; 5]).map(drop))
}

fn is_answered(read: std::io::Result<()>) -> Result<bool> {
    match read {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

/// The agent has dropped a packet by a rule of this policy.
fn expect_recorded(agent: &Config, policy: &str, tier: Tier) -> Result<()> {
    let text = agent.ask(&["drops", "-o", "json"])?;
    let records: Vec<DropRecord> =
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let rule = format!("ClusterNetworkPolicy {policy} ");
    let is_it = |record: &DropRecord| {
        record.tier == Some(tier)
            && record.rule.as_ref().is_some_and(|found| found.starts_with(&rule))
    };
    ensure!(records.iter().any(is_it), "no drop by {policy}:\n{text}");
    Ok(())
}

#[test]
fn the_tiers_decide_in_their_order_between_two_nodes() -> Result<()> {
    let Some(nodes) = nodes("two-tiers")? else { return Ok(()) };
    let (web, client) = (pods("app: web"), pods("role: client"));
    nodes.expect_drops(&[])?;

    // Each end has its own rules, and each node drops by those of its pod.
    let to_web = format!(
        "ingress: [{{ action: Deny, from: [{client}], protocols: [{}] }}]",
        port("tcp", 80)
    );
    nodes.write("web.yaml", &policy("to-web", "Admin", 5, &web, &to_web))?;
    let of_client = format!(
        "egress: [{{ action: Deny, to: [{web}], protocols: [{}, {}] }}]",
        port("udp", 80),
        port("sctp", 443)
    );
    nodes.write("client.yaml", &policy("of-client", "Admin", 5, &client, &of_client))?;
    nodes.expect_drops(&["web TCP/80", "web UDP/80", "web SCTP/443"])?;
    expect_recorded(nodes.lab.agent_config(), "to-web", Tier::Admin)?;
    expect_recorded(&nodes.second_agent, "of-client", Tier::Admin)?;
    nodes.remove(&["web.yaml", "client.yaml"])?;

    // A NetworkPolicy denies everything, and Admin accepts some of it nevertheless.
    nodes.write("deny.yaml", DENY_WEB)?;
    let accept = format!(
        "ingress: [{{ action: Accept, from: [{client}], protocols: [{}, {}] }}]",
        port("tcp", 80),
        port("sctp", 80)
    );
    nodes.write("accept.yaml", &policy("accept", "Admin", 5, &web, &accept))?;
    nodes.expect_drops(&["web TCP/443", "web UDP/80", "web SCTP/443"])?;

    // What is passed on to the NetworkPolicies before, they decide. Baseline is not asked.
    let pass = format!(
        "ingress: [{{ action: Pass, from: [{client}], protocols: [{}] }}]",
        port("tcp", 80)
    );
    nodes.write("pass.yaml", &policy("pass", "Admin", 4, &web, &pass))?;
    let all = "ingress: [{ action: Accept, from: [{ namespaces: {} }] }]";
    nodes.write("baseline.yaml", &policy("baseline", "Baseline", 1, &web, all))?;
    nodes.expect_drops(&["web TCP", "web UDP/80", "web SCTP/443"])?;
    nodes.write("allow.yaml", ALLOW_CLIENTS)?;
    nodes.expect_drops(&["web TCP/443", "web SCTP/443"])?;
    nodes.remove(&["accept.yaml", "pass.yaml", "baseline.yaml", "allow.yaml", "deny.yaml"])?;

    // Baseline decides where no NetworkPolicy isolates the sender, on the second node.
    let deny = format!("egress: [{{ action: Deny, to: [{web}] }}]");
    nodes.write("baseline.yaml", &policy("baseline", "Baseline", 1, &client, &deny))?;
    nodes.expect_drops(&["web"])?;
    expect_recorded(&nodes.second_agent, "baseline", Tier::Baseline)?;
    let only_443 = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: only-443, namespace: shop }\n\
                    spec: { podSelector: { matchLabels: { role: client } }, policyTypes: [Egress], egress: [{ ports: [{ port: 443 }] }] }\n";
    nodes.write("only-443.yaml", only_443)?;
    nodes.expect_drops(&["web TCP/80", "web UDP", "web SCTP", "node"])?;
    nodes.remove(&["baseline.yaml", "only-443.yaml"])?;
    nodes.expect_drops(&[])
}

#[test]
fn peers_and_ports_of_cluster_policies_are_those_of_both_nodes() -> Result<()> {
    let Some(nodes) = nodes("two-peers")? else { return Ok(()) };
    let (web, client) = (pods("app: web"), pods("role: client"));
    let egress = |to: &str, protocols: &str| {
        format!("egress: [{{ action: Deny, to: [{to}], protocols: [{protocols}] }}]")
    };

    // SCTP has its own ports.
    nodes
        .write("one.yaml", &policy("one", "Admin", 1, &web, &egress(&client, &port("sctp", 80))))?;
    nodes.write("two.yaml", &policy("two", "Admin", 1, &client, &egress(&web, "{ sctp: {} }")))?;
    nodes.expect_drops(&["client SCTP/80", "web SCTP"])?;

    // A port name is that of the destination on the other node.
    let named = "{ destinationNamedPort: web }";
    nodes.write("one.yaml", &policy("one", "Admin", 1, &web, &egress(&client, named)))?;
    nodes.write("two.yaml", &policy("two", "Admin", 1, &client, &egress(&web, named)))?;
    nodes.expect_drops(&["client TCP/80", "web TCP/443"])?;
    nodes.remove(&["one.yaml"])?;

    // Networks hold the pods of the other node, and the node; an accepted port comes first.
    let networks = format!(
        "egress: [{{ action: Accept, to: [{web}], protocols: [{}] }}, \
         {{ action: Deny, to: [{{ networks: [10.244.1.0/24, \"fd00:10:244:1::/64\", 192.0.2.0/24, \"2001:db8:192::/64\"] }}] }}]",
        port("tcp", 80)
    );
    nodes.write("two.yaml", &policy("two", "Admin", 1, &client, &networks))?;
    nodes.expect_drops(&["web TCP/443", "web UDP", "web SCTP", "node"])?;

    // The addresses of nodes, as soon as a node has the label. Pods with that label are none.
    let zone = "egress: [{ action: Deny, to: [{ nodes: { matchExpressions: [{ key: app, operator: In, values: [web] }] } }] }]";
    nodes.write("two.yaml", &policy("two", "Admin", 1, &client, zone))?;
    nodes.expect_drops(&[])?;
    let mut labelled = node();
    labelled["metadata"]["labels"] = json!({ "app": "web" });
    nodes.lab.manifests().write_object("node.yaml", &labelled)?;
    nodes.expect_drops(&["node"])
}

#[test]
fn a_deny_on_either_node_cuts_connections_between_them() -> Result<()> {
    let Some(nodes) = nodes("two-cut")? else { return Ok(()) };
    let (web, client) = (pods("app: web"), pods("role: client"));
    let mut streams =
        vec![nodes.stream(Protocol::Tcp, Family::V4)?, nodes.stream(Protocol::Udp, Family::V6)?];
    let at_web = policy(
        "at-web",
        "Admin",
        1,
        &web,
        &format!("ingress: [{{ action: Deny, from: [{client}] }}]"),
    );
    let at_client = policy(
        "at-client",
        "Admin",
        1,
        &client,
        &format!("egress: [{{ action: Deny, to: [{web}] }}]"),
    );
    for deny in [at_web, at_client] {
        for stream in &mut streams {
            stream.wait_for_answers(50)?;
        }
        nodes.write("deny.yaml", &deny)?;
        for stream in &mut streams {
            wait_until_cut(stream)?;
        }
        nodes.remove(&["deny.yaml"])?;
    }
    for mut stream in streams {
        stream.wait_for_answers(50)?;
        let report = stream.finish()?;
        ensure!(report.error.is_none(), "{report:?}");
    }
    Ok(())
}
