//! Luma to codes: one decoder after the other, until one of them has read something.
//!
//! Order, stages and budgets are settings. A stage starts only while the cascade is younger than the
//! stage's budget: an image on which the first decoder was slow would be slow for the next one as well, and
//! crafted frames are.

mod rust;
#[cfg(feature = "cxx-decoder")]
mod zxing;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::image::Luma;
use super::order;

/// A QR code of version 40 holds at most 7,089 digits.
pub const CODE_BYTES_MAX: usize = 7_089;

/// A decoder of the cascade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decoder {
    /// zxing-cpp: C++, the best reader; only in builds with the feature `cxx-decoder`.
    Zxing,
    /// quircs on the image flattened by its local mean: Rust, reads some that zxing-cpp doesn't.
    Quircs,
    /// rqrr: Rust, the baseline.
    Rqrr,
}

impl Decoder {
    /// Every decoder, in the default order.
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
    /// The stage is skipped once the cascade has run this long.
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
        let stages = [
            Stage { decoder: Decoder::Zxing, start_within_ms: u64::MAX },
            Stage { decoder: Decoder::Quircs, start_within_ms: 10 },
            Stage { decoder: Decoder::Rqrr, start_within_ms: 20 },
        ];
        Self { stages: stages.into_iter().filter(|stage| stage.decoder.is_built()).collect(), codes_max: 16 }
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
    /// The stage's decoder.
    pub decoder: Decoder,
    /// How it went.
    pub outcome: StageOutcome,
    /// How long it took.
    pub elapsed: Duration,
}

/// Runs the cascade on an image.
pub fn read(image: &Luma, settings: &Settings) -> (Vec<Code>, Vec<StageReport>) {
    let started = Instant::now();
    let mut codes = Vec::new();
    let mut reports = Vec::with_capacity(settings.stages.len());
    for &Stage { decoder, start_within_ms } in &settings.stages {
        let late = started.elapsed() > Duration::from_millis(start_within_ms);
        if late || !codes.is_empty() || !decoder.is_built() {
            let outcome = StageOutcome::Skipped;
            reports.push(StageReport { decoder, outcome, elapsed: Duration::ZERO });
            continue;
        }
        let stage_started = Instant::now();
        let found = catch_unwind(AssertUnwindSafe(|| run(decoder, image, settings.codes_max)));
        let elapsed = stage_started.elapsed();
        let outcome = match found {
            Err(_) => StageOutcome::Panicked,
            Ok(found) if found.is_empty() => StageOutcome::Nothing,
            Ok(found) => {
                codes =
                    order::reading_order(found.into_iter().map(|code| code.finish(decoder, image)).collect());
                codes.truncate(settings.codes_max);
                StageOutcome::Read(codes.len())
            }
        };
        reports.push(StageReport { decoder, outcome, elapsed });
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

fn run(decoder: Decoder, image: &Luma, codes_max: usize) -> Vec<RawCode> {
    match decoder {
        #[cfg(feature = "cxx-decoder")]
        Decoder::Zxing => zxing::read(image, codes_max),
        #[cfg(not(feature = "cxx-decoder"))]
        Decoder::Zxing => Vec::new(),
        Decoder::Quircs => rust::quircs(image, codes_max),
        Decoder::Rqrr => rust::rqrr(image, codes_max),
    }
}
