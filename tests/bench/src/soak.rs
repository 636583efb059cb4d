//! Leaks under load: the results of [`netpol_lab::soak`] as answers to rows.

use anyhow::Result;

use super::clock::number;
use super::{Estimate, Run};
use netpol_lab::soak::{self, Options, Report};

/// Measures rows 19a to 19d: ten thousand pods, created and deleted at 100 a second, on a node with 200 endpoints.
///
/// # Errors
/// Those of [`soak::run`].
pub fn measure(run: &mut Run) -> Result<()> {
    let seconds = u64::try_from(run.size(100, 4))?;
    let n_endpoints = u32::try_from(run.size(200, 10))?;
    let report =
        soak::run(&Options { seconds, pods_per_second: 100, n_endpoints, outage_seconds: 0 })?;
    for (row, ratio) in ratios(&report)? {
        run.answer(row, Estimate::exact(ratio), &format!("{} pods", report.n_pods))?;
    }
    for line in report.text().lines() {
        run.note(line);
    }
    Ok(())
}

/// Resources after the load relative to before, by row.
fn ratios(report: &Report) -> Result<[(&'static str, f64); 4]> {
    let Report { before, after, .. } = report;
    let ratio = |after: usize, before: usize| -> Result<f64> {
        Ok(number(u64::try_from(after)?) / number(u64::try_from(before)?))
    };
    let n_entries = |measure: &soak::Measure| measure.entries.values().sum();
    Ok([
        ("19a", after.memory_ratio(before)),
        ("19b", ratio(after.n_fds, before.n_fds)?),
        ("19c", ratio(after.n_links, before.n_links)?),
        ("19d", ratio(n_entries(after), n_entries(before))?),
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::gates::ROWS;
    use netpol_lab::soak::Measure;

    fn measure(rss_kib: u64, n_links: usize) -> Measure {
        let entries = BTreeMap::from([("endpoints", 3), ("identities", 5)]);
        Measure {
            rss_kib,
            allocated_kib: 0,
            n_fds: 10,
            n_threads: 2,
            n_links,
            n_on_filters: 0,
            n_strangers: 0,
            entries,
        }
    }

    #[test]
    fn every_row_is_what_there_is_after_against_before() {
        let report = Report {
            lasted: Duration::from_secs(1),
            n_pods: 100,
            n_interfaces: 1,
            n_policies: 1,
            n_verdicts: 1,
            n_converged_verdicts: 1,
            lags: Vec::new(),
            n_answers: 1,
            outage: None,
            before: measure(1_000, 7),
            after: measure(1_100, 14),
        };
        let found = ratios(&report).unwrap().map(|(row, ratio)| (row, (ratio * 100.0).round()));
        assert_eq!(found, [("19a", 110.0), ("19b", 100.0), ("19c", 200.0), ("19d", 100.0)]);
        let rows = ROWS.iter().filter(|row| row.suite == "soak").map(|row| row.number);
        assert!(rows.eq(found.iter().map(|(row, _)| *row)));
    }
}
