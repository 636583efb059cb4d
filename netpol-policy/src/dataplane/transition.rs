//! The allow maps of one direction of an endpoint between two states, if one of the two has entries that do not allow.
//!
//! Maps that only allow can overlap: a union of old and new entries allows what one of the two states allows, and each packet
//! that both drop is still dropped. An entry that denies has no such union. It would drop a packet that another entry of
//! either state allows, because the longest match wins, or because an identity without a matching entry falls back to
//! [`Identity::ANY`]. So a [`Transition`] gives every packet exactly the verdict of the state whose identity its address has
//! at the time:
//!
//! * While addresses get new identities, the map is the old one, plus the new entries of the *entering* identities.
//! * While old identities are removed, the map is the new one, plus the old entries of the *leaving* identities.
//!
//! Added entries of an identity include a copy of those entries of its own state's [`Identity::ANY`] that differ from the ones
//! in the map, so that no look-up falls back to the other state's. An address moves from no identity only in the first half,
//! and to no identity only in the second; the prefixes that hold no identity get [`TEMPORARY`] ones where that is not so by
//! itself. An identity that both states hold has the same verdicts in both
//! (`compile::identity::changed_meanings` sees to that). The number of copies is at most the entering or leaving identities
//! times the entries of [`Identity::ANY`], and only if these change.
//!
//! The endpoint's entry says whether a packet without a matching entry is dropped or only reported. If a change begins or ends
//! that audit, both maps state it explicitly, so that the entry can change in between without any effect.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netpol_common::ids::{Identity, PortBe, Protocol, RuleId};
use netpol_common::keys::{AllowKey, AllowValue};

use crate::compile::{AllowMap, DirectionState, TEMPORARY, longest_entry};

/// Takes the place of [`Identity::NONE`] in a prefix that is removed.
pub(super) const LEAVING_NONE: Identity = TEMPORARY[0];
/// Takes the place of [`Identity::NONE`] in a prefix until old identities are removed.
pub(super) const ENTERING_NONE: Identity = TEMPORARY[1];

/// Old and new allow map of one direction, with an explicit default verdict if that changes.
pub(super) struct Transition {
    before: Arc<AllowMap>,
    after: Arc<AllowMap>,
}

impl Transition {
    /// `None` if nothing changes, or if both maps only allow.
    pub(super) fn new(before: &DirectionState<'_>, after: &DirectionState<'_>) -> Option<Self> {
        let is_same_audit = before.is_audited == after.is_audited;
        let is_same =
            is_same_audit && (Arc::ptr_eq(before.map, after.map) || before.map == after.map);
        if is_same || (before.only_allows() && after.only_allows()) {
            return None;
        }
        let [before, after] = [before, after].map(|state| {
            if is_same_audit { Arc::clone(state.map) } else { Arc::new(explicit(state)) }
        });
        Some(Self { before, after })
    }

    /// The map while addresses get new identities.
    pub(super) fn while_adding(&self, entering: &BTreeSet<Identity>) -> Arc<AllowMap> {
        with_foreign(&self.before, &self.after, entering)
    }

    /// The map while old identities are removed.
    pub(super) fn while_removing(&self, leaving: &BTreeSet<Identity>) -> Arc<AllowMap> {
        with_foreign(&self.after, &self.before, leaving)
    }

    /// The new map.
    pub(super) fn after(&self) -> &Arc<AllowMap> {
        &self.after
    }
}

const EVERYTHING: AllowKey = AllowKey {
    prefix_len_bits: AllowKey::ALL_PROTOCOLS_BITS,
    identity: Identity::ANY,
    protocol: Protocol(0),
    pad: 0,
    port: PortBe::ZERO,
};

/// The map with entries in place of the endpoint's default verdict.
fn explicit(state: &DirectionState<'_>) -> AllowMap {
    let default =
        if state.is_audited { AllowValue::allow(RuleId::NONE) } else { AllowValue::CLOSED_VALUE };
    let mut map = AllowMap::clone(state.map);
    for value in map.values_mut().filter(|value| value.verdict == AllowValue::DEFAULT) {
        *value = default;
    }
    map.entry(EVERYTHING).or_insert(default);
    map
}

/// `map` with the entries that `identities` have in `other`, so that their look-ups give the same as there.
fn with_foreign(
    map: &Arc<AllowMap>,
    other: &AllowMap,
    identities: &BTreeSet<Identity>,
) -> Arc<AllowMap> {
    let [own_any, any] = [map, other].map(|map| {
        map.iter()
            .filter(|(key, _)| key.identity == Identity::ANY)
            .map(|(key, value)| (*key, *value))
            .collect::<AllowMap>()
    });
    let verdicts = |any: &AllowMap| -> Vec<(AllowKey, u8)> {
        any.iter().map(|(key, value)| (*key, value.verdict)).collect()
    };
    let falls_back: BTreeSet<AllowKey> = if verdicts(&own_any) == verdicts(&any) {
        BTreeSet::new()
    } else {
        own_any.keys().chain(any.keys()).copied().collect()
    };
    let mut foreign: BTreeMap<Identity, AllowMap> = BTreeMap::new();
    for (key, value) in other.iter().filter(|(key, _)| identities.contains(&key.identity)) {
        foreign.entry(key.identity).or_default().insert(*key, *value);
    }
    let mut both = AllowMap::clone(map);
    both.retain(|key, _| !identities.contains(&key.identity));
    for identity in identities {
        let entries = foreign.remove(identity).unwrap_or_default();
        for fallback in &falls_back {
            let key = AllowKey { identity: *identity, ..*fallback };
            if longest_entry(&entries, &key).is_none() {
                let value = longest_entry(&any, fallback).unwrap_or(AllowValue::DEFAULT_VALUE);
                both.insert(key, value);
            }
        }
        both.extend(entries);
    }
    Arc::new(both)
}
