//! The division of a capacity among namespaces.
//!
//! In: the items of all namespaces, each with the units that it needs, and a [`Shared`] capacity. Out: the items that are
//! refused. The capacity is filled from below: of two items the one comes first up to which its namespace needs less. So a
//! namespace is never refused anything up to the level at which all namespaces, each up to this level, fit together; that
//! level is at least the capacity divided by the number of namespaces. Items without a namespace are those of the
//! cluster's administrators: they come first, and may take all of it. Units that an earlier item has cost nothing more.
//! Must not: depend on anything but the items.

use std::hash::Hash;

use hashbrown::{HashMap, HashSet};

/// A capacity that all namespaces share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The capacity for all namespaces together.
    pub total: usize,
    /// The most that one namespace gets, also if nobody else needs the rest. It bounds the work that one namespace causes.
    pub of_namespace: usize,
}

impl Shared {
    /// A capacity all of which one namespace may get.
    pub const fn undivided(total: usize) -> Self {
        Self { total, of_namespace: total }
    }

    /// Whether any division of `n_wanted` units fits.
    pub(in crate::compile) fn fits(self, n_wanted: usize) -> bool {
        n_wanted <= self.total.min(self.of_namespace)
    }
}

/// Something that a namespace needs capacity for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a, K> {
    /// Its namespace; empty for what no namespace has.
    pub(super) namespace: &'a str,
    /// The item.
    pub(super) key: K,
    /// The number of units that it needs, repeated ones included.
    pub(super) n_wanted: usize,
}

/// The result of [`divide`].
#[derive(Debug)]
pub(super) struct Division<K, U> {
    /// The items that exceed the capacity.
    pub(super) refused: Vec<K>,
    /// The units of all others.
    pub(super) taken: HashSet<U>,
}

/// The units of one namespace.
struct Taken<U> {
    n_units: usize,
    units: HashSet<U>,
}

/// Divides a capacity. The items of one namespace come in the order in which they get capacity. `units` are those of an item,
/// with the capacity that each one takes.
pub(super) fn divide<'a, K: Copy, U: Copy + Eq + Hash, I: Iterator<Item = (U, usize)>>(
    shared: Shared,
    items: impl Iterator<Item = Item<'a, K>>,
    units: impl Fn(K) -> I,
) -> Division<K, U> {
    let mut needed: HashMap<&str, usize> = HashMap::new();
    let mut queue: Vec<(usize, usize, Item<'a, K>)> = Vec::new();
    for (position, item) in items.enumerate() {
        let sum = needed.entry(item.namespace).or_default();
        *sum = sum.saturating_add(item.n_wanted);
        queue.push((*sum, position, item));
    }
    queue.sort_unstable_by(|(sum, position, item), (other_sum, other_position, other)| {
        let is_of_namespace = |item: &Item<'_, K>| !item.namespace.is_empty();
        (is_of_namespace(item), sum, item.namespace, position).cmp(&(
            is_of_namespace(other),
            other_sum,
            other.namespace,
            other_position,
        ))
    });
    let mut n_taken = 0_usize;
    let mut division = Division { refused: Vec::new(), taken: HashSet::new() };
    let mut by_namespace: HashMap<&str, Taken<U>> = HashMap::new();
    for (_, _, Item { namespace, key, n_wanted: _ }) in queue {
        let own = by_namespace
            .entry(namespace)
            .or_insert_with(|| Taken { n_units: 0, units: HashSet::new() });
        let (mut n_own, mut n_new) = (own.n_units, n_taken);
        let most = if namespace.is_empty() { shared.total } else { shared.of_namespace };
        let mut fresh = HashSet::new();
        let is_refused = units(key).any(|(unit, size)| {
            if own.units.contains(&unit) || !fresh.insert(unit) {
                return false;
            }
            n_own = n_own.saturating_add(size);
            if !division.taken.contains(&unit) {
                n_new = n_new.saturating_add(size);
            }
            n_own > most || n_new > shared.total
        });
        if is_refused {
            division.refused.push(key);
        } else {
            (own.n_units, n_taken) = (n_own, n_new);
            own.units.extend(&fresh);
            division.taken.extend(fresh);
        }
    }
    division
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (String, Vec<u8>);

    fn refused(shared: Shared, items: &[Owned]) -> Vec<usize> {
        let keys = 0..items.len();
        let listed = keys.map(|key| Item {
            namespace: items[key].0.as_str(),
            key,
            n_wanted: items[key].1.len(),
        });
        let division = divide(shared, listed, |key| items[key].1.iter().map(|unit| (*unit, 1)));
        let mut refused = division.refused;
        refused.sort_unstable();
        refused
    }

    #[track_caller]
    fn check(shared: Shared, items: &[(&str, &[u8])], expected: &[usize]) {
        let items: Vec<_> =
            items.iter().map(|(of, units)| ((*of).to_owned(), units.to_vec())).collect();
        assert_eq!(refused(shared, &items), expected);
    }

    #[test]
    fn the_namespace_that_needs_most_is_refused_first() {
        let greedy: &[(&str, &[u8])] =
            &[("a", &[1, 2]), ("a", &[3, 4]), ("a", &[5, 6]), ("b", &[7, 8]), ("c", &[9])];
        check(Shared::undivided(9), greedy, &[]);
        check(Shared::undivided(8), greedy, &[2]);
        check(Shared::undivided(5), greedy, &[1, 2]);
    }

    #[test]
    fn one_namespace_does_not_get_more_than_its_most_even_if_it_is_alone() {
        let shared = Shared { total: 100, of_namespace: 3 };
        check(shared, &[("a", &[1, 2]), ("a", &[3, 4]), ("b", &[5, 6, 7])], &[1]);
    }

    #[test]
    fn units_that_are_taken_already_cost_nothing() {
        check(Shared::undivided(3), &[("a", &[1, 2, 3]), ("b", &[3, 2, 1]), ("b", &[3])], &[]);
    }

    fn items() -> impl Strategy<Value = Vec<Owned>> {
        let item = (0..4_u8, prop::collection::vec(0..30_u8, 0..8))
            .prop_map(|(namespace, units)| (namespace.to_string(), units));
        prop::collection::vec(item, 0..12)
    }

    proptest! {
        #[test]
        fn a_namespace_below_its_share_is_never_refused_because_of_another(
            items in items(), total in 0..40_usize,
        ) {
            let needed = |namespace: &str| -> usize {
                items.iter().filter(|(of, _)| of == namespace).map(|(_, units)| units.len()).sum()
            };
            let namespaces: HashSet<&str> = items.iter().map(|(of, _)| of.as_str()).collect();
            for refused in refused(Shared::undivided(total), &items) {
                prop_assert!(needed(&items[refused].0) > total / namespaces.len());
            }
        }

        #[test]
        fn what_is_not_refused_fits(items in items(), total in 0..40_usize, most in 0..20_usize) {
            let shared = Shared { total, of_namespace: most };
            let refused = refused(shared, &items);
            let kept: Vec<&Owned> = (0..items.len())
                .filter(|item| !refused.contains(item))
                .map(|item| &items[item])
                .collect();
            let all: HashSet<u8> = kept.iter().flat_map(|(_, units)| units).copied().collect();
            prop_assert!(all.len() <= total);
            for (namespace, _) in &items {
                let own = kept.iter().filter(|(of, _)| of == namespace);
                let own: HashSet<u8> = own.flat_map(|(_, units)| units).copied().collect();
                prop_assert!(own.len() <= most);
            }
        }
    }
}
