//! A function from protocol and port to a value, as rules of decreasing generality build it.

use std::collections::{BTreeMap, BTreeSet};

use netpol_common::ids::{Identity, Protocol};
use netpol_common::keys::{AllowKey, AllowValue};

use super::key;
use crate::compile::map_state::AllowMap;
use crate::compile::port_ranges::aligned_blocks;
use crate::resolve::PortSet;

/// Values by protocol and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdicts {
    /// The value for protocols that `by_protocol` does not list.
    other: AllowValue,
    /// Values by the first port of an interval that ends where the next one begins. The first interval begins at port 0.
    by_protocol: BTreeMap<Protocol, BTreeMap<u16, AllowValue>>,
}

impl Verdicts {
    /// The same value everywhere.
    pub(super) const fn constant(value: AllowValue) -> Self {
        Self { other: value, by_protocol: BTreeMap::new() }
    }

    fn at(&self, protocol: Protocol, port: u16) -> AllowValue {
        let intervals = self.by_protocol.get(&protocol);
        let found = intervals.and_then(|intervals| intervals.range(..=port).next_back());
        found.map_or(self.other, |(_, value)| *value)
    }

    /// First ports of all intervals of a protocol.
    fn starts(&self, protocol: Protocol) -> impl Iterator<Item = u16> {
        self.by_protocol.get(&protocol).into_iter().flatten().map(|(first, _)| *first)
    }

    /// Copies the values of `source` for these ports.
    pub(super) fn copy(&mut self, ports: &PortSet, source: &Self) {
        let items = match ports {
            PortSet::All => {
                self.clone_from(source);
                return;
            }
            PortSet::AnyOf(items) => items,
        };
        for item in items {
            let protocol = item.transport.to_wire();
            let (first, last) =
                item.range.map_or((0, u16::MAX), |range| (range.first(), range.last()));
            let after = last.checked_add(1).map(|next| (next, self.at(protocol, next)));
            let copied = source.starts(protocol).filter(|start| first < *start && *start <= last);
            let copied: Vec<(u16, AllowValue)> = std::iter::once(first)
                .chain(copied)
                .map(|start| (start, source.at(protocol, start)))
                .collect();
            let other = self.other;
            let intervals =
                self.by_protocol.entry(protocol).or_insert_with(|| BTreeMap::from([(0, other)]));
            intervals.retain(|start, _| *start < first || last < *start);
            intervals.extend(copied.into_iter().chain(after));
        }
    }

    /// The combination of the values of both at each protocol and port.
    pub(super) fn combine(
        &self,
        other: &Self,
        of: impl Fn(AllowValue, AllowValue) -> AllowValue,
    ) -> Self {
        let listed = self.by_protocol.keys().chain(other.by_protocol.keys());
        let combined =
            listed.copied().collect::<BTreeSet<Protocol>>().into_iter().map(|protocol| {
                let starts = self.starts(protocol).chain(other.starts(protocol)).chain([0]);
                let values = starts
                    .map(|first| (first, of(self.at(protocol, first), other.at(protocol, first))));
                (protocol, values.collect())
            });
        Self { other: of(self.other, other.other), by_protocol: combined.collect() }
    }

    /// Adds the entries that an identity needs so that a look-up gives these values, where `fallback` has the values of a
    /// look-up that finds no entry of the identity.
    pub(super) fn write(&self, map: &mut AllowMap, identity: Identity, fallback: &Self) {
        let inherits = self.other == fallback.other;
        if !inherits {
            let key = key(identity, Protocol(0), 0, AllowKey::ALL_PROTOCOLS_BITS);
            map.insert(key, self.other);
        }
        let own = Self::constant(self.other);
        let inherited = if inherits { fallback } else { &own };
        let listed = self.by_protocol.keys().chain(fallback.by_protocol.keys());
        for protocol in listed.copied().collect::<BTreeSet<Protocol>>() {
            for (first, bits, value) in self.entries(protocol, inherited) {
                map.insert(key(identity, protocol, first, AllowKey::ALL_PORTS_BITS + bits), value);
            }
        }
    }

    /// The entries for one protocol, each with its first port and the leading bits of the port that it fixes: those for the
    /// ports whose value differs from the inherited one or, if these are fewer, one entry for all ports and its exceptions.
    fn entries(&self, protocol: Protocol, inherited: &Self) -> Vec<(u16, u32, AllowValue)> {
        let starts: BTreeSet<u16> = std::iter::once(0)
            .chain(self.starts(protocol))
            .chain(inherited.starts(protocol))
            .collect();
        let starts: Vec<u16> = starts.into_iter().collect();
        let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
        let intervals: Vec<Interval> = starts
            .iter()
            .zip(ends)
            .map(|(first, last)| Interval { first: *first, last, value: self.at(protocol, *first) })
            .collect();
        let differing = differences(&intervals, |first| inherited.at(protocol, first));
        let Some(most) = intervals.iter().max_by_key(|of| of.last - of.first) else {
            return differing;
        };
        let exceptions = differences(&intervals, |_| most.value);
        if differing.len() <= exceptions.len() + 1 {
            differing
        } else {
            std::iter::once((0, 0, most.value)).chain(exceptions).collect()
        }
    }
}

struct Interval {
    first: u16,
    last: u16,
    value: AllowValue,
}

/// The entries for the intervals whose value is not the one expected there.
fn differences(
    intervals: &[Interval],
    expected: impl Fn(u16) -> AllowValue,
) -> Vec<(u16, u32, AllowValue)> {
    let mut runs: Vec<Interval> = Vec::new();
    for Interval { first, last, value } in intervals {
        if *value == expected(*first) {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.value == *value && run.last.checked_add(1) == Some(*first) => {
                run.last = *last;
            }
            _ => runs.push(Interval { first: *first, last: *last, value: *value }),
        }
    }
    let blocks = |run: &Interval| {
        let value = run.value;
        aligned_blocks(run.first, run.last)
            .into_iter()
            .map(move |(first, bits)| (first, bits, value))
    };
    runs.iter().flat_map(blocks).collect()
}
