//! What a source of objects tells the agent: a live API server or a directory of manifests.
//!
//! Out: [`SourceUpdate`]s, to be applied in the order in which they come. The state that they change is
//! the store's; [`DiagnosticIndex`] holds the diagnostics beside it, [`Freshness`] how far each kind is known.
//! Must not: hold objects, or know which source it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::model::{Diagnostic, Kind, ObjectRef};
use crate::store::Delta;

/// One step of a source.
#[derive(Clone, Debug, Default)]
pub struct SourceUpdate {
    /// What changed, in order.
    pub deltas: Vec<Delta>,
    /// All findings on the objects named here; they replace earlier ones, so an empty list clears.
    /// An object that a delta adds, changes or removes and that is not named here has none.
    pub diagnostics: Vec<(ObjectRef, Vec<Diagnostic>)>,
    /// How far a kind is known now, for the kinds for which that changed.
    pub health: Vec<(Kind, Health)>,
}

/// How far one kind of objects is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// The first complete list has not arrived: nothing may be enforced from this kind yet.
    Listing,
    /// Listed, and changes arrive.
    Synced {
        /// When it came to be so.
        since: Instant,
        /// When the source last spoke, if only to say that nothing changed.
        heard: Instant,
    },
    /// The source does not answer or cannot be understood; what is known may be out of date.
    Broken {
        /// Since when; the first failure counts.
        since: Instant,
        /// The latest failure.
        error: Arc<str>,
    },
    /// The source does not have this kind, or does not say so: nothing waits for it.
    Unserved,
}

/// The standing diagnostics, by object: those of a source, and those that a node finds out itself.
#[derive(Clone, Debug, Default)]
pub struct DiagnosticIndex {
    by_object: BTreeMap<ObjectRef, Vec<Diagnostic>>,
    of_node: BTreeMap<ObjectRef, Vec<Diagnostic>>,
}

impl DiagnosticIndex {
    /// Takes over the diagnostics of an update. Returns the objects whose diagnostics are not the same as before.
    pub fn apply(&mut self, update: &SourceUpdate) -> Vec<ObjectRef> {
        let mut said: BTreeMap<ObjectRef, &[Diagnostic]> = BTreeMap::new();
        for delta in &update.deltas {
            match delta {
                Delta::Upsert(object) => {
                    said.insert(object.object_ref(), &[]);
                }
                Delta::Remove { object, .. } => {
                    said.insert(object.clone(), &[]);
                }
                Delta::Replace(list) => {
                    let of_kind = self.by_object.keys().filter(|object| object.kind == list.kind());
                    said.extend(of_kind.map(|object| (object.clone(), [].as_slice())));
                }
                Delta::UpsertEndpoint(_)
                | Delta::RemoveEndpoint(_)
                | Delta::OwnAddresses(_)
                | Delta::ListedBackends(_)
                | Delta::ShortCuts(_)
                | Delta::PublishedAddresses { .. } => {}
            }
        }
        said.extend(
            update.diagnostics.iter().map(|(object, found)| (object.clone(), found.as_slice())),
        );

        let mut changed = Vec::new();
        for (object, found) in said {
            let before = self.by_object.get(&object).map_or([].as_slice(), Vec::as_slice);
            if before == found {
                continue;
            }
            if found.is_empty() {
                self.by_object.remove(&object);
            } else {
                self.by_object.insert(object.clone(), found.to_vec());
            }
            changed.push(object);
        }
        changed
    }

    /// Takes over all that the node finds out itself; it replaces what it found out before. Returns the objects of which it
    /// finds something else now.
    pub fn set_of_node(&mut self, diagnostics: Vec<Diagnostic>) -> Vec<ObjectRef> {
        let before = std::mem::take(&mut self.of_node);
        for diagnostic in diagnostics {
            self.of_node.entry(diagnostic.object.clone()).or_default().push(diagnostic);
        }
        let now = &self.of_node;
        let gone = before.keys().filter(|object| !now.contains_key(*object));
        let new = now.iter().filter(|(object, found)| before.get(*object) != Some(*found));
        gone.chain(new.map(|(object, _)| object)).cloned().collect()
    }

    /// The diagnostics of one object.
    pub fn of(&self, object: &ObjectRef) -> Vec<&Diagnostic> {
        [&self.by_object, &self.of_node]
            .into_iter()
            .filter_map(|of| of.get(object))
            .flatten()
            .collect()
    }

    /// All diagnostics, by origin and object.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.by_object.values().chain(self.of_node.values()).flatten()
    }
}

/// How far every kind is known.
#[derive(Clone, Debug, Default)]
pub struct Freshness {
    by_kind: BTreeMap<Kind, KindFreshness>,
}

/// One kind's place in [`Freshness`].
#[derive(Clone, Debug)]
struct KindFreshness {
    health: Health,
    /// It was listed once, or the source turned out not to have it.
    is_resolved: bool,
}

impl Freshness {
    /// Takes over the health of an update.
    pub fn apply(&mut self, update: &SourceUpdate) {
        for (kind, health) in &update.health {
            let entry = self.entry(*kind);
            entry.is_resolved |= *health == Health::Unserved;
            entry.health = health.clone();
        }
        for delta in &update.deltas {
            if let Delta::Replace(list) = delta {
                self.entry(list.kind()).is_resolved = true;
            }
        }
    }

    fn entry(&mut self, kind: Kind) -> &mut KindFreshness {
        self.by_kind
            .entry(kind)
            .or_insert(KindFreshness { health: Health::Listing, is_resolved: false })
    }

    /// How far a kind is known.
    pub fn of(&self, kind: Kind) -> &Health {
        self.by_kind.get(&kind).map_or(&Health::Listing, |kind| &kind.health)
    }

    /// The kinds that every source has, and of the others those that this one has or is expected to have.
    pub fn kinds(&self) -> Vec<Kind> {
        let has = |kind: &Kind| {
            Kind::BUILT_IN.contains(kind)
                || self.by_kind.get(kind).is_some_and(|kind| kind.health != Health::Unserved)
        };
        Kind::ALL.into_iter().filter(has).collect()
    }

    /// The kinds of which no complete list ever arrived, though the source has them. While there is one, no map may be changed.
    pub fn missing(&self) -> Vec<Kind> {
        let is_resolved = |kind: &Kind| self.by_kind.get(kind).is_some_and(|kind| kind.is_resolved);
        self.kinds().into_iter().filter(|kind| !is_resolved(kind)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Code, Labels, Namespace, Object, ObjectName};
    use crate::store::List;

    fn namespace(name: &str) -> Object {
        let (name, labels) = (Arc::from(name), Labels::default());
        Object::Namespace(Namespace { name, labels, terminating: false, allows_forwarding: false })
    }

    fn object_ref(name: &str) -> ObjectRef {
        ObjectRef { kind: Kind::Namespace, name: ObjectName::cluster_scoped(name) }
    }

    fn finding(name: &str) -> (ObjectRef, Vec<Diagnostic>) {
        let diagnostic = Diagnostic {
            code: Code::Malformed,
            object: object_ref(name),
            field: String::new(),
            message: "bad".to_owned(),
        };
        (object_ref(name), vec![diagnostic])
    }

    fn update(deltas: Vec<Delta>, diagnostics: Vec<(ObjectRef, Vec<Diagnostic>)>) -> SourceUpdate {
        SourceUpdate { deltas, diagnostics, health: Vec::new() }
    }

    #[test]
    fn a_clean_upsert_clears_the_diagnostics_of_its_object_only() {
        let mut index = DiagnosticIndex::default();
        index.apply(&update(Vec::new(), vec![finding("a"), finding("b")]));
        let changed = index.apply(&update(vec![Delta::Upsert(namespace("a"))], Vec::new()));
        assert_eq!(changed, [object_ref("a")]);
        assert!(index.of(&object_ref("a")).is_empty());
        assert_eq!(index.of(&object_ref("b")).len(), 1);
    }

    #[test]
    fn what_a_node_finds_stands_beside_what_the_source_finds() {
        let mut index = DiagnosticIndex::default();
        index.apply(&update(Vec::new(), vec![finding("a")]));
        let (_, own) = finding("a");
        assert_eq!(index.set_of_node(own.clone()), [object_ref("a")]);
        assert_eq!(index.set_of_node(own), []);
        index.apply(&update(vec![Delta::Upsert(namespace("a"))], Vec::new()));
        assert_eq!(index.of(&object_ref("a")).len(), 1);
        assert_eq!(index.set_of_node(Vec::new()), [object_ref("a")]);
        assert_eq!(index.iter().count(), 0);
    }

    #[test]
    fn a_relist_clears_the_diagnostics_of_its_kind_but_those_it_brings() {
        let mut index = DiagnosticIndex::default();
        index.apply(&update(Vec::new(), vec![finding("a"), finding("b")]));
        let relist = Delta::Replace(List::new(Kind::Namespace, Vec::new(), Vec::new()));
        let changed = index.apply(&update(vec![relist], vec![finding("b")]));
        assert_eq!(changed, [object_ref("a")]);
        assert_eq!(index.iter().count(), 1);
    }

    #[test]
    fn an_empty_list_clears_without_a_delta() {
        let mut index = DiagnosticIndex::default();
        index.apply(&update(Vec::new(), vec![finding("a")]));
        let changed = index.apply(&update(Vec::new(), vec![(object_ref("a"), Vec::new())]));
        assert_eq!(changed, [object_ref("a")]);
        assert_eq!(index.iter().count(), 0);
    }

    #[test]
    fn a_kind_is_missing_until_its_first_list_whatever_its_health() {
        let mut freshness = Freshness::default();
        assert_eq!(freshness.missing(), Kind::BUILT_IN);
        let broken = Health::Broken { since: tests_clock(), error: Arc::from("down") };
        let mut listed =
            update(vec![Delta::Replace(List::new(Kind::Pod, Vec::new(), Vec::new()))], Vec::new());
        listed.health.push((Kind::Pod, broken.clone()));
        freshness.apply(&listed);
        assert_eq!(freshness.of(Kind::Pod), &broken);
        assert!(!freshness.missing().contains(&Kind::Pod));
        assert_eq!(freshness.of(Kind::Node), &Health::Listing);
    }

    #[test]
    fn a_kind_that_the_source_may_lack_is_missing_only_while_it_is_expected() {
        let kind = Kind::ClusterNetworkPolicy;
        let mut freshness = Freshness::default();
        let mut hear = |health: Health| {
            freshness.apply(&SourceUpdate { health: vec![(kind, health)], ..Default::default() });
            (freshness.kinds().contains(&kind), freshness.missing().contains(&kind))
        };
        assert_eq!(hear(Health::Listing), (true, true));
        assert_eq!(hear(Health::Unserved), (false, false));
        let broken = Health::Broken { since: tests_clock(), error: Arc::from("503") };
        assert_eq!(hear(broken), (true, false));
        assert_eq!(hear(Health::Listing), (true, false), "installed later: nothing waits");
        assert!(!Freshness::default().missing().contains(&kind), "no source ever spoke of it");
    }

    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn tests_clock() -> Instant {
        Instant::now()
    }
}
