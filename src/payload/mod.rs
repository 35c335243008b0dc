//! From text to claim: which format a scanned code is, and what it says. Pure: no clock, no keys, no I/O.
//!
//! A code is read by the first row of [`FORMATS`] whose shape it has; the order is the contract's and
//! is total, so every text ends as one claim or one refusal. Every slice in a claim borrows from the
//! payload and nothing is allocated: a claim is read once and then replaced by a pseudonym.
//!
//! A new format is one file beside these and one row in [`FORMATS`].

mod sg1;
mod hc1;
mod shc;
mod pc_covid_place;
mod nhs;
mod nz;
mod cwa;
mod payment;
mod qrqg;
mod cccd;
mod bhyt;
mod text;

pub use hc1::PREFIX as HC1_PREFIX;
pub use nhs::{NHS_BYTES_MAX, PREFIX as NHS_PREFIX};
pub use sg1::{PREFIX as SG1_PREFIX, SG1_BYTES_MAX};
pub use shc::PREFIX as SHC_PREFIX;

use crate::scan::{Form, Outcome, Refusal};

/// The longest payload that is looked at, in bytes; the largest QR code holds 4,296 characters only
/// when all are alphanumeric, and no format here comes near.
pub const PAYLOAD_BYTES_MAX: usize = 4096;

/// What a code claims, before anything about it has been believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim<'a> {
    /// A signed token: `verify` says what it stands for.
    Signed(SignedForm<'a>),
    /// An unsigned person's code.
    Person(PersonForm<'a>),
    /// An unsigned place's code.
    Place(PlaceForm<'a>),
}

/// A signed token, by format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedForm<'a> {
    /// scangate's own token, prefix included.
    Sg1(&'a str),
    /// An EU Digital COVID Certificate, prefix included.
    Hc1(&'a str),
    /// A SMART Health Card, prefix included: pairs of digits after it.
    Shc(&'a str),
    /// An NHS place poster, prefix included.
    Nhs(&'a str),
}

impl<'a> SignedForm<'a> {
    /// The whole payload, prefix included: what a cache of verified codes is keyed by.
    pub const fn text(self) -> &'a str {
        match self {
            Self::Sg1(text) | Self::Hc1(text) | Self::Shc(text) | Self::Nhs(text) => text,
        }
    }
}

/// A person's code with the one identifier that survives it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PersonForm<'a> {
    /// The format it was read as.
    pub form: Form,
    /// Whom it names.
    pub key: PersonRef<'a>,
}

/// Shows the format only: the key is a person's number.
impl std::fmt::Debug for PersonForm<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PersonForm").field("form", &self.form).finish_non_exhaustive()
    }
}

/// The identifier that a person's code carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PersonRef<'a> {
    /// A citizen number: twelve digits.
    Citizen(&'a str),
    /// A PC-COVID QID: eighteen digits.
    Qid(&'a str),
    /// A social-insurance number: ten digits.
    Insurance(&'a str),
}

/// Shows the kind only: the value is a person's number.
impl std::fmt::Debug for PersonRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Citizen(_) => "Citizen(..)",
            Self::Qid(_) => "Qid(..)",
            Self::Insurance(_) => "Insurance(..)",
        })
    }
}

/// A place's code with its canonical reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceForm<'a> {
    /// The format it was read as.
    pub form: Form,
    /// Which place.
    pub reference: PlaceRef<'a>,
}

/// A place as its own poster names it, in canonical form: what is the same on every print of the poster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceRef<'a> {
    /// A URL.
    Url {
        /// Its host, lowercase.
        host: &'static str,
        /// Its path without the outer slashes.
        slug: &'a str,
    },
    /// A GS1 Global Location Number, as ASCII digits.
    Gln([u8; 13]),
    /// The SHA-256 of what the poster says.
    Digest([u8; 32]),
}

/// One known format: how to recognise it, and how to read it.
pub struct Format {
    /// Stable name, for explanations and metrics.
    pub name: &'static str,
    /// Whether the text has this format's shape. Cheap: at most one pass over the text.
    pub sniff: fn(&str) -> bool,
    /// Reads a text whose shape matched.
    pub parse: for<'a> fn(&'a str) -> Result<Claim<'a>, Refusal>,
}

/// The known formats in sniffing order: the first whose shape matches decides.
pub const FORMATS: &[Format] = &[
    sg1::FORMAT,
    hc1::FORMAT,
    shc::FORMAT,
    pc_covid_place::FORMAT,
    nhs::FORMAT,
    nz::FORMAT,
    cwa::FORMAT,
    payment::FORMAT,
    qrqg::FORMAT,
    cccd::FORMAT,
    bhyt::FORMAT,
];

/// Reads one scanned payload. A keyboard scanner's trailing CR, LF or TAB is dropped, nothing else.
///
/// # Errors
/// The payload is too long, matches no format, or breaks a rule of the format whose shape it has.
pub fn parse(text: &str) -> Result<Claim<'_>, Refusal> {
    let text = trimmed(text);
    if text.len() > PAYLOAD_BYTES_MAX {
        return Err(Refusal::new(Outcome::Unrecognized, "the payload is longer than 4096 bytes"));
    }
    match sniff(text) {
        Some(format) => (format.parse)(text),
        None => Err(Refusal::new(Outcome::Unrecognized, "the payload matches no known format")),
    }
}

/// The place behind the text of an unsigned poster; `None` where the text is none.
pub fn place_reference(text: &str) -> Option<PlaceRef<'_>> {
    match parse(text) {
        Ok(Claim::Place(form)) => Some(form.reference),
        _ => None,
    }
}

/// The format whose shape the payload has, if any: the name `scangate verify` prints.
pub fn format_name(text: &str) -> Option<&'static str> {
    let text = trimmed(text);
    if text.len() > PAYLOAD_BYTES_MAX { None } else { sniff(text).map(|format| format.name) }
}

/// The payload without the suffix that a keyboard scanner types.
pub fn trimmed(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n', '\t'])
}

fn sniff(text: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| (format.sniff)(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outcome(text: &str) -> Option<Outcome> {
        parse(text).err().map(|refusal| refusal.outcome)
    }

    #[test]
    fn names_are_distinct() {
        for (index, format) in FORMATS.iter().enumerate() {
            assert!(FORMATS.iter().skip(index + 1).all(|other| other.name != format.name));
        }
    }

    #[test]
    fn a_keyboard_suffix_is_dropped_and_nothing_else() {
        let qrqg = "001093029317|NGUYEN VAN A|1987-01-18|0|162979388586171100|<1<00<0123232422";
        for suffix in ["", "\r", "\r\n", "\t", "\n\n"] {
            assert_eq!(parse(&format!("{qrqg}{suffix}")).ok(), parse(qrqg).ok());
        }
        assert_eq!(outcome("  SG1:ABC"), Some(Outcome::Unrecognized));
    }

    #[test]
    fn what_no_format_knows_is_unrecognized() {
        for text in ["", "hello", "|||||", "https://example.org/", "SG2:ABC", "sg1:ABC", "a|b|c|d|e|f|g"] {
            assert_eq!(outcome(text), Some(Outcome::Unrecognized), "{text}");
            assert_eq!(format_name(text), None, "{text}");
        }
        let long = "A".repeat(PAYLOAD_BYTES_MAX + 1);
        assert_eq!(outcome(&long), Some(Outcome::Unrecognized));
    }

    proptest! {
        #[test]
        fn any_text_ends_as_one_claim_or_one_refusal(text in "\\PC{0,200}") {
            check(&text);
        }

        #[test]
        fn any_bytes_do(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            check(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn shapes_with_fields_do(
            first in "[0-9A-Z*]{0,14}", fields in proptest::collection::vec("[0-9a-zA-Z*<. -]{0,18}", 0..12),
        ) {
            check(&format!("{first}|{}", fields.join("|")));
        }

        #[test]
        fn insurance_cards_do(
            code in "[A-Z]{0,2}[0-9]{10,13}", fields in proptest::collection::vec("[0-9a-f]{0,6}|[0-3][0-9]/[01][0-9]/20[0-9]{2}|-|1|2", 7..12),
        ) {
            check(&format!("{code}|{}|$", fields.join("|")));
        }

        #[test]
        fn any_bytes_behind_a_poster_s_base64_do(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            use base64::Engine;
            use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
            check(&format!("https://e.coronawarn.app?v=1#{}", URL_SAFE_NO_PAD.encode(&bytes)));
            check(&format!("NZCOVIDTRACER:{}", STANDARD.encode(&bytes)));
        }

        #[test]
        fn any_tail_after_a_known_prefix_does(
            prefix in proptest::sample::select(vec![
                "SG1:", "HC1:", "shc:/", "https://qr.pccovid.gov.vn/", "https://qr.tokhaiyte.vn",
                "UKC19TRACING:1:", "NZCOVIDTRACER:", "https://e.coronawarn.app?v=1#", "000201",
            ]),
            tail in "\\PC{0,80}",
        ) {
            check(&format!("{prefix}{tail}"));
        }
    }

    /// A matched shape has a name; an unmatched one is unrecognized; a refusal is one of the API's 422s.
    fn check(text: &str) {
        match (parse(text), format_name(text)) {
            (Ok(_), name) => assert!(name.is_some()),
            (Err(refusal), None) => assert_eq!(refusal.outcome, Outcome::Unrecognized),
            (Err(refusal), Some(_)) => assert!(matches!(
                refusal.outcome,
                Outcome::Unrecognized
                    | Outcome::PaymentCode
                    | Outcome::InconsistentIdentity
                    | Outcome::ChunkedCode
            )),
        }
    }
}
