//! NZ COVID Tracer place poster: `NZCOVIDTRACER:` and base64 of a JSON object (HISO 10067:2021):
//! `{"typ":"entry","ver":"c19:1","gln":"…","opn":"…","adr":"…"}`.
//!
//! `gln` is the place's GS1 Global Location Number, thirteen digits of which the last checks the others. It
//! alone survives; name (`opn`) and address (`adr`) must be there and are not looked at. Nothing signs it.

use std::borrow::Cow;

use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::text::{Decoded, base64};
use super::{Claim, Format, PlaceForm, PlaceRef};
use crate::scan::{Form, Outcome, Refusal};

const PREFIX: &str = "NZCOVIDTRACER:";

/// The standard alphabet; posters are printed with its padding and without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) const FORMAT: Format = Format { name: Form::NzPlace.name(), sniff, parse };

#[derive(Deserialize)]
struct Poster<'a> {
    #[serde(borrow)]
    typ: Cow<'a, str>,
    #[serde(borrow)]
    ver: Cow<'a, str>,
    #[serde(borrow)]
    gln: Cow<'a, str>,
    #[serde(rename = "opn")]
    _opn: IgnoredAny,
    #[serde(rename = "adr")]
    _adr: IgnoredAny,
}

fn sniff(text: &str) -> bool {
    text.starts_with(PREFIX)
}

fn parse(text: &str) -> Result<Claim<'_>, Refusal> {
    let mut room: Decoded = [0; _];
    let json = base64(&BASE64, text.get(PREFIX.len()..).unwrap_or_default(), &mut room)
        // The whole of it: serde_json would not look at the bytes of what it passes over.
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .ok_or(unrecognized("an NZ COVID Tracer poster must be base64 of UTF-8 after its prefix"))?;
    let poster: Poster<'_> = serde_json::from_str(json).map_err(|_| {
        unrecognized("an NZ COVID Tracer poster must be a JSON object with typ, ver, gln, opn and adr")
    })?;
    if poster.typ != "entry" || poster.ver != "c19:1" {
        return Err(unrecognized("an NZ COVID Tracer poster must have typ entry and ver c19:1"));
    }
    let gln = gln(&poster.gln).ok_or(unrecognized(
        "an NZ COVID Tracer poster's gln must be thirteen digits with a right check digit",
    ))?;
    Ok(Claim::Place(PlaceForm { form: Form::NzPlace, reference: PlaceRef::Gln(gln) }))
}

/// Thirteen digits that add up to a multiple of ten, every second one counted three times (GS1 General
/// Specifications, section 7.9).
fn gln(text: &str) -> Option<[u8; 13]> {
    let digits: [u8; 13] = text.as_bytes().try_into().ok()?;
    let sum = digits.iter().zip([1, 3].into_iter().cycle()).try_fold(0_u32, |sum, (digit, weight)| {
        digit.is_ascii_digit().then(|| sum + weight * u32::from(digit - b'0'))
    })?;
    // All zeros add up too, and stand for no place.
    (sum > 0 && sum.is_multiple_of(10)).then_some(digits)
}

const fn unrecognized(detail: &'static str) -> Refusal {
    Refusal::new(Outcome::Unrecognized, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

    const GOOD: &str =
        r#"{"gln":"9429300000007","ver":"c19:1","typ":"entry","opn":"Café","adr":"1 Road\nTown"}"#;

    fn poster(json: &str) -> String {
        format!("{PREFIX}{}", STANDARD.encode(json))
    }

    fn outcome(text: &str) -> Option<Outcome> {
        assert!(sniff(text), "{text}");
        parse(text).err().map(|refusal| refusal.outcome)
    }

    #[test]
    fn the_location_number_is_the_place() {
        let expected =
            Ok(Claim::Place(PlaceForm { form: Form::NzPlace, reference: PlaceRef::Gln(*b"9429300000007") }));
        assert_eq!(parse(&poster(GOOD)), expected);
        assert_eq!(parse(&format!("{PREFIX}{}", STANDARD_NO_PAD.encode(GOOD))), expected);
        let other = GOOD.replace("Café", "Restaurant").replace("adr", "new\":0,\"adr");
        assert_eq!(parse(&poster(&other)), expected);
        assert_eq!(parse(&poster(&GOOD.replacen('9', "\\u0039", 1))), expected);
    }

    #[test]
    fn the_check_digit_decides() {
        for good in ["9429300000007", "7000000000003", "4012345000009", "6291041500213"] {
            assert!(gln(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "0000000000000",
            "9429300000008",
            "9249300000007",
            "942930000000",
            "94293000000070",
            "942930000000x",
            "９429300000007",
        ] {
            assert!(gln(bad).is_none(), "{bad}");
            let text = poster(&GOOD.replace("9429300000007", bad));
            assert_eq!(outcome(&text), Some(Outcome::Unrecognized), "{bad}");
        }
    }

    #[test]
    fn anything_else_is_unrecognized() {
        let latin_1: Vec<u8> = GOOD.chars().map(|character| u8::try_from(character).unwrap()).collect();
        let text = format!("{PREFIX}{}", STANDARD.encode(latin_1));
        assert_eq!(outcome(&text), Some(Outcome::Unrecognized));
        for text in [
            PREFIX.to_owned(),
            format!("{PREFIX}%%%"),
            format!("{PREFIX}eyJ"),
            format!("{PREFIX}{}", "[".repeat(4000)),
            poster(""),
            poster("[]"),
            poster("{}"),
            poster(&"[".repeat(2000)),
            poster(&GOOD.replace("entry", "exit")),
            poster(&GOOD.replace("c19:1", "c19:2")),
            poster(&GOOD.replace("opn", "nam")),
            poster(&GOOD.replace("adr", "opn")),
            poster(&GOOD.replace("\"9429300000007\"", "9429300000007")),
            poster(&format!("{GOOD}x")),
        ] {
            assert_eq!(outcome(&text), Some(Outcome::Unrecognized), "{text}");
        }
    }
}
