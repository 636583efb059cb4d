//! From the JSON of one object to the model.
//!
//! An object is read twice: first what it is, which hardly any object can get wrong, then what it says,
//! on types that skip every field that is not used. So an object that cannot be read is still known by
//! its name, and is reported instead of lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::model::convert::{self, NodeStatus, PodSpec, PodStatus, ServiceSpec, ServiceStatus};
use crate::model::{Code, Diagnostic, Kind, Object, ObjectName, ObjectRef};

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Its name, without which it cannot be told from others.
    pub(super) object: ObjectRef,
    /// `metadata.uid`.
    pub(super) uid: Option<Arc<str>>,
    /// `metadata.resourceVersion`; empty if missing.
    pub(super) version: String,
}

#[derive(Deserialize)]
struct HeadOnly {
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

/// An object, trimmed to what is used.
#[derive(Deserialize)]
struct Trimmed<Spec, Status> {
    metadata: Metadata,
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Arc<str>,
    namespace: Option<Arc<str>>,
    uid: Option<Arc<str>>,
    labels: Option<BTreeMap<Arc<str>, Arc<str>>>,
    annotations: Option<BTreeMap<Arc<str>, Arc<str>>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<IgnoredAny>,
}

/// Reads what an object is.
///
/// # Errors
/// A diagnostic on an object without a name: it has no usable metadata.
pub(super) fn head(kind: Kind, json: &str) -> Result<Head, Diagnostic> {
    let HeadOnly { metadata } = serde_json::from_str(json).map_err(|_unnamed| {
        let unnamed = ObjectRef { kind, name: ObjectName::cluster_scoped("") };
        unreadable::<HeadOnly>(&unnamed, json)
    })?;
    let HeadMetadata { name, namespace, uid, resource_version } = metadata;
    let name = ObjectName { namespace: namespace.unwrap_or_default(), name };
    let version = resource_version.unwrap_or_default();
    Ok(Head { object: ObjectRef { kind, name }, uid, version })
}

/// Reads what an object says. `None` if it cannot be read; then there is a diagnostic that says why.
pub(super) fn object(head: &Head, json: &str) -> (Option<Object>, Vec<Diagnostic>) {
    let object = &head.object;
    match object.kind {
        Kind::NetworkPolicy => read(object, json, |policy| {
            let (policy, found) = convert::policy(&policy);
            (policy.map(Object::Policy), found)
        }),
        Kind::Pod => read(object, json, |pod: Trimmed<PodSpec, PodStatus>| {
            let spec = pod.spec.unwrap_or_default();
            let (pod, found) = convert::pod(pod.metadata.into(), &spec, pod.status.as_ref());
            (pod.map(Object::Pod), found)
        }),
        Kind::Namespace => read(object, json, |namespace: Trimmed<IgnoredAny, IgnoredAny>| {
            let (namespace, found) = convert::namespace(namespace.metadata.into());
            (namespace.map(Object::Namespace), found)
        }),
        Kind::Service => read(object, json, |service: Trimmed<ServiceSpec, ServiceStatus>| {
            let spec = service.spec.unwrap_or_default();
            let (service, found) =
                convert::service(&service.metadata.into(), &spec, service.status.as_ref());
            (service.map(Object::Service), found)
        }),
        Kind::Node => read(object, json, |node: Trimmed<IgnoredAny, NodeStatus>| {
            let (node, found) = convert::node(&node.metadata.into(), node.status.as_ref());
            (node.map(Object::Node), found)
        }),
    }
}

fn read<T: DeserializeOwned>(
    object: &ObjectRef,
    json: &str,
    convert: impl FnOnce(T) -> (Option<Object>, Vec<Diagnostic>),
) -> (Option<Object>, Vec<Diagnostic>) {
    match serde_json::from_str(json) {
        Ok(value) => convert(value),
        Err(_) => (None, vec![unreadable::<T>(object, json)]),
    }
}

/// Why an object cannot be read. It is read once more for that, because to know the path of the field
/// costs more than most objects deserve.
fn unreadable<T: DeserializeOwned>(object: &ObjectRef, json: &str) -> Diagnostic {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let (field, cause) = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => (String::new(), "ends too late".to_owned()),
        Err(error) => (error.path().to_string(), error.inner().to_string()),
    };
    let cause = cause.split(" at line ").next().unwrap_or_default();
    Diagnostic {
        code: Code::Malformed,
        object: object.clone(),
        field: if field == "." { String::new() } else { field },
        message: format!("{cause}: the object stays as it was last understood"),
    }
}

impl From<Metadata> for convert::Metadata {
    fn from(metadata: Metadata) -> Self {
        let Metadata {
            name,
            namespace,
            uid,
            labels,
            annotations,
            creation_timestamp,
            deletion_timestamp,
        } = metadata;
        let mut annotations = annotations.unwrap_or_default();
        annotations.retain(|key, _| convert::reads_annotation(key));
        Self {
            name,
            namespace: namespace.unwrap_or_default(),
            uid: uid.unwrap_or_default(),
            labels: labels.unwrap_or_default().into_iter().collect(),
            annotations,
            created_s: creation_timestamp.map_or(0, |time| time.0.as_second()),
            terminating: deletion_timestamp.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, json: &str, field: &str) {
        let found = match head(kind, json) {
            Ok(head) => {
                let (object, found) = object(&head, json);
                assert_eq!(object, None);
                found
            }
            Err(found) => vec![found],
        };
        assert_eq!(found.len(), 1, "{json}");
        assert_eq!(found[0].field, field, "{json}");
        assert_eq!(found[0].code, Code::Malformed, "{json}");
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_field() {
        check(
            Kind::Pod,
            r#"{"metadata":{"name":"a"},"spec":{"containers":"x"}}"#,
            "spec.containers",
        );
        check(Kind::Pod, r#"{"metadata":{"name":"a","labels":{"x":1}}}"#, "metadata.labels.x");
        check(Kind::Service, r#"{"metadata":{"name":"a"},"spec":7}"#, "spec");
        check(Kind::Node, r#"{"metadata":{}}"#, "metadata");
        check(Kind::Node, "[]", "");
    }

    #[test]
    fn a_missing_spec_is_an_empty_one() {
        let json = r#"{"metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"7",
            "deletionTimestamp":"2026-01-01T00:00:01Z","creationTimestamp":"2026-01-01T00:00:00Z"}}"#;
        let head = head(Kind::Pod, json).unwrap();
        assert_eq!(head.version, "7");
        let (Some(Object::Pod(pod)), found) = object(&head, json) else { panic!("not a pod") };
        assert!(found.is_empty());
        assert!(pod.terminating);
        assert_eq!(pod.created_s, 1_767_225_600);
        assert_eq!(pod.name, ObjectName::new("n", "a"));
        assert_eq!(&*pod.uid, "u");
    }
}
