//! Addresses that nodes publish for pods whose status does not report any yet.
//!
//! In: what the agent of each node says about its own pods. Out: the addresses that are believed, which then are owned like reported
//! ones. Must not: depend on the order in which objects and publications arrive, so every rule looks at the current objects only.
//!
//! A node is believed about a pod that the API binds to this node, whose uid it names, and that has no address otherwise. The address
//! must belong to nobody else: to no other pod, Service or node, and it must be in the node's pod ranges where they are known. A pod
//! with an interface on this node has the addresses of this interface.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use netpol_common::addr::Addr;

use super::changes::Changes;
use super::delta::{Delta, PublishedPod};
use super::pods::PodId;
use super::{ClusterState, is_silent};
use crate::model::{Kind, Object, ObjectName, Pod};

/// What nodes publish, and what of it is believed.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    by_node: BTreeMap<Arc<str>, BTreeMap<ObjectName, PublishedPod>>,
    /// Which pods are said to have an address, by the node that says so.
    by_address: BTreeMap<Addr, BTreeSet<(Arc<str>, ObjectName)>>,
    /// The believed addresses of a pod.
    believed: BTreeMap<ObjectName, BTreeSet<Addr>>,
}

/// The publications that a delta can concern.
pub(super) enum Concerned {
    None,
    /// Those about a pod, and those of addresses that have changed.
    Pod(ObjectName),
    Addresses(BTreeSet<Addr>),
    All,
}

impl Published {
    fn is_empty(&self) -> bool {
        self.by_node.is_empty() && self.believed.is_empty()
    }

    /// Everything that is published, by node.
    pub(super) fn by_node(&self) -> &BTreeMap<Arc<str>, BTreeMap<ObjectName, PublishedPod>> {
        &self.by_node
    }

    /// Replaces what a node publishes. Returns the addresses of before and after.
    fn replace(&mut self, node: &Arc<str>, pods: Vec<PublishedPod>) -> BTreeSet<Addr> {
        let mut concerned = BTreeSet::new();
        for (name, pod) in self.by_node.remove(node).unwrap_or_default() {
            let said = (Arc::clone(node), name);
            for addr in pod.addresses.into_iter().map(Addr::from) {
                if let Some(by) = self.by_address.get_mut(&addr) {
                    by.remove(&said);
                    if by.is_empty() {
                        self.by_address.remove(&addr);
                    }
                }
                concerned.insert(addr);
            }
        }
        let pods: BTreeMap<_, _> = pods.into_iter().map(|pod| (pod.pod.clone(), pod)).collect();
        for (name, pod) in &pods {
            for addr in pod.addresses.iter().copied().map(Addr::from) {
                let by = self.by_address.entry(addr).or_default();
                by.insert((Arc::clone(node), name.clone()));
                concerned.insert(addr);
            }
        }
        if !pods.is_empty() {
            self.by_node.insert(Arc::clone(node), pods);
        }
        concerned
    }

    /// The believed addresses of a pod.
    pub(super) fn of(&self, pod: &ObjectName) -> impl Iterator<Item = IpAddr> {
        self.believed.get(pod).into_iter().flatten().map(|addr| addr.to_ip())
    }

    /// The addresses that a node publishes for a pod.
    fn said(&self, node: &str, pod: &ObjectName) -> &[IpAddr] {
        let pod = self.by_node.get(node).and_then(|pods| pods.get(pod));
        pod.map_or(&[], |pod| &pod.addresses)
    }
}

impl ClusterState {
    /// The publications that a delta can concern, which is not applied yet.
    pub(super) fn concerned(&self, delta: &Delta) -> Concerned {
        if self.published.is_empty() {
            return Concerned::None;
        }
        let of_pod = |name: &ObjectName| {
            let is_on_host = self.pods.get(name).is_some_and(|pod| pod.host_network);
            if is_on_host { Concerned::All } else { Concerned::Pod(name.clone()) }
        };
        match delta {
            // Its addresses are those of a node.
            Delta::Upsert(Object::Pod(pod)) if pod.host_network => Concerned::All,
            Delta::Upsert(Object::Pod(pod)) => of_pod(&pod.name),
            Delta::Remove { object, uid: _ } if object.kind == Kind::Pod => of_pod(&object.name),
            Delta::UpsertEndpoint(endpoint) => {
                let before = self.endpoints.get(&endpoint.ifindex);
                let is_other = before.is_some_and(|before| before.pod != endpoint.pod);
                if is_other { Concerned::All } else { of_pod(&endpoint.pod) }
            }
            Delta::RemoveEndpoint(ifindex) => {
                let endpoint = self.endpoints.get(ifindex);
                endpoint.map_or(Concerned::None, |endpoint| of_pod(&endpoint.pod))
            }
            Delta::Upsert(Object::Policy(_) | Object::ClusterPolicy(_) | Object::Namespace(_))
            | Delta::ShortCuts(_)
            | Delta::ListedBackends(_)
            | Delta::PublishedAddresses { .. } => Concerned::None,
            Delta::Upsert(Object::Service(_) | Object::Node(_))
            | Delta::Remove { .. }
            | Delta::Replace(_)
            | Delta::OwnAddresses(_) => Concerned::All,
        }
    }

    /// Replaces what a node publishes.
    pub(super) fn publish(&mut self, node: &Arc<str>, pods: Vec<PublishedPod>) -> Concerned {
        Concerned::Addresses(self.published.replace(node, pods))
    }

    /// Decides again which of these publications are believed.
    pub(super) fn believe(&mut self, concerned: Concerned, changes: &mut Changes) {
        let addresses: BTreeSet<Addr> = match concerned {
            Concerned::None => return,
            Concerned::Addresses(addresses) => addresses,
            Concerned::All => {
                let believed = self.published.believed.values().flatten();
                self.published.by_address.keys().chain(believed).copied().collect()
            }
            Concerned::Pod(name) => {
                let node = self.pods.get(&name).map(|pod| &*pod.node).unwrap_or_default();
                let said = self.published.said(node, &name).iter().copied().map(Addr::from);
                let believed = self.published.believed.get(&name).into_iter().flatten().copied();
                let of_others = changes.addresses.iter().copied();
                said.chain(believed).chain(of_others).collect()
            }
        };
        for addr in addresses {
            let now = self.believable(addr);
            let before = self.pods.published.get(&addr).copied();
            let name = now.and_then(|id| self.pods.at(id)).map(|pod| &pod.name);
            let is_same = before == now
                && name.is_none_or(|name| {
                    self.published.believed.get(name).is_some_and(|of| of.contains(&addr))
                });
            if is_same {
                continue;
            }
            let name = name.cloned();
            self.published.believed.retain(|_, addresses| {
                addresses.remove(&addr);
                !addresses.is_empty()
            });
            self.pods.published.remove(&addr);
            if let (Some(id), Some(name)) = (now, name) {
                self.pods.published.insert(addr, id);
                self.published.believed.entry(name).or_default().insert(addr);
            }
            changes.addresses.insert(addr);
        }
    }

    /// The pod that an address belongs to because its node says so.
    fn believable(&self, addr: Addr) -> Option<PodId> {
        let said = self.published.by_address.get(&addr)?;
        let is_owned = self.pods.owners.of(addr).next().is_some();
        if is_owned || !self.may_be_a_pods(addr) {
            return None;
        }
        let pods = said.iter().filter_map(|(node, name)| {
            let published = self.published.by_node.get(node)?.get(name)?;
            let id = self.pods.id(name)?;
            let pod = self.pods.at(id)?;
            let is_its = *pod.node == **node && !pod.uid.is_empty() && pod.uid == published.uid;
            // A pod's own interface says more, and packets from it are compared with what it says.
            let is_elsewhere = !self.endpoints_of_pod.contains_key(&pod.name);
            let is_needed = is_silent(pod) && is_elsewhere;
            (is_its && is_needed && self.is_in_pod_ranges(node, addr)).then_some(id)
        });
        self.pods.newest(pods)
    }

    /// Whether an address can be a pod's: it is a unicast address and no Service or node has it.
    fn may_be_a_pods(&self, addr: Addr) -> bool {
        let address = addr.to_ip();
        let is_special = match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let is_a_nodes = self.own_addresses.all.contains(&address)
            || self.pods.is_node_address(address)
            || self.nodes.values().any(|node| node.addresses.contains(&address));
        !(is_special
            || address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast()
            || is_a_nodes
            || self.is_service_address(addr))
    }

    /// Whether an address is in the pod ranges of a node, if they are known.
    fn is_in_pod_ranges(&self, node: &str, addr: Addr) -> bool {
        let ranges = self.nodes.get(node).map(|node| &*node.pod_ranges).unwrap_or_default();
        ranges.is_empty() || ranges.iter().any(|range| range.contains(addr.to_ip()))
    }

    /// The addresses that pods own only because their nodes publish them, each with its pod, by address.
    pub fn published_addresses(&self) -> impl Iterator<Item = (IpAddr, &Pod)> {
        let owned = self.pods.published.iter();
        owned.filter_map(|(addr, id)| Some((addr.to_ip(), self.pods.at(*id)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Labels, Node, ObjectRef, PodPhase, Service};
    use crate::store::{Endpoint, OwnAddresses, PodEnd};
    use netpol_common::ids::IfIndex;

    const ADDRESS: &str = "10.244.2.5";

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn pod(name: &str, node: &str, created_s: i64, reported: &[&str]) -> Pod {
        Pod {
            name: ObjectName::new("x", name),
            uid: Arc::from(format!("uid-{name}-{created_s}")),
            static_uid: Arc::from(""),
            created_s,
            labels: [(Arc::from("app"), Arc::from(name))].into_iter().collect(),
            node: Arc::from(node),
            reported_addresses: reported.iter().map(|text| address(text)).collect(),
            host_network: false,
            phase: PodPhase::Pending,
            terminating: false,
            ports: Arc::default(),
            allows_forwarding: false,
            declines_short_cut: false,
        }
    }

    fn upsert(pod: Pod) -> Delta {
        Delta::Upsert(Object::Pod(pod))
    }

    fn remove(name: &str) -> Delta {
        let object = ObjectRef { kind: Kind::Pod, name: ObjectName::new("x", name) };
        Delta::Remove { object, uid: None }
    }

    fn publish(node: &str, of: &[(&Pod, &str)]) -> Delta {
        let pods = of.iter().map(|(pod, text)| PublishedPod {
            pod: pod.name.clone(),
            uid: Arc::clone(&pod.uid),
            addresses: vec![address(text)],
        });
        Delta::PublishedAddresses { node: Arc::from(node), pods: pods.collect() }
    }

    fn node(name: &str, addresses: &[&str], ranges: &[&str]) -> Delta {
        Delta::Upsert(Object::Node(Node {
            name: Arc::from(name),
            labels: Labels::new(),
            addresses: addresses.iter().map(|text| address(text)).collect(),
            pod_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        }))
    }

    /// Applies the deltas in every order, and expects this owner.
    #[track_caller]
    fn check(deltas: &[Delta], expected: Option<&str>) {
        let orders = permutations(deltas.len());
        for order in orders {
            let mut state = ClusterState::default();
            for place in &order {
                drop(state.apply(deltas[*place].clone()));
            }
            check_owner(&state, expected, &format!("{order:?}"));
        }
    }

    #[track_caller]
    fn check_owner(state: &ClusterState, expected: Option<&str>, when: &str) {
        let owner = state.owner(address(ADDRESS)).map(|pod| pod.name.name.to_string());
        assert_eq!(owner.as_deref(), expected, "{when}");
        let by_label_class: Vec<_> = state
            .label_classes()
            .filter(|(id, _)| {
                let mut held = state.addresses_of_label_class(*id);
                held.any(|addr| addr.to_ip() == address(ADDRESS))
            })
            .map(|(_, label_class)| label_class.labels.iter().map(|(_, v)| v.to_string()).collect())
            .collect::<Vec<String>>();
        assert_eq!(by_label_class, expected.into_iter().collect::<Vec<_>>(), "{when}");
        let n_owners = state.owned_addresses().filter(|of| of.0 == address(ADDRESS)).count();
        assert_eq!(n_owners, usize::from(expected.is_some()), "{when}");
    }

    fn permutations(n: usize) -> Vec<Vec<usize>> {
        if n == 0 {
            return vec![Vec::new()];
        }
        let mut found = Vec::new();
        for shorter in permutations(n - 1) {
            for place in 0..n {
                let mut order = shorter.clone();
                order.insert(place, n - 1);
                found.push(order);
            }
        }
        found
    }

    #[test]
    fn a_silent_pod_owns_what_its_node_publishes_whatever_comes_first() {
        let web = pod("web", "n2", 1, &[]);
        check(&[upsert(web.clone()), publish("n2", &[(&web, ADDRESS)])], Some("web"));
    }

    #[test]
    fn only_the_pods_own_node_is_believed_and_only_about_this_very_pod() {
        let web = pod("web", "n2", 1, &[]);
        let earlier = pod("web", "n2", 0, &[]);
        check(&[upsert(web.clone()), publish("n3", &[(&web, ADDRESS)])], None);
        check(&[upsert(web.clone()), publish("n2", &[(&earlier, ADDRESS)])], None);
        let unscheduled = pod("web", "", 1, &[]);
        check(&[upsert(unscheduled), publish("n2", &[(&web, ADDRESS)])], None);
        let nameless = Pod { uid: Arc::from(""), ..web };
        check(&[upsert(nameless.clone()), publish("n2", &[(&nameless, ADDRESS)])], None);
    }

    #[test]
    fn an_address_of_somebody_else_is_not_believed() {
        let web = pod("web", "n2", 2, &[]);
        let said = [upsert(web.clone()), publish("n2", &[(&web, ADDRESS)])];
        let with = |other: Delta| [said.as_slice(), &[other]].concat();
        // Older and on another node: the reporting pod keeps its address.
        check(&with(upsert(pod("db", "n1", 1, &[ADDRESS]))), Some("db"));
        let on_host = Pod { host_network: true, ..pod("proxy", "n1", 1, &[ADDRESS]) };
        check(&with(upsert(on_host)), None);
        check(&with(node("n1", &[ADDRESS], &[])), None);
        let own = OwnAddresses { all: [address(ADDRESS)].into(), ..OwnAddresses::default() };
        check(&with(Delta::OwnAddresses(own)), None);
        let service = Service {
            name: ObjectName::new("x", "web"),
            addresses: vec![address(ADDRESS)],
            external_addresses: Vec::new(),
            keeps_source: false,
            selector: None,
            ports: Vec::new(),
            backends: Vec::new(),
        };
        check(&with(Delta::Upsert(Object::Service(service))), None);
        check(&with(node("n2", &[], &["10.244.3.0/24"])), None);
        check(&with(node("n2", &[], &["10.244.2.0/24", "fd00::/64"])), Some("web"));
    }

    #[test]
    fn addresses_that_no_pod_can_have_are_not_believed() {
        let web = pod("web", "n2", 1, &[]);
        let mut state = ClusterState::default();
        drop(state.apply(upsert(web.clone())));
        for text in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "169.254.1.1", "255.255.255.255"] {
            drop(state.apply(publish("n2", &[(&web, text)])));
            assert_eq!(state.owner(address(text)), None, "{text}");
        }
        for text in ["::", "::1", "ff02::1", "fe80::1"] {
            drop(state.apply(publish("n2", &[(&web, text)])));
            assert_eq!(state.owner(address(text)), None, "{text}");
        }
    }

    #[test]
    fn of_two_pods_of_a_node_the_newer_one_owns_the_address() {
        let (old, new) = (pod("old", "n2", 1, &[]), pod("new", "n2", 2, &[]));
        let said = publish("n2", &[(&old, ADDRESS), (&new, ADDRESS)]);
        check(&[upsert(old), upsert(new), said], Some("new"));
    }

    #[test]
    fn the_api_is_the_newer_truth_and_the_end_of_pod_or_publication_is_the_end_of_it() {
        let web = pod("web", "n2", 1, &[]);
        let said = publish("n2", &[(&web, ADDRESS)]);
        let ends = [
            upsert(pod("web", "n2", 1, &["10.244.2.6"])),
            upsert(Pod { phase: PodPhase::Failed, ..web.clone() }),
            upsert(pod("web", "n3", 2, &[])),
            remove("web"),
            publish("n2", &[]),
        ];
        for end in ends {
            let mut state = ClusterState::default();
            drop(state.apply(upsert(web.clone())));
            drop(state.apply(said.clone()));
            check_owner(&state, Some("web"), "before");
            let changes = state.apply(end.clone());
            check_owner(&state, None, &format!("{end:?}"));
            assert!(changes.addresses.contains(&Addr::from(address(ADDRESS))), "{end:?}");
            assert_eq!(state.published_addresses().count(), 0);
        }
        let mut state = ClusterState::default();
        drop(state.apply(said));
        drop(state.apply(upsert(web)));
        let reported = pod("web", "n2", 1, &[ADDRESS]);
        drop(state.apply(upsert(reported)));
        check_owner(&state, Some("web"), "reported");
        assert_eq!(state.published_addresses().count(), 0);
    }

    #[test]
    fn what_a_node_publishes_twice_changes_nothing_and_what_it_claims_of_itself_is_its_interfaces()
    {
        let web = pod("web", "n2", 1, &[]);
        let mut state = ClusterState::default();
        drop(state.apply(upsert(web.clone())));
        assert!(!state.apply(publish("n2", &[(&web, ADDRESS)])).is_empty());
        assert!(state.apply(publish("n2", &[(&web, ADDRESS)])).is_empty());
        let endpoint = Endpoint {
            ifindex: IfIndex(7),
            container_id: Arc::from("c"),
            pod: web.name.clone(),
            pod_uid: Arc::clone(&web.uid),
            egress_mark: 0,
            addresses: vec![address("10.244.2.9")],
            pod_end: PodEnd::default(),
        };
        drop(state.apply(Delta::UpsertEndpoint(endpoint)));
        check_owner(&state, None, "the interface has another address");
        drop(state.apply(Delta::RemoveEndpoint(IfIndex(7))));
        check_owner(&state, Some("web"), "without the interface");
    }
}
