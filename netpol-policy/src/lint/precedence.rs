//! Checks that compare ClusterNetworkPolicies with each other, and with NetworkPolicies.
//!
//! In: the policies in their order of precedence. A rule is compared with at most [`MAX_COMPARED`] others, so that the work is linear
//! in their number; more of them hide a finding, and never make one.

use std::collections::BTreeMap;

use netpol_common::ids::Direction;

use super::Scope;
use super::checks::{DENIES_DNS, IDLE_PASS, SHADOWED_BASELINE, TIED_PRIORITY, UNREACHABLE_RULE};
use super::cluster_policies::{Selecting, rules};
use super::context::{Alike, DNS_PORT, LocatedRule, ObjectSet};
use super::level::Level;
use super::overlap::{self, Overlap};
use super::{cover, dns};
use crate::model::{
    Action, ClusterRule, ClusterTier, NamespaceMatch, Peer, Peers, PolicyMode, PortSpec, Ports,
    Rule, Subject, Transport,
};
use crate::resolve::{RuleRef, Tier, cluster_rule_ref};

/// The largest number of rules that a rule, and of policies that a policy is compared with.
const MAX_COMPARED: usize = 64;

/// Runs every check.
pub(super) fn check(objects: &ObjectSet<'_>, policies: &mut [Selecting<'_, '_>]) {
    check_unreachable(policies);
    check_ties(objects, policies);
    check_passes(objects, policies);
    check_dns(objects, policies);
    check_baseline(objects, policies);
}

fn field(direction: Direction, rule: &ClusterRule) -> String {
    LocatedRule::of_cluster(direction, &rule.rule).field()
}

/// Rules that never decide, because one with precedence decides about everything that they match.
fn check_unreachable(policies: &mut [Selecting<'_, '_>]) {
    type Before<'a> = Vec<(RuleRef, &'a Rule)>;
    let mut of_all: BTreeMap<(ClusterTier, Direction), Before<'_>> = BTreeMap::new();
    let mut of_subject: BTreeMap<(ClusterTier, Direction, &Subject), Before<'_>> = BTreeMap::new();
    for Selecting { policy, report, .. } in policies {
        let policy = *policy;
        for direction in Direction::ALL {
            let mut own: Before<'_> = Vec::new();
            for rule in policy.rules(direction) {
                let before = of_all.get(&(policy.tier, direction));
                let same = of_subject.get(&(policy.tier, direction, &policy.subject));
                let mut before = own.iter().chain(before.into_iter().chain(same).flatten());
                if let Some((wide, _)) = before.find(|(_, wide)| cover::rule(wide, &rule.rule)) {
                    let message =
                        format!("never decides: {wide} matches the same connections first");
                    report.add(&UNREACHABLE_RULE, field(direction, rule), message);
                }
                own.push((cluster_rule_ref(policy, direction, &rule.rule), &rule.rule));
            }
            if policy.mode == PolicyMode::Audit {
                continue;
            }
            let Subject { namespaces, pods } = &policy.subject;
            let found = if namespaces.is_everything() && pods.is_everything() {
                of_all.entry((policy.tier, direction)).or_default()
            } else {
                of_subject.entry((policy.tier, direction, &policy.subject)).or_default()
            };
            found.extend(own);
            found.truncate(MAX_COMPARED);
        }
    }
}

/// Policies of one priority whose rules disagree.
fn check_ties(objects: &ObjectSet<'_>, policies: &mut [Selecting<'_, '_>]) {
    let is_tied = |one: &Selecting<'_, '_>, other: &Selecting<'_, '_>| {
        (one.policy.tier, one.policy.priority) == (other.policy.tier, other.policy.priority)
    };
    for tied in policies.chunk_by_mut(is_tied) {
        let tied = tied.get_mut(..MAX_COMPARED.min(tied.len())).unwrap_or_default();
        for position in 1..tied.len() {
            let (before, rest) = tied.split_at_mut(position);
            let Some(later) = rest.first_mut() else { continue };
            let Some((first, rules)) =
                before.iter().find_map(|first| Some((first, disagreeing(objects, first, later)?)))
            else {
                continue;
            };
            let (name, priority) = (&first.policy.name, first.policy.priority);
            let [one, other] = rules;
            let message = format!(
                "is {priority}, as in {name}, whose rule {one} disagrees with {other}: the API leaves open which of them decides; here it \
                 is {name}, by its name"
            );
            later.report.add(&TIED_PRIORITY, "spec.priority".to_owned(), message);
        }
    }
}

/// A rule of each policy, if they match the same connections of a pod, and have different effects.
fn disagreeing(
    objects: &ObjectSet<'_>,
    one: &Selecting<'_, '_>,
    other: &Selecting<'_, '_>,
) -> Option<[String; 2]> {
    one.shared_pod(other)?;
    let in_words = |direction: Direction, rule: &ClusterRule| {
        format!("{direction}[{}] ({})", rule.rule.index, rule.action.as_str())
    };
    Direction::ALL.into_iter().find_map(|direction| {
        let of_one = one.policy.rules(direction).iter();
        let mut pairs = of_one
            .flat_map(|one| other.policy.rules(direction).iter().map(move |other| (one, other)));
        let (one, other) = pairs.find(|(one, other)| {
            one.action != other.action
                && overlap::rules(objects, &one.rule, &other.rule) == Overlap::Certain
        })?;
        Some([in_words(direction, one), in_words(direction, other)])
    })
}

/// Pass rules after which the tier has no rule that they could skip.
fn check_passes(objects: &ObjectSet<'_>, policies: &mut [Selecting<'_, '_>]) {
    // Other policies may exist.
    let level = if objects.scope == Scope::Complete { IDLE_PASS.level } else { Level::Info };
    for position in 0..policies.len() {
        let (_, rest) = policies.split_at_mut(position);
        let Some((of, later)) = rest.split_first_mut() else { continue };
        let rules: Vec<_> =
            rules(of.policy).filter(|(_, rule)| rule.action == Action::Pass).collect();
        if rules.is_empty() {
            continue;
        }
        let is_of_tier = |other: &&Selecting<'_, '_>| other.policy.tier == of.policy.tier;
        let later: Vec<_> = later.iter().take_while(is_of_tier).take(MAX_COMPARED + 1).collect();
        if later.len() > MAX_COMPARED {
            continue;
        }
        for (direction, rule) in rules {
            let own = of.policy.rules(direction).iter();
            let own = own.filter(|other| other.rule.index > rule.rule.index);
            let others = later
                .iter()
                .filter(|other| !objects.has_pods() || of.shared_pod(other).is_some())
                .flat_map(|other| other.policy.rules(direction));
            let mut skipped = own.chain(others);
            let skips = |other: &ClusterRule| {
                overlap::rules(objects, &rule.rule, &other.rule) != Overlap::None
            };
            if !skipped.any(skips) {
                let message =
                    "passes connections on, but no later rule of the tier matches one of them"
                        .to_owned();
                of.report.add_at(level, &IDLE_PASS, field(direction, rule), message);
            }
        }
    }
}

/// Deny rules that take name resolution from the pods.
fn check_dns(objects: &ObjectSet<'_>, policies: &mut [Selecting<'_, '_>]) {
    for position in 0..policies.len() {
        let (before, rest) = policies.split_at_mut(position);
        let Some(of) = rest.first_mut() else { continue };
        let tier = of.policy.tier;
        if tier == ClusterTier::Baseline
            && objects.has_pods()
            && of.policed().all(|alike| is_isolated(objects, alike, Direction::Egress))
        {
            continue;
        }
        let spares = |other: &ClusterRule, of_tier: ClusterTier| match other.action {
            Action::Accept => dns::opens(objects, &other.rule, Transport::Udp),
            Action::Pass => of_tier == tier && dns::opens(objects, &other.rule, Transport::Udp),
            Action::Deny => false,
        };
        let is_spared_before = before.iter().rev().take(MAX_COMPARED).any(|other| {
            other.policy.egress.iter().any(|rule| spares(rule, other.policy.tier))
                && (!objects.has_pods() || of.shared_pod(other).is_some())
        });
        if is_spared_before || before.len() > MAX_COMPARED {
            continue;
        }
        for rule in of.policy.egress.iter() {
            if spares(rule, tier) {
                break;
            }
            if rule.action == Action::Deny && denies_dns(objects, &rule.rule) {
                let message =
                    "denies port 53/UDP of the cluster's DNS, and no rule before it accepts that"
                        .to_owned();
                of.report.add(&DENIES_DNS, field(Direction::Egress, rule), message);
                break;
            }
        }
    }
}

/// Whether a rule matches connections to port 53 of pods that serve DNS, or, if the set has none, of all pods.
fn denies_dns(objects: &ObjectSet<'_>, rule: &Rule) -> bool {
    let is_of_dns = match &rule.ports {
        Ports::All => true,
        Ports::AnyOf(items) => items.iter().any(|item| {
            item.transport == Transport::Udp
                && match &item.ports {
                    PortSpec::Any => true,
                    PortSpec::Range(range) => range.contains(DNS_PORT),
                    PortSpec::Named(name) => objects.dns_names.contains(&(Transport::Udp, name)),
                }
        }),
    };
    let Peers::AnyOf(peers) = &rule.peers else { return is_of_dns };
    let servers = objects.dns_servers();
    is_of_dns
        && peers.iter().any(|peer| match peer {
            Peer::IpBlock(block) if servers.is_empty() => block.cidr.prefix() == 0,
            Peer::IpBlock(block) => servers
                .iter()
                .any(|pod| pod.addresses().iter().any(|address| block.contains(*address))),
            Peer::Pods { namespaces, pods } if servers.is_empty() => {
                pods.is_everything()
                    && matches!(namespaces, NamespaceMatch::Selected(of) if of.is_everything())
            }
            Peer::Pods { namespaces, pods } => {
                let mut selected = objects.of_peer("", namespaces, pods);
                selected.any(|pod| {
                    servers.iter().any(|server| {
                        (&server.name.namespace, &server.labels)
                            == (&pod.name.namespace, &pod.labels)
                    })
                })
            }
            Peer::Nodes(_) => false,
        })
}

/// Policies of the Baseline tier that no pod needs, because NetworkPolicies isolate all of them.
fn check_baseline(objects: &ObjectSet<'_>, policies: &mut [Selecting<'_, '_>]) {
    if objects.scope == Scope::Partial {
        return;
    }
    let mut isolated: BTreeMap<(*const Alike<'_>, Direction), bool> = BTreeMap::new();
    for of in policies.iter_mut().filter(|of| Tier::from(of.policy.tier) == Tier::Baseline) {
        for direction in Direction::ALL {
            if of.policy.rules(direction).is_empty() || of.policed().next().is_none() {
                continue;
            }
            let is_shadowed = of.policed().all(|alike| {
                *isolated
                    .entry((std::ptr::from_ref(alike), direction))
                    .or_insert_with(|| is_isolated(objects, alike, direction))
            });
            if is_shadowed {
                let message = format!(
                    "decides about no {direction} connection: NetworkPolicies isolate every pod that the policy selects"
                );
                of.report.add(&SHADOWED_BASELINE, format!("spec.{direction}"), message);
            }
        }
    }
}

/// Whether an enforced NetworkPolicy isolates these pods.
fn is_isolated(objects: &ObjectSet<'_>, alike: &Alike<'_>, direction: Direction) -> bool {
    objects.state.policies_in(&alike.pod.name.namespace).any(|policy| {
        policy.mode == PolicyMode::Enforce
            && policy.policy_types.contains(direction)
            && policy.pod_selector.matches(&alike.pod.labels)
    })
}
