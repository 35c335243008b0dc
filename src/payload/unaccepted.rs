//! Formats that are recognised and not accepted yet. Naming them tells an operator what people present,
//! and keeps a code of one format from being read as another. Each leaves this file for its own when it
//! is accepted.

use super::text::{fields, is_digits};
use super::{Claim, Format};
use crate::scan::{Outcome, Refusal};

/// NHS place poster.
pub(super) const NHS: Format = Format {
    name: "nhs_place",
    sniff: |text| text.starts_with("UKC19TRACING:1:"),
    parse: |_| unaccepted("NHS place posters are not accepted by this gateway"),
};

/// New Zealand place poster.
pub(super) const NZ: Format = Format {
    name: "nz_place",
    sniff: |text| text.starts_with("NZCOVIDTRACER:"),
    parse: |_| unaccepted("NZ COVID Tracer place posters are not accepted by this gateway"),
};

/// Corona-Warn-App place poster.
pub(super) const CWA: Format = Format {
    name: "cwa_place",
    sniff: |text| text.starts_with("https://e.coronawarn.app?v=1#"),
    parse: |_| unaccepted("Corona-Warn-App place posters are not accepted by this gateway"),
};

/// Vietnamese health-insurance card.
pub(super) const BHYT: Format = Format {
    name: "bhyt",
    sniff: health_insurance_card,
    parse: |_| unaccepted("health-insurance cards (BHYT) are not accepted by this gateway"),
};

const fn unaccepted(detail: &'static str) -> Result<Claim<'static>, Refusal> {
    Err(Refusal::new(Outcome::Unrecognized, detail))
}

/// Several fields, the first of ten digits, or of two letters and thirteen digits.
fn health_insurance_card(text: &str) -> bool {
    let ([code], count) = fields::<1>(text);
    let lettered = code.split_at_checked(2).is_some_and(|(letters, digits)| {
        letters.bytes().all(|byte| byte.is_ascii_alphabetic()) && is_digits(digits, 13)
    });
    count >= 3 && (is_digits(code, 10) || lettered)
}

#[cfg(test)]
mod tests {
    use super::super::{format_name, parse};
    use crate::scan::Outcome;

    #[test]
    fn each_is_named_and_refused() {
        for (text, name, outcome, word) in [
            ("UKC19TRACING:1:eyJ", "nhs_place", Outcome::Unrecognized, "NHS"),
            ("NZCOVIDTRACER:eyJ", "nz_place", Outcome::Unrecognized, "NZ"),
            ("https://e.coronawarn.app?v=1#CAES", "cwa_place", Outcome::Unrecognized, "Corona-Warn"),
            ("0123456789|4e|1990|1|48|01-001|01/01/2021|-|x$", "bhyt", Outcome::Unrecognized, "BHYT"),
            ("DN4010123456789|4e|1990|1|48|01-001|01/01/2021|-|x$", "bhyt", Outcome::Unrecognized, "BHYT"),
        ] {
            assert_eq!(format_name(text), Some(name), "{text}");
            let refusal = parse(text).expect_err(text);
            assert_eq!(refusal.outcome, outcome, "{text}");
            assert!(refusal.detail.contains(word), "{text}: {}", refusal.detail);
        }
    }
}
