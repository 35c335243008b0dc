//! Abuse of the framing: requests that two readers could cut differently, and HTTP/2 frames that cost their
//! sender little and a careless server much. Raw bytes, on both runtimes. What is held: nothing smuggled is
//! answered, memory stays bounded, others are served meanwhile, and the abuser's connection ends.
//!
//! Each test measures this process's memory, so they run one after the other.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod listen_support;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use listen_support::{Server, count, eventually, read_response, read_to_close, runtimes};

/// How much this process may grow under any one attack: a hundredth of what the attacks send or claim.
const GROWTH_BYTES_MAX: u64 = 48 << 20;

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Attacks a fresh server of each runtime, and holds it to its memory and to others being served during the
/// attack and after it.
fn under_attack(attack: impl Fn(&Server) + Sync) {
    let _alone = alone();
    for runtime in runtimes() {
        let server = Server::start(runtime, |settings| {
            settings.write_timeout_ms = 500;
            settings.idle_timeout_ms = 1_500;
            settings.request_timeout_ms = 1_500;
            settings.body_timeout_ms = 1_000;
        });
        is_served(&server);
        let before = resident_bytes();
        std::thread::scope(|scope| {
            let attacker = scope.spawn(|| attack(&server));
            let mut served = 0;
            while !attacker.is_finished() {
                is_served(&server);
                served += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            attacker.join().unwrap();
            assert!(served > 0);
        });
        let growth = resident_bytes().saturating_sub(before);
        assert!(growth < GROWTH_BYTES_MAX, "grew by {growth} bytes");
        is_served(&server);
        eventually("the end of every connection", || count(&server.counters.open) == 0);
    }
}

fn is_served(server: &Server) {
    let mut socket = server.connect();
    socket.write_all(b"GET /other HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert!(read_response(&mut socket).1.starts_with("GET /other"));
}

/// A client that speaks HTTP/2 a frame at a time.
struct Frames {
    socket: TcpStream,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block: the method's index in HPACK's static table, `http`, the path, and the authority `x`.
fn request(method: u8, path: &str) -> Vec<u8> {
    let mut block = vec![0x80 | method, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend_from_slice(path.as_bytes());
    block.extend_from_slice(&[0x01, 1, b'x']);
    block
}

const GET: u8 = 2;
const POST: u8 = 3;

impl Frames {
    /// Says hello with these settings.
    fn connect(server: &Server, settings: &[(u16, u32)]) -> Self {
        let mut socket = server.connect();
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [id.to_be_bytes().to_vec(), value.to_be_bytes().to_vec()].concat())
            .collect();
        hello.extend(frame(SETTINGS, 0, 0, &payload));
        hello.extend(frame(SETTINGS, ACK, 0, &[]));
        socket.write_all(&hello).unwrap();
        socket.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { socket }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Sends until the server stops taking it, and says how many times it was taken.
    fn flood(&mut self, bytes: &[u8], times_max: usize) -> usize {
        (0..times_max).take_while(|_| self.send(bytes).is_ok()).count()
    }

    /// The next frame; none at the end, a reset included.
    fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.socket.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Everything up to the end of the connection, which must come.
    fn rest(&mut self) -> Vec<Frame> {
        let began = Instant::now();
        let frames: Vec<Frame> = std::iter::from_fn(|| self.next()).collect();
        assert!(began.elapsed() < Duration::from_secs(9), "the connection did not end");
        frames
    }
}

/// The error code of the last GOAWAY.
fn goaway(frames: &[Frame]) -> Option<u32> {
    let last = frames.iter().rev().find(|frame| frame.kind == GOAWAY)?;
    Some(u32::from_be_bytes(last.payload[4..8].try_into().unwrap()))
}

/// The error code of a RST_STREAM.
fn reset(frame: &Frame) -> Option<u32> {
    (frame.kind == RST_STREAM).then(|| u32::from_be_bytes(frame.payload[..4].try_into().unwrap()))
}

/// CVE-2023-44487: each stream is given up before it is answered, so that the limit on streams never holds.
#[test]
fn rapid_resets_end_the_connection() {
    under_attack(|server| {
        let mut client = Frames::connect(server, &[]);
        let mut burst = Vec::new();
        for stream in (1..20_001).step_by(2) {
            burst.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &request(GET, "/never")));
            burst.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        }
        let _ = client.send(&burst);
        let frames = client.rest();
        assert_eq!(goaway(&frames).unwrap_or(ENHANCE_YOUR_CALM), ENHANCE_YOUR_CALM, "{frames:?}");
        eventually("the count of the error", || count(&server.counters.protocol_errors) >= 1);
    });
}

/// The same with resets that the server itself is made to send, by a window update of nothing (CVE-2025-8671).
#[test]
fn resets_that_a_client_provokes_end_the_connection() {
    under_attack(|server| {
        let mut client = Frames::connect(server, &[]);
        let mut burst = Vec::new();
        for stream in (1..20_001).step_by(2) {
            burst.extend(frame(HEADERS, END_HEADERS, stream, &request(POST, "/never")));
            burst.extend(frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes()));
        }
        let _ = client.send(&burst);
        let frames = client.rest();
        let resets = frames.iter().filter_map(reset).count();
        assert!(resets <= 200, "{resets} resets");
        eventually("the count of the error", || count(&server.counters.protocol_errors) >= 1);
    });
}

/// CVE-2024-27316: a header block that never ends.
#[test]
fn a_flood_of_continuations_ends_the_connection() {
    under_attack(|server| {
        let mut client = Frames::connect(server, &[]);
        client.send(&frame(HEADERS, 0, 1, &request(GET, "/"))).unwrap();
        // Literal headers without a name that the server would have to keep.
        let filler =
            frame(CONTINUATION, 0, 1, &[&[0x00, 1, b'a', 0x7f, 0x80, 0x7e][..], &[b'v'; 16_255]].concat());
        let taken = client.flood(&filler, 50_000);
        assert!(taken < 5_000, "{taken} frames of 16 KiB were taken");
        client.rest();
        eventually("the count of the error", || count(&server.counters.protocol_errors) >= 1);
    });
}

/// A header of 4 KB in the dynamic table, and thousands of references to it of a byte each.
#[test]
fn a_bomb_of_header_references_costs_its_limit() {
    under_attack(|server| {
        let mut client = Frames::connect(server, &[]);
        let mut first = request(GET, "/");
        // Literal with incremental indexing, name "a", value of 3,900 bytes (127 + 3,773).
        first.extend_from_slice(&[0x40, 1, b'a', 0x7f, 0xbd, 0x1d]);
        first.extend_from_slice(&[b'v'; 3_900]);
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &first)).unwrap();
        for stream in (3..60).step_by(2) {
            let mut block = request(GET, "/");
            block.extend_from_slice(&[0xbe; 16_000]);
            if client.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)).is_err() {
                break;
            }
        }
        let frames = client.rest();
        // `:status 431` in HPACK is a literal: the three digits stand there, plain or Huffman-coded. None may be 200,
        // which is the one byte 0x88, but the first stream's.
        let answered = |frame: &&Frame| frame.kind == HEADERS && frame.payload.first() == Some(&0x88);
        assert!(frames.iter().filter(answered).all(|frame| frame.stream == 1), "{frames:?}");
    });
}

/// Frames that must be answered, by a client that doesn't read the answers: reading stops until they leave, and
/// the write that is stuck has its limit.
#[test]
fn floods_that_want_answers_stop_at_the_first_that_is_not_taken() {
    for ping in [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[7; 8])] {
        under_attack(|server| {
            let mut client = Frames::connect(server, &[]);
            client.socket.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
            let began = Instant::now();
            let burst = ping.repeat(4_096);
            while began.elapsed() < Duration::from_secs(5) && client.send(&burst).is_ok() {}
            eventually("the end", || count(&server.counters.open) <= 1);
        });
    }
}

/// A client that takes its answers to such floods costs as much as it sends, and lives no longer than one that
/// is idle.
#[test]
fn a_flood_whose_answers_are_taken_ends_as_an_idle_connection() {
    under_attack(|server| {
        let mut client = Frames::connect(server, &[]);
        let mut reader = client.socket.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || io::copy(&mut reader, &mut io::sink()));
            let burst = frame(PING, 0, 0, &[7; 8]).repeat(64);
            let began = Instant::now();
            while client.send(&burst).is_ok() {
                assert!(began.elapsed() < Duration::from_secs(9), "it goes on");
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        assert_eq!(count(&server.counters.idle_timeouts), 1);
    });
}

/// Requests whose answers may never be sent, since the client grants no window (CVE-2019-9517 and its kin).
#[test]
fn answers_without_a_window_are_kept_for_a_time_and_no_longer() {
    under_attack(|server| {
        const INITIAL_WINDOW_SIZE: u16 = 4;
        let mut client = Frames::connect(server, &[(INITIAL_WINDOW_SIZE, 0)]);
        for stream in (1..40).step_by(2) {
            client.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &request(GET, "/"))).unwrap();
        }
        let frames = client.rest();
        assert_eq!(frames.iter().filter(|frame| frame.kind == HEADERS).count(), 20, "every head is sent");
        assert!(frames.iter().all(|frame| frame.kind != DATA));
    });
}

#[test]
fn streams_over_the_limit_are_refused() {
    under_attack(|server| {
        let mut client = Frames::connect(server, &[]);
        for stream in (1..2_001).step_by(2) {
            let never = frame(HEADERS, END_HEADERS | END_STREAM, stream, &request(GET, "/never"));
            if client.send(&never).is_err() {
                break;
            }
        }
        let frames = client.rest();
        let refused = frames.iter().filter(|frame| reset(frame) == Some(REFUSED_STREAM)).count();
        assert!(refused > 0 || goaway(&frames) == Some(ENHANCE_YOUR_CALM), "{frames:?}");
        // Those that were let in, and no other, ran into the limit on time.
        assert!(count(&server.counters.request_timeouts) <= 128);
    });
}

/// Frames of no bytes, which a flow control by bytes lets pass (CVE-2019-9518).
#[test]
fn a_flood_of_empty_data_ends_within_the_bodys_time() {
    under_attack(|server| {
        let mut client = Frames::connect(server, &[]);
        client.send(&frame(HEADERS, END_HEADERS, 1, &request(POST, "/"))).unwrap();
        let burst = frame(DATA, 0, 1, &[]).repeat(1_000);
        let began = Instant::now();
        while client.send(&burst).is_ok() {
            assert!(began.elapsed() < Duration::from_secs(9), "it goes on");
        }
        client.rest();
    });
}

/// What RFC 9112 leaves to the reader, and readers have read differently: whatever comes of the first request, the
/// bytes that one reader would take for a second one are never answered as such.
#[test]
fn what_two_readers_could_cut_differently_is_refused_or_is_one_request() {
    const INNER: &str = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let chunked = format!("0\r\n\r\n{INNER}");
    let length = chunked.len();
    let ambiguous = [
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}"),
        format!("Content-Length: 5\r\nContent-Length: {length}"),
        format!("Content-Length: 5, {length}"),
        format!("Content-Length: +{length}"),
        format!("Content-Length: 0x{length:x}"),
        format!("Content-Length: 5 {length}"),
        format!("Content-Length:\r\n {length}"),
        format!("Content-Length : {length}"),
        "Transfer-Encoding : chunked".to_owned(),
        "Transfer-Encoding:\r\n chunked".to_owned(),
        "Transfer-Encoding: xchunked".to_owned(),
        "Transfer-Encoding: \"chunked\"".to_owned(),
        "Transfer-Encoding: chunked, chunked".to_owned(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity".to_owned(),
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked".to_owned(),
        "Transfer-Encoding: chunked, identity".to_owned(),
        "Transfer-Encoding: \u{b}chunked".to_owned(),
        "X: y\rTransfer-Encoding: chunked".to_owned(),
        "\tTransfer-Encoding: chunked".to_owned(),
        "X: y\0\r\nTransfer-Encoding: chunked".to_owned(),
    ];
    let _alone = alone();
    for runtime in runtimes() {
        let server = Server::start(runtime, |settings| {
            settings.idle_timeout_ms = 300;
            settings.body_timeout_ms = 300;
        });
        for headers in &ambiguous {
            let answer = server.exchange(
                format!("POST /outer HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n{chunked}").as_bytes(),
            );
            assert!(!answer.contains("GET /smuggled tls"), "{headers:?} gave {answer:?}");
        }
        // Chunks that lie about themselves.
        for body in [
            "ffffffffffffffff\r\nx",
            "10000000000000000\r\nx",
            "-1\r\nx",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "5 5\r\nhello\r\n0\r\n\r\n",
            "5\rhello\r\n0\r\n\r\n",
            "5\r\nhelloGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
            "5;\r\nhello\r\n0\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
        ] {
            let answer = server.exchange(
                format!("POST /outer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
                    .as_bytes(),
            );
            assert!(!answer.contains("GET /smuggled tls"), "{body:?} gave {answer:?}");
            assert!(!answer.contains("200 OK"), "{body:?} gave {answer:?}");
        }
        // Extensions and trailers without end: read to their limit, kept nowhere.
        let mut socket = server.connect();
        let head = b"POST /outer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;";
        let endless = [&head[..], &vec![b'e'; 1 << 20], b"\r\nhello\r\n0\r\n\r\n"].concat();
        let _ = socket.write_all(&endless);
        assert!(!read_to_close(&mut socket).contains("200 OK"));
        is_served(&server);
    }
}
