//! Signatures and validity. Time is an argument and keys are an immutable snapshot, so a verdict
//! depends on nothing else; nothing is fetched while a scan waits.

mod batch;
mod cbor;
mod feed_token;
mod keyfile;
mod kid;
mod trust;
mod unpack;
pub mod admin_token;
pub mod import;
pub mod issued;
pub mod revocations;
pub mod cache;
pub mod keys;
pub mod manage;
pub mod nhs;
pub mod rotation;
pub mod sg1;
pub mod hc1;
pub mod shc;

pub use cache::{Resolved, ResolvedSubject, TokenCache};
pub use feed_token::FeedToken;
pub use hc1::hc1;
pub(crate) use keyfile::{hex, unhex};
pub use keys::{DeviceAlgorithm, IssuerKey, KeyStore, Keys, KeysError, Kid, Pepper, Sg1Key};
pub use nhs::{NhsKey, nhs};
pub use revocations::{Counted, Revocation};
pub use sg1::{TokenKind, sg1, sg1_all};
pub use shc::shc;
pub use trust::{Hc1Key, ShcKey};

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
    /// A person who is sealed under the cti of one of scangate's own tokens, for a code that has to be revoked alone.
    Sealed {
        /// The code's cti.
        cti: [u8; 16],
        /// What `identity` opens with it.
        person: [u8; 16],
    },
    /// A person by another issuer's name, and the label that keeps the issuers' names apart.
    Person {
        /// `uvci` or `shc`.
        label: &'static str,
        /// The name.
        value: String,
    },
    /// The id of a venue with the NHS.
    NhsVenue(String),
}

impl Holder {
    /// What it is.
    pub const fn kind(&self) -> TokenKind {
        match self {
            Self::Cti(kind, _) => *kind,
            Self::Sealed { .. } | Self::Person { .. } => TokenKind::Person,
            Self::NhsVenue(_) => TokenKind::Place,
        }
    }
}

/// Shows the kind only: the value leads to a person.
impl std::fmt::Debug for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cti(kind, _) => write!(f, "Cti({}, ..)", kind.name()),
            Self::Sealed { .. } => f.write_str("Sealed(..)"),
            Self::Person { label, .. } => write!(f, "Person({label}, ..)"),
            Self::NhsVenue(_) => f.write_str("NhsVenue(..)"),
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
    /// For codes that neither begin nor end.
    pub const ALWAYS: Self = Self { from_s: i64::MIN, until_s: i64::MAX };

    /// Whether the code had begun when the scan arrived, and had not ended when it was scanned.
    ///
    /// # Errors
    /// Not yet, or not any more.
    pub fn check(self, when: impl Into<When>) -> Result<(), Refusal> {
        let When { scanned, received } = when.into();
        if received.seconds() < self.from_s {
            return Err(Refusal::new(Outcome::NotYetValid, "the code was issued in the future"));
        }
        if scanned.seconds() >= self.until_s {
            return Err(Refusal::new(Outcome::Expired, "the code has expired"));
        }
        Ok(())
    }
}

/// When a code was held to the scanner, and when the scan arrived. A batch that was kept offline is as good as it
/// was when it was scanned; but a code that has been issued by now was not issued in the future, however slow
/// the scanner's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When {
    /// By the scanner's clock, and not after the arrival.
    pub scanned: UnixMillis,
    /// By the gateway's.
    pub received: UnixMillis,
}

/// Scanned as it arrived.
impl From<UnixMillis> for When {
    fn from(now: UnixMillis) -> Self {
        Self { scanned: now, received: now }
    }
}

/// Verifies a signed code.
///
/// # Errors
/// It can't be read, its key is unknown or revoked, its signature doesn't hold, it isn't valid now, or it
/// has been revoked.
pub fn signed(form: SignedForm<'_>, when: impl Into<When>, keys: &Keys) -> Result<Verified, Refusal> {
    match form {
        SignedForm::Sg1(text) => sg1(text, when, keys).map(Verified::from),
        SignedForm::Hc1(text) => hc1(text, when, keys),
        SignedForm::Shc(text) => shc(text, when, keys),
        SignedForm::Nhs(text) => nhs(text, keys),
    }
}

/// Verifies signed codes, each at its own time, those of one issuer's format together where that is cheaper. One
/// result a code, in order, each as [`signed`] gives it (for SG1 see `batch`).
pub fn signed_all(codes: &[(SignedForm<'_>, When)], keys: &Keys) -> Vec<Result<Verified, Refusal>> {
    let tokens: Vec<(&str, When)> =
        codes.iter().filter_map(|(form, when)| Some((sg1_text(*form)?, *when))).collect();
    let mut tokens = sg1_all(&tokens, keys).into_iter();
    codes
        .iter()
        .map(|(form, when)| match sg1_text(*form).and_then(|_| tokens.next()) {
            Some(token) => token.map(Verified::from),
            None => signed(*form, *when, keys),
        })
        .collect()
}

const fn sg1_text(form: SignedForm<'_>) -> Option<&str> {
    match form {
        SignedForm::Sg1(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
