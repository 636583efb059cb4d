//! Labels and label selectors.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// Labels of a pod or a namespace: sorted, each key once. Clones share their content.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// No labels.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        let index = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        self.0.get(index).map(|(_, value)| value)
    }

    /// Whether there is a value for the key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// Number of clones that share the content.
    pub(crate) fn n_sharing(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// Memory address of the content: the same for clones.
    pub(crate) fn content_address(&self) -> usize {
        self.0.as_ptr().addr()
    }
}

/// Of several values of a key the last one counts.
impl FromIterator<(Arc<str>, Arc<str>)> for Labels {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Arc<str>)>>(pairs: I) -> Self {
        let mut pairs: Vec<(Arc<str>, Arc<str>)> = pairs.into_iter().collect();
        if !pairs.is_sorted_by(|(a, _), (b, _)| a < b) {
            pairs = pairs.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect();
        }
        Self(pairs.into())
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A label selector: the conjunction of its requirements; without any it selects everything.
///
/// Source: meta/v1 `LabelSelector`, with `matchLabels` written as `In` with one value.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// All of these must hold. Sorted and without duplicates, so that equal selectors compare equal.
    requirements: Arc<[Requirement]>,
}

/// One condition on one label key. The empty string is a value, not absence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// The key is present and its value is one of these.
    In(Arc<str>, Values),
    /// The key is absent, or its value is none of these.
    NotIn(Arc<str>, Values),
    /// The key is present.
    Exists(Arc<str>),
    /// The key is absent.
    DoesNotExist(Arc<str>),
}

/// Label values: sorted, each once.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Values(Box<[Arc<str>]>);

impl Values {
    /// Whether the value is one of these.
    pub fn contains(&self, value: &str) -> bool {
        self.0.binary_search_by(|known| (**known).cmp(value)).is_ok()
    }

    /// The values, sorted.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<str>> {
        self.0.iter()
    }
}

impl FromIterator<Arc<str>> for Values {
    fn from_iter<I: IntoIterator<Item = Arc<str>>>(values: I) -> Self {
        Self(values.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
    }
}

impl<const N: usize> From<[Arc<str>; N]> for Values {
    fn from(values: [Arc<str>; N]) -> Self {
        values.into_iter().collect()
    }
}

impl<'a> IntoIterator for &'a Values {
    type Item = &'a Arc<str>;
    type IntoIter = std::slice::Iter<'a, Arc<str>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Requirement {
    /// The key of the label.
    pub const fn key(&self) -> &Arc<str> {
        match self {
            Self::In(key, _)
            | Self::NotIn(key, _)
            | Self::Exists(key)
            | Self::DoesNotExist(key) => key,
        }
    }

    /// Number of operators.
    const N_OPERATORS: u8 = 4;

    /// Position of the operator in the order of requirements.
    const fn operator(&self) -> u8 {
        match self {
            Self::In(..) => 0,
            Self::NotIn(..) => 1,
            Self::Exists(_) => 2,
            Self::DoesNotExist(_) => 3,
        }
    }

    /// Whether these labels satisfy the requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
        }
    }
}

impl Selector {
    /// The selector that selects everything (`{}`).
    pub fn everything() -> Self {
        Self::default()
    }

    /// The conjunction of these requirements.
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        let sorted: BTreeSet<Requirement> = requirements.into_iter().collect();
        Self { requirements: sorted.into_iter().collect() }
    }

    /// Whether these labels are selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// Whether the selector has no requirement.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Number of clones that share the content.
    pub(crate) fn n_sharing(&self) -> usize {
        Arc::strong_count(&self.requirements)
    }

    /// Whether this is one of the requirements.
    pub fn requires(&self, requirement: &Requirement) -> bool {
        self.requirements.binary_search(requirement).is_ok()
    }

    /// The requirements for a key. The work depends on their number, and on the logarithm of that of all requirements.
    pub fn requirements_of<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a Requirement> {
        (0..Requirement::N_OPERATORS).flat_map(move |operator| {
            let first = self
                .requirements
                .partition_point(|of| (of.operator(), &**of.key()) < (operator, key));
            let rest = self.requirements.get(first..).unwrap_or_default();
            rest.iter().take_while(move |of| (of.operator(), &**of.key()) == (operator, key))
        })
    }

    /// The requirements, sorted.
    pub fn requirements(&self) -> impl Iterator<Item = &Requirement> {
        self.requirements.iter()
    }
}

/// As `kubectl` writes it: `app=web`, `tier in (a,b)`, `tier notin (a,b)`, `app`, `!app`.
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &Values| values.iter().cloned().collect::<Vec<_>>().join(",");
        match self {
            Self::In(key, values) if values.0.len() == 1 => write!(f, "{key}={}", list(values)),
            Self::In(key, values) => write!(f, "{key} in ({})", list(values)),
            Self::NotIn(key, values) => write!(f, "{key} notin ({})", list(values)),
            Self::Exists(key) => f.write_str(key),
            Self::DoesNotExist(key) => write!(f, "!{key}"),
        }
    }
}

/// The requirements with commas between them; `{}` for the selector that selects everything.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("{}");
        }
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| (Arc::from(*key), Arc::from(*value))).collect()
    }

    fn selects(requirement: Requirement, pairs: &[(&str, &str)]) -> bool {
        Selector::new([requirement]).matches(&labels(pairs))
    }

    fn values(of: &[&str]) -> Values {
        of.iter().map(|value| Arc::from(*value)).collect()
    }

    #[test]
    fn operators_follow_the_api() {
        assert!(selects(Requirement::In("a".into(), values(&["1", "2"])), &[("a", "2")]));
        assert!(!selects(Requirement::In("a".into(), values(&["1"])), &[("a", "3")]));
        assert!(!selects(Requirement::In("a".into(), values(&["1"])), &[]));
        assert!(selects(Requirement::In("a".into(), values(&[""])), &[("a", "")]));
        assert!(!selects(Requirement::In("a".into(), values(&[""])), &[]));
        assert!(selects(Requirement::NotIn("a".into(), values(&["1"])), &[]));
        assert!(!selects(Requirement::NotIn("a".into(), values(&["1"])), &[("a", "1")]));
        assert!(selects(Requirement::NotIn("a".into(), values(&["1"])), &[("a", "2")]));
        assert!(selects(Requirement::Exists("a".into()), &[("a", "")]));
        assert!(!selects(Requirement::Exists("a".into()), &[("b", "")]));
        assert!(selects(Requirement::DoesNotExist("a".into()), &[("b", "")]));
        assert!(!selects(Requirement::DoesNotExist("a".into()), &[("a", "x")]));
    }

    #[test]
    fn requirements_are_found_by_key_under_every_operator() {
        let of = |key: &str| {
            let in_values = |value: &str| Requirement::In(key.into(), values(&[value]));
            [
                in_values("1"),
                in_values("2"),
                Requirement::NotIn(key.into(), values(&["3"])),
                Requirement::Exists(key.into()),
                Requirement::DoesNotExist(key.into()),
            ]
        };
        let selector = Selector::new([of("b"), of("a"), of("c")].into_iter().flatten());
        for key in ["a", "b", "c"] {
            assert!(selector.requirements_of(key).eq(&of(key)), "{key}");
        }
        assert_eq!(selector.requirements_of("d").count(), 0);
    }

    #[test]
    fn an_empty_selector_selects_everything() {
        assert!(Selector::everything().matches(&labels(&[])));
        assert!(Selector::everything().matches(&labels(&[("a", "b")])));
    }
}
