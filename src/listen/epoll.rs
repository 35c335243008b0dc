//! A socket on epoll: readiness first, then a system call straight from or into the caller's buffer.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::uring::{SharedFd, receive};

/// One connection's socket.
pub(super) struct Socket {
    io: AsyncFd<SharedFd>,
}

impl Socket {
    pub(super) fn new(fd: &SharedFd) -> io::Result<Self> {
        // SAFETY: an `Rc<OwnedFd>` names one open descriptor for as long as it lives.
        Ok(Self { io: unsafe { AsyncFd::register(Rc::clone(fd)) }? })
    }

    /// Ready when a read has something to say: bytes, the end, or an error.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_read_ready(cx).map_ok(|mut ready| ready.retain_ready())
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.io.poll_read_ready(cx))?;
            match receive(self.io.get_ref(), into)? {
                Some(received) => {
                    // Fewer bytes than asked for: the socket is empty, and its next event is an edge.
                    if received > 0 && into.remaining() > 0 {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(()));
                }
                None => ready.clear_ready(),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.io.poll_write_ready(cx))?;
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            match SockRef::from(self.io.get_ref()).send_with_flags(bytes, flags) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(self.io.get_ref()).shutdown(Shutdown::Write))
    }
}
