//! HTTP/1.1 byte by byte over a raw socket, on both runtimes.
//!
//! Promise: whatever way a request's bytes arrive, it is answered once and in order, or refused and the
//! connection closed; no sequence of bytes leaves a connection waiting for what will not come.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod listen_support;

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use listen_support::{BODY_BYTES_MAX, Server, count, eventually, read_response, read_to_close, runtimes};

fn each(test: impl Fn(&Server)) {
    for runtime in runtimes() {
        test(&Server::start(runtime, |_| {}));
    }
}

#[test]
fn a_request_may_come_byte_by_byte() {
    each(|server| {
        let mut socket = server.connect();
        for byte in b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" {
            socket.write_all(&[*byte]).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(read_response(&mut socket).1, "hello");
    });
}

#[test]
fn keep_alive_serves_many_requests_across_parking() {
    each(|server| {
        let mut socket = server.connect();
        for pause_ms in [0, 0, 150, 0, 300, 0, 0, 250, 120] {
            std::thread::sleep(Duration::from_millis(pause_ms));
            socket.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok").unwrap();
            assert_eq!(read_response(&mut socket).1, "ok");
        }
        assert_eq!(count(&server.counters.accepted), 1);
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    each(|server| {
        let mut socket = server.connect();
        let mut requests = Vec::new();
        for number in 0..50 {
            let body = format!("request {number}");
            write!(requests, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                .unwrap();
        }
        socket.write_all(&requests).unwrap();
        for number in 0..50 {
            assert_eq!(read_response(&mut socket).1, format!("request {number}"));
        }
    });
}

/// hyper's `pipeline_flush` would hold the first answer back until the second request is whole.
#[test]
fn half_a_request_does_not_hold_back_the_answer_before_it() {
    each(|server| {
        let mut socket = server.connect();
        socket.write_all(b"GET /first HTTP/1.1\r\nHost: x\r\n\r\nGET /sec").unwrap();
        assert!(read_response(&mut socket).1.contains("/first"));
        // Long enough for the connection to be parked with those bytes read.
        std::thread::sleep(Duration::from_millis(400));
        socket.write_all(b"ond HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(read_response(&mut socket).1.contains("/second"));
    });
}

#[test]
fn chunked_bodies_are_read() {
    each(|server| {
        let mut socket = server.connect();
        socket.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for chunk in ["3\r\nabc\r\n", "5;x=y\r\ndefgh\r\n", "0\r\n\r\n"] {
            std::thread::sleep(Duration::from_millis(20));
            socket.write_all(chunk.as_bytes()).unwrap();
        }
        assert_eq!(read_response(&mut socket).1, "abcdefgh");
    });
}

#[test]
fn expect_continue_is_answered_before_the_body() {
    each(|server| {
        let mut socket = server.connect();
        socket
            .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
            .unwrap();
        assert!(read_response(&mut socket).0.starts_with("HTTP/1.1 100 "));
        socket.write_all(b"body").unwrap();
        assert_eq!(read_response(&mut socket).1, "body");
    });
}

#[test]
fn connection_close_and_http_1_0_close() {
    each(|server| {
        let answer = server.exchange(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
        let answer = server.exchange(b"GET / HTTP/1.0\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
    });
}

#[test]
fn a_client_that_shuts_its_side_is_still_answered() {
    each(|server| {
        let mut socket = server.connect();
        socket.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        assert!(read_to_close(&mut socket).contains("GET /slow"));
    });
}

#[test]
fn malformed_requests_are_refused_and_closed() {
    each(|server| {
        for (request, status) in [
            (&b"nonsense\r\n\r\n"[..], "HTTP/1.1 400 "),
            (b"GET / HTTP/9.9\r\n\r\n", "HTTP/1.1 "),
            (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", "HTTP/1.1 400 "),
            (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 2\r\n\r\nx", "HTTP/1.1 400 "),
            (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 400 "),
            (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", "HTTP/1.1 400 "),
        ] {
            let answer = server.exchange(request);
            let shown = String::from_utf8_lossy(request);
            assert!(answer.starts_with(status) && !answer.contains(" 200 "), "{shown:?} gave {answer:?}");
        }
    });
}

/// RFC 9112 section 6.3: with both, either refuse or let chunked win *and close*. What must not happen is
/// that the bytes after the chunked end are taken for a request.
#[test]
fn content_length_with_transfer_encoding_smuggles_nothing() {
    each(|server| {
        for headers in [
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 4",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: chunked, identity",
        ] {
            let request = format!(
                "POST /outer HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            );
            let answer = server.exchange(request.as_bytes());
            assert!(!answer.contains("smuggled"), "{headers:?} gave {answer:?}");
        }
    });
}

#[test]
fn lowercase_methods_are_not_the_methods() {
    each(|server| {
        let answer = server.exchange(b"get /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert!(answer.contains("get /x") && !answer.contains("GET"), "{answer}");
    });
}

#[test]
fn oversized_heads_are_431() {
    each(|server| {
        let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(40_000));
        assert!(server.exchange(long.as_bytes()).starts_with("HTTP/1.1 431 "));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(150));
        assert!(server.exchange(many.as_bytes()).starts_with("HTTP/1.1 431 "));
    });
}

#[test]
fn bodies_up_to_the_limit_are_echoed_and_beyond_it_413() {
    each(|server| {
        let mut socket = server.connect();
        let body = vec![b'y'; BODY_BYTES_MAX];
        write!(socket, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
        socket.write_all(&body).unwrap();
        assert_eq!(read_response(&mut socket).1.len(), body.len());

        // Announced: refused without reading, and the answer survives the bytes still coming.
        let mut socket = server.connect();
        write!(socket, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n").unwrap();
        let _ = socket.write_all(&vec![b'y'; 500_000]);
        assert!(read_to_close(&mut socket).starts_with("HTTP/1.1 413 "));

        // Not announced: refused on the way.
        let mut socket = server.connect();
        socket.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for _ in 0..30 {
            let _ = write!(socket, "2710\r\n{}\r\n", "z".repeat(10_000));
        }
        assert!(read_to_close(&mut socket).starts_with("HTTP/1.1 413 "));
    });
}

#[test]
fn an_unread_body_is_not_taken_for_a_request() {
    each(|server| {
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut socket = server.connect();
        write!(socket, "POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n").unwrap();
        assert!(read_response(&mut socket).0.starts_with("HTTP/1.1 403 "));
        std::thread::sleep(Duration::from_millis(300));
        let _ = socket.write_all(smuggled.as_bytes());
        assert!(!read_to_close(&mut socket).contains("smuggled"));
    });
}

#[test]
fn a_large_answer_arrives_whole_at_a_slow_reader() {
    each(|server| {
        let mut socket = server.connect();
        socket.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(read_response(&mut socket).1.len(), 3_000_000);
    });
}

#[test]
fn a_stream_flows_and_outlives_the_request_limit() {
    for runtime in runtimes() {
        let server = Server::start(runtime, |settings| settings.request_timeout_ms = 200);
        let mut socket = server.connect();
        socket.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let started = Instant::now();
        let mut seen = String::new();
        while !seen.contains("data: 15") {
            let mut piece = [0; 1024];
            let read = std::io::Read::read(&mut socket, &mut piece).unwrap();
            assert!(read > 0, "closed after {seen:?}");
            seen.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        assert!(started.elapsed() > Duration::from_millis(600));
        server.stop();
        // The drain ended it, properly.
        assert!(read_to_close(&mut socket).ends_with("0\r\n\r\n"));
    }
}

#[test]
fn a_client_that_leaves_is_forgotten() {
    each(|server| {
        for request in [
            &b""[..],
            b"GET",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhal",
            b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n",
        ] {
            let mut socket = server.connect();
            socket.write_all(request).unwrap();
            std::thread::sleep(Duration::from_millis(30));
            drop(socket);
        }
        eventually("the end of all four", || {
            count(&server.counters.open) == 0 && count(&server.counters.accepted) == 4
        });
    });
}
