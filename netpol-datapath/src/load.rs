//! Loading the object file: what it needs of the kernel, and pins that are there already.

use std::path::Path;

use aya::programs::SchedClassifier;
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use netpol_common::maps;
use rustix::thread::{CapabilitySet, capabilities};

use super::error::Error;
use super::flows::{Geometry, Seed};
use super::maps::Maps;
use super::pins::Pins;
use super::table::Label;
use super::{Config, Datapath, Program, Trace, layout};

/// Written by build.rs.
pub(super) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netpol-ebpf"));

/// The oldest kernel with all that the programs use: ring buffers, the coarse clock, bounded loops.
const OLDEST_KERNEL: KernelVersion = KernelVersion::new(5, 15, 0);
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";
/// aya-log's map and constant.
pub(super) const LOG_MAP: &str = "AYA_LOGS";
const LOG_LEVEL: &str = "AYA_LOG_LEVEL";

/// What the verifier says about a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The program.
    pub program: Program,
    /// Instructions that the verifier walked over all paths; the kernel's limit is a million. `None` before
    /// kernel 5.16.
    pub n_verified: Option<u32>,
    /// Instructions after the verifier removed what cannot be reached.
    pub n_translated: Option<u32>,
    /// Size of the machine code, bytes; 0 where the kernel interprets.
    pub len_jited_bytes: u32,
}

impl Datapath {
    /// Loads the programs, with new maps or those that are pinned.
    ///
    /// Nothing is attached, and what is attached goes on with the programs of before until
    /// [`Datapath::attach`] replaces them. So it is with the programs of another version: its connections are taken over
    /// here, its attachments one by one, and [`Datapath::retire_predecessor`] is the end of it.
    ///
    /// # Errors
    /// What the kernel lacks ([`Error::NotPermitted`], [`Error::KernelTooOld`], [`Error::NoBtf`],
    /// [`Error::NoBpfFs`]), pins of another build ([`Error::PinIncompatible`]), or a failure to load.
    pub fn load(config: &Config) -> Result<Self, Error> {
        let Config {
            pin_root,
            mount,
            mark_mask: _,
            trace: _,
            attaching: _,
            flow_reads: _,
            capacities,
        } = config;
        check_kernel()?;
        let layouts = layout::expected(capacities);
        let pins = pin_root.as_deref().map(|root| Pins::open(root, *mount)).transpose()?;
        if let Some(pins) = &pins {
            pins.carry_over(&layouts)?;
            pins.check(&layouts)?;
        }
        let seed = Seed::open(pins.as_ref(), Label::of(&layouts, maps::FLOW_SEED)?)?;
        let geometry = seed.geometry(config)?;
        let mut loader = loader(config, pins.as_ref(), &geometry);
        let mut ebpf = loader.load(OBJECT).map_err(Error::Load)?;
        for program in Program::ALL {
            classifier(&mut ebpf, program)?
                .load()
                .map_err(|source| Error::Refused { program: program.name(), source })?;
        }
        let maps = Maps::take(&mut ebpf, pins.as_ref(), &layouts, seed)?;
        Ok(Self { ebpf, maps, pins, config: config.clone(), geometry, last: None })
    }

    /// What the verifier says about each program.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Refused`].
    pub fn verified(&mut self) -> Result<Vec<Verified>, Error> {
        let verified = |program: Program| {
            let facts = classifier(&mut self.ebpf, program)?
                .info()
                .map_err(|source| Error::Refused { program: program.name(), source })?;
            Ok(Verified {
                program,
                n_verified: facts.verified_instruction_count(),
                n_translated: facts.size_translated().map(|len_bytes| len_bytes / 8),
                len_jited_bytes: facts.size_jitted(),
            })
        };
        Program::ALL.into_iter().map(verified).collect()
    }
}

/// What the object is told before it is loaded: constants, sizes, and where maps are pinned.
pub(super) fn loader<'a>(
    config: &'a Config,
    pins: Option<&Pins>,
    geometry: &'a Geometry,
) -> EbpfLoader<'a> {
    let Config { pin_root: _, mount: _, mark_mask, trace, attaching: _, flow_reads, capacities } =
        config;
    let mut loader = EbpfLoader::new();
    loader.override_global("MARK_MASK", mark_mask, true);
    loader.override_global("FLOW_SEED", &geometry.seed, true);
    loader.override_global("FLOW_SET_MASK", &geometry.set_mask, true);
    loader.override_global("FLOW_READS_LOCK", flow_reads.to_constant(), true);
    // 0 is below every level. The ring of log messages is as small as can be when there are none.
    let log_level = match trace {
        Trace::Off => {
            loader.map_max_entries(LOG_MAP, 1);
            &0_u8
        }
        Trace::On => &u8::MAX,
    };
    loader.override_global(LOG_LEVEL, log_level, true);
    for (name, capacity) in capacities {
        if !layout::is_of_tables(name) {
            loader.map_max_entries(name, *capacity);
        }
    }
    if let Some(pins) = pins {
        for name in maps::ALL {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    loader
}

/// One of the programs.
///
/// # Errors
/// [`Error::Missing`].
pub(super) fn classifier(ebpf: &mut Ebpf, program: Program) -> Result<&mut SchedClassifier, Error> {
    classifier_named(ebpf, program.name())
}

/// A program by its name.
///
/// # Errors
/// [`Error::Missing`].
pub(super) fn classifier_named<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, Error> {
    let missing = || Error::Missing { name };
    let found = ebpf.program_mut(name).ok_or_else(missing)?;
    found.try_into().map_err(|_other_type| missing())
}

/// What the kernel and the process bring.
struct Surroundings<'a> {
    capabilities: CapabilitySet,
    kernel: KernelVersion,
    release: String,
    btf: &'a Path,
}

/// One clear sentence each for what would otherwise fail in the middle of loading.
fn check_kernel() -> Result<(), Error> {
    Surroundings {
        capabilities: capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective),
        // A version that cannot be read is not held against the kernel.
        kernel: KernelVersion::current().unwrap_or(OLDEST_KERNEL),
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
        btf: Path::new(KERNEL_BTF),
    }
    .check()
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
    fn what_is_missing_is_told_in_one_sentence_with_its_remedy() {
        let check = |capabilities, kernel, btf: &str, expected: &str| {
            let btf = Path::new(btf);
            let release = "5.10.0-example".to_owned();
            let said = match (Surroundings { capabilities, kernel, release, btf }).check() {
                Ok(()) => String::new(),
                Err(error) => error.to_string(),
            };
            assert_eq!(said, expected);
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
