//! Flat sheets of luma, on which codes and what resembles them are drawn.

use qrcode::{Color, QrCode};
use scangate::decode::{Frame, FrameKind};

/// Luma, row by row; white at first.
#[derive(Clone)]
pub struct Sheet {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width` × `height` bytes.
    pub pixels: Vec<u8>,
}

impl Sheet {
    /// A white sheet.
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![235; width * height] }
    }

    /// Draws a code of these bytes with its corner at (left, top); returns its side in pixels, 0 if no code
    /// holds so many bytes.
    pub fn draw(&mut self, bytes: &[u8], (left, top): (usize, usize), module_px: usize) -> usize {
        let Ok(code) = QrCode::new(bytes) else { return 0 };
        let side = code.width();
        for (at, color) in code.to_colors().into_iter().enumerate() {
            if color == Color::Dark {
                self.fill((left + at % side * module_px, top + at / side * module_px), module_px, 25);
            }
        }
        side * module_px
    }

    /// Draws three nested squares in the proportions of a finder pattern.
    pub fn finder(&mut self, (left, top): (usize, usize), module_px: usize) {
        for (inset, level) in [(0, 20), (module_px, 235), (2 * module_px, 20)] {
            self.fill((left + inset, top + inset), 7 * module_px - 2 * inset, level);
        }
    }

    /// Fills a square, as far as it lies on the sheet.
    pub fn fill(&mut self, (left, top): (usize, usize), side: usize, level: u8) {
        let rows = self.pixels.chunks_mut(self.width.max(1)).skip(top).take(side);
        let right = (left + side).min(self.width);
        for span in rows.filter_map(|row| row.get_mut(left..right)) {
            span.fill(level);
        }
    }

    /// As raw luma.
    pub fn frame(self) -> Frame {
        let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        let kind = FrameKind::Luma { width: side(self.width), height: side(self.height) };
        Frame { bytes: self.pixels.into(), kind }
    }
}
