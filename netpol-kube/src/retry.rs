//! Delays between attempts.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::time::Duration;

/// Exponential backoff with jitter. Each delay lies between half of the current bound and the bound, so that agents that lost the
/// API server at the same time do not return at the same time.
#[derive(Debug)]
pub(super) struct Retry {
    min: Duration,
    max: Duration,
    n_failures: u32,
}

impl Retry {
    /// Backoff whose bound begins at `min` and doubles up to `max`.
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, n_failures: 0 }
    }

    /// Begins again at `min`.
    pub(super) fn reset(&mut self) {
        self.n_failures = 0;
    }

    /// Failures since the last reset.
    pub(super) fn n_failures(&self) -> u32 {
        self.n_failures
    }

    /// Counts a failure. Returns the delay before the next attempt.
    pub(super) fn next_delay(&mut self) -> Duration {
        let factor = 2_u32.saturating_pow(self.n_failures);
        self.n_failures = self.n_failures.saturating_add(1);
        self.min.saturating_mul(factor).min(self.max).mul_f64(0.5 + random_share() / 2.0)
    }
}

/// Adds up to a quarter to a duration, at random.
pub(super) fn spread(duration: Duration) -> Duration {
    duration.mul_f64(1.0 + random_share() / 4.0)
}

/// A random number in [0, 1). The random keys of the standard library's hash maps are good enough for jitter.
fn random_share() -> f64 {
    let bits = RandomState::new().hash_one(0_u8) >> 32;
    u32::try_from(bits).map_or(0.0, |bits| f64::from(bits) / (f64::from(u32::MAX) + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound_and_begin_again_after_a_reset() {
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
    fn two_jitters_differ() {
        let delays: Vec<Duration> = (0..8).map(|_| spread(Duration::from_mins(4))).collect();
        assert!(delays.iter().any(|delay| *delay != delays[0]));
        assert!(delays.iter().all(|delay| (240..=300).contains(&delay.as_secs())));
    }
}
