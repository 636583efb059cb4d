//! Egress without name resolution.

use netpol_common::ids::Direction;

use super::checks::NO_DNS;
use super::{Level, Report, Surroundings};
use crate::model::{Policy, PortSpec, Ports, Rule, Transport};
use crate::resolve::isolating;

/// Where DNS servers listen.
const DNS_PORT: u16 = 53;

/// Checks a policy that isolates for egress and allows something: with the other policies of the pods that it selects,
/// or alone if it selects none.
pub(super) fn check(around: &Surroundings<'_>, policy: &Policy, report: &mut Report<'_>) {
    if !policy.policy_types.egress || policy.egress.is_empty() {
        return;
    }
    let mut selected = around
        .state
        .pods_in(&policy.name.namespace)
        .filter(|pod| !pod.host_network && policy.pod_selector.matches(&pod.labels))
        .peekable();
    let mut missing: Option<(Level, String)> = None;
    let mut note = |policies: &[&Policy], whose: &str| {
        let lacks = |transport| !allows_dns(around, policies, transport);
        let found = match (lacks(Transport::Udp), lacks(Transport::Tcp)) {
            (false, false) => return,
            (true, _) => (NO_DNS.level, format!("no rule allows {whose} to reach UDP 53")),
            (false, true) => {
                (Level::Info, format!("allows {whose} UDP 53, but not TCP 53 for long answers"))
            }
        };
        if missing.as_ref().is_none_or(|(level, _)| *level < found.0) {
            missing = Some(found);
        }
    };
    if selected.peek().is_none() {
        note(&[policy], "the selected pods");
    }
    for pod in selected {
        let (_, policies) = isolating(around.state, pod, Direction::Egress);
        note(&policies, &format!("pod {}", pod.name));
    }
    if let Some((level, message)) = missing {
        report.add_at(level, &NO_DNS, "spec.egress".to_owned(), message);
    }
}

fn allows_dns(around: &Surroundings<'_>, policies: &[&Policy], transport: Transport) -> bool {
    policies.iter().flat_map(|policy| &*policy.egress).any(|rule| opens(around, rule, transport))
}

/// Whether a rule opens port 53 to anybody.
fn opens(around: &Surroundings<'_>, rule: &Rule, transport: Transport) -> bool {
    let Ports::AnyOf(items) = &rule.ports else { return true };
    items.iter().filter(|item| item.transport == transport).any(|item| match &item.ports {
        PortSpec::Any => true,
        PortSpec::Range(range) => range.contains(DNS_PORT),
        PortSpec::Named(name) => {
            let mut pods = around.state.pods();
            // A name that nobody here has may well be that of the cluster's DNS.
            name.0.contains("dns")
                || pods.any(|pod| pod.named_ports(name, transport).any(|port| port == DNS_PORT))
        }
    })
}
