//! Decodes JSON into the model: an object, a page of a list, a line of a watch.
//!
//! The common case is one pass over the JSON, into types that skip every unused field. If that pass fails, the object is decoded
//! a second time in two steps: its identity first, which is rarely malformed, then its content. So an object that cannot be
//! decoded is reported by name instead of lost.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::request::End;
use netpol_policy::model::convert::{
    self, NodeSpec, NodeStatus, PodSpec, PodStatus, ServiceSpec, ServiceStatus, reads_annotation,
};
use netpol_policy::model::{Code, Diagnostic, Kind, Labels, Object, ObjectName, ObjectRef};

/// The identity of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Its kind and name.
    pub(super) object: ObjectRef,
    /// `metadata.uid`.
    pub(super) uid: Option<Arc<str>>,
    /// `metadata.resourceVersion`; empty if missing.
    pub(super) version: String,
}

/// An object whose identity could be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    /// Its identity.
    pub(super) head: Head,
    /// Its content; `None` if that cannot be decoded, and then `found` says why.
    pub(super) object: Option<Object>,
    /// Diagnostics about it.
    pub(super) found: Vec<Diagnostic>,
}

/// A line of a watch.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every line is about an object")]
pub(super) enum Line<'a> {
    /// An event about an object; a diagnostic if the object's metadata cannot be used.
    Object(Event, Result<Decoded, Diagnostic>),
    /// `BOOKMARK`, with its object's JSON.
    Bookmark(&'a str),
    /// `ERROR`, with its object's JSON.
    Error(&'a str),
    /// An event of an unknown type.
    Unknown(Cow<'a, str>),
}

/// The type of an event about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Event {
    /// `ADDED`.
    Added,
    /// `MODIFIED`.
    Modified,
    /// `DELETED`. Only the object's identity matters.
    Deleted,
}

/// A line whose object can be decoded in one pass.
#[derive(Deserialize)]
struct TypedLine<T> {
    #[serde(rename = "type")]
    event: Event,
    object: T,
}

/// Any line.
#[derive(Deserialize)]
struct AnyLine<'a> {
    #[serde(rename = "type", borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
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

/// An object, reduced to the fields that netpol uses.
#[derive(Deserialize)]
struct Trimmed<Spec, Status> {
    metadata: Metadata,
    spec: Option<Spec>,
    status: Option<Status>,
}

type TrimmedPod = Trimmed<PodSpec, PodStatus>;
type TrimmedNamespace = Trimmed<IgnoredAny, IgnoredAny>;
type TrimmedService = Trimmed<ServiceSpec, ServiceStatus>;
type TrimmedNode = Trimmed<NodeSpec, NodeStatus>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Arc<str>,
    namespace: Option<Arc<str>>,
    uid: Option<Arc<str>>,
    resource_version: Option<String>,
    #[serde(default, deserialize_with = "labels")]
    labels: Labels,
    #[serde(default, deserialize_with = "annotations")]
    annotations: BTreeMap<Arc<str>, Arc<str>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<IgnoredAny>,
}

/// A type that an object can be decoded into in one pass.
trait Typed: DeserializeOwned {
    fn decoded(self) -> Decoded;
}

impl Typed for TrimmedPod {
    fn decoded(self) -> Decoded {
        let (head, metadata) = self.metadata.split(Kind::Pod);
        let spec = self.spec.unwrap_or_default();
        let (pod, found) = convert::pod(metadata, &spec, self.status.as_ref());
        Decoded { head, object: pod.map(Object::Pod), found }
    }
}

impl Typed for TrimmedNamespace {
    fn decoded(self) -> Decoded {
        let (head, metadata) = self.metadata.split(Kind::Namespace);
        let (namespace, found) = convert::namespace(metadata);
        Decoded { head, object: namespace.map(Object::Namespace), found }
    }
}

impl Typed for TrimmedService {
    fn decoded(self) -> Decoded {
        let (head, metadata) = self.metadata.split(Kind::Service);
        let spec = self.spec.unwrap_or_default();
        let (service, found) = convert::service(&metadata, &spec, self.status.as_ref());
        Decoded { head, object: service.map(Object::Service), found }
    }
}

impl Typed for TrimmedNode {
    fn decoded(self) -> Decoded {
        let (head, metadata) = self.metadata.split(Kind::Node);
        let (node, found) = convert::node(&metadata, self.spec.as_ref(), self.status.as_ref());
        Decoded { head, object: node.map(Object::Node), found }
    }
}

/// Decodes a line of a watch.
///
/// # Errors
/// [`End::Garbled`] if the line is not a watch event.
pub(super) fn line(kind: Kind, json: &[u8]) -> Result<Line<'_>, End> {
    let typed = match kind {
        Kind::Pod => typed_line::<TrimmedPod>(json),
        Kind::Namespace => typed_line::<TrimmedNamespace>(json),
        Kind::Service => typed_line::<TrimmedService>(json),
        Kind::Node => typed_line::<TrimmedNode>(json),
        // Policies are decoded field by field, because each mistake in them gets its own diagnostic.
        Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => None,
    };
    if let Some((event, decoded)) = typed {
        return Ok(Line::Object(event, Ok(decoded)));
    }
    let AnyLine { event, object } = serde_json::from_slice(json).map_err(End::Garbled)?;
    let json = object.get();
    let of_object = |event| {
        let decoded = if event == Event::Deleted {
            head(kind, json).map(|head| Decoded { head, object: None, found: Vec::new() })
        } else {
            self::object(kind, json)
        };
        Line::Object(event, decoded)
    };
    Ok(match &*event {
        "ADDED" => of_object(Event::Added),
        "MODIFIED" => of_object(Event::Modified),
        "DELETED" => of_object(Event::Deleted),
        "BOOKMARK" => Line::Bookmark(json),
        "ERROR" => Line::Error(json),
        _ => Line::Unknown(event),
    })
}

/// A page of a list.
#[derive(Deserialize)]
struct Page<T> {
    metadata: PageMetadata,
    items: Option<Vec<T>>,
}

/// `metadata` of a page.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMetadata {
    /// `resourceVersion`: of the whole list.
    pub(super) resource_version: String,
    /// `continue`: where the next page begins; empty or missing on the last one.
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

/// Decodes a page of a list and passes its objects to `take`, in their order.
///
/// # Errors
/// The JSON is not a list.
pub(super) fn page(
    kind: Kind,
    json: &str,
    mut take: impl FnMut(Result<Decoded, Diagnostic>),
) -> serde_json::Result<PageMetadata> {
    let typed = match kind {
        Kind::Pod => typed_page::<TrimmedPod>(json, &mut take),
        Kind::Namespace => typed_page::<TrimmedNamespace>(json, &mut take),
        Kind::Service => typed_page::<TrimmedService>(json, &mut take),
        Kind::Node => typed_page::<TrimmedNode>(json, &mut take),
        Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => None,
    };
    if let Some(metadata) = typed {
        return Ok(metadata);
    }
    let Page::<&RawValue> { metadata, items } = serde_json::from_str(json)?;
    items.unwrap_or_default().iter().for_each(|item| take(object(kind, item.get())));
    Ok(metadata)
}

fn typed_page<T: Typed>(
    json: &str,
    mut take: impl FnMut(Result<Decoded, Diagnostic>),
) -> Option<PageMetadata> {
    let Page::<T> { metadata, items } = serde_json::from_str(json).ok()?;
    items.unwrap_or_default().into_iter().for_each(|object| take(Ok(object.decoded())));
    Some(metadata)
}

fn typed_line<T: Typed>(json: &[u8]) -> Option<(Event, Decoded)> {
    let TypedLine::<T> { event, object } = serde_json::from_slice(json).ok()?;
    Some((event, object.decoded()))
}

/// Decodes an object.
///
/// # Errors
/// A diagnostic about a nameless object, if the metadata cannot be used.
pub(super) fn object(kind: Kind, json: &str) -> Result<Decoded, Diagnostic> {
    match kind {
        Kind::NetworkPolicy => policy(kind, json, |value| {
            let (policy, found) = convert::policy(value);
            (policy.map(Object::Policy), found)
        }),
        Kind::ClusterNetworkPolicy => policy(kind, json, |value| {
            let (policy, found) = convert::cluster_policy(value);
            (policy.map(Object::ClusterPolicy), found)
        }),
        Kind::Pod => typed::<TrimmedPod>(kind, json),
        Kind::Namespace => typed::<TrimmedNamespace>(kind, json),
        Kind::Service => typed::<TrimmedService>(kind, json),
        Kind::Node => typed::<TrimmedNode>(kind, json),
    }
}

fn typed<T: Typed>(kind: Kind, json: &str) -> Result<Decoded, Diagnostic> {
    if let Ok(object) = serde_json::from_str::<T>(json) {
        return Ok(object.decoded());
    }
    let head = head(kind, json)?;
    let found = vec![unreadable::<T>(&head.object, json)];
    Ok(Decoded { head, object: None, found })
}

fn policy(
    kind: Kind,
    json: &str,
    convert: impl FnOnce(&Value) -> (Option<Object>, Vec<Diagnostic>),
) -> Result<Decoded, Diagnostic> {
    let head = head(kind, json)?;
    let (object, found) = match serde_json::from_str(json) {
        Ok(value) => convert(&value),
        Err(_) => (None, vec![unreadable::<Value>(&head.object, json)]),
    };
    Ok(Decoded { head, object, found })
}

/// Decodes the identity of an object.
fn head(kind: Kind, json: &str) -> Result<Head, Diagnostic> {
    let HeadOnly { metadata } = serde_json::from_str(json).map_err(|_unnamed| {
        let unnamed = ObjectRef { kind, name: ObjectName::cluster_scoped("") };
        unreadable::<HeadOnly>(&unnamed, json)
    })?;
    let HeadMetadata { name, namespace, uid, resource_version } = metadata;
    let name = ObjectName { namespace: namespace.unwrap_or_default(), name };
    let version = resource_version.unwrap_or_default();
    Ok(Head { object: ObjectRef { kind, name }, uid, version })
}

/// Says why an object cannot be decoded. Decodes it once more, because tracking the path of the current field is too expensive
/// to do for every object.
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
        message: format!("{cause}: the object keeps its last valid state"),
    }
}

impl Metadata {
    fn split(self, kind: Kind) -> (Head, convert::Metadata) {
        let Self {
            name,
            namespace,
            uid,
            resource_version,
            labels,
            annotations,
            creation_timestamp,
            deletion_timestamp,
        } = self;
        let namespace = namespace.unwrap_or_default();
        let object_name = ObjectName { namespace: Arc::clone(&namespace), name: Arc::clone(&name) };
        let head = Head {
            object: ObjectRef { kind, name: object_name },
            uid: uid.clone(),
            version: resource_version.unwrap_or_default(),
        };
        let metadata = convert::Metadata {
            name,
            namespace,
            uid: uid.unwrap_or_default(),
            labels,
            annotations,
            created_s: creation_timestamp.map_or(0, |time| time.0.as_second()),
            terminating: deletion_timestamp.is_some(),
        };
        (head, metadata)
    }
}

/// Decodes `labels` into a vector, because the API server sends them sorted.
fn labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
    deserializer.deserialize_option(Texts::<Vec<_>>::of(|_| true)).map(Labels::from_iter)
}

/// Decodes the `annotations` that netpol uses and skips the others, which can be long.
fn annotations<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<Arc<str>, Arc<str>>, D::Error> {
    deserializer.deserialize_option(Texts::of(reads_annotation))
}

/// Decodes a map of strings and keeps the entries with wanted keys; null is an empty map.
struct Texts<C> {
    is_wanted: fn(&str) -> bool,
    found: C,
}

impl<C: Default> Texts<C> {
    fn of(is_wanted: fn(&str) -> bool) -> Self {
        Self { is_wanted, found: C::default() }
    }
}

impl<'de, C: Extend<(Arc<str>, Arc<str>)>> Visitor<'de> for Texts<C> {
    type Value = C;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_none<E>(self) -> Result<C, E> {
        Ok(self.found)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<C, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<C, A::Error> {
        let Self { is_wanted, mut found } = self;
        while let Some(key) = map.next_key_seed(TextIf(is_wanted))? {
            if let Some(key) = key {
                let value = map.next_value_seed(TextIf(|_| true))?;
                found.extend(value.map(|value| (key, value)));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Decodes a string if it is wanted, and copies it once. serde's `Arc<str>` would make a `String` first.
struct TextIf(fn(&str) -> bool);

impl<'de> DeserializeSeed<'de> for TextIf {
    type Value = Option<Arc<str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for TextIf {
    type Value = Option<Arc<str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok((self.0)(text).then(|| Arc::from(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expects one diagnostic about this field, from an object and from a line of a watch.
    fn check(kind: Kind, json: &str, field: &str) {
        let found = match object(kind, json) {
            Ok(Decoded { object, found, .. }) => {
                assert_eq!(object, None);
                found
            }
            Err(found) => vec![found],
        };
        assert_eq!(found.len(), 1, "{json}");
        assert_eq!(found[0].field, field, "{json}");
        assert_eq!(found[0].code, Code::Malformed, "{json}");
        let line_json = format!(r#"{{"type":"ADDED","object":{json}}}"#);
        let Line::Object(Event::Added, decoded) = line(kind, line_json.as_bytes()).unwrap() else {
            panic!("no object in {line_json}");
        };
        assert_eq!(decoded.map_or_else(|found| vec![found], |decoded| decoded.found), found);
    }

    #[test]
    fn a_field_that_cannot_be_decoded_is_named() {
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
        let Decoded { head, object, found } = object(Kind::Pod, json).unwrap();
        assert_eq!(head.version, "7");
        let Some(Object::Pod(pod)) = object else { panic!("not a pod") };
        assert!(found.is_empty());
        assert!(pod.terminating);
        assert_eq!(pod.created_s, 1_767_225_600);
        assert_eq!(pod.name, ObjectName::new("n", "a"));
        assert_eq!(&*pod.uid, "u");
    }

    #[test]
    fn labels_are_decoded_in_any_order_and_unused_annotations_are_skipped() {
        let json = r#"{"metadata":{"name":"a","namespace":"n","labels":{"b":"2","a":"\u0031","b":"3"},
            "annotations":{"netpol/allow-forwarding":"true","other":7,"kubernetes.io/config.hash":"x"}}}"#;
        let decoded = object(Kind::Pod, json).unwrap();
        let Some(Object::Pod(pod)) = decoded.object else { panic!("not a pod") };
        let labels: Vec<_> = pod.labels.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(labels, [("a", "1"), ("b", "3")]);
        assert!(pod.allows_forwarding);
        assert_eq!(&*pod.static_uid, "x");
        let json = r#"{"metadata":{"name":"a","namespace":"n","labels":null,"annotations":null}}"#;
        assert_eq!(object(Kind::Pod, json).unwrap().found, []);
    }

    #[test]
    fn every_type_of_line_is_decoded() {
        let of = |kind, event: &str, object: &str| {
            let json = format!(r#"{{"type":"{event}","object":{object}}}"#);
            match line(kind, json.as_bytes()).unwrap() {
                Line::Object(event, Ok(Decoded { head, object, .. })) => {
                    format!("{event:?} {} {}", head.object, object.is_some())
                }
                other @ (Line::Object(_, Err(_))
                | Line::Bookmark(_)
                | Line::Error(_)
                | Line::Unknown(_)) => format!("{other:?}"),
            }
        };
        let named = r#"{"metadata":{"name":"a","namespace":"n"}}"#;
        assert_eq!(of(Kind::Pod, "MODIFIED", named), "Modified Pod n/a true");
        assert_eq!(of(Kind::NetworkPolicy, "ADDED", named), "Added NetworkPolicy n/a true");
        // A deleted object needs only a name.
        let wrong = r#"{"metadata":{"name":"a","namespace":"n"},"spec":7}"#;
        assert_eq!(of(Kind::Pod, "DELETED", wrong), "Deleted Pod n/a false");
        assert_eq!(of(Kind::NetworkPolicy, "DELETED", named), "Deleted NetworkPolicy n/a false");
        assert_eq!(of(Kind::Pod, "BOOKMARK", "{}"), r#"Bookmark("{}")"#);
        assert_eq!(of(Kind::Pod, "ERROR", "{}"), r#"Error("{}")"#);
        assert_eq!(of(Kind::Pod, "NEW", named), r#"Unknown("NEW")"#);
        assert!(matches!(line(Kind::Pod, b"{}"), Err(End::Garbled(_))));
    }
}
