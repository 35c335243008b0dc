//! Addresses for servers that are started, killed and started again.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below 32768, where Linux begins to give ports to connections (`ip_local_port_range`): one could take a server's while
/// that restarts.
const FIRST: u32 = 10_000;
const COUNT: u32 = 22_000;

/// An address on loopback that nobody listens on. Each call gives another one, and so, as a rule, does another process.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(641).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + number % COUNT).unwrap_or_default();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
