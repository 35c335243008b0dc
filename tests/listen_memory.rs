//! What an idle connection costs after a request: memory of the process, not of the kernel.
//!
//! The client ends are in this process too; a std socket has no buffer of its own. Growth is measured over
//! connections that all made one request at the same time, the worst case, and then fell quiet.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod listen_support;

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use listen_support::{Server, count, read_response, runtimes};

const CONNECTIONS: usize = 2000;
const IDLE_BYTES_MAX: usize = 6 * 1024;

#[test]
fn an_idle_connection_holds_at_most_six_kilobytes() {
    for runtime in runtimes() {
        let server = Server::start(runtime, |_| {});
        // The first connections pay for what all share: pools, the arena, lazily touched code.
        let warm = serve(&server, 300);
        std::thread::sleep(Duration::from_millis(400));
        let before = resident_bytes();
        let sockets = serve(&server, CONNECTIONS);
        std::thread::sleep(Duration::from_millis(500));
        let after = resident_bytes();
        let each = after.saturating_sub(before) / CONNECTIONS;
        println!("{runtime:?}: {each} bytes an idle connection");
        assert!(each <= IDLE_BYTES_MAX, "{runtime:?}: {each} bytes a connection");
        assert_eq!(count(&server.counters.open), 300 + CONNECTIONS as u64);
        drop((warm, sockets));
    }
}

fn serve(server: &Server, number: usize) -> Vec<TcpStream> {
    let mut sockets: Vec<TcpStream> = (0..number).map(|_| server.connect()).collect();
    for socket in &mut sockets {
        socket.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    }
    for socket in &mut sockets {
        assert_eq!(read_response(socket).1, "hello");
    }
    sockets
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
