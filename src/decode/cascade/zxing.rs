//! The C++ stage. It must run nowhere but in a confined process; see [`crate::decode::sandbox`].

use zxingcpp::{BarcodeFormat, BarcodeReader, ImageFormat, ImageView, PointI};

use super::{Point, RawCode};
use crate::decode::image::Luma;

/// The long side up to which the first look takes the image as it is.
const SMALL_SIDE_PX: u32 = 800;

pub(super) fn read(image: &Luma, again: bool, codes_max: usize) -> Vec<RawCode> {
    let Ok(view) = ImageView::from_slice(&image.pixels, image.width, image.height, ImageFormat::Lum) else {
        return Vec::new();
    };
    let codes_max = i32::try_from(codes_max).unwrap_or(i32::MAX).min(255);
    let reader = BarcodeReader::new()
        // Model 2 is what everyone prints; Micro QR and rMQR would only cost time on noise.
        .formats([BarcodeFormat::QRCodeModel2])
        .try_harder(true)
        // A third of a small image shows only codes that the whole one shows as well, unless they are
        // blurred: it is kept for the second look.
        .try_downscale(again || image.width.max(image.height) > SMALL_SIDE_PX)
        // QR detection takes any rotation as it is; this is for linear codes.
        .try_rotate(false)
        .try_invert(false)
        .max_number_of_symbols(codes_max);
    let Ok(found) = reader.from(&view) else {
        return Vec::new();
    };
    let point = |PointI { x, y }| Point { x, y };
    found
        .iter()
        .filter(|code| code.is_valid())
        .map(|code| {
            let corners = code.position();
            RawCode {
                // The bytes, not the text: the library guesses an encoding where the code states none.
                bytes: code.bytes(),
                points: [
                    point(corners.top_left),
                    point(corners.top_right),
                    point(corners.bottom_right),
                    point(corners.bottom_left),
                ],
            }
        })
        .collect()
}
