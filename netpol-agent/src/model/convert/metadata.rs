//! The metadata that netpol uses.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::walk::{Findings, Path, quoted};
use crate::model::{Code, Kind, Labels, ObjectName};

/// Prefix of the annotations that netpol reads; the others are not kept.
const ANNOTATION_PREFIX: &str = "netpol/";

/// The namespace of a namespaced object that names none, as for `kubectl`.
const DEFAULT_NAMESPACE: &str = "default";

/// `metadata`, trimmed to what policy needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// `name`, empty when missing.
    pub name: Arc<str>,
    /// `namespace`, empty when missing.
    pub namespace: Arc<str>,
    /// `uid`, empty when missing.
    pub uid: Arc<str>,
    /// `labels`.
    pub labels: Labels,
    /// The `annotations` whose key starts with `netpol/`.
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
    /// `creationTimestamp` in seconds since 1970, 0 when missing.
    pub created_s: i64,
    /// `deletionTimestamp` is set.
    pub terminating: bool,
}

impl Metadata {
    /// Takes what netpol uses from the metadata of a watched object.
    pub fn from_k8s(meta: ObjectMeta) -> Self {
        let text = |field: Option<String>| Arc::from(field.unwrap_or_default());
        Self {
            name: text(meta.name),
            namespace: text(meta.namespace),
            uid: text(meta.uid),
            labels: meta.labels.unwrap_or_default().into_iter().map(into_shared).collect(),
            annotations: meta
                .annotations
                .unwrap_or_default()
                .into_iter()
                .filter(|(key, _)| is_ours(key))
                .map(into_shared)
                .collect(),
            created_s: meta.creation_timestamp.map_or(0, |time| time.0.as_second()),
            terminating: meta.deletion_timestamp.is_some(),
        }
    }

    /// The name of an object of this kind; a missing namespace is `default`, that of a cluster-scoped
    /// kind is empty.
    pub(super) fn object_name(&self, kind: Kind) -> ObjectName {
        let namespace = match kind {
            Kind::Namespace | Kind::Node => Arc::from(""),
            Kind::NetworkPolicy | Kind::Pod | Kind::Service if self.namespace.is_empty() => {
                Arc::from(DEFAULT_NAMESPACE)
            }
            Kind::NetworkPolicy | Kind::Pod | Kind::Service => Arc::clone(&self.namespace),
        };
        ObjectName { namespace, name: Arc::clone(&self.name) }
    }

    /// Whether the object can be told from others; reports it if not.
    pub(super) fn has_name(&self, findings: &mut Findings) -> bool {
        if self.name.is_empty() {
            let metadata = Path::Root.field("metadata");
            findings.report(
                Code::Malformed,
                &metadata.field("name"),
                "is missing: the object is left out",
            );
        }
        !self.name.is_empty()
    }

    /// Whether an annotation that can only be present with one value is there. Other values are
    /// reported and count as missing.
    pub(super) fn is_annotated(&self, key: &str, value: &str, findings: &mut Findings) -> bool {
        let Some(found) = self.annotations.get(key) else { return false };
        if &**found != value {
            let metadata = Path::Root.field("metadata");
            let annotations = metadata.field("annotations");
            findings.report(
                Code::InvalidAnnotation,
                &annotations.key(key),
                format!("{} is not known, only {value:?}: ignored", quoted(found)),
            );
        }
        &**found == value
    }
}

/// Whether an annotation is netpol's.
pub(super) fn is_ours(key: &str) -> bool {
    key.starts_with(ANNOTATION_PREFIX)
}

fn into_shared((key, value): (String, String)) -> (Arc<str>, Arc<str>) {
    (Arc::from(key), Arc::from(value))
}
