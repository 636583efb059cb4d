//! The observer's own certificate: made when it starts, kept in memory, known to others by the API server.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be made.
    #[error("making a certificate: {0}")]
    Made(#[from] rcgen::Error),
    /// TLS refuses it.
    #[error("certificate: {0}")]
    Refused(#[from] rustls::Error),
    /// It is not PEM.
    #[error("certificate: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
}

/// A certificate with its key.
pub(crate) struct Certificate {
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Certificate {
    /// Makes one for these names.
    pub(crate) fn make(names: Vec<String>) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(names)?.self_signed(&key)?;
        let der = certificate.der().clone();
        let pem = pem::encode(&pem::Pem::new("CERTIFICATE", der.to_vec()));
        Ok(Self { pem, der, key: key.serialize_der() })
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

/// The cryptography of all connections.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificates of a text in PEM, as roots.
///
/// # Errors
/// It is not PEM, or holds none.
pub(crate) fn roots(pem: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    if roots.is_empty() {
        return Err(rustls::Error::NoCertificatesPresented.into());
    }
    Ok(roots)
}

/// Settings of a client that trusts these certificates only.
///
/// # Errors
/// The text is not PEM, or holds no certificate.
pub(crate) fn client_config(pem: &str) -> Result<ClientConfig, Error> {
    let config =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots(pem)?).with_no_client_auth())
}
