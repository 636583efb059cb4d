//! IDENTITIES: one table for each address family, in memory that is shared with the programs.
//!
//! In: identities of single addresses. Out: entries, written without a system call. Must not: choose identities.

mod family;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU64, fence};

use aya::Ebpf;
use aya::maps::{Array, ArrayOfMaps, IterableMap as _, Map, MapData, MapError};
use netpol_common::addr::Addr;
use netpol_common::identities::{Entry, Key, LINE_WORDS, N_FAMILIES, V4, V6};
use netpol_common::ids::Identity;

use self::family::{Backing, Family};
use self::table::{Table, Words};
use super::table::{Label, in_one_batch, len_bytes, take};
use super::wire::{Shared, Wire};
use crate::error::Error;

/// `BPF_F_MMAPABLE`: a process can map the memory. `BPF_F_INNER_MAP`: inner maps of a map of maps may differ in size
/// (Linux 5.10).
const FLAGS: u32 = 1 << 10 | 1 << 12;

/// Buckets of the smallest table of each family: IPv4 for 10,000 pods, in 128 KiB, and IPv6 for 256. Few clusters have more,
/// and growing a table costs one change only some milliseconds.
const N_LEAST_BUCKETS: [u32; N_FAMILIES as usize] = [1 << 11, 1 << 8];

/// A map of lines.
type Inner = Array<MapData, Wire<[u64; LINE_WORDS]>>;

/// The memory of a table, and its map.
struct Memory {
    map: Inner,
    shared: Shared,
}

impl Memory {
    fn new(map: Inner) -> Result<Self, MapError> {
        Ok(Self { shared: Shared::of(map.map())?, map })
    }
}

impl Words for Memory {
    fn words(&self) -> &[AtomicU64] {
        self.shared.words()
    }
}

/// A family's slot in IDENTITIES.
struct MapBacking<'a> {
    map: &'a mut Map,
    family: u32,
}

impl Backing for MapBacking<'_> {
    type Memory = Memory;
    type Error = MapError;

    fn make(&mut self, n_buckets: u32) -> Result<(Memory, u64), MapError> {
        Ok((memory_for(n_buckets)?, random()))
    }

    fn put(&mut self, memory: &Memory) -> Result<(), MapError> {
        let mut outer: ArrayOfMaps<&mut MapData, Inner> = self.map.try_into()?;
        outer.set(self.family, &memory.map, 0)
    }
}

/// IDENTITIES and the tables of both families.
pub(crate) struct Identities {
    label: Label,
    map: Map,
    v4: Family<V4, Memory>,
    v6: Family<V6, Memory>,
}

impl Identities {
    /// Takes the map out of the loaded object and opens its tables, or creates missing ones.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Map`].
    pub(crate) fn take(ebpf: &mut Ebpf, label: Label) -> Result<Self, Error> {
        let mut map = take(ebpf, label.name)?;
        let (v4, v6) = tables(&mut map).map_err(|error| label.cannot_read(error))?;
        let [least_v4, least_v6] = N_LEAST_BUCKETS;
        Ok(Self { label, map, v4: Family::new(v4, least_v4), v6: Family::new(v6, least_v6) })
    }

    /// All entries.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Addr, Identity)> {
        entries(self.v4.table()).chain(entries(self.v6.table()))
    }

    /// Inserts or replaces entries, in this order.
    ///
    /// # Errors
    /// [`Error::MapFull`], [`Error::Map`]; then the first entries are written.
    pub(crate) fn set_all(
        &mut self,
        entries: impl Iterator<Item = (Addr, Identity)>,
    ) -> Result<(), Error> {
        let entries: Vec<_> = entries.collect();
        let n_fitting = self.n_fitting(&entries);
        let (mut of_v4, mut of_v6) = (Vec::new(), Vec::new());
        for (addr, identity) in entries.iter().take(n_fitting) {
            let entry = Entry::of(*identity);
            if addr.is_v4() {
                of_v4.push((V4::of(addr), entry));
            } else {
                of_v6.push((V6::of(addr), entry));
            }
        }
        let Self { label, map, v4, v6 } = self;
        // The fences order these stores with the system calls before and after them, as programs observe them.
        fence(SeqCst);
        let written = v4
            .set_all(&mut MapBacking { map, family: V4::FAMILY }, &of_v4)
            .and_then(|()| v6.set_all(&mut MapBacking { map, family: V6::FAMILY }, &of_v6));
        fence(SeqCst);
        written.map_err(|error| label.cannot_write(error))?;
        if n_fitting < entries.len() { Err(label.is_full()) } else { Ok(()) }
    }

    /// Removes the entries that exist.
    pub(crate) fn remove_all(&mut self, addrs: impl Iterator<Item = Addr>) {
        fence(SeqCst);
        for addr in addrs {
            if addr.is_v4() {
                self.v4.remove(V4::of(&addr));
            } else {
                self.v6.remove(V6::of(&addr));
            }
        }
        fence(SeqCst);
    }

    /// Replaces tables that are nearly full or far too large. The kernel waits until no program reads the old one.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn prepare(&mut self) -> Result<(), Error> {
        let Self { label, map, v4, v6 } = self;
        if v4.wants_preparation() {
            v4.prepare(&mut MapBacking { map, family: V4::FAMILY })
                .map_err(|error| label.cannot_write(error))?;
        }
        if v6.wants_preparation() {
            v6.prepare(&mut MapBacking { map, family: V6::FAMILY })
                .map_err(|error| label.cannot_write(error))?;
        }
        Ok(())
    }

    /// Kernel memory of IDENTITIES and its tables, bytes.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(crate) fn len_bytes(&self) -> io::Result<u64> {
        let mut sum = 0;
        if let Map::ArrayOfMaps(map) = &self.map {
            sum += len_bytes(map)?;
        }
        for table in [self.v4.table().memory(), self.v6.table().memory()] {
            sum += len_bytes(table.map.map())?;
        }
        Ok(sum)
    }

    /// Number of entries, from the first on, that can be written within the capacity.
    fn n_fitting(&self, entries: &[(Addr, Identity)]) -> usize {
        let n_present = self.v4.table().n_present() + self.v6.table().n_present();
        let capacity = usize::try_from(self.label.capacity).unwrap_or(usize::MAX);
        if n_present + entries.len() <= capacity {
            return entries.len();
        }
        let mut new = BTreeSet::new();
        let is_beyond = |(addr, _): &(Addr, Identity)| {
            !self.get(addr).is_present() && new.insert(*addr) && n_present + new.len() > capacity
        };
        entries.iter().position(is_beyond).unwrap_or(entries.len())
    }

    fn get(&self, addr: &Addr) -> Entry {
        if addr.is_v4() {
            self.v4.table().get(V4::of(addr))
        } else {
            self.v6.table().get(V6::of(addr))
        }
    }
}

fn entries<K: Key, M: Words>(table: &Table<K, M>) -> impl Iterator<Item = (Addr, Identity)> {
    table.entries().filter_map(|(key, entry)| Some((key.addr(), entry.identity()?)))
}

/// The table of each family.
type Tables = (Table<V4, Memory>, Table<V6, Memory>);

/// Opens the tables in the map, and creates missing ones.
fn tables(map: &mut Map) -> Result<Tables, MapError> {
    let [least_v4, least_v6] = N_LEAST_BUCKETS;
    let found = (open(map)?, open(map)?);
    let are_there = found.0.is_some() && found.1.is_some();
    let v4 = found.0.map_or_else(|| make(least_v4), Ok)?;
    let v6 = found.1.map_or_else(|| make(least_v6), Ok)?;
    if !are_there {
        let memories = [(V4::FAMILY, v4.memory()), (V6::FAMILY, v6.memory())];
        let families = memories.map(|(family, _)| family);
        let fds = memories.map(|(_, memory)| memory.map.map().fd().as_fd().as_raw_fd());
        // In one batch, because the kernel waits once for each write.
        let is_written = if let Map::ArrayOfMaps(map) = &*map {
            in_one_batch(map, &families, &fds)?
        } else {
            false
        };
        if !is_written {
            for (family, memory) in memories {
                MapBacking { map, family }.put(memory)?;
            }
        }
    }
    Ok((v4, v6))
}

fn open<K: Key>(map: &Map) -> Result<Option<Table<K, Memory>>, MapError> {
    let outer: ArrayOfMaps<&MapData, Inner> = map.try_into()?;
    match outer.get(&K::FAMILY, 0) {
        Ok(inner) => {
            let table = Table::open(Memory::new(inner)?);
            Ok(Some(table.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?))
        }
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn make<K: Key>(n_buckets: u32) -> Result<Table<K, Memory>, MapError> {
    Ok(Table::make(memory_for(n_buckets)?, n_buckets, random()))
}

/// Zeroed memory for a table with this number of buckets, in a new map.
fn memory_for(n_buckets: u32) -> Result<Memory, MapError> {
    Memory::new(Inner::create(n_buckets.saturating_add(1), FLAGS)?)
}

/// An unpredictable number.
fn random() -> u64 {
    RandomState::new().hash_one(())
}
