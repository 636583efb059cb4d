//! The first packet of a connection under ClusterNetworkPolicies: `BPF_PROG_TEST_RUN`.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use netpol_common::ids::IfIndex;
use netpol_datapath::{Config, Datapath, Program};
use netpol_policy::compile::{MapState, Numbering, compile};
use netpol_policy::dataplane::diff;
use netpol_policy::dataplane::port::Maps as _;
use netpol_policy::manifests;
use netpol_policy::model::ObjectName;
use netpol_policy::store::{ClusterState, Delta, Endpoint, PodEnd};

use super::PORT;
use super::lane::{Family, peer, pod, tuple};
use super::reference::Programs;
use super::verdicts::{EMPTY, Kind, PASS, Subject, packet};
use crate::Run;
use crate::gates::Unit;

/// ClusterNetworkPolicies of each tier, rules of each in a direction (the API's limit), and groups of peers.
const N_POLICIES: usize = 100;
const N_RULES: usize = 25;
const N_GROUPS: usize = 20;

/// A server on the loopback device and its peers; a NetworkPolicy that isolates it and accepts the peers.
fn cluster(n_peers: u16) -> Result<String> {
    let mut text = String::new();
    let mut add = |name: &str, app: &str, group: usize, address| {
        writeln!(
            text,
            "{{ apiVersion: v1, kind: Pod, metadata: {{ name: {name}, namespace: shop, labels: {{ app: {app}, group: g{group} }} }}, \
             spec: {{ containers: [{{ name: c }}] }}, status: {{ phase: Running, podIPs: [{{ ip: {address} }}] }} }}\n---"
        )
    };
    add("server", "server", 0, pod(0, Family::V4))?;
    for number in 0..n_peers {
        let group = usize::from(number) % N_GROUPS;
        add(&format!("peer-{number}"), "peer", group, peer(number, Family::V4))?;
    }
    text.push_str(
        "{ apiVersion: v1, kind: Namespace, metadata: { name: shop, labels: { team: shop } } }\n---\n\
         { apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: { name: server, namespace: shop }, \
         spec: { podSelector: { matchLabels: { app: server } }, ingress: [{ from: [{ podSelector: { matchLabels: { app: peer } } }] }] } }\n---\n",
    );
    Ok(text)
}

/// The policies of both tiers. None of their rules has the port of the packet.
fn cluster_policies() -> Result<String> {
    let mut text = String::new();
    for tier in ["Admin", "Baseline"] {
        for policy in 0..N_POLICIES {
            let mut rules = String::new();
            for rule in 0..N_RULES {
                let number = policy * N_RULES + rule;
                let action = match number % 3 {
                    0 => "Accept",
                    1 => "Deny",
                    _ => "Pass",
                };
                let group = number % N_GROUPS;
                let port = 10_000 + number;
                write!(
                    rules,
                    "{{ action: {action}, from: [{{ pods: {{ namespaceSelector: {{}}, podSelector: {{ matchLabels: {{ group: g{group} }} }} }} }}], \
                     protocols: [{{ tcp: {{ destinationPort: {{ number: {port} }} }} }}] }},"
                )?;
            }
            writeln!(
                text,
                "{{ apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{ name: {}-{policy} }}, \
                 spec: {{ tier: {tier}, priority: {policy}, subject: {{ namespaces: {{}} }}, ingress: [{rules}] }} }}\n---",
                tier.to_lowercase()
            )?;
        }
    }
    Ok(text)
}

/// The programs with the maps of a cluster.
fn loaded(objects: &str) -> Result<Datapath> {
    let manifests = manifests::parse("cluster.yaml", objects);
    ensure!(manifests.findings.is_empty(), "{:?}", manifests.findings.first());
    let mut state = ClusterState::default();
    for sourced in manifests.objects {
        drop(state.apply(Delta::Upsert(sourced.object)));
    }
    let endpoint = Endpoint {
        ifindex: IfIndex(1),
        container_id: "server".into(),
        pod: ObjectName::new("shop", "server"),
        pod_uid: "".into(),
        egress_mark: 1,
        addresses: vec![pod(0, Family::V4)],
        pod_end: PodEnd::default(),
    };
    drop(state.apply(Delta::UpsertEndpoint(endpoint)));
    let before = MapState::default();
    let after = compile(&state, &mut Numbering::default(), &before);
    let mut datapath = Datapath::load(&Config::private()).context("loading netpol's programs")?;
    datapath.apply(&diff(&before, &after))?;
    Ok(datapath)
}

/// Row 23.
///
/// # Errors
/// The kernel refused a run, or a verdict is wrong.
pub fn measure(run: &mut Run) -> Result<()> {
    let n_peers = u16::try_from(run.size(2_000, 100))?;
    let n_runs = u32::try_from(run.size(400_000, 100))?;
    let with = format!("{N_POLICIES} Admin and {N_POLICIES} Baseline policies of {N_RULES} rules");
    let without = "a NetworkPolicy only";
    let cluster = cluster(n_peers)?;
    let ours = |objects: &str| {
        Ok::<_, anyhow::Error>(Subject::Netpol(Box::new(loaded(objects)?), Program::PodIngress))
    };
    let mut cases = [
        (EMPTY, Subject::Reference(Box::new(Programs::load(1)?), "nop")),
        (without, ours(&cluster)?),
        (with.as_str(), ours(&format!("{cluster}{}", cluster_policies()?))?),
    ];
    let from = tuple(peer(n_peers / 2, Family::V4), 5_000);
    ensure!(from.to == SocketAddr::new(pod(0, Family::V4), PORT), "the packet goes to {}", from.to);
    let frame = packet(Kind::Syn, from)?;
    let series = run.interleaved(
        "first SYN under ClusterNetworkPolicies, test run",
        Unit::Nanos,
        &mut cases,
        |(name, _)| (*name).to_owned(),
        |(name, subject), _| {
            let (action, time) = subject.time(&frame, n_runs)?;
            ensure!(action == PASS, "with {name} the packet drops");
            Ok(super::precise(time))
        },
    )?;
    let series = series.over(EMPTY).noted(&format!(
        "A NetworkPolicy accepts {n_peers} peers in {N_GROUPS} groups, {n_runs} packets."
    ));
    let ratio = series.ratio_of_added(&with, without)?;
    run.answer("23", ratio, "the rules have other ports, so all of them are passed over")?;
    run.add(series);
    Ok(())
}
