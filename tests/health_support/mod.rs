//! Issuers of health certificates and cards made for a test, and the EU's public test data.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::must_use_candidate
)]

pub mod dgc;
pub mod issuer;

use std::path::Path;

use scangate::scan::{Outcome, Refusal};
use scangate::verify::{Holder, Keys, Verified};

/// The outcome of a refusal.
pub fn outcome<T>(result: Result<T, Refusal>) -> Option<Outcome> {
    result.err().map(|refusal| refusal.outcome)
}

/// The label and name of whom a code stands for.
pub fn name(verified: &Verified) -> (&'static str, &str) {
    match &verified.holder {
        Holder::Person { label, value } => (label, value),
        other => panic!("not named by another issuer: {other:?}"),
    }
}

/// The keys of a data directory that holds these files, each named from `keys/` on.
pub fn keys(files: &[(&str, &str)]) -> Keys {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        write(dir.path(), name, content);
    }
    Keys::load(dir.path()).unwrap()
}

/// Writes a file under `keys/` of a data directory.
pub fn write(data_dir: &Path, name: &str, content: &str) {
    let path = data_dir.join("keys").join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// Lowercase hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
