//! The loader of the object: constants, sizes and pin paths.

use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use netpol_common::maps;

use super::layout;
use super::pins::Pins;
use crate::config::{Config, Trace};
use crate::error::Error;
use crate::program::Program;

/// Written by build.rs.
pub(super) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netpol-ebpf"));

/// The ring buffer of aya-log.
pub(crate) const LOG_MAP: &str = "AYA_LOGS";
/// The constant of aya-log that disables all messages below a level.
const LOG_LEVEL: &str = "AYA_LOG_LEVEL";

/// Constants of the flow table that are written into the programs before they are loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// Seed of the hash of flow keys.
    pub(crate) seed: u64,
    /// Number of buckets of FLOWS, a power of two, minus one.
    pub(crate) bucket_mask: u32,
}

/// The loader with the constants of the programs, the sizes of the maps and their pin paths.
pub(crate) fn loader<'a>(
    config: &'a Config,
    pins: Option<&Pins>,
    geometry: &'a Geometry,
) -> EbpfLoader<'a> {
    let Config {
        pin_root: _,
        mount: _,
        mark_mask,
        trace,
        attaching: _,
        flow_reads,
        adaptation: _,
        capacities,
    } = config;
    let mut loader = EbpfLoader::new();
    // The programs have no relocations to the types of the kernel, so its BTF need not exist.
    loader.btf(None);
    loader.override_global("MARK_MASK", mark_mask, true);
    loader.override_global("FLOW_SEED", &geometry.seed, true);
    loader.override_global("FLOW_BUCKET_MASK", &geometry.bucket_mask, true);
    loader.override_global("FLOW_READS_LOCK", flow_reads.to_constant(), true);
    // Level 0 disables all messages. Without messages the ring buffer gets the smallest size.
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

/// The handle of a program.
///
/// # Errors
/// [`Error::Missing`].
pub(crate) fn classifier(ebpf: &mut Ebpf, program: Program) -> Result<&mut SchedClassifier, Error> {
    classifier_named(ebpf, program.name())
}

/// The handle of a program by its name in the object file.
///
/// # Errors
/// [`Error::Missing`].
pub(crate) fn classifier_named<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, Error> {
    let missing = || Error::Missing { name };
    let found = ebpf.program_mut(name).ok_or_else(missing)?;
    found.try_into().map_err(|_other_type| missing())
}
