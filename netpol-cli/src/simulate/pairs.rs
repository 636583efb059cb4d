//! The verdicts of every pair of rows, on the ports that the destination declares, or on every port.
//!
//! In: a matrix. Out: for each pair its verdicts; and the changes in words. Must not: format verdicts.

use std::collections::{BTreeMap, BTreeSet};

use netpol_policy::model::Transport;
use netpol_policy::simulate::{Answer, OfflineCluster, PodOrIp, PortChoice, Reachability};

use super::args::MatrixOutput;
use super::changes::{Changes, Totals};
use super::output::Names;
use super::reachability::{CanChange, Clusters, Matrix, answer, different};
use super::rows::Row;
use super::table::Change;

/// The verdict on a range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortVerdict {
    pub(crate) transport: Transport,
    /// The first and the last port.
    pub(crate) ports: (u16, u16),
    pub(crate) verdict: PairVerdict,
}

/// The verdict on the connections of a pair of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PairVerdict {
    pub(crate) answer: Answer,
    /// Before a change.
    pub(crate) before: Option<Answer>,
    /// With all policies enforced, if that differs: only audit mode allows the connection.
    pub(crate) enforced: Option<Answer>,
}

impl PairVerdict {
    /// The effect of the change.
    pub(crate) fn change(self) -> Option<Change> {
        super::table::Cell::new(self.before, self.answer).change()
    }
}

/// The verdicts of a pair, by their ports; empty for a pod with itself, and for two addresses.
pub(crate) type OfPair = Vec<PortVerdict>;

/// What changes for a pair of rows, with the ports in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PairChange {
    /// The positions of source and destination.
    pub(crate) pair: (usize, usize),
    pub(crate) change: Change,
    pub(crate) ports: String,
}

impl Matrix {
    /// The rows, which are the columns too.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// A peer, by its position.
    pub(crate) fn peer(&self, at: usize) -> Option<&PodOrIp> {
        self.peers.get(at)
    }

    /// The cluster.
    pub(crate) fn cluster(&self) -> &OfflineCluster {
        self.clusters.now.cluster()
    }

    /// The ports that the pods of a row declare, in any of the clusters.
    pub(crate) fn declared(&self, row: &Row) -> BTreeSet<(Transport, u16)> {
        let peer = row.members.first().and_then(|member| self.peers.get(*member));
        let pods = peer.into_iter().flat_map(|peer| self.pods(peer));
        pods.flat_map(|pod| pod.ports.iter()).map(|port| (port.transport, port.number)).collect()
    }

    /// The verdicts of all pairs: for each source those of each destination. A destination that declares no port has them for
    /// every port.
    ///
    /// # Errors
    /// The engine fails.
    pub(crate) fn pairs(&mut self) -> anyhow::Result<Vec<Vec<OfPair>>> {
        let n = self.rows.len();
        let mut pairs = vec![vec![OfPair::new(); n]; n];
        let mut by_port: BTreeMap<(Transport, u16), Vec<usize>> = BTreeMap::new();
        let mut undeclared = Vec::new();
        for (at, row) in self.rows.iter().enumerate() {
            let ports = self.declared(row);
            if ports.is_empty() {
                undeclared.push(at);
            }
            for port in ports {
                by_port.entry(port).or_default().push(at);
            }
        }
        let Self { clusters, rows, peers, .. } = self;
        for ((transport, port), columns) in by_port {
            for (from, row) in rows.iter().zip(&mut pairs) {
                for column in &columns {
                    let (Some(to), Some(found)) = (rows.get(*column), row.get_mut(*column)) else {
                        continue;
                    };
                    if let Some(verdict) = clusters.pair(from, to, peers, (port, transport))? {
                        found.push(PortVerdict { transport, ports: (port, port), verdict });
                    }
                }
            }
        }
        for (transport, starts) in clusters.starts() {
            for start in starts {
                let of_rows = |can_change: CanChange| -> Vec<bool> {
                    let can_change = |row: &Row| clusters.any(row, start, transport, can_change);
                    rows.iter().map(|row| start == 1 || can_change(row)).collect()
                };
                let sources = of_rows(Reachability::changes_from);
                let destinations = of_rows(Reachability::changes_to);
                for ((from, row), is_source) in rows.iter().zip(&mut pairs).zip(sources) {
                    for column in &undeclared {
                        if !is_source && destinations.get(*column) != Some(&true) {
                            continue;
                        }
                        let (Some(to), Some(found)) = (rows.get(*column), row.get_mut(*column))
                        else {
                            continue;
                        };
                        if let Some(verdict) = clusters.pair(from, to, peers, (start, transport))? {
                            add(found, transport, start, verdict);
                        }
                    }
                }
            }
        }
        Ok(pairs)
    }

    /// The changes on every port: of each pair, in words of all pairs, and their numbers.
    ///
    /// # Errors
    /// The engine fails.
    pub(crate) fn all_changes(&mut self) -> anyhow::Result<(Vec<PairChange>, String, Totals)> {
        let changes: Changes = self.changes()?;
        let names = Names { peers: &self.peers, of_peers: &self.peer_names, rows: &self.rows };
        let mut text = Vec::new();
        changes.write(MatrixOutput::Text, &names, &|_, _| String::new(), &mut text)?;
        let totals = changes.totals(&self.rows);
        let of_pairs = changes.in_words();
        Ok((of_pairs, String::from_utf8_lossy(&text).into_owned(), totals))
    }
}

/// Adds the verdict from a port on. Ports are added in their order.
fn add(found: &mut OfPair, transport: Transport, start: u16, verdict: PairVerdict) {
    if let Some(last) = found.last_mut().filter(|last| last.transport == transport) {
        if last.verdict == verdict {
            return;
        }
        last.ports.1 = start.saturating_sub(1);
    }
    found.push(PortVerdict { transport, ports: (start, u16::MAX), verdict });
}

impl Clusters {
    /// The clusters that there are.
    fn all(&self) -> impl Iterator<Item = &Reachability> {
        [Some(&self.now), self.before.as_ref(), self.enforced.as_ref()].into_iter().flatten()
    }

    /// The ports of each protocol at which a verdict can change, and the first one.
    fn starts(&self) -> BTreeMap<Transport, BTreeSet<u16>> {
        let mut starts: BTreeMap<Transport, BTreeSet<u16>> =
            Transport::ALL.into_iter().map(|transport| (transport, [1].into())).collect();
        for (transport, of_cluster) in self.all().flat_map(Reachability::port_starts) {
            let of_cluster = of_cluster.into_iter().filter(|port| *port != 0);
            starts.entry(transport).or_default().extend(of_cluster);
        }
        starts
    }

    /// Whether the answers for connections of a row can change at a port in one of the clusters.
    fn any(&self, row: &Row, port: u16, transport: Transport, can_change: CanChange) -> bool {
        let peer = row.members.first();
        peer.is_some_and(|peer| self.all().any(|of| can_change(of, *peer, port, transport)))
    }

    /// The verdict on one port; `None` for a pod with itself, and for two addresses.
    fn pair(
        &mut self,
        from: &Row,
        to: &Row,
        peers: &[PodOrIp],
        (port, transport): (u16, Transport),
    ) -> anyhow::Result<Option<PairVerdict>> {
        let Some((from, to)) = different(from, to) else { return Ok(None) };
        let is_pod = |peer: usize| matches!(peers.get(peer), Some(PodOrIp::Pod { .. }));
        if !is_pod(from) && !is_pod(to) {
            return Ok(None);
        }
        let to = (to, peers.get(to));
        let port = PortChoice::Number(port);
        let mut of =
            |cluster: &mut Reachability| answer(cluster, from, (to.0, to.1), &port, transport);
        let now = of(&mut self.now)?;
        let before = self.before.as_mut().map(&mut of).transpose()?;
        let enforced = self.enforced.as_mut().map(&mut of).transpose()?;
        let enforced = enforced.filter(|enforced| *enforced != now);
        Ok(Some(PairVerdict { answer: now, before, enforced }))
    }
}
