//! Every connection that a probe stands for, each judged with the rules concerned.
//!
//! In: a cluster of files, and sources and destinations. Out: the verdict on each pair of addresses, by the reference semantics.
//! Must not: print.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netpol_common::ids::Direction;

use super::explain::{address_in_words, rule_sentence};
use super::offline::{OfflineCluster, Verdict};
use super::probe::{PodOrIp, Probe, Problem};
use super::reachability::{addresses, with_address};
use super::routes::{Route, Routes, routes};
use crate::model::{ObjectName, Pod, Transport};
use crate::resolve::{Decision, EndVerdict, PolicyRef, RuleRef};
use crate::store::ClusterState;

/// The verdict on one connection, and what it follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgedConnection {
    /// Source address, or the pod if its address is not known.
    pub source: String,
    /// Destination address, or the pod if its address is not known.
    pub destination: String,
    /// Destination port, after Service translation.
    pub port: u16,
    /// The verdict.
    pub verdict: Verdict,
    /// The rules that decide it: those that allow it, or one that denies it, and those that pass it on to them.
    pub rules: Vec<RuleRef>,
    /// The NetworkPolicies that deny it because they isolate a pod in a direction and have no rule for it.
    pub isolating: Vec<(PolicyRef, Direction)>,
}

impl OfflineCluster {
    /// Judges every connection of a probe: of two pods one for each address family that both have, of a Service one for each
    /// backend, of a block one for each range of addresses that the policies treat alike. Never empty.
    ///
    /// # Errors
    /// The connection cannot exist.
    pub fn judge(&self, probe: &Probe) -> Result<Vec<JudgedConnection>, Problem> {
        let state = self.state();
        let mut judged = Vec::new();
        for probe in of_each_family(state, probe) {
            match routes(state, &probe)? {
                Routes::Found(routes) => {
                    judged.extend(routes.iter().map(|route| self.judge_route(route)));
                }
                Routes::NoBackend { source: _, original: (address, _) } => {
                    return Err(Problem::NoBackend(address));
                }
            }
        }
        Ok(judged)
    }

    /// The probe for each address family that two pods have in common; any other probe as it is. Never empty.
    pub fn of_each_family(&self, probe: &Probe) -> Vec<Probe> {
        of_each_family(self.state(), probe)
    }

    fn judge_route(&self, route: &Route) -> JudgedConnection {
        let Route { source, destination, port, .. } = *route;
        let decide = |state: &ClusterState| {
            let mut decision = route.decide(state);
            let is_left_out = |_: &Pod, rule: &RuleRef| self.left_out().contains_key(rule);
            decision.leave_out(state, is_left_out);
            decision
        };
        let Decision { egress, ingress } = decide(self.state());
        let ends = [&egress, &ingress].into_iter().flatten();
        let is_allowed = ends.clone().all(|end| end.verdict.is_pass());
        let verdict = if is_allowed {
            Verdict::Allowed
        } else if self.possible_state().is_some_and(|state| decide(state).is_allowed()) {
            Verdict::Possible
        } else {
            Verdict::Denied
        };
        // The ends that agree with the verdict; what depends on an address has no rule that decides.
        let deciding = ends.filter(|end| end.verdict.is_pass() == (verdict == Verdict::Allowed));
        let deciding = deciding.filter(|_| verdict != Verdict::Possible);
        let rules = deciding.clone().flat_map(|end| {
            let denying = end.denying.iter().filter(|_| !end.verdict.is_pass());
            let allowing = end.allowing.iter().filter(|_| end.verdict.is_pass());
            end.passing.iter().chain(allowing).chain(denying).cloned()
        });
        let rules = rules.collect();
        let isolating = deciding
            .filter(|end| end.verdict == EndVerdict::NotAllowed)
            .flat_map(|end| end.isolating.iter().map(|policy| (policy.clone(), end.direction)));
        let state = self.state();
        JudgedConnection {
            source: address_in_words(state, source),
            destination: address_in_words(state, destination),
            port,
            verdict,
            rules,
            isolating: isolating.collect(),
        }
    }

    /// A sentence on a rule, as written, for connections to this destination.
    pub fn sentence(&self, rule: &RuleRef, destination: &PodOrIp) -> String {
        let pod = destination.pod_name().and_then(|name| self.state().pod(name));
        rule_sentence(self.written_state(), rule, pod)
    }

    /// Ports of a source and a destination between which no verdict changes: the first of each range of ports that the policies
    /// treat alike. Of a Service, the ports that it has.
    pub fn port_starts_between(&self, from: &PodOrIp, to: &PodOrIp) -> Vec<(Transport, u16)> {
        if let PodOrIp::Service(name) = to {
            let service = self.state().services().find(|service| service.name == *name);
            let ports = service.into_iter().flat_map(|service| &service.ports);
            return ports.map(|port| (port.transport, port.number)).collect();
        }
        let mut starts: BTreeSet<(Transport, u16)> =
            Transport::ALL.into_iter().map(|transport| (transport, 1)).collect();
        for (end, direction) in [(from, Direction::Egress), (to, Direction::Ingress)] {
            let pods: Vec<ObjectName> = match end {
                PodOrIp::Pod { name, address: _ } => vec![name.clone()],
                // Each of its backends has policies.
                PodOrIp::Service(_) => {
                    self.pods().iter().filter_map(PodOrIp::pod_name).cloned().collect()
                }
                PodOrIp::Address(address) => {
                    let owner = self.state().owner(*address);
                    owner.map(|pod| pod.name.clone()).into_iter().collect()
                }
                PodOrIp::Block(_) | PodOrIp::External | PodOrIp::Node(_) => Vec::new(),
            };
            for of_pod in self.port_starts(&pods) {
                let of_direction = Direction::ALL.iter().zip(of_pod);
                for (_, found) in of_direction.filter(|(found, _)| **found == direction) {
                    for (transport, ports) in &*found {
                        starts.extend(ports.iter().map(|port| (*transport, *port)));
                    }
                }
            }
        }
        starts.into_iter().collect()
    }
}

/// The probe for each address family that two pods have in common; any other probe, or one of pods without one, as it is.
fn of_each_family(state: &ClusterState, probe: &Probe) -> Vec<Probe> {
    let (
        from @ PodOrIp::Pod { name: _, address: None },
        to @ PodOrIp::Pod { name: _, address: None },
    ) = (&probe.from, &probe.to)
    else {
        return vec![probe.clone()];
    };
    let (sources, destinations) = (addresses(state, from), addresses(state, to));
    let probes = [IpAddr::is_ipv4, IpAddr::is_ipv6].iter().filter_map(|is_family| {
        let source = sources.iter().copied().find(is_family)?;
        let destination = destinations.iter().copied().find(is_family)?;
        let (from, to) = (with_address(from, source), with_address(to, destination));
        Some(Probe { from, to, ..probe.clone() })
    });
    let probes: Vec<Probe> = probes.collect();
    if probes.is_empty() { vec![probe.clone()] } else { probes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::parse;
    use crate::simulate::{Engine, PortChoice};

    const OBJECTS: &str = r"
{ apiVersion: v1, kind: Pod, metadata: { name: a, namespace: x, labels: { app: a } }, status: { podIPs: [{ ip: 10.0.0.1 }, { ip: 'fd00::1' }] } }
---
{ apiVersion: v1, kind: Pod, metadata: { name: b, namespace: x, labels: { app: b } }, status: { podIPs: [{ ip: 10.0.0.2 }, { ip: 'fd00::2' }] } }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: b, namespace: x }
spec:
  podSelector: { matchLabels: { app: b } }
  ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.0/24 } }], ports: [{ port: 80 }] }]
";

    fn cluster() -> OfflineCluster {
        let mut cluster = OfflineCluster::new(|| Engine::Reference, Vec::new());
        let objects = parse("x", OBJECTS).objects.into_iter().map(|read| read.object);
        cluster.set(objects.collect()).unwrap();
        cluster
    }

    #[test]
    fn every_family_and_every_range_of_addresses_is_judged() {
        use Verdict::{Allowed, Denied};
        let to = PodOrIp::pod("x", "b");
        let verdicts = |from: &str, port| -> Vec<(String, Verdict)> {
            let cluster = cluster();
            let from = crate::simulate::resolve(cluster.state(), from, None).unwrap();
            let port = PortChoice::Number(port);
            let probe = Probe { from, to: to.clone(), port, transport: Transport::Tcp };
            let judged = cluster.judge(&probe).unwrap().into_iter();
            judged.map(|judged| (judged.source, judged.verdict)).collect()
        };
        let of = |source: &str, verdict| (source.to_owned(), verdict);
        assert_eq!(verdicts("x/a", 80), [of("10.0.0.1", Allowed), of("fd00::1", Denied)]);
        assert_eq!(verdicts("x/a", 81), [of("10.0.0.1", Denied), of("fd00::1", Denied)]);
        assert_eq!(
            verdicts("10.0.0.8/23", 80),
            [
                of("10.0.0.0", Allowed),
                of("10.0.0.1", Allowed),
                of("10.0.0.2", Allowed),
                of("10.0.0.3", Allowed),
                of("10.0.1.0", Denied)
            ]
        );
    }

    #[test]
    fn the_reasons_are_rules_or_isolation() {
        let judge = |port| {
            let port = PortChoice::Number(port);
            let (from, to) = (PodOrIp::pod("x", "a"), PodOrIp::pod("x", "b"));
            cluster().judge(&Probe { from, to, port, transport: Transport::Tcp }).unwrap()
        };
        let allowed = judge(80).remove(0);
        let sentences: Vec<String> = allowed
            .rules
            .iter()
            .map(|rule| cluster().sentence(rule, &PodOrIp::pod("x", "b")))
            .collect();
        assert_eq!(sentences, ["x/b ingress[0] allows TCP/80 from 10.0.0.0/24"]);
        assert_eq!(allowed.isolating, []);
        let denied = judge(81).remove(0);
        assert_eq!(denied.rules, []);
        assert_eq!(denied.isolating.len(), 1);
    }

    #[test]
    fn a_rule_that_denies_is_the_reason() {
        let policy = r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: { name: admin }
spec:
  tier: Admin
  priority: 1
  subject: { namespaces: {} }
  ingress: [{ action: Deny, from: [{ namespaces: {} }], protocols: [{ tcp: { destinationPort: { number: 80 } } }] }]
";
        let mut cluster = OfflineCluster::new(|| Engine::Reference, Vec::new());
        let read = parse("x", &format!("{OBJECTS}---{policy}"));
        assert_eq!(read.findings, []);
        cluster.set(read.objects.into_iter().map(|read| read.object).collect()).unwrap();
        let (from, to) = (PodOrIp::pod("x", "a"), PodOrIp::pod("x", "b"));
        let port = PortChoice::Number(80);
        let judged = cluster.judge(&Probe { from, to, port, transport: Transport::Tcp }).unwrap();
        let rules: Vec<String> = judged[0].rules.iter().map(ToString::to_string).collect();
        assert_eq!(
            (rules.as_slice(), judged[0].verdict),
            (["ClusterNetworkPolicy admin ingress[0]".to_owned()].as_slice(), Verdict::Denied)
        );
        assert_eq!(judged[0].isolating, []);
    }

    #[test]
    fn ports_are_divided_where_the_policies_of_both_ends_say() {
        let starts =
            cluster().port_starts_between(&PodOrIp::pod("x", "a"), &PodOrIp::pod("x", "b"));
        let (tcp, udp, sctp) = (Transport::Tcp, Transport::Udp, Transport::Sctp);
        assert_eq!(starts, [(tcp, 1), (tcp, 80), (tcp, 81), (udp, 1), (sctp, 1)]);
    }
}
