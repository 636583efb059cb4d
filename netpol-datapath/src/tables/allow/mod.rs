//! ALLOW, the array of allow maps. Endpoints with equal allow maps share one.
//!
//! In: the content of each direction's allow map of each endpoint. Out: the slots of ALLOW that the endpoint's entry must
//! name ([`Endpoint::allow_maps`]). After a write to ALLOW itself the kernel waits until no program runs that could still
//! use the old map (RCU, some ten milliseconds). So ALLOW is written ahead and in bulk: *spare* slots hold empty maps that no
//! endpoint names, and a new allow map is created by filling one of them. Must not: write ENDPOINTS.

mod inner;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;

use aya::Ebpf;
use aya::maps::{ArrayOfMaps, IterableMap as _, Map, MapData, MapError};
use netpol_common::ids::{Direction, IfIndex};
use netpol_common::keys::{AllowKey, AllowValue, EndpointEntry};
use netpol_common::maps;
use netpol_policy::compile::{AllowMap, AllowMapKey};

use self::inner::{Inner, content_of, open, remove, write};
use super::table::{Label, in_one_batch, len_bytes, take};
use crate::error::Error;
use crate::object::layout::NO_PREALLOC;

/// An index of ALLOW.
type Slot = u16;

/// Number of spare slots that are prepared at once.
const N_SPARE: usize = 32;
/// Empty maps that are created before they are written to ALLOW, because each is an open file until then.
const N_OPEN: usize = 256;
/// With fewer spare slots than this, more are prepared when the node is idle.
const FEW_SPARE: usize = 8;
/// With more entries than this in retired maps, the maps are replaced when the node is idle.
const MANY_ENTRIES: usize = 1 << 14;

/// ALLOW and a record of its content.
#[derive(Debug)]
pub(crate) struct AllowMaps {
    label: Label,
    map: Map,
    by_key: BTreeMap<AllowMapKey, Slot>,
    by_content: HashMap<Arc<AllowMap>, Slot>,
    used: BTreeMap<Slot, Used>,
    /// Slots with empty maps that no program can be using, with the kernel ids of the maps.
    spare: Vec<(Slot, u32)>,
    /// Slots that no key uses any more. A program may still be using their maps.
    retired: BTreeMap<Slot, Retired>,
    /// The first slot that was never written.
    next: Slot,
}

/// An allow map in use.
#[derive(Debug)]
struct Used {
    content: Arc<AllowMap>,
    /// Kernel id of the map. Unlike a file descriptor it costs nothing to keep.
    map_id: u32,
    n_keys: usize,
}

/// An allow map that no key uses any more.
#[derive(Debug)]
struct Retired {
    map_id: u32,
    n_entries: usize,
}

impl AllowMaps {
    /// Takes the map out of the loaded object and reads its content. `endpoints`: the content of ENDPOINTS.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Map`].
    pub(crate) fn take(
        ebpf: &mut Ebpf,
        label: Label,
        endpoints: &[(IfIndex, EndpointEntry)],
    ) -> Result<Self, Error> {
        let mut allow = Self {
            label,
            map: take(ebpf, label.name)?,
            by_key: BTreeMap::new(),
            by_content: HashMap::new(),
            used: BTreeMap::new(),
            spare: Vec::new(),
            retired: BTreeMap::new(),
            next: 1,
        };
        allow.read(endpoints)?;
        Ok(allow)
    }

    /// Reads the content from the kernel, also after a failure, because some operations may be done. `endpoints`: the content
    /// of ENDPOINTS.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn read(&mut self, endpoints: &[(IfIndex, EndpointEntry)]) -> Result<(), Error> {
        let label = self.label;
        self.read_slots(endpoints).map_err(|error| label.cannot_read(error))
    }

    /// The allow map of each key.
    pub(crate) fn entries(&self) -> BTreeMap<AllowMapKey, Arc<AllowMap>> {
        let content = |slot| self.used.get(slot).map(|used| Arc::clone(&used.content));
        self.by_key.iter().filter_map(|(key, slot)| Some((*key, content(slot)?))).collect()
    }

    /// The slots of an endpoint's allow maps, ingress and egress, as in [`Endpoint::allow_maps`]; 0 for none.
    pub(crate) fn slots(&self, ifindex: IfIndex) -> [Slot; 2] {
        [Direction::Ingress, Direction::Egress].map(|direction| {
            let key = AllowMapKey { ifindex, direction };
            self.by_key.get(&key).copied().unwrap_or(0)
        })
    }

    /// Number of allow maps in use.
    pub(crate) fn n_distinct(&self) -> usize {
        self.used.len()
    }

    /// Kernel memory of ALLOW and all allow maps, bytes.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(crate) fn len_bytes(&self) -> io::Result<u64> {
        let mut sum = 0;
        if let Map::ArrayOfMaps(map) = &self.map {
            sum += len_bytes(map)?;
        }
        let used = self.used.values().map(|used| used.map_id);
        let spare = self.spare.iter().map(|(_, map_id)| *map_id);
        let retired = self.retired.values().map(|retired| retired.map_id);
        for map_id in used.chain(spare).chain(retired) {
            sum += len_bytes(&MapData::from_id(map_id).map_err(io::Error::other)?)?;
        }
        Ok(sum)
    }

    /// Finds or creates the allow maps of the keys. A map whose keys all change alike is edited in place; other keys move to
    /// another slot. Afterwards the caller must write [`Self::slots`] into the endpoints of all keys.
    ///
    /// A slot that loses all its keys retires after the last key has moved. So keys that exchange their maps need no spare
    /// slot, and the spare slots needed are the contents that no slot has yet. ALLOW has enough of them for any change: two for
    /// each endpoint before it and two for each after it.
    ///
    /// # Errors
    /// [`Error::MapFull`], [`Error::Map`]. Call [`Self::read`] before the next operation.
    pub(crate) fn set_all<'a>(
        &mut self,
        entries: impl Iterator<Item = (AllowMapKey, &'a Arc<AllowMap>)>,
    ) -> Result<(), Error> {
        // Endpoints mostly share their maps, so that each pair of maps is compared once.
        let mut compared: HashMap<(Slot, usize), bool> = HashMap::new();
        let mut is_new = |key: &AllowMapKey, content: &Arc<AllowMap>| {
            let Some(slot) = self.by_key.get(key) else { return true };
            let now = self.used.get(slot);
            *compared
                .entry((*slot, address_of(content)))
                .or_insert_with(|| now.is_none_or(|now| now.content != *content))
        };
        let mut wanted: BTreeMap<AllowMapKey, &Arc<AllowMap>> = BTreeMap::new();
        wanted.extend(entries.filter(|(key, content)| is_new(key, content)));
        for (slot, content) in self.editable(&wanted) {
            self.edit(slot, content)?;
            wanted.retain(|key, _| self.by_key.get(key) != Some(&slot));
        }
        let contents: BTreeMap<usize, &Arc<AllowMap>> =
            wanted.values().map(|content| (address_of(content), *content)).collect();
        let missing: HashSet<&Arc<AllowMap>> = contents
            .values()
            .copied()
            .filter(|content| !self.by_content.contains_key(*content))
            .collect();
        if missing.len() > self.spare.len() {
            self.prepare_spare(missing.len() - self.spare.len() + N_SPARE)?;
        }
        let mut slots: BTreeMap<usize, Slot> = BTreeMap::new();
        for (address, content) in contents {
            let slot = match self.by_content.get(content) {
                Some(slot) => *slot,
                None => self.fill(content)?,
            };
            slots.insert(address, slot);
        }
        let moves = wanted.into_iter().map(|(key, content)| (key, slots.get(&address_of(content))));
        let left = moves.filter_map(|(key, slot)| self.assign(key, slot.copied())).collect();
        self.retire_unused(left);
        Ok(())
    }

    /// Removes the allow maps of these keys. Afterwards the caller must write [`Self::slots`] into the endpoints of all keys.
    pub(crate) fn remove_all(&mut self, keys: impl Iterator<Item = AllowMapKey>) {
        let left: BTreeSet<Slot> = keys.filter_map(|key| self.assign(key, None)).collect();
        self.retire_unused(left);
    }

    /// Whether [`Self::prepare`] has work to do.
    pub(crate) fn wants_preparation(&self) -> bool {
        let n_retired: usize = self.retired.values().map(|retired| retired.n_entries).sum();
        self.spare.len() < FEW_SPARE || n_retired > MANY_ENTRIES || self.retired.len() > 2 * N_SPARE
    }

    /// Prepares spare slots, from retired ones first. The kernel waits until no program uses the old maps.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn prepare(&mut self) -> Result<(), Error> {
        self.prepare_spare(N_SPARE.saturating_sub(self.spare.len()).max(self.retired.len()))
    }

    /// Slots whose maps can be edited in place: all keys of the slot get the same content, and no other slot has it. Each
    /// entry is written or removed separately, so the map holds a mixture of old and new entries meanwhile. With entries that
    /// allow, the mixture allows nothing that both maps forbid; entries that deny must change together.
    fn editable<'a>(
        &self,
        wanted: &BTreeMap<AllowMapKey, &'a Arc<AllowMap>>,
    ) -> Vec<(Slot, &'a Arc<AllowMap>)> {
        let mut by_slot: BTreeMap<Slot, Vec<&'a Arc<AllowMap>>> = BTreeMap::new();
        for (key, content) in wanted {
            if let Some(slot) = self.by_key.get(key) {
                by_slot.entry(*slot).or_default().push(content);
            }
        }
        let mut taken: HashSet<&Arc<AllowMap>> = HashSet::new();
        let mut found = Vec::new();
        for (slot, contents) in by_slot {
            let (Some(used), [content, others @ ..]) = (self.used.get(&slot), contents.as_slice())
            else {
                continue;
            };
            let are_agreed = contents.len() == used.n_keys && others.iter().all(|o| o == content);
            let is_elsewhere = self.by_content.contains_key(*content);
            if are_agreed
                && !is_elsewhere
                && only_allows(&used.content)
                && only_allows(content)
                && taken.insert(content)
            {
                found.push((slot, *content));
            }
        }
        found
    }

    /// Changes the map of a slot: added entries are written before removed ones are deleted.
    fn edit(&mut self, slot: Slot, content: &Arc<AllowMap>) -> Result<(), Error> {
        let label = Label { capacity: maps::MAX_ALLOW_ENTRIES, ..self.label };
        let Some(used) = self.used.get_mut(&slot) else { return Ok(()) };
        let written = open(used.map_id).and_then(|mut inner| {
            let is_new =
                |(key, value): &(&AllowKey, &AllowValue)| used.content.get(key) != Some(value);
            write(&mut inner, content.iter().filter(is_new))?;
            remove(&mut inner, used.content.keys().filter(|key| !content.contains_key(key)))
        });
        written.map_err(|error| label.cannot_write(error))?;
        self.by_content.remove(&used.content);
        self.by_content.insert(Arc::clone(content), slot);
        used.content = Arc::clone(content);
        Ok(())
    }

    /// Fills a spare slot.
    fn fill(&mut self, content: &Arc<AllowMap>) -> Result<Slot, Error> {
        let Some((slot, map_id)) = self.spare.pop() else { return Err(self.label.is_full()) };
        let label = Label { capacity: maps::MAX_ALLOW_ENTRIES, ..self.label };
        // Retired until it is complete, because a failure leaves it partly filled.
        self.retired.insert(slot, Retired { map_id, n_entries: content.len() });
        let filled = open(map_id).and_then(|mut inner| write(&mut inner, content.iter()));
        filled.map_err(|error| label.cannot_write(error))?;
        self.retired.remove(&slot);
        self.used.insert(slot, Used { content: Arc::clone(content), map_id, n_keys: 0 });
        self.by_content.insert(Arc::clone(content), slot);
        Ok(slot)
    }

    /// Assigns a slot to a key, or removes its slot. Returns the slot that the key has left.
    fn assign(&mut self, key: AllowMapKey, slot: Option<Slot>) -> Option<Slot> {
        if let Some(used) = slot.and_then(|slot| self.used.get_mut(&slot)) {
            used.n_keys += 1;
        }
        let before = match slot {
            Some(slot) => self.by_key.insert(key, slot),
            None => self.by_key.remove(&key),
        }?;
        self.used.get_mut(&before)?.n_keys -= 1;
        Some(before)
    }

    /// Retires those of the slots that no key uses any more.
    fn retire_unused(&mut self, slots: BTreeSet<Slot>) {
        for slot in slots {
            if self.used.get(&slot).is_some_and(|used| used.n_keys == 0)
                && let Some(Used { content, map_id, .. }) = self.used.remove(&slot)
            {
                self.by_content.remove(&content);
                self.retired.insert(slot, Retired { map_id, n_entries: content.len() });
            }
        }
    }

    /// Prepares up to `n` spare slots.
    fn prepare_spare(&mut self, n: usize) -> Result<(), Error> {
        let label = self.label;
        let capacity = Slot::try_from(label.capacity).unwrap_or(Slot::MAX);
        let fresh = self.next..capacity;
        let slots: Vec<Slot> = self.retired.keys().copied().chain(fresh).take(n).collect();
        if slots.is_empty() {
            return if self.spare.is_empty() { Err(label.is_full()) } else { Ok(()) };
        }
        for slots in slots.chunks(N_OPEN) {
            let made = self.write_empty(slots).map_err(|error| label.cannot_write(error))?;
            for (slot, map_id) in made {
                self.retired.remove(&slot);
                self.next = self.next.max(slot.saturating_add(1));
                self.spare.push((slot, map_id));
            }
        }
        Ok(())
    }

    /// Writes an empty map into each slot. Returns the kernel ids of the maps.
    fn write_empty(&mut self, slots: &[Slot]) -> Result<Vec<(Slot, u32)>, MapError> {
        let create = |slot: &Slot| {
            let inner = Inner::create(maps::MAX_ALLOW_ENTRIES, NO_PREALLOC)?;
            let map_id = inner.map().info()?.id();
            Ok((*slot, inner, map_id))
        };
        let made: Vec<_> = slots.iter().map(create).collect::<Result<_, MapError>>()?;
        let keys: Vec<u32> = slots.iter().map(|slot| u32::from(*slot)).collect();
        let fds: Vec<_> =
            made.iter().map(|(_, inner, _)| inner.map().fd().as_fd().as_raw_fd()).collect();
        // The kernel waits until no program uses the old maps: once for a batch, otherwise for each slot.
        let is_written = if let Map::ArrayOfMaps(map) = &self.map {
            in_one_batch(map, &keys, &fds)?
        } else {
            false
        };
        if !is_written {
            let mut outer: ArrayOfMaps<&mut MapData, Inner> = (&mut self.map).try_into()?;
            for (slot, inner, _) in &made {
                outer.set(u32::from(*slot), inner, 0)?;
            }
        }
        Ok(made.into_iter().map(|(slot, _, map_id)| (slot, map_id)).collect())
    }

    fn read_slots(&mut self, endpoints: &[(IfIndex, EndpointEntry)]) -> Result<(), MapError> {
        let outer: ArrayOfMaps<&MapData, Inner> = (&self.map).try_into()?;
        let mut used: BTreeMap<Slot, Used> = BTreeMap::new();
        let mut by_key = BTreeMap::new();
        for (ifindex, EndpointEntry { value: endpoint, .. }) in endpoints {
            for direction in Direction::ALL {
                let slot = endpoint.allow_map(direction);
                if slot == 0 {
                    continue;
                }
                if let Some(used) = used.get_mut(&slot) {
                    used.n_keys += 1;
                } else {
                    let inner = outer.get(&u32::from(slot), 0)?;
                    let map_id = inner.map().info()?.id();
                    let content = Arc::new(content_of(&inner)?);
                    used.insert(slot, Used { content, map_id, n_keys: 1 });
                }
                by_key.insert(AllowMapKey { ifindex: *ifindex, direction }, slot);
            }
        }
        let mut retired = BTreeMap::new();
        let mut next = 1;
        // Slots are written in ascending order, and never cleared.
        while u32::from(next) < self.label.capacity {
            if !used.contains_key(&next) {
                let inner = match outer.get(&u32::from(next), 0) {
                    Ok(inner) => inner,
                    Err(MapError::KeyNotFound) => break,
                    Err(error) => return Err(error),
                };
                retired.insert(next, Retired { map_id: inner.map().info()?.id(), n_entries: 0 });
            }
            next += 1;
        }
        self.by_content =
            used.iter().map(|(slot, used)| (Arc::clone(&used.content), *slot)).collect();
        (self.by_key, self.used, self.retired, self.next) = (by_key, used, retired, next);
        self.spare.clear();
        Ok(())
    }
}

/// The identity of a map that endpoints share.
fn address_of(content: &Arc<AllowMap>) -> usize {
    Arc::as_ptr(content).addr()
}

fn only_allows(content: &AllowMap) -> bool {
    content.values().all(|value| value.verdict == AllowValue::ALLOW)
}
