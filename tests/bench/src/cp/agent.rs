//! Rows 12 (memory), 14 and 17: the whole agent on a node, with an API server with a large cluster.

use std::fs;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::memory::{self, Resident};
use crate::gates::Unit;
use crate::scale::{ClusterModel, Shape, json};
use crate::stats::quantile;
use crate::{Estimate, Line, Run, Series, clock};
use netpol_lab::fake_api::FakeApi;
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::{Family, Host, Lab, PodSpec, labels};

/// The UDP port of the server.
const PORT: u16 = 4000;
/// Time limit for an answer; packets cross the node in microseconds.
const LOST_NS: u64 = 3_000_000;
/// Time limit for a change.
const LIMIT_NS: u64 = 20_000_000_000;

/// A node with two pods, an agent, and an API server with a large cluster.
pub(super) struct Node {
    pub(super) lab: Lab,
    pub(super) api: Arc<FakeApi>,
    pub(super) pid: u32,
    _agent: netpol_lab::node::Agent,
}

impl Node {
    /// Starts everything. Instead of the model's endpoints the node has two pods, which a policy selects.
    pub(super) fn start(shape: &Shape) -> Result<Self> {
        let mut lab = Lab::create("bench-cp", Wiring::Bridge)?;
        let api = lab.start_api_server()?;
        let ClusterModel { pods, namespaces, policies, .. } = ClusterModel::new(shape);
        for namespace in &namespaces {
            api.put(json::namespace(namespace));
        }
        for policy in &policies {
            api.put(json::policy(policy));
        }
        for pod in &pods {
            api.put(json::pod(pod));
        }
        lab.apply_namespace("shop", &labels(&[]))?;
        api.put(json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": { "namespace": "shop", "name": "server" },
            "spec": {
                "podSelector": { "matchLabels": { "app": "server" } },
                "ingress": [
                    { "from": [{ "podSelector": { "matchLabels": { "role": "client" } } }] },
                    { "from": [{ "namespaceSelector": { "matchLabels": { "team": "team-1" } } }], "ports": [{ "port": 80 }] },
                ],
            },
        }));
        lab.start_agent()?;
        lab.add_pod(PodSpec::new("shop/server", &[("app", "server")], &[80]))?;
        lab.add_pod(PodSpec::new("shop/client", &[("app", "client")], &[80]))?;
        let agent = lab.take_agent()?;
        Ok(Self { lab, api, pid: agent.pid(), _agent: agent })
    }

    /// Delay from a pod's label change to the first packet with the new verdict, milliseconds: allowed and denied in turn.
    pub(super) fn reactions(&mut self, n_turns: usize) -> Result<Vec<f64>> {
        let server = Host::pod("shop/server");
        let at = self.lab.socket_address(&server, Family::V4, PORT)?;
        let receiver = self.lab.netns(&server)?.inside(|| Ok(UdpSocket::bind(at)?))?;
        receiver.set_nonblocking(true)?;
        let mut times = Vec::new();
        for _ in 0..n_turns {
            // A new connection each time, because a denied one stays denied.
            let client = self.lab.netns(&Host::pod("shop/client"))?;
            let sender = client.inside(|| {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect(at)?;
                Ok(socket)
            })?;
            ensure!(!arrives(&sender, &receiver)?, "a packet passes before anything allows it");
            for (role, wanted) in [("client", true), ("nobody", false)] {
                let begin = clock::now_ns();
                self.lab.relabel("shop/client", &labels(&[("app", "client"), ("role", role)]))?;
                loop {
                    let sent = clock::now_ns();
                    if arrives(&sender, &receiver)? == wanted {
                        times.push(clock::number(sent.saturating_sub(begin)) / 1e6);
                        break;
                    }
                    ensure!(sent < begin + LIMIT_NS, "nothing changes after {role} came");
                    thread::sleep(Duration::from_micros(50));
                }
            }
        }
        Ok(times)
    }

    /// A field of the agent's `/proc/PID/status`, megabytes.
    pub(super) fn memory(&self, field: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kibibytes = line.and_then(|line| line.trim_matches([':', '\t', ' ']).split(' ').next());
        let kibibytes: u64 = kibibytes.with_context(|| format!("no {field}"))?.parse()?;
        Ok(clock::number(kibibytes * 1024) / 1e6)
    }

    /// The processor time that the agent has used, seconds.
    pub(super) fn cpu(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let fields = stat.rsplit(')').next().context("no end of the name")?;
        let ticks: Vec<u64> =
            fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        Ok(clock::number(ticks.iter().sum()) / 100.0)
    }
}

/// Sends one datagram; returns whether it arrives.
fn arrives(sender: &UdpSocket, receiver: &UdpSocket) -> Result<bool> {
    let mut buffer = [0; 8];
    while receiver.recv(&mut buffer).is_ok() {}
    let sent = clock::now_ns();
    sender.send(&sent.to_le_bytes())?;
    loop {
        match receiver.recv(&mut buffer) {
            Ok(_) if buffer == sent.to_le_bytes() => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if clock::now_ns() > sent + LOST_NS {
                    return Ok(false);
                }
                thread::yield_now();
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Measures.
pub(super) fn measure(run: &mut Run) -> Result<()> {
    let shapes = [
        ("10k pods, 1k policies", Shape::MEDIUM, Some("17")),
        ("100k pods, 10k policies", Shape::LARGE, None),
        ("100k pods, 75k policies, 25k namespaces", Shape::MANY_NAMESPACES, Some("12b")),
    ];
    let n_turns = run.size(100, 3);
    let mut resident = Vec::new();
    let mut sizes = Vec::new();
    for (name, full, row) in shapes {
        run.say(&format!("the agent with {name}"));
        let shape = super::shape(run, full);
        let mut node = Node::start(&shape)?;
        node.reactions(1)?;
        let (rss, peak) = (node.memory("VmRSS")?, node.memory("VmHWM")?);
        let cpu = node.cpu()?;
        run.note(format!(
            "The agent with {name}: {rss:.1} MB resident, {peak:.1} MB at the most, after the first lists, and {cpu:.2} s of \
             processor time, programs loaded and lists read.",
        ));
        if let Some(row) = row {
            run.answer(
                row,
                Estimate::exact(rss),
                "the whole agent as the image has it, VmRSS after the lists",
            )?;
        }
        let mut line = Line::new(name.to_owned());
        line.samples.push(rss);
        resident.push(line);
        sizes.push(Resident { shape, megabytes: rss });
        if row == Some("17") {
            reactions(run, &mut node, n_turns)?;
            at_rest(run, &node)?;
        }
    }
    run.add(Series {
        title: "memory of the agent with a cluster watched".to_owned(),
        unit: Unit::Megabytes,
        baseline: None,
        note: "VmRSS of /proc/PID/status once the lists are in force.".to_owned(),
        lines: resident,
    });
    if let [_, large, many] = sizes[..] {
        memory::measure(run, large, many)?;
    }
    Ok(())
}

fn reactions(run: &mut Run, node: &mut Node, n_turns: usize) -> Result<()> {
    let mut lines = ["half of them", "99 of 100"].map(|name| Line::new(name.to_owned()));
    for round in 0..run.n_rounds() {
        run.say(&format!("reactions: round {} of {}", round + 1, run.n_rounds()));
        let times = node.reactions(n_turns)?;
        for (line, part) in lines.iter_mut().zip([0.5, 0.99]) {
            line.samples.push(quantile(&times, part));
        }
    }
    let series = Series {
        title: "a pod gets other labels: until the first packet is judged by them".to_owned(),
        unit: Unit::Millis,
        baseline: None,
        note: "From the change in the API server of this process to the sending of the first UDP packet that passes, or \
               that does not any more; 10k pods and 1k policies around."
            .to_owned(),
        lines: lines.into(),
    };
    run.answer("14", series.level("99 of 100")?, "with packets, opened and closed in turn")?;
    run.add(series);
    Ok(())
}

fn at_rest(run: &mut Run, node: &Node) -> Result<()> {
    let seconds = run.size(10, 1);
    let before = node.cpu()?;
    thread::sleep(Duration::from_secs(u64::try_from(seconds)?));
    let used = node.cpu()? - before;
    run.note(format!("At rest the agent used {used:.2} s of processor time in {seconds} s."));
    Ok(())
}
