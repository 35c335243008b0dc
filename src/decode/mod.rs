//! Camera frames to QR payloads: bytes → bounded luma → cascade of decoders → codes in reading order.
//!
//! [`image`] and [`cascade`] are pure functions of bytes and settings. [`Frames`] runs them behind a
//! bounded queue of its own, so that frames are shed before payloads feel anything.
//!
//! # Where the work runs, and why
//!
//! A frame is hostile until read. The best decoder is C++, and the Rust ones panic, recurse and loop on
//! crafted input just as well, so by default **the whole way from JPEG bytes to payloads runs in a
//! separate, confined process** ([`sandbox`]): no file, no network, bounded memory, killed at a wall
//! deadline. One boundary is simpler to get right than one per decoder, a hang in Rust can be ended only
//! by ending its process, and the copy of the frame over a socket costs a tenth of the time its decoding
//! does. [`Isolation::Thread`] keeps the work in the gateway's threads, for systems which refuse the
//! confinement: it never runs the C++ stage, and a stage that hangs costs one abandoned thread.
//!
//! Nothing here touches a disk, but for [`file()`], which reads what its caller names.

pub mod image;
pub mod cascade;
pub mod order;
mod clock;
mod frames;
pub mod sandbox;
mod threads;

use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use cascade::{Code, Decoder, PayloadRefusal, Point, Stage, StageOutcome, StageReport};
pub use frames::{Frames, FramesStats, Pending, StageStats, StartError};
pub use image::{FrameKind, ImageError};

/// A frame as its sender gave it.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The encoded image, or the raw luma.
    pub bytes: Bytes,
    /// What the bytes are said to be.
    pub kind: FrameKind,
}

/// What a frame held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decoded {
    /// Every code found, once each, in reading order.
    pub codes: Vec<Code>,
    /// What each stage of the cascade did, in its order.
    pub stages: Vec<StageReport>,
    /// Processor time from the frame's bytes to its luma.
    pub image_elapsed: Duration,
    /// Processor time of the whole, for whoever charges a frame to its sender.
    pub elapsed: Duration,
}

/// Why a frame gave no answer. Each concerns this frame alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum DecodeError {
    /// The bytes are no image within the limits.
    #[error("the frame is refused")]
    Image(#[from] ImageError),
    /// The queue stands at its bound.
    #[error("frames.queue must hold at most {limit} frames")]
    QueueFull {
        /// `frames.queue_frames_max`.
        limit: usize,
    },
    /// The frame waited too long for its turn and was dropped unread.
    #[error("frames.wait of {limit_ms} ms passed before the frame's turn")]
    Late {
        /// `frames.wait_ms_max`.
        limit_ms: u64,
    },
    /// Reading took too long and was ended.
    #[error("frames.deadline of {limit_ms} ms passed while the frame was read")]
    TimedOut {
        /// `frames.deadline_ms`.
        limit_ms: u64,
    },
    /// The process had hardly run when its time was over: the processors were busy with other work.
    #[error("frames.deadline of {limit_ms} ms passed before a processor was free to read the frame")]
    Starved {
        /// `frames.deadline_ms`.
        limit_ms: u64,
    },
    /// The process reading the frame died, or answered what no sound one answers.
    #[error("the process reading the frame died")]
    Crashed,
    /// A panic ended the reading of this frame.
    #[error("reading the frame panicked")]
    Panicked,
    /// No process can be had to read frames now.
    #[error("no process to read frames could be started")]
    Unavailable,
    /// The pool has stopped.
    #[error("reading of frames has stopped")]
    Stopped,
}

/// Where frames are read; see the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// In confined processes of their own.
    Process,
    /// In threads of the gateway, Rust stages only.
    Thread,
}

/// Everything that bounds the reading of frames.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where frames are read.
    pub isolation: Isolation,
    /// Processes (or threads) that read; at least one.
    pub workers: usize,
    /// Frames that may wait.
    pub queue_frames_max: usize,
    /// How long a frame may wait before it is dropped unread.
    pub wait_ms_max: u64,
    /// Wall time for one frame, its wait included; its process is killed when it passes.
    pub deadline_ms: u64,
    /// Bounds of one image.
    pub image: image::Limits,
    /// The decoders, their order and budgets.
    pub cascade: cascade::Settings,
    /// Confinement of the processes.
    pub sandbox: sandbox::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            isolation: Isolation::Process,
            workers: 1,
            // At most 32 × 1.6 MB of raw luma wait.
            queue_frames_max: 32,
            // The rest of the deadline is enough to read any ordinary frame.
            wait_ms_max: 300,
            // So that the worst crafted frame is answered within 600 ms, its process's end included.
            deadline_ms: 550,
            image: image::Limits::default(),
            cascade: cascade::Settings::default(),
            sandbox: sandbox::Settings::default(),
        }
    }
}

impl Settings {
    /// Settings for files an operator names: whole photographs, and time to read them.
    pub fn for_files() -> Self {
        let mut settings = Self { deadline_ms: 10_000, wait_ms_max: 60_000, ..Self::default() };
        settings.image.frame_bytes_max = 32 << 20;
        settings.image.pixels_max = 64_000_000;
        settings.sandbox.memory_bytes_max = 2 << 30;
        for stage in &mut settings.cascade.stages {
            stage.start_within_ms = settings.deadline_ms;
        }
        settings
    }
}

/// Why a file gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file can't be read.
    #[error("the file can't be read")]
    Read(#[from] std::io::Error),
    /// Its first bytes are neither JPEG's nor PNG's.
    #[error("the file is neither jpeg nor png")]
    UnknownKind,
    /// The file is an image that gave no answer.
    #[error("the file can't be decoded")]
    Decode(#[from] DecodeError),
}

/// Reads one JPEG or PNG file through `frames`; [`Settings::for_files`] has the limits for it.
pub fn file(frames: &Frames, path: &Path) -> Result<Decoded, FileError> {
    let mut bytes = Vec::new();
    // One byte past the limit is enough to be refused by name.
    let read_bytes_max = frames.frame_bytes_max().saturating_add(1);
    let read_bytes_max = u64::try_from(read_bytes_max).unwrap_or(u64::MAX);
    std::fs::File::open(path)?.take(read_bytes_max).read_to_end(&mut bytes)?;
    let kind = FrameKind::sniff(&bytes).ok_or(FileError::UnknownKind)?;
    Ok(frames.submit(Frame { bytes: bytes.into(), kind })?.wait()?)
}

/// Reads a frame here and now: its image, then the cascade.
///
/// With the C++ stage among its settings this belongs into a confined process; use [`Frames`].
pub fn read(
    bytes: &[u8],
    kind: FrameKind,
    limits: &image::Limits,
    cascade: &cascade::Settings,
) -> Result<Decoded, ImageError> {
    let started = clock::processor_time();
    let luma = image::luma(bytes, kind, limits)?;
    let image_elapsed = clock::processor_time().saturating_sub(started);
    let (codes, stages) = cascade::read(&luma, cascade);
    let elapsed = clock::processor_time().saturating_sub(started);
    Ok(Decoded { codes, stages, image_elapsed, elapsed })
}

/// [`read`], with a panic of the image decoder turned into an error.
fn read_contained(
    bytes: &[u8],
    kind: FrameKind,
    limits: &image::Limits,
    cascade: &cascade::Settings,
) -> Result<Decoded, DecodeError> {
    match catch_unwind(AssertUnwindSafe(|| read(bytes, kind, limits, cascade))) {
        Ok(result) => Ok(result?),
        Err(_) => Err(DecodeError::Panicked),
    }
}
