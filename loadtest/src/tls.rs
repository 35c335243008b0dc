//! A certificate for one run, and a client that trusts it and nothing else.

use std::fs;
use std::sync::Arc;

use anyhow::Result;

use crate::server::Site;

/// Makes a self-signed certificate for localhost, and has the site serve TLS with it.
pub fn prepare(site: Site) -> Result<(Site, Arc<rustls::ClientConfig>)> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let directory = site.data.with_file_name("tls");
    fs::create_dir_all(&directory)?;
    let (certificate, key) = (directory.join("certificate.pem"), directory.join("key.pem"));
    fs::write(&certificate, made.cert.pem())?;
    fs::write(&key, made.signing_key.serialize_pem())?;
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let site = site
        .set("tls.certificate_file", &certificate.display().to_string())
        .set("tls.key_file", &key.display().to_string())
        .over_tls();
    Ok((site, Arc::new(client)))
}
