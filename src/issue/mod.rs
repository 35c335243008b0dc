//! Issuing what the gateway accepts: device tokens, and SG1 codes for persons and places, drawn as QR; and
//! explaining what becomes of a code. Private keys are read from the data directory here, used, zeroed and
//! dropped, so issuing works beside a running server.

mod token;
mod draw;
mod poster;
pub mod bulk;
mod explain;

pub use self::draw::{Drawing, Level, Paper, Style, draw_png};
pub use self::explain::{Explanation, explain};
#[cfg(test)]
pub(crate) use self::token::sg1_token;
pub use self::token::{
    Code, Issuer, RoleRef, SealedIssuer, cti_of, issue_device, issue_device_bound, issue_device_named,
    issue_person, issue_place,
};
pub use crate::verify::Revocation;
pub use crate::verify::manage::{
    KeyInfo, KeyUse, ensure_development, keys_generate, keys_list, keys_revoke, keys_revoke_all, keys_rotate,
};

use std::time::Duration;

use crate::verify::KeysError;

/// How long a device token lives unless told otherwise.
pub const DEVICE_TTL: Duration = Duration::from_hours(30 * 24);

/// How long a printed code lives unless told otherwise: it dies through the revocation list, not of age.
pub const PRINTED_TTL: Duration = Duration::from_hours(5 * 365 * 24);

/// The longest reference that is issued for, in bytes.
pub const REFERENCE_BYTES_MAX: usize = 256;

/// The longest name on a poster, in bytes.
pub const NAME_BYTES_MAX: usize = 200;

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The keys could not be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The reference can't stand for anything.
    #[error("a reference must be 1 to {limit} bytes; got {value}")]
    Reference {
        /// The limit.
        limit: usize,
        /// The length given.
        value: usize,
    },
    /// The lifetime is out of bounds.
    #[error("a lifetime must be at least one second and end before the year 9999")]
    Ttl,
    /// The key would not sign.
    #[error("the {what} could not be signed")]
    Signing {
        /// What was to be signed.
        what: &'static str,
    },
    /// The code could not be drawn.
    #[error("the payload does not fit a QR code or could not be drawn")]
    Drawing,
    /// A name has a character that can't be drawn.
    #[error("a name must be of Latin letters, Vietnamese ones included; U+{character:04X} can't be drawn")]
    Glyph {
        /// The character's number.
        character: u32,
    },
    /// A name is too long for its paper.
    #[error("a name must be 1 to {limit} bytes and fit on the paper; got {value} bytes")]
    Name {
        /// The limit.
        limit: usize,
        /// The length given.
        value: usize,
    },
}
