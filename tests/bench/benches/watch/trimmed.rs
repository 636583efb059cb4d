//! API objects for kube-runtime's `watcher`, trimmed to the fields that netpol reads, and two ways to survive one that cannot
//! be read: kube's `DeserializeGuard`, and a guard that keeps the JSON text until it is known to be readable.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use kube::core::{ClusterResourceScope, DeserializeGuard};
use netpol_policy::model::convert::{
    self, NodeStatus, PodSpec, PodStatus, ServiceSpec, ServiceStatus,
};
use netpol_policy::model::{Code, Diagnostic, Kind, Object, ObjectName, ObjectRef};
use serde::de::{DeserializeOwned, Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// What a watch reports about one object.
#[derive(Clone, Debug)]
pub(crate) struct Reported {
    pub(crate) object_ref: ObjectRef,
    pub(crate) uid: Option<Arc<str>>,
    /// `None` if it cannot be read.
    pub(crate) object: Option<Object>,
    pub(crate) found: Vec<Diagnostic>,
}

/// A type that `watcher` can be asked for.
pub(crate) trait Reportable:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
    fn reported(self) -> Reported;
}

/// A type that holds the fields of one kind.
pub(crate) trait Fields: Clone + Debug + DeserializeOwned + Send + 'static {
    const KIND: Kind;
    fn convert(self) -> (Metadata, Option<Object>, Vec<Diagnostic>);
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    name: Arc<str>,
    namespace: Option<Arc<str>>,
    uid: Option<Arc<str>>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<Arc<str>, Arc<str>>>,
    annotations: Option<BTreeMap<Arc<str>, Arc<str>>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<IgnoredAny>,
}

impl Metadata {
    fn trimmed(&mut self) -> convert::Metadata {
        let mut annotations = self.annotations.take().unwrap_or_default();
        annotations.retain(|key, _| convert::reads_annotation(key));
        convert::Metadata {
            name: Arc::clone(&self.name),
            namespace: self.namespace.clone().unwrap_or_default(),
            uid: self.uid.clone().unwrap_or_default(),
            labels: self.labels.take().unwrap_or_default().into_iter().collect(),
            annotations,
            created_s: self.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            terminating: self.deletion_timestamp.is_some(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Pod {
    metadata: Metadata,
    #[serde(default)]
    spec: PodSpec,
    status: Option<PodStatus>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Namespace {
    metadata: Metadata,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Service {
    metadata: Metadata,
    #[serde(default)]
    spec: ServiceSpec,
    status: Option<ServiceStatus>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Node {
    metadata: Metadata,
    status: Option<NodeStatus>,
}

/// A policy, all of it: each of its fields is checked.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    metadata: Metadata,
    value: Value,
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let metadata = value.get("metadata").unwrap_or(&Value::Null);
        let metadata = Metadata::deserialize(metadata).map_err(D::Error::custom)?;
        Ok(Self { metadata, value })
    }
}

impl Fields for Pod {
    const KIND: Kind = Kind::Pod;
    fn convert(mut self) -> (Metadata, Option<Object>, Vec<Diagnostic>) {
        let (pod, found) = convert::pod(self.metadata.trimmed(), &self.spec, self.status.as_ref());
        (self.metadata, pod.map(Object::Pod), found)
    }
}

impl Fields for Namespace {
    const KIND: Kind = Kind::Namespace;
    fn convert(mut self) -> (Metadata, Option<Object>, Vec<Diagnostic>) {
        let (namespace, found) = convert::namespace(self.metadata.trimmed());
        (self.metadata, namespace.map(Object::Namespace), found)
    }
}

impl Fields for Service {
    const KIND: Kind = Kind::Service;
    fn convert(mut self) -> (Metadata, Option<Object>, Vec<Diagnostic>) {
        let metadata = self.metadata.trimmed();
        let (service, found) = convert::service(&metadata, &self.spec, self.status.as_ref());
        (self.metadata, service.map(Object::Service), found)
    }
}

impl Fields for Node {
    const KIND: Kind = Kind::Node;
    fn convert(mut self) -> (Metadata, Option<Object>, Vec<Diagnostic>) {
        let (node, found) = convert::node(&self.metadata.trimmed(), self.status.as_ref());
        (self.metadata, node.map(Object::Node), found)
    }
}

impl Fields for Policy {
    const KIND: Kind = Kind::NetworkPolicy;
    fn convert(self) -> (Metadata, Option<Object>, Vec<Diagnostic>) {
        let (policy, found) = convert::policy(&self.value);
        (self.metadata, policy.map(Object::Policy), found)
    }
}

/// The fields of one kind as a `Resource`, without any guard.
#[derive(Clone, Debug)]
pub(crate) struct Plain<F> {
    meta: ObjectMeta,
    reported: Reported,
    fields: std::marker::PhantomData<F>,
}

impl<F: Fields> Plain<F> {
    fn new(metadata: Metadata, object: Option<Object>, found: Vec<Diagnostic>) -> Self {
        let Metadata { name, namespace, uid, resource_version, .. } = metadata;
        let name = ObjectName { namespace: namespace.unwrap_or_default(), name };
        let object_ref = ObjectRef { kind: F::KIND, name };
        // All that `watcher` reads.
        let meta = ObjectMeta { resource_version, ..ObjectMeta::default() };
        let reported = Reported { object_ref, uid, object, found };
        Self { meta, reported, fields: std::marker::PhantomData }
    }

    fn from_fields(fields: F) -> Self {
        let (metadata, object, found) = fields.convert();
        Self::new(metadata, object, found)
    }
}

impl<'de, F: Fields> Deserialize<'de> for Plain<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        F::deserialize(deserializer).map(Self::from_fields)
    }
}

impl<F: Fields> Reportable for Plain<F> {
    fn reported(self) -> Reported {
        self.reported
    }
}

impl<F: Fields> Reportable for DeserializeGuard<Plain<F>> {
    fn reported(self) -> Reported {
        match self.0 {
            Ok(plain) => plain.reported,
            Err(invalid) => {
                let text = |text: Option<String>| text.map(Arc::from);
                let name = ObjectName {
                    namespace: text(invalid.metadata.namespace).unwrap_or_default(),
                    name: text(invalid.metadata.name).unwrap_or_default(),
                };
                let object_ref = ObjectRef { kind: F::KIND, name };
                // The guard does not say which field it is.
                let found = vec![malformed(&object_ref, String::new(), invalid.error)];
                Reported { object_ref, uid: text(invalid.metadata.uid), object: None, found }
            }
        }
    }
}

/// The fields of one kind as a `Resource`, or where they cannot be read the object's name and the field that is wrong.
#[derive(Clone, Debug)]
pub(crate) struct Guarded<F>(Plain<F>);

impl<'de, F: Fields> Deserialize<'de> for Guarded<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Head {
            metadata: HeadMetadata,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct HeadMetadata {
            name: Arc<str>,
            namespace: Option<Arc<str>>,
            uid: Option<Arc<str>>,
            resource_version: Option<String>,
        }
        let json = <&RawValue>::deserialize(deserializer)?.get();
        if let Ok(fields) = serde_json::from_str(json) {
            return Ok(Self(Plain::from_fields(fields)));
        }
        let Head { metadata } = serde_json::from_str(json).map_err(D::Error::custom)?;
        let HeadMetadata { name, namespace, uid, resource_version } = metadata;
        let metadata = Metadata {
            name,
            namespace,
            uid,
            resource_version,
            labels: None,
            annotations: None,
            creation_timestamp: None,
            deletion_timestamp: None,
        };
        let mut plain = Plain::new(metadata, None, Vec::new());
        let json = &mut serde_json::Deserializer::from_str(json);
        if let Err(error) = serde_path_to_error::deserialize::<_, F>(json) {
            let (field, cause) = (error.path().to_string(), error.inner().to_string());
            plain.reported.found.push(malformed(&plain.reported.object_ref, field, cause));
        }
        Ok(Self(plain))
    }
}

impl<F: Fields> Reportable for Guarded<F> {
    fn reported(self) -> Reported {
        self.0.reported
    }
}

fn malformed(object: &ObjectRef, field: String, message: String) -> Diagnostic {
    Diagnostic { code: Code::Malformed, object: object.clone(), field, message }
}

/// Where the API has a kind.
fn path(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::NetworkPolicy => ("networking.k8s.io", "networkpolicies"),
        Kind::Pod => ("", "pods"),
        Kind::Namespace => ("", "namespaces"),
        Kind::Service => ("", "services"),
        Kind::Node => ("", "nodes"),
    }
}

impl<F: Fields> Resource for Plain<F> {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        F::KIND.as_str().into()
    }

    fn group((): &()) -> Cow<'_, str> {
        path(F::KIND).0.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        path(F::KIND).1.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

impl<F: Fields> Resource for Guarded<F> {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        <Plain<F> as Resource>::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        <Plain<F> as Resource>::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        <Plain<F> as Resource>::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        <Plain<F> as Resource>::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.0.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0.meta
    }
}
