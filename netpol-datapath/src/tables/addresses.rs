//! ADDRESSES: the addresses of each endpoint, and those of any endpoint.
//!
//! The programs find an address without its endpoint by an entry that all endpoints with this address share. It is written and
//! removed here together with theirs, and is not part of the map state.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::maps::MapData;
use netpol_common::addr::Addr;
use netpol_common::keys::AddressKey;

use super::table::{Label, Table};
use crate::error::Error;

/// The map, and how many endpoints have each address.
#[derive(Debug)]
pub(crate) struct Addresses {
    table: Table<AddressKey, u8>,
    n_owners: BTreeMap<Addr, usize>,
}

impl Addresses {
    /// Takes the map out of the loaded object. Corrects what an agent has left that was killed between two writes.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Map`].
    pub(crate) fn take(ebpf: &mut Ebpf, label: Label) -> Result<Self, Error> {
        let mut addresses = Self { table: Table::take(ebpf, label)?, n_owners: BTreeMap::new() };
        let entries = addresses.table.entries()?.into_iter();
        let (shared, own): (Vec<_>, Vec<_>) =
            entries.map(|(key, _)| key).partition(|key| key.ifindex == AddressKey::ANY_POD);
        for key in own.iter().filter(|key| is_shared(key)) {
            *addresses.n_owners.entry(key.addr).or_default() += 1;
        }
        for key in own {
            addresses.share(key)?;
        }
        for key in shared {
            if !addresses.n_owners.contains_key(&key.addr) {
                addresses.table.remove(key)?;
            }
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
            if self.table.get(key)?.is_none() {
                self.table.set(key, 0)?;
                if is_shared(&key) {
                    *self.n_owners.entry(key.addr).or_default() += 1;
                }
            }
            self.share(key)?;
        }
        Ok(())
    }

    /// Removes an address of an endpoint, if it has it.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn remove(&mut self, key: AddressKey) -> Result<(), Error> {
        let is_known = self.table.get(key)?.is_some();
        self.table.remove(key)?;
        let Some(n_owners) = self.n_owners.get_mut(&key.addr).filter(|_| is_known) else {
            return Ok(());
        };
        *n_owners = n_owners.saturating_sub(1);
        if *n_owners == 0 {
            self.n_owners.remove(&key.addr);
            self.table.remove(AddressKey::of_any_pod(key.addr))?;
        }
        Ok(())
    }

    /// The addresses of all endpoints.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn entries(&self) -> Result<impl Iterator<Item = AddressKey>, Error> {
        let keys = self.table.entries()?.into_iter().map(|(key, _)| key);
        Ok(keys.filter(|key| key.ifindex != AddressKey::ANY_POD))
    }

    fn share(&mut self, key: AddressKey) -> Result<(), Error> {
        if is_shared(&key) { self.table.add(AddressKey::of_any_pod(key.addr), 0) } else { Ok(()) }
    }
}

/// Other links have link-local addresses too.
fn is_shared(key: &AddressKey) -> bool {
    !key.addr.is_v6_link_local()
}
