//! FLOWS, the table of connections, as user space sees it: [`flow_table`] in memory that is shared with the programs.
//!
//! Programs write under locks that user space cannot take. So it only reads, and frees ways; a connection is made known by a
//! program that is run for it.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya::programs::{TestRun as _, TestRunOptions};
use netpol_common::flow_table::{FlowSet, FlowSlot, N_WAYS, owner};
use netpol_common::ids::IfIndex;
use netpol_common::keys::{FlowEntry, FlowKey, FlowValue};
use netpol_common::maps;
use netpol_common::packet::ETHERNET_LEN;
use zerocopy::IntoBytes as _;

use super::table::{Label, Table, reopen, take};
use super::wire::Shared;
use crate::config::Config;
use crate::error::Error;
use crate::object::layout::NO_PREALLOC;
use crate::object::{Geometry, Pins, classifier_named};

/// Words of eight bytes of a set and of a slot, and where the slots begin.
const SET_WORDS: usize = size_of::<FlowSet>() / 8;
const SLOT_WORDS: usize = size_of::<FlowSlot>() / 8;
const FIRST_SLOT_WORD: usize = SET_WORDS - N_WAYS * SLOT_WORDS;
/// How often a slot is looked at that changes all the while.
const N_LOOKS: usize = 1000;
/// The program that makes a connection known.
const ADD_FLOW: &str = "add_flow";

/// The pinned map that holds the seed, so that it lives as long as the table.
#[derive(Debug)]
pub(crate) struct Seed(Table<u32, u64>);

impl Seed {
    /// Opens the map that the object has not, because no program reads it, or makes it.
    ///
    /// # Errors
    /// [`Error::Map`], [`Error::Pin`].
    pub(crate) fn open(pins: Option<&Pins>, label: Label) -> Result<Self, Error> {
        let create = || aya::maps::HashMap::create(label.capacity, NO_PREALLOC);
        let map = match pins {
            None => create().map_err(|error| label.cannot_write(error))?,
            Some(pins) => pins.open_map(label.name, create)?,
        };
        let mut table = Table::new(label, map);
        table.add(0, RandomState::new().hash_one(0))?;
        Ok(Self(table))
    }

    /// The map.
    pub(crate) fn map(&self) -> &MapData {
        self.0.map()
    }

    /// What the programs are to be told.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn geometry(&self, config: &Config) -> Result<Geometry, Error> {
        let n_sets = config.capacities.get(maps::FLOWS).copied().unwrap_or(maps::N_FLOW_SETS);
        let set_mask = n_sets.checked_ilog2().map_or(0, |log2| (1 << log2) - 1);
        Ok(Geometry { seed: self.0.get(0)?.unwrap_or_default(), set_mask })
    }
}

/// The table.
#[derive(Debug)]
pub(crate) struct FlowTable {
    label: Label,
    map: MapData,
}

/// The table's memory. It counts as the process's own while it is mapped, so that is not long.
#[derive(Debug)]
pub(crate) struct FlowMemory(Shared);

impl FlowTable {
    /// Takes the map out of the loaded object.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub(crate) fn take(ebpf: &mut Ebpf, label: Label) -> Result<Self, Error> {
        Ok(Self { label, map: take_array(ebpf, label.name)? })
    }

    /// The map.
    pub(crate) fn map(&self) -> &MapData {
        &self.map
    }

    /// The same table by another file descriptor.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn reopen(&self) -> Result<Self, Error> {
        let map = reopen(&self.map).map_err(|error| self.label.cannot_read(error))?;
        Ok(Self { label: self.label, map })
    }

    /// Maps the table's memory, which takes some time.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn memory(&self) -> Result<FlowMemory, Error> {
        let shared = Shared::of(&self.map).map_err(|error| self.label.cannot_read(error))?;
        Ok(FlowMemory(shared))
    }

    /// Makes connections known; those that are known stay as they are.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Refused`], [`Error::TestRun`].
    pub(crate) fn add(&self, ebpf: &mut Ebpf, flows: &[(FlowKey, FlowValue)]) -> Result<(), Error> {
        if flows.is_empty() {
            return Ok(());
        }
        let program = classifier_named(ebpf, ADD_FLOW)?;
        program.load().map_err(|source| Error::Refused { program: ADD_FLOW, source })?;
        let mut outcome = Ok(());
        for (key, flow) in flows {
            let header = [0_u8; ETHERNET_LEN as usize];
            let frame = [&header, key.as_bytes(), &[0; 4], flow.as_bytes()].concat();
            let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() };
            outcome = match program.test_run(options) {
                Ok(run) if run.return_value == 0 => Ok(()),
                Ok(_) => Err(self.label.is_full()),
                Err(source) => Err(Error::TestRun { program: ADD_FLOW, source }),
            };
            if outcome.is_err() {
                break;
            }
        }
        program.unload().map_err(|source| Error::Refused { program: ADD_FLOW, source })?;
        outcome
    }
}

impl FlowMemory {
    fn sets(&self) -> impl Iterator<Item = &[AtomicU64]> {
        self.0.words().chunks_exact(SET_WORDS)
    }

    /// All entries. Those that change meanwhile may be missing.
    pub(crate) fn entries(&self) -> Vec<(FlowKey, FlowEntry)> {
        let mut found = Vec::new();
        for set in self.sets() {
            let (head, slots) = set.split_at(FIRST_SLOT_WORD);
            for (mark, slot) in head.iter().zip(slots.chunks_exact(SLOT_WORDS)).take(N_WAYS) {
                found.extend(read(mark, slot));
            }
        }
        found
    }

    /// Frees the ways of connections of these interfaces; returns how many they were.
    pub(crate) fn remove(&self, is_gone: impl Fn(IfIndex) -> bool) -> usize {
        let mut n_removed = 0;
        for mark in self.sets().flat_map(|set| set.iter().take(N_WAYS)) {
            let now = mark.load(Ordering::Acquire);
            if now != 0 && is_gone(owner(now)) {
                // Another connection may have taken the way meanwhile.
                let freed = mark.compare_exchange(now, 0, Ordering::AcqRel, Ordering::Relaxed);
                n_removed += usize::from(freed.is_ok());
            }
        }
        n_removed
    }
}

/// Takes an array out of the loaded object.
///
/// # Errors
/// [`Error::Missing`].
pub(crate) fn take_array(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, Error> {
    let Map::Array(map) = take(ebpf, name)? else { return Err(Error::Missing { name }) };
    Ok(map)
}

/// A connection that nobody writes while it is read.
fn read(mark: &AtomicU64, slot: &[AtomicU64]) -> Option<(FlowKey, FlowEntry)> {
    for _ in 0..N_LOOKS {
        let before = (mark.load(Ordering::Acquire), slot.first()?.load(Ordering::Acquire));
        if before.0 == 0 {
            return None;
        }
        let mut words = [0_u64; SLOT_WORDS];
        for (word, shared) in words.iter_mut().zip(slot) {
            *word = shared.load(Ordering::Acquire);
        }
        let after = (slot.first()?.load(Ordering::Acquire), mark.load(Ordering::Acquire));
        let slot: FlowSlot = zerocopy::transmute!(words);
        if (before.1, before.0) == after && slot.number.is_multiple_of(2) {
            return Some((slot.key(before.0), slot.entry));
        }
    }
    None
}
