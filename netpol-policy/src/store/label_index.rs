//! The inverted index behind selectors: the ids that have a label.

use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::{Array, SmallVec, smallvec};

use crate::model::{Labels, Requirement, Selector};

/// Ids by label. Most labels have one id only.
#[derive(Clone, Debug)]
pub(super) struct LabelIndex<Id> {
    by_key: HashMap<Arc<str>, HashMap<Arc<str>, Ids<Id>>>,
}

/// Sorted ids.
type Ids<Id> = SmallVec<[Id; 1]>;

impl<Id> Default for LabelIndex<Id> {
    fn default() -> Self {
        Self { by_key: HashMap::new() }
    }
}

/// Ids that meet one requirement of a selector, and so a superset of those that it selects, in disjoint parts.
#[derive(Clone, Debug)]
pub struct Candidates<'a, Id> {
    parts: Vec<&'a [Id]>,
    selector: &'a Selector,
    /// Position of the requirement in the selector.
    met: usize,
}

impl<'a, Id> Candidates<'a, Id> {
    /// Number of ids.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an id with these labels meets the other requirements too.
    pub fn is_selected(&self, labels: &Labels) -> bool {
        let mut requirements = self.selector.requirements().enumerate();
        requirements
            .all(|(position, requirement)| position == self.met || requirement.matches(labels))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &'a Id> {
        self.parts.iter().copied().flatten()
    }
}

impl<Id: Clone + Ord> LabelIndex<Id> {
    pub(super) fn insert(&mut self, labels: &Labels, id: &Id) {
        for (key, value) in labels.iter() {
            let by_value = match self.by_key.get_mut(key) {
                Some(by_value) => by_value,
                None => self.by_key.entry(Arc::clone(key)).or_default(),
            };
            match by_value.get_mut(value) {
                Some(ids) => insert_sorted(ids, id.clone()),
                None => drop(by_value.insert(Arc::clone(value), smallvec![id.clone()])),
            }
        }
    }

    pub(super) fn remove(&mut self, labels: &Labels, id: &Id) {
        for (key, value) in labels.iter() {
            let Some(by_value) = self.by_key.get_mut(key) else { continue };
            if let Some(ids) = by_value.get_mut(value) {
                remove_sorted(ids, id);
                if ids.is_empty() {
                    by_value.remove(value);
                }
            }
            if by_value.is_empty() {
                self.by_key.remove(key);
            }
        }
    }

    /// The shortest list that contains all ids that the selector selects; `None` if every list may lack some.
    pub(super) fn candidates<'a>(&'a self, selector: &'a Selector) -> Option<Candidates<'a, Id>> {
        let requirements = selector.requirements().enumerate();
        let lists = requirements.filter_map(|(met, requirement)| {
            let parts = match requirement {
                Requirement::In(key, values) => {
                    let by_value = self.by_key.get(key);
                    let found = values.iter().filter_map(|value| by_value?.get(value));
                    found.map(SmallVec::as_slice).collect()
                }
                Requirement::Exists(key) => {
                    let by_value = self.by_key.get(key);
                    let found = by_value.into_iter().flat_map(HashMap::values);
                    found.map(SmallVec::as_slice).collect()
                }
                Requirement::NotIn(..) | Requirement::DoesNotExist(_) => return None,
            };
            Some(Candidates { parts, selector, met })
        });
        lists.min_by_key(Candidates::len)
    }
}

/// Adds an id to a sorted list that lacks it. New ids are mostly the highest.
pub(super) fn insert_sorted<A: Array<Item: Ord>>(ids: &mut SmallVec<A>, id: A::Item) {
    if ids.last().is_none_or(|last| *last < id) {
        ids.push(id);
    } else if let Err(index) = ids.binary_search(&id) {
        ids.insert(index, id);
    }
}

/// Removes an id from a sorted list.
pub(super) fn remove_sorted<A: Array<Item: Ord>>(ids: &mut SmallVec<A>, id: &A::Item) {
    if let Ok(index) = ids.binary_search(id) {
        ids.remove(index);
    }
}
