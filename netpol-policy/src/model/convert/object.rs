//! Objects of any kind.

use serde_json::Value;

use super::cluster_policy::cluster_policy;
use super::decode::section;
use super::metadata::Metadata;
use super::node::{namespace, node};
use super::pod::pod;
use super::policy::policy;
use super::service::service;
use super::unsupported::is_misspelled_policy;
use super::walk::{Fields, quoted};
use crate::model::{Code, Diagnostic, Kind, Object, ObjectRef};

/// API group and version of `NetworkPolicy`.
const NETWORKING: &str = "networking.k8s.io/v1";
/// API group and version of `NetworkPolicy` before [`NETWORKING`].
const EXTENSIONS: &str = "extensions/v1beta1";
/// API group of `ClusterNetworkPolicy`, and its versions, the newest first.
const CLUSTER_POLICY: [&str; 2] =
    ["policy.networking.k8s.io/v1beta1", "policy.networking.k8s.io/v1alpha2"];
/// API version of pods, namespaces, Services and nodes.
const CORE: &str = "v1";

/// Groups with a kind `NetworkPolicy` or `ClusterNetworkPolicy` of their own, which means something else.
const FOREIGN_GROUPS: [&str; 3] = ["projectcalico.org", "crd.projectcalico.org", "crd.antrea.io"];

/// What became of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// The object, if netpol uses its kind and it has a name.
    pub object: Option<Object>,
    /// What was found in it.
    pub diagnostics: Vec<Diagnostic>,
    /// The `apiVersion` and kind of an object that netpol does not use and passes over; a `?` stands
    /// for what is missing.
    pub unsupported_kind: Option<String>,
}

/// Normalises an object of any kind.
pub fn object(value: &Value) -> Converted {
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let found = kind.and_then(|kind| supported(api_version, kind));
    let found = found.or_else(|| is_misspelled_policy(value).then_some(Kind::NetworkPolicy));
    let Some(known) = found else {
        let text = |text: Option<&str>| text.unwrap_or("?").to_owned();
        let unsupported_kind = Some(format!("{} {}", text(api_version), text(kind)));
        return Converted { unsupported_kind, ..Converted::default() };
    };
    let mut converted = convert(known, value);
    if let Some(kind) = kind.filter(|kind| *kind != known.as_str()) {
        let message = format!("is {}, not {known}: the object is read as {known}", quoted(kind));
        converted.diagnostics.insert(0, about(known, value, "kind", message));
    }
    let accepted: &[&str] = match known {
        Kind::NetworkPolicy => &[NETWORKING],
        Kind::ClusterNetworkPolicy => &CLUSTER_POLICY,
        Kind::Pod | Kind::Namespace | Kind::Service | Kind::Node => &[CORE],
    };
    let is_accepted = api_version.is_some_and(|version| accepted.contains(&version));
    if let Some(expected) = accepted.first().filter(|_| !is_accepted) {
        let found = api_version.map_or_else(|| "missing".to_owned(), quoted);
        let gone =
            if api_version == Some(EXTENSIONS) { ", and Kubernetes 1.16 removed it" } else { "" };
        let message = format!("is {found}, not {expected}{gone}: the object is read as {expected}");
        converted.diagnostics.insert(0, about(known, value, "apiVersion", message));
    }
    converted
}

/// A finding on a field at the top of an object.
fn about(kind: Kind, value: &Value, field: &str, message: String) -> Diagnostic {
    let (metadata, _) = Metadata::from_value(kind, Fields::of(value));
    let object = ObjectRef { kind, name: metadata.object_name(kind) };
    Diagnostic { code: Code::Malformed, object, field: field.to_owned(), message }
}

/// The kind, if netpol uses it.
///
/// A `NetworkPolicy` of a version or group that nobody else has is taken for what it probably should
/// be: passing it over would open what it isolates.
fn supported(api_version: Option<&str>, kind: &str) -> Option<Kind> {
    let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
    let group = api_version.and_then(|version| version.split_once('/')).map(|(group, _)| group);
    let is_ours = match kind {
        Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => {
            group.is_none_or(|group| !FOREIGN_GROUPS.contains(&group))
        }
        Kind::Pod | Kind::Namespace | Kind::Service | Kind::Node => group.is_none(),
    };
    is_ours.then_some(kind)
}

fn convert(kind: Kind, value: &Value) -> Converted {
    if kind == Kind::NetworkPolicy {
        let (policy, diagnostics) = policy(value);
        return Converted {
            object: policy.map(Object::Policy),
            diagnostics,
            unsupported_kind: None,
        };
    }
    if kind == Kind::ClusterNetworkPolicy {
        let (policy, diagnostics) = cluster_policy(value);
        return Converted {
            object: policy.map(Object::ClusterPolicy),
            diagnostics,
            unsupported_kind: None,
        };
    }
    let fields = Fields::of(value);
    let (metadata, mut findings) = Metadata::from_value(kind, fields);
    if Metadata::is_misplaced(fields) {
        return Converted { diagnostics: findings.into_diagnostics(), ..Converted::default() };
    }
    let (object, diagnostics) = match kind {
        Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => (None, Vec::new()),
        Kind::Pod => {
            let spec = section(fields, "spec", &mut findings);
            let status = section(fields, "status", &mut findings);
            let (pod, diagnostics) = pod(metadata, &spec, Some(&status));
            (pod.map(Object::Pod), diagnostics)
        }
        Kind::Namespace => {
            let (namespace, diagnostics) = namespace(metadata);
            (namespace.map(Object::Namespace), diagnostics)
        }
        Kind::Service => {
            let spec = section(fields, "spec", &mut findings);
            let status = section(fields, "status", &mut findings);
            let (service, diagnostics) = service(&metadata, &spec, Some(&status));
            (service.map(Object::Service), diagnostics)
        }
        Kind::Node => {
            let spec = section(fields, "spec", &mut findings);
            let status = section(fields, "status", &mut findings);
            let (node, diagnostics) = node(&metadata, Some(&spec), Some(&status));
            (node.map(Object::Node), diagnostics)
        }
    };
    let mut all = findings.into_diagnostics();
    all.extend(diagnostics);
    Converted { object, diagnostics: all, unsupported_kind: None }
}

/// The objects in a value, each with its place: the value itself (an empty place), or the items of a
/// `List`, a `PodList` and the like, also of lists in lists (`items[2]`, `items[0].items[1]`).
///
/// Items of a typed list have neither `apiVersion` nor `kind`; they get those that the list implies.
pub fn expand(value: Value) -> Vec<(String, Value)> {
    let mut expanded = Vec::new();
    let mut pending = vec![(String::new(), value)];
    while let Some((place, mut value)) = pending.pop() {
        let Some(item_kind) = list_item_kind(&value) else {
            expanded.push((place, value));
            continue;
        };
        let api_version = value.get("apiVersion").cloned();
        let items = value.get_mut("items").map(Value::take).unwrap_or_default();
        let Value::Array(items) = items else { continue };
        let prefix = if place.is_empty() { String::new() } else { format!("{place}.") };
        // Reversed, because the last one pushed is the next one taken.
        for (index, mut item) in items.into_iter().enumerate().rev() {
            inherit(&mut item, &item_kind, api_version.as_ref());
            pending.push((format!("{prefix}items[{index}]"), item));
        }
    }
    expanded
}

/// Gives an item of a list the kind and the version that the list has for its items, unless the item has its own.
pub fn inherit(item: &mut Value, item_kind: &str, api_version: Option<&Value>) {
    if let (Value::Object(fields), false) = (item, item_kind.is_empty()) {
        fields.entry("kind").or_insert_with(|| Value::from(item_kind));
        if let Some(api_version) = api_version {
            fields.entry("apiVersion").or_insert_with(|| api_version.clone());
        }
    }
}

/// `None` if the value is no list; the kind of its items, empty if the list's kind does not tell.
pub fn list_item_kind(value: &Value) -> Option<String> {
    let item_kind = value.get("kind")?.as_str()?.strip_suffix("List")?;
    let is_list = matches!(value.get("items"), Some(Value::Array(_) | Value::Null));
    is_list.then(|| item_kind.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn messages(converted: &Converted) -> Vec<String> {
        converted.diagnostics.iter().map(ToString::to_string).collect()
    }

    #[track_caller]
    fn check(api_version: &str, kind: &str, expected: Result<usize, &str>) {
        let value = json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": "a" } });
        let converted = object(&value);
        let found = match &converted.unsupported_kind {
            None => Ok(converted.diagnostics.len()),
            Some(kind) => Err(kind.as_str()),
        };
        assert_eq!(found, expected);
        assert_eq!(converted.object.is_some(), expected.is_ok());
    }

    #[test]
    fn objects_are_told_apart_by_kind_and_version() {
        check("networking.k8s.io/v1", "NetworkPolicy", Ok(0));
        for kind in ["Pod", "Namespace", "Service", "Node"] {
            check("v1", kind, Ok(0));
            check("example.org/v1", kind, Err(&format!("example.org/v1 {kind}")));
        }
        check("apps/v1", "Deployment", Err("apps/v1 Deployment"));
        check("cilium.io/v2", "CiliumNetworkPolicy", Err("cilium.io/v2 CiliumNetworkPolicy"));
        assert_eq!(object(&json!(5)).unsupported_kind.as_deref(), Some("? ?"));
    }

    #[test]
    fn a_policy_of_an_unknown_version_is_read_and_reported() {
        let versions =
            ["networking.k8s.io/v2", "networking.k8s.oi/v1", "extensions/v1beta1", "v1", ""];
        for version in versions {
            check(version, "NetworkPolicy", Ok(1));
        }
        let converted = object(&json!({ "kind": "NetworkPolicy", "metadata": { "name": "a" } }));
        assert_eq!(
            messages(&converted),
            [
                "NetworkPolicy default/a: apiVersion is missing, not networking.k8s.io/v1: the object is read as networking.k8s.io/v1 [malformed]"
            ]
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_counts_as_missing_and_the_rest_is_kept() {
        let converted = object(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "a", "labels": { "app": "web", "tier": 1 } },
            "spec": { "nodeName": 5, "hostNetwork": "true", "containers": [
                { "ports": [{ "containerPort": "80" }, { "containerPort": 443 }, null] },
                null,
            ] },
            "status": { "podIPs": [{ "ip": "10.0.0.1" }, { "ip": 7 }, "10.0.0.2"], "phase": 3 },
        }));
        expect_test::expect![[r#"
            Pod default/a: metadata.labels[tier] is a number, not a string (it needs quotes): it is taken as it is written [malformed]
            Pod default/a: spec.containers[0].ports[0].containerPort cannot be read (invalid type: string "80", expected i32): it is ignored [malformed]
            Pod default/a: spec.hostNetwork cannot be read (invalid type: string "true", expected a boolean): it is ignored [malformed]
            Pod default/a: spec.nodeName cannot be read (invalid type: integer `5`, expected a string): it is ignored [malformed]
            Pod default/a: status.phase cannot be read (invalid type: integer `3`, expected string or map): it is ignored [malformed]
            Pod default/a: status.podIPs[1].ip cannot be read (invalid type: integer `7`, expected a string): it is ignored [malformed]
            Pod default/a: status.podIPs[2] cannot be read (invalid type: string "10.0.0.2", expected struct PodAddress): it is ignored [malformed]
            Pod default/a: spec.containers[0].ports[0].containerPort 0 is not within 1 and 65535: the port is left out [invalid-port]
            Pod default/a: spec.containers[0].ports[2].containerPort 0 is not within 1 and 65535: the port is left out [invalid-port]"#]]
        .assert_eq(&messages(&converted).join("\n"));
        let Some(Object::Pod(pod)) = converted.object else { panic!("a pod") };
        assert_eq!(pod.ports.len(), 1);
        assert_eq!(pod.reported_addresses.len(), 1);
        assert_eq!(pod.labels.get("tier").map(|value| &**value), Some("1"));
        assert!(!pod.host_network);
    }

    #[test]
    fn services_and_nodes_have_the_addresses_that_the_node_translates_or_holds() {
        let addresses = |value: Value| match object(&value).object {
            Some(Object::Service(service)) => service.addresses,
            Some(Object::Node(node)) => node.addresses,
            _ => panic!("a service or a node"),
        };
        let texts = |value: Value| -> Vec<String> {
            addresses(value).iter().map(ToString::to_string).collect()
        };
        let service = |spec: Value, status: Value| {
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a" },
                "spec": spec, "status": status,
            })
        };
        let ingress = json!([
            { "ip": "203.0.113.1" }, { "hostname": "lb.example.org" },
            { "ip": "203.0.113.2", "ipMode": "Proxy" }, { "ip": "203.0.113.3", "ipMode": "VIP" },
        ]);
        assert_eq!(
            texts(service(
                json!({
                    "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
                    "externalIPs": ["198.51.100.1"],
                }),
                json!({ "loadBalancer": { "ingress": ingress } }),
            )),
            ["10.96.0.1", "fd00::1", "198.51.100.1", "203.0.113.1", "203.0.113.3"]
        );
        assert!(
            texts(service(json!({ "clusterIP": "None", "clusterIPs": ["None"] }), json!({})))
                .is_empty()
        );
        assert!(texts(service(json!({ "type": "ExternalName" }), Value::Null)).is_empty());
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": "a" },
            "status": { "addresses": [
                { "type": "InternalIP", "address": "192.0.2.1" },
                { "type": "Hostname", "address": "192.0.2.9" },
                { "type": "Hostname", "address": "a.example.org" },
                { "type": "ExternalIP", "address": "2001:db8::1" },
            ] },
        });
        assert_eq!(texts(node), ["192.0.2.1", "192.0.2.9", "2001:db8::1"]);
    }

    #[test]
    fn a_namespace_always_has_its_name_as_a_label() {
        for labels in [json!(null), json!({ "kubernetes.io/metadata.name": "other", "a": "b" })] {
            let metadata = json!({ "name": "shop", "labels": labels });
            let value = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata });
            let Some(Object::Namespace(namespace)) = object(&value).object else { panic!() };
            let name = namespace.labels.get("kubernetes.io/metadata.name");
            assert_eq!(name.map(|value| &**value), Some("shop"));
        }
    }

    #[test]
    fn lists_are_expanded_in_order_and_typed_lists_imply_the_kind() {
        let expanded = expand(json!({
            "apiVersion": "v1", "kind": "List", "items": [
                { "kind": "Pod" },
                { "apiVersion": "v1", "kind": "PodList", "items": [{}, { "kind": "Other" }, 5] },
                { "apiVersion": "v1", "kind": "List", "items": null },
                { "kind": "List", "items": {} },
            ],
        }));
        let expanded: Vec<_> =
            expanded.iter().map(|(place, value)| format!("{place} {value}")).collect();
        expect_test::expect![[r#"
            items[0] {"kind":"Pod"}
            items[1].items[0] {"apiVersion":"v1","kind":"Pod"}
            items[1].items[1] {"apiVersion":"v1","kind":"Other"}
            items[1].items[2] 5
            items[3] {"items":{},"kind":"List"}"#]]
        .assert_eq(&expanded.join("\n"));
    }

    proptest! {
        #[test]
        fn arbitrary_sections_never_panic(
            kind in prop::sample::select(&["Pod", "Namespace", "Service", "Node"]),
            text in "[\\[{\"a-zA-Z0-9:,}\\]]{0,12}",
            field in prop::sample::select(&[
                "podIPs", "phase", "containers", "clusterIPs", "loadBalancer", "addresses", "labels",
            ]),
        ) {
            let junk = serde_json::from_str(&text).unwrap_or(Value::from(text));
            for value in [junk.clone(), json!([junk]), json!({ "ports": [junk], "ingress": junk })] {
                let converted = object(&json!({
                    "apiVersion": "v1", "kind": kind,
                    "metadata": { "name": "a", field: value },
                    "spec": { field: value }, "status": { field: value },
                }));
                prop_assert!(converted.object.is_some());
            }
        }
    }
}
