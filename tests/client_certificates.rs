//! Client certificates on the public listener (mutual TLS) and device tokens that are bound to one (RFC 8705):
//! over HTTP/1.1 and HTTP/2, on both runtimes, across reloads.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod api_support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api_support::Server;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use scangate::config::{ClientCertificates, Config, Runtime};
use scangate::gateway::Gateway;
use scangate::issue::{RoleRef, issue_device_bound};
use scangate::listen::ClientCertificate;
use scangate::scan::{App, UnixMillis};
use serde_json::json;

type Authority = CertifiedIssuer<'static, KeyPair>;

const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A client's certificate with its key.
#[derive(Clone)]
struct Identity {
    certificate: CertificateDer<'static>,
    key: Arc<PrivateKeyDer<'static>>,
}

impl Identity {
    /// Of this authority, good until the first day of a year.
    fn of(authority: &Authority, serial: u64, until: i32) -> Self {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, "gate");
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, authority).unwrap();
        let key = Arc::new(PrivateKeyDer::Pkcs8(key.serialize_der().into()));
        Self { certificate: made.der().clone(), key }
    }

    fn sha256(&self) -> [u8; 32] {
        ClientCertificate::of(&self.certificate).sha256().to_owned()
    }
}

/// A list of an authority's that revokes these serials and is good until the first day of a year.
fn revocation_list(authority: &Authority, serials: &[u64], until: i32) -> String {
    let revoked = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2021, 1, 1),
        reason_code: Some(RevocationReason::KeyCompromise),
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2021, 1, 1),
        next_update: date_time_ymd(until, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(authority).unwrap().pem().unwrap()
}

/// A gateway that asks for client certificates, and everything a client needs to know of it.
struct Site {
    server: Server,
    trusted: CertificateDer<'static>,
}

impl Site {
    fn start(runtime: Runtime, authority: &Authority, adjust: impl FnOnce(&mut Config, &Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let trusted = api_support::certificate(&path);
        fs::write(path.join("ca.pem"), authority.pem()).unwrap();
        let server = Server::start_in(directory, |config| {
            config.listen.runtime = runtime;
            config.tls.certificate_file = Some(path.join("cert.pem"));
            config.tls.key_file = Some(path.join("key.pem"));
            config.tls.client_ca_file = Some(path.join("ca.pem"));
            adjust(config, &path);
        });
        Self { server, trusted }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.server.directory.path().join(name)
    }

    /// Status and body of one scan over a new connection; none when the handshake or connection fails.
    fn scan(&self, protocol: &[u8], client: Option<&Identity>, token: &str) -> Option<(u16, String)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(self.exchange(protocol, client, token))
    }

    /// Whether such a client is served at all.
    fn admits(&self, protocol: &[u8], client: Option<&Identity>) -> bool {
        self.scan(protocol, client, "no-token").is_some_and(|(status, _)| status == 401)
    }

    async fn exchange(
        &self,
        protocol: &[u8],
        client: Option<&Identity>,
        token: &str,
    ) -> Option<(u16, String)> {
        let socket = tokio::net::TcpStream::connect(self.server.public).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(self.config(protocol, client));
        let stream = connector.connect("localhost".try_into().unwrap(), socket).await.ok()?;
        let scan = json!({"id": "scan-1", "qr": "001090123456|012345678|NGUYEN VAN A|01011990|Nam|12 Phố Huế, Hai Bà Trưng, Hà Nội|15042021"});
        let uri = if protocol == HTTP2 { "https://localhost/v1/checkins" } else { "/v1/checkins" };
        let request = Request::post(uri)
            .header("host", "localhost")
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(scan.to_string())))
            .unwrap();
        let io = TokioIo::new(stream);
        let response = if protocol == HTTP2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.ok()?;
            tokio::spawn(connection);
            sender.send_request(request).await.ok()?
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
            tokio::spawn(connection);
            sender.send_request(request).await.ok()?
        };
        let status = response.status().as_u16();
        // Bounded, and the peer is ours.
        #[allow(clippy::disallowed_methods)]
        let body = Limited::new(response.into_body(), 100_000).collect().await.ok()?.to_bytes();
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn config(&self, protocol: &[u8], client: Option<&Identity>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusted.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match client {
            Some(client) => {
                // Not by rustls's own way, which would see that a stolen certificate's key is another.
                let key = any_supported_type(&client.key).unwrap();
                let shown = CertifiedKey::new(vec![client.certificate.clone()], key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    }

    fn bound_token(&self, client: &Identity) -> String {
        let (role, day) = (RoleRef::Place("gate"), Duration::from_hours(24));
        let now = UnixMillis::now();
        issue_device_bound(&self.server.data(), App::PcCovid, role, None, &client.sha256(), day, now).unwrap()
    }

    fn handshake_errors(&self) -> u64 {
        let answer = self.server.operate("GET", "/metrics");
        let line =
            answer.text().lines().find_map(|line| line.strip_prefix("scangate_handshake_errors_total "));
        line.unwrap().parse().unwrap()
    }
}

/// Both runtimes, or the one that `SCANGATE_TEST_RUNTIME` names.
fn runtimes() -> Vec<Runtime> {
    match std::env::var("SCANGATE_TEST_RUNTIME").as_deref() {
        Ok("epoll") => vec![Runtime::Epoll],
        Ok("uring") => vec![Runtime::Uring],
        _ => vec![Runtime::Uring, Runtime::Epoll],
    }
}

#[test]
fn only_certificates_that_hold_are_admitted() {
    let (ours, other) = (authority("ours"), authority("other"));
    let good = Identity::of(&ours, 1, 2100);
    for runtime in runtimes() {
        let site = Site::start(runtime, &ours, |_, _| {});
        for protocol in [HTTP1, HTTP2] {
            assert!(site.admits(protocol, Some(&good)));
            assert!(!site.admits(protocol, None), "none is shown");
            assert!(!site.admits(protocol, Some(&Identity::of(&other, 1, 2100))), "another authority's");
            assert!(!site.admits(protocol, Some(&Identity::of(&ours, 2, 2021))), "expired");
            let stolen = Identity { key: Identity::of(&ours, 1, 2100).key, ..good.clone() };
            assert!(!site.admits(protocol, Some(&stolen)), "without its key");
        }
        assert_eq!(site.handshake_errors(), 8);
        let (status, body) = site.scan(HTTP2, Some(&good), &site.server.place_device("gate")).unwrap();
        assert_eq!((status, body.contains("\"recorded\"")), (201, true), "{body}");
    }
}

#[test]
fn optional_admits_without_a_certificate_and_never_with_a_bad_one() {
    let (ours, other) = (authority("ours"), authority("other"));
    for runtime in runtimes() {
        let site = Site::start(runtime, &ours, |config, _| {
            config.tls.client_certificates = ClientCertificates::Optional;
        });
        for protocol in [HTTP1, HTTP2] {
            assert!(site.admits(protocol, None));
            assert!(site.admits(protocol, Some(&Identity::of(&ours, 1, 2100))));
            assert!(!site.admits(protocol, Some(&Identity::of(&other, 1, 2100))));
        }
    }
}

#[test]
fn a_bound_token_is_good_over_its_own_certificate_only() {
    let ours = authority("ours");
    let (own, another) = (Identity::of(&ours, 1, 2100), Identity::of(&ours, 2, 2100));
    for runtime in runtimes() {
        let site = Site::start(runtime, &ours, |config, _| {
            config.tls.client_certificates = ClientCertificates::Optional;
        });
        let token = site.bound_token(&own);
        // Whether its first use is with the right certificate or not: what is cached is the token, not the verdict.
        for protocol in [HTTP1, HTTP2] {
            let (status, body) = site.scan(protocol, Some(&another), &token).unwrap();
            assert_eq!(status, 401, "{body}");
            assert!(body.contains("bound to another client certificate"), "{body}");
            let (status, body) = site.scan(protocol, None, &token).unwrap();
            assert_eq!(status, 401, "{body}");
            assert!(body.contains("the connection showed none"), "{body}");
            let (status, body) = site.scan(protocol, Some(&own), &token).unwrap();
            assert!(status < 300, "{status} {body}");
        }
        let metrics = site.server.operate("GET", "/metrics");
        assert!(metrics.text().contains("{reason=\"certificate\"} 4"), "{}", metrics.text());
        // Who holds a certificate isn't who scans: an unbound token works over any.
        let unbound = site.server.place_device("gate");
        assert!(site.scan(HTTP1, Some(&another), &unbound).unwrap().0 < 300);
    }
}

#[test]
fn a_reload_changes_authorities_and_a_bad_file_changes_nothing() {
    let (first, second) = (authority("first"), authority("second"));
    let (old, new) = (Identity::of(&first, 1, 2100), Identity::of(&second, 1, 2100));
    for runtime in runtimes() {
        let site = Site::start(runtime, &first, |_, _| {});
        assert!(site.admits(HTTP1, Some(&old)) && !site.admits(HTTP1, Some(&new)));
        fs::write(site.file("ca.pem"), second.pem()).unwrap();
        site.server.signals.reload();
        assert!(!site.admits(HTTP1, Some(&old)) && site.admits(HTTP1, Some(&new)));
        for bad in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            fs::write(site.file("ca.pem"), bad).unwrap();
            assert_eq!(site.server.operate("POST", "/v1/reload").problem().outcome, "reload_failed");
            assert!(!site.admits(HTTP2, Some(&old)) && site.admits(HTTP2, Some(&new)));
        }
    }
}

#[test]
fn revocation_lists_hold_and_one_out_of_date_admits_nobody() {
    let ours = authority("ours");
    let (good, revoked) = (Identity::of(&ours, 1, 2100), Identity::of(&ours, 2, 2100));
    for runtime in runtimes() {
        let site = Site::start(runtime, &ours, |config, path| {
            fs::write(path.join("crl.pem"), revocation_list(&ours, &[], 2100)).unwrap();
            config.tls.client_crl_file = Some(path.join("crl.pem"));
        });
        assert!(site.admits(HTTP1, Some(&good)) && site.admits(HTTP1, Some(&revoked)));
        fs::write(site.file("crl.pem"), revocation_list(&ours, &[2], 2100)).unwrap();
        site.server.signals.reload();
        assert!(site.admits(HTTP1, Some(&good)) && !site.admits(HTTP1, Some(&revoked)));
        fs::write(site.file("crl.pem"), revocation_list(&ours, &[2], 2022)).unwrap();
        site.server.signals.reload();
        assert!(!site.admits(HTTP1, Some(&good)));
    }
}

#[test]
fn a_private_key_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    api_support::certificate(directory.path());
    let key = directory.path().join("key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let mut config = Config::default();
    config.gateway.data_dir = directory.path().join("data");
    config.tls.certificate_file = Some(directory.path().join("cert.pem"));
    config.tls.key_file = Some(key.clone());
    let Err(error) = Gateway::start(&config) else { panic!("started with an open key") };
    let text = format!("{:#}", anyhow::Error::new(error));
    let expected = format!("{} must be closed to others, mode 0600 or 0640; got 0644", key.display());
    assert!(text.ends_with(&expected), "{text}");
}
