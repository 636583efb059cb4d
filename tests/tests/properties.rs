//! Laws of generated clusters: all oracles agree.
//!
//! `NETPOL_CASES` sets the number of clusters, `NETPOL_SEED` the seed. A failure prints the shrunk case as lines for a file in
//! `tests/regressions`.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::fs;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use netpol_lab::case::Case;
use netpol_lab::generator::{self, features::Census};
use netpol_lab::law;
use netpol_lab::oracle::{self, Oracle};
use netpol_lab::oracles::{Oracles, question, read};
use netpol_lab::settings;
use netpol_policy::manifests;
use netpol_policy::model::{Object, ObjectName, Transport};
use netpol_policy::simulate::{
    self, Answer, Cluster, Engine, OfflineCluster, PodOrIp, PortChoice, Reachability, Verdict,
    with_implicit_namespaces,
};
use netpol_policy::store::ClusterState;
use proptest::strategy::Strategy;
use serde_json::{Value, json};

/// Default number of clusters, with about 3,000 cases: some clusters have several states.
const N_CLUSTERS: usize = 2_120;

/// Compares all oracles on these cases, which are one sequence or a single case.
fn check(oracles: &mut Oracles, cases: &[Case]) -> Result<()> {
    oracles.begin();
    let mut found = Vec::new();
    for case in cases {
        found.extend(oracles.ask(case)?.iter().map(|found| format!("{}: {found}", case.name)));
    }
    ensure!(found.is_empty(), "oracles disagree:\n{}", found.join("\n"));
    Ok(())
}

fn check_generated(
    oracles: Oracles,
    n_clusters: usize,
    clusters: impl Strategy<Value = Vec<Case>>,
) -> Result<()> {
    let oracles = RefCell::new(oracles);
    law::check(n_clusters, clusters, |cases, _| check(&mut oracles.borrow_mut(), cases))
}

#[test]
fn all_oracles_agree_on_generated_cases() -> Result<()> {
    let n_clusters = settings::n_cases(N_CLUSTERS);
    check_generated(Oracles::default(), n_clusters, generator::clusters())
}

#[test]
fn all_oracles_agree_on_generated_cases_with_all_tiers() -> Result<()> {
    let n_clusters = settings::n_cases(N_CLUSTERS);
    check_generated(Oracles::default(), n_clusters, generator::clusters_with_tiers())
}

#[test]
fn all_oracles_agree_where_the_own_node_needs_a_rule() -> Result<()> {
    let n_clusters = settings::n_cases(N_CLUSTERS) / 2;
    check_generated(Oracles::default().judging_node(), n_clusters, generator::clusters())?;
    check_generated(Oracles::default().judging_node(), n_clusters, generator::clusters_with_tiers())
}

/// The law says something: many connections to the own node are denied that pass otherwise.
#[test]
fn the_own_node_decides_connections_of_generated_clusters() {
    let (mut n_probes, mut n_otherwise) = (0, 0);
    for case in generator::cases(3).take(400) {
        let new = || Oracle::new(&case.objects);
        let oracles = [new(), new().judging_node()];
        for probe in &case.probes {
            let [documented, judged] = oracles.each_ref().map(|oracle| oracle.allows(probe));
            n_probes += 1;
            n_otherwise += usize::from(documented != judged);
        }
    }
    assert!(n_otherwise * 200 > n_probes, "{n_otherwise} of {n_probes} depend on the own node");
}

/// The same objects with a Deployment in place of each pod that has an address of its own.
fn as_workloads(objects: &[Value]) -> Vec<Value> {
    let converted = objects.iter().map(|object| {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str);
        let has_ended = matches!(text("/status/phase"), Some("Succeeded" | "Failed"));
        let is_on_host = object.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true);
        if text("/kind") != Some("Pod") || has_ended || is_on_host {
            return object.clone();
        }
        let at = |path: &str| object.pointer(path).cloned().unwrap_or_default();
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": at("/metadata/name"), "namespace": at("/metadata/namespace") },
            "spec": { "template": {
                "metadata": { "labels": at("/metadata/labels"), "annotations": at("/metadata/annotations") },
                "spec": at("/spec"),
            } },
        })
    });
    converted.collect()
}

fn parsed(objects: &[Value]) -> Vec<Object> {
    let text = Value::from(objects.to_vec()).to_string();
    let text = format!("{{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":{text}}}");
    manifests::parse("case", &text).objects.into_iter().map(|read| read.object).collect()
}

/// Compares what workloads get with what the pods of the case get. Returns the numbers of definite and of open answers.
fn check_workloads(case: &Case) -> Result<[usize; 2]> {
    let mut pods = Cluster::new(Engine::Reference);
    pods.set(with_implicit_namespaces(parsed(&case.objects)).0)?;
    let any = vec!["0.0.0.0/0".parse()?, "::/0".parse()?];
    let mut workloads = OfflineCluster::new(Engine::compiled, any);
    workloads.set(parsed(&as_workloads(&case.objects)))?;
    // The pairs of a pod and its workload, each with the same family.
    let ends = |state: &ClusterState, workloads: &ClusterState| {
        let mut ends = Vec::new();
        for pod in state.pods().filter(|pod| !pod.host_network) {
            let name = ObjectName::new(&pod.name.namespace, &format!("deploy/{}", pod.name.name));
            let Some(workload) = workloads.pod(&name) else { continue };
            for address in state.held_addresses(pod) {
                let mut placeholders = workload.reported_addresses.iter();
                let placeholder = placeholders.find(|of| of.is_ipv4() == address.is_ipv4());
                let end = |name: &ObjectName, address| PodOrIp::Pod { name: name.clone(), address };
                let end = (end(&pod.name, Some(address)), end(&name, placeholder.copied()));
                ends.push((address.is_ipv4(), end));
            }
        }
        ends
    };
    let ends = ends(pods.state(), workloads.state());
    let (mut n_definite, mut n_open) = (0, 0);
    for probe in case.probes.iter().take(4) {
        let question = question(probe);
        for (is_ipv4, from) in &ends {
            for (_, to) in ends.iter().filter(|(family, to)| family == is_ipv4 && to.0 != from.0) {
                let probe = |from: &PodOrIp, to: &PodOrIp| simulate::Probe {
                    from: from.clone(),
                    to: to.clone(),
                    ..question.clone()
                };
                let expected = pods.probe(&probe(&from.0, &to.0))?.is_allowed;
                let (found, _) = workloads.probe(&probe(&from.1, &to.1))?;
                let is_right = match found {
                    Verdict::Allowed => expected,
                    Verdict::Denied => !expected,
                    Verdict::Possible => true,
                };
                *(if found == Verdict::Possible { &mut n_open } else { &mut n_definite }) += 1;
                ensure!(is_right, "{}: {:?}: {found:?}", case.name, probe(&from.1, &to.1));
            }
        }
    }
    Ok([n_definite, n_open])
}

#[test]
fn a_workload_gets_what_a_pod_of_its_template_gets() -> Result<()> {
    let n_answers = Cell::new([0, 0]);
    law::check(settings::n_cases(N_CLUSTERS) / 20, generator::clusters(), |cases, _| {
        for case in cases {
            let [definite, open] = check_workloads(case)?;
            let [n_definite, n_open] = n_answers.get();
            n_answers.set([n_definite + definite, n_open + open]);
        }
        Ok(())
    })?;
    let [n_definite, n_open] = n_answers.get();
    ensure!(n_definite > n_open, "{n_open} of {n_definite} answers depend on an address");
    Ok(())
}

/// Compares the answers of a matrix, which evaluates connections of like pods once, with the evaluation of each.
fn check_matrix(case: &Case, open: fn() -> Engine) -> Result<()> {
    let mut cluster = OfflineCluster::new(open, Vec::new());
    cluster.set(parsed(&case.objects))?;
    let mut peers = cluster.pods();
    peers.push(PodOrIp::Address("203.0.113.7".parse()?));
    let mut single = OfflineCluster::new(open, Vec::new());
    single.set(parsed(&case.objects))?;
    let mut matrix = Reachability::new(cluster, &peers);
    let addresses = |peer: &PodOrIp| -> Vec<IpAddr> {
        let state = matrix.state();
        match peer {
            PodOrIp::Address(address) => vec![*address],
            PodOrIp::Pod { name, address: _ } => {
                state.pod(name).into_iter().flat_map(|pod| state.held_addresses(pod)).collect()
            }
            PodOrIp::Block(_) | PodOrIp::External | PodOrIp::Node(_) | PodOrIp::Service(_) => {
                Vec::new()
            }
        }
    };
    let addresses: Vec<Vec<_>> = peers.iter().map(addresses).collect();
    let (tcp, udp) = (Transport::Tcp, Transport::Udp);
    for (port, transport) in [(53, tcp), (9376, tcp), (53, udp), (443, udp), (80, tcp), (443, tcp)]
    {
        for (from, sources) in addresses.iter().enumerate() {
            for (to, destinations) in addresses.iter().enumerate().filter(|(to, _)| *to != from) {
                let mut verdicts = Vec::new();
                for source in sources {
                    let of_family = |address: &&IpAddr| address.is_ipv4() == source.is_ipv4();
                    let Some(destination) = destinations.iter().find(of_family) else { continue };
                    let probe = simulate::Probe {
                        from: PodOrIp::Address(*source),
                        to: PodOrIp::Address(*destination),
                        port: PortChoice::Number(port),
                        transport,
                    };
                    verdicts.push((source.is_ipv4(), single.probe(&probe)?.0));
                }
                if sources.is_empty() || destinations.is_empty() {
                    continue;
                }
                let is_allowed = |(_, verdict): &&(bool, Verdict)| *verdict == Verdict::Allowed;
                let allowed: Vec<bool> =
                    verdicts.iter().filter(is_allowed).map(|(ipv4, _)| *ipv4).collect();
                let is_open = verdicts.iter().any(|(_, verdict)| *verdict == Verdict::Possible);
                let expected = match allowed.as_slice() {
                    _ if is_open => Answer::Possible,
                    [] => Answer::Denied,
                    all if all.len() == verdicts.len() => Answer::Allowed,
                    [true, ..] => Answer::OnlyIpv4,
                    [false, ..] => Answer::OnlyIpv6,
                };
                let found = matrix.answer(from, to, port, transport)?;
                ensure!(
                    found == expected,
                    "{}: {:?} -> {:?} {port}/{transport}: {found:?}, not {expected:?}",
                    case.name,
                    peers.get(from),
                    peers.get(to)
                );
            }
        }
    }
    check_port_starts(case, &mut matrix, peers.len())
}

/// Compares the answers on both sides of ports at which the matrix says that they do not change.
fn check_port_starts(case: &Case, matrix: &mut Reachability, n_peers: usize) -> Result<()> {
    let pairs: Vec<(usize, usize)> =
        (0..n_peers).flat_map(|from| (0..n_peers).map(move |to| (from, to))).collect();
    let starts = matrix.port_starts();
    for transport in Transport::ALL {
        let starts = starts.get(&transport).into_iter().flatten().copied();
        for port in starts.filter(|port| *port > 1).take(12) {
            let mut answers = |port| -> Result<Vec<Answer>> {
                let answers =
                    pairs.iter().map(|(from, to)| matrix.answer(*from, *to, port, transport));
                Ok(answers.collect::<Result<_, _>>()?)
            };
            let (before, now) = (answers(port - 1)?, answers(port)?);
            for ((from, to), (before, now)) in pairs.iter().zip(before.iter().zip(&now)) {
                let may_change = matrix.changes_from(*from, port, transport)
                    || matrix.changes_to(*to, port, transport);
                ensure!(
                    may_change || before == now,
                    "{}: {from} -> {to} changes at {port}/{transport}: {before:?}, {now:?}",
                    case.name
                );
            }
        }
    }
    Ok(())
}

#[test]
fn a_matrix_answers_as_single_probes_do() -> Result<()> {
    let engines: [fn() -> Engine; 2] = [|| Engine::Reference, Engine::compiled];
    law::check(settings::n_cases(N_CLUSTERS) / 40, generator::clusters(), |cases, _| {
        for (case, open) in cases.iter().flat_map(|case| engines.map(|open| (case, open))) {
            check_matrix(case, open)?;
        }
        Ok(())
    })
}

mod privileged {
    use netpol_datapath::simulation;
    use netpol_lab::privilege::{Need, met};
    use netpol_policy::simulate::Engine;

    use super::*;

    #[test]
    fn the_kernel_agrees_with_all_oracles_on_generated_cases() -> Result<()> {
        if !met(&[Need::Root]) {
            return Ok(());
        }
        let engines = [("reference", Engine::Reference), ("kernel", simulation::engine()?)];
        let n_clusters = settings::n_cases(N_CLUSTERS) / 10;
        check_generated(Oracles::new(engines), n_clusters, generator::clusters())
    }

    #[test]
    fn the_kernel_agrees_with_all_oracles_where_the_own_node_needs_a_rule() -> Result<()> {
        if !met(&[Need::Root]) {
            return Ok(());
        }
        let engines = [("reference", Engine::Reference), ("kernel", simulation::engine()?)];
        let n_clusters = settings::n_cases(N_CLUSTERS) / 10;
        let oracles = Oracles::new(engines).judging_node();
        check_generated(oracles, n_clusters, generator::clusters_with_tiers())
    }

    #[test]
    fn the_kernel_agrees_with_all_oracles_on_generated_cases_with_all_tiers() -> Result<()> {
        if !met(&[Need::Root]) {
            return Ok(());
        }
        let engines = [("reference", Engine::Reference), ("kernel", simulation::engine()?)];
        let n_clusters = settings::n_cases(N_CLUSTERS) / 10;
        check_generated(Oracles::new(engines), n_clusters, generator::clusters_with_tiers())
    }
}

#[test]
fn all_oracles_agree_on_past_regressions() -> Result<()> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/regressions");
    let mut n_files = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let cases: Vec<Case> =
            text.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("a case")?;
        for cases in sequences(&cases) {
            check(&mut Oracles::default(), cases).with_context(|| path.display().to_string())?;
        }
        n_files += 1;
    }
    ensure!(n_files > 0, "{folder} is empty");
    Ok(())
}

/// Groups the cases of a sequence.
fn sequences(cases: &[Case]) -> impl Iterator<Item = &[Case]> {
    cases.chunk_by(|one, next| one.sequence.is_some() && one.sequence == next.sequence)
}

#[test]
fn the_generator_covers_every_feature() {
    let mut census = Census::default();
    for case in generator::cases(1).take(500).chain(generator::cases_with_tiers(1).take(500)) {
        census.add(&case);
    }
    assert_eq!(census.missing(), Vec::<&str>::new());
}

/// The laws compare verdicts, so the tiers of a cluster should matter: without its cluster policies many of its connections
/// would be decided otherwise.
#[test]
fn policies_of_all_tiers_decide_connections_of_generated_clusters() {
    let (mut n_probes, mut n_allowed, mut n_otherwise) = (0, 0, 0);
    for case in generator::cases_with_tiers(2).take(300) {
        let is_of_tier = |object: &&Value| object["kind"] == "ClusterNetworkPolicy";
        let without: Vec<Value> =
            case.objects.iter().filter(|object| !is_of_tier(object)).cloned().collect();
        let oracles = [&case.objects, &without].map(|objects| Oracle::new(objects));
        for probe in &case.probes {
            let [with, without] = oracles.each_ref().map(|oracle| oracle.allows(probe));
            n_probes += 1;
            n_allowed += usize::from(with);
            n_otherwise += usize::from(with != without);
        }
    }
    assert!(n_otherwise * 15 > n_probes, "{n_otherwise} of {n_probes} depend on the tiers");
    let share = n_allowed * 100 / n_probes;
    assert!((20..80).contains(&share), "{share} % are allowed");
}

/// Checks a law of single policies, for half as many clusters.
fn check_policies(law: impl Fn(&Value) -> Result<()>) -> Result<()> {
    law::check(settings::n_cases(N_CLUSTERS / 2), generator::clusters(), |cases, _| {
        let objects = cases.iter().flat_map(|case| &case.objects);
        objects.filter(|object| object["kind"] == "NetworkPolicy").try_for_each(&law)
    })
}

#[test]
fn a_policy_has_a_diagnostic_exactly_when_the_api_server_refuses_it() -> Result<()> {
    check_policies(|policy| {
        let refused = oracle::problems(policy);
        let (_, diagnostics) = read(std::slice::from_ref(policy));
        if refused.is_empty() != diagnostics.is_empty() {
            bail!("refused for {refused:?}, but {diagnostics:?}: {policy}");
        }
        Ok(())
    })
}

#[test]
fn a_policy_as_written_and_as_the_api_server_stores_it_are_the_same() -> Result<()> {
    let n_policies = Cell::new(0);
    check_policies(|policy| {
        if !oracle::problems(policy).is_empty() {
            return Ok(());
        }
        let stored = generator::stored(policy);
        let [(written, _), (kept, _)] =
            [policy, &stored].map(|policy| read(std::slice::from_ref(policy)));
        ensure!(written == kept, "{policy} is not {stored}:\n{written:?}\n{kept:?}");
        ensure!(generator::stored(&stored) == stored, "{stored} is defaulted twice");
        n_policies.set(n_policies.get() + 1);
        Ok(())
    })?;
    ensure!(n_policies.get() > 0, "no policy was tried");
    Ok(())
}
