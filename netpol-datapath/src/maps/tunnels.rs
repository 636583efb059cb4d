//! The addresses of nodes and pods, and the ports of tunnels.

use std::collections::{BTreeMap, BTreeSet};

use netpol_common::addr::Addr;
use netpol_common::keys::Known;

use crate::error::Error;
use crate::tables::{Labelled, MapSet};

impl MapSet {
    /// See [`Maps::set_known`](netpol_policy::dataplane::port::Maps::set_known).
    ///
    /// # Errors
    /// [`Error::MapFull`], [`Error::Map`].
    pub(super) fn set_known(&mut self, changes: &BTreeMap<Addr, Known>) -> Result<(), Error> {
        let (gone, set): (Vec<_>, Vec<_>) =
            changes.iter().partition(|(_, known)| **known == Known::NOBODY);
        for (addr, _) in gone {
            self.known.remove(*addr)?;
        }
        if set.is_empty() {
            return Ok(());
        }
        self.known.set_all(set.into_iter().map(|(addr, known)| (*addr, *known)))
    }

    /// See [`Maps::set_tunnel_ports`](netpol_policy::dataplane::port::Maps::set_tunnel_ports).
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(super) fn set_tunnel_ports(&mut self, ports: &BTreeSet<u16>) -> Result<(), Error> {
        let Labelled { label, map } = &mut self.tunnel_ports;
        let mut words: BTreeMap<u32, u64> = BTreeMap::new();
        for port in ports.iter().map(|port| u32::from(*port)) {
            *words.entry(port / u64::BITS).or_default() |= 1 << (port % u64::BITS);
        }
        for index in 0..label.capacity {
            let word = words.get(&index).copied().unwrap_or(0);
            if map.get(&index, 0).map_err(|error| label.cannot_read(error))? != word {
                map.set(index, word, 0).map_err(|error| label.cannot_write(error))?;
            }
        }
        Ok(())
    }
}
