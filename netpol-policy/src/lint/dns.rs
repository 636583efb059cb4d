//! Checks for egress rules that do not allow DNS.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use smallvec::smallvec;

use super::checks::NO_DNS;
use super::context::{Alike, DNS_PORT, ObjectSet};
use super::cover_index::{SelectorIndex, Side};
use super::finding::Report;
use super::labels;
use super::level::Level;
use crate::model::{
    Action, ClusterTier, PodInWords, Policy, PolicyMode, PortSpec, Ports, Rule, Selector, Transport,
};

/// The port of the DNS pods of `OpenShift`, and of multicast DNS. Policies see it behind port 53 of the Service.
const DNS_PORT_BEHIND_SERVICE: u16 = 5353;

/// Whether rules allow port 53, or the port behind it, of any peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DnsRules {
    udp: bool,
    tcp: bool,
}

impl DnsRules {
    /// The rules of one policy.
    pub(super) fn of(objects: &ObjectSet<'_>, policy: &Policy) -> Self {
        let opens = |transport| policy.egress.iter().any(|rule| opens(objects, rule, transport));
        Self { udp: opens(Transport::Udp), tcp: opens(Transport::Tcp) }
    }

    /// The rules of the Admin tier that accept connections of these pods.
    fn of_admins(objects: &ObjectSet<'_>, alike: &Alike<'_>) -> Self {
        let labels = objects.state.namespace_labels(&alike.pod.name.namespace);
        let selecting = objects.state.cluster_policies().filter(|policy| {
            policy.tier == ClusterTier::Admin
                && policy.mode == PolicyMode::Enforce
                && policy.subject.selects(labels, &alike.pod.labels)
        });
        let accepting = selecting
            .flat_map(|policy| policy.egress.iter())
            .filter(|listed| listed.action == Action::Accept);
        accepting.fold(Self::default(), |found, listed| {
            let opens = |transport| opens(objects, &listed.rule, transport);
            found.or(Self { udp: opens(Transport::Udp), tcp: opens(Transport::Tcp) })
        })
    }

    fn or(self, other: Self) -> Self {
        Self { udp: self.udp || other.udp, tcp: self.tcp || other.tcp }
    }
}

/// The policies of a namespace that isolate for egress.
#[derive(Default)]
pub(super) struct DnsPolicies<'a> {
    policies: Vec<(&'a Policy, DnsRules)>,
    /// The selectors of the policies that allow DNS, built when first needed.
    by_selector: OnceCell<(Vec<(&'a Selector, DnsRules)>, SelectorIndex<'a>)>,
}

impl<'a> DnsPolicies<'a> {
    pub(super) fn add(&mut self, policy: &'a Policy, rules: DnsRules) {
        self.policies.push((policy, rules));
    }

    /// The policies with equal selectors are one item.
    fn index(&self) -> (Vec<(&'a Selector, DnsRules)>, SelectorIndex<'a>) {
        let mut by_selector: BTreeMap<&Selector, DnsRules> = BTreeMap::new();
        for (policy, rules) in self.policies.iter().filter(|(_, rules)| rules.udp || rules.tcp) {
            let known = by_selector.entry(&policy.pod_selector).or_default();
            *known = known.or(*rules);
        }
        let selectors: Vec<_> = by_selector.into_iter().collect();
        let items = selectors.iter().map(|(selector, _)| smallvec![(Side::Pods, *selector)]);
        let index = SelectorIndex::new(items.enumerate());
        (selectors, index)
    }

    /// The rules of the policies that isolate these pods: the enforced ones if there is any, else the audited ones.
    fn of_pods(&self, alike: &Alike<'_>) -> DnsRules {
        *alike.dns.get_or_init(|| {
            let mut found: [Option<DnsRules>; 2] = [None, None];
            for (policy, rules) in &self.policies {
                if policy.pod_selector.matches(&alike.pod.labels) {
                    let [enforced, audited] = &mut found;
                    let of_mode = if policy.mode == PolicyMode::Audit { audited } else { enforced };
                    *of_mode = Some(of_mode.unwrap_or_default().or(*rules));
                }
            }
            let [enforced, audited] = found;
            enforced.or(audited).unwrap_or_default()
        })
    }

    /// The rules of the policies that select at least the pods that a selector selects, whatever the pods are.
    fn of_selector(&self, selector: &Selector) -> DnsRules {
        let (selectors, index) = self.by_selector.get_or_init(|| self.index());
        let mut found = DnsRules::default();
        for candidate in index.candidates(smallvec![(Side::Pods, selector)]).into_iter().flatten() {
            if let Some((wide, rules)) = selectors.get(*candidate)
                && labels::includes(wide, selector)
            {
                found = found.or(*rules);
            }
            if found.udp && found.tcp {
                break;
            }
        }
        found
    }
}

/// Checks a policy that isolates for egress and has egress rules. The rules of all policies that isolate the selected pods are
/// considered, and those of the Admin tier; if the policy selects no pod of the set, those of all policies that select the same pods
/// in every cluster.
pub(super) fn check(
    objects: &ObjectSet<'_>,
    policy: &Policy,
    selected: &[&Alike<'_>],
    report: &mut Report,
) {
    let is_contradictory = labels::is_contradictory(&policy.pod_selector);
    if !policy.policy_types.egress || policy.egress.is_empty() || is_contradictory {
        return;
    }
    let Some(policies) = objects.dns_policies(&policy.name.namespace) else { return };
    let mut missing: Option<(Level, String)> = None;
    let mut check = |rules: DnsRules, whose: &dyn Fn() -> String| {
        let found = match rules {
            DnsRules { udp: true, tcp: true } => return,
            DnsRules { udp: false, .. } => {
                (NO_DNS.level, format!("no rule allows {} to reach port 53/UDP", whose()))
            }
            DnsRules { udp: true, tcp: false } => (
                Level::Info,
                format!(
                    "no rule allows {} to reach port 53/TCP, which long DNS answers need",
                    whose()
                ),
            ),
        };
        if missing.as_ref().is_none_or(|(level, _)| *level < found.0) {
            missing = Some(found);
        }
    };
    let mut pods = selected.iter().filter(|alike| !alike.pod.host_network).peekable();
    if pods.peek().is_none() {
        check(policies.of_selector(&policy.pod_selector), &|| "the selected pods".to_owned());
    }
    for alike in pods {
        let rules = policies.of_pods(alike).or(DnsRules::of_admins(objects, alike));
        check(rules, &|| PodInWords(&alike.pod.name).to_string());
    }
    if let Some((level, message)) = missing {
        report.add_at(level, &NO_DNS, "spec.egress".to_owned(), message);
    }
}

/// Whether a rule matches DNS, whatever its peers.
pub(super) fn opens(objects: &ObjectSet<'_>, rule: &Rule, transport: Transport) -> bool {
    let Ports::AnyOf(items) = &rule.ports else { return true };
    items.iter().filter(|item| item.transport == transport).any(|item| match &item.ports {
        PortSpec::Any => true,
        PortSpec::Range(range) => {
            range.contains(DNS_PORT) || range.contains(DNS_PORT_BEHIND_SERVICE)
        }
        // The DNS pods may be missing from the set, so a name such as `dns` or `dns-tcp` counts.
        PortSpec::Named(name) => {
            name.0.contains("dns") || objects.dns_names.contains(&(transport, name))
        }
    })
}
