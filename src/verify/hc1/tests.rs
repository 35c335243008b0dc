//! What can't be made from outside: keys that meet in one kid. The rest is under `tests/`.

#[allow(dead_code, reason = "the tests under tests/ use the rest")]
#[path = "../../../tests/health_support/issuer.rs"]
mod issuer;

use coset::{CborSerializable, Header};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use self::issuer::{Issuer, cbor, certificate, claims};
use super::*;
use crate::verify::trust::hc1_key;

const KID: [u8; 8] = [7; 8];

fn key(issuer: &Issuer) -> Hc1Key {
    let der = CertificateDer::from_pem_slice(issuer.pem.as_bytes()).unwrap();
    let mut key = hc1_key(&der).unwrap();
    key.kid = KID;
    key
}

#[test]
fn of_several_keys_under_one_kid_the_one_that_signed_is_found() {
    let issuers = [
        Issuer::new(),
        Issuer::rsa(rcgen::RsaKeySize::_2048),
        Issuer::new(),
        Issuer::rsa(rcgen::RsaKeySize::_2048),
    ];
    let keys: Vec<Hc1Key> = issuers.iter().map(key).collect();
    for (issuer, key) in issuers.iter().zip(&keys) {
        let payload = cbor(&claims(0, 1, certificate("v", "A")));
        let header = Header { key_id: KID.to_vec(), ..issuer.header() };
        let message = issuer.message(header, Header::default(), payload).to_vec().unwrap();
        let envelope = cose::envelope(&message).unwrap();
        assert!(signer(&envelope, &keys).is_ok_and(|found| std::ptr::eq(found, key)));
        let others: Vec<Hc1Key> =
            issuers.iter().filter(|other| !std::ptr::eq(*other, issuer)).map(self::key).collect();
        let refused = signer(&envelope, &others).err().map(|refusal| refusal.outcome);
        assert_eq!(refused, Some(Outcome::BadSignature));
    }
}
