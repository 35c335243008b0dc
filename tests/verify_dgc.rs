//! The EU's public test data for Digital COVID Certificates (tests/data/dgc): every file with an expected
//! result, checked through the gateway's own path and counted; what disagrees is listed here with its reason.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod decode_support;
mod health_support;

use std::collections::{BTreeMap, BTreeSet};

use ciborium::value::Value;
use health_support::dgc::{Sample, pictures, samples, seconds, unhex, untagged};
use health_support::issuer::{Issuer, cbor, claims, code};
use health_support::{keys, name};
use scangate::decode::{Frame, FrameKind, Frames};
use scangate::payload::{self, Claim, SignedForm};
use scangate::scan::{Outcome, Refusal, UnixMillis};
use scangate::verify::{self, Keys, Verified, hc1};

/// When the codes that are signed again are read.
const NOW_S: i64 = 1_637_736_569;
const NOW: UnixMillis = UnixMillis(NOW_S * 1000);

/// Two entries where the schema since 1.1 asks for one: the gateway refuses to choose whom such a code names.
/// The test data's own list of known issues has both.
const TWO_ENTRIES: [&str; 2] = ["RO/2DCode/raw/2.json", "SK/2DCode/raw/3.json"];

/// The checks that these fail.
const TWO_ENTRIES_CHECKS: [&str; 3] = ["EXPECTEDDECODE", "EXPECTEDVALIDJSON", "EXPECTEDSCHEMAVALIDATION"];

/// Read although EXPECTEDSCHEMAVALIDATION is false, each `{}` being one of the words after it: a member that
/// the gateway doesn't look at (a name, a date, a test's type or maker, a country) breaks its pattern or is
/// not in its list of values. It asks for the identifier only, and for what its issuer signed.
const ONLY_THE_SCHEMA: &[(&str, &str)] = &[
    (
        "NL/2DCode/raw/{}-NL-test.json",
        "006 007 014 015 022 023 030 031 038 039 046 047 054 055 062 063 064 065 066 067 068 069 070 071",
    ),
    (
        "NL/2DCode/raw/{}-NL-vaccination.json",
        "078 079 086 087 094 095 102 103 110 111 118 119 126 127 134 135 136 137 138 139 140 141 142 143",
    ),
    (
        "NL/2DCode/raw/{}-NL-recovery.json",
        "150 151 158 159 166 167 174 175 182 183 190 191 198 199 206 207 208 209 210 211 212 213 214 215",
    ),
    (
        "NL/2DCode/raw/{}-NL-test+wrong_key.json",
        "222 223 230 231 238 239 246 247 254 255 262 263 270 271 278 279 280 281 282 283 284 285 286 287",
    ),
    ("PL/1.0.0/2DCode/raw/{}.json", "7 8 9"),
    ("PL/1.2.1/2DCode/raw/{}.json", "7 8 9"),
    ("PL/1.3.0/2DCode/raw/{}.json", "7 8 9"),
];

/// Pictures that hold another code of the same issuer than the text beside them.
const OTHER_CODES: [&str; 3] = ["ES/2DCode/raw/501.json", "ES/2DCode/raw/502.json", "ES/2DCode/raw/503.json"];

/// Every file and check whose result the gateway doesn't meet, for one of the reasons above.
fn listed() -> BTreeSet<(String, &'static str)> {
    let schema = ONLY_THE_SCHEMA.iter().flat_map(|(pattern, words)| {
        words.split(' ').map(|word| (pattern.replace("{}", word), "EXPECTEDSCHEMAVALIDATION"))
    });
    let entries =
        TWO_ENTRIES.iter().flat_map(|file| TWO_ENTRIES_CHECKS.map(|check| (file.to_string(), check)));
    schema.chain(entries).collect()
}

/// What a check came to.
#[derive(Default)]
struct Count {
    agree: usize,
    listed: usize,
}

fn certificate_code(text: &str, now: UnixMillis, keys: &Keys) -> Result<Verified, Refusal> {
    match payload::parse(text)? {
        Claim::Signed(form @ SignedForm::Hc1(_)) => verify::signed(form, now, keys),
        other => panic!("not a health certificate: {other:?}"),
    }
}

/// The `ci` of the one entry, as the gateway names its holder.
fn holder_of(certificate: &Value) -> Option<String> {
    let get = |value: &Value, key: &str| {
        let pairs = value.as_map()?.iter();
        pairs.filter(|(name, _)| name.as_text() == Some(key)).map(|(_, value)| value.clone()).next()
    };
    let entries: Vec<Value> = ["v", "t", "r"]
        .into_iter()
        .filter_map(|kind| get(certificate, kind))
        .filter_map(|entries| entries.into_array().ok())
        .flatten()
        .collect();
    let [entry] = entries.as_slice() else { return None };
    let uvci = get(entry, "ci")?.into_text().ok()?.to_uppercase();
    Some(uvci.strip_prefix("URN:UVCI:").unwrap_or(&uvci).to_owned())
}

/// The certificate inside claims, or the value itself where it has none: files hold either.
fn inner(value: Value) -> Value {
    let value = untagged(value);
    let of = |value: &Value, key: i64| {
        let pairs = value.as_map()?.iter();
        pairs.filter(|(name, _)| *name == Value::from(key)).map(|(_, value)| value.clone()).next()
    };
    of(&value, -260).and_then(|certificates| of(&certificates, 1)).unwrap_or(value)
}

fn from_cbor(bytes: &[u8]) -> Option<Value> {
    ciborium::from_reader(bytes).ok()
}

/// One check of one file: what was expected, and what the gateway says.
struct Checks<'a> {
    sample: &'a Sample,
    /// An issuer who signs again what the file holds, so that what is read does not depend on who signed.
    again: &'a Issuer,
    again_keys: &'a Keys,
}

impl Checks<'_> {
    /// The file's own message under its own certificate at its own time.
    fn verdict(&self) -> Option<Result<Verified, Refusal>> {
        let message = self.sample.message()?;
        let issued = || {
            let claims = from_cbor(&self.sample.payload()?)?.into_map().ok()?;
            let (_, issued) = claims.into_iter().find(|(key, _)| *key == Value::from(6))?;
            seconds(&issued).map(|seconds| UnixMillis(seconds * 1000))
        };
        let now = self.sample.clock().or_else(issued).unwrap_or(NOW);
        Some(certificate_code(&code(&message), now, &self.sample.keys()))
    }

    fn inflates(&self, packed: &[u8]) -> bool {
        let mut buffer = [0; hc1::COSE_BYTES_MAX];
        hc1::inflated(packed, &mut buffer).ok() == self.sample.message().as_deref()
    }

    /// Whom the gateway reads in these claims (or this certificate), signed again.
    fn read_again(&self, payload: &[u8]) -> Option<String> {
        let certificate = inner(from_cbor(payload)?);
        let text = self.again.code(&claims(NOW_S, NOW_S + 60, certificate));
        certificate_code(&text, NOW, self.again_keys).ok().map(|verified| name(&verified).1.to_owned())
    }

    /// Whether the gateway does what the check asks for; none where the file lacks what it needs.
    fn passes(&self, check: &str) -> Option<bool> {
        let sample = self.sample;
        let json = || cbor_of_json(sample.json.as_ref()?);
        let passes = match check {
            "EXPECTEDUNPREFIX" => {
                let text = sample.prefix.as_deref()?;
                let bare = sample.base45.as_deref()?;
                let Ok(Claim::Signed(SignedForm::Hc1(read))) = payload::parse(text) else {
                    return Some(false);
                };
                read.strip_prefix(payload::HC1_PREFIX) == Some(bare)
            }
            "EXPECTEDB45DECODE" => {
                let packed = hc1::packed(&format!("HC1:{}", sample.base45.as_deref()?)).ok();
                match sample.compressed.as_deref() {
                    Some(compressed) => packed == unhex(compressed),
                    None => packed.is_some_and(|packed| self.inflates(&packed)),
                }
            }
            "EXPECTEDCOMPRESSION" => {
                let base45 = || hc1::packed(&format!("HC1:{}", sample.base45.as_deref()?)).ok();
                self.inflates(&sample.compressed.as_deref().and_then(unhex).or_else(base45)?)
            }
            "EXPECTEDVERIFY" => match self.verdict()? {
                Ok(_) => true,
                // These come after the signature.
                Err(refusal) => {
                    is_for_time(&refusal)
                        || is_for_usage(&refusal)
                        || refusal.detail.contains("claims must be")
                }
            },
            "EXPECTEDEXPIRATIONCHECK" => !self.verdict()?.is_err_and(|refusal| is_for_time(&refusal)),
            "EXPECTEDKEYUSAGE" => !self.verdict()?.is_err_and(|refusal| is_for_usage(&refusal)),
            "EXPECTEDDECODE" => {
                let written = || from_cbor(&unhex(sample.cbor.as_deref()?)?).map(inner);
                let payload = sample.payload().or_else(|| unhex(sample.cbor.as_deref()?))?;
                let read = self.read_again(&payload);
                read.is_some() && read == written().or_else(json).as_ref().and_then(holder_of)
            }
            "EXPECTEDVALIDJSON" => {
                let payload = sample.payload().or_else(|| unhex(sample.cbor.as_deref()?))?;
                let read = self.read_again(&payload);
                read.is_some() && read == holder_of(&json()?)
            }
            "EXPECTEDSCHEMAVALIDATION" => {
                let payload = sample.payload().or_else(|| unhex(sample.cbor.as_deref()?))?;
                self.read_again(&payload).is_some()
            }
            // Both are about making codes: one is made from the JSON, and read.
            "EXPECTEDVALIDOBJECT" | "EXPECTEDENCODE" => {
                let read = self.read_again(&cbor(&json()?));
                read.is_some() && read == holder_of(&json()?)
            }
            _ => return None,
        };
        Some(passes)
    }
}

fn cbor_of_json(json: &serde_json::Value) -> Option<Value> {
    Value::serialized(json).ok()
}

fn is_for_time(refusal: &Refusal) -> bool {
    matches!(refusal.outcome, Outcome::Expired | Outcome::NotYetValid)
        || refusal.detail.contains("not valid when")
}

fn is_for_usage(refusal: &Refusal) -> bool {
    refusal.detail.contains("may not sign")
}

#[test]
fn every_expected_result_is_met_or_listed() {
    let again = Issuer::new();
    let again_keys = keys(&[("hc1/again.pem", &again.pem)]);
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    let mut lacking: BTreeMap<String, usize> = BTreeMap::new();
    let mut unlisted = Vec::new();
    let mut listed = listed();
    let samples = samples();
    for sample in &samples {
        let checks = Checks { sample, again: &again, again_keys: &again_keys };
        for (check, expected) in &sample.expected {
            let Some(expected) = expected.as_bool() else { continue };
            match checks.passes(check) {
                None => *lacking.entry(check.clone()).or_default() += 1,
                Some(passes) if passes == expected => counts.entry(check.clone()).or_default().agree += 1,
                Some(_) if listed.remove(&(sample.file.clone(), check.as_str())) => {
                    counts.entry(check.clone()).or_default().listed += 1;
                }
                Some(passes) => unlisted.push(format!(
                    "{} {check}: expected {expected}, got {passes} ({:?})",
                    sample.file,
                    checks.verdict().map(|verdict| verdict.map_err(|refusal| refusal.detail))
                )),
            }
        }
    }
    for (check, Count { agree, listed }) in &counts {
        println!(
            "{check}: {agree} agree, {listed} listed, {} without the fields",
            lacking.get(check).unwrap_or(&0)
        );
    }
    println!("not run: {lacking:?}");
    assert!(unlisted.is_empty(), "{} unlisted\n{}", unlisted.len(), unlisted.join("\n"));
    assert!(listed.is_empty(), "listed, and agreeing: {listed:?}");
}

#[test]
fn every_picture_is_read_as_the_text_beside_it() {
    let samples: BTreeMap<String, Sample> =
        samples().into_iter().map(|sample| (sample.file.clone(), sample)).collect();
    let frames = Frames::start(decode_support::settings()).unwrap();
    let (mut read, mut refused, mut other, mut wrong) = (0, 0, 0, Vec::new());
    for picture in pictures() {
        let sample = &samples[&picture.file];
        let expected = sample.expected.get("EXPECTEDPICTUREDECODE").and_then(serde_json::Value::as_bool);
        let bytes = picture.bytes();
        let texts: Vec<String> = match FrameKind::sniff(&bytes) {
            None => vec!["no image".to_owned()],
            Some(kind) => match frames.submit(Frame { bytes: bytes.into(), kind }).unwrap().wait() {
                Err(error) => vec![error.to_string()],
                Ok(decoded) => decoded.codes.into_iter().filter_map(|code| code.payload.ok()).collect(),
            },
        };
        let same = sample.prefix.as_ref().is_some_and(|prefix| texts == [prefix.clone()]);
        match (expected.unwrap_or(true), same) {
            (true, false) if OTHER_CODES.contains(&picture.file.as_str()) => {
                other += usize::from(certificate_code(&texts[0], NOW, &sample.keys()).is_ok());
            }
            (true, true) => read += 1,
            (false, false) => refused += 1,
            (expected, _) => wrong.push(format!(
                "{} expected {expected}: {:?}",
                picture.file,
                texts.iter().map(|text| text.get(..text.len().min(60))).collect::<Vec<_>>()
            )),
        }
    }
    println!(
        "pictures: {read} read as the text, {refused} not, as expected, {other} read as another code (listed)"
    );
    assert_eq!(other, OTHER_CODES.len());
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}
