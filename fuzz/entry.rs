//! What the fuzz targets do with their bytes; the test suite feeds the seeds to the same functions.

#[path = "entry/health.rs"]
mod health;
#[path = "entry/journal.rs"]
mod journal;
#[path = "entry/links.rs"]
mod links;
#[path = "entry/payload.rs"]
mod payload;
#[path = "entry/request.rs"]
mod request;
#[path = "entry/revocations.rs"]
mod revocations;
#[path = "entry/signed.rs"]
mod signed;

use scangate::decode::cascade::{self, Decoder, Stage};
use scangate::decode::image::{self, Limits, Luma};
use scangate::decode::{FrameKind, order};

/// One target: what it does with its bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also its folder's under `seeds`.
pub const TARGETS: &[(&str, Target)] = &[
    ("cascade", cascade),
    ("content_type", content_type),
    ("cwa", payload::cwa),
    ("hc1", health::hc1),
    ("image", image),
    ("journal", journal::segment),
    ("link_line", links::line),
    ("nhs", signed::nhs),
    ("nz", payload::nz),
    ("payload", payload::any),
    ("request", request::request),
    ("revocation_line", revocations::line),
    ("revocation_set", revocations::set),
    ("sg1", signed::sg1),
    ("shc", health::shc),
];

/// Small, so that a run sees many inputs.
const LIMITS: Limits =
    Limits { frame_bytes_max: 65_536, pixels_max: 1 << 20, luma_side_px_max: 320, decode_side_px_max: 320 };

/// JPEG, PNG and raw luma: refused, or an image within the limits.
fn image(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else {
        return;
    };
    let kind = match kind % 3 {
        0 => FrameKind::Jpeg,
        1 => FrameKind::Png,
        _ => FrameKind::Luma {
            width: u32::from(kind),
            height: u32::try_from(bytes.len()).unwrap_or(1) / u32::from(kind).max(1),
        },
    };
    if let Ok(Luma { width, height, pixels, .. }) = image::luma(bytes, kind, &LIMITS) {
        assert!(width > 0 && height > 0 && width.max(height) <= LIMITS.decode_side_px_max);
        assert_eq!(pixels.len() as u64, u64::from(width) * u64::from(height));
    }
}

/// The parameters of a content type: refused, or sides that a header can state.
fn content_type(data: &[u8]) {
    let Ok(value) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(FrameKind::Luma { width, height }) = FrameKind::from_content_type(value) {
        assert!((1..=65_535).contains(&width) && (1..=65_535).contains(&height));
    }
}

/// The Rust stages on a small image: their panics are contained, their codes bounded and in order.
fn cascade(data: &[u8]) {
    let Some((&width, pixels)) = data.split_first() else {
        return;
    };
    let width = u32::from(width).max(1);
    let height = u32::try_from(pixels.len()).unwrap_or_default() / width;
    let pixels = pixels.get(..(width * height) as usize).unwrap_or_default().to_vec();
    let image = Luma { width, height, pixels, source_width: width, source_height: height };
    if height == 0 {
        return;
    }
    for decoder in [Decoder::Quircs, Decoder::Rqrr] {
        for sharpened in [false, true] {
            let stage = Stage { decoder, sharpened, start_within_ms: u64::MAX };
            let settings = cascade::Settings { stages: vec![stage], codes_max: 4 };
            let (codes, reports) = cascade::read(&image, &settings);
            assert!(codes.len() <= 4 && reports.len() == 1);
            assert_eq!(order::reading_order(codes.clone()), codes);
        }
    }
}
