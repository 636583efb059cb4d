//! The agent's identity at a real server: the service account of `deploy/base`, with a name of the test's own.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use netpol_policy::model::Kind;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::admin::{Admin, status_of};
use super::keys;
use crate::deployment::{at, folder, items, objects, of_kind, texts};
use crate::settings::patience;

/// How long a server may accept a revoked token: it caches successful authentications for ten seconds.
const REVOCATION_LIMIT: Duration = Duration::from_secs(40);

/// Polling interval.
const PAUSE: Duration = Duration::from_millis(200);

/// The agent's permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Those of `deploy/base`.
    Deployed,
    /// Those of `deploy/base` without any for this kind.
    Without(Kind),
}

/// The account, with its role.
#[derive(Debug)]
pub(super) struct Account {
    namespace: String,
    role: String,
}

impl Account {
    /// In a namespace of its own.
    pub(super) fn named(namespace: &str, suffix: &str) -> Self {
        Self { namespace: namespace.to_owned(), role: format!("netpol-agent-{suffix}") }
    }

    /// Its namespace.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its user name.
    pub(super) fn user(&self) -> String {
        format!("system:serviceaccount:{}:netpol-agent", self.namespace)
    }

    /// The RBAC objects of `deploy/base`, renamed.
    pub(super) fn objects(&self) -> Result<Vec<Value>> {
        let mut made = base("namespace.yaml")?;
        made.extend(base("rbac.yaml")?);
        for object in &mut made {
            let names = [
                ("Namespace", "/metadata/name", &self.namespace),
                ("ServiceAccount", "/metadata/namespace", &self.namespace),
                ("ClusterRole", "/metadata/name", &self.role),
                ("ClusterRoleBinding", "/metadata/name", &self.role),
                ("ClusterRoleBinding", "/roleRef/name", &self.role),
                ("ClusterRoleBinding", "/subjects/0/namespace", &self.namespace),
            ];
            for (kind, place, name) in names {
                if object.get("kind").is_some_and(|found| found == kind) {
                    *object.pointer_mut(place).with_context(|| format!("no {place}"))? =
                        json!(name);
                }
            }
        }
        Ok(made)
    }

    /// Its role.
    pub(super) fn role(&self, rules: Rules) -> Result<Value> {
        let objects = self.objects()?;
        let mut role = of_kind(&objects, "ClusterRole")?.clone();
        if let Rules::Without(kind) = rules {
            let plural = match kind {
                Kind::NetworkPolicy => "networkpolicies",
                Kind::ClusterNetworkPolicy => "clusternetworkpolicies",
                Kind::Pod => "pods",
                Kind::Namespace => "namespaces",
                Kind::Service => "services",
                Kind::Node => "nodes",
            };
            let rules = role.get_mut("rules").and_then(Value::as_array_mut).context("no rules")?;
            for rule in rules.iter_mut() {
                let resources = rule.get_mut("resources").and_then(Value::as_array_mut);
                resources.context("no resources")?.retain(|resource| resource != plural);
            }
            rules.retain(|rule| rule.get("resources") != Some(&json!([])));
        }
        Ok(role)
    }

    /// Issues a token; [`Account::revoke`] revokes it by its number.
    pub(super) async fn token(&self, admin: &Admin, number: usize) -> Result<String> {
        let lifeline = self.lifeline(number);
        admin.put(lifeline.clone()).await?;
        let uid = admin.read(&lifeline).await?.pointer("/metadata/uid").cloned();
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                // The shortest lifetime that a server grants.
                "expirationSeconds": 600,
                "boundObjectRef": {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "name": lifeline_name(number),
                    "uid": uid,
                },
            },
        });
        let path =
            format!("/api/v1/namespaces/{}/serviceaccounts/netpol-agent/token", self.namespace);
        let answer = admin.post(&path, &request).await?;
        let token = answer.pointer("/status/token").and_then(Value::as_str);
        token.map(str::to_owned).context("there is no token in the answer")
    }

    /// Revokes the agent's token.
    pub(super) async fn revoke(&self, admin: &Admin, number: usize, folder: &Path) -> Result<()> {
        admin.delete(&self.lifeline(number)).await?;
        let bearer = Admin::open(&folder.join("kubeconfig")).await?;
        let deadline = Instant::now() + REVOCATION_LIMIT * patience();
        let review =
            json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
        loop {
            let answer = bearer.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review);
            match answer.await {
                Err(error) if status_of(&error) == Some(401) => return Ok(()),
                answer => ensure!(
                    Instant::now() < deadline,
                    "the server still accepts the token: {answer:?}"
                ),
            }
            sleep(PAUSE).await;
        }
    }

    /// The account's permissions in the namespace, without those that every account has (self-review requests).
    pub(super) async fn granted(
        &self,
        agent: &Admin,
    ) -> Result<BTreeSet<(String, String, String)>> {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": { "namespace": self.namespace },
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
        let answer = agent.post(path, &review).await?;
        let mut granted = BTreeSet::new();
        for rule in items(at(&answer, "/status/resourceRules")) {
            for (group, resource) in texts(at(rule, "/apiGroups")).into_iter().flat_map(|group| {
                texts(at(rule, "/resources")).into_iter().map(move |r| (group, r))
            }) {
                for verb in texts(at(rule, "/verbs")) {
                    granted.insert((group.to_owned(), resource.to_owned(), verb.to_owned()));
                }
            }
        }
        granted.retain(|(group, resource, _)| {
            !(group.ends_with("ation.k8s.io") && resource.starts_with("selfsubject"))
        });
        Ok(granted)
    }

    /// A token is valid while the object exists that it is bound to.
    fn lifeline(&self, number: usize) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "namespace": self.namespace, "name": lifeline_name(number) },
        })
    }
}

fn lifeline_name(number: usize) -> String {
    format!("lifeline-{number}")
}

fn base(file: &str) -> Result<Vec<Value>> {
    objects(&fs::read_to_string(folder().join("base").join(file))?)
}

/// A server's address and TLS identity.
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    /// Certificates of its CA.
    pub(super) trusted: String,
    /// The name in the server's certificate.
    pub(super) name: Option<String>,
}

/// The server of a kubeconfig.
pub(super) async fn endpoint(kubeconfig: &Path) -> Result<Endpoint> {
    let read = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    let url = config.cluster_url;
    ensure!(url.scheme_str() == Some("https"), "{url}: a real server needs https");
    let host = url.host().context("the server has no name")?.trim_matches(['[', ']']).to_owned();
    let port = url.port_u16().unwrap_or(443);
    let address = tokio::net::lookup_host((host.as_str(), port)).await?.next();
    let address = address.with_context(|| format!("{host} has no address"))?;
    let root = config.root_cert.unwrap_or_default();
    let trusted = root.iter().map(|der| keys::certificate(der)).collect();
    Ok(Endpoint { address, trusted, name: config.tls_server_name.or(Some(host)) })
}

/// Writes the agent's kubeconfig, without a certificate if none is trusted.
pub(super) fn write_kubeconfig(
    folder: &Path,
    url: &str,
    trusted: &str,
    server_name: Option<&str>,
) -> Result<()> {
    let mut cluster = Map::from_iter([("server".to_owned(), json!(url))]);
    if !trusted.is_empty() {
        write_trusted(folder, trusted)?;
        cluster.insert("certificate-authority".to_owned(), json!(folder.join("ca.crt")));
    }
    if let Some(name) = server_name {
        cluster.insert("tls-server-name".to_owned(), json!(name));
    }
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "test", "cluster": cluster }],
        "users": [{ "name": "agent", "user": { "tokenFile": folder.join("token") } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "agent" } }],
        "current-context": "test",
    });
    write(folder, "kubeconfig", &kubeconfig.to_string())
}

/// Writes the agent's CA file.
pub(super) fn write_trusted(folder: &Path, certificate: &str) -> Result<()> {
    write(folder, "ca.crt", certificate)
}

/// Writes the agent's token.
pub(super) fn write_token(folder: &Path, token: &str) -> Result<()> {
    write(folder, "token", token)
}

/// Replaces the file atomically.
fn write(folder: &Path, file: &str, text: &str) -> Result<()> {
    let draft = folder.join(format!("{file}.new"));
    fs::write(&draft, text).with_context(|| format!("writing {}", draft.display()))?;
    fs::rename(&draft, folder.join(file)).with_context(|| format!("writing {file}"))
}
