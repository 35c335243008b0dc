//! Which runtime drives a core: io_uring where the kernel allows it, epoll elsewhere.

use std::future::Future;
use std::io;

use io_uring::{IoUring, Probe, opcode};

use super::ListenError;

/// What the configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RuntimeChoice {
    /// io_uring if it can be had, epoll otherwise.
    #[default]
    Auto,
    /// io_uring, or don't start.
    Uring,
    /// epoll.
    Epoll,
}

/// What a listener runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// One ring a core.
    Uring,
    /// One epoll instance a core.
    Epoll,
}

impl Runtime {
    /// The name used in configuration, log and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        }
    }
}

/// Settles a choice by asking the kernel.
pub(super) fn choose(choice: RuntimeChoice) -> Result<Runtime, ListenError> {
    match (choice, probe_aside()) {
        (RuntimeChoice::Epoll, _) => Ok(Runtime::Epoll),
        (RuntimeChoice::Auto | RuntimeChoice::Uring, Ok(())) => Ok(Runtime::Uring),
        (RuntimeChoice::Uring, Err(error)) => Err(ListenError::Uring(error)),
        (RuntimeChoice::Auto, Err(error)) => {
            tracing::warn!(%error, "io_uring is not available, serving on epoll");
            Ok(Runtime::Epoll)
        }
    }
}

/// Runs what `main` makes on this thread until it ends, with local tasks allowed.
pub(super) fn block_on<M, F>(runtime: Runtime, main: M)
where
    M: FnOnce() -> F,
    F: Future<Output = ()>,
{
    match runtime {
        Runtime::Uring => match ring() {
            Ok(ring) => ring.block_on(async { main().await }),
            Err(error) => tracing::error!(%error, "a core could not make its ring"),
        },
        Runtime::Epoll => match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(tokio) => {
                let local = tokio::task::LocalSet::new();
                local.block_on(&tokio, async { main().await });
            }
            Err(error) => tracing::error!(%error, "a core could not make its epoll instance"),
        },
    }
}

/// Submission entries: one turn of a busy core submits two or three operations per ready connection.
const SUBMISSIONS: u32 = 1024;
/// Completion entries: every parked connection may be woken in the same turn.
const COMPLETIONS: u32 = 8192;

fn ring() -> io::Result<tokio_uring::Runtime> {
    // Cooperative task running spares an interrupt per completion (Linux 5.19); older kernels refuse it.
    let mut flags = tokio_uring::uring_builder();
    flags.setup_clamp().setup_cqsize(COMPLETIONS).setup_coop_taskrun();
    let ring = tokio_uring::Runtime::new(tokio_uring::builder().entries(SUBMISSIONS).uring_builder(&flags));
    ring.or_else(|_| {
        let mut flags = tokio_uring::uring_builder();
        flags.setup_clamp().setup_cqsize(COMPLETIONS);
        tokio_uring::Runtime::new(tokio_uring::builder().entries(SUBMISSIONS).uring_builder(&flags))
    })
}

/// Probes on a thread of its own: taking a ring down interrupts the thread that made it, later on and in
/// the middle of whatever system call it is in.
fn probe_aside() -> io::Result<()> {
    std::thread::Builder::new()
        .name("probe-uring".to_owned())
        .spawn(probe)?
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the probe panicked")))
}

/// Makes a small ring and asks for the operations that `uring` uses. Refused with EPERM under
/// seccomp or `kernel.io_uring_disabled`, with ENOSYS before Linux 5.1.
fn probe() -> io::Result<()> {
    let ring = IoUring::new(8)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let used = [
        opcode::PollAdd::CODE,
        opcode::Accept::CODE,
        opcode::Recv::CODE,
        opcode::Send::CODE,
        opcode::AsyncCancel::CODE,
    ];
    if used.iter().all(|code| probe.is_supported(*code)) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    }
}
