//! When to try again.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::time::Duration;

/// Delays that double with every failure, up to a bound, each somewhere between half of it and all of it:
/// agents that lost the API server together do not come back together.
#[derive(Debug)]
pub(super) struct Retry {
    min: Duration,
    max: Duration,
    n_failures: u32,
}

impl Retry {
    /// Delays between half of `min` and `max`.
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, n_failures: 0 }
    }

    /// Things work: the next failure is the first.
    pub(super) fn reset(&mut self) {
        self.n_failures = 0;
    }

    /// Failures since things worked.
    pub(super) fn n_failures(&self) -> u32 {
        self.n_failures
    }

    /// Counts a failure and says how long to wait.
    pub(super) fn next_delay(&mut self) -> Duration {
        let factor = 2_u32.saturating_pow(self.n_failures);
        self.n_failures = self.n_failures.saturating_add(1);
        self.min.saturating_mul(factor).min(self.max).mul_f64(0.5 + random_share() / 2.0)
    }
}

/// A random duration between `duration` and a quarter more.
pub(super) fn spread(duration: Duration) -> Duration {
    duration.mul_f64(1.0 + random_share() / 4.0)
}

/// A random number of at least 0 and less than 1. The random keys of the standard library's hash maps
/// are good enough for a jitter.
fn random_share() -> f64 {
    let bits = RandomState::new().hash_one(0_u8) >> 32;
    u32::try_from(bits).map_or(0.0, |bits| f64::from(bits) / (f64::from(u32::MAX) + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound_and_start_again_after_success() {
        let second = Duration::from_secs(1);
        let mut retry = Retry::new(second, 30 * second);
        for whole in [1, 2, 4, 8, 16, 30, 30] {
            let delay = retry.next_delay();
            assert!(
                delay >= whole * second / 2 && delay <= whole * second,
                "{delay:?} of {whole} s"
            );
        }
        retry.reset();
        assert!(retry.next_delay() <= second);
        assert_eq!(retry.n_failures(), 1);
    }

    #[test]
    fn jitter_differs_from_one_to_the_next() {
        let delays: Vec<Duration> = (0..8).map(|_| spread(Duration::from_mins(4))).collect();
        assert!(delays.iter().any(|delay| *delay != delays[0]));
        assert!(delays.iter().all(|delay| (240..=300).contains(&delay.as_secs())));
    }
}
