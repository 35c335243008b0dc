//! Unsigned payloads.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use scangate::payload::{self, Claim, PAYLOAD_BYTES_MAX, PersonRef, PlaceRef};
use scangate::scan::Outcome;
use serde_json::Value;

/// Any text: one claim that keeps what it promises, or one refusal that the API knows.
pub fn any(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    check(text);
    if text.starts_with("000201") {
        payment(text);
    }
}

fn check(text: &str) {
    let parsed = payload::parse(text);
    assert_eq!(payload::parse(&format!("{text}\r\n")), parsed, "a keyboard's suffix changes the code");
    let place = payload::place_reference(text);
    match parsed {
        Ok(claim) => {
            assert!(payload::format_name(text).is_some());
            assert_eq!(place.is_some(), matches!(claim, Claim::Place(_)));
            check_claim(payload::trimmed(text), &claim);
        }
        Err(refusal) => {
            assert!(place.is_none());
            assert!(payload::format_name(text).is_some() || refusal.outcome == Outcome::Unrecognized);
            assert!(matches!(
                refusal.outcome,
                Outcome::Unrecognized
                    | Outcome::PaymentCode
                    | Outcome::InconsistentIdentity
                    | Outcome::ChunkedCode
            ));
        }
    }
}

fn check_claim(text: &str, claim: &Claim<'_>) {
    match claim {
        Claim::Signed(form) => assert_eq!(form.text(), text),
        Claim::Person(form) => {
            let (key, digits) = match form.key {
                PersonRef::Citizen(number) => (number, 12),
                PersonRef::Qid(qid) => (qid, 18),
                PersonRef::Insurance(number) => (number, 10),
            };
            assert!(text.contains(key) && is_digits(key.as_bytes(), digits));
            assert!(!format!("{form:?}").contains(key), "a person's number is shown");
        }
        Claim::Place(form) => match form.reference {
            PlaceRef::Url { host, slug } => {
                assert!(text.to_ascii_lowercase().contains(host) && text.contains(slug));
                assert!((1..=128).contains(&slug.len()));
            }
            PlaceRef::Gln(digits) => assert!(is_gln(&digits)),
            PlaceRef::Digest(_) => {}
        },
    }
}

/// With its own checksum, whatever begins like a payment code is one; the fuzzer would not guess the checksum.
fn payment(text: &str) {
    let whole = format!("{text}6304");
    let crc = whole.bytes().fold(0xffff_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    let whole = format!("{whole}{crc:04X}");
    if whole.len() <= PAYLOAD_BYTES_MAX {
        let refusal = payload::parse(&whole).expect_err("a payment code is refused");
        assert_eq!(refusal.outcome, Outcome::PaymentCode);
    }
}

/// What an NZ poster says, behind its base64: where it is read, a general JSON reader agrees on what is kept.
pub fn nz(data: &[u8]) {
    let text = format!("NZCOVIDTRACER:{}", STANDARD.encode(data));
    check(&text);
    if let Ok(claim) = payload::parse(&text) {
        // It refuses a number too large for it, also one in a member that is passed over.
        let said = serde_json::from_slice::<Value>(data);
        if said.as_ref().is_err_and(|error| error.to_string().starts_with("number out of range")) {
            return;
        }
        let said = said.expect("JSON");
        let Claim::Place(form) = claim else { panic!("a poster is a place") };
        let PlaceRef::Gln(gln) = form.reference else { panic!("an NZ poster has a location number") };
        assert_eq!(said["gln"].as_str().map(str::as_bytes), Some(&gln[..]));
        assert!(said["typ"] == "entry" && said["ver"] == "c19:1" && said.get("opn").is_some());
    }
}

/// What a Corona-Warn-App poster says, behind its base64: refused, or the place of these very bytes.
pub fn cwa(data: &[u8]) {
    let text = format!("https://e.coronawarn.app?v=1#{}", URL_SAFE_NO_PAD.encode(data));
    check(&text);
    if let Ok(claim) = payload::parse(&text) {
        let Claim::Place(form) = claim else { panic!("a poster is a place") };
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data);
        assert_eq!(form.reference, PlaceRef::Digest(digest.as_ref().try_into().expect("32 bytes")));
    }
}

fn is_digits(bytes: &[u8], length: usize) -> bool {
    bytes.len() == length && bytes.iter().all(u8::is_ascii_digit)
}

fn is_gln(digits: &[u8; 13]) -> bool {
    let sum =
        |every: usize| digits.iter().skip(every).step_by(2).map(|digit| u32::from(digit - b'0')).sum::<u32>();
    is_digits(digits, 13) && (sum(0) + 3 * sum(1)).is_multiple_of(10)
}
