//! Frames for the decode tests: codes drawn flat, and camera-like ones.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that can't draw has failed")]

#[path = "../../examples/corpus/generate.rs"]
pub mod generate;

use std::path::PathBuf;

use qrcode::{Color, QrCode};
use scangate::decode::{Frame, FrameKind, Settings};

/// A white sheet of luma on which codes are drawn.
pub struct Sheet {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u8>,
}

impl Sheet {
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![235; width * height] }
    }

    /// Draws a code with its corner at (x, y); returns its side in pixels.
    pub fn draw(&mut self, bytes: &[u8], (left, top): (usize, usize), module_px: usize) -> usize {
        let code = QrCode::new(bytes).unwrap();
        let side = code.width();
        for (at, color) in code.to_colors().into_iter().enumerate() {
            if color == Color::Dark {
                self.fill((left + at % side * module_px, top + at / side * module_px), module_px, 25);
            }
        }
        side * module_px
    }

    pub fn fill(&mut self, (left, top): (usize, usize), side: usize, level: u8) {
        for y in top..(top + side).min(self.height) {
            for x in left..(left + side).min(self.width) {
                self.pixels[y * self.width + x] = level;
            }
        }
    }

    pub fn frame(self) -> Frame {
        let kind = FrameKind::Luma {
            width: self.width.try_into().unwrap(),
            height: self.height.try_into().unwrap(),
        };
        Frame { bytes: self.pixels.into(), kind }
    }

    pub fn jpeg(&self) -> Frame {
        let mut bytes = Vec::new();
        let encoder = jpeg_encoder::Encoder::new(&mut bytes, 80);
        let (width, height) = (self.width.try_into().unwrap(), self.height.try_into().unwrap());
        encoder.encode(&self.pixels, width, height, jpeg_encoder::ColorType::Luma).unwrap();
        Frame { bytes: bytes.into(), kind: FrameKind::Jpeg }
    }
}

/// Settings whose processes are the real binary, with time enough for a loaded machine.
pub fn settings() -> Settings {
    let mut settings =
        Settings { deadline_ms: 20_000, wait_ms_max: 60_000, queue_frames_max: 256, ..Settings::default() };
    settings.sandbox.program = PathBuf::from(env!("CARGO_BIN_EXE_scangate"));
    settings
}
