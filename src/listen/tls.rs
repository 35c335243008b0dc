//! Certificates: loaded from PEM files, swapped whole on reload.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A listener's certificate. Clones share it, so a reload through one reaches all; connections already
/// open keep what they began with.
#[derive(Debug, Clone)]
pub struct Tls(Arc<Files>);

#[derive(Debug)]
struct Files {
    certificates: PathBuf,
    key: PathBuf,
    /// Who may sign clients' certificates, where clients must have one.
    clients: Option<PathBuf>,
    current: ArcSwap<Current>,
}

/// What connections are begun with.
#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    expires_s: i64,
}

/// Why a certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate file can't be read or parsed.
    #[error("cannot load certificates from {path}")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The key file can't be read or parsed.
    #[error("cannot load a private key from {path}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The certificates of those who sign clients' can't be used.
    #[error("cannot ask clients for certificates by {path}")]
    Clients {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The two don't belong together, or rustls can't use them.
    #[error("certificate {path} and its key are unusable")]
    Unusable {
        /// The certificate file.
        path: PathBuf,
        /// rustls's reason.
        source: rustls::Error,
    },
}

impl Tls {
    /// Loads a certificate chain, leaf first, and its private key.
    ///
    /// # Errors
    /// A file can't be read or parsed, or the two don't match.
    pub fn load(certificates: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::load_asking(certificates, key, None)
    }

    /// The same; if there is a file of `clients`, a client must have a certificate that one of those signed.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn load_asking(certificates: &Path, key: &Path, clients: Option<&Path>) -> Result<Self, TlsError> {
        let current = ArcSwap::from_pointee(Current::load(certificates, key, clients)?);
        let (certificates, key) = (certificates.to_owned(), key.to_owned());
        Ok(Self(Arc::new(Files { certificates, key, clients: clients.map(Path::to_owned), current })))
    }

    /// Loads the same files again for the connections to come. On error the old certificate stays.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn reload(&self) -> Result<(), TlsError> {
        let current = Current::load(&self.0.certificates, &self.0.key, self.0.clients.as_deref())?;
        self.0.current.store(Arc::new(current));
        Ok(())
    }

    /// When the leaf's validity ends, in seconds since 1970.
    pub fn expires_s(&self) -> i64 {
        self.0.current.load().expires_s
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.current.load().config)
    }
}

impl Current {
    fn load(certificates: &Path, key: &Path, clients: Option<&Path>) -> Result<Self, TlsError> {
        let (config, expires_s) = server_config(certificates, key, clients)?;
        Ok(Self { config: Arc::new(config), expires_s })
    }
}

fn server_config(
    certificates: &Path,
    key: &Path,
    clients: Option<&Path>,
) -> Result<(ServerConfig, i64), TlsError> {
    let certificates_error = |source| TlsError::Certificates { path: certificates.to_owned(), source };
    let chain = CertificateDer::pem_file_iter(certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(certificates_error)?;
    let key =
        PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Key { path: key.to_owned(), source })?;
    let expires_s = chain.first().and_then(expires_s).unwrap_or(i64::MAX);
    let unusable = |source| TlsError::Unusable { path: certificates.to_owned(), source };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match clients {
        Some(path) => builder.with_client_cert_verifier(client_verifier(path, provider)?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((config, expires_s))
}

/// None for what rustls is about to refuse.
fn expires_s(leaf: &CertificateDer<'_>) -> Option<i64> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    Some(leaf.validity().not_after.timestamp())
}

fn client_verifier(
    path: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    type Cause = Box<dyn std::error::Error + Send + Sync>;
    let failed = |source: Cause| TlsError::Clients { path: path.to_owned(), source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.into()))? {
        let certificate = certificate.map_err(|error| failed(error.into()))?;
        roots.add(certificate).map_err(|error| failed(error.into()))?;
    }
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    built.map_err(|error| failed(error.into()))
}
