//! ADDRESSES: the addresses of each endpoint, and those of any endpoint.
//!
//! The programs find an address without its endpoint by an entry that all endpoints with this address share. It names the endpoint, if
//! there is one only. It is written and removed here together with theirs, and is not part of the map state.

use std::collections::{BTreeMap, BTreeSet};

use aya::Ebpf;
use aya::maps::MapData;
use netpol_common::addr::Addr;
use netpol_common::ids::IfIndex;
use netpol_common::keys::AddressKey;

use super::table::{Label, Table};
use crate::error::Error;

/// The map, and which endpoints have each address.
#[derive(Debug)]
pub(crate) struct Addresses {
    table: Table<AddressKey, IfIndex>,
    owners: BTreeMap<Addr, BTreeSet<IfIndex>>,
}

impl Addresses {
    /// Takes the map out of the loaded object. Corrects what an agent has left that was killed between two writes.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Map`].
    pub(crate) fn take(ebpf: &mut Ebpf, label: Label) -> Result<Self, Error> {
        let mut addresses = Self { table: Table::take(ebpf, label)?, owners: BTreeMap::new() };
        let entries = addresses.table.entries()?.into_iter();
        let (shared, own): (Vec<_>, Vec<_>) =
            entries.map(|(key, _)| key).partition(|key| key.ifindex == AddressKey::ANY_POD);
        for key in own.iter().filter(|key| is_shared(key)) {
            addresses.owners.entry(key.addr).or_default().insert(key.ifindex);
        }
        let addrs: BTreeSet<Addr> = shared.iter().chain(&own).map(|key| key.addr).collect();
        for addr in addrs {
            addresses.share(addr)?;
        }
        Ok(addresses)
    }

    /// The map.
    pub(crate) fn map(&self) -> &MapData {
        self.table.map()
    }

    /// Adds addresses of endpoints.
    ///
    /// # Errors
    /// [`Error::MapFull`], [`Error::Map`]; then the first are added.
    pub(crate) fn add_all(&mut self, keys: impl Iterator<Item = AddressKey>) -> Result<(), Error> {
        for key in keys {
            self.table.add(key, key.ifindex)?;
            if is_shared(&key) {
                self.owners.entry(key.addr).or_default().insert(key.ifindex);
                self.share(key.addr)?;
            }
        }
        Ok(())
    }

    /// Removes an address of an endpoint, if it has it.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn remove(&mut self, key: AddressKey) -> Result<(), Error> {
        self.table.remove(key)?;
        let Some(owners) = self.owners.get_mut(&key.addr) else { return Ok(()) };
        owners.remove(&key.ifindex);
        if owners.is_empty() {
            self.owners.remove(&key.addr);
        }
        self.share(key.addr)
    }

    /// The addresses of all endpoints.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn entries(&self) -> Result<impl Iterator<Item = AddressKey>, Error> {
        let keys = self.table.entries()?.into_iter().map(|(key, _)| key);
        Ok(keys.filter(|key| key.ifindex != AddressKey::ANY_POD))
    }

    /// Writes or removes the entry of an address without its endpoint.
    fn share(&mut self, addr: Addr) -> Result<(), Error> {
        let key = AddressKey::of_any_pod(addr);
        let Some(owners) = self.owners.get(&addr) else { return self.table.remove(key) };
        let mut owners = owners.iter();
        let owner = match (owners.next(), owners.next()) {
            (Some(owner), None) => *owner,
            _ => AddressKey::ANY_POD,
        };
        self.table.set(key, owner)
    }
}

/// Other links have link-local addresses too.
fn is_shared(key: &AddressKey) -> bool {
    !key.addr.is_v6_link_local()
}
