//! What the service manager is told: systemd's sd_notify(3) protocol, a datagram of `KEY=value` lines.
//!
//! Written here because the crates that speak it either bind libsystemd or, as sd-notify 0.5, don't reach a
//! socket of the abstract namespace.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How much longer a start may take, each time that it is seen to get on.
const START_EXTENSION: Duration = Duration::from_mins(1);

/// How often that is told at most.
const START_EXTENSION_EVERY: Duration = Duration::from_secs(5);

/// The least watchdog interval that one message a second can keep.
const WATCHDOG_MIN: Duration = Duration::from_secs(2);

/// The service manager, if one started this process and wants to hear from it.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: bool,
    extended: Mutex<Option<Instant>>,
}

impl ServiceManager {
    /// As `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` say. A socket that can't be used is logged, and
    /// nothing is told.
    pub fn from_environment() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let socket = address(&name).and_then(|address| Ok((unbound()?, address)));
        let socket =
            socket.inspect_err(|error| tracing::warn!(error = %error, "NOTIFY_SOCKET can't be used")).ok();
        let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let is_for_this = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let interval = number("WATCHDOG_USEC").filter(|_| is_for_this).map(Duration::from_micros);
        if interval.is_some_and(|interval| interval < WATCHDOG_MIN) {
            tracing::warn!(?interval, "the watchdog's interval must be at least two seconds");
        }
        Self { socket, watchdog: interval.is_some(), extended: Mutex::new(None) }
    }

    /// The start has got on: it may take a while longer, however long it took. Cheap enough for every few
    /// thousand records; tells at most every five seconds.
    pub fn getting_on(&self) {
        let mut extended = self.extended.lock();
        if self.socket.is_some() && extended.is_none_or(|at| at.elapsed() >= START_EXTENSION_EVERY) {
            *extended = Some(Instant::now());
            self.tell(&format!("EXTEND_TIMEOUT_USEC={}", START_EXTENSION.as_micros()));
        }
    }

    /// It serves.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// It stops, which takes at most `limit`.
    pub fn stopping(&self, limit: Duration) {
        self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}", limit.as_micros()));
    }

    /// It is alive and sound; without this for the watchdog's interval it is started again.
    pub fn alive(&self) {
        if self.watchdog {
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, state: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            tracing::warn!(error = %error, "the service manager can't be told");
        }
    }
}

/// A path, or with `@` before it a name of the abstract namespace.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        path => SocketAddr::from_pathname(OsStr::from_bytes(path)),
    }
}

/// The main loop must not wait for a manager that doesn't read.
fn unbound() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manager that a test reads: bound to the address, told by what comes with it.
    fn pair(address: &SocketAddr, watchdog: bool) -> (UnixDatagram, ServiceManager) {
        let read = UnixDatagram::bind_addr(address).unwrap();
        read.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let socket = Some((unbound().unwrap(), address.clone()));
        (read, ServiceManager { socket, watchdog, extended: Mutex::new(None) })
    }

    fn told(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_socket_is_a_path_or_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("@scangate-notify-{}", std::process::id());
        for name in [path.as_os_str(), OsStr::new(&name)] {
            let (read, manager) = pair(&address(name).unwrap(), true);
            manager.ready();
            assert_eq!(told(&read), "READY=1");
            manager.alive();
            assert_eq!(told(&read), "WATCHDOG=1");
            manager.stopping(Duration::from_secs(3));
            assert_eq!(told(&read), "STOPPING=1\nEXTEND_TIMEOUT_USEC=3000000");
        }
        assert!(address(OsStr::new(&"x".repeat(200))).is_err());
    }

    #[test]
    fn a_start_that_gets_on_is_told_of_now_and_then_and_a_watchdog_only_where_asked_for() {
        let name = format!("@scangate-start-{}", std::process::id());
        let (read, manager) = pair(&address(OsStr::new(&name)).unwrap(), false);
        (0..1000).for_each(|_| manager.getting_on());
        manager.alive();
        manager.ready();
        assert_eq!(told(&read), "EXTEND_TIMEOUT_USEC=60000000");
        // A thousand calls take no five seconds.
        assert_eq!(told(&read), "READY=1");
    }

    #[test]
    fn a_manager_that_went_away_or_does_not_read_holds_nothing_up() {
        let name = format!("@scangate-gone-{}", std::process::id());
        let (read, manager) = pair(&address(OsStr::new(&name)).unwrap(), true);
        (0..10_000).for_each(|_| manager.alive());
        drop(read);
        manager.alive();
        ServiceManager::default().ready();
    }
}
