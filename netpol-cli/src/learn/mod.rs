//! `learn`: NetworkPolicies from the connections that pods have had.
//!
//! In: records of files or of the agents, and objects. Out: policies as YAML, or the connections that policies would drop. Must not:
//! change the cluster, or decide what a policy needs, which is the part of `netpol_policy::learn`.

mod live;
mod records;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ipnetwork::IpNetwork;
use netpol_common::ids::Direction;
use netpol_policy::learn::{Mode, Observed, Options, WouldDrop, learn, verify};
use netpol_policy::model::Object;
use netpol_policy::simulate::{Engine, OfflineCluster};
use netpol_policy::store::ClusterState;
use netpol_terminal::{FAILED, FOUND, Terminal};

use crate::input;
use crate::live::cluster::AccessArgs;
use crate::live::output::printable;
use crate::live::parse_duration;
use records::{RecordKind, Records};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  netpol learn -n shop --for 10m > learned.yaml
  kubectl apply -f learned.yaml
  netpol learn -n shop --for 10m --verify
  netpol learn -n shop --for 10m --from-flows --from-drops > learned.yaml
  netpol learn -n shop --flows flows.json -f manifests/ --enforce > learned.yaml";

/// Write NetworkPolicies that allow the connections that pods have had, and nothing else.
///
/// Each workload of the namespaces gets a policy for both directions. Peers are named by their labels and namespace, Services by the pods
/// behind them, nodes and addresses outside of the cluster by the narrowest blocks; comments say how often each was seen. Connections of
/// a pod with its own node, such as probes of the kubelet, are left out because they are always allowed.
///
/// The policies have the annotation `netpol/mode: audit`, so they only report what they would drop: apply them, let --verify show what
/// is missing, and apply them once more as --enforce writes them. ClusterNetworkPolicies are never suggested.
///
/// The exit code is 0, 1 if --verify finds a connection that would drop, or 2 if nothing was recorded, or the input cannot be read
/// completely.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group = clap::ArgGroup::new("records").args(["duration", "flows", "drops"]).required(true).multiple(true))]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command")]
pub(super) struct LearnArgs {
    /// Namespaces whose workloads get policies.
    #[arg(short, long = "namespace", value_name = "NAMESPACE", required = true, num_args = 1..)]
    namespaces: Vec<String>,
    /// Ask the agents of the cluster for this long, such as `10m`.
    #[arg(long = "for", id = "duration", value_name = "DURATION", value_parser = parse_duration, conflicts_with_all = ["flows", "drops", "files"])]
    duration: Option<Duration>,
    /// Learn from the connections that pods have [default, unless --from-drops is given].
    #[arg(long, requires = "duration")]
    from_flows: bool,
    /// Learn from packets that were dropped because no rule allows them, or that audit mode has let pass.
    #[arg(long, requires = "duration")]
    from_drops: bool,
    /// Files with the output of `netpol-agent flows -o json`; `-` is the standard input.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "files")]
    flows: Vec<PathBuf>,
    /// Files with the output of `netpol-agent drops -o json`.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "files")]
    drops: Vec<PathBuf>,
    /// Files and directories with the objects of the cluster (YAML or JSON).
    #[arg(short, long = "file", id = "files", value_name = "PATH", num_args = 1..)]
    files: Vec<PathBuf>,
    /// Blocks of addresses outside of the cluster: an address becomes the narrowest of them that contains it, instead of a block of its
    /// own.
    #[arg(long = "block", value_name = "CIDR", num_args = 1..)]
    blocks: Vec<IpNetwork>,
    /// Addresses of the API server, such as `192.168.0.9:6443` [default: those that the cluster lists].
    #[arg(long = "api-server", value_name = "ADDRESS:PORT", num_args = 1..)]
    api_servers: Vec<SocketAddr>,
    /// Write no policies, but list the recorded connections that the present policies would drop if all of them were enforced.
    #[arg(long, conflicts_with = "enforce")]
    verify: bool,
    /// Write the policies without the annotation `netpol/mode: audit`.
    #[arg(long)]
    enforce: bool,
    #[command(flatten)]
    access: AccessArgs,
}

/// What there is to learn from.
struct Input {
    records: Records,
    objects: Vec<Object>,
    api_servers: Vec<SocketAddr>,
    /// The exit code after success.
    code: u8,
}

pub(super) fn run(args: LearnArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let LearnArgs {
        namespaces,
        duration,
        from_flows,
        from_drops,
        flows,
        drops,
        files,
        blocks,
        api_servers,
        verify: is_verification,
        enforce,
        access,
    } = args;
    let Input { records, objects, api_servers: found, code } = match duration {
        Some(duration) => {
            let flows = (from_flows || !from_drops).then_some(RecordKind::Flow);
            let drops = from_drops.then_some(RecordKind::Drop);
            let kinds: Vec<_> = flows.into_iter().chain(drops).collect();
            live::record(&access, &kinds, duration, terminal)?
        }
        None => read(&flows, &drops, &files, terminal)?,
    };
    for reason in records.useless() {
        terminal.complain(&printable(&reason));
    }
    let mut cluster = OfflineCluster::new(|| Engine::Reference, Vec::new());
    cluster.set(objects)?;
    let namespaces: BTreeSet<Arc<str>> =
        namespaces.iter().map(|name| Arc::from(name.as_str())).collect();
    check_namespaces(cluster.state(), &namespaces, &records)?;
    let api_servers = if api_servers.is_empty() { found } else { api_servers };
    let options = Options { namespaces, blocks, api_servers };
    if is_verification {
        let is_chosen = |found: &WouldDrop| options.namespaces.contains(&found.pod.namespace);
        let mut found = verify(cluster.state(), records.observed(), &options);
        found.retain(is_chosen);
        write_would_drop(&found, records.observed().count(), terminal)?;
        return Ok(if code == 0 && !found.is_empty() { FOUND } else { code });
    }
    let learned = learn(cluster.state(), records.observed(), &options);
    let mode = if enforce { Mode::Enforce } else { Mode::Audit };
    write!(terminal.stdout, "{}", learned.yaml(mode))?;
    for note in &learned.notes {
        terminal.complain(&printable(&format!("left out: {note}")));
    }
    Ok(code)
}

/// Policies from nothing would deny everything, and a misspelled namespace has nothing.
fn check_namespaces(
    state: &ClusterState,
    namespaces: &BTreeSet<Arc<str>>,
    records: &Records,
) -> anyhow::Result<()> {
    for namespace in namespaces {
        if state.pods_in(namespace).next().is_none() {
            bail!("namespace {namespace} has no pods");
        }
        let concerns = |observed: &Observed| {
            observed.pod.namespace == *namespace
                || observed.peer.as_ref().is_some_and(|peer| peer.namespace == *namespace)
        };
        if !records.observed().any(concerns) {
            bail!("no connection of namespace {namespace} was recorded");
        }
    }
    Ok(())
}

fn read(
    flows: &[PathBuf],
    drops: &[PathBuf],
    files: &[PathBuf],
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<Input> {
    let mut records = Records::default();
    let of_flows = flows.iter().map(|path| (path, RecordKind::Flow));
    for (path, kind) in of_flows.chain(drops.iter().map(|path| (path, RecordKind::Drop))) {
        let text = read_text(path, terminal)?;
        let added = records.add_text(&text, kind);
        added.with_context(|| format!("cannot read the records of {}", path.display()))?;
    }
    let manifests = input::read_files(files, terminal);
    input::report_findings(&manifests, terminal, |_| false);
    let code = if input::is_incomplete(&manifests) { FAILED } else { 0 };
    let objects = manifests.objects.into_iter().map(|read| read.object).collect();
    Ok(Input { records, objects, api_servers: Vec::new(), code })
}

fn read_text(path: &Path, terminal: &mut Terminal<'_>) -> anyhow::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        terminal.stdin.read_to_string(&mut text)?;
        return Ok(text);
    }
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write_would_drop(
    found: &[WouldDrop],
    n_recorded: usize,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<()> {
    let out = &mut terminal.stdout;
    for WouldDrop { observed, pod, direction, policies } in found {
        let Observed { pod: of, direction: began, transport, port, remote, peer } = observed;
        let peer = peer.as_ref().map_or_else(|| remote.to_string(), ToString::to_string);
        let (from, to) = match began {
            Direction::Ingress => (peer, of.to_string()),
            Direction::Egress => (of.to_string(), peer),
        };
        let policies: Vec<_> = policies.iter().map(ToString::to_string).collect();
        let transport = transport.as_str();
        let by = policies.join(", ");
        let text =
            format!("{from} -> {to} {transport} {port}: dropped at {pod}, {direction}, by {by}");
        writeln!(out, "{}", printable(&text))?;
    }
    match found.len() {
        0 => writeln!(out, "none of {n_recorded} recorded connections would drop")?,
        n => writeln!(out, "would drop: {n} (of {n_recorded} recorded connections)")?,
    }
    Ok(())
}
