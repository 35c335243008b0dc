//! The promise pinned here: on another address than loopback, or where `admin.auth` is "required", nothing but health is
//! answered without a token that has the scope for it; commands beside the gateway get in by what they may read; and
//! on loopback, by default, nobody is asked.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod api_support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use api_support::{Answer, Server, exchange, read_answer};
use base64::Engine as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use scangate::config::{self, AdminAuth, Overrides};

const RANGE: &str = "?from=2020-01-01T00:00:00Z&to=2100-01-01T00:00:00Z";

fn run_in(data: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_scangate"))
        .args(arguments)
        .arg("--data-dir")
        .arg(data)
        .env_remove("SCANGATE_ADMIN_TOKEN_FILE")
        .output()
        .unwrap()
}

fn run_ok(data: &Path, arguments: &[&str]) -> String {
    let output = run_in(data, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn token(server: &Server, name: &str, scope: &str) -> String {
    run_ok(&server.data(), &["keys", "admin", name, "--scope", scope])
}

fn required() -> Server {
    Server::start(|config| config.admin.auth = AdminAuth::Required)
}

fn ask(server: &Server, method: &str, path: &str, authorization: Option<&str>) -> Answer {
    let headers: Vec<_> = authorization.iter().map(|value| ("Authorization", *value)).collect();
    let answer = exchange(server.admin, method, path, &headers, b"");
    if method != "HEAD" {
        answer.assert_documented(path.split('?').next().unwrap(), &method.to_ascii_lowercase());
    }
    answer
}

fn reload(server: &Server) {
    let local = fs::read_to_string(server.data().join("admin-token")).unwrap();
    let answer = ask(server, "POST", "/v1/reload", Some(&format!("Bearer {}", local.trim())));
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn every_scope_opens_its_own_and_nothing_else() {
    let server = required();
    let scopes = ["read", "export", "operate", "links"];
    let tokens: Vec<String> = scopes.iter().map(|scope| token(&server, scope, scope)).collect();
    let bearers: Vec<String> = tokens.iter().map(|token| format!("Bearer {token}")).collect();
    assert_eq!(ask(&server, "GET", "/metrics", Some(&bearers[0])).status, 401, "not loaded yet");
    reload(&server);
    let export = format!("/v1/export{RANGE}");
    let of_day = "?from=2021-11-24T00:00:00Z&to=2021-11-25T00:00:00Z";
    let trace = format!("/v1/trace{of_day}&person={}", "0".repeat(32));
    let paths = [
        ("GET", "/metrics", "read"),
        ("GET", "/v1/stats", "read"),
        ("HEAD", "/v1/stats/stream", "read"),
        ("GET", &export, "export"),
        ("GET", &trace, "export"),
        ("POST", "/v1/reload", "operate"),
        ("GET", "/v1/links?source=a", "links"),
    ];
    for (method, path, needs) in paths {
        let refused = ask(&server, method, path, None);
        assert_eq!(refused.status, 401, "{path}");
        let ways = refused.headers.iter().filter(|(name, _)| name == "www-authenticate");
        let ways: Vec<&str> = ways.map(|(_, way)| way.as_str()).collect();
        assert_eq!(ways, ["Bearer", "Basic realm=\"scangate\", charset=\"UTF-8\""], "{path}");
        for (scope, bearer) in scopes.iter().zip(&bearers) {
            if method == "HEAD" {
                continue;
            }
            let answer = ask(&server, method, path, Some(bearer));
            if *scope == needs {
                assert_eq!(answer.status, 200, "{scope} {path}");
            } else {
                assert_eq!(answer.status, 403, "{scope} {path}");
                let detail = answer.problem().detail;
                assert!(detail.contains(&format!("scope {needs}")), "{detail}");
            }
        }
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(ask(&server, "GET", path, None).status, 200, "{path}");
    }
    let drained = ask(&server, "POST", "/v1/drain", Some(&bearers[0]));
    assert_eq!(drained.status, 403);
    let metrics = ask(&server, "GET", "/metrics", Some(&bearers[0]));
    let counted =
        |reason: &str| format!("scangate_admin_authentication_failures_total{{reason=\"{reason}\"}}");
    let count = |reason: &str| {
        let name = counted(reason);
        let line = metrics.text().lines().find_map(|line| line.strip_prefix(&name).map(str::to_owned));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    assert_eq!(count("missing"), 7);
    assert_eq!(count("forbidden"), 6 * 3 + 1);
    assert_eq!(count("bad_signature"), 1);
    assert_eq!(ask(&server, "POST", "/v1/drain", Some(&bearers[2])).status, 202);
}

#[test]
fn a_token_is_a_password_of_its_name_and_ends_when_revoked() {
    let server = required();
    let prometheus = token(&server, "prometheus", "read");
    reload(&server);
    let basic = |name: &str| {
        let pair = format!("{name}:{prometheus}");
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
    };
    assert_eq!(ask(&server, "GET", "/metrics", Some(&basic("prometheus"))).status, 200);
    assert_eq!(ask(&server, "GET", "/metrics", Some(&basic("grafana"))).status, 401);
    run_ok(&server.data(), &["keys", "admin", "--revoke", "prometheus"]);
    reload(&server);
    assert_eq!(ask(&server, "GET", "/metrics", Some(&basic("prometheus"))).status, 401);
    assert_eq!(run_ok(&server.data(), &["keys", "admin", "--list"]), "");
    let again = run_in(&server.data(), &["keys", "admin", "--revoke", "prometheus"]);
    assert!(!again.status.success());
}

#[test]
fn a_token_is_never_listed_nor_kept() {
    let server = required();
    let made = token(&server, "cdc", "read,export");
    let listed: serde_json::Value =
        serde_json::from_str(&run_ok(&server.data(), &["keys", "admin", "--list"])).unwrap();
    assert_eq!((&listed["name"], &listed["expired"]), (&"cdc".into(), &false.into()));
    assert_eq!(listed["scopes"], serde_json::json!(["read", "export"]));
    let file = fs::read_to_string(server.data().join("keys/admin/cdc.json")).unwrap();
    for text in [listed.to_string(), file] {
        assert!(!text.contains(&made) && !text.contains(made.trim_start_matches("sga_")));
    }
}

#[test]
fn guessing_is_answered_429_and_shuts_nobody_out() {
    let server = required();
    let good = format!("Bearer {}", token(&server, "ops", "read"));
    reload(&server);
    let guesses: Vec<Answer> =
        (0..12).map(|_| ask(&server, "GET", "/v1/stats", Some("Bearer guess"))).collect();
    assert_eq!(guesses[0].status, 401);
    let last = guesses.last().unwrap();
    assert_eq!(last.status, 429);
    last.problem();
    assert_eq!(ask(&server, "GET", "/v1/stats", Some(&good)).status, 200);
}

#[test]
fn on_loopback_nobody_is_asked_by_default_but_for_links() {
    let server = Server::start(|_| {});
    for path in ["/metrics", "/v1/stats"] {
        assert_eq!(ask(&server, "GET", path, None).status, 200);
    }
    assert_eq!(ask(&server, "GET", &format!("/v1/export{RANGE}"), None).status, 200);
    assert_eq!(ask(&server, "GET", "/v1/links?source=a", None).status, 401);
    let feed = fs::read_to_string(server.data().join("keys/feed-token")).unwrap();
    let feed = format!("Bearer {}", feed.trim());
    assert_eq!(
        ask(&server, "GET", "/v1/links?source=a", Some(&feed)).status,
        200,
        "the feed's own token goes on working"
    );
    let links = format!("Bearer {}", token(&server, "registry", "links"));
    assert_eq!(ask(&server, "POST", "/v1/reload", None).status, 200);
    assert_eq!(ask(&server, "GET", "/v1/links?source=a", Some(&links)).status, 200);
}

#[test]
fn another_address_than_loopback_asks_by_itself() {
    let server = Server::start(|config| {
        config.listen.admin = (Ipv4Addr::UNSPECIFIED, 0).into();
        config.admin.allow_plain = true;
    });
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.admin.port()));
    assert_eq!(exchange(address, "GET", "/metrics", &[], b"").status, 401);
    assert_eq!(exchange(address, "GET", "/readyz", &[], b"").status, 200);
    // A command that may read the data directory gets in.
    let exported =
        run_in(&server.data(), &["export", "--from", "2020-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z"]);
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    // One that brings a token without the scope doesn't, and is told why.
    let path = server.directory.path().join("token");
    fs::write(&path, token(&server, "scraper", "read")).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    server.signals.reload();
    let range = ["export", "--from", "2020-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z"];
    let refused =
        run_in(&server.data(), &[&range[..], &["--admin-token-file", path.to_str().unwrap()]].concat());
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("403") && error.contains("scope export"), "{error}");
}

#[test]
fn a_plain_listener_on_a_network_is_refused_at_start() {
    let load = |variables: &[(&str, &str)]| {
        let environment = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        config::load(None, environment, &Overrides::default())
    };
    let open = ("SCANGATE_LISTEN__ADMIN", "0.0.0.0:9090");
    let error = load(&[open]).expect_err("no TLS").to_string();
    assert!(
        error.contains("listen.admin: must be a loopback address, unless admin.tls_cert_file"),
        "{error}"
    );
    assert!(load(&[open, ("SCANGATE_ADMIN__ALLOW_PLAIN", "true")]).is_ok());
    let tls = [("SCANGATE_ADMIN__TLS_CERT_FILE", "a"), ("SCANGATE_ADMIN__TLS_KEY_FILE", "b")];
    assert!(load(&[open, tls[0], tls[1]]).is_ok());
    let error = load(&[open, tls[0]]).expect_err("no key").to_string();
    assert!(error.contains("admin.tls_key_file"), "{error}");
    let error = load(&[("SCANGATE_ADMIN__TLS_CLIENT_CA_FILE", "c")]).expect_err("no TLS").to_string();
    assert!(error.contains("admin.tls_cert_file"), "{error}");
}

/// A certificate authority, and what it signed: PEM files in a directory.
fn authority(directory: &Path) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    fs::write(directory.join("ca.pem"), ca.pem()).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let client_key = rcgen::KeyPair::generate().unwrap();
    let client = rcgen::CertificateParams::new(vec!["operator".to_owned()]).unwrap();
    let client = client.signed_by(&client_key, &issuer).unwrap();
    (vec![client.der().clone()], PrivateKeyDer::try_from(client_key.serialize_der()).unwrap())
}

fn over_tls(
    server: &Server,
    trusted: &CertificateDer<'static>,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> std::io::Result<Answer> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match client {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(server.admin)?);
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut first = [0; 1];
    stream.read_exact(&mut first)?;
    Ok(read_answer(first.as_slice().chain(stream), false))
}

#[test]
fn commands_reach_a_gateway_that_speaks_tls_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let trusted = api_support::certificate(directory.path());
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    let server = Server::start_in(directory, |config| {
        config.admin.tls_cert_file = Some(cert.clone());
        config.admin.tls_key_file = Some(key);
        config.admin.auth = AdminAuth::Required;
    });
    assert_eq!(over_tls(&server, &trusted, None).unwrap().status, 200);
    let range = ["export", "--from", "2020-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z"];
    run_ok(&server.data(), &range);
    // Another certificate in that file: whoever answers is not the gateway.
    api_support::certificate(server.directory.path());
    let refused = run_in(&server.data(), &range);
    assert!(!refused.status.success(), "{refused:?}");
    server.signals.reload();
    run_ok(&server.data(), &range);
}

#[test]
fn a_client_without_a_certificate_is_turned_away_where_one_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let trusted = api_support::certificate(directory.path());
    let client = authority(directory.path());
    let file = |name: &str| Some(directory.path().join(name));
    let (cert, key, ca) = (file("cert.pem"), file("key.pem"), file("ca.pem"));
    let server = Server::start_in(directory, |config| {
        config.admin.tls_cert_file = cert;
        config.admin.tls_key_file = key;
        config.admin.tls_client_ca_file = ca;
    });
    assert!(over_tls(&server, &trusted, None).is_err());
    assert_eq!(over_tls(&server, &trusted, Some(client)).unwrap().status, 200);
}
