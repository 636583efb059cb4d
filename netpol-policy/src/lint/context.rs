//! The subject of a check: a rule with its policy, and the objects of the set.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::Direction;

use super::Scope;
use super::dns::{DnsPolicies, DnsRules};
use super::labels::KeyCondition;
use crate::model::{
    BackendPort, Labels, NamespaceMatch, Peer, Peers, Pod, Policy, PortName, Rule, Selector,
    Service, Subject, Transport,
};
use crate::resolve::PolicyKind;
use crate::store::ClusterState;

/// The label that the API server gives every namespace: its name.
pub(super) const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The port of DNS servers.
pub(super) const DNS_PORT: u16 = 53;

/// The whole set of objects, and the kinds that it contains.
pub(super) struct ObjectSet<'a> {
    pub(super) state: &'a ClusterState,
    pub(super) scope: Scope,
    /// The namespaces of which only the name is known, sorted.
    assumed: &'a [Arc<str>],
    pub(super) has_namespaces: bool,
    /// Some pod has addresses of both families.
    pub(super) is_dual_stack: bool,
    /// Label keys of the namespaces.
    pub(super) namespace_keys: BTreeSet<&'a str>,
    /// The pods of each namespace.
    alike: BTreeMap<&'a str, Vec<Alike<'a>>>,
    /// The names of the ports of all pods.
    pub(super) port_names: BTreeSet<(Transport, &'a PortName)>,
    /// The names of ports that serve DNS.
    pub(super) dns_names: BTreeSet<(Transport, &'a PortName)>,
    /// The Services with a port, by that port.
    services: BTreeMap<(Transport, u16), Vec<&'a Service>>,
    /// The addresses of pods and of Services, sorted.
    pub(super) pod_addresses: Vec<(Addr, &'a Pod)>,
    pub(super) service_addresses: Vec<(Addr, &'a Service)>,
    dns: BTreeMap<&'a str, DnsPolicies<'a>>,
}

/// Pods of one namespace that no policy and no check distinguishes: equal labels, ports and use of the host's network.
pub(super) struct Alike<'a> {
    /// The first of the pods by name.
    pub(super) pod: &'a Pod,
    /// Whether their policies allow DNS, see [`super::dns`].
    pub(super) dns: OnceCell<DnsRules>,
}

impl<'a> ObjectSet<'a> {
    pub(super) fn new(state: &'a ClusterState, scope: Scope, assumed: &'a [Arc<str>]) -> Self {
        let mut alike: BTreeMap<&str, BTreeMap<(&Labels, usize, bool), Alike<'_>>> =
            BTreeMap::new();
        let mut port_names = BTreeSet::new();
        for pod in state.pods() {
            let key = (&pod.labels, pod.ports.as_ptr().addr(), pod.host_network);
            let of_namespace = alike.entry(&pod.name.namespace).or_default();
            of_namespace.entry(key).or_insert_with(|| {
                let names =
                    pod.ports.iter().filter_map(|port| Some((port.transport, port.name.as_ref()?)));
                port_names.extend(names);
                Alike { pod, dns: OnceCell::new() }
            });
        }
        let alike: BTreeMap<&str, Vec<Alike<'_>>> = alike
            .into_iter()
            .map(|(namespace, of_namespace)| {
                let mut alike: Vec<_> = of_namespace.into_values().collect();
                alike.sort_by(|one, other| one.pod.name.cmp(&other.pod.name));
                (namespace, alike)
            })
            .collect();
        let mut services: BTreeMap<_, Vec<&Service>> = BTreeMap::new();
        for service in state.services() {
            for port in &service.ports {
                services.entry((port.transport, port.number)).or_default().push(service);
            }
        }
        let of_services = state.services();
        let mut service_addresses: Vec<(Addr, &Service)> = of_services
            .flat_map(|service| service.addresses.iter().map(move |of| (Addr::from(*of), service)))
            .collect();
        service_addresses.sort_by_key(|(addr, _)| *addr);
        let pod_addresses =
            state.owned_addresses().map(|(address, pod)| (Addr::from(address), pod));
        let dns_names = dns_names(&services, &alike);
        let mut set = Self {
            state,
            scope,
            assumed,
            has_namespaces: state.namespaces().next().is_some(),
            is_dual_stack: state.pods().any(|pod| {
                let mut addresses = pod.addresses().iter();
                addresses.clone().any(IpAddr::is_ipv4) && addresses.any(IpAddr::is_ipv6)
            }),
            namespace_keys: state
                .namespaces()
                .flat_map(|namespace| namespace.labels.iter().map(|(key, _)| &**key))
                .collect(),
            alike,
            port_names,
            dns_names,
            services,
            pod_addresses: pod_addresses.collect(),
            service_addresses,
            dns: BTreeMap::new(),
        };
        for policy in state.policies().filter(|policy| policy.policy_types.egress) {
            let rules = DnsRules::of(&set, policy);
            set.dns.entry(&policy.name.namespace).or_default().add(policy, rules);
        }
        set
    }

    /// Whether the set contains a pod.
    pub(super) fn has_pods(&self) -> bool {
        !self.alike.is_empty()
    }

    /// Whether the set contains a pod of a namespace.
    pub(super) fn has_pods_in(&self, namespace: &str) -> bool {
        self.alike.contains_key(namespace)
    }

    /// The labels of a namespace; `None` if the set does not contain them.
    pub(super) fn known_labels(&self, namespace: &str) -> Option<&Labels> {
        let is_assumed = self.assumed.binary_search_by(|of| (**of).cmp(namespace)).is_ok();
        self.state.namespace_labels(namespace).filter(|_| !is_assumed)
    }

    /// The pods of a namespace, one of those that are alike.
    pub(super) fn pods_in(&self, namespace: &str) -> &[Alike<'a>] {
        self.alike.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// The pods of the namespaces that a selector may select: of their labels only the name is known.
    pub(super) fn of_assumed<'s>(
        &'s self,
        selector: &'s Selector,
    ) -> impl Iterator<Item = &'s Alike<'a>> + 's {
        let may_be = |namespace: &&'s Arc<str>| {
            let labels = self.state.namespace_labels(namespace);
            let mut of_name = selector.requirements_of(NAMESPACE_NAME_LABEL);
            of_name.all(|of| labels.is_some_and(|labels| of.matches(labels)))
        };
        self.assumed.iter().filter(may_be).flat_map(|namespace| self.pods_in(namespace))
    }

    /// The pods that a policy selects, one of those that are alike.
    pub(super) fn selected<'s>(&'s self, policy: &Policy) -> Vec<&'s Alike<'a>> {
        let pods = self.pods_in(&policy.name.namespace).iter();
        pods.filter(|alike| policy.pod_selector.matches(&alike.pod.labels)).collect()
    }

    /// The namespaces that a selector selects. Those that it names are looked up.
    pub(super) fn namespaces<'s>(
        &'s self,
        selector: &'s Selector,
    ) -> Box<dyn Iterator<Item = &'s str> + 's> {
        let names = KeyCondition::of(selector, NAMESPACE_NAME_LABEL);
        let Some(names) = names.values().map(Iterator::collect::<Vec<_>>) else {
            let selected =
                self.state.namespaces().filter(|namespace| selector.matches(&namespace.labels));
            return Box::new(selected.map(|namespace| &*namespace.name));
        };
        Box::new(names.into_iter().map(|name| &**name).filter(|name| {
            self.state.namespace_labels(name).is_some_and(|labels| selector.matches(labels))
        }))
    }

    /// The pods that the subject of a ClusterNetworkPolicy selects, one of those that are alike. Host-network pods are among them.
    pub(super) fn of_subject<'s>(
        &'s self,
        subject: &'s Subject,
    ) -> impl Iterator<Item = &'s Alike<'a>> + 's {
        self.alike.iter().flat_map(move |(namespace, alike)| {
            let labels = self.state.namespace_labels(namespace);
            alike.iter().filter(move |alike| subject.selects(labels, &alike.pod.labels))
        })
    }

    /// The pods that a peer of a policy of this namespace selects, one of those that are alike.
    pub(super) fn of_peer<'s>(
        &'s self,
        own: &'s str,
        namespaces: &'s NamespaceMatch,
        pods: &'s Selector,
    ) -> Box<dyn Iterator<Item = &'a Pod> + 's> {
        let matches = |alike: &&'s Alike<'a>| pods.matches(&alike.pod.labels);
        match namespaces {
            NamespaceMatch::Own => {
                let own = self.pods_in(own).iter();
                Box::new(own.filter(matches).map(|alike| alike.pod))
            }
            NamespaceMatch::Selected(selector) => {
                let everywhere = selector.is_everything().then(|| self.alike.values().flatten());
                let selected = (!selector.is_everything()).then(|| self.namespaces(selector));
                let selected = selected.into_iter().flatten().flat_map(|of| self.pods_in(of));
                let selected = everywhere.into_iter().flatten().chain(selected);
                Box::new(selected.filter(matches).map(|alike| alike.pod))
            }
        }
    }

    /// The Services with this port.
    pub(super) fn services_with(&self, transport: Transport, number: u16) -> &[&'a Service] {
        self.services.get(&(transport, number)).map_or(&[], Vec::as_slice)
    }

    /// The pods behind port 53 of a Service, one of those that are alike.
    pub(super) fn dns_servers(&self) -> Vec<&'a Pod> {
        let services = self.services_with(Transport::Udp, DNS_PORT).iter();
        let selected = services.filter_map(|service| {
            Some((service.name.namespace.as_ref(), service.selector.as_ref()?))
        });
        let pods = selected.flat_map(|(namespace, selector)| {
            let pods = self.pods_in(namespace).iter();
            pods.filter(|alike| selector.matches(&alike.pod.labels)).map(|alike| alike.pod)
        });
        pods.collect()
    }

    /// The policies that isolate pods of a namespace for egress.
    pub(super) fn dns_policies(&self, namespace: &str) -> Option<&DnsPolicies<'a>> {
        self.dns.get(namespace)
    }
}

/// The names of the ports that DNS servers have: of port 53, and of the ports behind port 53 of a Service.
fn dns_names<'a>(
    services: &BTreeMap<(Transport, u16), Vec<&'a Service>>,
    alike: &BTreeMap<&str, Vec<Alike<'a>>>,
) -> BTreeSet<(Transport, &'a PortName)> {
    let of_pods = alike.values().flatten().flat_map(|alike| {
        let ports = alike.pod.ports.iter().filter(|port| port.number == DNS_PORT);
        ports.filter_map(|port| Some((port.transport, port.name.as_ref()?)))
    });
    let of_services = Transport::ALL.into_iter().flat_map(|transport| {
        let services = services.get(&(transport, DNS_PORT)).into_iter().flatten();
        services.flat_map(|service| service.ports.iter()).filter_map(|port| match &port.backend {
            BackendPort::Named(name) if port.number == DNS_PORT => Some((port.transport, name)),
            BackendPort::Named(_) | BackendPort::Number(_) => None,
        })
    });
    of_pods.chain(of_services).collect()
}

/// A rule with its policy and direction.
pub(super) struct LocatedRule<'a> {
    /// The policy's; empty for a ClusterNetworkPolicy.
    pub(super) namespace: &'a str,
    kind: PolicyKind,
    pub(super) direction: Direction,
    pub(super) spec: &'a Rule,
}

impl<'a> LocatedRule<'a> {
    pub(super) fn new(policy: &'a Policy, direction: Direction, spec: &'a Rule) -> Self {
        let namespace = &policy.name.namespace;
        Self { namespace, kind: PolicyKind::NetworkPolicy, direction, spec }
    }

    /// A rule of a ClusterNetworkPolicy.
    pub(super) const fn of_cluster(direction: Direction, spec: &'a Rule) -> Self {
        Self { namespace: "", kind: PolicyKind::ClusterNetworkPolicy, direction, spec }
    }

    /// Path of the rule.
    pub(super) fn field(&self) -> String {
        format!("spec.{}[{}]", self.direction, self.spec.index)
    }

    /// Path of an item of the rule's `from` or `to`.
    pub(super) fn peer_field(&self, index: usize) -> String {
        let list = Peers::field(self.direction);
        let is_block = |peer: &Peer| matches!(peer, Peer::IpBlock(_));
        match self.kind {
            // One item of the API has several networks.
            PolicyKind::ClusterNetworkPolicy if self.peers().iter().any(is_block) => {
                format!("{}.{list}", self.field())
            }
            PolicyKind::NetworkPolicy | PolicyKind::ClusterNetworkPolicy => {
                format!("{}.{list}[{index}]", self.field())
            }
        }
    }

    /// Path of the `ipBlock` of an item of the rule's `from` or `to`, or of its networks.
    pub(super) fn block_field(&self, index: usize) -> String {
        let field = self.peer_field(index);
        match self.kind {
            PolicyKind::NetworkPolicy => format!("{field}.ipBlock"),
            PolicyKind::ClusterNetworkPolicy => field,
        }
    }

    /// Path of an item of the rule's `ports`.
    pub(super) fn port_field(&self, index: usize) -> String {
        format!("{}.ports[{index}]", self.field())
    }

    /// The rule's peers; empty if the rule applies to all peers.
    pub(super) fn peers(&self) -> &'a [Peer] {
        match &self.spec.peers {
            Peers::All => &[],
            Peers::AnyOf(peers) => peers,
        }
    }
}
