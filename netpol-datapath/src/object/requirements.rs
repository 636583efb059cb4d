//! The capabilities and kernel features that the programs need.

use std::path::Path;

use aya::util::KernelVersion;
use rustix::thread::{CapabilitySet, capabilities};

use crate::error::Error;

/// The oldest kernel with all features that the programs use: ring buffers, the coarse clock, bounded loops.
const OLDEST_KERNEL: KernelVersion = KernelVersion::new(5, 15, 0);
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Checks the requirements, so that a missing one is reported by name and not as an obscure failure to load.
///
/// # Errors
/// [`Error::NotPermitted`], [`Error::KernelTooOld`], [`Error::NoBtf`].
pub(crate) fn check_kernel() -> Result<(), Error> {
    Surroundings {
        capabilities: capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective),
        // An unreadable version counts as new enough.
        kernel: KernelVersion::current().unwrap_or(OLDEST_KERNEL),
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
        btf: Path::new(KERNEL_BTF),
    }
    .check()
}

/// The properties of the kernel and the process that are checked.
struct Surroundings<'a> {
    capabilities: CapabilitySet,
    kernel: KernelVersion,
    release: String,
    btf: &'a Path,
}

impl Surroundings<'_> {
    fn check(self) -> Result<(), Error> {
        let Self { capabilities, kernel, release, btf } = self;
        // SYS_ADMIN includes BPF and PERFMON; only it may open the maps within a map.
        if !capabilities.contains(CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN) {
            return Err(Error::NotPermitted);
        }
        if kernel < OLDEST_KERNEL {
            return Err(Error::KernelTooOld { found: release });
        }
        if !btf.exists() {
            return Err(Error::NoBtf { path: btf.to_owned() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_requirement_is_reported_with_its_remedy() {
        let check = |capabilities, kernel, btf: &str, expected: &str| {
            let btf = Path::new(btf);
            let release = "5.10.0-example".to_owned();
            let message = match (Surroundings { capabilities, kernel, release, btf }).check() {
                Ok(()) => String::new(),
                Err(error) => error.to_string(),
            };
            assert_eq!(message, expected);
        };
        let all = CapabilitySet::all();
        let new = KernelVersion::new(6, 12, 0);
        check(all, new, "/proc/self/exe", "");
        check(all, OLDEST_KERNEL, "/proc/self/exe", "");
        let not_permitted = "not permitted to load and attach eBPF programs: run as root, or with CAP_NET_ADMIN and \
                             CAP_SYS_ADMIN";
        for missing in [CapabilitySet::NET_ADMIN, CapabilitySet::SYS_ADMIN] {
            check(all - missing, new, "/proc/self/exe", not_permitted);
        }
        let too_old = "the kernel is 5.10.0-example: netpol needs Linux 5.15 or newer";
        check(all, KernelVersion::new(5, 14, 255), "/proc/self/exe", too_old);
        let no_btf = "the kernel has no BTF (/nonexistent is missing): netpol needs a kernel built with \
                      CONFIG_DEBUG_INFO_BTF";
        check(all, new, "/nonexistent", no_btf);
    }
}
