//! Medians and their confidence intervals.

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// Number of bootstrap resamples.
const N_RESAMPLES: usize = 2_000;

/// A value with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

impl Estimate {
    /// A counted value, without uncertainty.
    pub const fn exact(value: f64) -> Self {
        Self { value, low: value, high: value }
    }

    /// The same in another unit.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        let Self { value, low, high } = self;
        Self { value: value * factor, low: low * factor, high: high * factor }
    }
}

/// The median, 0 without samples.
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The minimum.
pub fn min(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The quantile, 0 without samples.
pub fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    #[expect(clippy::cast_precision_loss, reason = "there are few samples")]
    let position = part.clamp(0.0, 1.0) * last as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the last index"
    )]
    let below = position.floor() as usize;
    let at = |index: usize| sorted.get(index.min(last)).copied().unwrap_or(0.0);
    at(below) + (at(below + 1) - at(below)) * position.fract()
}

/// A statistic of rounds, with the interval that resampling the rounds gives (percentile bootstrap).
///
/// Rounds are resampled as a whole, because a slow phase of the machine affects all configurations of a round.
pub fn bootstrap(n_rounds: usize, statistic: impl Fn(&[usize]) -> f64) -> Estimate {
    let all: Vec<usize> = (0..n_rounds).collect();
    let mut rng = Rng::with_seed(95);
    let resampled: Vec<f64> = (0..N_RESAMPLES)
        .map(|_| {
            let rounds: Vec<usize> = all.iter().map(|_| rng.usize(..n_rounds)).collect();
            statistic(&rounds)
        })
        .collect();
    Estimate {
        value: statistic(&all),
        low: quantile(&resampled, 0.025),
        high: quantile(&resampled, 0.975),
    }
}

/// The samples of these rounds.
pub fn of_rounds(samples: &[f64], rounds: &[usize]) -> Vec<f64> {
    rounds.iter().filter_map(|round| samples.get(*round).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_samples() {
        for (found, expected) in [
            (median(&[]), 0.0),
            (median(&[3.0]), 3.0),
            (median(&[4.0, 1.0]), 2.5),
            (median(&[9.0, 1.0, 2.0]), 2.0),
            (quantile(&[0.0, 10.0], 0.99), 9.9),
            (min(&[3.0, 2.0]), 2.0),
        ] {
            assert!(found.total_cmp(&expected).is_eq(), "{found} is not {expected}");
        }
    }

    #[test]
    fn the_interval_holds_the_value_and_is_narrow_for_equal_rounds() {
        let samples = [10.0, 11.0, 12.0, 30.0, 10.5, 11.5, 11.2];
        let estimate = bootstrap(samples.len(), |rounds| median(&of_rounds(&samples, rounds)));
        assert!(estimate.value.total_cmp(&11.2).is_eq(), "{estimate:?}");
        assert!(estimate.low >= 10.0 && estimate.low <= 11.2, "{estimate:?}");
        assert!(estimate.high >= 11.2 && estimate.high <= 30.0, "{estimate:?}");
        let equal = bootstrap(3, |rounds| median(&of_rounds(&[2.0, 2.0, 2.0], rounds)));
        assert_eq!(equal, Estimate::exact(2.0));
    }
}
