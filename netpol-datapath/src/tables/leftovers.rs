//! Removed endpoints whose entries may still be in the maps.
//!
//! In: interfaces that are no endpoints any more. Out: whether an entry of an interface is to be removed. Must not: touch a
//! map.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netpol_common::ids::IfIndex;

/// The interfaces whose entries a garbage collection removes.
#[derive(Debug)]
pub(crate) enum Whose {
    /// These.
    These(BTreeSet<IfIndex>),
    /// All but the endpoints.
    AllBut(BTreeSet<IfIndex>),
}

impl Whose {
    /// Whether the entries of this interface are removed.
    pub(crate) fn contains(&self, ifindex: IfIndex) -> bool {
        match self {
            Self::These(gone) => gone.contains(&ifindex),
            Self::AllBut(endpoints) => !endpoints.contains(&ifindex),
        }
    }
}

/// Removed endpoints whose entries may still be in the maps.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    /// Those that no collection has taken yet.
    pub(crate) gone: BTreeSet<IfIndex>,
    /// Those of the garbage collection in progress.
    pub(crate) under_way: Option<Arc<Mutex<Whose>>>,
}

impl Leftovers {
    /// Adds removed endpoints.
    pub(crate) fn extend(&mut self, gone: impl IntoIterator<Item = IfIndex>) {
        self.gone.extend(gone);
    }

    fn in_progress(&self) -> Option<MutexGuard<'_, Whose>> {
        self.under_way.as_deref().map(lock)
    }

    /// Number of removed endpoints, those of the collection in progress included.
    pub(crate) fn len(&self) -> usize {
        let n_under_way = self.in_progress().map_or(0, |whose| match &*whose {
            Whose::These(gone) => gone.len(),
            Whose::AllBut(_) => 0,
        });
        self.gone.len() + n_under_way
    }

    /// Whether this interface may still have entries from before.
    pub(crate) fn contains(&self, ifindex: IfIndex) -> bool {
        self.gone.contains(&ifindex)
            || self.in_progress().is_some_and(|whose| whose.contains(ifindex))
    }

    /// Takes all of them, also those of the collection in progress, which then has nothing left to remove.
    pub(crate) fn take(&mut self) -> BTreeSet<IfIndex> {
        let mut all = std::mem::take(&mut self.gone);
        if let Some(mut whose) = self.in_progress()
            && let Whose::These(gone) = &mut *whose
        {
            all.append(gone);
        }
        self.under_way = None;
        all
    }
}

/// Locks the set, also after a thread panicked with the lock held: each change of it is complete by itself.
pub(crate) fn lock(whose: &Mutex<Whose>) -> MutexGuard<'_, Whose> {
    whose.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_in_progress_leaves_entries_that_were_taken_from_it_alone() {
        let whose = Arc::new(Mutex::new(Whose::These(BTreeSet::from([IfIndex(7), IfIndex(8)]))));
        let mut leftovers = Leftovers::default();
        leftovers.extend([IfIndex(9)]);
        leftovers.under_way = Some(Arc::clone(&whose));
        assert_eq!(leftovers.len(), 3);
        assert!(leftovers.contains(IfIndex(8)) && leftovers.contains(IfIndex(9)));
        assert_eq!(leftovers.take(), [7, 8, 9].map(IfIndex).into());
        assert!(!lock(&whose).contains(IfIndex(7)));
        assert_eq!(leftovers.len(), 0);
    }
}
