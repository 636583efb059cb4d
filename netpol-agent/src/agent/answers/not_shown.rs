//! Drops without a record, because the kernel's programs limit the rate of records.
//!
//! In: the kernel's counters, again and again, and the records that arrive. Out: how many drops have no record, soon after they
//! happen; the count in the next record comes only with that record. Must not: read the kernel.

use std::collections::BTreeMap;

use netpol_common::keys::CounterKey;
use netpol_policy::dataplane::Counter;

/// Compares counters and records since the first look.
#[derive(Debug, Default)]
pub(super) struct NotShown {
    /// The counters of the look before: the records of what they count have arrived by the next look.
    counted: Option<BTreeMap<CounterKey, u64>>,
    by_key: BTreeMap<CounterKey, Tally>,
}

/// One counter since the first look.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Its value at the first look.
    base: u64,
    n_records: u64,
    /// Drops without a record that have been returned.
    n_returned: u64,
}

impl NotShown {
    /// A record has arrived.
    pub(super) fn record(&mut self, key: CounterKey) {
        if self.counted.is_some() {
            self.by_key.entry(key).or_default().n_records += 1;
        }
    }

    /// Reads the counters. Returns the drops that the look before counted and that have no record, without those of earlier looks.
    pub(super) fn look(
        &mut self,
        counters: &BTreeMap<CounterKey, Counter>,
    ) -> Vec<(CounterKey, u64)> {
        let now: BTreeMap<_, _> = counters.iter().map(|(key, of)| (*key, of.packets)).collect();
        let Some(before) = self.counted.replace(now.clone()) else {
            let first =
                now.into_iter().map(|(key, base)| (key, Tally { base, ..Tally::default() }));
            self.by_key = first.collect();
            return Vec::new();
        };
        // An interface that is gone, or whose number another one has now.
        self.by_key.retain(|key, _| now.get(key) >= before.get(key));
        let mut found = Vec::new();
        for (key, n_counted) in before {
            if now.get(&key).is_none_or(|now| *now < n_counted) {
                continue;
            }
            let tally = self.by_key.entry(key).or_default();
            let n_all = n_counted.saturating_sub(tally.base).saturating_sub(tally.n_records);
            let n_new = n_all.saturating_sub(tally.n_returned);
            if n_new > 0 {
                tally.n_returned = n_all;
                found.push((key, n_new));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use netpol_common::ids::{Direction, IfIndex};
    use netpol_common::reason::{DropReason, Verdict};

    use super::*;

    fn key(ifindex: u32) -> CounterKey {
        CounterKey::new(
            IfIndex(ifindex),
            Direction::Ingress,
            Verdict::Drop(DropReason::NotAllowed).to_wire(),
        )
    }

    fn counters(packets: u64) -> BTreeMap<CounterKey, Counter> {
        BTreeMap::from([(key(7), Counter { packets, bytes: 0 })])
    }

    #[test]
    fn drops_without_a_record_are_returned_once() {
        let mut not_shown = NotShown::default();
        assert_eq!(not_shown.look(&counters(10)), []);
        not_shown.record(key(7));
        not_shown.record(key(7));
        assert_eq!(not_shown.look(&counters(110)), []);
        assert_eq!(not_shown.look(&counters(110)), [(key(7), 98)]);
        assert_eq!(not_shown.look(&counters(110)), []);
        assert_eq!(not_shown.look(&counters(115)), []);
        for _ in 0..5 {
            not_shown.record(key(7));
        }
        assert_eq!(not_shown.look(&counters(115)), []);
    }

    #[test]
    fn a_record_that_arrives_after_its_counter_is_not_missing() {
        let mut not_shown = NotShown::default();
        assert_eq!(not_shown.look(&BTreeMap::new()), []);
        assert_eq!(not_shown.look(&counters(1)), []);
        not_shown.record(key(7));
        assert_eq!(not_shown.look(&counters(1)), []);
    }

    #[test]
    fn a_counter_that_begins_again_is_a_new_one() {
        let mut not_shown = NotShown::default();
        assert_eq!(not_shown.look(&counters(1000)), []);
        assert_eq!(not_shown.look(&counters(3)), []);
        assert_eq!(not_shown.look(&counters(3)), [(key(7), 3)]);
    }
}
