//! JPEG straight to luma: the colour planes are never built where the file has a luma plane.

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::{Format, ImageError, Limits, check_header, luma_of};

/// A block of 64 pixels takes at least one bit in any JPEG that zune-jpeg reads (no arithmetic coding):
/// the Huffman code of its DC coefficient.
const BYTE_PIXELS_MAX: u64 = 64 * 8;

/// A camera's progressive file has about ten scans; each costs a pass over all blocks.
const SCANS_MAX: usize = 32;

const MALFORMED: ImageError = ImageError::Malformed { format: Format::Jpeg };

pub(super) fn luma(bytes: &[u8], limits: &Limits) -> Result<(u32, u32, Vec<u8>), ImageError> {
    let options = DecoderOptions::default()
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .set_strict_mode(false)
        .jpeg_set_max_scans(SCANS_MAX)
        .jpeg_set_out_colorspace(ColorSpace::Luma);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|_| MALFORMED)?;
    let info = decoder.info().ok_or(MALFORMED)?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    check_header(Format::Jpeg, (width, height), bytes.len(), BYTE_PIXELS_MAX, limits)?;
    // RGB and CMYK files have no luma plane.
    let planar = matches!(decoder.input_colorspace(), Some(ColorSpace::YCbCr | ColorSpace::Luma));
    if !planar {
        decoder.set_options(options.jpeg_set_out_colorspace(ColorSpace::RGB));
    }
    let mut pixels = decoder.decode().map_err(|_| MALFORMED)?;
    if !planar {
        let (triples, _) = pixels.as_chunks::<3>();
        pixels = triples.iter().map(|&rgb| luma_of(rgb)).collect();
    }
    if u64::try_from(pixels.len()) != Ok(u64::from(width) * u64::from(height)) {
        return Err(MALFORMED);
    }
    Ok((width, height, pixels))
}
