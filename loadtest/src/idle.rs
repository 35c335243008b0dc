//! What an idle keep-alive connection costs in memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::closed::parse;
use crate::cpu;
use crate::requests::{Line, assemble, head, time_text};
use crate::server::Server;

/// Connections that are opened and closed first, so that pools and allocator arenas have their working size.
const WARM_CONNECTIONS: usize = 200;
/// Time for buffers to be given back.
const SETTLE: Duration = Duration::from_secs(3);

/// Memory of idle connections.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Idle {
    /// Which server.
    pub server: String,
    /// How many connections were open.
    pub connections: usize,
    /// Growth of resident memory, a connection.
    pub bytes_each: f64,
}

/// Opens connections that make one request each (one and the same scan, so that nothing else grows), and
/// compares resident memory before and after.
#[allow(clippy::cast_precision_loss)] // Bytes and connections stay far below 2^52.
pub fn measure(name: &str, server: &Server, token: &str, code: &str, connections: usize) -> Result<Idle> {
    let line = Line::new(code, "in");
    let mut request = Vec::new();
    let at = time_text(scangate::scan::UnixMillis::now().0);
    assemble(&head(token, "application/json"), line.len(), &mut request, |out| {
        line.write(u64::MAX, &at, out);
    });
    for _ in 0..WARM_CONNECTIONS {
        ask(&mut TcpStream::connect(server.listen)?, &request)?;
    }
    sleep(SETTLE);
    let pids = server.pids();
    let before = cpu::resident_bytes(&pids)?;
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream = TcpStream::connect(server.listen)?;
        ask(&mut stream, &request)?;
        open.push(stream);
    }
    sleep(SETTLE);
    let after = cpu::resident_bytes(&pids)?;
    let bytes_each = (after as f64 - before as f64) / connections as f64;
    Ok(Idle { server: name.to_owned(), connections, bytes_each })
}

fn ask(stream: &mut TcpStream, request: &[u8]) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(request)?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer)?;
        ensure!(count > 0, "closed instead of answered");
        answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if let Some((status, _)) = parse(&answer)? {
            ensure!((200..300).contains(&status), "answered {status}: {}", String::from_utf8_lossy(&answer));
            return Ok(());
        }
    }
}
