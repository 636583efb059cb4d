//! The requirements of a selector for one label, taken together.
//!
//! In: requirements for the same key. Out: whether a label can meet them, and whether they imply another requirement. Both are exact,
//! because a selector constrains each key on its own and a label can have any value. Must not: read the state.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{Requirement, Selector};

/// What the requirements for one key leave of the label.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyCondition<'a> {
    must_exist: bool,
    must_not_exist: bool,
    /// The values that every `In` contains; `None` without an `In`.
    listed: Option<BTreeSet<&'a Arc<str>>>,
    /// The values that a `NotIn` contains.
    excluded: BTreeSet<&'a Arc<str>>,
}

impl<'a> KeyCondition<'a> {
    /// The requirements of a selector for a key.
    pub(super) fn of(selector: &'a Selector, key: &str) -> Self {
        selector.requirements_of(key).collect()
    }

    /// Whether no value meets the requirements, nor the absence of the label.
    pub(super) fn is_contradictory(&self) -> bool {
        (self.must_exist && self.must_not_exist)
            || self.values().is_some_and(|mut values| values.next().is_none())
    }

    /// The values that meet the requirements; `None` if they list no values, so that any other value does.
    pub(super) fn values(&self) -> Option<impl Iterator<Item = &'a Arc<str>>> {
        let listed = self.listed.as_ref()?;
        Some(listed.iter().filter(|value| !self.excluded.contains(*value)).copied())
    }

    /// Whether every label that meets these requirements, present or absent, meets another one for the same key.
    pub(super) fn implies(&self, other: &Requirement) -> bool {
        if self.is_contradictory() {
            return true;
        }
        let is_always = |is_met: &dyn Fn(&Arc<str>) -> bool| {
            self.values().is_some_and(|mut values| values.all(is_met))
        };
        match other {
            Requirement::In(_, values) => is_always(&|value| values.contains(value)),
            Requirement::NotIn(_, values) => {
                self.must_not_exist
                    || values.iter().all(|value| self.excluded.contains(value))
                    || is_always(&|value| !values.contains(value))
            }
            Requirement::Exists(_) => self.must_exist,
            Requirement::DoesNotExist(_) => self.must_not_exist,
        }
    }
}

impl<'a> FromIterator<&'a Requirement> for KeyCondition<'a> {
    fn from_iter<I: IntoIterator<Item = &'a Requirement>>(requirements: I) -> Self {
        let mut all = Self::default();
        for requirement in requirements {
            match requirement {
                Requirement::In(_, values) => {
                    all.must_exist = true;
                    all.listed = Some(match all.listed.take() {
                        None => values.iter().collect(),
                        Some(mut before) => {
                            before.retain(|value| values.contains(value));
                            before
                        }
                    });
                }
                Requirement::NotIn(_, values) => all.excluded.extend(values),
                Requirement::Exists(_) => all.must_exist = true,
                Requirement::DoesNotExist(_) => all.must_not_exist = true,
            }
        }
        all
    }
}

/// Whether `wide` selects everything that `narrow` selects, whatever labels there are.
pub(super) fn includes(wide: &Selector, narrow: &Selector) -> bool {
    wide.requirements().all(|needed| {
        narrow.requires(needed) || KeyCondition::of(narrow, needed.key()).implies(needed)
    })
}

/// Whether no set of labels can match the selector.
pub(super) fn is_contradictory(selector: &Selector) -> bool {
    let mut requirements: Vec<&Requirement> = selector.requirements().collect();
    requirements.sort_by(|one, other| one.key().cmp(other.key()));
    let mut by_key = requirements.chunk_by(|one, other| one.key() == other.key());
    by_key.any(|of_key| match of_key {
        // Most keys have only one, and a selector can have very many.
        [Requirement::In(_, values)] => values.iter().next().is_none(),
        [_] => false,
        _ => of_key.iter().copied().collect::<KeyCondition<'_>>().is_contradictory(),
    })
}

/// The keys that a selector constrains, each once.
pub(super) fn keys(selector: &Selector) -> Vec<&Arc<str>> {
    let mut keys: Vec<_> = selector.requirements().map(Requirement::key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Labels, Values};

    /// Every requirement for the key `k` with the values a and b; c stands for all other values.
    fn requirements() -> Vec<Requirement> {
        let key: Arc<str> = "k".into();
        let of = |values: &[&str]| values.iter().map(|of| Arc::from(*of)).collect::<Values>();
        let mut all = vec![
            Requirement::Exists(Arc::clone(&key)),
            Requirement::DoesNotExist(Arc::clone(&key)),
        ];
        for values in [&["a"][..], &["b"], &["a", "b"]] {
            all.push(Requirement::In(Arc::clone(&key), of(values)));
            all.push(Requirement::NotIn(Arc::clone(&key), of(values)));
        }
        all
    }

    /// The label absent, and with each value.
    fn labels() -> Vec<Labels> {
        let with = |value: &str| [(Arc::from("k"), Arc::from(value))].into_iter().collect();
        std::iter::once(Labels::new()).chain(["a", "b", "c"].map(with)).collect()
    }

    #[test]
    fn a_selector_includes_another_exactly_if_every_label_says_so() {
        let all = requirements();
        let mut selectors = vec![Selector::everything()];
        for (at, one) in all.iter().enumerate() {
            selectors.push(Selector::new([one.clone()]));
            for other in &all[at + 1..] {
                selectors.push(Selector::new([one.clone(), other.clone()]));
                let triples = all.iter().map(|third| [one, other, third].map(Clone::clone));
                selectors.extend(triples.map(Selector::new));
            }
        }
        let labels = labels();
        for narrow in &selectors {
            let is_empty = !labels.iter().any(|labels| narrow.matches(labels));
            assert_eq!(is_contradictory(narrow), is_empty, "{narrow}");
            for wide in &selectors {
                let mut selected = labels.iter().filter(|labels| narrow.matches(labels));
                let expected = selected.all(|labels| wide.matches(labels));
                assert_eq!(includes(wide, narrow), expected, "{wide} includes {narrow}");
            }
        }
    }

    #[test]
    fn a_label_of_another_key_implies_nothing() {
        let one = |key: &str| {
            Selector::new([Requirement::In(key.into(), Values::from([Arc::from("a")]))])
        };
        assert!(!includes(&one("a"), &one("b")));
        assert!(includes(
            &one("a"),
            &Selector::new(one("a").requirements().chain(one("b").requirements()).cloned())
        ));
    }
}
