//! The agent's state as metrics.

use std::collections::BTreeMap;

use netpol_common::ids::Direction;
use netpol_common::verdict::Verdict;
use prometheus_client::registry::Unit;

use super::status::{Protection, SourceStatus};
use super::{Agent, Kernel};
use crate::telemetry::{Kind, Metric, Sample};

impl<K: Kernel> Agent<K> {
    /// Everything that can be counted, as it is now.
    ///
    /// # Errors
    /// The kernel's counters cannot be read.
    pub fn metrics(&self) -> Result<Vec<Metric>, K::Error> {
        let status = self.describe();
        let mut metrics = vec![
            gauge(
                "in_force",
                "1 when the maps follow all known objects",
                Sample::plain(status.is_in_force.into()),
            ),
            counter(
                "changes",
                "Changes of the maps since the agent started",
                Sample::plain(status.n_changes),
            ),
        ];
        let by_kind = |kind: &crate::model::Kind, value| Sample {
            labels: vec![("kind", kind.to_string())],
            value,
        };
        metrics.push(gauge(
            "objects",
            "Known objects",
            status.n_objects.iter().map(|(kind, n)| by_kind(kind, count(*n))).collect(),
        ));
        metrics.push(gauge(
            "source_synced",
            "1 while a kind of objects is listed and followed",
            status
                .sources
                .iter()
                .map(|(kind, source)| by_kind(kind, (*source == SourceStatus::Synced).into()))
                .collect(),
        ));
        metrics.push(gauge(
            "map_entries",
            "Entries by map",
            labelled("map", status.n_entries.iter().map(|(map, n)| (map.clone(), count(*n)))),
        ));
        let protections =
            [Protection::Ready, Protection::Blocked, Protection::Unprotected].map(|protection| {
                let n = status
                    .endpoints
                    .iter()
                    .filter(|endpoint| endpoint.protection == protection)
                    .count();
                (format!("{protection:?}").to_lowercase(), count(n))
            });
        metrics.push(gauge(
            "endpoints",
            "Pod interfaces of this node",
            labelled("protection", protections),
        ));
        let mut by_code: BTreeMap<String, u64> = BTreeMap::new();
        for diagnostic in self.diagnostics.iter() {
            *by_code.entry(diagnostic.code.as_str().to_owned()).or_default() += 1;
        }
        metrics.push(gauge(
            "diagnostics",
            "Standing findings on objects",
            labelled("code", by_code),
        ));
        metrics.extend(self.packet_metrics()?);
        Ok(metrics)
    }

    /// Packets that were dropped, or would have been but for an audit.
    fn packet_metrics(&self) -> Result<[Metric; 2], K::Error> {
        let mut totals: BTreeMap<(Direction, &'static str), (u64, u64)> = BTreeMap::new();
        for (key, value) in self.kernel.counters()? {
            let (Ok(direction), Ok(verdict)) =
                (Direction::try_from(key.direction), Verdict::try_from(key.verdict))
            else {
                continue;
            };
            let (packets, bytes) = totals.entry((direction, verdict.as_str())).or_default();
            *packets += value.packets;
            *bytes += value.bytes;
        }
        let samples = |value: fn(&(u64, u64)) -> u64| {
            let labels = |(direction, reason): &(Direction, &'static str)| {
                vec![("direction", direction.to_string()), ("reason", (*reason).to_owned())]
            };
            totals
                .iter()
                .map(|(key, total)| Sample { labels: labels(key), value: value(total) })
                .collect()
        };
        let help = "Packets dropped, or reported by an audit, by the direction as the pod sees it";
        Ok([
            counter("drops", help, samples(|(packets, _)| *packets)),
            Metric {
                unit: Some(Unit::Bytes),
                ..counter("drop", "Bytes of these packets", samples(|(_, bytes)| *bytes))
            },
        ])
    }
}

fn gauge(name: &'static str, help: &'static str, samples: Vec<Sample>) -> Metric {
    Metric { name, help, kind: Kind::Gauge, unit: None, samples }
}

fn counter(name: &'static str, help: &'static str, samples: Vec<Sample>) -> Metric {
    Metric { kind: Kind::Counter, ..gauge(name, help, samples) }
}

fn labelled(label: &'static str, values: impl IntoIterator<Item = (String, u64)>) -> Vec<Sample> {
    values.into_iter().map(|(of, value)| Sample { labels: vec![(label, of)], value }).collect()
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
