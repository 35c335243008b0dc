//! scangate's own signed token: `SG1:` and base45. Here it is only recognised and bounded; `verify` reads it.

use super::{Claim, Format, SignedForm};
use crate::scan::{Outcome, Refusal};

/// The first characters of every token.
pub const PREFIX: &str = "SG1:";

/// The longest token, in bytes of text. The gateway's own are 169 to 229; the rest is room for a longer
/// issuer name, and the bound on what base45 may allocate.
pub const SG1_BYTES_MAX: usize = 512;

pub(super) const FORMAT: Format = Format { name: "sg1", sniff, parse };

fn sniff(text: &str) -> bool {
    text.starts_with(PREFIX)
}

fn parse(text: &str) -> Result<Claim<'_>, Refusal> {
    if text.len() > SG1_BYTES_MAX {
        return Err(Refusal::new(Outcome::Unrecognized, "an SG1 token is at most 512 bytes long"));
    }
    Ok(Claim::Signed(SignedForm::Sg1(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_pass_through_whole_up_to_the_bound() {
        assert_eq!(parse("SG1:ABC"), Ok(Claim::Signed(SignedForm::Sg1("SG1:ABC"))));
        let long = format!("{PREFIX}{}", "A".repeat(SG1_BYTES_MAX));
        assert!(sniff(&long));
        assert_eq!(parse(&long).map_err(|refusal| refusal.outcome), Err(Outcome::Unrecognized));
    }
}
