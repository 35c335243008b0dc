//! The API over TLS and HTTP/2, and what a reload changes under open and new connections.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod api_support;

use std::sync::Arc;
use std::time::Duration;

use api_support::{Answer, Server, card, certificate, request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use scangate::issue;
use scangate::openapi::{BatchLine, Duplicate, Problem, Recorded, Reloaded};
use scangate::scan::UnixMillis;

const TTL: Duration = Duration::from_hours(1);

fn block_on<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

fn client(trusted: &CertificateDer<'static>, protocol: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

/// A server with a certificate in its directory, and the certificate.
fn tls_server() -> (Server, CertificateDer<'static>) {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    let trusted = certificate(directory.path());
    let server = Server::start_in(directory, |config| {
        config.tls.certificate_file = Some(cert);
        config.tls.key_file = Some(key);
    });
    (server, trusted)
}

async fn http2_over<T>(io: T) -> SendRequest<Full<Bytes>>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn http2_over_tls(
    server: &Server,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<SendRequest<Full<Bytes>>> {
    let socket = tokio::net::TcpStream::connect(server.public).await?;
    let connector = tokio_rustls::TlsConnector::from(client(trusted, b"h2"));
    let name: ServerName<'static> = "localhost".try_into().unwrap();
    Ok(http2_over(connector.connect(name, socket).await?).await)
}

async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    sender.ready().await.unwrap();
    let mut request = Request::builder().method(method).uri(format!("https://localhost{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let headers =
        head.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    // Bounded, and the peer is ours.
    #[allow(clippy::disallowed_methods)]
    let body = Limited::new(body, 10_000_000).collect().await.unwrap().to_bytes();
    Answer { status: head.status.as_u16(), headers: headers.collect(), body: body.to_vec() }
}

/// The ways to answer over HTTP/2: success, batch, refusal, a body of no length, and HEAD.
async fn speaks_the_api(server: &Server, mut sender: SendRequest<Full<Bytes>>) {
    let bearer = format!("Bearer {}", server.place_device("gate"));
    let headers = |content_type| [("authorization", bearer.as_str()), ("content-type", content_type)];
    let json = headers("application/json");
    let scan = request("a", &card(1)).to_string();
    let answer = send(&mut sender, "POST", "/v1/checkins", &json, &scan).await;
    answer.assert_documented("/v1/checkins", "post");
    assert_eq!((answer.status, answer.json::<Recorded>().id.as_str()), (201, "a"));

    let batch = format!("{scan}\n{}\n", request("b", "hello"));
    let answer = send(&mut sender, "POST", "/v1/checkins", &headers("application/x-ndjson"), &batch).await;
    let statuses: Vec<_> = answer.lines::<BatchLine>().iter().map(|line| line.status).collect();
    assert_eq!(statuses, [200, 422]);

    for (method, path, headers, body, status) in [
        ("POST", "/v1/checkins", &json[..], "", 400),
        ("POST", "/v1/checkins", &json[..], "{}", 400),
        ("POST", "/v1/checkins", &json[1..], scan.as_str(), 401),
        ("POST", "/v1/checkins", &json[..1], scan.as_str(), 415),
        ("PATCH", "/v1/checkins", &json[..], scan.as_str(), 405),
        ("GET", "/metrics", &[], "", 404),
    ] {
        let answer = send(&mut sender, method, path, headers, body).await;
        answer.assert_documented(path, &method.to_ascii_lowercase());
        assert_eq!((answer.status, answer.problem().status), (status, status), "{method} {path}");
    }
    for path in ["/healthz", "/openapi.json", "/nowhere"] {
        let head = send(&mut sender, "HEAD", path, &[], "").await;
        let get = send(&mut sender, "GET", path, &[], "").await;
        assert_eq!(head.body, b"", "{path}");
        assert_eq!((head.status, head.header("content-length")), (get.status, get.header("content-length")));
    }
}

#[test]
fn http2_with_prior_knowledge_speaks_the_api() {
    let server = Server::start(|_| {});
    block_on(async {
        let sender = http2_over(tokio::net::TcpStream::connect(server.public).await.unwrap()).await;
        speaks_the_api(&server, sender).await;
    });
}

#[test]
fn http2_over_tls_speaks_the_api() {
    let (server, trusted) = tls_server();
    block_on(async {
        let sender = http2_over_tls(&server, &trusted).await.unwrap();
        speaks_the_api(&server, sender).await;
    });
}

#[test]
fn http1_over_tls_speaks_the_api() {
    use std::io::Write as _;
    let (server, trusted) = tls_server();
    let name = "localhost".try_into().unwrap();
    let session = rustls::ClientConnection::new(client(&trusted, b"http/1.1"), name).unwrap();
    let socket = std::net::TcpStream::connect(server.public).unwrap();
    let mut stream = rustls::StreamOwned::new(session, socket);
    let body = request("a", &card(1)).to_string();
    write!(
        stream,
        "POST /v1/checkins HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        server.place_device("gate"),
        body.len()
    )
    .unwrap();
    let answer = api_support::read_answer(stream, false);
    assert_eq!((answer.status, answer.json::<Recorded>().outcome.as_str()), (201, "recorded"));
}

/// Asked for by the signal's way and by the admin listener's, which are the same underneath.
#[test]
fn a_reload_serves_the_new_certificate_and_keeps_open_connections() {
    let (server, first) = tls_server();
    let reloads: [&dyn Fn(); 2] = [&|| server.signals.reload(), &|| {
        let _: Reloaded = server.operate("POST", "/v1/reload").json();
    }];
    let mut trusted = first;
    let says = |line: &str| server.operate("GET", "/metrics").text().lines().any(|found| found == line);
    // The end that a certificate has by default: the year 4096.
    assert!(says("scangate_certificate_expiry_timestamp_seconds 67090118400"));
    for reload in reloads {
        block_on(async {
            let mut open = http2_over_tls(&server, &trusted).await.unwrap();
            let next = certificate(server.directory.path());
            assert!(http2_over_tls(&server, &trusted).await.is_ok(), "nothing changes by itself");
            reload();
            assert!(http2_over_tls(&server, &trusted).await.is_err(), "the old one is gone");
            let mut new = http2_over_tls(&server, &next).await.unwrap();
            for sender in [&mut open, &mut new] {
                assert_eq!(send(sender, "GET", "/healthz", &[], "").await.status, 200);
            }
            trusted = next;
        });
    }
    // One that can't be used changes nothing.
    std::fs::write(server.directory.path().join("cert.pem"), "no certificate").unwrap();
    assert_eq!(server.operate("POST", "/v1/reload").problem().outcome, "reload_failed");
    assert!(says("scangate_reload_failed 1"));
    block_on(async { assert!(http2_over_tls(&server, &trusted).await.is_ok()) });
}

#[test]
fn a_revoked_key_code_or_device_is_refused_after_a_reload() {
    use scangate::scan::App;
    use scangate::verify::Revocation;
    use scangate::verify::manage::{self, KeyUse};
    let server = Server::start(|_| {});
    let (data, now) = (server.data(), UnixMillis::now());
    let revoke = |revocation: Revocation| {
        manage::keys_revoke(&data, &revocation, now).unwrap();
        let reloaded: Reloaded = server.operate("POST", "/v1/reload").json();
        assert!(reloaded.keys_changed);
    };
    let refused = |answer: Answer| -> (u16, String) {
        let problem: Problem = answer.problem();
        (problem.status, problem.outcome)
    };
    let token = server.named_device("dev-1", now);
    let codes: Vec<_> = ["001090000001", "001090000002"]
        .map(|person| issue::issue_person(&data, person, TTL, now).unwrap())
        .into();
    for (id, code) in ["a", "b"].iter().zip(&codes) {
        assert_eq!(server.scan(&token, id, code).status, 201);
    }

    let explained =
        serde_json::to_value(issue::explain(&codes[0], now, &scangate::verify::Keys::load(&data).unwrap()))
            .unwrap();
    revoke(Revocation::parse("cti", explained["cti"].as_str().unwrap()).unwrap());
    assert_eq!(refused(server.scan(&token, "c", &codes[0])), (422, "revoked".to_owned()));
    assert_eq!(server.scan(&token, "b", &codes[1]).status, 200);

    let sg1 = manage::keys_list(&data).unwrap().into_iter().find(|key| key.key_use == KeyUse::Sg1).unwrap();
    manage::keys_rotate(&data, KeyUse::Sg1, now).unwrap();
    revoke(Revocation::Kid(sg1.kid));
    assert_eq!(refused(server.scan(&token, "d", &codes[1])), (422, "revoked".to_owned()));
    let newer = issue::issue_person(&data, "001090000002", TTL, now).unwrap();
    assert_eq!(server.scan(&token, "b", &newer).status, 200);

    revoke(Revocation::Device(App::PcCovid, "dev-1".to_owned()));
    assert_eq!(refused(server.scan(&token, "e", &newer)), (401, "unauthenticated".to_owned()));
    assert_eq!(server.scan(&server.named_device("dev-2", now), "e", &card(5)).status, 201);
}

/// An NHS place poster of the venue 4WT59M5Y, and the file of the key that signed it.
fn nhs_poster() -> (String, String) {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let header = encode(br#"{"alg":"ES256","kid":"poster-1","typ":"JWT"}"#);
    let signed = format!("{header}.{}", encode(br#"{"id":"4WT59M5Y","opn":"Town Hall","vt":"004"}"#));
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    let point = pair.public_key().as_ref();
    let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
    let file = format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}","kid":"poster-1"}}"#);
    (format!("UKC19TRACING:1:{signed}.{}", encode(signature.as_ref())), file)
}

#[test]
fn a_poster_s_key_is_taken_and_taken_away_by_a_reload() {
    let server = Server::start(|_| {});
    let phone = server.person_device("001090123456");
    let (poster, key) = nhs_poster();
    let outcome = |id: &str| server.scan(&phone, id, &poster).problem().outcome;
    assert_eq!(outcome("before"), "unknown_key");
    let keys = server.data().join("keys/nhs");
    std::fs::create_dir(&keys).unwrap();
    std::fs::write(keys.join("poster-1.json"), key).unwrap();
    assert!(server.operate("POST", "/v1/reload").json::<Reloaded>().keys_changed);
    let recorded: Recorded = server.scan(&phone, "with", &poster).json();
    assert_eq!((recorded.subject.as_str(), recorded.trust.as_str()), ("place", "proven"));
    // The same person at the same place, as a scanner there sees it.
    let mut met = request("gate", &card(123_456));
    met["direction"] = "in".into();
    let met = server.post(&server.place_device("nhs/4WT59M5Y"), "application/json", met.to_string());
    assert_eq!(met.json::<Duplicate>().original.checkin, recorded.checkin);
    issue::keys_revoke(&server.data(), &issue::Revocation::Kid("poster-1".to_owned()), UnixMillis::now())
        .unwrap();
    assert!(server.operate("POST", "/v1/reload").json::<Reloaded>().keys_changed);
    assert_eq!(outcome("after"), "revoked");
}

#[test]
fn a_reload_takes_new_limits_and_a_file_with_a_mistake_changes_nothing() {
    let server = Server::start(|_| {});
    let token = server.place_device("gate");
    let long = format!("{}|{}", card(1), "x".repeat(64));
    assert_eq!(server.scan(&token, "a", &long).status, 201);
    let file = server.directory.path().join("scangate.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write("[limits]\npayload_bytes_max = 64\n");
    assert_eq!(server.operate("POST", "/v1/reload").status, 200);
    assert_eq!(server.scan(&token, "b", &long).status, 400);
    write("[limits]\npayload_bytes_max = 4096\nno_such_key = 1\n");
    assert_eq!(server.operate("POST", "/v1/reload").status, 500);
    assert_eq!(server.scan(&token, "c", &long).status, 400);
    write("");
    assert_eq!(server.operate("POST", "/v1/reload").status, 200);
    assert_eq!(server.scan(&token, "d", &long).status, 200);
}
