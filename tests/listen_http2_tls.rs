//! HTTP/2 with prior knowledge, and TLS with ALPN and reload, on both runtimes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod listen_support;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use listen_support::{Server, count, eventually, read_response, runtimes};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use scangate::listen::tls::{Tls, TlsError};

fn block_on<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

async fn http2_over<T>(io: T) -> SendRequest<Full<Bytes>>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn http2_to(server: &Server) -> SendRequest<Full<Bytes>> {
    http2_over(tokio::net::TcpStream::connect(server.address).await.unwrap()).await
}

/// Status and body of a POST.
async fn post(
    sender: &mut SendRequest<Full<Bytes>>,
    path: &str,
    body: Vec<u8>,
) -> hyper::Result<(u16, String)> {
    sender.ready().await?;
    let request = Request::post(format!("http://test{path}")).body(Full::new(Bytes::from(body))).unwrap();
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    // Bounded, and the peer is ours.
    #[allow(clippy::disallowed_methods)]
    let body = Limited::new(response.into_body(), 10_000_000).collect().await.unwrap().to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[test]
fn http2_with_prior_knowledge_serves_many_streams() {
    for runtime in runtimes() {
        let server = Server::start(runtime, |_| {});
        block_on(async {
            let sender = http2_to(&server).await;
            let mut streams = tokio::task::JoinSet::new();
            for number in 0..100 {
                let mut sender = sender.clone();
                streams.spawn(async move {
                    let body = format!("stream {number}").repeat(number * 10);
                    let (status, echoed) = post(&mut sender, "/", body.clone().into_bytes()).await.unwrap();
                    assert_eq!(status, 200);
                    assert!(number == 0 || echoed == body);
                });
            }
            while let Some(done) = streams.join_next().await {
                done.unwrap();
            }
            let mut sender = sender;
            assert_eq!(post(&mut sender, "/", vec![b'x'; 200_000]).await.unwrap().0, 413);
            assert_eq!(post(&mut sender, "/large", vec![]).await.unwrap().1.len(), 3_000_000);
        });
        assert_eq!(count(&server.counters.accepted), 1);
        assert_eq!(count(&server.counters.protocol_errors), 0);
    }
}

#[test]
fn the_http2_preface_may_come_in_pieces_and_http1_may_look_like_it() {
    for runtime in runtimes() {
        let server = Server::start(runtime, |_| {});
        let mut socket = server.connect();
        for piece in [&b"P"[..], b"RI * HT", b"TP/2.0\r\n\r\nSM\r\n", b"\r\n", b"\0\0\0\x04\0\0\0\0\0"] {
            socket.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(30));
        }
        let mut frame = [0; 9];
        std::io::Read::read_exact(&mut socket, &mut frame).unwrap();
        assert_eq!(frame[3], 4, "the first frame is SETTINGS");

        let mut socket = server.connect();
        for piece in ["PR", "I /x HTTP/1.1\r\n", "Host: x\r\n\r\n"] {
            socket.write_all(piece.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(30));
        }
        assert!(read_response(&mut socket).1.contains("PRI /x"));
    }
}

#[test]
fn a_late_http2_stream_is_reset_and_the_others_go_on() {
    for runtime in runtimes() {
        let server = Server::start(runtime, |settings| settings.request_timeout_ms = 300);
        block_on(async {
            let mut sender = http2_to(&server).await;
            let mut late = sender.clone();
            let late = tokio::spawn(async move { post(&mut late, "/never", vec![]).await });
            for _ in 0..10 {
                assert_eq!(post(&mut sender, "/", b"on".to_vec()).await.unwrap().1, "on");
                tokio::time::sleep(Duration::from_millis(80)).await;
            }
            assert!(late.await.unwrap().is_err());
            assert_eq!(post(&mut sender, "/", b"on".to_vec()).await.unwrap().1, "on");
        });
        assert_eq!(count(&server.counters.request_timeouts), 1);
    }
}

#[test]
fn idle_http2_connections_time_out_and_drains_wait_for_streams() {
    for runtime in runtimes() {
        let server = Server::start(runtime, |settings| settings.idle_timeout_ms = 300);
        block_on(async {
            let mut sender = http2_to(&server).await;
            post(&mut sender, "/", vec![]).await.unwrap();
            eventually("the close", || count(&server.counters.open) == 0);
            assert_eq!(count(&server.counters.idle_timeouts), 1);

            let mut sender = http2_to(&server).await;
            let slow = tokio::spawn(async move { post(&mut sender, "/slow", b"done".to_vec()).await });
            tokio::time::sleep(Duration::from_millis(100)).await;
            server.drain();
            assert_eq!(slow.await.unwrap().unwrap().1, "done");
        });
        server.stop();
    }
}

/// Writes a self-signed certificate for `localhost` and returns it.
fn certificate(directory: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    closed(&directory.join("key.pem"), &made.signing_key.serialize_pem());
    made.cert.der().clone()
}

/// Writes a file that only its owner may read.
fn closed(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

fn client(trusted: &CertificateDer<'static>, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

fn localhost() -> ServerName<'static> {
    "localhost".try_into().unwrap()
}

/// One request over a new TLS connection; fails when the certificate isn't trusted.
fn get_over_tls(server: &Server, config: &Arc<ClientConfig>) -> std::io::Result<String> {
    let session = ClientConnection::new(Arc::clone(config), localhost()).unwrap();
    let mut socket = StreamOwned::new(session, server.connect());
    socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    Ok(read_response(&mut socket).1)
}

#[test]
fn tls_serves_http1_by_alpn_or_without_it_and_parks() {
    let directory = tempfile::tempdir().unwrap();
    let trusted = certificate(directory.path());
    for runtime in runtimes() {
        let tls = Tls::load(&directory.path().join("cert.pem"), &directory.path().join("key.pem")).unwrap();
        let server = Server::start_with(runtime, Some(tls), |_| {});
        for protocols in [&[][..], &[&b"http/1.1"[..]]] {
            let config = client(&trusted, protocols);
            let session = ClientConnection::new(config, localhost()).unwrap();
            let mut socket = StreamOwned::new(session, server.connect());
            for pause_ms in [0, 0, 300, 0, 300] {
                std::thread::sleep(Duration::from_millis(pause_ms));
                socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                assert_eq!(read_response(&mut socket).1, "GET / tls=true");
            }
            assert_eq!(socket.conn.alpn_protocol(), protocols.first().copied());
        }
        // Plain text at a TLS port ends in the handshake.
        let _ = server.exchange(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        eventually("the failure", || count(&server.counters.handshake_errors) == 1);
    }
}

#[test]
fn tls_serves_http2_by_alpn() {
    let directory = tempfile::tempdir().unwrap();
    let trusted = certificate(directory.path());
    for runtime in runtimes() {
        let tls = Tls::load(&directory.path().join("cert.pem"), &directory.path().join("key.pem")).unwrap();
        let server = Server::start_with(runtime, Some(tls), |_| {});
        block_on(async {
            let socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(client(&trusted, &[b"h2"]));
            let socket = connector.connect(localhost(), socket).await.unwrap();
            assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            let mut sender = http2_over(socket).await;
            for size in [1, 1000, 90_000] {
                let body = "b".repeat(size);
                let (_, echoed) = post(&mut sender, "/", body.clone().into_bytes()).await.unwrap();
                assert_eq!(echoed, body);
            }
        });
    }
}

#[test]
fn a_reload_serves_the_new_certificate_and_a_bad_one_keeps_the_old() {
    for runtime in runtimes() {
        let directory = tempfile::tempdir().unwrap();
        let first = client(&certificate(directory.path()), &[]);
        let tls = Tls::load(&directory.path().join("cert.pem"), &directory.path().join("key.pem")).unwrap();
        let server = Server::start_with(runtime, Some(tls.clone()), |_| {});
        assert!(get_over_tls(&server, &first).is_ok());

        let second = client(&certificate(directory.path()), &[]);
        tls.reload().unwrap();
        assert!(get_over_tls(&server, &second).is_ok());
        assert!(get_over_tls(&server, &first).is_err());

        std::fs::write(directory.path().join("key.pem"), "no key").unwrap();
        assert!(matches!(tls.reload(), Err(TlsError::Key { .. })));
        assert!(get_over_tls(&server, &second).is_ok());
    }
}

#[test]
fn a_handshake_that_stalls_is_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    certificate(directory.path());
    for runtime in runtimes() {
        let tls = Tls::load(&directory.path().join("cert.pem"), &directory.path().join("key.pem")).unwrap();
        let server = Server::start_with(runtime, Some(tls), |settings| settings.handshake_timeout_ms = 300);
        assert_eq!(server.exchange(b"\x16\x03\x01"), "");
        assert_eq!(count(&server.counters.handshake_timeouts), 1);
    }
}
