//! Loading the object file: what it needs of the kernel, and pins that are there already.

use std::path::Path;

use aya::programs::SchedClassifier;
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use rustix::thread::{CapabilitySet, capabilities};

use super::error::Error;
use super::maps::Maps;
use super::pins::Pins;
use super::{Config, Datapath, Program, Trace, layout};

/// Written by build.rs.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netpol-ebpf"));

/// The oldest kernel with all that the programs use: ring buffers, the coarse clock, bounded loops.
const OLDEST_KERNEL: (u8, u8, u16) = (5, 15, 0);
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
        let Config { pin_root, mount, ticket_mask, trace, attaching, capacities } = config;
        check_kernel()?;
        let layouts = layout::expected(capacities);
        let pins = pin_root.as_deref().map(|root| Pins::open(root, *mount)).transpose()?;
        let mut loader = EbpfLoader::new();
        loader.override_global("TICKET_MASK", ticket_mask, true);
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
            loader.map_max_entries(name, *capacity);
        }
        if let Some(pins) = &pins {
            pins.carry_over(&layouts)?;
            pins.check(&layouts)?;
            for name in netpol_common::maps::ALL {
                loader.map_pin_path(name, pins.map(name));
            }
        }
        let mut ebpf = loader.load(OBJECT).map_err(Error::Load)?;
        for program in Program::ALL {
            classifier(&mut ebpf, program)?
                .load()
                .map_err(|source| Error::Refused { program: program.name(), source })?;
        }
        let maps = Maps::take(&mut ebpf, pins.as_ref(), &layouts)?;
        Ok(Self { ebpf, maps, pins, attaching: *attaching })
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

/// A program by its name.
///
/// # Errors
/// [`Error::Missing`].
pub(super) fn classifier(ebpf: &mut Ebpf, program: Program) -> Result<&mut SchedClassifier, Error> {
    let missing = || Error::Missing { name: program.name() };
    let found = ebpf.program_mut(program.name()).ok_or_else(missing)?;
    found.try_into().map_err(|_other_type| missing())
}

/// One clear sentence each for what would otherwise fail in the middle of loading.
fn check_kernel() -> Result<(), Error> {
    let needed = CapabilitySet::NET_ADMIN | CapabilitySet::BPF;
    let is_permitted = capabilities(None).is_ok_and(|sets| {
        sets.effective.contains(needed)
            || sets.effective.contains(CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN)
    });
    if !is_permitted {
        return Err(Error::NotPermitted);
    }
    let (major, minor, patch) = OLDEST_KERNEL;
    if KernelVersion::current().is_ok_and(|found| found < KernelVersion::new(major, minor, patch)) {
        let found = rustix::system::uname().release().to_string_lossy().into_owned();
        return Err(Error::KernelTooOld { found });
    }
    if !Path::new(KERNEL_BTF).exists() {
        return Err(Error::NoBtf { path: KERNEL_BTF.into() });
    }
    Ok(())
}
