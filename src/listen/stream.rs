//! One connection's bytes, whatever carries them, and what the sweeper learns from their movement.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::limits::Watch;
use super::{epoll, uring};

/// A connected socket on either runtime.
pub(super) enum Socket {
    Uring(uring::Socket),
    Epoll(epoll::Socket),
}

/// A connection's byte stream.
pub(super) enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    /// Ready when the socket has bytes, an end or an error for a reader that waits.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.get_mut().0,
        };
        match socket {
            Socket::Uring(socket) => socket.poll_readable(cx),
            Socket::Epoll(socket) => socket.poll_readable(cx),
        }
    }

    fn as_read(&mut self) -> Pin<&mut (dyn AsyncRead + Unpin)> {
        match self {
            Self::Plain(Socket::Uring(socket)) => Pin::new(socket),
            Self::Plain(Socket::Epoll(socket)) => Pin::new(socket),
            Self::Tls(tls) => Pin::new(&mut **tls),
        }
    }

    fn as_write(&mut self) -> Pin<&mut (dyn AsyncWrite + Unpin)> {
        match self {
            Self::Plain(Socket::Uring(socket)) => Pin::new(socket),
            Self::Plain(Socket::Epoll(socket)) => Pin::new(socket),
            Self::Tls(tls) => Pin::new(&mut **tls),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Uring(socket) => Pin::new(socket).poll_read(cx, into),
            Self::Epoll(socket) => Pin::new(socket).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Uring(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Epoll(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Uring(socket) => Pin::new(socket).poll_flush(cx),
            Self::Epoll(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Uring(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Epoll(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

/// What hyper reads and writes: the stream, preceded by bytes already read from it.
pub(super) struct Wire {
    pub(super) prefix: Bytes,
    pub(super) stream: Stream,
    pub(super) watch: Rc<Watch>,
    /// The peer has finished sending.
    pub(super) ended: bool,
}

impl Wire {
    /// Puts what hyper read but did not use back in front.
    pub(super) fn rewind(&mut self, unused: Bytes) {
        // An empty `Bytes` can still hold on to the buffer that it was cut from.
        if unused.is_empty() {
            return;
        }
        self.prefix =
            if self.prefix.is_empty() { unused } else { Bytes::from([&*unused, &*self.prefix].concat()) };
    }

    /// Notes that a write is stuck, or no longer.
    fn note_write<T>(&self, outcome: Poll<T>) -> Poll<T> {
        self.watch.note_write(outcome.is_pending());
        outcome
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.prefix.is_empty() {
            let taken = this.prefix.len().min(into.remaining());
            into.put_slice(&this.prefix.split_to(taken));
            if this.prefix.is_empty() {
                this.prefix = Bytes::new();
            }
            this.watch.note_read();
            return Poll::Ready(Ok(()));
        }
        let before = into.filled().len();
        ready!(this.stream.as_read().poll_read(cx, into))?;
        if into.filled().len() > before {
            this.watch.note_read();
        } else {
            this.ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = this.stream.as_write().poll_write(cx, bytes);
        this.note_write(outcome)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = this.stream.as_write().poll_flush(cx);
        if outcome.is_ready() {
            this.watch.note_flushed();
        }
        this.note_write(outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = this.stream.as_write().poll_shutdown(cx);
        this.note_write(outcome)
    }
}
