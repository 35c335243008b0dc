//! SMART Health Card (spec.smarthealth.cards): `shc:/` and digits, two for each character of a JWS. Here it
//! is recognised, and told from a chunk of one, `shc:/i/N/…`; `verify` reads it.

use super::{Claim, Format, SignedForm};
use crate::scan::{Form, Outcome, Refusal};

/// The first characters of every card.
pub const PREFIX: &str = "shc:/";

pub(super) const FORMAT: Format = Format { name: Form::Shc.name(), sniff, parse };

fn sniff(text: &str) -> bool {
    text.starts_with(PREFIX)
}

fn parse(text: &str) -> Result<Claim<'_>, Refusal> {
    let body = text.strip_prefix(PREFIX).unwrap_or_default();
    if is_number(body) && body.len().is_multiple_of(2) {
        return Ok(Claim::Signed(SignedForm::Shc(text)));
    }
    if is_chunk(body) {
        return Err(Refusal::new(
            Outcome::ChunkedCode,
            "this is one chunk of a SMART Health Card; a card in several codes is not read",
        ));
    }
    Err(Refusal::new(Outcome::Unrecognized, "a SMART Health Card must be pairs of digits after shc:/"))
}

/// `i/N/…`: chunk i of N.
fn is_chunk(body: &str) -> bool {
    let mut parts = body.splitn(3, '/');
    parts.next().is_some_and(is_number) && parts.next().is_some_and(is_number) && parts.next().is_some()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_told_from_a_chunk_and_from_neither() {
        let card = "shc:/5676290952432060346029";
        assert_eq!(parse(card), Ok(Claim::Signed(SignedForm::Shc(card))));
        for (text, outcome) in [
            ("shc:/1/2/567629095243", Outcome::ChunkedCode),
            ("shc:/1/2/", Outcome::ChunkedCode),
            ("shc:/1/2", Outcome::Unrecognized),
            ("shc:/", Outcome::Unrecognized),
            ("shc:/567", Outcome::Unrecognized),
            ("shc:/56 7", Outcome::Unrecognized),
            ("shc://2/5676", Outcome::Unrecognized),
        ] {
            assert_eq!(parse(text).map_err(|refusal| refusal.outcome), Err(outcome), "{text}");
        }
    }
}
