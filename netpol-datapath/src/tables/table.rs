//! Maps with typed keys and values, and errors that name the map.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::Ebpf;
use aya::maps::{HashMap, IterableMap as _, LpmTrie, Map, MapData, MapError, lpm_trie};
use aya::sys::SyscallError;
use netpol_common::keys::PrefixKey;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::wire::{self, Wire};
use crate::error::Error;
use crate::object::Layout;

/// `ENOTSUPP`, an error number that no C library defines: the kernel has no batch operations for this map type.
const NO_BATCHES: i32 = 524;

/// `BPF_NOEXIST`: fail if the entry exists.
const NO_EXIST: u64 = 1;

/// A plain-data type, checked by zerocopy.
pub(crate) trait Plain: FromBytes + IntoBytes + Immutable + Copy + 'static {}
impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> Plain for T {}

/// Name and capacity of a map, for error messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label {
    pub(crate) name: &'static str,
    pub(crate) capacity: u32,
}

impl Label {
    /// The label of a map of this build.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub(crate) fn of(layouts: &[Layout], name: &'static str) -> Result<Self, Error> {
        let layout = layouts.iter().find(|layout| layout.name == name);
        layout.map(|layout| Self { name, capacity: layout.capacity }).ok_or(Error::Missing { name })
    }

    /// A failed read.
    pub(crate) fn cannot_read(self, source: impl Into<MapError>) -> Error {
        Error::Map { map: self.name, action: "read", source: source.into() }
    }

    /// The map is full.
    pub(crate) fn is_full(self) -> Error {
        Error::MapFull { map: self.name, capacity: self.capacity }
    }

    /// A failed write. A full map is a separate error, because its remedy differs.
    pub(crate) fn cannot_write(self, source: impl Into<MapError>) -> Error {
        let source = source.into();
        if os_error(&source) == Some(libc::E2BIG) || os_error(&source) == Some(libc::ENOSPC) {
            return self.is_full();
        }
        Error::Map { map: self.name, action: "write", source }
    }
}

/// A map of aya's with its label.
#[derive(Debug)]
pub(crate) struct Labelled<M> {
    pub(crate) label: Label,
    pub(crate) map: M,
}

impl<M: TryFrom<Map, Error = MapError>> Labelled<M> {
    /// Takes the map out of the loaded object.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Map`] if the map is of another type.
    pub(crate) fn take(ebpf: &mut Ebpf, label: Label) -> Result<Self, Error> {
        let map = take(ebpf, label.name)?.try_into().map_err(|error| label.cannot_read(error))?;
        Ok(Self { label, map })
    }
}

/// A hash map.
#[derive(Debug)]
pub(crate) struct Table<K: Plain, V: Plain> {
    label: Label,
    map: HashMap<MapData, Wire<K>, Wire<V>>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    /// Takes the map out of the loaded object.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Map`] if the map is of another type.
    pub(crate) fn take(ebpf: &mut Ebpf, label: Label) -> Result<Self, Error> {
        let map = take(ebpf, label.name)?;
        Ok(Self { label, map: map.try_into().map_err(|error: MapError| label.cannot_read(error))? })
    }

    /// A table over a map that is not in the object.
    pub(crate) fn new(label: Label, map: HashMap<MapData, Wire<K>, Wire<V>>) -> Self {
        Self { label, map }
    }

    /// The map.
    pub(crate) fn map(&self) -> &MapData {
        self.map.map()
    }

    /// Its name and capacity.
    pub(crate) fn label(&self) -> Label {
        self.label
    }

    /// Inserts or replaces an entry.
    ///
    /// # Errors
    /// [`Error::MapFull`], [`Error::Map`].
    pub(crate) fn set(&mut self, key: K, value: V) -> Result<(), Error> {
        let written = self.map.insert(Wire(key), Wire(value), 0);
        written.map_err(|error| self.label.cannot_write(error))
    }

    /// Inserts an entry; an existing one stays unchanged.
    ///
    /// # Errors
    /// [`Error::MapFull`], [`Error::Map`].
    pub(crate) fn add(&mut self, key: K, value: V) -> Result<(), Error> {
        match self.map.insert(Wire(key), Wire(value), NO_EXIST) {
            Err(error) if os_error(&error) == Some(libc::EEXIST) => Ok(()),
            written => written.map_err(|error| self.label.cannot_write(error)),
        }
    }

    /// Inserts or replaces entries, in this order.
    ///
    /// # Errors
    /// [`Error::MapFull`], [`Error::Map`]; then the first entries are written.
    pub(crate) fn set_all(&mut self, entries: impl Iterator<Item = (K, V)>) -> Result<(), Error> {
        let (keys, values): (Vec<K>, Vec<V>) = entries.unzip();
        let written = wire::update_batch(self.map.map(), &keys, &values);
        written.map_err(|error| self.label.cannot_write(error))
    }

    /// Removes an entry, if there is one.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn remove(&mut self, key: K) -> Result<(), Error> {
        absent_is_fine(self.map.remove(&Wire(key))).map_err(|error| self.label.cannot_write(error))
    }

    /// An entry's value.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn get(&self, key: K) -> Result<Option<V>, Error> {
        match self.map.get(&Wire(key), 0) {
            Ok(Wire(value)) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(self.label.cannot_read(error)),
        }
    }

    /// All entries.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn entries(&self) -> Result<Vec<(K, V)>, Error> {
        wire::read_all(self.map.map()).map_err(|error| self.label.cannot_read(error))
    }
}

/// The longest-prefix trie of addresses.
#[derive(Debug)]
pub(crate) struct Trie<V: Plain> {
    label: Label,
    map: LpmTrie<MapData, [u8; 16], Wire<V>>,
}

impl<V: Plain> Trie<V> {
    /// Takes the map out of the loaded object.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Map`] if the map is of another type.
    pub(crate) fn take(ebpf: &mut Ebpf, label: Label) -> Result<Self, Error> {
        let map = take(ebpf, label.name)?;
        Ok(Self { label, map: map.try_into().map_err(|error: MapError| label.cannot_read(error))? })
    }

    /// The map.
    pub(crate) fn map(&self) -> &MapData {
        self.map.map()
    }

    /// Inserts or replaces entries, in this order.
    ///
    /// # Errors
    /// [`Error::MapFull`], [`Error::Map`]; then the first entries are written.
    pub(crate) fn set_all(
        &mut self,
        entries: impl Iterator<Item = (PrefixKey, V)>,
    ) -> Result<(), Error> {
        let (keys, values): (Vec<PrefixKey>, Vec<V>) = entries.unzip();
        if !in_one_batch(self.map.map(), &keys, &values)
            .map_err(|error| self.label.cannot_write(error))?
        {
            for (key, value) in keys.iter().zip(values) {
                let written = self.map.insert(&trie_key(key), Wire(value), 0);
                written.map_err(|error| self.label.cannot_write(error))?;
            }
        }
        Ok(())
    }

    /// Removes an entry, if there is one.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn remove(&mut self, key: PrefixKey) -> Result<(), Error> {
        absent_is_fine(self.map.remove(&trie_key(&key)))
            .map_err(|error| self.label.cannot_write(error))
    }

    /// All entries.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn entries(&self) -> Result<Vec<(PrefixKey, V)>, Error> {
        let entries = self.map.iter().map(|entry| {
            let (key, Wire(value)) = entry?;
            let addr = netpol_common::addr::Addr(key.data());
            Ok((PrefixKey { prefix_len_bits: key.prefix_len(), addr }, value))
        });
        entries.collect::<Result<_, MapError>>().map_err(|error| self.label.cannot_read(error))
    }
}

fn trie_key(key: &PrefixKey) -> lpm_trie::Key<[u8; 16]> {
    lpm_trie::Key::new(key.prefix_len_bits, key.addr.0)
}

/// Takes a map out of the loaded object.
///
/// # Errors
/// [`Error::Missing`].
pub(crate) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, Error> {
    ebpf.take_map(name).ok_or(Error::Missing { name })
}

/// Opens the same map by another file descriptor.
///
/// # Errors
/// The error of the kernel.
pub(crate) fn reopen(map: &MapData) -> Result<MapData, MapError> {
    MapData::from_id(map.info()?.id())
}

/// Kernel memory of a map in bytes: `memlock` of its file descriptor in `/proc/self/fdinfo`.
///
/// # Errors
/// `/proc` is not mounted.
pub(crate) fn len_bytes(map: &MapData) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
    let value = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    let value = value.and_then(|value| value.trim().parse().ok());
    value.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Writes all entries with one system call. False if this kernel has no batch operations for the map's type.
///
/// # Errors
/// The error of the kernel.
pub(crate) fn in_one_batch<K, V>(map: &MapData, keys: &[K], values: &[V]) -> io::Result<bool>
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    match wire::update_batch(map, keys, values) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(NO_BATCHES) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Turns the error for a missing entry into success, for removals.
pub(crate) fn absent_is_fine(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(error) if os_error(&error) == Some(libc::ENOENT) => Ok(()),
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}

/// The kernel's error number, if there is one.
fn os_error(error: &MapError) -> Option<i32> {
    if let MapError::SyscallError(SyscallError { io_error, .. }) | MapError::IoError(io_error) =
        error
    {
        return io_error.raw_os_error();
    }
    None
}
