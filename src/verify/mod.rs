//! Signatures and validity. Time is an argument and keys are an immutable snapshot, so a verdict
//! depends on nothing else; nothing is fetched while a scan waits.

mod cbor;
mod keyfile;
mod kid;
pub mod import;
pub mod issued;
pub mod revocations;
pub mod cache;
pub mod keys;
pub mod manage;
pub mod sg1;

pub use cache::{Resolved, ResolvedSubject, TokenCache};
pub(crate) use keyfile::{hex, unhex};
pub use keys::{DeviceAlgorithm, IssuerKey, KeyStore, Keys, KeysError, Kid, Pepper, Sg1Key};
pub use revocations::{Counted, Revocation};
pub use sg1::{TokenKind, sg1};

use crate::payload::SignedForm;
use crate::scan::{Form, Outcome, Refusal, UnixMillis};

/// A code whose signature held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whom or what it stands for, as its issuer names it.
    pub holder: Holder,
    /// The format it was read as.
    pub form: Form,
    /// When it may be used.
    pub validity: Validity,
}

/// The name that a signed code gives its holder. `identity` turns it into a pseudonym or a place's key.
#[derive(Clone, PartialEq, Eq)]
pub enum Holder {
    /// The cti of one of scangate's own tokens, and what kind it is of.
    Cti(TokenKind, [u8; 16]),
}

impl Holder {
    /// What it is.
    pub const fn kind(&self) -> TokenKind {
        match self {
            Self::Cti(kind, _) => *kind,
        }
    }
}

/// Shows the kind only: the value leads to a person.
impl std::fmt::Debug for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cti(kind, _) => write!(f, "Cti({}, ..)", kind.name()),
        }
    }
}

/// From when until when a code may be used, in seconds since 1970: `from_s` is allowed, `until_s` isn't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub from_s: i64,
    /// The second after the last.
    pub until_s: i64,
}

impl Validity {
    /// Whether `now` lies within: the time of the scan, or the arrival where a device's clock runs ahead.
    ///
    /// # Errors
    /// Not yet, or not any more.
    pub const fn check(self, now: UnixMillis) -> Result<(), Refusal> {
        let now_s = now.0.div_euclid(1000);
        if now_s < self.from_s {
            return Err(Refusal::new(Outcome::NotYetValid, "the code was issued in the future"));
        }
        if now_s >= self.until_s {
            return Err(Refusal::new(Outcome::Expired, "the code has expired"));
        }
        Ok(())
    }
}

/// Verifies a signed code.
///
/// # Errors
/// It can't be read, its key is unknown or revoked, its signature doesn't hold, it isn't valid now, or it
/// has been revoked.
pub fn signed(form: SignedForm<'_>, now: UnixMillis, keys: &Keys) -> Result<Verified, Refusal> {
    match form {
        SignedForm::Sg1(text) => sg1(text, now, keys).map(Verified::from),
    }
}

#[cfg(test)]
mod tests;
