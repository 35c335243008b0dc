//! The EU's public test data, as `tests/data/dgc` holds it.

use std::io::Read as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ciborium::value::Value;
use scangate::scan::UnixMillis;
use scangate::verify::Keys;
use serde::Deserialize;

/// A vaccination of Austria's, ES256, 590 characters: as ordinary as they come.
pub const AUSTRIAN: &str = "AT/2DCode/raw/1.json";

/// One file of the test data.
#[derive(Debug, Deserialize)]
pub struct Sample {
    pub file: String,
    pub expected: serde_json::Map<String, serde_json::Value>,
    pub prefix: Option<String>,
    pub base45: Option<String>,
    pub compressed: Option<String>,
    pub cose: Option<String>,
    pub cbor: Option<String>,
    pub json: Option<serde_json::Value>,
    pub certificate: Option<String>,
    pub validationclock: Option<String>,
}

/// One picture of the test data.
#[derive(Debug, Deserialize)]
pub struct Picture {
    pub file: String,
    picture: String,
}

pub fn samples() -> Vec<Sample> {
    lines("tests/data/dgc/codes.ndjson.gz")
}

pub fn sample(file: &str) -> Sample {
    samples().into_iter().find(|sample| sample.file == file).unwrap()
}

pub fn pictures() -> Vec<Picture> {
    lines("tests/data/dgc/pictures.ndjson.gz")
}

fn lines<T: serde::de::DeserializeOwned>(path: &str) -> Vec<T> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let mut text = String::new();
    let mut file = flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap());
    file.read_to_string(&mut text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

impl Picture {
    pub fn bytes(&self) -> Vec<u8> {
        STANDARD.decode(self.picture.replace(['\r', '\n'], "")).unwrap_or_default()
    }
}

impl Sample {
    /// The certificate as a PEM file.
    pub fn pem(&self) -> String {
        pem(self.certificate.as_deref().unwrap_or_default())
    }

    /// The keys of a gateway that trusts this sample's certificate, or none where it has none.
    pub fn keys(&self) -> Keys {
        match &self.certificate {
            Some(_) => super::keys(&[("hc1/issuer.pem", &self.pem())]),
            None => super::keys(&[]),
        }
    }

    /// The COSE message, or where a file leaves it out what its text holds.
    pub fn message(&self) -> Option<Vec<u8>> {
        if let Some(cose) = &self.cose {
            return unhex(cose);
        }
        let packed = base45::decode(self.prefix.as_deref()?.strip_prefix("HC1:")?).ok()?;
        let mut message = Vec::new();
        flate2::read::ZlibDecoder::new(packed.as_slice()).take(1 << 16).read_to_end(&mut message).ok()?;
        Some(message)
    }

    /// The payload of the COSE message, read by an independent reader.
    pub fn payload(&self) -> Option<Vec<u8>> {
        let parts = untagged(ciborium::from_reader(self.message()?.as_slice()).ok()?).into_array().ok()?;
        parts.into_iter().nth(2)?.into_bytes().ok()
    }

    /// The time at which the results are expected.
    pub fn clock(&self) -> Option<UnixMillis> {
        let mut text = self.validationclock.clone()?;
        let zone = text.split_once('T')?.1.find(['+', '-', 'Z']);
        match zone {
            // `+0200`
            Some(_) if !text.ends_with('Z') && !text.get(text.len() - 3..)?.starts_with(':') => {
                text.insert(text.len() - 2, ':');
            }
            Some(_) => {}
            None => text.push('Z'),
        }
        UnixMillis::parse(&text).ok()
    }
}

/// Base64 DER, or what a file has in its place, as a PEM certificate.
pub fn pem(base64: &str) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n")
}

pub fn untagged(value: Value) -> Value {
    match value {
        Value::Tag(_, inner) => untagged(*inner),
        other => other,
    }
}

/// Whole seconds, of a time that may have a fraction.
pub fn seconds(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(integer) => i64::try_from(*integer).ok(),
        #[allow(clippy::cast_possible_truncation, reason = "test data")]
        Value::Float(float) => Some(float.floor() as i64),
        _ => None,
    }
}

pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
