//! Test sizes from the environment.

/// `NETPOL_CASES`, or this many.
pub fn n_cases(default: usize) -> usize {
    number("NETPOL_CASES").unwrap_or(default)
}

/// `NETPOL_SEED`, or 1.
pub fn seed() -> u64 {
    number("NETPOL_SEED").unwrap_or(1)
}

/// `NETPOL_PODS`, or this many.
pub fn n_pods(default: usize) -> usize {
    number("NETPOL_PODS").unwrap_or(default)
}

/// `NETPOL_CRASH_POINTS`, or this many.
pub fn n_points(default: usize) -> usize {
    number("NETPOL_CRASH_POINTS").unwrap_or(default)
}

/// `NETPOL_PATIENCE`, or 1: factor for all deadlines, for slow machines.
pub fn patience() -> u32 {
    number("NETPOL_PATIENCE").unwrap_or(1)
}

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}
