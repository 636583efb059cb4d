//! Laws: properties of every generated cluster.
//!
//! In: a number of clusters, a strategy, a law. Out: nothing, or the smallest counterexample found, as lines for a file in
//! `tests/regressions`. `NETPOL_SEED` selects the clusters, reproducibly.

use std::cell::RefCell;

use anyhow::{Result, anyhow, bail};
use fastrand::Rng;
use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};

use crate::case::Case;
use crate::{generator, settings};

/// Maximum time spent on shrinking a counterexample.
const MAX_SHRINK_TIME_MS: u32 = 60_000;
/// Maximum number of shrink steps.
const MAX_SHRINK_ITERS: u32 = 100_000;

/// Checks a law for `n_clusters` clusters. The law draws its own random choices from the generator that it gets.
///
/// # Errors
/// The law does not hold.
pub fn check(
    n_clusters: usize,
    clusters: impl Strategy<Value = Vec<Case>>,
    law: impl Fn(&[Case], &mut Rng) -> Result<()>,
) -> Result<()> {
    let seed = settings::seed();
    let config = ProptestConfig {
        cases: u32::try_from(n_clusters)?,
        failure_persistence: None,
        max_shrink_time: MAX_SHRINK_TIME_MS,
        max_shrink_iters: MAX_SHRINK_ITERS,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new_with_rng(config, generator::test_rng(seed));
    let last_failure = RefCell::new(None);
    let outcome = runner.run(&(clusters, any::<u64>().no_shrink()), |(cases, seed)| {
        // Dropping a part of a part that is gone already changes nothing.
        if let Some((failed, reason)) = &*last_failure.borrow()
            && *failed == cases
        {
            return Err(TestCaseError::fail(String::clone(reason)));
        }
        law(&cases, &mut Rng::with_seed(seed)).map_err(|error| {
            let reason = format!("{error:#}");
            last_failure.replace(Some((cases, reason.clone())));
            TestCaseError::fail(reason)
        })
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, (cases, _))) => {
            let lines: Vec<_> =
                cases.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
            bail!("{reason}\nwith NETPOL_SEED={seed}, shrunk:\n{}", lines.join("\n"))
        }
        Err(TestError::Abort(reason)) => Err(anyhow!("{reason}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counterexample_shrinks_to_what_the_failure_needs() {
        let law = |cases: &[Case], _: &mut Rng| {
            let has_egress = |case: &Case| {
                case.objects.iter().any(|object| object.pointer("/spec/egress/0").is_some())
            };
            anyhow::ensure!(!cases.iter().any(has_egress), "an egress rule");
            Ok(())
        };
        let error = check(200, generator::clusters(), law).unwrap_err().to_string();
        let case = error.lines().last().unwrap();
        let case: Case = serde_json::from_str(case).unwrap();
        assert!(error.starts_with("an egress rule\nwith NETPOL_SEED=1"), "{error}");
        assert_eq!(error.lines().count(), 3, "{error}");
        assert!(case.probes.is_empty(), "{error}");
        assert_eq!(case.objects.len(), 1, "{error}");
        assert_eq!(case.objects[0].as_object().unwrap().len(), 1, "{error}");
    }
}
