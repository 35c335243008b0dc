//! Reading in threads of the gateway, for systems that refuse the confinement of [`super::sandbox`].
//!
//! A thread can't be ended from outside: one that overruns its deadline is abandoned, and a new one takes
//! its place, until too many stand abandoned at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use super::{DecodeError, Decoded, Frame, Settings, read_contained};

/// Threads of all pools that may stand abandoned; past that no new one starts.
const ABANDONED_MAX: usize = 8;

/// The Rust decoders fill regions recursively, 4,096 calls deep in unoptimised builds too.
const STACK_BYTES: usize = 16 << 20;

static ABANDONED: AtomicUsize = AtomicUsize::new(0);

/// A thread that reads one frame after the other.
#[derive(Debug)]
pub(super) struct Reader {
    frames: SyncSender<Frame>,
    results: Receiver<Result<Decoded, DecodeError>>,
    usable: bool,
}

impl Reader {
    pub(super) fn start(settings: &Settings) -> std::io::Result<Self> {
        if ABANDONED.load(Ordering::Relaxed) >= ABANDONED_MAX {
            return Err(std::io::ErrorKind::ResourceBusy.into());
        }
        let (frames, receiver) = sync_channel::<Frame>(0);
        let (sender, results) = sync_channel(1);
        let (image, cascade) = (settings.image, settings.cascade.clone());
        let work = move || {
            for frame in receiver {
                let result = read_contained(&frame.bytes, frame.kind, &image, &cascade);
                if sender.send(result).is_err() {
                    // It was abandoned during this frame, and is back.
                    ABANDONED.fetch_sub(1, Ordering::Relaxed);
                    return;
                }
            }
        };
        std::thread::Builder::new().name("frames-reader".to_owned()).stack_size(STACK_BYTES).spawn(work)?;
        Ok(Self { frames, results, usable: true })
    }

    pub(super) fn read(&mut self, frame: Frame, timeout: Duration) -> Result<Decoded, DecodeError> {
        if self.frames.send(frame).is_err() {
            self.usable = false;
            return Err(DecodeError::Crashed);
        }
        match self.results.recv_timeout(timeout) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => {
                ABANDONED.fetch_add(1, Ordering::Relaxed);
                self.usable = false;
                Err(DecodeError::TimedOut {
                    limit_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
                })
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.usable = false;
                Err(DecodeError::Crashed)
            }
        }
    }

    pub(super) fn is_usable(&self) -> bool {
        self.usable
    }
}
