//! Pods for kube-runtime's `watcher`: types with only the fields that netpol uses, and three ways to handle a pod that cannot be
//! decoded.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use kube::core::{ClusterResourceScope, DeserializeGuard};
use netpol_policy::model::convert::{self, PodSpec, PodStatus};
use netpol_policy::model::{Code, Diagnostic, Kind, Object, ObjectName, ObjectRef};
use serde::de::{DeserializeOwned, Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// What a watch reports about one pod.
#[derive(Clone, Debug)]
pub(crate) struct Reported {
    pub(crate) object_ref: ObjectRef,
    pub(crate) uid: Option<Arc<str>>,
    /// `None` if it cannot be decoded.
    pub(crate) object: Option<Object>,
    pub(crate) found: Vec<Diagnostic>,
}

/// A type that `watcher` can be asked for.
pub(crate) trait Reportable:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
    fn reported(self) -> Reported;
}

/// A pod. `Guard` says what happens if it cannot be decoded.
#[derive(Clone, Debug)]
pub(crate) struct Pod<Guard> {
    /// Only the version, which is all that `watcher` reads.
    meta: ObjectMeta,
    reported: Reported,
    guard: PhantomData<Guard>,
}

/// Decoding fails, and with it the page or line that contains the pod.
#[derive(Clone, Debug)]
pub(crate) enum NoGuard {}

/// The JSON text is kept until it is decoded, so that identity and field of an undecodable pod can be found.
#[derive(Clone, Debug)]
pub(crate) enum TextGuard {}

/// The fields that netpol uses.
#[derive(Deserialize)]
struct Fields {
    metadata: Metadata,
    #[serde(default)]
    spec: PodSpec,
    status: Option<PodStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    // Not `Identity` by `serde(flatten)`, because that would buffer all other fields.
    name: Arc<str>,
    namespace: Option<Arc<str>>,
    uid: Option<Arc<str>>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<Arc<str>, Arc<str>>>,
    annotations: Option<BTreeMap<Arc<str>, Arc<str>>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Head {
    metadata: Identity,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    name: Arc<str>,
    namespace: Option<Arc<str>>,
    uid: Option<Arc<str>>,
    resource_version: Option<String>,
}

impl<Guard> Pod<Guard> {
    fn new(identity: Identity, object: Option<Object>, found: Vec<Diagnostic>) -> Self {
        let Identity { name, namespace, uid, resource_version } = identity;
        let name = ObjectName { namespace: namespace.unwrap_or_default(), name };
        let object_ref = ObjectRef { kind: Kind::Pod, name };
        let meta = ObjectMeta { resource_version, ..ObjectMeta::default() };
        let reported = Reported { object_ref, uid, object, found };
        Self { meta, reported, guard: PhantomData }
    }

    fn from_fields(fields: Fields) -> Self {
        let Fields { metadata, spec, status } = fields;
        let Metadata { name, namespace, uid, resource_version, .. } = metadata;
        let identity = Identity { name, namespace, uid, resource_version };
        let mut annotations = metadata.annotations.unwrap_or_default();
        annotations.retain(|key, _| convert::reads_annotation(key));
        let metadata = convert::Metadata {
            name: Arc::clone(&identity.name),
            namespace: identity.namespace.clone().unwrap_or_default(),
            uid: identity.uid.clone().unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default().into_iter().collect(),
            annotations,
            created_s: metadata.creation_timestamp.map_or(0, |time| time.0.as_second()),
            terminating: metadata.deletion_timestamp.is_some(),
        };
        let (pod, found) = convert::pod(metadata, &spec, status.as_ref());
        Self::new(identity, pod.map(Object::Pod), found)
    }
}

impl<'de> Deserialize<'de> for Pod<NoGuard> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Fields::deserialize(deserializer).map(Self::from_fields)
    }
}

impl<'de> Deserialize<'de> for Pod<TextGuard> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = <&RawValue>::deserialize(deserializer)?.get();
        if let Ok(fields) = serde_json::from_str(json) {
            return Ok(Self::from_fields(fields));
        }
        let Head { metadata } = serde_json::from_str(json).map_err(D::Error::custom)?;
        let mut pod = Self::new(metadata, None, Vec::new());
        let json = &mut serde_json::Deserializer::from_str(json);
        if let Err(error) = serde_path_to_error::deserialize::<_, Fields>(json) {
            let (field, cause) = (error.path().to_string(), error.inner().to_string());
            pod.reported.found.push(malformed(&pod.reported.object_ref, field, cause));
        }
        Ok(pod)
    }
}

impl Reportable for Pod<NoGuard> {
    fn reported(self) -> Reported {
        self.reported
    }
}

impl Reportable for Pod<TextGuard> {
    fn reported(self) -> Reported {
        self.reported
    }
}

impl Reportable for DeserializeGuard<Pod<NoGuard>> {
    fn reported(self) -> Reported {
        let invalid = match self.0 {
            Ok(pod) => return pod.reported,
            Err(invalid) => invalid,
        };
        let text = |text: Option<String>| text.map(Arc::from);
        let name = ObjectName {
            namespace: text(invalid.metadata.namespace).unwrap_or_default(),
            name: text(invalid.metadata.name).unwrap_or_default(),
        };
        let object_ref = ObjectRef { kind: Kind::Pod, name };
        // The guard does not say which field it is.
        let found = vec![malformed(&object_ref, String::new(), invalid.error)];
        Reported { object_ref, uid: text(invalid.metadata.uid), object: None, found }
    }
}

fn malformed(object: &ObjectRef, field: String, message: String) -> Diagnostic {
    Diagnostic { code: Code::Malformed, object: object.clone(), field, message }
}

impl<Guard> Resource for Pod<Guard> {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
