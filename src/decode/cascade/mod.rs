//! Luma to codes: one decoder after the other, until one of them has read something.
//!
//! Order, stages and budgets are settings. A stage starts only while the cascade is younger than the
//! stage's budget of processor time: an image on which the first decoder was slow would be slow for the next
//! one as well, and
//! crafted frames are.

mod rust;
mod sharpen;
#[cfg(feature = "cxx-decoder")]
mod zxing;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::image::Luma;
use super::{clock::processor_time, order};

/// A QR code of version 40 holds at most 7,089 digits.
pub const CODE_BYTES_MAX: usize = 7_089;

/// A stage's budget that no frame outlives; one that a configuration file can hold.
pub const ALWAYS_MS: u64 = 3_600_000;

/// A decoder of the cascade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decoder {
    /// zxing-cpp: C++, the best reader; only in builds with the feature `cxx-decoder`.
    Zxing,
    /// quircs: Rust, reads some that zxing-cpp doesn't.
    Quircs,
    /// rqrr: Rust, the baseline.
    Rqrr,
}

impl Decoder {
    /// Every decoder, best first.
    pub const ALL: [Self; 3] = [Self::Zxing, Self::Quircs, Self::Rqrr];

    /// The stable name, as settings, metrics and `scangate decode` show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zxing => "zxing",
            Self::Quircs => "quircs",
            Self::Rqrr => "rqrr",
        }
    }

    /// Whether this build has the decoder.
    pub const fn is_built(self) -> bool {
        !matches!(self, Self::Zxing) || cfg!(feature = "cxx-decoder")
    }
}

/// One stage of the cascade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// The decoder that runs.
    pub decoder: Decoder,
    /// Whether it sees the image smoothed and sharpened, or plain.
    #[serde(default)]
    pub sharpened: bool,
    /// The stage is skipped once the cascade has taken this much processor time.
    pub start_within_ms: u64,
}

/// Order, stages and budgets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The stages, first to last.
    pub stages: Vec<Stage>,
    /// Codes reported of one frame.
    pub codes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        if !Decoder::Zxing.is_built() {
            return Self::rust_only();
        }
        // The C++ stages first: twice as good as the others, and faster. quircs gets what they couldn't read.
        let stages = vec![
            Stage { decoder: Decoder::Zxing, sharpened: false, start_within_ms: ALWAYS_MS },
            Stage { decoder: Decoder::Zxing, sharpened: true, start_within_ms: 10 },
            Stage { decoder: Decoder::Quircs, sharpened: true, start_within_ms: 10 },
        ];
        Self { stages, codes_max: 16 }
    }
}

impl Settings {
    /// The stages in Rust: all of a build without C++, and what may run in the gateway's own threads. rqrr is
    /// only here: it adds almost nothing to the C++ stages and takes longest.
    pub fn rust_only() -> Self {
        let stages = vec![
            Stage { decoder: Decoder::Quircs, sharpened: false, start_within_ms: ALWAYS_MS },
            Stage { decoder: Decoder::Quircs, sharpened: true, start_within_ms: 15 },
            Stage { decoder: Decoder::Rqrr, sharpened: true, start_within_ms: 25 },
        ];
        Self { stages, codes_max: 16 }
    }
}

/// A point of the frame as sent, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// From the left.
    pub x: i32,
    /// From the top.
    pub y: i32,
}

/// A code found in a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// The text it carries, or why that can't be taken.
    pub payload: Result<String, PayloadRefusal>,
    /// The decoder that read it.
    pub decoder: Decoder,
    /// Its corners: top left, top right, bottom right, bottom left, as the code itself lies.
    pub points: [Point; 4],
}

/// Why a code that was read carries no payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum PayloadRefusal {
    /// Its bytes are no UTF-8; guessing another encoding could turn them into another text.
    #[error("the code's bytes are not utf-8")]
    NotUtf8,
    /// The code is empty.
    #[error("the code is empty")]
    Empty,
}

/// How a stage went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StageOutcome {
    /// It found this many codes.
    Read(usize),
    /// It found nothing.
    Nothing,
    /// It didn't run: an earlier one had read, or its budget had passed.
    Skipped,
    /// It panicked on this image.
    Panicked,
}

/// What one stage did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageReport {
    /// The stage.
    pub stage: Stage,
    /// How it went.
    pub outcome: StageOutcome,
    /// Processor time it took.
    pub elapsed: Duration,
}

/// Runs the cascade on an image.
pub fn read(image: &Luma, settings: &Settings) -> (Vec<Code>, Vec<StageReport>) {
    let started = processor_time();
    let mut codes = Vec::new();
    let mut reports = Vec::with_capacity(settings.stages.len());
    let mut sharpened = None;
    for &stage in &settings.stages {
        let stage_started = processor_time();
        let late = stage_started.saturating_sub(started) > Duration::from_millis(stage.start_within_ms);
        if late || !codes.is_empty() || !stage.decoder.is_built() {
            reports.push(StageReport { stage, outcome: StageOutcome::Skipped, elapsed: Duration::ZERO });
            continue;
        }
        let seen =
            if stage.sharpened { sharpened.get_or_insert_with(|| sharpen::sharpened(image)) } else { image };
        let found = catch_unwind(AssertUnwindSafe(|| run(stage, seen, settings.codes_max)));
        let outcome = match found {
            Err(_) => StageOutcome::Panicked,
            Ok(found) if found.is_empty() => StageOutcome::Nothing,
            Ok(found) => {
                let found = found.into_iter().map(|code| code.finish(stage.decoder, image)).collect();
                codes = order::reading_order(found);
                codes.truncate(settings.codes_max);
                StageOutcome::Read(codes.len())
            }
        };
        reports.push(StageReport { stage, outcome, elapsed: processor_time().saturating_sub(stage_started) });
    }
    (codes, reports)
}

/// A code as a decoder gives it: bytes, and corners in the pixels of the image it saw.
struct RawCode {
    bytes: Vec<u8>,
    points: [Point; 4],
}

impl RawCode {
    fn finish(self, decoder: Decoder, image: &Luma) -> Code {
        let payload = match String::from_utf8(self.bytes) {
            Ok(text) if text.is_empty() => Err(PayloadRefusal::Empty),
            Ok(text) => Ok(text),
            Err(_) => Err(PayloadRefusal::NotUtf8),
        };
        let points = self.points.map(|Point { x, y }| Point {
            x: to_source(x, image.width, image.source_width),
            y: to_source(y, image.height, image.source_height),
        });
        Code { payload, decoder, points }
    }
}

fn to_source(position: i32, side: u32, source_side: u32) -> i32 {
    let scaled = i64::from(position) * i64::from(source_side) / i64::from(side.max(1));
    i32::try_from(scaled).unwrap_or_default()
}

fn run(stage: Stage, image: &Luma, codes_max: usize) -> Vec<RawCode> {
    match stage.decoder {
        #[cfg(feature = "cxx-decoder")]
        Decoder::Zxing => zxing::read(image, stage.sharpened, codes_max),
        #[cfg(not(feature = "cxx-decoder"))]
        Decoder::Zxing => Vec::new(),
        Decoder::Quircs => rust::quircs(image, codes_max),
        Decoder::Rqrr => rust::rqrr(image, codes_max),
    }
}
