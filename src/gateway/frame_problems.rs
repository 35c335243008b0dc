//! What can be wrong with a frame, as its sender is told.

use bytes::Bytes;
use hyper::Response;

use super::steps::at_bound;
use crate::decode::image::{ContentTypeError, ImageError};
use crate::decode::{DecodeError, FrameKind};
use crate::respond::{self, Problem, Rejection};
use crate::scan::Outcome;

/// Why a request holds no frame to read.
pub(super) enum Refused {
    Problem(Problem),
    Rejection(Rejection),
}

impl Refused {
    pub(super) fn response(&self) -> Response<Bytes> {
        match self {
            Self::Problem(problem) => respond::problem(problem),
            Self::Rejection(rejection) => respond::rejected(*rejection),
        }
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        Self::Rejection(rejection)
    }
}

/// A type that isn't taken, or parameters that aren't right.
pub(super) fn content_type(error: ContentTypeError) -> Refused {
    let malformed = || Problem::new(Outcome::Malformed, error.to_string()).field("content-type");
    match error {
        ContentTypeError::Unsupported => {
            Rejection::UnsupportedMediaType("image/jpeg, image/png, application/vnd.scangate.luma;w=W;h=H")
                .into()
        }
        ContentTypeError::Value { limit, .. } => malformed().limit(u64::from(limit), None).into(),
        ContentTypeError::Missing { .. } | ContentTypeError::Twice { .. } | ContentTypeError::Unknown => {
            malformed().into()
        }
    }
}

/// A body longer than its kind allows.
pub(super) fn too_long(kind: FrameKind, limit: usize) -> Problem {
    match kind {
        FrameKind::Jpeg | FrameKind::Png => {
            let detail = format!("frames.frame_bytes_max is {limit}");
            Problem::new(Outcome::TooLarge, detail).bound("frames.frame_bytes_max").limit(limit as u64, None)
        }
        FrameKind::Luma { .. } => {
            let detail = format!("luma frame must hold exactly {limit} bytes; got more");
            Problem::new(Outcome::Malformed, detail).field("body").limit(limit as u64, None)
        }
    }
}

/// Bytes that are no image within the limits.
pub(super) fn image(error: &ImageError) -> Problem {
    let too_large = |bound, limit, value| {
        Problem::new(Outcome::TooLarge, error.to_string()).bound(bound).limit(limit, Some(value))
    };
    let malformed = || Problem::new(Outcome::Malformed, error.to_string()).field("body");
    match *error {
        ImageError::BytesMax { limit, value, .. } => {
            too_large("frames.frame_bytes_max", limit as u64, value as u64)
        }
        ImageError::PixelsMax { limit, width, height, .. } => {
            too_large("frames.pixels_max", limit, u64::from(width) * u64::from(height))
        }
        ImageError::Side { limit, value, .. } => {
            too_large("frames.side_px_max", u64::from(limit), u64::from(value))
        }
        ImageError::Length { limit, value } => malformed().limit(limit as u64, Some(value as u64)),
        ImageError::Lying { .. } | ImageError::Malformed { .. } => malformed(),
    }
}

/// A frame that gave no answer. What would fail again is 422, and only the rest is worth sending again.
pub(super) fn undecoded(error: &DecodeError) -> Problem {
    let (outcome, bound, limit, retry_after_s) = match error {
        DecodeError::Image(error) => return image(error),
        DecodeError::TimedOut { limit_ms } => {
            return Problem::new(Outcome::NoCodeFound, error.to_string()).limit(*limit_ms, None);
        }
        DecodeError::Panicked => return Problem::new(Outcome::NoCodeFound, error.to_string()),
        DecodeError::QueueFull { limit } => {
            (Outcome::Overloaded, "frames.queue_frames_max", Some(*limit as u64), 1)
        }
        DecodeError::Late { limit_ms } => (Outcome::Overloaded, "frames.wait_ms_max", Some(*limit_ms), 1),
        DecodeError::Starved { limit_ms } => (Outcome::Overloaded, "frames.deadline_ms", Some(*limit_ms), 1),
        DecodeError::Crashed => (Outcome::Unavailable, "frames.crashed", None, 1),
        DecodeError::Unavailable => (Outcome::Unavailable, "frames.unavailable", None, 30),
        DecodeError::Stopped => (Outcome::Unavailable, "frames.stopped", None, 5),
    };
    at_bound(Problem::new(outcome, error.to_string()), bound, limit).retry_after(retry_after_s)
}

/// A device whose frames take too long.
pub(super) fn over_budget(device_ms_per_s: u32, retry_after_s: u32) -> Problem {
    Problem::new(Outcome::RateLimited, "the device's frames took more time than frames.device_ms_per_s")
        .bound("frames.device_ms_per_s")
        .limit(u64::from(device_ms_per_s), None)
        .retry_after(retry_after_s)
}
