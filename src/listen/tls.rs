//! Certificates: the server's, loaded from PEM files, and those that clients show; swapped whole on reload.
//!
//! A client's certificate admits a connection and says nothing of who scans. Its SHA-256 goes along with every
//! request ([`ClientCertificate`]), so that a device token can be bound to it (RFC 8705).

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::stream::Stream;

/// The largest PEM file of a private key that is read, in bytes.
const KEY_BYTES_MAX: u64 = 64 << 10;

/// A listener's certificate. Clones share it, so a reload through one reaches all; connections already
/// open keep what they began with.
#[derive(Debug, Clone)]
pub struct Tls(Arc<Files>);

#[derive(Debug)]
struct Files {
    certificates: PathBuf,
    key: PathBuf,
    clients: Option<Clients>,
    current: ArcSwap<Current>,
}

/// What connections are begun with.
#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    expires_s: i64,
}

/// What is asked of clients.
#[derive(Debug, Clone)]
pub struct Clients {
    /// Certificates, PEM, of those who issue the clients' certificates.
    pub authorities: PathBuf,
    /// Their revocation lists, PEM.
    pub revocations: Option<PathBuf>,
    /// Whether a client without a certificate is turned away.
    pub required: bool,
}

/// The SHA-256 of the certificate that the client of a connection showed and holds the key of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCertificate([u8; 32]);

impl ClientCertificate {
    /// That of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, certificate);
        // A SHA-256 has 32 bytes.
        Self(hash.as_ref().first_chunk().copied().unwrap_or_default())
    }

    /// The 32 bytes.
    pub const fn sha256(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Why a certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of certificates can't be read or parsed.
    #[error("cannot load certificates from {path}")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The key file can't be parsed.
    #[error("cannot load a private key from {path}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The key file can't be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read the private key.
    #[error("{path} must be closed to others, mode 0600 or 0640; got {mode:04o}")]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The two don't belong together, or rustls can't use them.
    #[error("certificate {path} and its key are unusable")]
    Unusable {
        /// The certificate file.
        path: PathBuf,
        /// rustls's reason.
        source: rustls::Error,
    },
    /// A file of the clients' authorities has a certificate that can't be one.
    #[error("a certificate in {path} cannot be an authority's")]
    Authority {
        /// The file.
        path: PathBuf,
        /// rustls's reason.
        source: rustls::Error,
    },
    /// A file that must have at least one of something has none.
    #[error("{path} must have at least one {what}")]
    Empty {
        /// The file.
        path: PathBuf,
        /// What it has none of.
        what: &'static str,
    },
    /// The revocation lists can't be read or parsed.
    #[error("cannot load revocation lists from {path}")]
    Revocations {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The authorities and their revocation lists make no verifier.
    #[error("the authorities of clients in {path}, or their revocation lists, are unusable")]
    Clients {
        /// The file of authorities.
        path: PathBuf,
        /// rustls's reason.
        source: VerifierBuilderError,
    },
}

impl Tls {
    /// Loads a certificate chain, leaf first, and its private key; clients are asked for nothing.
    ///
    /// # Errors
    /// A file can't be read or parsed, the key is open to others, or the two don't match.
    pub fn load(certificates: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::load_for(certificates, key, None)
    }

    /// The same, and what clients are asked for.
    ///
    /// # Errors
    /// As for [`Self::load`], of the clients' files as well.
    pub fn load_for(certificates: &Path, key: &Path, clients: Option<Clients>) -> Result<Self, TlsError> {
        let current = ArcSwap::from_pointee(Current::load(certificates, key, clients.as_ref())?);
        let files = Files { certificates: certificates.to_owned(), key: key.to_owned(), clients, current };
        Ok(Self(Arc::new(files)))
    }

    /// Loads the same files again for the connections to come. On error all of the old ones stay.
    ///
    /// # Errors
    /// As for [`Self::load_for`].
    pub fn reload(&self) -> Result<(), TlsError> {
        let current = Current::load(&self.0.certificates, &self.0.key, self.0.clients.as_ref())?;
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
    fn load(certificates: &Path, key: &Path, clients: Option<&Clients>) -> Result<Self, TlsError> {
        let chain = read_certificates(certificates)?;
        // None for what rustls is about to refuse.
        let expires_s = chain.first().and_then(expires_s).unwrap_or(i64::MAX);
        let config = Arc::new(server_config(certificates, chain, key, clients)?);
        Ok(Self { config, expires_s })
    }
}

fn expires_s(leaf: &CertificateDer<'_>) -> Option<i64> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    Some(leaf.validity().not_after.timestamp())
}

/// What the client of a connection showed, if anything.
pub(super) fn client_certificate(stream: &Stream) -> Option<ClientCertificate> {
    let Stream::Tls(tls) = stream else { return None };
    tls.get_ref().1.peer_certificates()?.first().map(|leaf| ClientCertificate::of(leaf))
}

fn server_config(
    certificates: &Path,
    chain: Vec<CertificateDer<'static>>,
    key: &Path,
    clients: Option<&Clients>,
) -> Result<ServerConfig, TlsError> {
    let unusable = |source| TlsError::Unusable { path: certificates.to_owned(), source };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certified = certified(chain, &*read_key(key)?).map_err(unusable)?;
    let verifier = match clients {
        Some(clients) => verifier(clients, &provider)?,
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if clients.is_some() {
        // A resumed session is admitted by its first handshake's verdict, although the certificate may have
        // expired or been revoked since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

/// The chain and its key. Parsed from a borrowed key, since what rustls is given for keeps it doesn't zero.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    let certified = CertifiedKey::new(chain, any_supported_type(key)?);
    certified.keys_match()?;
    Ok(certified)
}

fn verifier(
    clients: &Clients,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let path = &clients.authorities;
    let mut roots = RootCertStore::empty();
    for authority in read_certificates(path)? {
        roots.add(authority).map_err(|source| TlsError::Authority { path: path.clone(), source })?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let Some(revocations) = &clients.revocations {
        let lists = CertificateRevocationListDer::pem_file_iter(revocations)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|source| TlsError::Revocations { path: revocations.clone(), source })?;
        if lists.is_empty() {
            return Err(TlsError::Empty { path: revocations.clone(), what: "revocation list" });
        }
        // A list that is out of date revokes too little, so it admits nobody.
        builder = builder.with_crls(lists).enforce_revocation_expiration();
    }
    if !clients.required {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|source| TlsError::Clients { path: path.clone(), source })
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| TlsError::Certificates { path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned(), what: "certificate" });
    }
    Ok(certificates)
}

/// Reads a private key into memory that is zeroed afterwards. Its owner may read it, and a group where an
/// orchestrator mounts it so; no one else.
fn read_key(path: &Path) -> Result<Zeroizing<PrivateKeyDer<'static>>, TlsError> {
    const OPEN: u32 = 0o037;
    let read = |source| TlsError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    let mode = metadata.mode() & 0o7777;
    if mode & OPEN != 0 {
        return Err(TlsError::Permissions { path: path.to_owned(), mode });
    }
    // Room for all of it at once: growing would leave copies behind.
    let capacity = usize::try_from(metadata.len().min(KEY_BYTES_MAX)).unwrap_or(0) + 1;
    let mut text = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(KEY_BYTES_MAX).read_to_end(&mut text).map_err(read)?;
    let key = PrivateKeyDer::from_pem_slice(&text);
    key.map(Zeroizing::new).map_err(|source| TlsError::Key { path: path.to_owned(), source })
}
