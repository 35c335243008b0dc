//! Listeners, one a core, and the task that takes connections off one of them.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::Runtime;
use super::uring::{self, SharedFd};

/// Waited after descriptors or memory ran out: long enough for other connections to close.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// Waited after any other failure, so that one that repeats doesn't take the core.
const FAILED_PAUSE: Duration = Duration::from_millis(5);

/// A killed process's ring lets go of its listener some time after the process has ended, when the kernel gets to it: whoever
/// restarts it at once must not be told that the address is in use.
const CLAIM_TIME: Duration = Duration::from_secs(3);
const CLAIM_PAUSE: Duration = Duration::from_millis(20);

/// Binds `cores` listeners to one address. With port 0 the first picks and the others follow.
pub(super) fn bind(address: SocketAddr, backlog: i32, cores: usize) -> io::Result<Vec<Socket>> {
    claim(address)?;
    let mut address = address;
    let mut sockets = Vec::with_capacity(cores);
    for _ in 0..cores {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(cores > 1)?;
        // Accepted connections inherit it, which saves a call each.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&address.into())?;
        if let Some(bound) = socket.local_addr()?.as_socket() {
            address = bound;
        }
        sockets.push(socket);
    }
    // Only when all are bound: a connection that arrives early must not land on a listener that goes away.
    for socket in &sockets {
        socket.listen(backlog)?;
    }
    Ok(sockets)
}

/// Fails when somebody listens there already. Sharing a port among our cores would otherwise share it with
/// an older process of the same user as well, and each would be given half of the clients.
fn claim(address: SocketAddr) -> io::Result<()> {
    let began = Instant::now();
    loop {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        match socket.bind(&address.into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && began.elapsed() < CLAIM_TIME => {
                thread::sleep(CLAIM_PAUSE);
            }
            claimed => return claimed,
        }
    }
}

/// One core's listener.
pub(super) enum Listener {
    Uring(SharedFd),
    Epoll(AsyncFd<SharedFd>),
}

impl Listener {
    pub(super) fn new(runtime: Runtime, socket: Socket) -> io::Result<Self> {
        match runtime {
            // Blocking, or the ring would answer EAGAIN instead of waiting.
            Runtime::Uring => Ok(Self::Uring(Rc::new(socket.into()))),
            Runtime::Epoll => {
                socket.set_nonblocking(true)?;
                // SAFETY: an `Rc<OwnedFd>` names one open descriptor for as long as it lives.
                Ok(Self::Epoll(unsafe { AsyncFd::register(Rc::new(OwnedFd::from(socket))) }?))
            }
        }
    }

    /// The next connection. Not to be dropped while pending.
    pub(super) async fn accept(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Uring(fd) => uring::accept(fd).await,
            Self::Epoll(fd) => loop {
                let mut ready = fd.readable().await?;
                match SockRef::from(ready.get_inner()).accept() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                    accepted => return accepted.map(|(socket, _)| socket.into()),
                }
            },
        }
    }

    /// A connection that is already queued, if any.
    pub(super) fn accept_queued(&self) -> Option<OwnedFd> {
        let listener = SockRef::from(self.as_shared());
        listener.set_nonblocking(true).ok()?;
        listener.accept().ok().map(|(socket, _)| socket.into())
    }

    /// Refuses further connections; a pending [`Self::accept`] fails.
    pub(super) fn close(&self) {
        let _ = SockRef::from(self.as_shared()).shutdown(Shutdown::Both);
    }

    fn as_shared(&self) -> &SharedFd {
        match self {
            Self::Uring(fd) => fd,
            Self::Epoll(fd) => fd.get_ref(),
        }
    }
}

/// The address at the other end; fails when the peer is gone already.
pub(super) fn peer_address(fd: &impl AsFd) -> io::Result<SocketAddr> {
    let address = SockRef::from(fd).peer_addr()?;
    address.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// How long to leave `accept` alone after it failed.
pub(super) fn pause_after(error: &io::Error) -> Option<Duration> {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Some(EXHAUSTED_PAUSE),
        // The peer gave up in the queue; the next may be fine.
        Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO | libc::EPERM) => None,
        _ => Some(FAILED_PAUSE),
    }
}
