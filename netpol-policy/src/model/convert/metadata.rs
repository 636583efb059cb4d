//! The metadata that netpol uses.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use super::syntax::{is_dns_label, is_dns_subdomain, is_label_key, is_label_value};
use super::walk::{Fields, Findings, Path, quoted};
use crate::model::{Code, Kind, Labels, ObjectName, PolicyMode};

/// Prefix of netpol's own annotations.
const ANNOTATION_PREFIX: &str = "netpol/";

/// On a policy: `audit` only counts what the policy would drop.
pub(super) const MODE: &str = "netpol/mode";

/// On a pod and on its namespace: the pod may send from addresses that are not its own.
pub(super) const ALLOW_FORWARDING: &str = "netpol/allow-forwarding";

/// On a pod: whether its packets may be redirected past the bridge and netfilter.
pub(super) const SHORT_CUT: &str = "netpol/short-cut";

/// On the mirror pod of a static pod: the uid that the kubelet gives to the container runtime.
///
/// Source: `k8s.io/kubernetes/pkg/kubelet/types`, `ConfigHashAnnotationKey`.
pub(super) const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// Whether netpol reads an annotation; the others are not kept.
pub fn reads_annotation(key: &str) -> bool {
    key.starts_with(ANNOTATION_PREFIX) || key == CONFIG_HASH
}

/// The namespace of a namespaced object that names none, as for `kubectl`.
const DEFAULT_NAMESPACE: &str = "default";

/// All fields of meta/v1 `ObjectMeta`.
const FIELDS: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

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
    /// Reads the metadata of a decoded object, with findings that bear its name.
    ///
    /// Scalars of the wrong type are taken as the text that they were written as: a wrong name is
    /// better than a policy that is not there.
    pub(super) fn from_value(kind: Kind, object: Fields<'_>) -> (Self, Findings) {
        let path = Path::Root.field("metadata");
        let value = object.get("metadata").unwrap_or(&Value::Null);
        // The name comes first, so that every finding can bear it.
        let named = |name: &str| scalar_text(value.get(name)?).map(Arc::from);
        let mut metadata = Self {
            name: named("name").unwrap_or_default(),
            namespace: named("namespace").unwrap_or_default(),
            ..Self::default()
        };
        let mut findings = Findings::new(kind, metadata.object_name(kind));
        if let Some(fields) = findings.mapping(&path, value, "it is ignored") {
            metadata.read(kind, fields, &path, &mut findings);
        }
        (metadata, findings)
    }

    /// Whether a namespace is given but cannot be read, so that nobody knows which object this is.
    /// [`Self::from_value`] has reported it.
    pub(super) fn is_misplaced(object: Fields<'_>) -> bool {
        let namespace = object.get("metadata").and_then(|metadata| metadata.get("namespace"));
        namespace.is_some_and(|value| !value.is_null() && scalar_text(value).is_none())
    }

    fn read(&mut self, kind: Kind, fields: Fields<'_>, path: &Path<'_>, findings: &mut Findings) {
        for name in fields.names().filter(|name| !FIELDS.contains(name)) {
            let message = "is not a field of the API: it has no effect";
            findings.report(Code::IgnoredField, &path.field(name), message);
        }
        for name in ["name", "uid"] {
            if let Some(value) = fields.get(name) {
                findings.text(&path.field(name), value, effect_on_text(value));
            }
        }
        if let Some(value) = fields.get("namespace") {
            let is_misplaced = scalar_text(value).is_none();
            let effect =
                if is_misplaced { "the object is left out" } else { effect_on_text(value) };
            findings.text(&path.field("namespace"), value, effect);
        }
        self.check_names(kind, path, findings);
        self.uid = fields.get("uid").and_then(scalar_text).map(Arc::from).unwrap_or_default();
        self.terminating = fields.get("deletionTimestamp").is_some();
        if let Some(value) = fields.get("creationTimestamp") {
            match serde_json::from_value::<Time>(value.clone()) {
                Ok(time) => self.created_s = time.0.as_second(),
                Err(error) => findings.report(
                    Code::Malformed,
                    &path.field("creationTimestamp"),
                    format!("is not a time ({error}): it is ignored"),
                ),
            }
        }
        let label_path = path.field("labels");
        self.labels = text_map(fields.get("labels"), &label_path, findings).into_iter().collect();
        for (key, value) in self.labels.iter() {
            if !is_label_key(key) || !is_label_value(value) {
                let message = "is not a valid label: it is taken as it is written";
                findings.report(Code::InvalidName, &label_path.key(key), message);
            }
        }
        self.annotations =
            text_map(fields.get("annotations"), &path.field("annotations"), findings);
        self.annotations.retain(|key, _| reads_annotation(key));
    }

    fn check_names(&self, kind: Kind, path: &Path<'_>, findings: &mut Findings) {
        let is_valid_name = match kind {
            Kind::Namespace | Kind::Service => is_dns_label,
            Kind::NetworkPolicy | Kind::ClusterNetworkPolicy | Kind::Pod | Kind::Node => {
                is_dns_subdomain
            }
        };
        let names = [
            ("name", &self.name, is_valid_name as fn(&str) -> bool),
            ("namespace", &self.namespace, is_dns_label),
        ];
        for (field, name, is_valid) in names {
            if !name.is_empty() && !is_valid(name) {
                let message =
                    format!("{} is not a valid name: it is taken as it is written", quoted(name));
                findings.report(Code::InvalidName, &path.field(field), message);
            }
        }
    }

    /// The name of an object of this kind; a missing namespace is `default`, that of a cluster-scoped
    /// kind is empty.
    pub(super) fn object_name(&self, kind: Kind) -> ObjectName {
        let namespace = match kind {
            Kind::ClusterNetworkPolicy | Kind::Namespace | Kind::Node => Arc::from(""),
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

    /// Whether a policy is enforced or only counted.
    pub(super) fn mode(&self, findings: &mut Findings) -> PolicyMode {
        let choices = [("enforce", PolicyMode::Enforce), ("audit", PolicyMode::Audit)];
        self.choice(MODE, choices, findings)
    }

    /// The meaning of one of netpol's annotations; missing, it means the first of `choices`. An
    /// unknown value does too, and is reported.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &str,
        choices: [(&str, T); 2],
        findings: &mut Findings,
    ) -> T {
        let [(default_text, default), (other_text, other)] = choices;
        match self.annotations.get(key).map(|value| &**value) {
            None => default,
            Some(text) if text == default_text => default,
            Some(text) if text == other_text => other,
            Some(text) => {
                let metadata = Path::Root.field("metadata");
                let annotations = metadata.field("annotations");
                let text = quoted(text);
                let message = format!(
                    "{text} is neither {default_text:?} nor {other_text:?}: it is {default_text:?}"
                );
                findings.report(Code::InvalidAnnotation, &annotations.key(key), message);
                default
            }
        }
    }

    /// Reports annotations that look like netpol's but are not.
    pub(super) fn check_annotations(&self, known: &[&str], findings: &mut Findings) {
        let metadata = Path::Root.field("metadata");
        let annotations = metadata.field("annotations");
        let ours = self.annotations.keys().filter(|key| key.starts_with(ANNOTATION_PREFIX));
        for key in ours.filter(|key| !known.contains(&&***key)) {
            let known = known.join(", ");
            let message = format!("is not known, only {known}: it has no effect");
            findings.report(Code::InvalidAnnotation, &annotations.key(key), message);
        }
    }
}

/// A map of strings, such as labels. Null is the empty string, as in Go.
fn text_map(
    value: Option<&Value>,
    path: &Path<'_>,
    findings: &mut Findings,
) -> BTreeMap<Arc<str>, Arc<str>> {
    let value = value.unwrap_or(&Value::Null);
    let Some(fields) = findings.mapping(path, value, "it is ignored") else {
        return BTreeMap::new();
    };
    let mut map = BTreeMap::new();
    for (key, value) in fields.iter() {
        if value.is_null() {
            map.insert(Arc::from(key), Arc::from(""));
            continue;
        }
        findings.text(&path.key(key), value, effect_on_text(value));
        if let Some(text) = scalar_text(value) {
            map.insert(Arc::from(key), Arc::from(text));
        }
    }
    map
}

/// The text of a string, number or boolean.
fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What becomes of a value where text belongs.
fn effect_on_text(value: &Value) -> &'static str {
    if scalar_text(value).is_some() { "it is taken as it is written" } else { "it is ignored" }
}
