//! The stages in Rust.

use quircs::Quirc;
use rqrr::PreparedImage;

use super::{CODE_BYTES_MAX, Point, RawCode};
use crate::decode::image::Luma;

pub(super) fn quircs(image: &Luma, codes_max: usize) -> Vec<RawCode> {
    let (Ok(width), Ok(height)) = (usize::try_from(image.width), usize::try_from(image.height)) else {
        return Vec::new();
    };
    let mut scanner = Quirc::new();
    let codes = scanner.identify(width, height, &image.pixels);
    codes
        .filter_map(|code| {
            let code = code.ok()?;
            let data = code.decode().ok()?;
            let points = code.corners.map(|point| Point { x: point.x, y: point.y });
            Some(RawCode { bytes: data.payload, points })
        })
        .take(codes_max)
        .collect()
}

pub(super) fn rqrr(image: &Luma, codes_max: usize) -> Vec<RawCode> {
    let (Ok(width), Ok(height)) = (usize::try_from(image.width), usize::try_from(image.height)) else {
        return Vec::new();
    };
    let mut pixels = image.pixels.iter().copied();
    // It asks row by row, left to right.
    let fill = |_, _| pixels.next().unwrap_or_default();
    let mut prepared = PreparedImage::prepare_from_greyscale(width, height, fill);
    let grids = prepared.detect_grids();
    grids
        .iter()
        .filter_map(|grid| {
            let mut bytes = Vec::new();
            grid.decode_to(&mut bytes).ok()?;
            let points = grid.bounds.map(|point| Point { x: point.x, y: point.y });
            (bytes.len() <= CODE_BYTES_MAX).then_some(RawCode { bytes, points })
        })
        .take(codes_max)
        .collect()
}
