//! The gates: the only definition, from which the table of `benchmarks.md` is made.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::stats::Estimate;

/// A unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// A number without a unit: a ratio or a count.
    Number,
    /// Nanoseconds.
    Nanos,
    /// Microseconds.
    Micros,
    /// Milliseconds.
    Millis,
    /// Seconds.
    Seconds,
    /// Megabytes (10^6 bytes).
    Megabytes,
    /// Gigabits a second.
    GigabitsPerSecond,
}

impl Unit {
    /// The suffix of a number.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Number => "",
            Self::Nanos => "ns",
            Self::Micros => "µs",
            Self::Millis => "ms",
            Self::Seconds => "s",
            Self::Megabytes => "MB",
            Self::GigabitsPerSecond => "Gbit/s",
        }
    }
}

/// Whether less or more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sense {
    /// Less.
    AtMost,
    /// More.
    AtLeast,
}

/// A gate.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its number; letters distinguish the parts of a row.
    pub number: &'static str,
    /// The suite that measures it.
    pub suite: &'static str,
    /// What is measured.
    pub what: &'static str,
    /// Its unit.
    pub unit: Unit,
    /// Whether less or more is better.
    pub sense: Sense,
    /// The accepted limit.
    pub gate: f64,
    /// The goal.
    pub stretch: f64,
}

/// The result for a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The goal.
    Stretch,
    /// The gate.
    Gate,
    /// Neither.
    No,
}

impl Row {
    /// The result for a measured value.
    pub fn reached(&self, measured: &Estimate) -> Reached {
        let meets = |limit: f64| match self.sense {
            Sense::AtMost => measured.value <= limit,
            Sense::AtLeast => measured.value >= limit,
        };
        if meets(self.stretch) {
            Reached::Stretch
        } else if meets(self.gate) {
            Reached::Gate
        } else {
            Reached::No
        }
    }
}

const fn most(
    suite: &'static str,
    number: &'static str,
    what: &'static str,
    unit: Unit,
    limits: [f64; 2],
) -> Row {
    let [gate, stretch] = limits;
    Row { number, suite, what, unit, sense: Sense::AtMost, gate, stretch }
}

const fn least(row: Row) -> Row {
    Row { sense: Sense::AtLeast, ..row }
}

use Unit::{Megabytes, Micros, Millis, Number, Seconds};

/// All rows.
#[rustfmt::skip]
pub const ROWS: [Row; 48] = [
    most("dp", "1", "established verdict, test run, against the per-pod-LPM reference", Number, [0.60, 0.40]),
    most("dp", "2", "established, added, against conntrack and an nft set of 10k", Number, [0.40, 0.25]),
    most("dp", "3a", "established, added, against chains as kube-router's for 30 pods", Number, [0.20, 0.13]),
    most("dp", "3b", "the same for 110 pods", Number, [0.08, 0.05]),
    most("dp", "4a", "new flow, added, against the per-pod-LPM reference, 10k peers, own table sizes", Number, [0.50, 0.35]),
    most("dp", "4b", "the same with equal tables of 512k flows", Number, [0.75, 0.60]),
    most("dp", "5", "new flow, added, against conntrack and an nft set of 10k", Number, [0.75, 0.55]),
    most("dp", "6a", "new flow, added, against chains as kube-router's for 1 pod", Number, [0.30, 0.18]),
    most("dp", "6b", "the same for 110 pods", Number, [0.20, 0.12]),
    most("dp", "7", "deny verdict, test run, against the per-pod-LPM reference, 10k peers", Number, [0.50, 0.30]),
    most("dp", "8a", "flat: our added cost with 10k peers against 10", Number, [1.15, 1.05]),
    most("dp", "8b", "flat: our added cost with 110 pods against 1", Number, [1.05, 1.02]),
    least(most("dp", "9", "bulk TCP against no policy", Number, [0.95, 0.98])),
    most("dp", "10", "programs loaded on a node, whatever the number of pods", Number, [6.0, 3.0]),
    most("cp", "11a", "cold compile of 10k pods, 1k policies, 100 namespaces from decoded objects", Millis, [5.0, 2.0]),
    most("cp", "11b", "cold compile of 100k pods, 10k policies", Millis, [65.0, 20.0]),
    most("cp", "12a", "25k namespaces, 75k policies, 100k pods: time", Seconds, [0.6, 0.2]),
    most("cp", "12b", "the same: memory", Megabytes, [160.0, 80.0]),
    most("cp", "13a", "one pod event to the map written, 10k pods and 1k policies, 99th percentile", Micros, [200.0, 50.0]),
    most("cp", "13b", "the same against the own cold compile", Number, [0.01, 0.002]),
    most("cp", "14", "watch event to the first packet with the new verdict, 99th percentile", Millis, [20.0, 5.0]),
    most("dp", "15a", "10k peers into the kernel against nft -f", Number, [0.1, 0.033]),
    most("dp", "15b", "10k peers into the kernel against ipset restore", Number, [0.1, 0.033]),
    most("dp", "16", "kernel map bytes, 30 endpoints with 10k peers in both directions, against the per-pod-LPM layout", Number, [0.20, 0.05]),
    most("cp", "17", "resident memory of the agent with 10k pods and 1k policies watched", Megabytes, [40.0, 20.0]),
    most("cni", "18a", "CNI ADD with policy in force: main plugin against bridge and host-local", Number, [1.0, 0.7]),
    most("cni", "18b", "chained: what is added to an ADD", Millis, [12.0, 6.0]),
    most("soak", "19a", "soak, 10k unique pods at 100 a second: resident memory after against before", Number, [1.05, 1.0]),
    most("soak", "19b", "the same: file descriptors", Number, [1.0, 1.0]),
    most("soak", "19c", "the same: pins", Number, [1.0, 1.0]),
    most("soak", "19d", "the same: map entries", Number, [1.0, 1.0]),
    most("dp", "20", "round trip between two pods of a node, short cut, conntrack, against no policy", Number, [0.85, 0.78]),
    most("dp", "21", "the same between two nodes over vxlan", Number, [0.82, 0.74]),
    most("dp", "22a", "round trip between two pods of a node, added by the short cut, against an nft set of 10k (negative: faster than no policy)", Number, [0.0, -0.5]),
    most("dp", "22b", "the same against chains as kube-router's for 30 pods", Number, [0.0, -0.5]),
    most("dp", "22c", "the same for 110 pods", Number, [0.0, -0.5]),
    most("dp", "23", "first SYN verdict, test run, with 100 Admin and 100 Baseline policies of 25 rules against none", Number, [1.3, 1.1]),
    most("offline", "26a", "`simulate`, 2,000 pods and 500 policies", Seconds, [1.0, 0.3]),
    most("offline", "26b", "the same: memory", Megabytes, [150.0, 150.0]),
    most("offline", "26c", "`simulate`, 600 pods with 150 ports each", Seconds, [5.0, 1.0]),
    most("offline", "26d", "the same: memory", Megabytes, [300.0, 300.0]),
    most("offline", "27a", "`lint`, 4,000 policies in one namespace with 500 pods", Seconds, [1.0, 0.5]),
    most("offline", "27b", "`lint`, one selector of 40,000 labels", Seconds, [0.2, 0.1]),
    most("offline", "27c", "`lint`, 1,000,000 blocks in 12 policies", Seconds, [4.0, 2.0]),
    most("offline", "32a", "`ui`: matrix of 500 pods and 200 policies shown in a browser", Seconds, [1.0, 0.3]),
    most("offline", "32b", "the same: a drop of a node shown", Seconds, [1.0, 0.3]),
    most("cp", "28a", "a policy of 11,000 rules that selects 5,000 pods: peak memory of the agent", Megabytes, [200.0, 100.0]),
    most("cp", "28b", "the same: the longest delay of another namespace's change", Millis, [100.0, 20.0]),
];

/// A row by its number.
///
/// # Errors
/// There is none.
pub fn row(number: &str) -> Result<&'static Row> {
    ROWS.iter()
        .find(|row| row.number == number)
        .with_context(|| format!("there is no row {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_numbers_of_their_own_and_goals_beyond_their_gates() {
        let numbers: std::collections::BTreeSet<_> = ROWS.iter().map(|row| row.number).collect();
        assert_eq!(numbers.len(), ROWS.len());
        for row in ROWS {
            assert_ne!(row.reached(&Estimate::exact(row.stretch)), Reached::No, "{row:?}");
            assert_ne!(row.reached(&Estimate::exact(row.gate)), Reached::No, "{row:?}");
        }
    }

    #[test]
    fn both_senses_are_known() {
        let [added, bulk] = ["2", "9"].map(|number| row(number).unwrap());
        assert_eq!(added.reached(&Estimate::exact(0.2)), Reached::Stretch);
        assert_eq!(added.reached(&Estimate::exact(0.3)), Reached::Gate);
        assert_eq!(added.reached(&Estimate::exact(0.5)), Reached::No);
        assert_eq!(bulk.reached(&Estimate::exact(0.96)), Reached::Gate);
        assert_eq!(bulk.reached(&Estimate::exact(0.9)), Reached::No);
    }
}
