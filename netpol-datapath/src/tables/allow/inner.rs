//! One allow map in the kernel: a longest-prefix trie.

use aya::maps::{IterableMap as _, LpmTrie, Map, MapData, MapError, lpm_trie};
use netpol_common::ids::{Identity, PortBe, Protocol};
use netpol_common::keys::{AllowKey, AllowValue};
use netpol_policy::compile::AllowMap;

use crate::tables::table::{absent_is_fine, in_one_batch};
use crate::tables::wire::{self, Wire};

/// An allow map. The trie's data is identity, protocol, zero and port: an [`AllowKey`] without its prefix length.
pub(super) type Inner = LpmTrie<MapData, [u8; 8], Wire<AllowValue>>;

/// Opens an allow map by its kernel id.
///
/// # Errors
/// The error of the kernel.
pub(super) fn open(map_id: u32) -> Result<Inner, MapError> {
    MapData::from_id(map_id).and_then(|map| Map::LpmTrie(map).try_into())
}

fn trie_key(key: &AllowKey) -> lpm_trie::Key<[u8; 8]> {
    let AllowKey { prefix_len_bits, identity, protocol, pad, port } = *key;
    let [i0, i1, i2, i3] = identity.0.to_ne_bytes();
    let [hi, lo] = port.0;
    lpm_trie::Key::new(prefix_len_bits, [i0, i1, i2, i3, protocol.0, pad, hi, lo])
}

/// Inserts or replaces entries.
///
/// # Errors
/// The error of the kernel; some entries may be written.
pub(super) fn write<'a>(
    inner: &mut Inner,
    entries: impl Iterator<Item = (&'a AllowKey, &'a AllowValue)>,
) -> Result<(), MapError> {
    let (keys, values): (Vec<AllowKey>, Vec<AllowValue>) =
        entries.map(|(key, value)| (*key, *value)).unzip();
    if !in_one_batch(inner.map(), &keys, &values)? {
        for (key, value) in keys.iter().zip(values) {
            inner.insert(&trie_key(key), Wire(value), 0)?;
        }
    }
    Ok(())
}

/// Removes the entries that exist.
///
/// # Errors
/// The error of the kernel; some entries may be removed.
pub(super) fn remove<'a>(
    inner: &mut Inner,
    keys: impl Iterator<Item = &'a AllowKey>,
) -> Result<(), MapError> {
    let keys: Vec<AllowKey> = keys.copied().collect();
    if wire::delete_batch::<_, AllowValue>(inner.map(), &keys).is_ok() {
        return Ok(());
    }
    keys.iter().try_for_each(|key| absent_is_fine(inner.remove(&trie_key(key))))
}

/// Reads all entries.
///
/// # Errors
/// The error of the kernel.
pub(super) fn content_of(inner: &Inner) -> Result<AllowMap, MapError> {
    let entries = inner.iter().map(|entry| {
        let (key, Wire(value)) = entry?;
        let [i0, i1, i2, i3, protocol, pad, hi, lo] = key.data();
        let key = AllowKey {
            prefix_len_bits: key.prefix_len(),
            identity: Identity(u32::from_ne_bytes([i0, i1, i2, i3])),
            protocol: Protocol(protocol),
            pad,
            port: PortBe([hi, lo]),
        };
        Ok((key, value))
    });
    entries.collect()
}
