//! The objects, and which pod owns which address.

use std::net::IpAddr;

use serde_json::Value;

use super::{block, cluster_policy, field, list, text};
use crate::case::End;

/// The objects, sorted by kind.
#[derive(Debug)]
pub(super) struct ClusterModel<'a> {
    pods: Vec<PodView<'a>>,
    namespaces: Vec<&'a Value>,
    policies: Vec<&'a Value>,
    cluster_policies: Vec<&'a Value>,
    nodes: Vec<&'a Value>,
    pub(super) services: Vec<&'a Value>,
}

/// Which policies decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// Those that are not in audit mode.
    Enforced,
    /// All.
    All,
}

#[derive(Debug)]
struct PodView<'a> {
    pod: &'a Value,
    /// The addresses in `status`.
    reported: Vec<IpAddr>,
    uses_host: bool,
    has_ended: bool,
}

impl<'a> ClusterModel<'a> {
    pub(super) fn new(objects: &'a [Value], counted: Counted) -> Self {
        let counts = |policy: &&Value| {
            let mode = text(policy, &["metadata", "annotations", "netpol/mode"]);
            counted == Counted::All || mode != Some("audit")
        };
        let of_kind = |kind: &str| -> Vec<&'a Value> {
            objects.iter().filter(|object| text(object, &["kind"]) == Some(kind)).collect()
        };
        Self {
            pods: of_kind("Pod").into_iter().map(PodView::new).collect(),
            namespaces: of_kind("Namespace"),
            policies: of_kind("NetworkPolicy").into_iter().filter(counts).collect(),
            cluster_policies: objects
                .iter()
                .filter(|object| cluster_policy::is_one(object))
                .filter(counts)
                .collect(),
            nodes: of_kind("Node"),
            // No API server has one without a name.
            services: of_kind("Service")
                .into_iter()
                .filter(|service| {
                    text(service, &["metadata", "name"]).is_some_and(|name| !name.is_empty())
                })
                .collect(),
        }
    }

    /// The pod that owns an address: the newest of several. Finished pods and host-network pods own none.
    pub(super) fn owner(&self, address: IpAddr) -> Option<&'a Value> {
        self.pods
            .iter()
            .filter(|view| view.held().contains(&address))
            .max_by_key(|view| view.age())
            .map(|view| view.pod)
    }

    /// The possible addresses of an end, in order. A pod has those that no newer pod owns; a host-network pod has the
    /// node's.
    pub(super) fn candidates(&self, end: &End) -> Vec<IpAddr> {
        let chosen = match end {
            End::Address { ip } => return vec![ip.to_canonical()],
            End::Pod { ip, .. } => ip,
        };
        let mut addresses = self.view(end).map(|view| self.own(view)).unwrap_or_default();
        addresses.retain(|address| chosen.is_none_or(|ip| ip.to_canonical() == *address));
        addresses
    }

    /// The addresses of a pod.
    fn own(&self, view: &PodView<'a>) -> Vec<IpAddr> {
        if view.uses_host {
            return if view.has_ended { Vec::new() } else { view.reported.clone() };
        }
        let is_its = |address: &&IpAddr| {
            self.owner(**address).is_some_and(|owner| std::ptr::eq(owner, view.pod))
        };
        view.held().iter().filter(is_its).copied().collect()
    }

    /// The running pods of a namespace that are not terminating, with their addresses.
    pub(super) fn running(&self, namespace: &str) -> Vec<(&'a Value, Vec<IpAddr>)> {
        let runs = |view: &&PodView<'_>| {
            !view.has_ended
                && text(view.pod, &["status", "phase"]) != Some("Pending")
                && text(view.pod, &["metadata", "deletionTimestamp"]).is_none()
                && namespace_of(view.pod) == namespace
        };
        self.pods.iter().filter(runs).map(|view| (view.pod, self.own(view))).collect()
    }

    /// The host-network pods of a namespace that have not ended, with their addresses.
    pub(super) fn on_host(&self, namespace: &str) -> Vec<(&'a Value, Vec<IpAddr>)> {
        let may_run = |view: &&PodView<'_>| {
            view.uses_host && !view.has_ended && namespace_of(view.pod) == namespace
        };
        self.pods.iter().filter(may_run).map(|view| (view.pod, self.own(view))).collect()
    }

    /// The pod of an end.
    pub(super) fn named(&self, end: &End) -> Option<&'a Value> {
        self.view(end).map(|view| view.pod)
    }

    fn view(&self, end: &End) -> Option<&PodView<'a>> {
        let End::Pod { namespace, pod, .. } = end else { return None };
        self.pods
            .iter()
            .find(|view| namespace_of(view.pod) == namespace && name_of(view.pod) == pod)
    }

    /// The namespace of this name, if it is among the objects.
    pub(super) fn namespace(&self, name: &str) -> Option<&'a Value> {
        self.namespaces.iter().copied().find(|namespace| name_of(namespace) == name)
    }

    /// The policies of a pod's namespace that count, whether or not they select it.
    pub(super) fn policies_of<'s>(
        &'s self,
        pod: &'s Value,
    ) -> impl Iterator<Item = &'a Value> + 's {
        self.policies.iter().copied().filter(move |policy| {
            namespace_of(policy) == namespace_of(pod) && !name_of(policy).is_empty()
        })
    }

    /// The cluster policies that count.
    pub(super) fn cluster_policies(&self) -> impl Iterator<Item = &'a Value> {
        self.cluster_policies.iter().copied()
    }

    /// The nodes.
    pub(super) fn node_objects(&self) -> impl Iterator<Item = &'a Value> {
        self.nodes.iter().copied()
    }

    /// The items of a node's `status.addresses` that are addresses.
    pub(super) fn addresses_of_node(node: &Value) -> Vec<IpAddr> {
        let items = list(node, &["status", "addresses"]).iter();
        items.filter_map(|item| text(item, &["address"]).and_then(block::address)).collect()
    }

    /// Whether an address belongs to the pod's node (item 3): the Node object lists it, or a host-network pod of the node has
    /// it.
    pub(super) fn is_own_node(&self, pod: &Value, address: IpAddr) -> bool {
        let Some(node_name) = text(pod, &["spec", "nodeName"]).filter(|name| !name.is_empty())
        else {
            return false;
        };
        let by_node = self.nodes.iter().filter(|node| name_of(node) == node_name).any(|node| {
            list(node, &["status", "addresses"]).iter().any(|item| {
                matches!(text(item, &["type"]), Some("InternalIP" | "ExternalIP"))
                    && text(item, &["address"]).and_then(block::address) == Some(address)
            })
        });
        let by_pod = self.pods.iter().any(|view| {
            view.uses_host
                && text(view.pod, &["spec", "nodeName"]) == Some(node_name)
                && view.reported.contains(&address)
        });
        by_node || by_pod
    }
}

impl<'a> PodView<'a> {
    fn new(pod: &'a Value) -> Self {
        let mut reported: Vec<IpAddr> = Vec::new();
        let listed = list(pod, &["status", "podIPs"]).iter().map(|item| text(item, &["ip"]));
        for address in std::iter::once(text(pod, &["status", "podIP"])).chain(listed).flatten() {
            if let Some(address) = block::address(address)
                && !reported.contains(&address)
            {
                reported.push(address);
            }
        }
        let spec = field(pod, "spec").unwrap_or(&Value::Null);
        Self {
            pod,
            reported,
            uses_host: field(spec, "hostNetwork") == Some(&Value::Bool(true)),
            has_ended: matches!(text(pod, &["status", "phase"]), Some("Succeeded" | "Failed")),
        }
    }

    fn held(&self) -> &[IpAddr] {
        if self.uses_host || self.has_ended { &[] } else { &self.reported }
    }

    /// Sort key by creation time, then uid and name. RFC 3339 times of one zone sort as strings.
    fn age(&self) -> (&'a str, &'a str, &'a str, &'a str) {
        let metadata = |name| text(self.pod, &["metadata", name]).unwrap_or_default();
        (metadata("creationTimestamp"), metadata("uid"), namespace_of(self.pod), name_of(self.pod))
    }
}

/// `metadata.name`.
pub(super) fn name_of(object: &Value) -> &str {
    text(object, &["metadata", "name"]).unwrap_or_default()
}

/// `metadata.namespace`; offline input may leave `default` out.
pub(super) fn namespace_of(object: &Value) -> &str {
    text(object, &["metadata", "namespace"]).filter(|name| !name.is_empty()).unwrap_or("default")
}
