//! ALLOW, the array of allow maps. Equal allow maps are one map in the kernel.
//!
//! In: what each direction of each endpoint allows. Out: the place in ALLOW that the endpoint is to be led to
//! ([`EndpointEntry::allow_maps`]). A write to ALLOW itself makes the kernel wait until no program runs that could still see
//! what was there (RCU, some ten milliseconds). So ALLOW is written ahead and in bulk: *spare* places hold an empty map that no
//! endpoint leads to, and a new allow map is made by filling one of them. Must not: write ENDPOINTS.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;

use aya::Ebpf;
use aya::maps::{ArrayOfMaps, IterableMap as _, LpmTrie, Map, MapData, MapError, lpm_trie};
use netpol_common::ids::{Direction, Identity, IfIndex, PortBe, Protocol};
use netpol_common::keys::{AllowKey, AllowValue, EndpointEntry};
use netpol_common::maps;
use netpol_policy::compile::{AllowMap, AllowMapKey};

use super::table::{Label, absent_is_fine, in_one_batch, len_bytes, take};
use super::wire::{self, Wire};
use crate::error::Error;
use crate::object::layout::NO_PREALLOC;

/// Identity, protocol, zero and port: an [`AllowKey`] without its length.
type Inner = LpmTrie<MapData, [u8; 8], Wire<AllowValue>>;

/// An index of ALLOW.
type Place = u16;

/// Spare places that are made at once.
const N_SPARE: usize = 32;
/// So few spare places are a reason to make more when there is time.
const FEW_SPARE: usize = 8;
/// So many entries in maps that nobody is led to are a reason to let go of them when there is time.
const MANY_ENTRIES: usize = 1 << 14;

/// ALLOW and what it is known to hold.
#[derive(Debug)]
pub(crate) struct AllowMaps {
    label: Label,
    map: Map,
    by_key: BTreeMap<AllowMapKey, Place>,
    by_content: HashMap<Arc<AllowMap>, Place>,
    used: BTreeMap<Place, Used>,
    /// Places of empty maps that no program can be looking into, with the kernel's numbers of the maps.
    spare: Vec<(Place, u32)>,
    /// Places that keys have left: a program may still be looking into their maps.
    left: BTreeMap<Place, Left>,
    /// Places from here on were never written.
    next: Place,
}

/// An allow map that keys lead to.
#[derive(Debug)]
struct Used {
    content: Arc<AllowMap>,
    /// The kernel's number: unlike a file descriptor it costs nothing to keep.
    map_id: u32,
    n_keys: usize,
}

/// An allow map that no key leads to any more.
#[derive(Debug)]
struct Left {
    map_id: u32,
    n_entries: usize,
}

impl AllowMaps {
    /// Takes the map out of the loaded object and reads what it holds; `endpoints` is what ENDPOINTS holds.
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
            left: BTreeMap::new(),
            next: 1,
        };
        allow.read(endpoints)?;
        Ok(allow)
    }

    /// Reads again what is there: after a failure nobody knows how far it came.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn read(&mut self, endpoints: &[(IfIndex, EndpointEntry)]) -> Result<(), Error> {
        let label = self.label;
        self.read_places(endpoints).map_err(|error| label.cannot_read(error))
    }

    /// What each key leads to.
    pub(crate) fn entries(&self) -> BTreeMap<AllowMapKey, Arc<AllowMap>> {
        let content = |place| self.used.get(place).map(|used| Arc::clone(&used.content));
        self.by_key.iter().filter_map(|(key, place)| Some((*key, content(place)?))).collect()
    }

    /// Where the allow maps of an endpoint are: [`EndpointEntry::allow_maps`].
    pub(crate) fn places(&self, ifindex: IfIndex) -> [Place; 2] {
        [Direction::Ingress, Direction::Egress].map(|direction| {
            let key = AllowMapKey { ifindex, direction };
            self.by_key.get(&key).copied().unwrap_or(0)
        })
    }

    /// How many allow maps are in use.
    pub(crate) fn n_distinct(&self) -> usize {
        self.used.len()
    }

    /// The kernel's bytes for ALLOW and the allow maps.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn len_bytes(&self) -> io::Result<u64> {
        let mut sum = 0;
        if let Map::ArrayOfMaps(map) = &self.map {
            sum += len_bytes(map)?;
        }
        let used = self.used.values().map(|used| used.map_id);
        let spare = self.spare.iter().map(|(_, map_id)| *map_id);
        let left = self.left.values().map(|left| left.map_id);
        for map_id in used.chain(spare).chain(left) {
            sum += len_bytes(&MapData::from_id(map_id).map_err(io::Error::other)?)?;
        }
        Ok(sum)
    }

    /// Finds or makes the allow maps. Those of keys that are alone in leading there are changed where they are; other keys
    /// get other places: the endpoints of all keys are to be led to [`Self::places`] then.
    ///
    /// # Errors
    /// [`Error::MapFull`], [`Error::Map`]: [`Self::read`] before going on.
    pub(crate) fn set_all<'a>(
        &mut self,
        entries: impl Iterator<Item = (AllowMapKey, &'a Arc<AllowMap>)>,
    ) -> Result<(), Error> {
        let is_new = |key: &AllowMapKey, content: &Arc<AllowMap>| {
            let now = self.by_key.get(key).and_then(|place| self.used.get(place));
            now.is_none_or(|now| now.content != *content)
        };
        let mut wanted: BTreeMap<AllowMapKey, &Arc<AllowMap>> = BTreeMap::new();
        wanted.extend(entries.filter(|(key, content)| is_new(key, content)));
        for (place, content) in self.to_edit(&wanted) {
            self.edit(place, content)?;
            wanted.retain(|key, _| self.by_key.get(key) != Some(&place));
        }
        let made: BTreeSet<_> =
            wanted.values().filter(|content| !self.by_content.contains_key(**content)).collect();
        if made.len() > self.spare.len() {
            self.make_spare(made.len() - self.spare.len() + N_SPARE)?;
        }
        for (key, content) in wanted {
            let place = match self.by_content.get(content) {
                Some(place) => *place,
                None => self.fill(content)?,
            };
            self.lead(key, Some(place));
        }
        Ok(())
    }

    /// Lets these keys lead nowhere. The endpoints of all keys are to be led to [`Self::places`] then.
    pub(crate) fn remove_all(&mut self, keys: impl Iterator<Item = AllowMapKey>) {
        for key in keys {
            self.lead(key, None);
        }
    }

    /// Whether [`Self::prepare`] has something to do.
    pub(crate) fn wants_preparation(&self) -> bool {
        let n_left: usize = self.left.values().map(|left| left.n_entries).sum();
        self.spare.len() < FEW_SPARE || n_left > MANY_ENTRIES || self.left.len() > 2 * N_SPARE
    }

    /// Makes spare places, of those that were left first. The kernel waits until no program looks into the old maps.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn prepare(&mut self) -> Result<(), Error> {
        self.make_spare(N_SPARE.saturating_sub(self.spare.len()).max(self.left.len()))
    }

    /// Places whose maps can be changed where they are: all keys that lead there want the same, which no other place has. Each
    /// entry is written or removed by itself, so that in between some of the old and some of the new entries are there. With
    /// entries that allow, that lets pass what the old or the new map does; entries that deny must come and go together.
    fn to_edit<'a>(
        &self,
        wanted: &BTreeMap<AllowMapKey, &'a Arc<AllowMap>>,
    ) -> Vec<(Place, &'a Arc<AllowMap>)> {
        let mut by_place: BTreeMap<Place, Vec<&'a Arc<AllowMap>>> = BTreeMap::new();
        for (key, content) in wanted {
            if let Some(place) = self.by_key.get(key) {
                by_place.entry(*place).or_default().push(content);
            }
        }
        let mut taken: BTreeSet<&Arc<AllowMap>> = BTreeSet::new();
        let mut found = Vec::new();
        for (place, contents) in by_place {
            let (Some(used), [content, others @ ..]) = (self.used.get(&place), contents.as_slice())
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
                found.push((place, *content));
            }
        }
        found
    }

    fn edit(&mut self, place: Place, content: &Arc<AllowMap>) -> Result<(), Error> {
        let label = Label { capacity: maps::MAX_ALLOW_ENTRIES, ..self.label };
        let Some(used) = self.used.get_mut(&place) else { return Ok(()) };
        let written = open(used.map_id).and_then(|mut inner| {
            let is_new =
                |(key, value): &(&AllowKey, &AllowValue)| used.content.get(key) != Some(value);
            write(&mut inner, content.iter().filter(is_new))?;
            remove(&mut inner, used.content.keys().filter(|key| !content.contains_key(key)))
        });
        written.map_err(|error| label.cannot_write(error))?;
        self.by_content.remove(&used.content);
        self.by_content.insert(Arc::clone(content), place);
        used.content = Arc::clone(content);
        Ok(())
    }

    /// Fills a spare place.
    fn fill(&mut self, content: &Arc<AllowMap>) -> Result<Place, Error> {
        let label = Label { capacity: maps::MAX_ALLOW_ENTRIES, ..self.label };
        let Some((place, map_id)) = self.spare.pop() else { return Err(label.is_full()) };
        // Whatever becomes of it, it is not empty any more.
        self.left.insert(place, Left { map_id, n_entries: content.len() });
        let filled = open(map_id).and_then(|mut inner| write(&mut inner, content.iter()));
        filled.map_err(|error| label.cannot_write(error))?;
        self.left.remove(&place);
        self.used.insert(place, Used { content: Arc::clone(content), map_id, n_keys: 0 });
        self.by_content.insert(Arc::clone(content), place);
        Ok(place)
    }

    fn lead(&mut self, key: AllowMapKey, place: Option<Place>) {
        if let Some(used) = place.and_then(|place| self.used.get_mut(&place)) {
            used.n_keys += 1;
        }
        let before = match place {
            Some(place) => self.by_key.insert(key, place),
            None => self.by_key.remove(&key),
        };
        let Some(before) = before else { return };
        let Some(used) = self.used.get_mut(&before) else { return };
        used.n_keys -= 1;
        if used.n_keys == 0
            && let Some(Used { content, map_id, .. }) = self.used.remove(&before)
        {
            self.by_content.remove(&content);
            self.left.insert(before, Left { map_id, n_entries: content.len() });
        }
    }

    fn make_spare(&mut self, n: usize) -> Result<(), Error> {
        let label = self.label;
        let capacity = Place::try_from(label.capacity).unwrap_or(Place::MAX);
        let fresh = self.next..capacity;
        let places: Vec<Place> = self.left.keys().copied().chain(fresh).take(n).collect();
        if places.is_empty() {
            return if self.spare.is_empty() { Err(label.is_full()) } else { Ok(()) };
        }
        let made = self.write_empty(&places).map_err(|error| label.cannot_write(error))?;
        for (place, map_id) in made {
            self.left.remove(&place);
            self.next = self.next.max(place.saturating_add(1));
            self.spare.push((place, map_id));
        }
        Ok(())
    }

    /// Puts an empty map into each place; returns the maps' numbers.
    fn write_empty(&mut self, places: &[Place]) -> Result<Vec<(Place, u32)>, MapError> {
        let create = |place: &Place| {
            let inner = Inner::create(maps::MAX_ALLOW_ENTRIES, NO_PREALLOC)?;
            let map_id = inner.map().info()?.id();
            Ok((*place, inner, map_id))
        };
        let made: Vec<_> = places.iter().map(create).collect::<Result<_, MapError>>()?;
        let keys: Vec<u32> = places.iter().map(|place| u32::from(*place)).collect();
        let fds: Vec<_> =
            made.iter().map(|(_, inner, _)| inner.map().fd().as_fd().as_raw_fd()).collect();
        // After a write the kernel waits until no program uses the old map: once for a batch, else for each place.
        let is_written = if let Map::ArrayOfMaps(map) = &self.map {
            in_one_batch(map, &keys, &fds)?
        } else {
            false
        };
        if !is_written {
            let mut outer: ArrayOfMaps<&mut MapData, Inner> = (&mut self.map).try_into()?;
            for (place, inner, _) in &made {
                outer.set(u32::from(*place), inner, 0)?;
            }
        }
        Ok(made.into_iter().map(|(place, _, map_id)| (place, map_id)).collect())
    }

    fn read_places(&mut self, endpoints: &[(IfIndex, EndpointEntry)]) -> Result<(), MapError> {
        let outer: ArrayOfMaps<&MapData, Inner> = (&self.map).try_into()?;
        let mut used: BTreeMap<Place, Used> = BTreeMap::new();
        let mut by_key = BTreeMap::new();
        for (ifindex, value) in endpoints {
            for direction in Direction::ALL {
                let place = value.allow_map(direction);
                if place == 0 {
                    continue;
                }
                if let Some(used) = used.get_mut(&place) {
                    used.n_keys += 1;
                } else {
                    let inner = outer.get(&u32::from(place), 0)?;
                    let map_id = inner.map().info()?.id();
                    let content = Arc::new(content_of(&inner)?);
                    used.insert(place, Used { content, map_id, n_keys: 1 });
                }
                by_key.insert(AllowMapKey { ifindex: *ifindex, direction }, place);
            }
        }
        let mut left = BTreeMap::new();
        let mut next = 1;
        // Places are written one after the other, and never emptied.
        while u32::from(next) < self.label.capacity {
            if !used.contains_key(&next) {
                let inner = match outer.get(&u32::from(next), 0) {
                    Ok(inner) => inner,
                    Err(MapError::KeyNotFound) => break,
                    Err(error) => return Err(error),
                };
                left.insert(next, Left { map_id: inner.map().info()?.id(), n_entries: 0 });
            }
            next += 1;
        }
        self.by_content =
            used.iter().map(|(place, used)| (Arc::clone(&used.content), *place)).collect();
        (self.by_key, self.used, self.left, self.next) = (by_key, used, left, next);
        self.spare.clear();
        Ok(())
    }
}

/// An allow map by the kernel's number.
fn open(map_id: u32) -> Result<Inner, MapError> {
    MapData::from_id(map_id).and_then(|map| Map::LpmTrie(map).try_into())
}

fn only_allows(content: &AllowMap) -> bool {
    content.values().all(|value| value.verdict == AllowValue::ALLOW)
}

fn trie_key(key: &AllowKey) -> lpm_trie::Key<[u8; 8]> {
    let AllowKey { prefix_len_bits, identity, protocol, pad, port } = *key;
    let [i0, i1, i2, i3] = identity.0.to_ne_bytes();
    let [hi, lo] = port.0;
    lpm_trie::Key::new(prefix_len_bits, [i0, i1, i2, i3, protocol.0, pad, hi, lo])
}

fn write<'a>(
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

fn remove<'a>(inner: &mut Inner, keys: impl Iterator<Item = &'a AllowKey>) -> Result<(), MapError> {
    let keys: Vec<AllowKey> = keys.copied().collect();
    if wire::delete_batch::<_, AllowValue>(inner.map(), &keys).is_ok() {
        return Ok(());
    }
    keys.iter().try_for_each(|key| absent_is_fine(inner.remove(&trie_key(key))))
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
