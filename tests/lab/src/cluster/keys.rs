//! Keys and certificates of a control plane, made anew for each.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use pem::Pem;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData as _,
};

/// A certificate authority (CA).
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, for the clients that trust it.
    pub(super) certificate: String,
}

impl Authority {
    /// Makes one.
    pub(super) fn create() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "netpol tests");
        let certificate = certificate(params.self_signed(&key)?.der());
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Writes the certificate of a server on the loopback interface, and its key.
    pub(super) fn certify(&self, certificate_file: &Path, key_file: &Path) -> Result<()> {
        let key = KeyPair::generate()?;
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let params = CertificateParams::new(names)?;
        let der = params.signed_by(&key, &self.issuer)?;
        write(certificate_file, &certificate(der.der()))?;
        write(key_file, &private_key(&key))
    }
}

/// Writes a key pair for signing service account tokens.
pub(super) fn signing_key(file: &Path, public_file: &Path) -> Result<()> {
    let key = KeyPair::generate()?;
    write(file, &private_key(&key))?;
    write(public_file, &pem::encode(&Pem::new("PUBLIC KEY", key.subject_public_key_info())))
}

/// A certificate as text.
pub(super) fn certificate(der: &[u8]) -> String {
    pem::encode(&Pem::new("CERTIFICATE", der))
}

fn private_key(key: &KeyPair) -> String {
    pem::encode(&Pem::new("PRIVATE KEY", key.serialize_der()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}
