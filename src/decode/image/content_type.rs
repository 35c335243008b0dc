//! The `Content-Type` of a frame.

use super::FrameKind;

const LUMA: &str = "application/vnd.scangate.luma";

/// Why a `Content-Type` names no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContentTypeError {
    /// A media type frames don't come in.
    #[error("content-type must be image/jpeg, image/png or application/vnd.scangate.luma;w=W;h=H")]
    Unsupported,
    /// A parameter is missing.
    #[error("content-type parameter {name} is missing")]
    Missing {
        /// `w` or `h`.
        name: char,
    },
    /// A parameter stands twice.
    #[error("content-type parameter {name} stands twice")]
    Twice {
        /// `w` or `h`.
        name: char,
    },
    /// A parameter that luma doesn't have, or one without a value.
    #[error("content-type parameters of luma must be w and h alone")]
    Unknown,
    /// A value which is no side of an image.
    #[error("content-type parameter {name} must be decimal digits, in 1..={limit}")]
    Value {
        /// `w` or `h`.
        name: char,
        /// The largest side any format can state.
        limit: u16,
    },
}

pub(super) fn parse(value: &str) -> Result<FrameKind, ContentTypeError> {
    let mut parts = value.split(';').map(|part| part.trim_matches([' ', '\t']));
    let media = parts.next().unwrap_or_default();
    if media.eq_ignore_ascii_case("image/jpeg") {
        return Ok(FrameKind::Jpeg);
    }
    if media.eq_ignore_ascii_case("image/png") {
        return Ok(FrameKind::Png);
    }
    if !media.eq_ignore_ascii_case(LUMA) {
        return Err(ContentTypeError::Unsupported);
    }
    let (mut width, mut height) = (None, None);
    for part in parts {
        let (name, value) = part.split_once('=').ok_or(ContentTypeError::Unknown)?;
        let (name, slot) = match name {
            "w" | "W" => ('w', &mut width),
            "h" | "H" => ('h', &mut height),
            _ => return Err(ContentTypeError::Unknown),
        };
        if slot.is_some() {
            return Err(ContentTypeError::Twice { name });
        }
        *slot = Some(side(name, value)?);
    }
    Ok(FrameKind::Luma {
        width: width.ok_or(ContentTypeError::Missing { name: 'w' })?,
        height: height.ok_or(ContentTypeError::Missing { name: 'h' })?,
    })
}

fn side(name: char, value: &str) -> Result<u32, ContentTypeError> {
    let refused = ContentTypeError::Value { name, limit: u16::MAX };
    // `parse` alone would take a sign.
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refused);
    }
    match value.parse::<u16>() {
        Ok(side) if side > 0 => Ok(u32::from(side)),
        _ => Err(refused),
    }
}
