//! Collects a list of one kind until it is complete.

use std::collections::BTreeMap;

use super::decode::Decoded;
use netpol_policy::model::{Diagnostic, Interner, Kind, Object, ObjectName, ObjectRef};
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::{Delta, List};

/// The entries of a list received so far.
#[derive(Debug)]
pub(super) struct Listing {
    kind: Kind,
    /// In the order of arrival, which is nearly the order of names.
    entries: Vec<Entry>,
    found: BTreeMap<ObjectName, Vec<Diagnostic>>,
    unnamed: Vec<Diagnostic>,
    interner: Interner,
    /// The version of the whole list, set at its end.
    pub(super) version: String,
}

/// What the list says about one object.
#[derive(Debug)]
enum Entry {
    Read(Object),
    Unreadable(ObjectName),
    Removed(ObjectName),
}

impl Entry {
    /// Namespace and name.
    fn name(&self) -> (&str, &str) {
        match self {
            Self::Read(object) => object.full_name(),
            Self::Unreadable(name) | Self::Removed(name) => (&name.namespace, &name.name),
        }
    }

    /// Replaces this entry by a later one about the same object, unless that one could not be decoded.
    fn replace(&mut self, later: Self) {
        match (&later, &self) {
            (Self::Unreadable(_), Self::Read(_) | Self::Unreadable(_)) => {}
            (Self::Unreadable(_) | Self::Read(_) | Self::Removed(_), _) => *self = later,
        }
    }
}

impl Listing {
    /// An empty list.
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            entries: Vec::new(),
            found: BTreeMap::new(),
            unnamed: Vec::new(),
            interner: Interner::default(),
            version: String::new(),
        }
    }

    /// Adds an object. A streaming list may contain an older state of it already.
    pub(super) fn add(&mut self, decoded: Result<Decoded, Diagnostic>) {
        let Decoded { head, object, found } = match decoded {
            Ok(decoded) => decoded,
            Err(found) => return self.unnamed.push(found),
        };
        let name = head.object.name;
        if found.is_empty() {
            self.found.remove(&name);
        } else {
            self.found.insert(name.clone(), found);
        }
        self.entries.push(match object {
            Some(mut object) => {
                self.interner.share(&mut object);
                Entry::Read(object)
            }
            None => Entry::Unreadable(name),
        });
    }

    /// Removes an object. A streaming list contains the events that happen while it is sent.
    pub(super) fn remove(&mut self, name: ObjectName) {
        self.found.remove(&name);
        self.entries.push(Entry::Removed(name));
    }

    /// Number of entries received, including undecodable, repeated and removed objects.
    pub(super) fn n_entries(&self) -> usize {
        self.entries.len() + self.unnamed.len()
    }

    /// The complete list as an update.
    pub(super) fn into_update(self) -> SourceUpdate {
        let Self { kind, mut entries, found, unnamed, interner, version: _ } = self;
        if !entries.is_sorted_by(|one, next| one.name() < next.name()) {
            // The sort is stable, so entries of the same name stay in the order of arrival.
            entries.sort_by(|one, other| one.name().cmp(&other.name()));
            entries.dedup_by(|later, entry| {
                let is_same = later.name() == entry.name();
                if is_same {
                    let gone = Entry::Removed(ObjectName::cluster_scoped(""));
                    entry.replace(std::mem::replace(later, gone));
                }
                is_same
            });
        }
        let mut unreadable = Vec::new();
        let objects = entries.into_iter().filter_map(|entry| match entry {
            Entry::Read(object) => Some(object),
            Entry::Unreadable(name) => {
                unreadable.push(name);
                None
            }
            Entry::Removed(_) => None,
        });
        let objects = objects.collect();
        let mut diagnostics = Vec::new();
        if let Some(first) = unnamed.first() {
            diagnostics.push((first.object.clone(), unnamed));
        }
        let found = found.into_iter().map(|(name, found)| (ObjectRef { kind, name }, found));
        diagnostics.extend(found);
        let deltas = vec![Delta::Replace(List::shared(kind, objects, unreadable, interner))];
        SourceUpdate { deltas, diagnostics, health: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;

    const GOOD: &str = r#"{"metadata":{"name":"a","namespace":"n"}}"#;
    const BAD: &str = r#"{"metadata":{"name":"a","namespace":"n"},"spec":7}"#;
    const UNNAMED: &str = r#"{"metadata":{}}"#;

    fn remove(listing: &mut Listing, json: &str) {
        if let Ok(decoded) = decode::object(Kind::Pod, json) {
            listing.remove(decoded.head.object.name);
        }
    }

    /// Collects a list of pods and expects numbers of objects, undecodable objects and objects with diagnostics.
    fn check(added: &[&str], removed: &[&str], expected: [usize; 3]) {
        let mut listing = Listing::new(Kind::Pod);
        for json in added {
            listing.add(decode::object(Kind::Pod, json));
        }
        for json in removed {
            remove(&mut listing, json);
        }
        let update = listing.into_update();
        let [Delta::Replace(list)] = &update.deltas[..] else { panic!("{update:?}") };
        let counts = [list.objects().len(), list.unreadable().len(), update.diagnostics.len()];
        assert_eq!(counts, expected, "{added:?} {removed:?}");
    }

    #[test]
    fn the_last_decodable_state_of_an_object_counts() {
        check(&[GOOD, GOOD], &[], [1, 0, 0]);
        check(&[BAD], &[], [0, 1, 1]);
        check(&[BAD, GOOD], &[], [1, 0, 0]);
        check(&[GOOD, BAD], &[], [1, 0, 1]);
    }

    #[test]
    fn a_list_is_sorted_by_name() {
        let mut listing = Listing::new(Kind::Pod);
        // etcd sorts by key, in which the slash after a namespace sorts behind a hyphen.
        for namespace in ["a-b", "a", "c"] {
            let json = GOOD.replace(r#""n""#, &format!("{namespace:?}"));
            listing.add(decode::object(Kind::Pod, &json));
        }
        let update = listing.into_update();
        let [Delta::Replace(list)] = &update.deltas[..] else { panic!("{update:?}") };
        let namespaces: Vec<_> = list.objects().iter().map(|of| of.full_name().0).collect();
        assert_eq!(namespaces, ["a", "a-b", "c"]);
    }

    #[test]
    fn an_object_deleted_while_the_list_is_sent_is_not_in_it() {
        check(&[GOOD, BAD], &[GOOD], [0, 0, 0]);
        check(&[], &[GOOD], [0, 0, 0]);
        let mut listing = Listing::new(Kind::Pod);
        listing.add(decode::object(Kind::Pod, GOOD));
        remove(&mut listing, GOOD);
        listing.add(decode::object(Kind::Pod, BAD));
        let update = listing.into_update();
        let [Delta::Replace(list)] = &update.deltas[..] else { panic!("{update:?}") };
        let counts = (list.objects().len(), list.unreadable().len());
        assert_eq!(counts, (0, 1), "another object of the same name");
    }

    #[test]
    fn objects_without_a_name_are_reported_together() {
        check(&[UNNAMED, GOOD, UNNAMED], &[UNNAMED], [1, 0, 1]);
    }
}
