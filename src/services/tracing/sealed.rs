//! Contacts for the eyes of the population register alone: HPKE (RFC 9180), so that nobody between the gateway and the
//! register, the officer included, can read which pseudonyms are asked about.

use std::io;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256;
use rustls::crypto::hpke::{Hpke as _, HpkePublicKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;

use crate::openapi::SealedContacts;
use crate::services::capability::StateError;
use crate::verify::hex;

/// What a sealed list is for, so that nothing else that is ever sealed to this key can be taken for one.
const INFO: &[u8] = b"scangate contacts 1";

/// What comes before the 32 bytes of an X25519 key in its `SubjectPublicKeyInfo` (RFC 8410).
const X25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x03, 0x21, 0x00];

/// The population register's public key.
pub(super) struct RegisterKey {
    key: HpkePublicKey,
    id: String,
}

impl RegisterKey {
    /// Reads a PEM file with an X25519 `PUBLIC KEY`.
    ///
    /// # Errors
    /// The file can't be read, or holds something else.
    pub(super) fn load(path: &Path) -> Result<Self, StateError> {
        let read = || {
            let spki = SubjectPublicKeyInfoDer::from_pem_slice(&std::fs::read(path)?).ok();
            let key = spki.as_ref().and_then(|spki| spki.strip_prefix(&X25519_SPKI));
            let key = key.filter(|key| key.len() == 32).map(<[u8]>::to_vec);
            key.ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "must be an X25519 PUBLIC KEY in PEM")
            })
        };
        let key = read().map_err(|source| StateError::File { path: path.to_owned(), source })?;
        Ok(Self { id: hex(digest(&SHA256, &key).as_ref()), key: HpkePublicKey(key) })
    }

    /// Seals a list of a case.
    ///
    /// # Errors
    /// The key is no point to agree with.
    pub(super) fn seal(&self, case: &str, list: &[u8]) -> Result<SealedContacts, rustls::Error> {
        let suite = DH_KEM_X25519_HKDF_SHA256_AES_256;
        let (enc, ciphertext) = suite.seal(INFO, case.as_bytes(), list, &self.key)?;
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let (enc, ciphertext) = (text(&enc.0), text(&ciphertext));
        Ok(SealedContacts { case: case.to_owned(), key: self.id.clone(), enc, ciphertext })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::BASE64_STANDARD;
    use rustls::crypto::hpke::EncapsulatedSecret;

    #[test]
    fn only_the_registers_key_opens_it_and_only_as_this_cases() {
        let suite = DH_KEM_X25519_HKDF_SHA256_AES_256;
        let (public, private) = suite.generate_key_pair().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("population.pem");
        let spki = BASE64_STANDARD.encode([&X25519_SPKI, public.0.as_slice()].concat());
        std::fs::write(&path, format!("-----BEGIN PUBLIC KEY-----\n{spki}\n-----END PUBLIC KEY-----\n"))
            .unwrap();
        let sealed = RegisterKey::load(&path).unwrap().seal("17", b"list").unwrap();
        let bytes = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
        let open = |case: &[u8], key| {
            let enc = EncapsulatedSecret(bytes(&sealed.enc));
            suite.open(&enc, INFO, case, &bytes(&sealed.ciphertext), key)
        };
        assert_eq!(open(b"17", &private).unwrap(), b"list");
        assert!(open(b"18", &private).is_err());
        assert!(open(b"17", &suite.generate_key_pair().unwrap().1).is_err());
    }

    #[test]
    fn a_file_with_anything_else_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("population.pem");
        for text in ["", "-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n"] {
            std::fs::write(&path, text).unwrap();
            let error = RegisterKey::load(&path).err().unwrap();
            assert!(error.to_string().contains("population.pem"), "{error}");
        }
        assert!(RegisterKey::load(&dir.path().join("none.pem")).is_err());
    }
}
