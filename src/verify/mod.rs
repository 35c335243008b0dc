//! Signatures and validity. Time is an argument and keys are an immutable snapshot, so a verdict
//! depends on nothing else; nothing is fetched while a scan waits.

mod cbor;
mod keyfile;
mod revocations;
pub mod cache;
pub mod keys;
pub mod manage;
pub mod sg1;

pub use cache::{Resolved, ResolvedSubject, TokenCache};
pub(crate) use keyfile::hex;
pub use keys::{DeviceAlgorithm, IssuerKey, KeyStore, Keys, KeysError, Kid, Pepper, Sg1Key};
pub use revocations::Revocation;
pub use sg1::{TokenKind, Verified, sg1, still_valid};

#[cfg(test)]
mod tests;
