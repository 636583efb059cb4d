//! A list of one kind while it is being read.

use std::collections::BTreeMap;

use super::decode;
use crate::model::{Diagnostic, Interner, Kind, Object, ObjectName, ObjectRef};
use crate::source::SourceUpdate;
use crate::store::Delta;

/// What has been read of a list.
#[derive(Debug)]
pub(super) struct Listing {
    kind: Kind,
    by_name: BTreeMap<ObjectName, Listed>,
    unnamed: Vec<Diagnostic>,
    interner: Interner,
    /// The version of the whole list, known at its end.
    pub(super) version: String,
}

/// One object of the list.
#[derive(Debug)]
struct Listed {
    /// `None` if it cannot be read.
    object: Option<Object>,
    found: Vec<Diagnostic>,
}

impl Listing {
    /// Nothing read yet.
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            by_name: BTreeMap::new(),
            unnamed: Vec::new(),
            interner: Interner::default(),
            version: String::new(),
        }
    }

    /// Adds an object from its JSON. In a streaming list it may be there already, in an older state.
    pub(super) fn add(&mut self, json: &str) {
        let head = match decode::head(self.kind, json) {
            Ok(head) => head,
            Err(found) => return self.unnamed.push(found),
        };
        let (mut object, found) = decode::object(&head, json);
        if let Some(object) = &mut object {
            self.interner.share(object);
        }
        let before = self.by_name.remove(&head.object.name).and_then(|listed| listed.object);
        let listed = Listed { object: object.or(before), found };
        self.by_name.insert(head.object.name, listed);
    }

    /// Removes an object: a streaming list tells what happens while it is being sent.
    pub(super) fn remove(&mut self, json: &str) {
        if let Ok(head) = decode::head(self.kind, json) {
            self.by_name.remove(&head.object.name);
        }
    }

    /// The complete list.
    pub(super) fn into_update(self) -> SourceUpdate {
        let Self { kind, by_name, unnamed, interner: _, version: _ } = self;
        let mut objects = Vec::with_capacity(by_name.len());
        let mut unreadable = Vec::new();
        let mut diagnostics = Vec::new();
        if let Some(first) = unnamed.first() {
            diagnostics.push((first.object.clone(), unnamed));
        }
        for (name, Listed { object, found }) in by_name {
            if !found.is_empty() {
                diagnostics.push((ObjectRef { kind, name: name.clone() }, found));
            }
            match object {
                Some(object) => objects.push(object),
                None => unreadable.push(name),
            }
        }
        let deltas = vec![Delta::Replace { kind, objects, unreadable }];
        SourceUpdate { deltas, diagnostics, health: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"metadata":{"name":"a","namespace":"n"}}"#;
    const BAD: &str = r#"{"metadata":{"name":"a","namespace":"n"},"spec":7}"#;
    const UNNAMED: &str = r#"{"metadata":{}}"#;

    /// Reads a list of pods and counts objects, unreadable ones and those with findings.
    fn check(added: &[&str], removed: &[&str], expected: [usize; 3]) {
        let mut listing = Listing::new(Kind::Pod);
        for json in added {
            listing.add(json);
        }
        for json in removed {
            listing.remove(json);
        }
        let update = listing.into_update();
        let [Delta::Replace { objects, unreadable, .. }] = &update.deltas[..] else {
            panic!("{update:?}")
        };
        let counts = [objects.len(), unreadable.len(), update.diagnostics.len()];
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
    fn what_is_deleted_while_the_list_is_sent_is_not_in_it() {
        check(&[GOOD, BAD], &[GOOD], [0, 0, 0]);
        check(&[], &[GOOD], [0, 0, 0]);
    }

    #[test]
    fn objects_without_a_name_are_told_together() {
        check(&[UNNAMED, GOOD, UNNAMED], &[UNNAMED], [1, 0, 1]);
    }
}
