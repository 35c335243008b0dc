//! A photo as it was sent into a photo as it is kept: decoded, turned upright, scaled down and encoded anew, so that no
//! byte of the file that was sent is kept: neither where and with what it was taken, nor a second picture, nor what
//! somebody hid behind its end.

use std::io::Cursor;

use jpeg_encoder::{ColorType as EncodedAs, Encoder};
use png::{BitDepth, ColorType, DecodeOptions, Decoder, Transformations};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// Pixels that a photo may have: 12 megapixels, what a phone's camera makes; 36 MB while it is decoded, and twice that
/// for a progressive JPEG's coefficients.
pub const PIXELS_MAX: u64 = 12_582_912;

/// Long side of what is kept: text on a poster can be read at that.
pub const SIDE_PX_MAX: u32 = 1_600;

/// At this quality 1,600 x 1,200 pixels take 200 to 400 KB.
const QUALITY: u8 = 80;

/// A camera's progressive file has about ten scans; each costs a pass over all blocks.
const SCANS_MAX: usize = 32;

/// What the PNG decoder may allocate besides its output.
const PNG_BYTES_MAX: usize = 8 << 20;

/// What a photo's bytes say they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `image/jpeg`
    Jpeg,
    /// `image/png`
    Png,
}

/// Why a photo can't be taken. A decoder's own words don't travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PhotoError {
    /// Its header announces too much.
    #[error("a photo may have {PIXELS_MAX} pixels")]
    Pixels(u64),
    /// It is broken, or something else than it says.
    #[error("the photo is no whole image of its type")]
    Malformed,
}

/// Three bytes a pixel, row by row.
struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<[u8; 3]>,
}

/// The photo as it is kept: a baseline JPEG of at most [`SIDE_PX_MAX`].
///
/// # Errors
/// It has too many pixels, or is no image.
pub fn kept(bytes: &[u8], kind: Kind) -> Result<Vec<u8>, PhotoError> {
    let (picture, orientation) = match kind {
        Kind::Jpeg => from_jpeg(bytes)?,
        Kind::Png => (from_png(bytes)?, 1),
    };
    let picture = upright(scaled(picture), orientation);
    let side = |pixels: u32| u16::try_from(pixels).map_err(|_| PhotoError::Malformed);
    let (width, height) = (side(picture.width)?, side(picture.height)?);
    let mut out = Vec::new();
    let encoder = Encoder::new(&mut out, QUALITY);
    let encoded = encoder.encode(picture.rgb.as_flattened(), width, height, EncodedAs::Rgb);
    encoded.map_err(|_| PhotoError::Malformed)?;
    Ok(out)
}

fn from_jpeg(bytes: &[u8]) -> Result<(Picture, u8), PhotoError> {
    let malformed = PhotoError::Malformed;
    let options = DecoderOptions::default()
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .set_strict_mode(false)
        .jpeg_set_max_scans(SCANS_MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|_| malformed)?;
    let info = decoder.info().ok_or(malformed)?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    bounded(width, height)?;
    let pixels = decoder.decode().map_err(|_| malformed)?;
    let orientation = decoder.exif().map_or(1, |exif| orientation(exif));
    Ok((picture(width, height, pixels.as_chunks::<3>().0.to_vec())?, orientation))
}

fn from_png(bytes: &[u8]) -> Result<Picture, PhotoError> {
    let malformed = PhotoError::Malformed;
    let mut options = DecodeOptions::default();
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    let mut decoder = Decoder::new_with_options(Cursor::new(bytes), options);
    decoder.set_limits(png::Limits { bytes: PNG_BYTES_MAX });
    decoder.set_transformations(Transformations::normalize_to_color8());
    let header = decoder.read_header_info().map_err(|_| malformed)?;
    let (width, height) = (header.width, header.height);
    bounded(width, height)?;
    let mut reader = decoder.read_info().map_err(|_| malformed)?;
    let mut output = vec![0; reader.output_buffer_size().ok_or(malformed)?];
    let info = reader.next_frame(&mut output).map_err(|_| malformed)?;
    if info.bit_depth != BitDepth::Eight || (info.width, info.height) != (width, height) {
        return Err(malformed);
    }
    output.truncate(info.buffer_size());
    let rgb = match info.color_type {
        ColorType::Grayscale => output.iter().map(|&gray| [gray; 3]).collect(),
        ColorType::GrayscaleAlpha => {
            output.as_chunks::<2>().0.iter().map(|&[gray, alpha]| [over_white(gray, alpha); 3]).collect()
        }
        ColorType::Rgb => output.as_chunks::<3>().0.to_vec(),
        ColorType::Rgba => {
            let pixels = output.as_chunks::<4>().0;
            pixels.iter().map(|&[r, g, b, alpha]| [r, g, b].map(|value| over_white(value, alpha))).collect()
        }
        // The transformation expands palettes.
        ColorType::Indexed => return Err(malformed),
    };
    picture(width, height, rgb)
}

fn bounded(width: u32, height: u32) -> Result<(), PhotoError> {
    match u64::from(width) * u64::from(height) {
        0 => Err(PhotoError::Malformed),
        pixels if pixels > PIXELS_MAX => Err(PhotoError::Pixels(pixels)),
        _ => Ok(()),
    }
}

fn picture(width: u32, height: u32, rgb: Vec<[u8; 3]>) -> Result<Picture, PhotoError> {
    let whole = u64::try_from(rgb.len()) == Ok(u64::from(width) * u64::from(height));
    if whole { Ok(Picture { width, height, rgb }) } else { Err(PhotoError::Malformed) }
}

fn over_white(value: u8, alpha: u8) -> u8 {
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    u8::try_from((value * alpha + 255 * (255 - alpha)) / 255).unwrap_or(u8::MAX)
}

/// Each pixel is the mean of those that it stands for.
fn scaled(picture: Picture) -> Picture {
    let long = picture.width.max(picture.height);
    if long <= SIDE_PX_MAX {
        return picture;
    }
    let short = |side: u32| {
        let scaled = u64::from(side) * u64::from(SIDE_PX_MAX) / u64::from(long);
        u32::try_from(scaled).unwrap_or(1).max(1)
    };
    let (width, height) = (short(picture.width), short(picture.height));
    let edges = |at: u32, of: u32, source: u32| {
        let edge = |at: u32| {
            usize::try_from(u64::from(at) * u64::from(source) / u64::from(of)).unwrap_or(usize::MAX)
        };
        edge(at)..edge(at + 1)
    };
    let row_pixels = usize::try_from(picture.width).unwrap_or(usize::MAX);
    let mut rgb = Vec::new();
    let mut sums = vec![[0_u32; 4]; usize::try_from(width).unwrap_or(0)];
    let columns: Vec<_> = (0..width).map(|at| edges(at, width, picture.width)).collect();
    for y in 0..height {
        sums.fill([0; 4]);
        for row in edges(y, height, picture.height) {
            let row = picture.rgb.get(row * row_pixels..(row + 1) * row_pixels).unwrap_or_default();
            for (sum, columns) in sums.iter_mut().zip(&columns) {
                for [r, g, b] in row.get(columns.clone()).unwrap_or_default() {
                    let [red, green, blue, count] = *sum;
                    *sum = [red + u32::from(*r), green + u32::from(*g), blue + u32::from(*b), count + 1];
                }
            }
        }
        let mean = |[red, green, blue, count]: &[u32; 4]| {
            [red, green, blue].map(|sum| u8::try_from(sum / (*count).max(1)).unwrap_or(u8::MAX))
        };
        rgb.extend(sums.iter().map(mean));
    }
    Picture { width, height, rgb }
}

/// Turns a picture by Exif's orientation, since what says so is not kept.
fn upright(picture: Picture, orientation: u8) -> Picture {
    let (width, height) = (picture.width, picture.height);
    // For a pixel of the upright picture, which one of the stored picture it is.
    let source = |x: u32, y: u32| match orientation {
        2 => (width - 1 - x, y),
        3 => (width - 1 - x, height - 1 - y),
        4 => (x, height - 1 - y),
        5 => (y, x),
        6 => (y, height - 1 - x),
        7 => (width - 1 - y, height - 1 - x),
        _ => (width - 1 - y, x),
    };
    let (new_width, new_height) = match orientation {
        2..=4 => (width, height),
        5..=8 => (height, width),
        _ => return picture,
    };
    let mut rgb = Vec::with_capacity(picture.rgb.len());
    for y in 0..new_height {
        for x in 0..new_width {
            let (x, y) = source(x, y);
            let at = usize::try_from(u64::from(y) * u64::from(width) + u64::from(x)).unwrap_or(usize::MAX);
            rgb.extend(picture.rgb.get(at));
        }
    }
    Picture { width: new_width, height: new_height, rgb }
}

/// The orientation in a block of Exif, which is a TIFF file (Exif 2.32, 4.6.4: tag 0x0112 of the first directory); 1,
/// upright, where there is none.
fn orientation(exif: &[u8]) -> u8 {
    let read = || {
        let is_little = match exif.get(..4)? {
            b"II*\0" => true,
            b"MM\0*" => false,
            _ => return None,
        };
        let short = |at: usize| {
            let bytes: [u8; 2] = exif.get(at..at.checked_add(2)?)?.try_into().ok()?;
            Some(if is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
        };
        let bytes: [u8; 4] = exif.get(4..8)?.try_into().ok()?;
        let directory = if is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) };
        let directory = usize::try_from(directory).ok()?;
        let first = directory.checked_add(2)?;
        let mut entries = (0..usize::from(short(directory)?)).map(|entry| first + 12 * entry);
        let entry = entries.find(|at| short(*at) == Some(0x0112))?;
        u8::try_from(short(entry + 8)?).ok().filter(|value| (1..=8).contains(value))
    };
    read().unwrap_or(1)
}

#[cfg(test)]
mod tests;
