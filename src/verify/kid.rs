//! Key ids of SG1.

use std::fmt;

use aws_lc_rs::digest;

use super::keyfile;

/// An SG1 key id: 4 to 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kid {
    bytes: [u8; 8],
    length: u8,
}

impl Kid {
    /// The id with these bytes, if there are 4 to 8.
    pub fn new(id: &[u8]) -> Option<Self> {
        if !(4..=8).contains(&id.len()) {
            return None;
        }
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(id) {
            *to = *from;
        }
        Some(Self { bytes, length: u8::try_from(id.len()).ok()? })
    }

    /// The id that a public key gets: the first eight bytes of its SHA-256.
    pub fn of_public_key(public: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, public);
        Self { bytes: hash.as_ref().first_chunk().copied().unwrap_or_default(), length: 8 }
    }

    /// Reads the hexadecimal form.
    pub fn parse(text: &str) -> Option<Self> {
        match text.len() {
            8 => Self::new(&keyfile::unhex::<4>(text)?),
            10 => Self::new(&keyfile::unhex::<5>(text)?),
            12 => Self::new(&keyfile::unhex::<6>(text)?),
            14 => Self::new(&keyfile::unhex::<7>(text)?),
            16 => Self::new(&keyfile::unhex::<8>(text)?),
            _ => None,
        }
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or(&self.bytes)
    }
}

/// Lowercase hexadecimal.
impl fmt::Display for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kid({self})")
    }
}
