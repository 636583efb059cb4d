//! ALLOW, the map of allow maps. Equal allow maps are one map in the kernel.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;

use aya::Ebpf;
use aya::maps::{HashOfMaps, IterableMap as _, LpmTrie, Map, MapData, MapError, lpm_trie};
use netpol_common::ids::{Identity, PortBe, Protocol};
use netpol_common::keys::{AllowKey, AllowMapKey, AllowValue};

use super::error::Error;
use super::maps::NO_PREALLOC;
use super::memory;
use super::table::{Label, absent_is_fine, in_one_batch, take};
use super::wire::{self, Wire};
use crate::compile::AllowMap;

/// Identity, protocol, zero and port: an [`AllowKey`] without its length.
type Inner = LpmTrie<MapData, [u8; 8], Wire<AllowValue>>;

/// ALLOW and what it is known to hold.
#[derive(Debug)]
pub(super) struct AllowMaps {
    label: Label,
    map: Map,
    /// Which allow map each key leads to.
    by_key: BTreeMap<AllowMapKey, Arc<AllowMap>>,
    /// The allow maps that keys lead to, and live as long as one does.
    by_content: HashMap<Arc<AllowMap>, Shared>,
}

/// An allow map in the kernel.
#[derive(Debug)]
struct Shared {
    /// The kernel's number: unlike a file descriptor it costs nothing to keep.
    map_id: u32,
    n_keys: usize,
}

impl AllowMaps {
    /// Takes the map out of the loaded object and reads what it holds.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Map`].
    pub(super) fn take(ebpf: &mut Ebpf, label: Label) -> Result<Self, Error> {
        let mut allow = Self {
            label,
            map: take(ebpf, label.name)?,
            by_key: BTreeMap::new(),
            by_content: HashMap::new(),
        };
        allow.read().map_err(|error| label.cannot_read(error))?;
        Ok(allow)
    }

    /// What each key leads to.
    pub(super) fn entries(&self) -> &BTreeMap<AllowMapKey, Arc<AllowMap>> {
        &self.by_key
    }

    /// How many allow maps there are in the kernel.
    pub(super) fn n_distinct(&self) -> usize {
        self.by_content.len()
    }

    /// The kernel's bytes for ALLOW and the allow maps.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn len_bytes(&self) -> io::Result<u64> {
        let mut sum = 0;
        if let Map::HashOfMaps(map) = &self.map {
            sum += memory::len_bytes(map)?;
        }
        // The order does not matter to a sum.
        let mut ids: Vec<u32> = self.by_content.values().map(|shared| shared.map_id).collect();
        ids.sort_unstable();
        for id in ids {
            sum += memory::len_bytes(&MapData::from_id(id).map_err(io::Error::other)?)?;
        }
        Ok(sum)
    }

    /// Swaps allow maps, each by one update of ALLOW, in this order.
    ///
    /// # Errors
    /// [`Error::MapFull`], [`Error::Map`]; then some keys may lead to their new maps already.
    pub(super) fn set_all<'a>(
        &mut self,
        entries: impl Iterator<Item = (AllowMapKey, &'a Arc<AllowMap>)>,
    ) -> Result<(), Error> {
        let label = self.label;
        let entries: Vec<_> = entries.collect();
        // Held open until keys lead there.
        let mut opened: HashMap<&Arc<AllowMap>, Inner> = HashMap::new();
        for (_, content) in &entries {
            if !opened.contains_key(content) {
                let map = self.find_or_make(content).map_err(|error| label.cannot_write(error))?;
                opened.insert(content, map);
            }
        }
        let targets: Vec<_> = entries
            .iter()
            .filter_map(|(key, content)| Some((*key, opened.get(content)?, *content)))
            .collect();
        self.write(&targets).map_err(|error| label.cannot_write(error))?;
        for (key, inner, content) in targets {
            let map_id = inner.map().info().map_err(|error| label.cannot_read(error))?.id();
            self.note(key, content, map_id);
        }
        Ok(())
    }

    /// Removes those of the keys that are there.
    ///
    /// # Errors
    /// [`Error::Map`]; then some keys may be gone already.
    pub(super) fn remove_all(
        &mut self,
        keys: impl Iterator<Item = AllowMapKey>,
    ) -> Result<(), Error> {
        let label = self.label;
        let keys: Vec<_> = keys.filter(|key| self.by_key.contains_key(key)).collect();
        self.delete(&keys).map_err(|error| label.cannot_write(error))?;
        for key in keys {
            self.forget(key);
        }
        Ok(())
    }

    fn outer_mut(
        &mut self,
    ) -> Result<HashOfMaps<&mut MapData, Wire<AllowMapKey>, Inner>, MapError> {
        (&mut self.map).try_into()
    }

    fn read(&mut self) -> Result<(), MapError> {
        let outer: HashOfMaps<&MapData, Wire<AllowMapKey>, Inner> = (&self.map).try_into()?;
        let mut by_id: BTreeMap<u32, Arc<AllowMap>> = BTreeMap::new();
        let mut found = Vec::new();
        for key in outer.keys() {
            let key = key?;
            let inner = outer.get(&key, 0)?;
            let map_id = inner.map().info()?.id();
            let content = match by_id.get(&map_id) {
                Some(content) => Arc::clone(content),
                None => Arc::new(content_of(&inner)?),
            };
            by_id.insert(map_id, Arc::clone(&content));
            found.push((key.0, content, map_id));
        }
        for (key, content, map_id) in found {
            self.note(key, &content, map_id);
        }
        Ok(())
    }

    fn write(&mut self, targets: &[(AllowMapKey, &Inner, &Arc<AllowMap>)]) -> Result<(), MapError> {
        let (keys, fds): (Vec<_>, Vec<_>) = targets
            .iter()
            .map(|(key, inner, _)| (*key, inner.map().fd().as_fd().as_raw_fd()))
            .unzip();
        // After a write the kernel waits until no program uses the old map: once for a batch, else for each key.
        if let Map::HashOfMaps(map) = &self.map
            && in_one_batch(map, &keys, &fds)?
        {
            return Ok(());
        }
        let mut outer = self.outer_mut()?;
        for (key, inner, _) in targets {
            outer.insert(Wire(*key), *inner, 0)?;
        }
        Ok(())
    }

    fn delete(&mut self, keys: &[AllowMapKey]) -> Result<(), MapError> {
        // As for writes, the kernel waits once for a batch.
        if let Map::HashOfMaps(map) = &self.map
            && wire::delete_batch::<_, u32>(map, keys).is_ok()
        {
            return Ok(());
        }
        let mut outer = self.outer_mut()?;
        keys.iter().try_for_each(|key| absent_is_fine(outer.remove(&Wire(*key))))
    }

    fn find_or_make(&self, content: &Arc<AllowMap>) -> Result<Inner, MapError> {
        match self.by_content.get(content) {
            Some(shared) => {
                MapData::from_id(shared.map_id).and_then(|map| Map::LpmTrie(map).try_into())
            }
            None => make(content),
        }
    }

    fn note(&mut self, key: AllowMapKey, content: &Arc<AllowMap>, map_id: u32) {
        let shared =
            self.by_content.entry(Arc::clone(content)).or_insert(Shared { map_id, n_keys: 0 });
        shared.n_keys += 1;
        self.forget(key);
        self.by_key.insert(key, Arc::clone(content));
    }

    fn forget(&mut self, key: AllowMapKey) {
        let Some(content) = self.by_key.remove(&key) else { return };
        if let Some(shared) = self.by_content.get_mut(&content) {
            shared.n_keys -= 1;
            if shared.n_keys == 0 {
                self.by_content.remove(&content);
            }
        }
    }
}

/// A new map with this content, complete before anybody can look into it.
fn make(content: &AllowMap) -> Result<Inner, MapError> {
    let capacity = u32::try_from(content.len()).map_err(io::Error::other)?.max(1);
    let mut inner = Inner::create(capacity, NO_PREALLOC)?;
    let (keys, values): (Vec<AllowKey>, Vec<AllowValue>) =
        content.iter().map(|(key, value)| (*key, *value)).unzip();
    if !in_one_batch(inner.map(), &keys, &values)? {
        for (key, value) in content {
            let AllowKey { prefix_len_bits, identity, protocol, pad, port } = *key;
            let [i0, i1, i2, i3] = identity.0.to_ne_bytes();
            let [hi, lo] = port.0;
            let bits = [i0, i1, i2, i3, protocol.0, pad, hi, lo];
            inner.insert(&lpm_trie::Key::new(prefix_len_bits, bits), Wire(*value), 0)?;
        }
    }
    Ok(inner)
}

fn content_of(inner: &Inner) -> Result<AllowMap, MapError> {
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
