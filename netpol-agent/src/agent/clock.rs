//! The clock of the timestamps in flow entries.

use netpol_common::ids::Nanos;

/// The kernel's coarse monotonic time, as `bpf_ktime_get_coarse_ns` returns it.
pub(super) fn monotonic_now() -> Nanos {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Nanos(seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default())
}
