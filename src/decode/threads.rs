//! Reading in threads of the gateway, for systems that refuse the confinement of [`super::sandbox`].
//!
//! A thread can't be ended from outside: one that overruns its deadline is abandoned, and a new one takes
//! its place, until too many stand abandoned at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use super::{DecodeError, Decoded, Frame, Settings, read_contained};

/// Threads of all pools that may stand abandoned; past that no new one starts.
const ABANDONED_MAX: usize = 8;

static ABANDONED: AtomicUsize = AtomicUsize::new(0);

/// A thread that reads one frame after the other.
#[derive(Debug)]
pub(super) struct Reader {
    frames: SyncSender<Frame>,
    results: Receiver<Result<Decoded, DecodeError>>,
    abandoned: Arc<AtomicBool>,
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
        let abandoned = Arc::new(AtomicBool::new(false));
        let was_abandoned = Arc::clone(&abandoned);
        let work = move || {
            for frame in receiver {
                let result = read_contained(&frame.bytes, frame.kind, &image, &cascade);
                if sender.send(result).is_err() {
                    break;
                }
            }
            // The reader marks it abandoned before it lets go of the channels, which is what ends the loop.
            if was_abandoned.load(Ordering::Acquire) {
                ABANDONED.fetch_sub(1, Ordering::Relaxed);
            }
        };
        std::thread::Builder::new().name("frames-reader".to_owned()).spawn(work)?;
        Ok(Self { frames, results, abandoned, usable: true })
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
                self.abandoned.store(true, Ordering::Release);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::cascade::{Decoder, Stage};
    use crate::decode::{FrameKind, Isolation};

    fn frame() -> Frame {
        Frame { bytes: vec![200; 1280 * 1280].into(), kind: FrameKind::Luma { width: 1280, height: 1280 } }
    }

    #[test]
    fn a_thread_past_its_deadline_is_abandoned_and_another_can_start() {
        let mut settings = Settings { isolation: Isolation::Thread, ..Settings::default() };
        settings.cascade.stages = vec![Stage { decoder: Decoder::Rqrr, sharpened: true, start_within_ms: 0 }];
        settings
            .cascade
            .stages
            .splice(0..0, [Stage { start_within_ms: u64::MAX, ..settings.cascade.stages[0] }]);
        let mut reader = Reader::start(&settings).unwrap();
        let late = reader.read(frame(), Duration::from_micros(1));
        assert_eq!(late, Err(DecodeError::TimedOut { limit_ms: 0 }));
        assert!(!reader.is_usable());
        drop(reader);
        let mut next = Reader::start(&settings).unwrap();
        assert!(next.read(frame(), Duration::from_mins(1)).is_ok());
        assert!(next.is_usable());
    }
}
