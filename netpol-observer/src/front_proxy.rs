//! Who asks, as the API server says it: the protocol of aggregated API servers.
//!
//! In: the certificate of a connection, the headers of a request. Out: the user. The API server writes into a `ConfigMap` by whom its own
//! certificate is signed, its names, and the headers that it sets; only on such a connection do these headers mean anything.
//! Must not: believe a header on another connection.

use std::sync::Arc;

use hyper::HeaderMap;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use netpol_kube::Access;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, ServerConfig};
use x509_parser::parse_x509_certificate;

use super::certificate::{self, Certificate, provider, roots};
use super::rights::User;

/// Where the API server says it.
const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "extension-apiserver-authentication";

/// Why nobody can be authenticated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The `ConfigMap` cannot be read.
    #[error("ConfigMap {NAMESPACE}/{CONFIG_MAP}: {0}")]
    Request(#[from] netpol_kube::Error),
    /// It lacks something.
    #[error(
        "ConfigMap {NAMESPACE}/{CONFIG_MAP}: `{0}` is missing: the API server runs without aggregation (--requestheader-client-ca-file)"
    )]
    Missing(&'static str),
    /// It is not valid.
    #[error("ConfigMap {NAMESPACE}/{CONFIG_MAP}: `{key}`: {message}")]
    Invalid {
        /// Its key.
        key: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] certificate::Error),
}

const CA: &str = "requestheader-client-ca-file";
const ALLOWED_NAMES: &str = "requestheader-allowed-names";
const USER_HEADERS: &str = "requestheader-username-headers";
const GROUP_HEADERS: &str = "requestheader-group-headers";
const EXTRA_PREFIXES: &str = "requestheader-extra-headers-prefix";

/// How the API server identifies itself, and its users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FrontProxy {
    ca_pem: String,
    /// Common names of its certificate; empty: any.
    allowed_names: Vec<String>,
    user_headers: Vec<String>,
    group_headers: Vec<String>,
    extra_prefixes: Vec<String>,
}

impl FrontProxy {
    /// Reads it from the API server.
    pub(crate) async fn read(access: &Access) -> Result<Self, Error> {
        let config_maps = Api::<ConfigMap>::namespaced(access.client(), NAMESPACE);
        let found = config_maps.get(CONFIG_MAP).await.map_err(netpol_kube::Error::from)?;
        Self::from_data(|key| found.data.as_ref()?.get(key).cloned())
    }

    fn from_data(value: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let names = |key: &'static str| -> Result<Vec<String>, Error> {
            let text = value(key).unwrap_or_else(|| "[]".to_owned());
            let invalid =
                |error: serde_json::Error| Error::Invalid { key, message: error.to_string() };
            serde_json::from_str(&text).map_err(invalid)
        };
        let user_headers = names(USER_HEADERS)?;
        if user_headers.is_empty() {
            return Err(Error::Missing(USER_HEADERS));
        }
        Ok(Self {
            ca_pem: value(CA).filter(|pem| !pem.trim().is_empty()).ok_or(Error::Missing(CA))?,
            allowed_names: names(ALLOWED_NAMES)?,
            user_headers,
            group_headers: names(GROUP_HEADERS)?,
            extra_prefixes: names(EXTRA_PREFIXES)?,
        })
    }

    /// Settings of a server that verifies the certificate of a client that has one. Probes of the kubelet have none.
    pub(crate) fn server_config(&self, own: &Certificate) -> Result<ServerConfig, Error> {
        let invalid =
            |error: VerifierBuilderError| Error::Invalid { key: CA, message: error.to_string() };
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&self.ca_pem)?), provider())
                .allow_unauthenticated()
                .build()
                .map_err(invalid)?;
        let refused = |error: rustls::Error| Error::Certificate(error.into());
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(refused)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![own.der.clone()], own.key());
        config.map_err(refused)
    }

    /// The user of a request on a connection with this certificate, which TLS has verified; `None` if it is not the API server's.
    pub(crate) fn user(
        &self,
        certificate: Option<&CertificateDer<'_>>,
        headers: &HeaderMap,
    ) -> Option<User> {
        let name = common_name(certificate?)?;
        if !self.allowed_names.is_empty() && !self.allowed_names.contains(&name) {
            return None;
        }
        let values = |names: &[String]| -> Vec<String> {
            let all = names.iter().flat_map(|name| headers.get_all(name.as_str()));
            all.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
        };
        let name = values(&self.user_headers).into_iter().find(|name| !name.is_empty())?;
        let mut extra = std::collections::BTreeMap::<String, Vec<String>>::new();
        for (header, value) in headers {
            let mut keys = self
                .extra_prefixes
                .iter()
                .filter_map(|prefix| header.as_str().strip_prefix(prefix.to_lowercase().as_str()));
            if let (Some(key), Ok(value)) = (keys.next(), value.to_str()) {
                let key =
                    percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
                extra.entry(key).or_default().push(value.to_owned());
            }
        }
        Some(User { name, groups: values(&self.group_headers), extra })
    }
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    let mut names = parsed.subject().iter_common_name();
    names.next()?.as_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hyper::header::{HeaderName, HeaderValue};
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn data(names: &str) -> BTreeMap<&'static str, String> {
        let own = Certificate::make(vec!["x".to_owned()]).unwrap();
        [
            (CA, own.pem),
            (ALLOWED_NAMES, names.to_owned()),
            (USER_HEADERS, r#"["X-Remote-User"]"#.to_owned()),
            (GROUP_HEADERS, r#"["X-Remote-Group"]"#.to_owned()),
            (EXTRA_PREFIXES, r#"["X-Remote-Extra-"]"#.to_owned()),
        ]
        .into()
    }

    fn named(name: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn headers_count_on_a_connection_of_the_api_server_only() {
        let data = data(r#"["front-proxy-client"]"#);
        let proxy = FrontProxy::from_data(|key| data.get(key).cloned()).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "ann"),
            ("x-remote-group", "dev"),
            ("x-remote-group", "system:authenticated"),
            ("x-remote-extra-a%2fb", "c"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let user = proxy.user(Some(&named("front-proxy-client")), &headers).unwrap();
        assert_eq!((user.name.as_str(), user.groups.len()), ("ann", 2));
        assert_eq!(user.extra, [("a/b".to_owned(), vec!["c".to_owned()])].into());
        assert_eq!(proxy.user(Some(&named("other")), &headers), None);
        assert_eq!(proxy.user(None, &headers), None, "forged by a pod");
        assert_eq!(proxy.user(Some(&named("front-proxy-client")), &HeaderMap::new()), None);
    }

    #[test]
    fn what_is_missing_or_not_valid_is_named() {
        let of = |change: fn(&mut BTreeMap<&'static str, String>)| {
            let mut data = data("[]");
            change(&mut data);
            FrontProxy::from_data(|key| data.get(key).cloned()).unwrap_err().to_string()
        };
        assert!(of(|data| drop(data.remove(CA))).contains(CA));
        assert!(of(|data| drop(data.remove(USER_HEADERS))).contains(USER_HEADERS));
        assert!(
            of(|data| drop(data.insert(GROUP_HEADERS, "x".to_owned()))).contains(GROUP_HEADERS)
        );
        let data = data("[]");
        let proxy = FrontProxy::from_data(|key| data.get(key).cloned()).unwrap();
        proxy.server_config(&Certificate::make(vec!["y".to_owned()]).unwrap()).unwrap();
    }
}
