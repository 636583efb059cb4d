//! Kernel memory of maps.

use std::fs;
use std::os::fd::{AsFd, AsRawFd as _};

use anyhow::{Context as _, Result};

use netpol_common::maps;
use netpol_datapath::{Config, Datapath};

use super::netpol::{Peers, private};
use super::reference::Programs;
use super::{PORT, lane};
use crate::clock::number;
use crate::gates::Unit;
use crate::report::{Line, Series};
use crate::{Estimate, Run};

/// The maps of flows.
const CONNECTIONS: [&str; 2] = [maps::FLOWS, maps::BACKENDS];
/// Number of endpoints.
const N_ENDPOINTS: u16 = 30;

/// The bytes that the kernel holds for a map.
///
/// # Errors
/// It is no map.
pub fn len_bytes(map: impl AsFd) -> Result<u64> {
    let file = format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd());
    let text = fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    let value = value.with_context(|| format!("{file} says nothing of memory"))?;
    Ok(value.trim().parse()?)
}

/// Rows 10 and 16.
///
/// # Errors
/// The kernel refused something.
pub fn measure(run: &mut Run) -> Result<()> {
    let n_programs = Datapath::load(&Config::private())?.verified()?.len();
    run.answer("10", Estimate::exact(number(n_programs as u64)), "")?;
    let n_peers = u16::try_from(run.size(10_000, 100))?;
    let mut reference = Programs::load(super::reference::OWN_N_FLOWS)?;
    let peers: Vec<_> = (0..n_peers).map(lane::peer_v4).collect();
    reference.allow(&peers, PORT)?;
    let reference_policy =
        2.0 * f64::from(N_ENDPOINTS) * megabytes(reference.map_len_bytes("PEERS")?);
    let reference_flows = megabytes(reference.map_len_bytes("REFERENCE_FLOWS")?);
    let mut lines = vec![
        Line::of("reference: policy", &[reference_policy]),
        Line::of("reference: flows", &[reference_flows]),
    ];
    let mut of_pods = 0.0;
    for (name, kind) in [("pods", Peers::Pods(n_peers)), ("blocks", Peers::Blocks(n_peers))] {
        let by_map = private(N_ENDPOINTS, kind)?.map_len_bytes()?;
        let (flows, others): (Vec<_>, Vec<_>) =
            by_map.into_iter().partition(|(map, _)| CONNECTIONS.contains(map));
        let sum =
            |maps: Vec<(&str, u64)>| maps.into_iter().map(|(_, len)| megabytes(len)).sum::<f64>();
        let policy = sum(others);
        if matches!(kind, Peers::Pods(_)) {
            of_pods = policy;
            lines.push(Line::of("netpol: connections", &[sum(flows)]));
        }
        lines.push(Line::of(&format!("netpol: all else, peers are {name}"), &[policy]));
    }
    run.answer(
        "16",
        Estimate::exact(of_pods / reference_policy),
        "all of our maps but those of connections, both families; against the reference's tries alone, IPv4",
    )?;
    run.add(Series {
        title: format!("kernel memory, {N_ENDPOINTS} endpoints with {n_peers} peers in both directions"),
        unit: Unit::Megabytes,
        baseline: None,
        note: "As the kernel counts it (`memlock`). The reference's tries are measured for one direction of one pod; it has \
               one for each. Its flows are shared."
            .into(),
        lines,
    });
    Ok(())
}

fn megabytes(len_bytes: u64) -> f64 {
    number(len_bytes) / 1e6
}
