//! PNG to luma, transparent pixels over white.

use std::io::Cursor;

use png::{BitDepth, ColorType, DecodeOptions, Decoder, Transformations};

use super::{Format, ImageError, Limits, check_header, luma_of};

/// Deflate expands at most 1,032-fold, and a byte holds eight one-bit pixels.
const BYTE_PIXELS_MAX: u64 = 1032 * 8;

/// What the decoder may allocate besides the output: a row or two, palettes and the like.
const OVERHEAD_BYTES_MAX: usize = 8 << 20;

const MALFORMED: ImageError = ImageError::Malformed { format: Format::Png };

pub(super) fn luma(bytes: &[u8], limits: &Limits) -> Result<(u32, u32, Vec<u8>), ImageError> {
    let mut options = DecodeOptions::default();
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    let mut decoder = Decoder::new_with_options(Cursor::new(bytes), options);
    decoder.set_limits(png::Limits { bytes: OVERHEAD_BYTES_MAX });
    decoder.set_transformations(Transformations::normalize_to_color8());
    let header = decoder.read_header_info().map_err(|_| MALFORMED)?;
    let (width, height) = (header.width, header.height);
    check_header(Format::Png, (width, height), bytes.len(), BYTE_PIXELS_MAX, limits)?;
    let mut reader = decoder.read_info().map_err(|_| MALFORMED)?;
    let mut output = vec![0; reader.output_buffer_size().ok_or(MALFORMED)?];
    let info = reader.next_frame(&mut output).map_err(|_| MALFORMED)?;
    if info.bit_depth != BitDepth::Eight || (info.width, info.height) != (width, height) {
        return Err(MALFORMED);
    }
    output.truncate(info.buffer_size());
    let pixels = match info.color_type {
        ColorType::Grayscale => output,
        ColorType::GrayscaleAlpha => {
            output.as_chunks::<2>().0.iter().map(|&[gray, alpha]| over_white(gray, alpha)).collect()
        }
        ColorType::Rgb => output.as_chunks::<3>().0.iter().map(|&rgb| luma_of(rgb)).collect(),
        ColorType::Rgba => {
            let pixels = output.as_chunks::<4>().0;
            pixels.iter().map(|&[r, g, b, alpha]| over_white(luma_of([r, g, b]), alpha)).collect()
        }
        // The transformation expands palettes.
        ColorType::Indexed => return Err(MALFORMED),
    };
    if u64::try_from(pixels.len()) != Ok(u64::from(width) * u64::from(height)) {
        return Err(MALFORMED);
    }
    Ok((width, height, pixels))
}

fn over_white(luma: u8, alpha: u8) -> u8 {
    let (luma, alpha) = (u32::from(luma), u32::from(alpha));
    u8::try_from((luma * alpha + 255 * (255 - alpha)) / 255).unwrap_or(u8::MAX)
}
