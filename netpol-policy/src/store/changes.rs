//! What a delta changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::IfIndex;

use super::label_classes::LabelClassId;
use crate::model::ObjectName;

/// What changed, by what it can have an effect on; empty if nothing did. What is named here can differ from before,
/// all else does not.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// How many times an object appeared, disappeared or came to differ.
    pub n_objects: usize,
    /// The first list of a kind: take everything for changed.
    pub everything: bool,
    /// Addresses that another pod holds now, or one of another label class.
    pub addresses: BTreeSet<Addr>,
    /// Label classes that came or went.
    pub label_classes: BTreeSet<LabelClassId>,
    /// Namespaces that came or went or have other labels.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Policies that came or went or say something else.
    pub policies: BTreeSet<ObjectName>,
    /// Endpoints that came or went, or whose pod differs.
    pub endpoints: BTreeSet<IfIndex>,
    /// Addresses of Services and of the node.
    pub deferred: BTreeSet<Addr>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.n_objects == 0 && self.endpoints.is_empty() && self.deferred.is_empty()
    }

    /// Whether what is enforced can have changed.
    pub fn matters(&self) -> bool {
        let Self {
            n_objects: _,
            everything,
            addresses,
            label_classes,
            namespaces,
            policies,
            endpoints,
            deferred,
        } = self;
        *everything
            || !(addresses.is_empty()
                && label_classes.is_empty()
                && namespaces.is_empty()
                && policies.is_empty()
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
            endpoints,
            deferred,
        } = later;
        self.n_objects += n_objects;
        self.everything |= everything;
        self.addresses.extend(addresses);
        self.label_classes.extend(label_classes);
        self.namespaces.extend(namespaces);
        self.policies.extend(policies);
        self.endpoints.extend(endpoints);
        self.deferred.extend(deferred);
    }
}
