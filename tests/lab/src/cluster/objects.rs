//! Creating, changing, deleting, and reading objects of a cluster.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use netpol_policy::model::Kind;
use serde_json::{Value, json};

use super::admin::{Admin, collection, status_of};
use super::{Able, Cluster, LABEL, Server, Side, UNNAMED, skip, unable};
use crate::deployment::objects;
use crate::fake_api::Asked;

impl Cluster {
    /// Creates an object or updates it, including its status.
    ///
    /// # Errors
    /// The server refuses it.
    pub async fn put(&self, mut object: Value) -> Result<()> {
        if matches!(self.server, Server::Given(_)) {
            make_harmless(&mut object);
        }
        match self.side() {
            Side::InProcess(api) => api.put(object).map(drop).context(UNNAMED),
            Side::Real(admin) => admin.put(object).await,
        }
    }

    /// Stores an object without the server's validation.
    ///
    /// # Errors
    /// It cannot be stored.
    pub async fn put_unchecked(&self, object: Value) -> Result<Able> {
        match &self.server {
            Server::InProcess(api) => {
                api.put(object).context(UNNAMED)?;
            }
            Server::Started(plane) => plane.store_unchecked(&object).await?,
            Server::Given(_) => {
                return Ok(unable("storing an invalid object needs access to etcd"));
            }
        }
        Ok(Able::Yes)
    }

    /// An object as the server has it.
    ///
    /// # Errors
    /// There is none.
    pub async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Value> {
        match self.side() {
            Side::InProcess(api) => {
                api.get(kind, namespace, name).with_context(|| format!("there is no {kind} {name}"))
            }
            Side::Real(admin) => admin.read(&reference(kind, namespace, name)).await,
        }
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// There is none, or the server refuses.
    pub async fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<()> {
        match self.side() {
            Side::InProcess(api) => {
                let deleted = api.delete(kind, namespace, name);
                deleted.map(drop).with_context(|| format!("there is no {kind} {name}"))
            }
            Side::Real(admin) => admin.delete(&reference(kind, namespace, name)).await,
        }
    }

    /// The Kubernetes Events of a namespace.
    ///
    /// # Errors
    /// The server refuses the request.
    pub async fn events(&self, namespace: &str) -> Result<Vec<Value>> {
        match self.side() {
            Side::InProcess(api) => {
                let mut events = api.events();
                let is_there = |event: &Value| {
                    event.pointer("/metadata/namespace").is_some_and(|found| found == namespace)
                };
                events.retain(is_there);
                Ok(events)
            }
            Side::Real(admin) => admin.list(&collection("Event", namespace)?).await,
        }
    }

    /// An object as a real server would store it.
    ///
    /// # Errors
    /// The server's reason for refusing it; or the server validates nothing.
    pub async fn try_create(&self, object: &Value) -> Result<Value> {
        match self.side() {
            Side::InProcess(_) => bail!("the server in this process validates nothing"),
            Side::Real(admin) => admin.try_create(object).await,
        }
    }

    /// Creates or changes an object as a user does: with `kubectl apply` at a real server.
    ///
    /// # Errors
    /// The server refuses it.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        let Server::Started(plane) = &self.server else {
            for object in objects(yaml)? {
                self.put(object).await?;
            }
            return Ok(());
        };
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(plane.kubeconfig()).args(["apply", "--filename", "-"]);
        kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = kubectl.spawn().context("starting kubectl")?;
        child.stdin.take().context("kubectl has no input")?.write_all(yaml.as_bytes())?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl apply: {said}");
        Ok(())
    }

    /// The paths of all list requests of the agent, watches excluded. `None` if the server has no audit log.
    ///
    /// # Errors
    /// The log is malformed.
    pub fn asked_lists(&self) -> Result<Option<Vec<String>>> {
        Ok(match &self.server {
            Server::InProcess(api) => {
                // Discovery of the kinds that a server may lack is no list.
                let is_list = |asked: &Asked| {
                    !asked.query.contains_key("watch")
                        && !asked.path.starts_with("/apis/policy.networking.k8s.io")
                };
                let lists = api.asked().into_iter().filter(is_list);
                Some(lists.map(|asked| asked.path).collect())
            }
            Server::Started(plane) => {
                let asked = plane.asked(&self.user().context("no account")?)?;
                let lists = asked
                    .iter()
                    .filter(|event| event.get("verb").is_some_and(|verb| verb == "list"));
                let path = |event: &Value| {
                    let uri = event.get("requestURI").and_then(Value::as_str).unwrap_or_default();
                    uri.split('?').next().unwrap_or_default().to_owned()
                };
                Some(lists.map(path).collect())
            }
            Server::Given(_) => None,
        })
    }

    /// The permissions of the agent's account in its namespace: group, resource, and verb; those of every account are left
    /// out. `None` if the server has no authorisation.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn granted(&self) -> Result<Option<BTreeSet<(String, String, String)>>> {
        let Some(account) = &self.account else {
            skip("the server in this process has no roles");
            return Ok(None);
        };
        let agent = Admin::open(&self.kubeconfig()).await?;
        Ok(Some(account.granted(&agent).await?))
    }

    /// The HTTP status of a request of the agent. `None` if the server has no authorisation.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn refusal_of_agent(
        &self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> Result<Option<u16>> {
        if self.account.is_none() {
            skip("the server in this process has no roles");
            return Ok(None);
        }
        let agent = Admin::open(&self.kubeconfig()).await?;
        match agent.ask_json(method, path, body).await {
            Ok(_) => Ok(Some(200)),
            Err(error) => status_of(&error).map(Some).ok_or(error),
        }
    }
}

/// Keeps kubelets from starting the pod, and labels cluster-scoped objects so that they can be removed.
fn make_harmless(object: &mut Value) {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind == "Pod"
        && let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.remove("nodeName");
        spec.insert("schedulerName".to_owned(), json!("netpol-e2e-nobody"));
        spec.insert("automountServiceAccountToken".to_owned(), json!(false));
    }
    if ["Namespace", "Node", "ClusterRole", "ClusterRoleBinding"].contains(&&*kind) {
        let run = std::env::var("NETPOL_E2E_RUN").unwrap_or_default();
        let labels = object.pointer_mut("/metadata").and_then(Value::as_object_mut);
        let labels = labels.map(|metadata| metadata.entry("labels").or_insert(json!({})));
        if let Some(labels) = labels.and_then(Value::as_object_mut) {
            labels.insert(LABEL.to_owned(), json!(run));
        }
    }
}

fn reference(kind: Kind, namespace: &str, name: &str) -> Value {
    json!({ "kind": kind.as_str(), "metadata": { "namespace": namespace, "name": name } })
}
