//! Rules that accept, deny and pass on, resolved to one verdict for each identity, protocol and port.
//!
//! For one identity the rules that apply are those for every address and those whose peers hold the identity. They are
//! applied in the reverse order of precedence, the lowest tier first, each over the ports that it matches: a rule with
//! precedence replaces the verdict of those below, and a rule that passes on restores there the verdict of the tiers below
//! its own. This is done for the enforced policies, and once more for all policies as if the audited ones were enforced too:
//! where the first pass and the second drop, the verdict is to pass and report. The entries of an identity are then those by which its verdicts differ from those of [`Identity::ANY`].

use std::collections::{BTreeMap, BTreeSet};

use netpol_common::ids::{Identity, Protocol, RuleId};
use netpol_common::keys::{AllowKey, AllowValue};

use super::verdicts::Verdicts;
use super::{Built, RuleInForce, key, wanted_entries};
use crate::compile::capacity;
use crate::compile::map_state::AllowMap;
use crate::model::{Action, PolicyMode};
use crate::resolve::{DefaultVerdict, RuleRef, Tier};

/// The allow map of rules in their order of precedence.
///
/// If the map exceeds `capacity`, accepting rules are left out, the largest first. The others are all needed: without
/// capacity for them, the map denies everything.
pub(super) fn build<'a, P: Copy, I: Iterator<Item = &'a Identity>>(
    rules: &[RuleInForce<'a, P>],
    default: DefaultVerdict,
    members: &impl Fn(P) -> I,
    capacity: usize,
) -> Built {
    let map = resolve(rules, default, members);
    if map.len() <= capacity {
        return Built { map, left_out: BTreeSet::new() };
    }
    let accepting = rules.iter().copied().filter(|rule| rule.action == Action::Accept);
    let wants = wanted_entries(accepting, members);
    let mut left_out: BTreeSet<&RuleRef> = wants.iter().map(|(rule, _)| *rule).collect();
    let resolve_without = |left_out: &BTreeSet<&RuleRef>| {
        let is_kept = |rule: &&RuleInForce<'_, P>| {
            rule.action != Action::Accept || !left_out.contains(rule.source)
        };
        let kept: Vec<RuleInForce<'_, P>> = rules.iter().filter(is_kept).copied().collect();
        resolve(&kept, default, members)
    };
    let mut map = resolve_without(&left_out);
    if map.len() > capacity {
        let everything = key(Identity::ANY, Protocol(0), 0, AllowKey::ALL_PROTOCOLS_BITS);
        let left_out = rules.iter().map(|rule| rule.source.clone()).collect();
        return Built {
            map: AllowMap::from([(everything, AllowValue::deny(RuleId::NONE))]),
            left_out,
        };
    }
    let in_order = capacity::smallest_first(&wants).into_iter();
    for (source, _) in in_order.filter_map(|position| wants.get(position)) {
        left_out.remove(source);
        let larger = resolve_without(&left_out);
        if larger.len() <= capacity {
            map = larger;
        } else {
            left_out.insert(source);
        }
    }
    Built { map, left_out: left_out.into_iter().cloned().collect() }
}

fn resolve<'a, P: Copy, I: Iterator<Item = &'a Identity>>(
    rules: &[RuleInForce<'a, P>],
    default: DefaultVerdict,
    members: &impl Fn(P) -> I,
) -> AllowMap {
    // Positions in the order of precedence.
    let mut for_everybody = Vec::new();
    let mut by_identity: BTreeMap<Identity, Vec<usize>> = BTreeMap::new();
    for (position, rule) in rules.iter().enumerate() {
        match rule.peers {
            None => for_everybody.push(position),
            Some(peers) => {
                for identity in members(peers) {
                    by_identity.entry(*identity).or_default().push(position);
                }
            }
        }
    }
    let mut map = AllowMap::new();
    let at = |positions: &[usize]| {
        let applying: Vec<&RuleInForce<'_, P>> =
            positions.iter().filter_map(|position| rules.get(*position)).collect();
        decide(&applying, default)
    };
    let any = at(&for_everybody);
    any.write(&mut map, Identity::ANY, &Verdicts::constant(AllowValue::DEFAULT_VALUE));
    for (identity, mut positions) in by_identity {
        positions.extend(&for_everybody);
        positions.sort_unstable();
        at(&positions).write(&mut map, identity, &any);
    }
    map
}

/// The verdicts of rules in their order of precedence.
fn decide<P>(rules: &[&RuleInForce<'_, P>], default: DefaultVerdict) -> Verdicts {
    let enforced = rules.iter().copied().filter(|rule| rule.mode == PolicyMode::Enforce);
    let without_audited = match default {
        DefaultVerdict::Deny => Isolation::Isolated,
        DefaultVerdict::Allow | DefaultVerdict::Audit => Isolation::None,
    };
    let enforced = decide_as_if_enforced(enforced, without_audited);
    if default != DefaultVerdict::Audit && rules.iter().all(|rule| rule.mode == PolicyMode::Enforce)
    {
        return enforced;
    }
    let isolation = match default {
        DefaultVerdict::Allow => Isolation::None,
        DefaultVerdict::Audit | DefaultVerdict::Deny => Isolation::Isolated,
    };
    let all = decide_as_if_enforced(rules.iter().copied(), isolation);
    enforced.combine(&all, |enforced, all| match (enforced.verdict, all.verdict) {
        // Where no rule of an audited NetworkPolicy accepts, the endpoint says that it passes.
        (AllowValue::ALLOW, AllowValue::DEFAULT) if default == DefaultVerdict::Audit => all,
        // An enforced NetworkPolicy isolates the pod, a rule of the Admin tier accepts, and an audited one would pass on.
        (AllowValue::ALLOW, AllowValue::DEFAULT) => AllowValue::audit(RuleId::NONE),
        (AllowValue::ALLOW, AllowValue::DENY) => AllowValue::audit(all.rule),
        // Dropped in any case, but for what NetworkPolicies always allow.
        (AllowValue::DEFAULT, AllowValue::DENY) => AllowValue::audited_default(all.rule),
        (AllowValue::ALLOW, _) if enforced.rule == RuleId::NONE => all,
        _ => enforced,
    })
}

/// Whether a NetworkPolicy isolates the pod.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Isolation {
    None,
    Isolated,
}

/// The verdicts of rules that are enforced. If a NetworkPolicy isolates the pod, the Baseline tier is not asked.
fn decide_as_if_enforced<'a, 'r: 'a, P: 'a>(
    rules: impl Iterator<Item = &'a RuleInForce<'r, P>>,
    isolation: Isolation,
) -> Verdicts {
    let rules: Vec<&RuleInForce<'_, P>> =
        rules.filter(|rule| isolation == Isolation::None || rule.tier != Tier::Baseline).collect();
    let unmatched = match isolation {
        Isolation::Isolated => AllowValue::DEFAULT_VALUE,
        Isolation::None => AllowValue::allow(RuleId::NONE),
    };
    let mut below = Verdicts::constant(unmatched);
    for tier in rules.chunk_by(|one, next| one.tier == next.tier).rev() {
        let mut verdicts = below.clone();
        for rule in tier.iter().rev() {
            match rule.action {
                Action::Accept => {
                    verdicts.copy(rule.ports, &Verdicts::constant(AllowValue::allow(rule.id)));
                }
                Action::Deny => {
                    verdicts.copy(rule.ports, &Verdicts::constant(AllowValue::deny(rule.id)));
                }
                Action::Pass => verdicts.copy(rule.ports, &below),
            }
        }
        below = verdicts;
    }
    below
}
