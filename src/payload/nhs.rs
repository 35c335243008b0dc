//! NHS place poster: `UKC19TRACING:1:` and a JWT. Here it is only recognised and bounded; `verify` reads it.

use super::{Claim, Format, SignedForm};
use crate::scan::{Form, Outcome, Refusal};

/// The first characters of every poster; the digit is the format's version.
pub const PREFIX: &str = "UKC19TRACING:1:";

/// The longest poster, in bytes of text: real ones have 200 to 500, which the place's name decides.
pub const NHS_BYTES_MAX: usize = 1024;

pub(super) const FORMAT: Format = Format { name: Form::NhsPlace.name(), sniff, parse };

fn sniff(text: &str) -> bool {
    text.starts_with(PREFIX)
}

fn parse(text: &str) -> Result<Claim<'_>, Refusal> {
    if text.len() > NHS_BYTES_MAX {
        return Err(Refusal::new(Outcome::Unrecognized, "an NHS place poster is at most 1024 bytes long"));
    }
    Ok(Claim::Signed(SignedForm::Nhs(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posters_pass_through_whole_up_to_the_bound() {
        let text = "UKC19TRACING:1:e30.e30.AA";
        assert_eq!(parse(text), Ok(Claim::Signed(SignedForm::Nhs(text))));
        let long = format!("{PREFIX}{}", "A".repeat(NHS_BYTES_MAX));
        assert!(sniff(&long) && !sniff("UKC19TRACING:2:e30.e30.AA"));
        assert_eq!(parse(&long).map_err(|refusal| refusal.outcome), Err(Outcome::Unrecognized));
    }
}
