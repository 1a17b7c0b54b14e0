//! TLS to an instance: whom to trust, and who we are. Certificates are read again when their files change.

use std::{
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio_rustls::TlsConnector;

use super::secret::{Kept, SecretError};
use crate::config::{SecretSource, TlsConfig};

/// Trust stores of distributions, the first that exists: Debian, Fedora.
const STORES: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Why no TLS connection can be set up from what is configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("{what} holds no {holds} in PEM form: see `openssl x509 -in FILE -text`")]
    Pem { what: &'static str, holds: &'static str },
    #[error("this host has no trust store: install the package ca-certificates, or set `tls.ca`")]
    NoStore,
    #[error("the certificates cannot be used: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Makes connectors, and keeps the last while its files stay the same.
#[derive(Debug)]
pub(super) struct Tls {
    config: TlsConfig,
    last: Mutex<Option<(Vec<Stamp>, Arc<ClientConfig>)>>,
}

/// What tells one version of a file from the next.
type Stamp = Option<(u64, u64, i64, i64)>;

impl Tls {
    pub(super) const fn new(config: TlsConfig) -> Self {
        Self { config, last: Mutex::new(None) }
    }

    pub(super) fn connector(&self) -> Result<TlsConnector, TlsError> {
        let stamps = self.stamps();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, config)) = &*last
            && *known == stamps
        {
            return Ok(TlsConnector::from(Arc::clone(config)));
        }
        let config = Arc::new(self.build()?);
        *last = Some((stamps, Arc::clone(&config)));
        Ok(TlsConnector::from(config))
    }

    fn build(&self) -> Result<ClientConfig, TlsError> {
        let mut roots = RootCertStore::empty();
        let store = self.store()?.read(Kept::Public)?;
        // One root that rustls does not know must not take the others with it.
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&store).filter_map(Result::ok));
        if roots.is_empty() {
            return Err(TlsError::Pem { what: "the trust store", holds: "certificate" });
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let Some((certificate, key)) = &self.config.client else { return Ok(builder.with_no_client_auth()) };
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(&certificate.read(Kept::Public)?)
                .collect::<Result<_, _>>()
                .map_err(|_| TlsError::Pem { what: "`tls.certificate`", holds: "certificate" })?;
        if chain.is_empty() {
            return Err(TlsError::Pem { what: "`tls.certificate`", holds: "certificate" });
        }
        let key = PrivateKeyDer::from_pem_slice(&key.read(Kept::Secret)?)
            .map_err(|_| TlsError::Pem { what: "`tls.key`", holds: "private key" })?;
        Ok(builder.with_client_auth_cert(chain, key)?)
    }

    fn store(&self) -> Result<SecretSource, TlsError> {
        if let Some(ca) = &self.config.ca {
            return Ok(ca.clone());
        }
        let found = STORES.iter().map(PathBuf::from).find(|path| path.exists());
        found.map(SecretSource::File).ok_or(TlsError::NoStore)
    }

    fn stamps(&self) -> Vec<Stamp> {
        let stamp = |source: &SecretSource| {
            let facts = std::fs::metadata(source.path().ok()?).ok()?;
            Some((facts.dev(), facts.ino(), facts.mtime(), facts.mtime_nsec()))
        };
        let mut stamps: Vec<Stamp> = self.store().iter().map(stamp).collect();
        if let Some((certificate, key)) = &self.config.client {
            stamps.extend([stamp(certificate), stamp(key)]);
        }
        stamps
    }
}
