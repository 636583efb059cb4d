//! Folds repeated drops, so that a person can read them when thousands come each second.
//!
//! In: records as they come, and a tick each second. Out: a new drop at once; repeated ones with their count, and the number of what is
//! not shown, at the next tick. Must not: read a clock, or write more than [`MAX_AT_ONCE`] and [`MAX_REPEATED`] lines between ticks.

use std::collections::BTreeMap;

use super::record::{Key, NotShown, Record};

/// New drops that are shown at once between two ticks.
pub(super) const MAX_AT_ONCE: usize = 10;
/// Lines for repeated drops, and for those without a record, at a tick.
pub(super) const MAX_REPEATED: usize = 10;
/// Ticks without such a drop after which one counts as new again.
const MEMORY: u64 = 10;

/// A line to show.
#[derive(Clone, Debug)]
pub(super) enum Line {
    /// Drops with the same key: the latest of them, and their number.
    Drop {
        /// What they have in common.
        key: Key,
        /// The latest.
        latest: Box<Record>,
        /// Their number.
        n: u64,
    },
    /// Drops of one pod for one reason that have no record, because of the rate limit.
    NotShown {
        /// Pod, direction and reason in words.
        what: String,
        /// Their number.
        n: u64,
    },
    /// Drops that have records, and no line.
    Left {
        /// Their number.
        n: u64,
    },
}

/// What has been shown, and what waits for the tick.
#[derive(Debug, Default)]
pub(super) struct Fold {
    n_ticks: u64,
    n_at_once: usize,
    /// The tick at which a key was seen last.
    seen: BTreeMap<Key, u64>,
    waiting: BTreeMap<Key, (Record, u64)>,
    not_shown: BTreeMap<String, u64>,
}

impl Fold {
    /// Adds a record. Returns it if it is new.
    pub(super) fn add(&mut self, node: &str, record: Record) -> Option<Line> {
        let key = record.key(node);
        let is_known = self.seen.insert(key.clone(), self.n_ticks).is_some();
        if !is_known && self.n_at_once < MAX_AT_ONCE {
            self.n_at_once += 1;
            return Some(Line::Drop { key, latest: Box::new(record), n: 1 });
        }
        let (latest, n) = self.waiting.entry(key).or_insert_with(|| (record.clone(), 0));
        *latest = record;
        *n += 1;
        None
    }

    /// Adds drops without a record.
    pub(super) fn add_not_shown(&mut self, node: &str, not_shown: &NotShown) {
        let NotShown { pod, direction, reason, n } = not_shown;
        let what = match pod {
            Some(pod) => pod.to_string(),
            None => format!("node {node}"),
        };
        let parts = [Some(&what), direction.as_ref(), reason.as_ref()];
        let what: Vec<_> = parts.into_iter().flatten().map(String::as_str).collect();
        *self.not_shown.entry(what.join(" ")).or_default() += n;
    }

    /// A second is over: what to show of it.
    pub(super) fn tick(&mut self) -> Vec<Line> {
        self.n_ticks += 1;
        self.n_at_once = 0;
        self.seen.retain(|_, at| self.n_ticks - *at <= MEMORY);
        let mut waiting: Vec<_> = std::mem::take(&mut self.waiting).into_iter().collect();
        // The most frequent ones are shown, in the order of their time.
        waiting.sort_by_key(|(_, (_, n))| std::cmp::Reverse(*n));
        let rest = waiting.split_off(waiting.len().min(MAX_REPEATED));
        waiting.sort_by_key(|(_, (latest, _))| latest.unix_ms);
        let mut lines: Vec<_> = waiting
            .into_iter()
            .map(|(key, (latest, n))| Line::Drop { key, latest: Box::new(latest), n })
            .collect();
        let mut not_shown: Vec<_> = std::mem::take(&mut self.not_shown).into_iter().collect();
        not_shown.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let others = not_shown.split_off(not_shown.len().min(MAX_REPEATED));
        lines.extend(not_shown.into_iter().map(|(what, n)| Line::NotShown { what, n }));
        let n_rest: u64 = rest.iter().map(|(_, (_, n))| n).sum();
        let n_left = n_rest + others.iter().map(|(_, n)| n).sum::<u64>();
        if n_left > 0 {
            lines.push(Line::Left { n: n_left });
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(client_port: u16, port: u16) -> Record {
        let record = json!({
            "unix_ms": 1_000, "pod": { "namespace": "shop", "name": "web" }, "direction": "ingress",
            "reason": "not-allowed", "protocol": "TCP", "source": "10.0.0.9", "source_port": client_port,
            "destination": "10.0.0.1", "destination_port": port, "peer": null,
        });
        serde_json::from_value(record).unwrap()
    }

    fn n_of(lines: &[Line]) -> u64 {
        let n = |line: &Line| match line {
            Line::Drop { n, .. } | Line::NotShown { n, .. } | Line::Left { n } => *n,
        };
        lines.iter().map(n).sum()
    }

    #[test]
    fn a_new_drop_is_shown_at_once_and_repeated_ones_with_their_count() {
        let mut fold = Fold::default();
        assert!(fold.add("n1", record(40_000, 80)).is_some());
        for port in 1..=99 {
            assert!(fold.add("n1", record(port, 80)).is_none());
        }
        let lines = fold.tick();
        assert!(matches!(lines.as_slice(), [Line::Drop { n: 99, .. }]), "{lines:?}");
        assert!(fold.tick().is_empty());
        for _ in 0..MEMORY {
            fold.tick();
        }
        assert!(fold.add("n1", record(1, 80)).is_some(), "new again after a while");
    }

    #[test]
    fn of_five_thousand_different_drops_a_second_few_lines_remain_and_none_is_uncounted() {
        let mut fold = Fold::default();
        let mut lines: Vec<_> =
            (1..=5_000).filter_map(|port| fold.add("n1", record(1, port))).collect();
        for pod in 0..100 {
            let of =
                json!({ "pod": { "namespace": "x", "name": pod.to_string() }, "n_not_shown": 50 });
            fold.add_not_shown("n1", &serde_json::from_value(of).unwrap());
        }
        lines.extend(fold.tick());
        assert!(lines.len() <= MAX_AT_ONCE + 2 * MAX_REPEATED + 1, "{}", lines.len());
        assert_eq!(n_of(&lines), 5_000 + 100 * 50);
    }
}
