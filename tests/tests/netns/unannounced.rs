//! Pods whose interface appears without an ADD of ours: the bridge plugin alone, as while another program has rewritten the CNI
//! configuration. Their interface is closed at once, and their policy is in force as soon as the runtime's result names it.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netpol_agent::agent::{InterfaceState, Protection};
use netpol_common::ids::IfIndex;
use netpol_common::keys::EndpointValue;
use netpol_datapath::Datapath;
use netpol_lab::node::netns::{Counter, Netns};
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Family, Host, Lab, Passing, PodSpec, Stream};
use netpol_lab::probe::Protocol::{Tcp, Udp};
use netpol_lab::settings::{n_pods, patience};
use netpol_netlink::{LinkKind, Netlink};
use netpol_policy::dataplane::port::Maps as _;

use super::{ALLOW_CLIENTS, DENY_ALL, PORT, client, expect, lab, maps, web};

/// Pods whose times are measured, without `NETPOL_PODS`.
const N_PODS: usize = 10;

/// Interval between datagrams, microseconds.
const PACE_US: u64 = 200;

/// Between two looks of the watcher, so that it leaves the processor to the agent.
const PAUSE: Duration = Duration::from_micros(300);

/// Time within which the interface must be closed, at the median: a loaded machine delays single pods.
const GATE: Duration = Duration::from_millis(100);

/// The times of a new interface.
#[derive(Clone, Copy, Debug)]
struct Times {
    appeared: Instant,
    /// It drops everything.
    closed: Instant,
    /// The policy of its pod is in force.
    in_force: Instant,
}

/// Watches for the next interface of a pod, without the lab.
struct Watcher {
    maps: Datapath,
    node: Netns,
    links: PathBuf,
}

impl Watcher {
    fn open(lab: &Lab) -> Result<Self> {
        let version = format!("v{}", netpol_common::maps::ABI_VERSION);
        let links = lab.agent_config().pins.join(version).join("links");
        Ok(Self { maps: maps(lab)?, node: lab.netns(&Host::Node)?.clone(), links })
    }

    /// Watches until the next interface of a pod has its policy in force. `is_watching` is set when it has begun.
    #[expect(clippy::disallowed_methods, reason = "the test measures")]
    fn watch(&self, is_watching: &AtomicBool) -> Result<Times> {
        self.node.inside(|| {
            let mut netlink = Netlink::open()?;
            let mut veths = || -> Result<Vec<_>> {
                let links = netlink.links()?.into_iter();
                let veths = links.filter(|link| link.kind == LinkKind::Veth);
                Ok(veths.map(|link| link.index).collect())
            };
            let before = veths()?;
            is_watching.store(true, Ordering::Release);
            let begin = Instant::now();
            let (mut appeared, mut closed) = (None, None);
            while begin.elapsed() < LIMIT {
                thread::sleep(PAUSE);
                let Some((ifindex, since)) = appeared else {
                    let new = veths()?.into_iter().find(|ifindex| !before.contains(ifindex));
                    appeared = new.map(|ifindex| (ifindex, Instant::now()));
                    continue;
                };
                let Some(closed) = closed else {
                    closed = self.is_attached(ifindex)?.then(Instant::now);
                    continue;
                };
                let endpoints = self.maps.map_state()?.endpoints;
                let state = endpoints.get(&ifindex).map(|endpoint| endpoint.value.state);
                if state == Some(EndpointValue::READY) {
                    return Ok(Times { appeared: since, closed, in_force: Instant::now() });
                }
            }
            anyhow::bail!("not within {LIMIT:?}: appeared {appeared:?}, closed after {closed:?}")
        })
    }

    /// Whether both programs are attached, by their pins.
    fn is_attached(&self, ifindex: IfIndex) -> Result<bool> {
        let prefix = format!("{ifindex}-");
        let mut n_pins = 0;
        for entry in fs::read_dir(&self.links)? {
            n_pins += usize::from(entry?.file_name().to_string_lossy().starts_with(&prefix));
        }
        Ok(n_pins >= 2)
    }
}

fn n_arrived(lab: &Lab) -> Result<u64> {
    lab.netns(&Host::pod("shop/web"))?.counter(Counter::UdpArrived)
}

/// Creates a pod's object, and waits until the agent knows it: in a cluster it does before the kubelet starts a sandbox.
fn prepare(lab: &mut Lab, spec: &PodSpec, n_pods: usize) -> Result<Netns> {
    let netns = lab.prepare_pod(spec)?;
    until("the agent's knowledge of the pod", LIMIT, || {
        let n_known = lab.status()?.n_objects.get(&netpol_policy::model::Kind::Pod).copied();
        Ok(if n_known == Some(n_pods) {
            Look::Done(())
        } else {
            Look::NotYet(format!("{n_known:?} pods"))
        })
    })?;
    Ok(netns)
}

/// Row 31 of the goals: from the interface's appearance to the policy. Prints the times.
#[test]
#[expect(clippy::disallowed_methods, reason = "the test measures")]
fn a_pod_that_nobody_announces_sends_nothing_and_is_closed_within_100_ms() -> Result<()> {
    let Some(mut lab) = lab("unannounced")? else { return Ok(()) };
    lab.add_pod(web())?;
    lab.manifests().write("deny.yaml", DENY_ALL)?;
    lab.skip_plugin("netpol-cni");
    let destination = lab.socket_address(&Host::pod("shop/web"), Family::V4, PORT)?;
    let n_before = n_arrived(&lab)?;
    let watcher = Watcher::open(&lab)?;
    let mut all = Vec::new();
    let n_pods = n_pods(N_PODS);
    for n in 0..n_pods {
        let spec = PodSpec::new(&format!("shop/visitor{n}"), &[], &[PORT]);
        let netns = prepare(&mut lab, &spec, n + 2)?;
        let is_watching = AtomicBool::new(false);
        let (times, added, mut stream) = thread::scope(|scope| -> Result<_> {
            let watching = scope.spawn(|| watcher.watch(&is_watching));
            while !is_watching.load(Ordering::Acquire) && !watching.is_finished() {
                thread::yield_now();
            }
            // It sends as soon as the plugin has returned, which is earlier than a container can.
            let (added, stream) = lab.connect_pod(spec, &netns, |netns| {
                let added = Instant::now();
                Ok((added, Stream::start(netns, Udp, destination, PACE_US)?))
            })?;
            Ok((watching.join().ok().context("the watcher panicked")??, added, stream))
        })?;
        stream.wait_for_messages(20)?;
        let report = stream.finish()?;
        ensure!(report.n_received == 0, "{report:?}");
        all.push((times, times.in_force.saturating_duration_since(added)));
    }
    let n_leaked = n_arrived(&lab)? - n_before;
    let of = |time: fn(&(Times, Duration)) -> Duration| {
        let mut times: Vec<_> = all.iter().map(time).collect();
        times.sort();
        (times[times.len() / 2], times[times.len() - 1])
    };
    let closed = of(|(times, _)| times.closed - times.appeared);
    let in_force = of(|(times, _)| times.in_force - times.appeared);
    let after_add = of(|(_, after_add)| *after_add);
    println!("a pod without an ADD, median and maximum of {n_pods}:");
    println!("from the appearance of its interface until it is closed: {closed:.1?}");
    println!("until its policy is in force, the plugin's own time included: {in_force:.1?}");
    println!("from the end of the plugin until its policy is in force: {after_add:.1?}");
    println!("packets that it sent and that arrived: {n_leaked}");
    ensure!(n_leaked == 0, "{n_leaked} packets arrived");
    ensure!(closed.0 <= GATE * patience(), "{closed:?}");
    Ok(())
}

#[test]
fn a_pod_that_nobody_announces_loses_nothing_that_is_allowed_once_it_is_known() -> Result<()> {
    let Some(mut lab) = lab("unannounced-ok")? else { return Ok(()) };
    lab.manifests().write("deny.yaml", DENY_ALL)?;
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    lab.manifests().write("leave.yaml", super::older::CLIENTS_MAY_LEAVE)?;
    lab.add_pod(web())?;
    lab.skip_plugin("netpol-cni");
    let destination = lab.socket_address(&Host::pod("shop/web"), Family::V4, PORT)?;
    let netns = lab.prepare_pod(&client())?;
    let mut stream =
        lab.connect_pod(client(), &netns, |netns| Stream::start(netns, Udp, destination, 2000))?;
    // What is sent before the agent knows the pod is lost, and nothing after that.
    let begun = stream.wait_for_answers(1)?;
    let report = stream.wait_for_answers(500)?;
    ensure!(report.n_missing() <= begun.n_missing() + 1, "{begun:?}, then {report:?}");
    stream.finish()?;
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    let ready = |lab: &Lab| -> Result<usize> {
        let endpoints = lab.status()?.endpoints;
        Ok(endpoints.iter().filter(|found| found.protection == Protection::Ready).count())
    };
    ensure!(ready(&lab)? == 2, "{:?}", lab.status()?.endpoints);
    Ok(())
}

/// A container of another runtime: it must not lose its network, and the node's owner must see that nobody judges its packets.
#[test]
fn an_interface_of_no_pod_is_named_and_open_after_100_ms() -> Result<()> {
    let Some(mut lab) = lab("unannounced-no-pod")? else { return Ok(()) };
    lab.add_pod(web())?;
    let node = lab.netns(&Host::Node)?.clone();
    let office = lab.netns(&Host::Office)?.clone();
    node.configure(&format!(
        "link add other0 type veth peer name guest0 netns {}\nlink set other0 up\n",
        office.name()
    ))?;
    office.configure("link set guest0 up\n")?;
    until("the open interface", LIMIT, || {
        let found = lab.status()?.unidentified;
        let state = found.iter().find(|found| found.name == "other0").map(|found| found.state);
        Ok(if state == Some(InterfaceState::Open) {
            Look::Done(())
        } else {
            Look::NotYet(format!("{found:?}"))
        })
    })?;
    let text = lab.agent_config().ask(&["status"])?;
    ensure!(text.contains("NOT judged, because they belong to no known pod: "), "{text}");
    ensure!(lab.agent_log()?.contains("interface of no known pod unblocked"));
    ensure!(!text.contains("pod: eth0"), "the node's own uplink: {text}");
    node.configure("link delete other0\n")?;
    until("the end of the message", LIMIT, || {
        let found = lab.status()?.unidentified;
        let is_named = found.iter().any(|found| found.name == "other0");
        Ok(if is_named { Look::NotYet(format!("{found:?}")) } else { Look::Done(()) })
    })
}
