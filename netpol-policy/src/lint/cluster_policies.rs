//! Checks for ClusterNetworkPolicies.
//!
//! In: every ClusterNetworkPolicy of the set. Out: a report for each. Here are the checks of one policy; [`precedence`] compares
//! policies with each other.

use std::collections::BTreeSet;

use netpol_common::ids::Direction;

use super::Scope;
use super::checks::{
    CONTRADICTORY_SELECTOR, HOST_NETWORK_POD, NAMED_PORT_OF_ADDRESS, SELECTS_NO_POD,
    UNKNOWN_PORT_NAME,
};
use super::context::{Alike, LocatedRule, ObjectSet};
use super::finding::Report;
use super::{blocks, labels, precedence, selectors};
use crate::model::{
    ClusterPolicy, ClusterRule, Kind, ObjectName, ObjectRef, Peer, Pod, PodInWords, PortName,
    PortSpec, Ports, Transport,
};
use crate::resolve::Tier;

/// A policy with the pods that it selects, one of those that are alike.
pub(super) struct Selecting<'s, 'a> {
    pub(super) policy: &'a ClusterPolicy,
    pods: Vec<&'s Alike<'a>>,
    /// Where the pods are in memory, which tells whether two policies select the same ones.
    places: BTreeSet<*const Alike<'a>>,
    pub(super) report: Report,
}

impl<'s, 'a> Selecting<'s, 'a> {
    fn new(objects: &'s ObjectSet<'a>, policy: &'a ClusterPolicy) -> Self {
        let name = ObjectName::cluster_scoped(&policy.name);
        let object = ObjectRef { kind: Kind::ClusterNetworkPolicy, name };
        let pods: Vec<_> = objects.of_subject(&policy.subject).collect();
        let places = pods.iter().map(|alike| std::ptr::from_ref(*alike)).collect();
        Self { policy, pods, places, report: Report { object, findings: Vec::new() } }
    }

    /// The selected pods without those on the host's network.
    pub(super) fn policed(&self) -> impl Iterator<Item = &'s Alike<'a>> + use<'_, 's, 'a> {
        self.pods.iter().copied().filter(|alike| !alike.pod.host_network)
    }

    /// A policed pod that both select.
    pub(super) fn shared_pod(&self, other: &Self) -> Option<&'s Alike<'a>> {
        self.policed().find(|alike| other.places.contains(&std::ptr::from_ref(*alike)))
    }
}

/// The rules of both directions.
pub(super) fn rules(policy: &ClusterPolicy) -> impl Iterator<Item = (Direction, &ClusterRule)> {
    Direction::ALL.into_iter().flat_map(move |direction| {
        policy.rules(direction).iter().map(move |rule| (direction, rule))
    })
}

/// Checks every ClusterNetworkPolicy.
pub(super) fn check<'a>(objects: &ObjectSet<'a>) -> Vec<(&'a ClusterPolicy, Report)> {
    let mut policies: Vec<_> =
        objects.state.cluster_policies().map(|policy| Selecting::new(objects, policy)).collect();
    policies.sort_by_key(|of| (Tier::from(of.policy.tier), of.policy.priority, &of.policy.name));
    for of in &mut policies {
        check_subject(objects, of);
        check_rules(objects, of);
    }
    precedence::check(objects, &mut policies);
    policies.into_iter().map(|of| (of.policy, of.report)).collect()
}

fn check_subject(objects: &ObjectSet<'_>, of: &mut Selecting<'_, '_>) {
    let Selecting { policy, pods, places: _, report } = of;
    let subject = &policy.subject;
    let field = || "spec.subject".to_owned();
    if let Some(selector) =
        [&subject.namespaces, &subject.pods].into_iter().find(|of| labels::is_contradictory(of))
    {
        let message = format!("{selector} cannot match: its conditions exclude each other");
        report.add(&CONTRADICTORY_SELECTOR, field(), message);
        return;
    }
    if pods.is_empty() {
        // Other namespaces may exist with pods that it selects.
        let is_known = objects.scope == Scope::Complete && objects.has_pods();
        let namespaces = objects.state.namespaces().map(|namespace| &namespace.labels);
        let hint = selectors::hint(&subject.namespaces, namespaces);
        if is_known || !hint.is_empty() {
            let message = format!("selects no pod{hint}");
            report.add(&SELECTS_NO_POD, field(), message);
        }
    } else if let Some(first) = pods.first()
        && pods.iter().all(|alike| alike.pod.host_network)
    {
        let message = format!(
            "selects only pods that use the host's network, such as {}: policies do not apply to them",
            PodInWords(&first.pod.name)
        );
        report.add(&HOST_NETWORK_POD, field(), message);
    }
}

fn check_rules(objects: &ObjectSet<'_>, of: &mut Selecting<'_, '_>) {
    for (direction, rule) in rules(of.policy) {
        let located = LocatedRule::of_cluster(direction, &rule.rule);
        selectors::check_peers(objects, &located, &mut of.report);
        blocks::check(objects, &located, &mut of.report);
        let field = || format!("{}.protocols", located.field());
        for name in port_names(&rule.rule.ports) {
            let has = |pod: &Pod| {
                let ports = Transport::ALL.into_iter();
                ports.flat_map(|transport| pod.named_ports(name, transport)).next().is_some()
            };
            let (is_missing, whose) = match direction {
                Direction::Ingress => {
                    let mut policed = of.policed().peekable();
                    let is_known = policed.peek().is_some();
                    (is_known && !policed.any(|alike| has(alike.pod)), "no selected pod")
                }
                Direction::Egress => {
                    let mut transports = Transport::ALL.into_iter();
                    let is_known = transports.any(|of| objects.port_names.contains(&(of, name)));
                    (objects.has_pods() && !is_known, "no pod")
                }
            };
            if is_missing {
                let message = format!("{whose} has a port named {name}");
                of.report.add(&UNKNOWN_PORT_NAME, field(), message);
            }
            let is_address = |peer: &Peer| matches!(peer, Peer::IpBlock(_) | Peer::Nodes(_));
            if located.peers().iter().any(is_address) {
                let message = format!(
                    "the port name {name} has a meaning for pods only: of addresses outside the cluster, and of nodes, \
                     the rule matches nothing"
                );
                of.report.add(&NAMED_PORT_OF_ADDRESS, field(), message);
            }
        }
    }
}

/// The port names, each once.
fn port_names(ports: &Ports) -> BTreeSet<&PortName> {
    let Ports::AnyOf(items) = ports else { return BTreeSet::new() };
    let names = items.iter().filter_map(|item| match &item.ports {
        PortSpec::Named(name) => Some(name),
        PortSpec::Any | PortSpec::Range(_) => None,
    });
    names.collect()
}
