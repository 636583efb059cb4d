//! Expected and observed verdicts.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use netpol_policy::manifests;
use netpol_policy::model::Transport;
use netpol_policy::simulate::{Cluster, Engine, PodOrIp, PortChoice};
use netpol_policy::{model, simulate};

use super::cast::{COLUMNS, Column, ROWS, Row, is_tried};
use super::matrix::{Cell, Matrix};
use crate::node::{Family, Host, Lab, topology};
use crate::probe::{Outcome, Probe, Protocol};

/// The verdicts of the reference semantics for the objects in a directory.
///
/// # Errors
/// An object has a finding; the demo's objects have none.
pub(super) fn reference(folder: &Path) -> Result<Matrix> {
    reference_of(manifests::read(&[PathBuf::from(folder)], &mut io::empty()))
}

fn reference_of(manifests: manifests::Manifests) -> Result<Matrix> {
    if let Some(finding) = manifests.findings.first() {
        bail!("{finding}");
    }
    let objects: Vec<model::Object> =
        manifests.objects.into_iter().map(|sourced| sourced.object).collect();
    let mut cluster = Cluster::new(Engine::Reference);
    cluster.set(objects)?;
    Matrix::of(|row, column| {
        let (Some((_, row)), Some(column)) = (ROWS.get(row), COLUMNS.get(column)) else {
            bail!("there is no such cell");
        };
        if !is_tried(row, column) {
            return Ok(Cell::None);
        }
        let mut verdicts = Vec::new();
        for family in Family::BOTH {
            let probe = simulate::Probe {
                from: end(&cluster, row, family)?,
                to: end(&cluster, &column.host, family)?,
                port: PortChoice::Number(column.port),
                transport: match column.protocol {
                    Protocol::Tcp => Transport::Tcp,
                    Protocol::Udp => Transport::Udp,
                },
            };
            let answer = cluster.probe(&probe)?;
            if let Some(problem) = answer.problem {
                bail!("{problem}");
            }
            verdicts.push(answer.is_allowed);
        }
        Ok(match verdicts.as_slice() {
            [true, true] => Cell::Open,
            [false, false] => Cell::Closed,
            _ => Cell::Odd("the families differ".to_owned()),
        })
    })
}

fn end(cluster: &Cluster, who: &Row, family: Family) -> Result<PodOrIp> {
    let of_family = |address: &std::net::IpAddr| address.is_ipv4() == (family == Family::V4);
    let host_address = |addresses: [std::net::IpAddr; 2]| {
        addresses.into_iter().find(of_family).map(PodOrIp::Address)
    };
    let end = match who {
        Row::Pod(full_name) => {
            let (namespace, name) = full_name.split_once('/').unwrap_or_default();
            let name = model::ObjectName::new(namespace, name);
            let pod = cluster.state().pod(&name);
            let address = pod.and_then(|pod| pod.addresses().iter().copied().find(of_family));
            address.map(|address| PodOrIp::Pod { name, address: Some(address) })
        }
        Row::Host(Host::Node) => host_address(topology::NODE),
        Row::Host(Host::Office) => host_address(topology::OFFICE),
        Row::Host(Host::Guest) => host_address(topology::GUEST),
        Row::Host(Host::Pod(_)) => None,
    };
    end.ok_or_else(|| anyhow::anyhow!("{:?} has no {family:?} address", who.host()))
}

/// The verdicts of real packets.
///
/// # Errors
/// A probe could not be run.
pub(super) fn observed(lab: &Lab) -> Result<Matrix> {
    let mut tries = Vec::new();
    for (_, row) in &ROWS {
        let mut probes = Vec::new();
        for column in COLUMNS.iter().filter(|column| is_tried(row, column)) {
            probes.extend(probes_to(lab, column)?);
        }
        tries.push((row.host(), probes));
    }
    let mut outcomes = Vec::new();
    for outcomes_of_row in lab.probe(&tries)? {
        outcomes.push(outcomes_of_row.into_iter());
    }
    Matrix::of(|row, column| {
        let (Some((_, from)), Some(to)) = (ROWS.get(row), COLUMNS.get(column)) else {
            bail!("there is no such cell");
        };
        if !is_tried(from, to) {
            return Ok(Cell::None);
        }
        let both: Vec<_> = outcomes
            .get_mut(row)
            .into_iter()
            .flat_map(|row| row.take(Family::BOTH.len()))
            .collect();
        Ok(match both.as_slice() {
            [Outcome::Passed, Outcome::Passed] => Cell::Open,
            [Outcome::Silent, Outcome::Silent] => Cell::Closed,
            other => Cell::Odd(format!("{other:?}")),
        })
    })
}

fn probes_to(lab: &Lab, column: &Column) -> Result<Vec<Probe>> {
    let host = column.host.host();
    let probe = |family| {
        let destination = lab.socket_address(&host, family, column.port)?;
        Ok(Probe { protocol: column.protocol, destination })
    };
    Family::BOTH.into_iter().map(probe).collect()
}
