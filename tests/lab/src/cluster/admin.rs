//! An administrator's requests to an API server: create, change, and delete objects.

use std::path::Path;

use anyhow::{Context as _, Result};
use http::Request;
use netpol_kube::Access;
use serde_json::{Value, json};

/// One resource of the API, as requests name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    kind: &'static str,
    /// The path of its group and version.
    root: &'static str,
    plural: &'static str,
    /// The folder in `etcd`.
    pub(super) stored: &'static str,
}

/// The resources that tests use.
const RESOURCES: [Resource; 12] = [
    core("Pod", "pods", "pods"),
    core("Service", "services", "services/specs"),
    core("Namespace", "namespaces", "namespaces"),
    core("Node", "nodes", "minions"),
    core("ServiceAccount", "serviceaccounts", "serviceaccounts"),
    core("Secret", "secrets", "secrets"),
    of_group("NetworkPolicy", "/apis/networking.k8s.io/v1", "networkpolicies"),
    of_group("Event", "/apis/events.k8s.io/v1", "events"),
    of_group("DaemonSet", "/apis/apps/v1", "daemonsets"),
    of_group("ClusterRole", "/apis/rbac.authorization.k8s.io/v1", "clusterroles"),
    of_group("ClusterRoleBinding", "/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    of_group("SelfSubjectReview", "/apis/authentication.k8s.io/v1", "selfsubjectreviews"),
];

const fn core(kind: &'static str, plural: &'static str, stored: &'static str) -> Resource {
    Resource { kind, root: "/api/v1", plural, stored }
}

const fn of_group(kind: &'static str, root: &'static str, plural: &'static str) -> Resource {
    Resource { kind, root, plural, stored: plural }
}

/// The resource, namespace (empty for none) and name of an object.
pub(super) fn place(object: &Value) -> Result<(Resource, &str, &str)> {
    let text = |place: &str| object.pointer(place).and_then(Value::as_str).unwrap_or_default();
    let kind = text("/kind");
    let resource = RESOURCES.into_iter().find(|resource| resource.kind == kind);
    let resource = resource.with_context(|| format!("the kind {kind} is not known here"))?;
    Ok((resource, text("/metadata/namespace"), text("/metadata/name")))
}

/// The path of a kind's objects in a namespace, or of all without one.
pub(super) fn collection(kind: &str, namespace: &str) -> Result<String> {
    let (resource, ..) = place(&json!({ "kind": kind }))?;
    let Resource { kind: _, root, plural, stored: _ } = resource;
    Ok(if namespace.is_empty() {
        format!("{root}/{plural}")
    } else {
        format!("{root}/namespaces/{namespace}/{plural}")
    })
}

fn path(object: &Value) -> Result<String> {
    let (resource, namespace, name) = place(object)?;
    Ok(format!("{}/{name}", collection(resource.kind, namespace)?))
}

/// The HTTP status, if the error is a refusal by the server.
pub fn status_of(error: &anyhow::Error) -> Option<u16> {
    error.chain().find_map(|cause| {
        let kube::Error::Api(status) = cause.downcast_ref()? else { return None };
        Some(status.code)
    })
}

/// A client of an API server.
pub(super) struct Admin {
    access: Access,
}

impl Admin {
    /// The client that a kubeconfig describes.
    pub(super) async fn open(kubeconfig: &Path) -> Result<Self> {
        Ok(Self { access: Access::open(Some(kubeconfig)).await? })
    }

    /// GET of a path.
    pub(super) async fn get(&self, path: &str) -> Result<String> {
        self.ask("GET", path, "", String::new()).await
    }

    /// The items of a list.
    pub(super) async fn list(&self, path: &str) -> Result<Vec<Value>> {
        let mut list: Value = serde_json::from_str(&self.get(path).await?)?;
        let items = list.get_mut("items").map(Value::take);
        items.and_then(|items| serde_json::from_value(items).ok()).context("no list")
    }

    /// POST of a review, which the server answers and does not store.
    pub(super) async fn post(&self, path: &str, object: &Value) -> Result<Value> {
        let answer = self.ask("POST", path, "application/json", object.to_string()).await?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// Creates an object or updates it, including its status.
    pub(super) async fn put(&self, mut object: Value) -> Result<()> {
        let path = path(&object)?;
        let fields = object.as_object_mut().context("no object")?;
        let status = fields.remove("status");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            // The server sets these.
            metadata.retain(|field, _| {
                !["uid", "managedFields", "creationTimestamp"].contains(&&**field)
            });
        }
        let apply = format!("{path}?fieldManager=netpol-e2e&force=true");
        self.ask("PATCH", &apply, "application/apply-patch+yaml", object.to_string()).await?;
        if let Some(status) = status {
            let status = json!({ "status": status }).to_string();
            self.ask("PATCH", &format!("{path}/status"), "application/merge-patch+json", status)
                .await?;
        }
        Ok(())
    }

    /// An object that was put.
    pub(super) async fn read(&self, object: &Value) -> Result<Value> {
        Ok(serde_json::from_str(&self.get(&path(object)?).await?)?)
    }

    /// Deletes an object without a grace period.
    pub(super) async fn delete(&self, object: &Value) -> Result<()> {
        self.delete_at(&path(object)?).await
    }

    /// DELETE of a path without a grace period.
    pub(super) async fn delete_at(&self, path: &str) -> Result<()> {
        let path = format!("{path}?gracePeriodSeconds=0");
        self.ask("DELETE", &path, "", String::new()).await.map(drop)
    }

    /// The object as the server would store it (dry run of a create).
    pub(super) async fn try_create(&self, object: &Value) -> Result<Value> {
        let (resource, namespace, _) = place(object)?;
        let path = collection(resource.kind, namespace)?;
        self.post(&format!("{path}?dryRun=All&fieldValidation=Strict"), object).await
    }

    /// Whether we have this permission on a kind in all namespaces.
    pub(super) async fn may(&self, verb: &str, kind: &str) -> Result<bool> {
        let (resource, ..) = place(&json!({ "kind": kind }))?;
        let group = resource.root.strip_prefix("/apis/").and_then(|root| root.split('/').next());
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": {
                "verb": verb, "group": group.unwrap_or_default(), "resource": resource.plural,
            } },
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let answer = self.post(path, &review).await?;
        Ok(answer.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or(false))
    }

    /// Sends a request, without a body if that is null.
    pub(super) async fn ask_json(&self, method: &str, path: &str, body: &Value) -> Result<String> {
        if body.is_null() {
            return self.ask(method, path, "", String::new()).await;
        }
        self.ask(method, path, "application/json", body.to_string()).await
    }

    async fn ask(&self, method: &str, path: &str, sort: &str, body: String) -> Result<String> {
        let mut request = Request::builder().method(method).uri(path);
        if !sort.is_empty() {
            request = request.header(http::header::CONTENT_TYPE, sort);
        }
        let request = request.body(body.into_bytes())?;
        let answer = self.access.client().request_text(request).await;
        answer.with_context(|| format!("{method} {path}"))
    }
}
