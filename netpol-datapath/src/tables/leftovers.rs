//! Removed endpoints whose entries may still be in the maps.
//!
//! In: interfaces that are no endpoints any more. Out: whether an entry of an interface is to be removed. Must not: touch a
//! map.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netpol_common::ids::IfIndex;

/// The interfaces whose entries a garbage collection removes.
#[derive(Debug)]
pub(crate) enum Targets {
    /// These interfaces.
    These(BTreeSet<IfIndex>),
    /// All interfaces except these endpoints.
    AllBut(BTreeSet<IfIndex>),
}

impl Targets {
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
    pub(crate) in_progress: Option<Arc<Mutex<Targets>>>,
}

impl Leftovers {
    /// Adds removed endpoints.
    pub(crate) fn extend(&mut self, gone: impl IntoIterator<Item = IfIndex>) {
        self.gone.extend(gone);
    }

    fn targets_in_progress(&self) -> Option<MutexGuard<'_, Targets>> {
        self.in_progress.as_deref().map(lock)
    }

    /// Number of removed endpoints, those of the collection in progress included.
    pub(crate) fn len(&self) -> usize {
        let n_in_progress = self.targets_in_progress().map_or(0, |targets| match &*targets {
            Targets::These(gone) => gone.len(),
            Targets::AllBut(_) => 0,
        });
        self.gone.len() + n_in_progress
    }

    /// Whether this interface may still have entries from before.
    pub(crate) fn contains(&self, ifindex: IfIndex) -> bool {
        self.gone.contains(&ifindex)
            || self.targets_in_progress().is_some_and(|targets| targets.contains(ifindex))
    }

    /// Takes all of them, also those of the collection in progress, which then has nothing left to remove.
    pub(crate) fn take(&mut self) -> BTreeSet<IfIndex> {
        let mut all = std::mem::take(&mut self.gone);
        if let Some(mut targets) = self.targets_in_progress()
            && let Targets::These(gone) = &mut *targets
        {
            all.append(gone);
        }
        self.in_progress = None;
        all
    }
}

/// Locks the set, also after a thread panicked with the lock held: each change of it is complete by itself.
pub(crate) fn lock(targets: &Mutex<Targets>) -> MutexGuard<'_, Targets> {
    targets.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_in_progress_leaves_entries_that_were_taken_from_it_alone() {
        let targets =
            Arc::new(Mutex::new(Targets::These(BTreeSet::from([IfIndex(7), IfIndex(8)]))));
        let mut leftovers = Leftovers::default();
        leftovers.extend([IfIndex(9)]);
        leftovers.in_progress = Some(Arc::clone(&targets));
        assert_eq!(leftovers.len(), 3);
        assert!(leftovers.contains(IfIndex(8)) && leftovers.contains(IfIndex(9)));
        assert_eq!(leftovers.take(), [7, 8, 9].map(IfIndex).into());
        assert!(!lock(&targets).contains(IfIndex(7)));
        assert_eq!(leftovers.len(), 0);
    }
}
