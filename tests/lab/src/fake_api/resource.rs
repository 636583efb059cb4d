//! The resources that the server knows.

use serde_json::{Value, json};

/// One resource of the API.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resource {
    /// API group; empty for the core group.
    pub(super) group: &'static str,
    /// Version in the group.
    pub(super) version: &'static str,
    /// Kind of its objects.
    pub(super) kind: &'static str,
    /// Name in paths.
    pub(super) plural: &'static str,
    /// Its scope.
    pub(super) scope: Scope,
}

/// The scope of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Namespaced.
    Namespaced,
    /// Cluster-scoped.
    Cluster,
}

/// Every resource; its index in this table is the number of its collection.
pub(super) const RESOURCES: [Resource; 13] = [
    core("Pod", "pods", Scope::Namespaced),
    core("Service", "services", Scope::Namespaced),
    core("Namespace", "namespaces", Scope::Cluster),
    core("Node", "nodes", Scope::Cluster),
    Resource {
        group: "networking.k8s.io",
        version: "v1",
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        scope: Scope::Namespaced,
    },
    Resource {
        group: "events.k8s.io",
        version: "v1",
        kind: "Event",
        plural: "events",
        scope: Scope::Namespaced,
    },
    Resource {
        group: "discovery.k8s.io",
        version: "v1",
        kind: "EndpointSlice",
        plural: "endpointslices",
        scope: Scope::Namespaced,
    },
    core("ConfigMap", "configmaps", Scope::Namespaced),
    Resource {
        group: CUSTOM_GROUP,
        version: "v1alpha2",
        kind: "ClusterNetworkPolicy",
        plural: "clusternetworkpolicies",
        scope: Scope::Cluster,
    },
    Resource {
        group: "coordination.k8s.io",
        version: "v1",
        kind: "Lease",
        plural: "leases",
        scope: Scope::Namespaced,
    },
    admission("ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
    admission("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
    Resource {
        group: "apiregistration.k8s.io",
        version: "v1",
        kind: "APIService",
        plural: "apiservices",
        scope: Scope::Cluster,
    },
];

/// The group of the resource that has to be installed before it is served, in the versions that a test sets.
pub(super) const CUSTOM_GROUP: &str = "policy.networking.k8s.io";

const fn core(kind: &'static str, plural: &'static str, scope: Scope) -> Resource {
    Resource { group: "", version: "v1", kind, plural, scope }
}

const fn admission(kind: &'static str, plural: &'static str) -> Resource {
    let (group, version) = ("admissionregistration.k8s.io", "v1");
    Resource { group, version, kind, plural, scope: Scope::Cluster }
}

impl Resource {
    /// `apiVersion` of its objects.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The path under which its objects are listed, in all namespaces.
    fn path(&self) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        format!("{root}/{}/{}", self.api_version(), self.plural)
    }
}

/// The number of the resource to which an object belongs.
pub(super) fn of_object(object: &Value) -> Option<usize> {
    let kind = object.get("kind")?.as_str()?;
    let api_version = object.get("apiVersion")?.as_str()?;
    RESOURCES
        .iter()
        .position(|resource| resource.kind == kind && resource.api_version() == api_version)
}

/// A parsed request path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ResourcePath {
    /// Number of the resource.
    pub(super) resource: usize,
    /// The namespace, if the path holds one.
    pub(super) namespace: Option<String>,
    /// The object, if the path names one.
    pub(super) name: Option<String>,
}

/// Reads a request path.
pub(super) fn parse_path(path: &str) -> Option<ResourcePath> {
    RESOURCES.iter().enumerate().find_map(|(number, resource)| {
        let all = resource.path();
        let root = all.strip_suffix(resource.plural)?;
        let rest = path.strip_prefix(root)?;
        let mut parts: Vec<&str> = rest.split('/').collect();
        let mut namespace = None;
        if resource.scope == Scope::Namespaced
            && parts.len() > 2
            && parts.first() == Some(&"namespaces")
        {
            namespace = parts.get(1).map(|&name| name.to_owned());
            parts.drain(..2);
        }
        match parts.as_slice() {
            [plural] if *plural == resource.plural => {
                Some(ResourcePath { resource: number, namespace, name: None })
            }
            // The status is a part of the object, for which no right is needed here.
            [plural, name] | [plural, name, "status"] if *plural == resource.plural => {
                Some(ResourcePath { resource: number, namespace, name: Some((*name).to_owned()) })
            }
            _ => None,
        }
    })
}

/// The path under which the objects of another version of the custom resource are stored, if it is served.
pub(super) fn stored_path(path: &str, served: &[&str]) -> Option<String> {
    let Some(rest) = path.strip_prefix(&format!("/apis/{CUSTOM_GROUP}/")) else {
        return Some(path.to_owned());
    };
    let (version, rest) = rest.split_once('/')?;
    served.contains(&version).then(|| format!("/apis/{CUSTOM_GROUP}/v1alpha2/{rest}"))
}

/// The document that lists the versions of the custom group, or the resources of one version of it; `None` if it is not
/// served.
pub(super) fn discovery(path: &str, served: &[&str]) -> Option<Value> {
    let version = |version: &str| json!({ "groupVersion": format!("{CUSTOM_GROUP}/{version}"), "version": version });
    let versions: Vec<Value> = served.iter().map(|served| version(served)).collect();
    let rest = path.strip_prefix(&format!("/apis/{CUSTOM_GROUP}"))?;
    if rest.is_empty() {
        return versions.first().map(|first| {
            json!({
                "kind": "APIGroup", "apiVersion": "v1", "name": CUSTOM_GROUP,
                "versions": versions, "preferredVersion": first,
            })
        });
    }
    let version = rest.strip_prefix('/').filter(|version| served.contains(version))?;
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{CUSTOM_GROUP}/{version}"),
        "resources": [{
            "name": "clusternetworkpolicies", "singularName": "clusternetworkpolicy", "namespaced": false,
            "kind": "ClusterNetworkPolicy", "verbs": ["get", "list", "watch"],
        }],
    }))
}

/// The documents that say what the core group has, for clients that look for everything; `None` for other paths.
pub(super) fn core_discovery(path: &str) -> Option<Value> {
    match path {
        "/api" => Some(json!({ "kind": "APIVersions", "versions": ["v1"] })),
        "/api/v1" => {
            let core = RESOURCES.iter().filter(|resource| resource.group.is_empty());
            let resources = core.map(|Resource { kind, plural, scope, .. }| {
                json!({
                    "name": plural, "singularName": "", "kind": kind, "namespaced": *scope == Scope::Namespaced,
                    "verbs": ["get", "list", "watch"],
                })
            });
            let resources: Vec<_> = resources.collect();
            Some(json!({ "kind": "APIResourceList", "groupVersion": "v1", "resources": resources }))
        }
        _ => None,
    }
}

/// Whether a path is one of [`discovery`].
pub(super) fn is_discovery(path: &str) -> bool {
    path.strip_prefix(&format!("/apis/{CUSTOM_GROUP}"))
        .is_some_and(|rest| rest.is_empty() || !rest.trim_start_matches('/').contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, kind: &str, namespace: Option<&str>, name: Option<&str>) {
        let place = parse_path(path).unwrap();
        assert_eq!(RESOURCES[place.resource].kind, kind, "{path}");
        assert_eq!(place.namespace.as_deref(), namespace, "{path}");
        assert_eq!(place.name.as_deref(), name, "{path}");
    }

    #[test]
    fn paths_name_collections_and_objects() {
        check("/api/v1/pods", "Pod", None, None);
        check("/api/v1/namespaces/shop/pods/web", "Pod", Some("shop"), Some("web"));
        check("/api/v1/namespaces", "Namespace", None, None);
        check("/api/v1/namespaces/shop", "Namespace", None, Some("shop"));
        check("/apis/networking.k8s.io/v1/networkpolicies", "NetworkPolicy", None, None);
        check("/apis/events.k8s.io/v1/namespaces/shop/events", "Event", Some("shop"), None);
        assert_eq!(parse_path("/api/v1/secrets"), None);
    }
}
