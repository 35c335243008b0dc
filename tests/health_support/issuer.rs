//! An issuer with a key and a certificate of its own.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PSS_SHA256, RsaKeyPair};
use ciborium::value::Value;
use coset::{CborSerializable, CoseSign1, CoseSign1Builder, Header, HeaderBuilder, iana};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use std::io::Write as _;

enum Signer {
    Es256(EcdsaKeyPair),
    Ps256(Box<RsaKeyPair>),
}

/// Signs health certificates.
pub struct Issuer {
    pub pem: String,
    pub kid: [u8; 8],
    signer: Signer,
}

/// Which entries a certificate's extended key usages name, by their last arc.
pub type Usages<'a> = &'a [&'a [u64]];

/// The arcs as they were first published, and as they are.
pub const OLD_ARCS: [u64; 9] = [1, 3, 6, 1, 4, 1, 0, 1847, 2021];
pub const ARCS: [u64; 8] = [1, 3, 6, 1, 4, 1, 1847, 2021];

impl Issuer {
    /// ES256, for all kinds of entries.
    pub fn new() -> Self {
        Self::with_usages(&[])
    }

    /// ES256, for all kinds of entries, until long after today.
    pub fn lasting() -> Self {
        Self::es256(&[], 2100)
    }

    /// ES256, with these extended key usages.
    pub fn with_usages(usages: Usages<'_>) -> Self {
        Self::es256(usages, 2022)
    }

    fn es256(usages: Usages<'_>, ends: i32) -> Self {
        let key = KeyPair::generate().unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der()).unwrap();
        Self::of(&key, Signer::Es256(pair), usages, ends)
    }

    /// PS256, until long after today.
    pub fn rsa(size: rcgen::RsaKeySize) -> Self {
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size).unwrap();
        let pair = RsaKeyPair::from_pkcs8(&key.serialize_der()).unwrap();
        Self::of(&key, Signer::Ps256(Box::new(pair)), &[], 2100)
    }

    fn of(key: &KeyPair, signer: Signer, usages: Usages<'_>, ends: i32) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.not_before = rcgen::date_time_ymd(2021, 1, 1);
        params.not_after = rcgen::date_time_ymd(ends, 1, 1);
        params.distinguished_name.push(DnType::CountryName, "VN");
        params.extended_key_usages =
            usages.iter().map(|arcs| ExtendedKeyUsagePurpose::Other(arcs.to_vec())).collect();
        let certificate = params.self_signed(key).unwrap();
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate.der());
        Self { pem: certificate.pem(), kid: *hash.as_ref().first_chunk().unwrap(), signer }
    }

    pub fn algorithm(&self) -> iana::Algorithm {
        match self.signer {
            Signer::Es256(_) => iana::Algorithm::ES256,
            Signer::Ps256(_) => iana::Algorithm::PS256,
        }
    }

    pub fn header(&self) -> Header {
        HeaderBuilder::new().algorithm(self.algorithm()).key_id(self.kid.to_vec()).build()
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.signer {
            Signer::Es256(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Signer::Ps256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PSS_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// A message around these bytes, with the headers as given.
    pub fn message(&self, protected: Header, unprotected: Header, payload: Vec<u8>) -> CoseSign1 {
        CoseSign1Builder::new()
            .protected(protected)
            .unprotected(unprotected)
            .payload(payload)
            .create_signature(b"", |message| self.sign(message))
            .build()
    }

    /// A whole code around these bytes.
    pub fn code_of(&self, payload: Vec<u8>) -> String {
        code(&self.message(self.header(), Header::default(), payload).to_vec().unwrap())
    }

    /// A whole code with these claims.
    pub fn code(&self, claims: &Value) -> String {
        self.code_of(cbor(claims))
    }
}

/// A message as the text of a code.
pub fn code(message: &[u8]) -> String {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(message).unwrap();
    format!("HC1:{}", base45::encode(encoder.finish().unwrap()))
}

pub fn cbor(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

/// A map from text.
pub fn members(pairs: Vec<(&str, Value)>) -> Value {
    Value::Map(pairs.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

/// A map from numbers.
pub fn numbered(pairs: Vec<(i64, Value)>) -> Value {
    Value::Map(pairs.into_iter().map(|(key, value)| (Value::from(key), value)).collect())
}

/// The specimen of the EU's documents, with one entry of this kind.
pub fn certificate(kind: &str, uvci: &str) -> Value {
    let entry = members(vec![("tg", "840539006".into()), ("ci", uvci.into()), ("co", "AT".into())]);
    let holder = members(vec![("fnt", "MUSTERFRAU<GOESSINGER".into()), ("gnt", "GABRIELE".into())]);
    members(vec![
        ("ver", "1.3.0".into()),
        ("nam", holder),
        ("dob", "1998-02-26".into()),
        (kind, Value::Array(vec![entry])),
    ])
}

/// Claims around a certificate.
pub fn claims(issued_at_s: i64, expires_at_s: i64, certificate: Value) -> Value {
    numbered(vec![
        (1, "AT".into()),
        (4, Value::from(expires_at_s)),
        (6, Value::from(issued_at_s)),
        (-260, numbered(vec![(1, certificate)])),
    ])
}
