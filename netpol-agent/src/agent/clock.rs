//! The clocks: of the timestamps in flow entries, and of reports.

use std::time::{Duration, SystemTime};

use netpol_common::ids::Nanos;

/// The kernel's coarse monotonic time, as `bpf_ktime_get_coarse_ns` returns it.
pub(super) fn monotonic_now() -> Nanos {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Nanos(seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default())
}

/// The time since 1970-01-01 UTC.
#[expect(
    clippy::disallowed_methods,
    reason = "the kernel's records carry monotonic time, and reports the time of day"
)]
pub(super) fn unix_now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
