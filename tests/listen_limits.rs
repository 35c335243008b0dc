//! Time and number: nothing waits for ever, nothing is kept past its end, on both runtimes.
//!
//! Promise: every close path gives its descriptor back, at once and to the peer's knowledge. Counted over
//! `/proc/self/fd`, so these tests run one after the other.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod listen_support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use listen_support::{Server, count, eventually, read_response, read_to_close, runtimes};

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_thousand_timed_out_connections_leave_no_descriptor() {
    let _alone = alone();
    for runtime in runtimes() {
        let server = Server::start(runtime, |settings| {
            settings.header_timeout_ms = 300;
            settings.idle_timeout_ms = 300;
        });
        // One whole round first, so that what the server opens lazily is in the baseline.
        time_out(&server, 10);
        eventually("the end of the first", || count(&server.counters.open) == 0);
        std::thread::sleep(Duration::from_millis(200));
        let before = descriptors();
        time_out(&server, 1000);
        eventually("the descriptors' return", || descriptors() <= before);
        assert_eq!(count(&server.counters.open), 0);
        let ended = count(&server.counters.idle_timeouts) + count(&server.counters.header_timeouts);
        assert_eq!(ended, 1010);
        // A third of them were parked after a request, a third were in the middle of a head.
        assert!(count(&server.counters.header_timeouts) >= 333);
    }
}

/// Opens connections in three states and checks that the server closes each.
fn time_out(server: &Server, number: usize) {
    let mut sockets = Vec::with_capacity(number);
    for index in 0..number {
        let mut socket = server.connect();
        match index % 3 {
            0 => {}
            1 => socket.write_all(b"GET / HT").unwrap(),
            _ => {
                socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                read_response(&mut socket);
            }
        }
        sockets.push(socket);
    }
    for socket in &mut sockets {
        read_to_close(socket);
    }
}

#[test]
fn a_slow_head_is_cut_off_however_steadily_it_drips() {
    let _alone = alone();
    for runtime in runtimes() {
        let server = Server::start(runtime, |settings| settings.header_timeout_ms = 300);
        let mut socket = server.connect();
        let started = Instant::now();
        while socket.write_all(b"G").is_ok() && started.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        assert_eq!(count(&server.counters.header_timeouts), 1);
    }
}

#[test]
fn a_slow_body_is_answered_408() {
    let _alone = alone();
    for runtime in runtimes() {
        let server = Server::start(runtime, |settings| settings.body_timeout_ms = 300);
        let answer = server.exchange(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf");
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert_eq!(count(&server.counters.body_timeouts), 1);
    }
}

#[test]
fn an_unanswered_request_is_cut_off() {
    let _alone = alone();
    for runtime in runtimes() {
        let server = Server::start(runtime, |settings| settings.request_timeout_ms = 300);
        assert_eq!(server.exchange(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n"), "");
        assert_eq!(count(&server.counters.request_timeouts), 1);
    }
}

#[test]
fn a_reader_that_stops_reading_is_cut_off() {
    let _alone = alone();
    for runtime in runtimes() {
        let server = Server::start(runtime, |settings| settings.write_timeout_ms = 300);
        let mut sockets: Vec<TcpStream> = (0..5).map(|_| server.connect()).collect();
        for socket in &mut sockets {
            // More answers than the socket buffers of both ends can take.
            socket.write_all(&b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20)).unwrap();
        }
        eventually("five connections", || count(&server.counters.accepted) == 5);
        eventually("the cut", || count(&server.counters.open) == 0);
        assert_eq!(count(&server.counters.write_timeouts), 5);
    }
}

#[test]
fn connections_over_the_limit_are_closed_at_once() {
    let _alone = alone();
    for runtime in runtimes() {
        let server = Server::start(runtime, |settings| settings.connections_max = 3);
        let mut kept: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
        eventually("three connections", || count(&server.counters.open) == 3);
        let mut refused = server.connect();
        assert_eq!(refused.read(&mut [0]).unwrap_or(0), 0);
        assert_eq!(count(&server.counters.refused), 1);
        kept.pop();
        eventually("the departure", || count(&server.counters.open) == 2);
        let mut socket = server.connect();
        socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        read_response(&mut socket);
    }
}

#[test]
fn many_busy_connections_are_served_beyond_the_buffer_pool() {
    let _alone = alone();
    for runtime in runtimes() {
        let server = Server::start(runtime, |_| {});
        let mut sockets: Vec<TcpStream> = (0..600).map(|_| server.connect()).collect();
        for round in 0..5 {
            for socket in &mut sockets {
                write!(socket, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{round}").unwrap();
            }
            for socket in &mut sockets {
                assert_eq!(read_response(socket).1, round.to_string());
            }
        }
    }
}

#[test]
fn a_drain_lets_requests_finish_and_closes_the_rest() {
    let _alone = alone();
    // The first runtime of a process opens a signal pipe for good.
    for runtime in runtimes() {
        Server::start(runtime, |_| {}).stop();
    }
    std::thread::sleep(Duration::from_millis(200));
    let before = descriptors();
    for runtime in runtimes() {
        let server = Server::start(runtime, |_| {});
        let address = server.address;
        let mut idle = server.connect();
        let mut parked = server.connect();
        parked.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        read_response(&mut parked);
        std::thread::sleep(Duration::from_millis(300));
        let mut busy = server.connect();
        busy.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut begun = server.connect();
        begun.write_all(b"GET /begun HT").unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let started = Instant::now();
        server.drain();
        assert_eq!(read_to_close(&mut idle), "");
        assert_eq!(read_to_close(&mut parked), "");
        let answer = read_to_close(&mut busy);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
        begun.write_all(b"TP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(read_to_close(&mut begun).contains("GET /begun"));
        drop((idle, parked, busy, begun));
        server.stop();
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        assert!(TcpStream::connect(address).is_err());
    }
    eventually("the descriptors' return", || descriptors() <= before);
}

#[test]
fn a_drain_cuts_off_what_does_not_finish() {
    let _alone = alone();
    for runtime in runtimes() {
        let server = Server::start(runtime, |settings| settings.drain_timeout_ms = 300);
        let mut socket = server.connect();
        socket.write_all(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let started = Instant::now();
        let counters = std::sync::Arc::clone(&server.counters);
        server.stop();
        assert_eq!(read_to_close(&mut socket), "");
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        assert_eq!(count(&counters.drain_timeouts), 1);
    }
}

#[test]
fn a_taken_address_is_refused() {
    let _alone = alone();
    for (runtime, cores) in runtimes().into_iter().flat_map(|runtime| [(runtime, 1), (runtime, 2)]) {
        let server = Server::start(runtime, |settings| settings.cores = cores);
        let settings = scangate::listen::Settings {
            address: server.address,
            runtime,
            cores,
            ..scangate::listen::Settings::default()
        };
        let refused =
            scangate::listen::run(&settings, None, |_| listen_support::Echo, scangate::listen::Drain::new());
        assert!(matches!(refused, Err(scangate::listen::ListenError::Bind { .. })));
    }
}

/// As after a kill, when the kernel has not yet taken the killed process's ring apart.
#[test]
fn an_address_that_is_given_up_late_is_had() {
    let _alone = alone();
    for (runtime, cores) in runtimes().into_iter().flat_map(|runtime| [(runtime, 1), (runtime, 2)]) {
        let before = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = before.local_addr().unwrap();
        let given_up = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(before);
        });
        let server = Server::start(runtime, |settings| (settings.address, settings.cores) = (address, cores));
        given_up.join().unwrap();
        assert_eq!(server.address, address);
        server.stop();
    }
}

#[test]
fn a_panic_costs_its_own_connection_only() {
    let _alone = alone();
    for runtime in runtimes() {
        let server = Server::start(runtime, |_| {});
        let mut other = server.connect();
        other.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_eq!(server.exchange(b"GET /panic HTTP/1.1\r\nHost: x\r\n\r\n"), "");
        assert!(read_response(&mut other).1.contains("/slow"));
        drop(other);
        eventually("the end of both", || count(&server.counters.open) == 0);
    }
}

#[test]
fn running_out_of_descriptors_is_waited_out() {
    let _alone = alone();
    for runtime in runtimes() {
        let server = Server::start(runtime, |_| {});
        let waiting: Vec<socket2::Socket> = (0..20)
            .map(|_| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap())
            .collect();
        // Started up in full, so that what it opens and closes for itself is behind it.
        server.exchange(b"GET / HTTP/1.0\r\n\r\n");
        std::thread::sleep(Duration::from_millis(200));
        let usual = set_descriptor_limit(lowest_free_descriptor());
        for socket in &waiting {
            socket.connect(&server.address.into()).unwrap();
        }
        std::thread::sleep(Duration::from_millis(600));
        set_descriptor_limit(usual);
        let failed = count(&server.counters.accept_errors);
        assert!((1..=10).contains(&failed), "{failed} failures in 0.6 s");
        for socket in waiting {
            let mut socket = TcpStream::from(socket);
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            read_response(&mut socket);
        }
    }
}

fn lowest_free_descriptor() -> u64 {
    use std::os::fd::AsRawFd;
    u64::try_from(std::fs::File::open("/dev/null").unwrap().as_raw_fd()).unwrap()
}

/// Sets the process's soft limit and returns the one before.
fn set_descriptor_limit(limit: u64) -> u64 {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only read or write the struct they are given.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits), 0);
        let before = std::mem::replace(&mut limits.rlim_cur, limit);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits), 0);
        before
    }
}
