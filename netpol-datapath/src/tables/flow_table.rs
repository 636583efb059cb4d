//! FLOWS, the table of connections ([`netpol_common::flow_table`]), in memory that is shared with the programs.
//!
//! Programs write it under locks that user space cannot take. So user space only reads entries and frees bucket slots; it adds
//! a connection by running a program.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya::programs::{TestRun as _, TestRunOptions};
use netpol_common::flow_table::{FlowBucket, FlowSlot, N_SLOTS, count_index, owner};
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

/// Sizes of a bucket and of a slot, and the position of the first slot, in words of eight bytes.
const BUCKET_WORDS: usize = size_of::<FlowBucket>() / 8;
const SLOT_WORDS: usize = size_of::<FlowSlot>() / 8;
const FIRST_SLOT_WORD: usize = BUCKET_WORDS - N_SLOTS * SLOT_WORDS;
/// Number of attempts to read a slot that changes meanwhile.
const N_ATTEMPTS: usize = 1000;
/// The program that adds a connection.
const ADD_FLOW: &str = "add_flow";

/// The pinned map with the hash seed of the table, so that both outlive the agent.
#[derive(Debug)]
pub(crate) struct Seed(Table<u32, u64>);

impl Seed {
    /// Opens or creates `FLOW_SEED`, which is not in the object because no program reads it.
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

    /// The constants of the table for the programs.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn geometry(&self, config: &Config) -> Result<Geometry, Error> {
        let n_buckets = config.capacities.get(maps::FLOWS).copied().unwrap_or(maps::N_FLOW_BUCKETS);
        let bucket_mask = n_buckets.checked_ilog2().map_or(0, |log2| (1 << log2) - 1);
        Ok(Geometry { seed: self.0.get(0)?.unwrap_or_default(), bucket_mask })
    }
}

/// The table of connections.
#[derive(Debug)]
pub(crate) struct FlowTable {
    label: Label,
    map: MapData,
    counts_label: Label,
    counts: MapData,
}

/// The mapped memory of the table. Mapped only for a short time, because it counts as memory of the process.
#[derive(Debug)]
pub(crate) struct FlowMemory {
    buckets: Shared,
    counts: Shared,
}

impl FlowTable {
    /// Takes the map out of the loaded object.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub(crate) fn take(ebpf: &mut Ebpf, label: Label, counts_label: Label) -> Result<Self, Error> {
        let [map, counts] = [take_array(ebpf, label.name)?, take_array(ebpf, counts_label.name)?];
        Ok(Self { label, map, counts_label, counts })
    }

    /// The map.
    pub(crate) fn map(&self) -> &MapData {
        &self.map
    }

    /// The map with the number of flows of each endpoint.
    pub(crate) fn counts(&self) -> &MapData {
        &self.counts
    }

    /// Opens the same table by another file descriptor.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn reopen(&self) -> Result<Self, Error> {
        let Self { label, map, counts_label, counts } = self;
        Ok(Self {
            label: *label,
            map: reopen(map).map_err(|error| label.cannot_read(error))?,
            counts_label: *counts_label,
            counts: reopen(counts).map_err(|error| counts_label.cannot_read(error))?,
        })
    }

    /// Maps the memory of the table.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn memory(&self) -> Result<FlowMemory, Error> {
        let Self { label, map, counts_label, counts } = self;
        Ok(FlowMemory {
            buckets: Shared::of(map).map_err(|error| label.cannot_read(error))?,
            counts: Shared::of(counts).map_err(|error| counts_label.cannot_read(error))?,
        })
    }

    /// Adds connections. Existing ones stay unchanged, except that a revoked one replaces one of the other direction.
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
    fn buckets(&self) -> impl Iterator<Item = &[AtomicU64]> {
        self.buckets.words().chunks_exact(BUCKET_WORDS)
    }

    /// All entries. Entries that change meanwhile may be missing.
    pub(crate) fn entries(&self) -> Vec<(FlowKey, FlowEntry)> {
        let mut found = Vec::new();
        for bucket in self.buckets() {
            let (head, slots) = bucket.split_at(FIRST_SLOT_WORD);
            for (mark, slot) in head.iter().zip(slots.chunks_exact(SLOT_WORDS)).take(N_SLOTS) {
                found.extend(read(mark, slot));
            }
        }
        found
    }

    /// The number of connections of an endpoint as the programs count them.
    pub(crate) fn n_counted(&self, owner: IfIndex) -> u64 {
        let count = self.counts.words().get(count_position(owner));
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Counts the connections of each endpoint anew. An agent that was killed between freeing a bucket slot and counting it leaves
    /// a count that is too high. The programs may add connections meanwhile, so a count may be wrong by these.
    pub(crate) fn recount(&self) {
        let mut counts = vec![0_u64; self.counts.words().len()];
        for mark in self.buckets().flat_map(|bucket| bucket.iter().take(N_SLOTS)) {
            let mark = mark.load(Ordering::Relaxed);
            if mark != 0
                && let Some(count) = counts.get_mut(count_position(owner(mark)))
            {
                *count += 1;
            }
        }
        for (word, count) in self.counts.words().iter().zip(counts) {
            if word.load(Ordering::Relaxed) != count {
                word.store(count, Ordering::Relaxed);
            }
        }
    }

    /// Frees the bucket slots of the connections of these interfaces. Returns how many there were.
    pub(crate) fn remove(&self, is_gone: impl Fn(IfIndex) -> bool) -> usize {
        let mut n_removed = 0;
        for mark in self.buckets().flat_map(|bucket| bucket.iter().take(N_SLOTS)) {
            let now = mark.load(Ordering::Acquire);
            if now != 0 && is_gone(owner(now)) {
                // Another connection may have taken the bucket slot meanwhile.
                let freed = mark.compare_exchange(now, 0, Ordering::AcqRel, Ordering::Relaxed);
                if freed.is_ok() {
                    n_removed += 1;
                    if let Some(count) = self.counts.words().get(count_position(owner(now))) {
                        count.fetch_sub(1, Ordering::Relaxed);
                    }
                }
            }
        }
        n_removed
    }
}

/// Where the memory of `FLOW_COUNTS` counts the connections of an endpoint.
fn count_position(owner: IfIndex) -> usize {
    usize::try_from(count_index(owner)).unwrap_or(usize::MAX)
}

/// Takes an array out of the loaded object.
///
/// # Errors
/// [`Error::Missing`].
pub(crate) fn take_array(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, Error> {
    let Map::Array(map) = take(ebpf, name)? else { return Err(Error::Missing { name }) };
    Ok(map)
}

/// Reads a slot consistently: the mark and the slot's number must be the same before and after.
fn read(mark: &AtomicU64, slot: &[AtomicU64]) -> Option<(FlowKey, FlowEntry)> {
    for _ in 0..N_ATTEMPTS {
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
