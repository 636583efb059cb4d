//! Checks for egress rules that do not allow DNS.

use netpol_common::ids::Direction;

use super::checks::NO_DNS;
use super::context::ObjectSet;
use super::finding::Report;
use super::level::Level;
use crate::model::{PodInWords, Policy, PortSpec, Ports, Rule, Transport};
use crate::resolve::isolating;

/// The port of DNS servers.
const DNS_PORT: u16 = 53;

/// Checks a policy that isolates for egress and has egress rules. The rules of all policies that isolate the selected pods are
/// considered; if the policy selects no pod, only its own rules.
pub(super) fn check(objects: &ObjectSet<'_>, policy: &Policy, report: &mut Report<'_>) {
    if !policy.policy_types.egress || policy.egress.is_empty() {
        return;
    }
    let mut selected = objects
        .state
        .pods_in(&policy.name.namespace)
        .filter(|pod| !pod.host_network && policy.pod_selector.matches(&pod.labels))
        .peekable();
    let mut missing: Option<(Level, String)> = None;
    let mut check = |policies: &[&Policy], whose: &str| {
        let lacks = |transport| !allows_dns(objects, policies, transport);
        let found = match (lacks(Transport::Udp), lacks(Transport::Tcp)) {
            (false, false) => return,
            (true, _) => (NO_DNS.level, format!("no rule allows {whose} to reach port 53/UDP")),
            (false, true) => (
                Level::Info,
                format!("no rule allows {whose} to reach port 53/TCP, which long DNS answers need"),
            ),
        };
        if missing.as_ref().is_none_or(|(level, _)| *level < found.0) {
            missing = Some(found);
        }
    };
    if selected.peek().is_none() {
        check(&[policy], "the selected pods");
    }
    for pod in selected {
        let (_, policies) = isolating(objects.state, pod, Direction::Egress);
        check(&policies, &PodInWords(&pod.name).to_string());
    }
    if let Some((level, message)) = missing {
        report.add_at(level, &NO_DNS, "spec.egress".to_owned(), message);
    }
}

fn allows_dns(objects: &ObjectSet<'_>, policies: &[&Policy], transport: Transport) -> bool {
    policies.iter().flat_map(|policy| &*policy.egress).any(|rule| opens(objects, rule, transport))
}

/// Whether a rule allows port 53 of any peer.
fn opens(objects: &ObjectSet<'_>, rule: &Rule, transport: Transport) -> bool {
    let Ports::AnyOf(items) = &rule.ports else { return true };
    items.iter().filter(|item| item.transport == transport).any(|item| match &item.ports {
        PortSpec::Any => true,
        PortSpec::Range(range) => range.contains(DNS_PORT),
        PortSpec::Named(name) => {
            let mut pods = objects.state.pods();
            // The DNS pods may be missing from the set, so a name such as `dns` or `dns-tcp` counts as port 53.
            name.0.contains("dns")
                || pods.any(|pod| pod.named_ports(name, transport).any(|port| port == DNS_PORT))
        }
    })
}
