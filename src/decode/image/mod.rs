//! Bytes of a frame to bounded luma. Every bound is checked from headers, before anything is allocated.

mod content_type;
mod jpeg;
mod png;
mod scale;

use serde::{Deserialize, Serialize};

pub use content_type::ContentTypeError;

/// What a frame's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FrameKind {
    /// A JPEG image.
    Jpeg,
    /// A PNG image.
    Png,
    /// One byte of luma a pixel, row by row, nothing else.
    Luma {
        /// Pixels a row.
        width: u32,
        /// Rows.
        height: u32,
    },
}

/// Bounds of one image.
#[expect(clippy::struct_field_names, reason = "limits carry max, and their unit, in their names")]
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of a JPEG or PNG file.
    pub frame_bytes_max: usize,
    /// Pixels that a JPEG or PNG header may announce.
    pub pixels_max: u64,
    /// Long side of a raw luma frame; its bytes are bounded by it too.
    pub luma_side_px_max: u32,
    /// Long side that decoders see; a larger image is scaled down to it.
    pub decode_side_px_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 262_144,
            // A 16-megapixel photograph is the largest that a phone sends unscaled in 256 KiB.
            pixels_max: 16_777_216,
            luma_side_px_max: 1280,
            decode_side_px_max: 1280,
        }
    }
}

/// An image of luma, at most [`Limits::decode_side_px_max`] on its long side.
#[derive(Debug, Clone)]
pub struct Luma {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// One byte a pixel, row by row; exactly `width` × `height`.
    pub pixels: Vec<u8>,
    /// Pixels a row of the frame as sent.
    pub source_width: u32,
    /// Rows of the frame as sent.
    pub source_height: u32,
}

/// How a frame is encoded, as errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
    /// Raw luma.
    Luma,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::Luma => "luma",
        })
    }
}

/// Why bytes are no image. A decoder's own words don't travel: they may quote the frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ImageError {
    /// Too many bytes.
    #[error("{format} frame must hold at most {limit} bytes; got {value}")]
    BytesMax {
        /// The frame's format.
        format: Format,
        /// The bound.
        limit: usize,
        /// The bytes sent.
        value: usize,
    },
    /// Too many pixels announced.
    #[error("{format} header must announce at most {limit} pixels; got {width}x{height}")]
    PixelsMax {
        /// The frame's format.
        format: Format,
        /// The bound.
        limit: u64,
        /// Width announced.
        width: u32,
        /// Height announced.
        height: u32,
    },
    /// A side of raw luma out of its range.
    #[error("luma {side} must be in 1..={limit}; got {value}")]
    Side {
        /// `w` or `h`.
        side: char,
        /// The bound.
        limit: u32,
        /// The side announced.
        value: u32,
    },
    /// Raw luma whose bytes are not width × height.
    #[error("luma frame must hold exactly {limit} bytes; got {value}")]
    Length {
        /// The bytes that `w` and `h` announce.
        limit: usize,
        /// The bytes sent.
        value: usize,
    },
    /// More pixels announced than so few bytes can hold.
    #[error("{format} header announces {width}x{height} pixels, more than {value} bytes can hold")]
    Lying {
        /// The frame's format.
        format: Format,
        /// Width announced.
        width: u32,
        /// Height announced.
        height: u32,
        /// The bytes sent.
        value: usize,
    },
    /// Not an image of that format, or a broken one.
    #[error("frame is no whole {format} image")]
    Malformed {
        /// The format announced.
        format: Format,
    },
}

impl FrameKind {
    /// Reads a `Content-Type`: `image/jpeg`, `image/png` or
    /// `application/vnd.scangate.luma;w=W;h=H`.
    pub fn from_content_type(value: &str) -> Result<Self, ContentTypeError> {
        content_type::parse(value)
    }

    /// Names the format by its first bytes; raw luma has none to go by.
    pub fn sniff(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', ..] => Some(Self::Png),
            _ => None,
        }
    }

    /// The bounds that a frame's length alone can break; cheap enough for the request's core.
    pub fn check_length(self, bytes: usize, limits: &Limits) -> Result<(), ImageError> {
        match self {
            Self::Jpeg => file_length(Format::Jpeg, bytes, limits),
            Self::Png => file_length(Format::Png, bytes, limits),
            Self::Luma { width, height } => luma_length(width, height, bytes, limits),
        }
    }
}

/// Turns a frame's bytes into luma within `limits`.
pub fn luma(bytes: &[u8], kind: FrameKind, limits: &Limits) -> Result<Luma, ImageError> {
    kind.check_length(bytes.len(), limits)?;
    let (width, height, pixels) = match kind {
        FrameKind::Jpeg => jpeg::luma(bytes, limits)?,
        FrameKind::Png => png::luma(bytes, limits)?,
        FrameKind::Luma { width, height } => (width, height, bytes.to_vec()),
    };
    Ok(scale::to_fit(width, height, pixels, limits.decode_side_px_max))
}

/// Refuses a header which announces more than `limits` or than `bytes` could hold at `bytes_pixels_max`
/// pixels a byte.
fn check_header(
    format: Format,
    (width, height): (u32, u32),
    bytes: usize,
    bytes_pixels_max: u64,
    limits: &Limits,
) -> Result<(), ImageError> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(ImageError::Malformed { format });
    }
    if pixels > limits.pixels_max {
        return Err(ImageError::PixelsMax { format, limit: limits.pixels_max, width, height });
    }
    let holds = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(bytes_pixels_max);
    if pixels > holds {
        return Err(ImageError::Lying { format, width, height, value: bytes });
    }
    Ok(())
}

fn file_length(format: Format, bytes: usize, limits: &Limits) -> Result<(), ImageError> {
    if bytes > limits.frame_bytes_max {
        return Err(ImageError::BytesMax { format, limit: limits.frame_bytes_max, value: bytes });
    }
    Ok(())
}

fn luma_length(width: u32, height: u32, bytes: usize, limits: &Limits) -> Result<(), ImageError> {
    let limit = limits.luma_side_px_max;
    for (side, value) in [('w', width), ('h', height)] {
        if value == 0 || value > limit {
            return Err(ImageError::Side { side, limit, value });
        }
    }
    let exact = usize::try_from(u64::from(width) * u64::from(height)).unwrap_or(usize::MAX);
    if bytes != exact {
        return Err(ImageError::Length { limit: exact, value: bytes });
    }
    Ok(())
}

/// ITU-R BT.601 luma in 8-bit fixed point, as JPEG defines it.
fn luma_of([red, green, blue]: [u8; 3]) -> u8 {
    let sum = 77 * u32::from(red) + 150 * u32::from(green) + 29 * u32::from(blue);
    u8::try_from((sum + 128) >> 8).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests;
