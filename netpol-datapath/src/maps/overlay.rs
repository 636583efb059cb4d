//! The devices that lead to the pods of other nodes past netfilter, and the addresses behind them.

use std::collections::{BTreeMap, BTreeSet};

use netpol_common::identities::N_FAMILIES;
use netpol_common::keys::{Overlay, PrefixKey};

use crate::error::Error;
use crate::tables::wire::Wire;
use crate::tables::{Labelled, MapSet};

impl MapSet {
    /// See [`Maps::set_overlay`](netpol_policy::dataplane::port::Maps::set_overlay).
    ///
    /// # Errors
    /// [`Error::MapFull`], [`Error::Map`].
    pub(super) fn set_overlay(
        &mut self,
        devices: &BTreeMap<u32, Overlay>,
        prefixes: &BTreeSet<PrefixKey>,
    ) -> Result<(), Error> {
        let found: BTreeSet<PrefixKey> =
            self.overlay_prefixes.entries()?.into_iter().map(|(prefix, _)| prefix).collect();
        for gone in found.difference(prefixes) {
            self.overlay_prefixes.remove(*gone)?;
        }
        let new: Vec<_> = prefixes.difference(&found).map(|prefix| (*prefix, 0)).collect();
        if !new.is_empty() {
            self.overlay_prefixes.set_all(new.into_iter())?;
        }
        let Labelled { label, map } = &mut self.overlay;
        for family in 0..N_FAMILIES {
            let device = devices.get(&family).copied().unwrap_or(Overlay::NONE);
            map.set(family, Wire(device), 0).map_err(|error| label.cannot_write(error))?;
        }
        Ok(())
    }
}
