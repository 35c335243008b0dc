//! Formats that are recognised and not accepted yet. Naming them tells an operator what people present,
//! and keeps a code of one format from being read as another. Each leaves this file for its own when it
//! is accepted.

use super::{Claim, Format};
use crate::scan::{Outcome, Refusal};

/// EU Digital COVID Certificate, Vietnam's vaccine passport.
pub(super) const HC1: Format = Format {
    name: "hc1",
    sniff: |text| text.starts_with("HC1:"),
    parse: |_| unaccepted("health certificates (HC1) are not accepted by this gateway"),
};

/// SMART Health Card.
pub(super) const SHC: Format =
    Format { name: "shc", sniff: |text| text.starts_with("shc:/"), parse: smart_health_card };

const fn unaccepted(detail: &'static str) -> Result<Claim<'static>, Refusal> {
    Err(Refusal::new(Outcome::Unrecognized, detail))
}

/// `shc:/i/N/…` is chunk i of N; a whole card is digits alone.
fn smart_health_card(text: &str) -> Result<Claim<'_>, Refusal> {
    let mut parts = text.strip_prefix("shc:/").unwrap_or_default().splitn(3, '/');
    let is_number = |part: Option<&str>| {
        part.is_some_and(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    if is_number(parts.next()) && is_number(parts.next()) && parts.next().is_some() {
        return Err(Refusal::new(
            Outcome::ChunkedCode,
            "this is one chunk of a SMART Health Card; a card in several codes is not read",
        ));
    }
    unaccepted("SMART Health Cards are not accepted by this gateway")
}

#[cfg(test)]
mod tests {
    use super::super::{format_name, parse};
    use crate::scan::Outcome;

    #[test]
    fn each_is_named_and_refused() {
        for (text, name, outcome, word) in [
            ("HC1:6BFOXN*TS0BI", "hc1", Outcome::Unrecognized, "HC1"),
            ("shc:/5676290952432060346029", "shc", Outcome::Unrecognized, "SMART Health Card"),
            ("shc:/1/2/567629095243", "shc", Outcome::ChunkedCode, "chunk"),
            ("shc:/1/2", "shc", Outcome::Unrecognized, "SMART Health Card"),
        ] {
            assert_eq!(format_name(text), Some(name), "{text}");
            let refusal = parse(text).expect_err(text);
            assert_eq!(refusal.outcome, outcome, "{text}");
            assert!(refusal.detail.contains(word), "{text}: {}", refusal.detail);
        }
    }
}
