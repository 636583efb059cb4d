//! Clocks for benchmarks.

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};

/// The monotonic clock, nanoseconds.
pub fn now_ns() -> u64 {
    read_ns(ClockId::Monotonic)
}

fn read_ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

/// The duration of `work`, in nanoseconds, and its result.
///
/// # Errors
/// Those of the work.
pub fn nanos<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let before = now_ns();
    let value = work()?;
    Ok((number(now_ns() - before), value))
}

/// As [`nanos`], in microseconds.
///
/// # Errors
/// Those of the work.
pub fn micros<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    nanos(work).map(|(time, value)| (time / 1e3, value))
}

/// As [`micros`], in processor time of this thread: for work that does not block.
///
/// # Errors
/// Those of the work.
pub fn thread_micros<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let before = read_ns(ClockId::ThreadCPUTime);
    let value = work()?;
    Ok((number(read_ns(ClockId::ThreadCPUTime) - before) / 1e3, value))
}

/// A count as a floating-point number.
#[expect(clippy::cast_precision_loss, reason = "53 bits count a hundred days in nanoseconds")]
pub fn number(count: u64) -> f64 {
    count as f64
}
