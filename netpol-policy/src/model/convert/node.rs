//! Nodes and namespaces.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::address::collect_address;
use super::metadata::{ALLOW_FORWARDING, Metadata};
use super::nullable::{items, or_default};
use super::walk::{Findings, Path};
use crate::model::{Diagnostic, Kind, Namespace, Node};

/// The label by which a namespace is selected by name; the API server sets it on every namespace.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// core/v1 `NodeSpec`, trimmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// `podCIDRs`.
    #[serde(rename = "podCIDRs", deserialize_with = "items")]
    pub pod_cidrs: Vec<Arc<str>>,
}

/// core/v1 `NodeStatus`, trimmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// `addresses`.
    #[serde(deserialize_with = "items")]
    pub addresses: Vec<NodeAddress>,
}

/// core/v1 `NodeAddress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// `type`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub address_type: Arc<str>,
    /// `address`, a name for some types.
    #[serde(deserialize_with = "or_default")]
    pub address: Arc<str>,
}

/// core/v1 `NamespaceSpec`, of which nothing is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct NamespaceSpec {}

/// core/v1 `NamespaceStatus`, of which nothing is used: a namespace that terminates still selects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct NamespaceStatus {}

/// Normalises a node. `None` only when it has no name.
///
/// Source: core/v1 `NodeStatus.addresses`; those of other types than `InternalIP` and `ExternalIP` need not be addresses.
pub fn node(
    metadata: &Metadata,
    spec: Option<&NodeSpec>,
    status: Option<&NodeStatus>,
) -> (Option<Node>, Vec<Diagnostic>) {
    let name = metadata.object_name(Kind::Node);
    let mut findings = Findings::new(Kind::Node, name);
    if !metadata.has_name(&mut findings) {
        return (None, findings.into_diagnostics());
    }
    let mut addresses = Vec::new();
    let root = Path::Root.field("status");
    let list = root.field("addresses");
    for (index, item) in status.map(|s| &*s.addresses).unwrap_or_default().iter().enumerate() {
        let is_address = matches!(&*item.address_type, "InternalIP" | "ExternalIP");
        // A host name can be an address too.
        if is_address || item.address.parse::<IpAddr>().is_ok() {
            let path = list.item(index);
            collect_address(&item.address, &path.field("address"), &mut addresses, &mut findings);
        }
    }
    let labels = metadata.labels.clone();
    let ranges = spec.map(|spec| &*spec.pod_cidrs).unwrap_or_default();
    let pod_ranges = ranges.iter().filter_map(|range| range.parse().ok()).collect();
    let node = Node { name: Arc::clone(&metadata.name), labels, addresses, pod_ranges };
    (Some(node), findings.into_diagnostics())
}

/// Normalises a namespace. `None` only when it has no name.
///
/// `kubernetes.io/metadata.name` always holds the name, whatever the object says.
///
/// Source: core/v1 `Namespace`, whose defaulting in the API server sets that label.
pub fn namespace(metadata: Metadata) -> (Option<Namespace>, Vec<Diagnostic>) {
    let mut findings = Findings::new(Kind::Namespace, metadata.object_name(Kind::Namespace));
    if !metadata.has_name(&mut findings) {
        return (None, findings.into_diagnostics());
    }
    metadata.check_annotations(&[ALLOW_FORWARDING], &mut findings);
    let allows_forwarding =
        metadata.choice(ALLOW_FORWARDING, [("false", false), ("true", true)], &mut findings);
    let Metadata { name, labels, terminating, .. } = metadata;
    let own_name = (Arc::from(NAME_LABEL), Arc::clone(&name));
    let labels = labels.iter().map(|(key, value)| (Arc::clone(key), Arc::clone(value)));
    let labels = labels.chain([own_name]).collect();
    (Some(Namespace { name, labels, terminating, allows_forwarding }), findings.into_diagnostics())
}
