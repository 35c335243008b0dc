//! Corona-Warn-App place poster: `https://e.coronawarn.app?v=1#` and base64url of a protobuf message
//! (corona-warn-app/cwa-documentation, `event_registration.md`):
//!
//! ```text
//! QRCodePayload     { uint32 version = 1; TraceLocation locationData = 2;
//!                     CrowdNotifierData crowdNotifierData = 3; bytes vendorData = 4 }
//! TraceLocation     { uint32 version = 1; string description = 2; string address = 3;
//!                     uint64 startTimestamp = 5; uint64 endTimestamp = 6 }
//! CrowdNotifierData { uint32 version = 1; bytes publicKey = 2; bytes cryptographicSeed = 3; uint32 type = 4 }
//! ```
//!
//! The seed makes every printed message its own, so the place is the hash of the message's bytes: a poster
//! that differs in one bit is another place. Only that hash survives. Nothing signs the poster.
//!
//! The reader takes the wire format that the message needs and nothing more: no allocation, and each step
//! takes at least a byte off the payload.

use aws_lc_rs::digest;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::text::{Decoded, base64};
use super::{Claim, Format, PlaceForm, PlaceRef};
use crate::scan::{Form, Outcome, Refusal};

const PREFIX: &str = "https://e.coronawarn.app?v=1#";

/// The longest description or address, in characters.
const TEXT_CHARACTERS_MAX: usize = 100;

/// The URL alphabet; the app prints no padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) const FORMAT: Format = Format { name: Form::CwaPlace.name(), sniff, parse };

fn sniff(text: &str) -> bool {
    text.starts_with(PREFIX)
}

fn parse(text: &str) -> Result<Claim<'_>, Refusal> {
    let mut room: Decoded = [0; _];
    let message = base64(&BASE64, text.get(PREFIX.len()..).unwrap_or_default(), &mut room)
        .ok_or(unrecognized("a Corona-Warn-App poster must be base64url after its #"))?;
    let poster = Poster::read(message)
        .ok_or(unrecognized("a Corona-Warn-App poster must be a QRCodePayload message"))?;
    if poster.version != 1 {
        return Err(unrecognized("a Corona-Warn-App poster's version must be 1"));
    }
    if !poster.location.is_some_and(is_location) {
        return Err(unrecognized(
            "a Corona-Warn-App poster's locationData must have a version, and a description and an address \
             of 1 to 100 characters",
        ));
    }
    if !poster.crowd_notifier.is_some_and(has_public_key) {
        return Err(unrecognized("a Corona-Warn-App poster's crowdNotifierData must have a public key"));
    }
    let hash = digest::digest(&digest::SHA256, message);
    let digest = hash.as_ref().first_chunk().copied().unwrap_or_default();
    Ok(Claim::Place(PlaceForm { form: Form::CwaPlace, reference: PlaceRef::Digest(digest) }))
}

#[derive(Default)]
struct Poster<'a> {
    version: u64,
    location: Option<&'a [u8]>,
    crowd_notifier: Option<&'a [u8]>,
}

impl<'a> Poster<'a> {
    fn read(mut message: &'a [u8]) -> Option<Self> {
        let mut poster = Self::default();
        while !message.is_empty() {
            match field(&mut message)? {
                (1, Value::Number(version)) => poster.version = version,
                // A message given twice would have to be merged; no app prints it so.
                (2, Value::Bytes(bytes)) if poster.location.is_none() => poster.location = Some(bytes),
                (3, Value::Bytes(bytes)) if poster.crowd_notifier.is_none() => {
                    poster.crowd_notifier = Some(bytes);
                }
                (1..=3, _) => return None,
                _ => {}
            }
        }
        Some(poster)
    }
}

fn is_location(mut message: &[u8]) -> bool {
    let (mut version, mut description, mut address) = (0, "", "");
    while !message.is_empty() {
        match field(&mut message) {
            Some((1, Value::Number(number))) => version = number,
            Some((2, Value::Bytes(bytes))) => description = std::str::from_utf8(bytes).unwrap_or_default(),
            Some((3, Value::Bytes(bytes))) => address = std::str::from_utf8(bytes).unwrap_or_default(),
            Some((4.., _)) => {}
            _ => return false,
        }
    }
    let fits = |text: &str| !text.is_empty() && text.chars().count() <= TEXT_CHARACTERS_MAX;
    version > 0 && fits(description) && fits(address)
}

fn has_public_key(mut message: &[u8]) -> bool {
    let mut present = false;
    while !message.is_empty() {
        match field(&mut message) {
            Some((2, Value::Bytes(key))) => present = !key.is_empty(),
            Some((2, _)) | None => return false,
            Some(_) => {}
        }
    }
    present
}

/// A field's value. Numbers of fixed width are passed over: the message has none.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// Takes one field off the front: its number and value.
fn field<'a>(message: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = varint(message)?;
    let number = tag >> 3;
    if number == 0 {
        return None;
    }
    let value = match tag & 7 {
        0 => Value::Number(varint(message)?),
        1 => take(message, 8).map(|_| Value::Fixed)?,
        2 => {
            let length = usize::try_from(varint(message)?).ok()?;
            Value::Bytes(take(message, length)?)
        }
        5 => take(message, 4).map(|_| Value::Fixed)?,
        // Groups are gone from protobuf 3.
        _ => return None,
    };
    Some((number, value))
}

/// Seven bits a byte, the low ones first, at most ten bytes.
fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let [byte] = take(message, 1)?.first_chunk().copied()?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(message: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some(taken)
}

const fn unrecognized(detail: &'static str) -> Refusal {
    Refusal::new(Outcome::Unrecognized, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};

    /// The specification's own example: a barber's in Berlin.
    const EXAMPLE: &str = "https://e.coronawarn.app?v=1#CAESEwgBEgdGcmlzZXVyGgZCZXJsaW4adggBEmCDAszMTXne1DAA5_Yx\
                           mhRdd_NZN2VKl9L32Jl9-ZybE4b2eNIrhFOKYU4XAOHq3RPLDxdHTW6ANiO24rCOO4rj06HzcVZy3pel58-L\
                           1KSPG-_PneL2BoyZQRz3qlu2hoAaEATXwzyyIshzBHREtsdmc6kiBggBEAUYeA";

    fn number(field: u8, value: u8) -> Vec<u8> {
        vec![field << 3, value]
    }

    fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
        [&[field << 3 | 2, u8::try_from(value.len()).unwrap()], value].concat()
    }

    fn location(description: &str, address: &str) -> Vec<u8> {
        bytes(
            2,
            &[number(1, 1), bytes(2, description.as_bytes()), bytes(3, address.as_bytes()), number(5, 9)]
                .concat(),
        )
    }

    fn crowd_notifier() -> Vec<u8> {
        bytes(3, &[number(1, 1), bytes(2, &[7; 96]), bytes(3, &[8; 16])].concat())
    }

    fn poster(parts: &[Vec<u8>]) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(parts.concat()))
    }

    fn outcome(text: &str) -> Option<Outcome> {
        assert!(sniff(text), "{text}");
        parse(text).err().map(|refusal| refusal.outcome)
    }

    #[test]
    fn the_place_is_the_hash_of_the_message() {
        let message = URL_SAFE_NO_PAD.decode(&EXAMPLE[PREFIX.len()..]).unwrap();
        let hash = digest::digest(&digest::SHA256, &message);
        let reference = PlaceRef::Digest(hash.as_ref().try_into().unwrap());
        let expected = Ok(Claim::Place(PlaceForm { form: Form::CwaPlace, reference }));
        assert_eq!(parse(EXAMPLE), expected);
        assert_eq!(parse(&format!("{PREFIX}{}", URL_SAFE.encode(&message))), expected);
        let other = EXAMPLE.replacen("CDAszM", "CDAszN", 1);
        assert!(parse(&other).is_ok_and(|claim| Ok(claim) != expected));
    }

    #[test]
    fn what_the_app_may_add_later_is_passed_over() {
        let parts = [number(1, 1), location("Café", "1 Straße"), crowd_notifier()];
        assert_eq!(outcome(&poster(&parts)), None);
        for added in [
            bytes(4, b"vendor"),
            number(15, 0),
            vec![9 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0],
            vec![9 << 3 | 5, 0, 0, 0, 0],
        ] {
            assert_eq!(outcome(&poster(&[parts.concat(), added.clone()])), None, "{added:?}");
        }
    }

    #[test]
    fn a_poster_must_be_whole() {
        let (version, place, keys) = (number(1, 1), location("Café", "1 Straße"), crowd_notifier());
        let long = "ß".repeat(101);
        for parts in [
            vec![],
            vec![place.clone(), keys.clone()],
            vec![number(1, 2), place.clone(), keys.clone()],
            vec![bytes(1, b"1"), place.clone(), keys.clone()],
            vec![version.clone(), keys.clone()],
            vec![version.clone(), place.clone()],
            vec![version.clone(), place.clone(), place.clone(), keys.clone()],
            vec![version.clone(), place.clone(), keys.clone(), keys.clone()],
            vec![version.clone(), location("", "1 Straße"), keys.clone()],
            vec![version.clone(), location("Café", ""), keys.clone()],
            vec![version.clone(), location("Café", &long), keys.clone()],
            vec![version.clone(), bytes(2, &bytes(2, b"no version")), keys.clone()],
            vec![
                version.clone(),
                bytes(2, &[number(1, 1), bytes(2, &[0xff]), bytes(3, b"a")].concat()),
                keys.clone(),
            ],
            vec![version.clone(), place.clone(), bytes(3, &number(1, 1))],
            vec![version.clone(), place.clone(), bytes(3, &bytes(2, b""))],
            vec![version.clone(), place.clone(), bytes(3, &number(2, 1))],
        ] {
            assert_eq!(outcome(&poster(&parts)), Some(Outcome::Unrecognized), "{parts:?}");
        }
        let hundred = location("Café", &"a".repeat(100));
        assert_eq!(outcome(&poster(&[version, hundred, keys])), None);
    }

    #[test]
    fn broken_bytes_are_unrecognized() {
        let whole = [number(1, 1), location("Café", "1 Straße"), crowd_notifier()].concat();
        for length in 0..whole.len() {
            let cut = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&whole[..length]));
            assert_eq!(outcome(&cut), Some(Outcome::Unrecognized), "{length}");
        }
        for tail in [
            vec![0x00],
            vec![0x02, 0x00],
            vec![0x23],
            vec![0x26],
            vec![0x22, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            vec![0x20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
            vec![0x20, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
        ] {
            assert_eq!(
                outcome(&poster(&[whole.clone(), tail.clone()])),
                Some(Outcome::Unrecognized),
                "{tail:?}"
            );
        }
        for text in [PREFIX.to_owned(), format!("{PREFIX}%%"), format!("{PREFIX}CAE+"), format!("{PREFIX}A")]
        {
            assert_eq!(outcome(&text), Some(Outcome::Unrecognized), "{text}");
        }
    }
}
