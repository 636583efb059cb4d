//! Workloads: the pod of their template.

use serde_json::Value;

use super::decode::section;
use super::metadata::Metadata;
use super::object::Converted;
use super::pod::{PodSpec, pod};
use super::walk::{Fields, Path, quoted};
use crate::model::{Code, Diagnostic, Kind, Object, ObjectRef, WorkloadKind};

/// Normalises a workload to the pod of its template, which has no address. `None` if the object is no workload.
///
/// A `ReplicaSet` without replicas that another object owns is an old revision: it is understood, and there is no pod.
///
/// Source: core/v1 `PodTemplateSpec`.
pub fn workload(value: &Value) -> Option<Converted> {
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    let kind = WorkloadKind::from_api(text("kind")?)?;
    let api_version = text("apiVersion");
    let group = api_version.map(|version| version.split_once('/').map_or("", |(group, _)| group));
    let is_dead = api_version.is_some_and(|version| kind.dead_versions.contains(&version));
    if group.is_some_and(|group| group != kind.group) && !is_dead {
        return None;
    }
    let (own, mut findings) = Metadata::from_value(Kind::Pod, Fields::of(value));
    let expected = kind.api_version();
    if api_version != Some(&expected) {
        let found = api_version.map_or_else(|| "missing".to_owned(), quoted);
        let message = format!("is {found}, not {expected}: the object is read as {expected}");
        findings.report(Code::Malformed, &Path::Root.field("apiVersion"), message);
    }
    let is_named = own.has_name(&mut findings);
    if !is_named || Metadata::is_misplaced(Fields::of(value)) || is_old_revision(value) {
        return Some(Converted {
            diagnostics: findings.into_diagnostics(),
            ..Converted::default()
        });
    }
    let mut diagnostics = findings.into_diagnostics();

    let template = kind.template.split('.').try_fold(value, |value, field| value.get(field));
    let fields = Fields::of(template.unwrap_or(&Value::Null));
    let (mut metadata, mut findings) = Metadata::from_value(Kind::Pod, fields);
    metadata.name = kind.pod_name(&own.name).into();
    metadata.namespace = own.namespace;
    let spec: PodSpec = section(fields, "spec", &mut findings);
    let (pod, of_pod) = pod(metadata, &spec, None);
    let in_template = findings.into_diagnostics().into_iter().chain(of_pod).map(|mut found| {
        found.field = format!("{}.{}", kind.template, found.field);
        found
    });
    diagnostics.extend(in_template);
    let pod = pod?;
    let object = ObjectRef { kind: Kind::Pod, name: pod.name.clone() };
    let diagnostics =
        diagnostics.into_iter().map(|found| Diagnostic { object: object.clone(), ..found });
    Some(Converted {
        diagnostics: diagnostics.collect(),
        object: Some(Object::Pod(pod)),
        unsupported_kind: None,
    })
}

fn is_old_revision(value: &Value) -> bool {
    let has_owner = value
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array)
        .is_some_and(|owners| !owners.is_empty());
    has_owner && value.pointer("/spec/replicas").and_then(Value::as_u64) == Some(0)
}
