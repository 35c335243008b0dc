//! Frames for the decode tests: codes drawn flat, and camera-like ones.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that can't draw has failed")]

#[path = "../../loadtest/src/corpus/generate.rs"]
pub mod generate;
#[path = "../../loadtest/src/corpus/hostile.rs"]
pub mod hostile;
#[path = "../../loadtest/src/corpus/sheet.rs"]
pub mod sheet;

use std::path::PathBuf;

use scangate::decode::{Frame, FrameKind, Settings};
pub use sheet::Sheet;

/// A sheet as a grey JPEG file.
pub fn jpeg(sheet: &Sheet) -> Frame {
    let mut bytes = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut bytes, 80);
    let (width, height) = (sheet.width.try_into().unwrap(), sheet.height.try_into().unwrap());
    encoder.encode(&sheet.pixels, width, height, jpeg_encoder::ColorType::Luma).unwrap();
    Frame { bytes: bytes.into(), kind: FrameKind::Jpeg }
}

/// Settings whose processes are the real binary, with time enough for a loaded machine.
pub fn settings() -> Settings {
    let mut settings =
        Settings { deadline_ms: 20_000, wait_ms_max: 60_000, queue_frames_max: 256, ..Settings::default() };
    // Whatever else the machine is busy with, a test waits for its frames.
    settings.sandbox.priority = scangate::decode::sandbox::Priority::Low;
    settings.sandbox.program = PathBuf::from(env!("CARGO_BIN_EXE_scangate"));
    settings
}
