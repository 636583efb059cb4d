//! The identities in use, with the number of addresses and prefixes that have each.

use std::collections::BTreeSet;

use hashbrown::HashMap;
use netpol_common::ids::Identity;

use crate::compile::numbering::Signature;

/// The identities that an address or a prefix has.
#[derive(Debug, Default)]
pub(super) struct Identities {
    held: HashMap<Identity, Holding>,
    /// Identities whose count has changed since the last [`Self::take_changed`], with what it was.
    before: HashMap<Identity, usize>,
}

/// Change of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It has its first owner.
    Born,
    /// It has lost its last owner.
    Gone,
}

#[derive(Debug)]
struct Holding {
    signature: Signature,
    n_owners: usize,
}

impl Identities {
    /// Some more owners of an identity.
    pub(super) fn add(&mut self, identity: Identity, signature: &Signature, n_owners: usize) {
        if identity == Identity::NONE || n_owners == 0 {
            return;
        }
        let holding = self
            .held
            .entry(identity)
            .or_insert_with(|| Holding { signature: signature.clone(), n_owners: 0 });
        self.before.entry(identity).or_insert(holding.n_owners);
        holding.n_owners += n_owners;
    }

    pub(super) fn remove(&mut self, identity: Identity) {
        if let Some(holding) = self.held.get_mut(&identity) {
            self.before.entry(identity).or_insert(holding.n_owners);
            holding.n_owners = holding.n_owners.saturating_sub(1);
        }
    }

    /// Calls `report` for each identity that has got its first owner or lost its last one, and drops the latter.
    pub(super) fn take_changed(&mut self, mut report: impl FnMut(Life, Identity, &Signature)) {
        let mut changed: Vec<(Identity, usize)> = self.before.drain().collect();
        changed.sort_unstable();
        for (identity, n_before) in changed {
            let n_now = self.held.get(&identity).map_or(0, |holding| holding.n_owners);
            if n_now == 0 {
                let gone = self.held.remove(&identity).filter(|_| n_before > 0);
                if let Some(Holding { signature, .. }) = gone {
                    report(Life::Gone, identity, &signature);
                }
            } else if n_before == 0
                && let Some(Holding { signature, .. }) = self.held.get(&identity)
            {
                report(Life::Born, identity, signature);
            }
        }
    }

    /// The signature of an identity that has owners.
    pub(super) fn signature(&self, identity: Identity) -> Option<&Signature> {
        self.held.get(&identity).map(|holding| &holding.signature)
    }

    /// Moves all owners of an identity to another.
    pub(super) fn renumber(&mut self, old: Identity, new: Identity) {
        if let Some(holding) = self.held.remove(&old) {
            self.held.insert(new, holding);
        }
    }

    /// Number of identities.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// The identities that have owners.
    pub(super) fn held(&self) -> impl Iterator<Item = Identity> {
        self.held.keys().copied()
    }

    pub(super) fn retain_held(&self, identities: &mut BTreeSet<Identity>) {
        identities.retain(|identity| self.held.contains_key(identity));
    }
}
