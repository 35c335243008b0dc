//! A socket on io_uring that reads and writes like any other.
//!
//! Ring operations own their buffers and outlive the poll that starts them, so a socket keeps at most one
//! read and one write in flight and polls the same operation until it completes. Starting a new one per
//! poll never completes (tokio-uring issue 318).
//!
//! Reads come in two kinds. A connection whose last wait was short reads into a pool buffer: one operation
//! and no system call. Any other waits for readiness, which takes no buffer, and then receives straight
//! into the caller's. So the buffers held by waiting connections are those of the pool, however many wait.
//!
//! The operations are made here rather than taken from `tokio_uring::net`: its reads are `async fn`s over
//! a borrow, which cannot be stored without a box an operation.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use io_uring::types::{CancelBuilder, Fd};
use io_uring::{cqueue, opcode};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

use super::limits;
use super::pool::Lease;

/// A descriptor that its socket, its operations in flight and its watch share; closed by the last.
pub(super) type SharedFd = Rc<OwnedFd>;

/// More than this is written in several operations.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// One connection's socket.
pub(super) struct Socket {
    fd: SharedFd,
    read: Read,
    write: Option<Write>,
    /// There may be bytes to receive without waiting.
    receive_now: bool,
    /// The last wait was short, so the next is worth a buffer.
    busy: bool,
}

enum Read {
    Idle,
    Readiness { operation: InFlightOneshot<SharedFd, Ready>, since_ms: u64 },
    Bytes { operation: InFlightOneshot<Transfer, Moved>, since_ms: u64, cancelled: bool },
    Holding { lease: Lease, start: usize, end: usize },
}

struct Write {
    operation: InFlightOneshot<Transfer, Moved>,
    start: usize,
}

impl Socket {
    pub(super) fn new(fd: SharedFd) -> Self {
        Self { fd, read: Read::Idle, write: None, receive_now: false, busy: false }
    }

    /// Ready when a read has something to say: bytes, the end, or an error. Gives back a read buffer that
    /// an earlier read is waiting with.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.read {
                Read::Holding { .. } => return Poll::Ready(Ok(())),
                Read::Idle if self.receive_now => return Poll::Ready(Ok(())),
                Read::Idle => self.read = wait_readable(&self.fd),
                Read::Readiness { .. } => ready!(self.poll_readiness(cx))?,
                Read::Bytes { cancelled, .. } => {
                    if !std::mem::replace(cancelled, true) {
                        cancel(&self.fd);
                    }
                    if ready!(self.poll_bytes(cx))? == Some(0) {
                        // The next receive says so again.
                        self.receive_now = true;
                    }
                }
            }
        }
    }

    fn poll_readiness(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Read::Readiness { operation, since_ms } = &mut self.read else {
            return Poll::Ready(Ok(()));
        };
        let result = ready!(Pin::new(operation).poll(cx));
        self.busy = *since_ms == limits::now_ms();
        self.read = Read::Idle;
        self.receive_now = true;
        Poll::Ready(checked(result).map(|_| ()))
    }

    /// Completes a buffered read: the bytes are then held, `Some(0)` is the end, `None` means try again.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<usize>>> {
        let Read::Bytes { operation, since_ms, .. } = &mut self.read else {
            return Poll::Ready(Ok(None));
        };
        let (result, lease) = ready!(Pin::new(operation).poll(cx));
        self.busy = *since_ms == limits::now_ms();
        self.read = Read::Idle;
        let Some(end) = checked(result)? else {
            self.busy = false;
            return Poll::Ready(Ok(None));
        };
        if end > 0 {
            self.receive_now = end == lease.bytes().len();
            self.read = Read::Holding { lease, start: 0, end };
        }
        Poll::Ready(Ok(Some(end)))
    }

    /// Waits for the write in flight, restarting what the kernel took only part of.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(write) = &mut self.write {
            let (result, lease) = ready!(Pin::new(&mut write.operation).poll(cx));
            let start = write.start;
            self.write = None;
            let start = start + checked(result)?.unwrap_or(0);
            if start < lease.bytes().len() {
                self.write = Some(Write { operation: send(&self.fd, lease, start), start });
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            match &mut this.read {
                Read::Holding { lease, start, end } => {
                    let held = lease.bytes().get(*start..*end).unwrap_or_default();
                    let taken = held.len().min(into.remaining());
                    into.put_slice(held.get(..taken).unwrap_or_default());
                    *start += taken;
                    if *start >= *end {
                        this.read = Read::Idle;
                    }
                    return Poll::Ready(Ok(()));
                }
                Read::Idle if this.receive_now => {
                    if receive(&this.fd, into)?.is_some() {
                        // A buffer filled to the brim suggests that there is more.
                        this.receive_now = into.remaining() == 0;
                        return Poll::Ready(Ok(()));
                    }
                    this.receive_now = false;
                }
                Read::Idle => {
                    let lease = if this.busy { Lease::take() } else { None };
                    this.read = lease.map_or_else(|| wait_readable(&this.fd), |lease| recv(&this.fd, lease));
                }
                Read::Readiness { .. } => ready!(this.poll_readiness(cx))?,
                Read::Bytes { .. } => {
                    if ready!(this.poll_bytes(cx))? == Some(0) {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

impl AsyncWrite for Socket {
    /// Takes the bytes as soon as the write before is done; [`Self::poll_flush`] waits for them to leave.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_written(cx))?;
        let taken = bytes.get(..WRITE_BYTES_MAX).unwrap_or(bytes);
        if !taken.is_empty() {
            let operation = send(&self.fd, Lease::copy_of(taken), 0);
            self.write = Some(Write { operation, start: 0 });
        }
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_written(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_written(cx))?;
        Poll::Ready(SockRef::from(&self.fd).shutdown(Shutdown::Write))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // An operation in flight keeps the file open; this completes it.
        if self.write.is_some() || !matches!(self.read, Read::Idle | Read::Holding { .. }) {
            let _ = SockRef::from(&self.fd).shutdown(Shutdown::Both);
        }
    }
}

/// Receives without waiting, straight into the caller's buffer: none when there is nothing yet.
pub(super) fn receive(fd: &SharedFd, into: &mut ReadBuf<'_>) -> io::Result<Option<usize>> {
    // SAFETY: the slice is only written to, by the kernel, so nothing in it is de-initialized.
    let space: &mut [MaybeUninit<u8>] = unsafe { into.unfilled_mut() };
    let received = loop {
        match SockRef::from(fd).recv_with_flags(space, libc::MSG_DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            received => break received?,
        }
    };
    // SAFETY: the kernel wrote the first `received` bytes of the unfilled part.
    unsafe { into.assume_init(received) };
    into.advance(received);
    Ok(Some(received))
}

/// Takes the next connection. Must not be dropped before it is done: the operation would go on and
/// accept a connection that nobody has.
pub(super) fn accept(listener: &SharedFd) -> impl Future<Output = io::Result<OwnedFd>> + use<> {
    let entry = opcode::Accept::new(Fd(listener.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut())
        .flags(libc::SOCK_CLOEXEC)
        .build();
    UnsubmittedOneshot::new(Rc::clone(listener), Accepted, entry).submit()
}

fn wait_readable(fd: &SharedFd) -> Read {
    let events = u32::from((libc::POLLIN | libc::POLLRDHUP).unsigned_abs());
    let entry = opcode::PollAdd::new(Fd(fd.as_raw_fd()), events).build();
    let operation = UnsubmittedOneshot::new(Rc::clone(fd), Ready, entry).submit();
    Read::Readiness { operation, since_ms: limits::now_ms() }
}

fn recv(fd: &SharedFd, mut lease: Lease) -> Read {
    let space = lease.bytes_mut();
    let length = u32::try_from(space.len()).unwrap_or(u32::MAX);
    let entry = opcode::Recv::new(Fd(fd.as_raw_fd()), space.as_mut_ptr(), length).build();
    let transfer = Transfer { _fd: Rc::clone(fd), lease };
    let operation = UnsubmittedOneshot::new(transfer, Moved, entry).submit();
    Read::Bytes { operation, since_ms: limits::now_ms(), cancelled: false }
}

fn send(fd: &SharedFd, lease: Lease, start: usize) -> InFlightOneshot<Transfer, Moved> {
    let rest = lease.bytes().get(start..).unwrap_or_default();
    let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
    let entry = opcode::Send::new(Fd(fd.as_raw_fd()), rest.as_ptr(), length)
        .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
        .build();
    UnsubmittedOneshot::new(Transfer { _fd: Rc::clone(fd), lease }, Moved, entry).submit()
}

/// Ends the operations on a descriptor early. Before Linux 5.19 this does nothing, and the read keeps its
/// buffer until the peer sends something.
fn cancel(fd: &SharedFd) {
    let entry = opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(fd.as_raw_fd())).all()).build();
    drop(UnsubmittedOneshot::new(Rc::clone(fd), Ready, entry).submit());
}

/// An operation's result: none if it was interrupted or cancelled and may be tried again.
fn checked(result: i32) -> io::Result<Option<usize>> {
    match usize::try_from(result) {
        Ok(count) => Ok(Some(count)),
        Err(_) if [libc::EINTR, libc::EAGAIN, libc::ECANCELED].contains(&-result) => Ok(None),
        Err(_) => Err(io::Error::from_raw_os_error(-result)),
    }
}

/// What a read or write owns until it completes.
struct Transfer {
    _fd: SharedFd,
    lease: Lease,
}

struct Moved;

impl OneshotOutputTransform for Moved {
    type Output = (i32, Lease);
    type StoredData = Transfer;

    fn transform_oneshot_output(self, transfer: Transfer, entry: cqueue::Entry) -> Self::Output {
        (entry.result(), transfer.lease)
    }
}

struct Ready;

impl OneshotOutputTransform for Ready {
    type Output = i32;
    type StoredData = SharedFd;

    fn transform_oneshot_output(self, _fd: SharedFd, entry: cqueue::Entry) -> i32 {
        entry.result()
    }
}

struct Accepted;

impl OneshotOutputTransform for Accepted {
    type Output = io::Result<OwnedFd>;
    type StoredData = SharedFd;

    fn transform_oneshot_output(self, _listener: SharedFd, entry: cqueue::Entry) -> Self::Output {
        if entry.result() < 0 {
            return Err(io::Error::from_raw_os_error(-entry.result()));
        }
        // SAFETY: a completed accept hands over a new descriptor that nothing else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(entry.result()) })
    }
}
