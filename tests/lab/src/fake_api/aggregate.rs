//! Users with rights, tokens of pods, and an aggregated API server behind this one.
//!
//! In: users, a rule that says what they may do, tokens; the address of an aggregated server. Out: reviews of tokens and of rights, and
//! requests that are passed on with the user's name, on a connection with the client certificate for aggregation.

use std::fmt;
use std::io;
use std::sync::Arc;

use anyhow::Context as _;
use http::header::{ACCEPT, HOST, HeaderName};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::ByteString;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName,
};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::serve::{Body, Refusal, bad_request, respond};
use super::{FakeApi, Shared};

/// The group that the aggregated server serves, and the name of its `APIService`.
const GROUP: &str = "observe.netpol.dev";
const API_SERVICE: &str = "v1alpha1.observe.netpol.dev";
const SERVER_NAME: &str = "netpol-observer.netpol-system.svc";

/// The name of the user of a request without a token: it may do everything.
const ADMIN: &str = "admin";

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user's name.
    pub name: String,
    /// The user's groups.
    pub groups: Vec<String>,
}

/// What somebody wants to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// Such as `list`.
    pub verb: String,
    /// API group; empty for the core group.
    pub group: String,
    /// Such as `drops` or `pods/exec`.
    pub resource: String,
    /// `None`: all of them, or a resource without namespaces.
    pub namespace: Option<String>,
}

/// Connects to the aggregated server, from the network namespace where it can be reached.
type Connector = Arc<dyn Fn() -> anyhow::Result<std::net::TcpStream> + Send + Sync>;

type Rule = Arc<dyn Fn(&User, &Deed) -> bool + Send + Sync>;

/// Users, tokens, and the aggregated server.
#[derive(Clone, Default)]
pub(super) struct Aggregate {
    users: Vec<(String, User)>,
    rule: Option<Rule>,
    /// Tokens of pods: the status of their review, for one audience.
    tokens: Vec<(String, String, Value)>,
    server: Option<(Connector, Arc<ClientIdentity>)>,
}

/// How a GET reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Once.
    Once,
    /// With what changes later.
    Watch,
}

/// The client certificate for aggregation.
struct ClientIdentity {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl fmt::Debug for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aggregate").field("users", &self.users).finish_non_exhaustive()
    }
}

/// The certificates of a front proxy with this name: of its authority in PEM, and its own with the key in PKCS #8.
///
/// # Errors
/// They cannot be made.
pub fn front_proxy(name: &str) -> anyhow::Result<(String, CertificateDer<'static>, Vec<u8>)> {
    let mut of_authority = CertificateParams::default();
    of_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    of_authority.distinguished_name.push(DnType::CommonName, "front-proxy-ca");
    let authority = CertifiedIssuer::self_signed(of_authority, KeyPair::generate()?)?;
    let mut of_client = CertificateParams::default();
    of_client.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate()?;
    let client = of_client.signed_by(&key, &authority)?;
    let pem = pem::encode(&pem::Pem::new("CERTIFICATE", authority.der().to_vec()));
    Ok((pem, client.der().clone(), key.serialize_der()))
}

impl FakeApi {
    /// Knows a user by a token. Requests without a token of a user may do everything.
    pub fn add_user(&self, token: &str, name: &str, groups: &[&str]) {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let user = User { name: name.to_owned(), groups };
        self.shared.change(|state| state.aggregate.users.push((token.to_owned(), user)));
    }

    /// Sets what users may do. Before, it is nothing.
    pub fn allow(&self, rule: impl Fn(&User, &Deed) -> bool + Send + Sync + 'static) {
        self.shared.change(|state| state.aggregate.rule = Some(Arc::new(rule)));
    }

    /// Knows a token of a pod for an audience: whom it is of, and what it is bound to (`extra`).
    pub fn add_token(&self, token: &str, audience: &str, user: &str, extra: &Value) {
        let status = json!({
            "authenticated": true, "audiences": [audience], "user": { "username": user, "extra": extra },
        });
        let known = (token.to_owned(), audience.to_owned(), status);
        self.shared.change(|state| state.aggregate.tokens.push(known));
    }

    /// Passes requests for the group `observe.netpol.dev` on, each on a connection that `connector` makes, and creates what an aggregated
    /// server must find: the `ConfigMap` that says by whom requests are passed on, and its `APIService`.
    ///
    /// # Errors
    /// The certificates cannot be made.
    pub fn aggregate(
        &self,
        connector: impl Fn() -> anyhow::Result<std::net::TcpStream> + Send + Sync + 'static,
    ) -> anyhow::Result<()> {
        let name = "front-proxy-client";
        let (authority, certificate, key) = front_proxy(name)?;
        self.put(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
            "data": {
                "requestheader-client-ca-file": authority,
                "requestheader-allowed-names": json!([name]).to_string(),
                "requestheader-username-headers": r#"["X-Remote-User"]"#,
                "requestheader-group-headers": r#"["X-Remote-Group"]"#,
                "requestheader-extra-headers-prefix": r#"["X-Remote-Extra-"]"#,
            },
        }));
        self.put(json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": { "name": API_SERVICE },
            "spec": { "group": GROUP, "version": "v1alpha1", "groupPriorityMinimum": 1000, "versionPriority": 10 },
        }));
        self.put(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "netpol-observer", "namespace": "netpol-system" },
        }));
        let identity = Arc::new(ClientIdentity { certificate, key });
        self.shared.change(|state| state.aggregate.server = Some((Arc::new(connector), identity)));
        Ok(())
    }
}

impl FakeApi {
    /// Asks the aggregated server without this one, as a pod could, with a client certificate or without, and says to be `user`.
    /// Returns the status of the answer.
    ///
    /// # Errors
    /// There is none, or it ends the connection.
    pub async fn ask_past(
        &self,
        identity: Option<(CertificateDer<'static>, Vec<u8>)>,
        user: &str,
        path: &str,
    ) -> anyhow::Result<StatusCode> {
        let identity =
            identity.map(|(certificate, key)| Arc::new(ClientIdentity { certificate, key }));
        let stream = connect(&self.shared, |_| identity).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move { drop(connection.await) });
        let request = Request::get(path)
            .header(HOST, SERVER_NAME)
            .header("x-remote-user", user)
            .header("x-remote-group", "system:masters")
            .body(Full::new(Bytes::new()))?;
        Ok(sender.send_request(request).await?.status())
    }
}

impl Aggregate {
    /// Who has this token, or is named by the administrator, who has none (`kubectl --as`).
    pub(super) fn user(&self, authorization: Option<&str>, named: Option<&str>) -> User {
        let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
        let found = self.users.iter().find(|(known, user)| match token {
            Some(token) => known == token,
            None => Some(user.name.as_str()) == named,
        });
        found.map_or_else(
            || User { name: ADMIN.to_owned(), groups: vec!["system:masters".to_owned()] },
            |(_, user)| user.clone(),
        )
    }

    fn may(&self, user: &User, deed: &Deed) -> bool {
        user.name == ADMIN || self.rule.as_ref().is_some_and(|rule| rule(user, deed))
    }

    /// Refuses what the user may not do.
    pub(super) fn authorize(
        &self,
        user: &User,
        method: &Method,
        path: &str,
        reading: Reading,
    ) -> Result<(), Refusal> {
        let Some(deed) = deed_of(method, path, reading) else { return Ok(()) };
        // Everybody may ask about themselves, and about what is served.
        if deed.resource == "selfsubjectaccessreviews" || self.may(user, &deed) {
            return Ok(());
        }
        let message = format!(
            "{}.{} is forbidden: User \"{}\" cannot {} resource \"{0}\" in API group \"{1}\"",
            deed.resource, deed.group, user.name, deed.verb
        );
        Err(Refusal(StatusCode::FORBIDDEN, "Forbidden", message))
    }

    /// Answers a review of a token or of rights; `None` for other paths.
    pub(super) fn review(&self, user: &User, path: &str, body: &Bytes) -> Option<Response<Body>> {
        let mut review: Value = serde_json::from_slice(body).ok()?;
        let spec = review.get("spec")?.clone();
        let text = |pointer: &str| spec.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let status = match path.rsplit('/').next()? {
            "tokenreviews" => {
                let token = text("/token")?;
                let audiences = Vec::<String>::deserialize(spec.get("audiences")?).ok()?;
                let mut known = self.tokens.iter();
                let found =
                    known.find(|(of, audience, _)| *of == token && audiences.contains(audience));
                found.map_or_else(
                    || json!({ "authenticated": false }),
                    |(.., status)| status.clone(),
                )
            }
            kind @ ("subjectaccessreviews" | "selfsubjectaccessreviews") => {
                let of =
                    |name: &str| text(&format!("/resourceAttributes/{name}")).unwrap_or_default();
                let resource = match of("subresource") {
                    none if none.is_empty() => of("resource"),
                    subresource => format!("{}/{subresource}", of("resource")),
                };
                let namespace = Some(of("namespace")).filter(|namespace| !namespace.is_empty());
                let deed = Deed { verb: of("verb"), group: of("group"), resource, namespace };
                let asked = if kind == "selfsubjectaccessreviews" {
                    user.clone()
                } else {
                    let groups =
                        spec.get("groups").and_then(|groups| Vec::deserialize(groups).ok());
                    User { name: text("/user")?, groups: groups.unwrap_or_default() }
                };
                json!({ "allowed": self.may(&asked, &deed) })
            }
            _ => return None,
        };
        review.as_object_mut()?.insert("status".to_owned(), status);
        let body = Full::new(Bytes::from(review.to_string())).map_err(|never| match never {});
        Some(respond(StatusCode::CREATED, body.boxed_unsync()))
    }

    /// Whether a request is for the aggregated server.
    pub(super) fn is_for(&self, path: &str) -> bool {
        // The list of groups has this one only.
        self.server.is_some() && (path == "/apis" || path.starts_with(&format!("/apis/{GROUP}")))
    }
}

/// What a request does to a resource; `None` for other paths.
fn deed_of(method: &Method, path: &str, reading: Reading) -> Option<Deed> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (group, rest) = match parts.as_slice() {
        ["api", _version, rest @ ..] => ("", rest),
        ["apis", group, _version, rest @ ..] => (*group, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let (resource, name, subresource) = match rest {
        [resource] => (*resource, None, None),
        [resource, name] => (*resource, Some(*name), None),
        [resource, name, subresource, ..] => (*resource, Some(*name), Some(*subresource)),
        [] => return None,
    };
    let verb = match (method, name) {
        (&Method::GET, _) if reading == Reading::Watch => "watch",
        (&Method::GET, None) => "list",
        (&Method::GET, Some(_)) => "get",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (_, _) => "delete",
    };
    let resource =
        subresource.map_or_else(|| resource.to_owned(), |sub| format!("{resource}/{sub}"));
    let namespace = namespace.map(str::to_owned);
    Some(Deed { verb: verb.to_owned(), group: group.to_owned(), resource, namespace })
}

/// Passes a request on.
pub(super) async fn pass_on(
    shared: &Arc<Shared>,
    user: &User,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let unavailable = |error: anyhow::Error| {
        Refusal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", format!("{error:#}"))
    };
    let mut onward = Request::builder().uri(request.uri()).method(request.method());
    if let Some(accept) = request.headers().get(ACCEPT) {
        onward = onward.header(ACCEPT, accept);
    }
    // Headers of the client with these names are not passed on.
    onward = onward.header(HOST, SERVER_NAME).header("x-remote-user", &user.name);
    for group in &user.groups {
        let value = HeaderValue::from_str(group).map_err(|error| bad_request(error.to_string()))?;
        onward = onward.header(HeaderName::from_static("x-remote-group"), value);
    }
    let onward =
        onward.body(request.into_body()).map_err(|error| bad_request(error.to_string()))?;
    let stream = connect(shared, Some).await.map_err(unavailable)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| unavailable(error.into()))?;
    tokio::spawn(async move { drop(connection.await) });
    let answer = sender.send_request(onward).await.map_err(|error| unavailable(error.into()))?;
    Ok(answer.map(|body| body.map_err(io::Error::other).boxed_unsync()))
}

/// Connects with the certificate for aggregation, or with what `replace` makes of it.
async fn connect(
    shared: &Arc<Shared>,
    replace: impl FnOnce(Arc<ClientIdentity>) -> Option<Arc<ClientIdentity>>,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let server = shared.with(|state| state.aggregate.server.clone());
    let (connector, identity) = server.context("no aggregated server")?;
    let number = super::resource::RESOURCES.iter().position(|of| of.kind == "APIService");
    let key = (String::new(), API_SERVICE.to_owned());
    let object = shared.with(|state| state.contents.get(number.unwrap_or(usize::MAX), &key));
    let object: Value = serde_json::from_slice(&object.context("no APIService")?)?;
    let bundle = object.pointer("/spec/caBundle").context("APIService: no spec.caBundle")?;
    let ByteString(pem) = ByteString::deserialize(bundle)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match replace(identity) {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(identity.key.clone()));
            config.with_client_auth_cert(vec![identity.certificate.clone()], key)?
        }
    };
    let stream = tokio::task::spawn_blocking(move || connector()).await??;
    stream.set_nonblocking(true)?;
    let stream = TcpStream::from_std(stream)?;
    let name = ServerName::try_from(SERVER_NAME)?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_deed() {
        let of = |method: &Method, path: &str, reading: Reading| {
            let deed = deed_of(method, path, reading).unwrap();
            (deed.verb, deed.group, deed.resource, deed.namespace)
        };
        let deed = |verb: &str, group: &str, resource: &str, namespace: Option<&str>| {
            (verb.to_owned(), group.to_owned(), resource.to_owned(), namespace.map(str::to_owned))
        };
        let observed = "/apis/observe.netpol.dev/v1alpha1/namespaces/shop/drops";
        let expected = deed("watch", "observe.netpol.dev", "drops", Some("shop"));
        assert_eq!(of(&Method::GET, observed, Reading::Watch), expected);
        let exec = "/api/v1/namespaces/netpol-system/pods/x/exec";
        let expected = deed("create", "", "pods/exec", Some("netpol-system"));
        assert_eq!(of(&Method::POST, exec, Reading::Once), expected);
        assert_eq!(
            of(&Method::GET, "/api/v1/namespaces", Reading::Once),
            deed("list", "", "namespaces", None)
        );
        let one = deed("get", "", "namespaces", None);
        assert_eq!(of(&Method::GET, "/api/v1/namespaces/shop", Reading::Once), one);
        assert_eq!(deed_of(&Method::GET, "/version", Reading::Once), None);
        assert_eq!(deed_of(&Method::GET, "/apis/observe.netpol.dev", Reading::Once), None);
    }
}
