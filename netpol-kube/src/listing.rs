//! A list of one kind while it is being read.

use std::collections::BTreeMap;

use super::decode::Decoded;
use netpol_policy::model::{Diagnostic, Interner, Kind, Object, ObjectName, ObjectRef};
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::{Delta, List};

/// What has been read of a list.
#[derive(Debug)]
pub(super) struct Listing {
    kind: Kind,
    /// In the order in which they came, which is that of their names but for details.
    entries: Vec<Entry>,
    found: BTreeMap<ObjectName, Vec<Diagnostic>>,
    unnamed: Vec<Diagnostic>,
    interner: Interner,
    /// The version of the whole list, known at its end.
    pub(super) version: String,
}

/// One thing that the list says of an object.
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

    /// Takes in what was said of the same object later: what cannot be read leaves it as it was.
    fn follow(&mut self, later: Self) {
        match (&later, &self) {
            (Self::Unreadable(_), Self::Read(_) | Self::Unreadable(_)) => {}
            (Self::Unreadable(_) | Self::Read(_) | Self::Removed(_), _) => *self = later,
        }
    }
}

impl Listing {
    /// Nothing read yet.
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

    /// Adds an object. In a streaming list it may be there already, in an older state.
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

    /// Removes an object: a streaming list tells what happens while it is being sent.
    pub(super) fn remove(&mut self, name: ObjectName) {
        self.found.remove(&name);
        self.entries.push(Entry::Removed(name));
    }

    /// What the server has told, those included that cannot be read and those that came again or went.
    pub(super) fn n_entries(&self) -> usize {
        self.entries.len() + self.unnamed.len()
    }

    /// The complete list.
    pub(super) fn into_update(self) -> SourceUpdate {
        let Self { kind, mut entries, found, unnamed, interner, version: _ } = self;
        if !entries.is_sorted_by(|one, next| one.name() < next.name()) {
            // Entries of the same name stay in the order in which they came.
            entries.sort_by(|one, other| one.name().cmp(&other.name()));
            entries.dedup_by(|later, entry| {
                let is_same = later.name() == entry.name();
                if is_same {
                    let gone = Entry::Removed(ObjectName::cluster_scoped(""));
                    entry.follow(std::mem::replace(later, gone));
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

    /// Reads a list of pods and counts objects, unreadable ones and those with findings.
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
    fn the_last_state_of_an_object_counts_unless_it_cannot_be_read() {
        check(&[GOOD, GOOD], &[], [1, 0, 0]);
        check(&[BAD], &[], [0, 1, 1]);
        check(&[BAD, GOOD], &[], [1, 0, 0]);
        check(&[GOOD, BAD], &[], [1, 0, 1]);
    }

    #[test]
    fn a_list_in_any_order_is_told_by_name() {
        let mut listing = Listing::new(Kind::Pod);
        // As etcd sorts them: the slash behind a namespace comes after a hyphen.
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
    fn what_is_deleted_while_the_list_is_sent_is_not_in_it() {
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
    fn objects_without_a_name_are_told_together() {
        check(&[UNNAMED, GOOD, UNNAMED], &[UNNAMED], [1, 0, 1]);
    }
}
