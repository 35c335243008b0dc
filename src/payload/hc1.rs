//! EU Digital COVID Certificate, Vietnam's vaccine passport (Decision 5772/QĐ-BYT): `HC1:` and base45.
//! Here it is only recognised; `verify` reads it.

use super::{Claim, Format, SignedForm};
use crate::scan::{Form, Refusal};

/// The first characters of every certificate.
pub const PREFIX: &str = "HC1:";

pub(super) const FORMAT: Format = Format { name: Form::Hc1.name(), sniff, parse };

fn sniff(text: &str) -> bool {
    text.starts_with(PREFIX)
}

#[allow(clippy::unnecessary_wraps, reason = "the signature is the table's")]
const fn parse(text: &str) -> Result<Claim<'_>, Refusal> {
    Ok(Claim::Signed(SignedForm::Hc1(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_pass_through_whole() {
        assert_eq!(parse("HC1:6BF"), Ok(Claim::Signed(SignedForm::Hc1("HC1:6BF"))));
        assert!(sniff("HC1:") && !sniff("hc1:6BF") && !sniff("HC2:6BF") && !sniff("6BF"));
    }
}
