//! The effect of a delta.

use std::collections::BTreeSet;
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::IfIndex;

use super::label_classes::LabelClassId;
use crate::model::ObjectName;

/// The parts of the state that can differ from before; everything else does not. Empty if nothing changed.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Number of objects added, removed or changed.
    pub n_objects: usize,
    /// The first list of a kind was stored: everything can differ.
    pub everything: bool,
    /// Addresses with another owner, or with an owner of another label class.
    pub addresses: BTreeSet<Addr>,
    /// Label classes that were added or removed.
    pub label_classes: BTreeSet<LabelClassId>,
    /// Namespaces that were added, removed or have other labels.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Policies that were added, removed or changed.
    pub policies: BTreeSet<ObjectName>,
    /// ClusterNetworkPolicies that were added, removed or changed.
    pub cluster_policies: BTreeSet<Arc<str>>,
    /// Nodes were added, removed or changed.
    pub nodes: bool,
    /// Endpoints that were added or removed, or whose pod differs.
    pub endpoints: BTreeSet<IfIndex>,
    /// Addresses of Services and of the node.
    pub deferred: BTreeSet<Addr>,
    /// Services, their backends on nodes' networks, or addresses of the node changed in a way that can change which ports the node translates.
    pub translated: bool,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.n_objects == 0
            && self.addresses.is_empty()
            && self.endpoints.is_empty()
            && self.deferred.is_empty()
            && !self.translated
    }

    /// Whether the enforced policy can have changed.
    pub fn matters(&self) -> bool {
        let Self {
            n_objects: _,
            everything,
            addresses,
            label_classes,
            namespaces,
            policies,
            cluster_policies,
            nodes,
            endpoints,
            deferred,
            translated,
        } = self;
        *everything
            || *nodes
            || *translated
            || !(addresses.is_empty()
                && label_classes.is_empty()
                && namespaces.is_empty()
                && policies.is_empty()
                && cluster_policies.is_empty()
                && endpoints.is_empty()
                && deferred.is_empty())
    }

    /// Adds the changes of a later delta.
    pub fn extend(&mut self, later: Self) {
        let Self {
            n_objects,
            everything,
            addresses,
            label_classes,
            namespaces,
            policies,
            cluster_policies,
            nodes,
            endpoints,
            deferred,
            translated,
        } = later;
        self.n_objects += n_objects;
        self.everything |= everything;
        self.addresses.extend(addresses);
        self.label_classes.extend(label_classes);
        self.namespaces.extend(namespaces);
        self.policies.extend(policies);
        self.cluster_policies.extend(cluster_policies);
        self.nodes |= nodes;
        self.endpoints.extend(endpoints);
        self.deferred.extend(deferred);
        self.translated |= translated;
    }
}
