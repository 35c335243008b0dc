//! Signatures that were never seen: checked on the workers, those of different requests together.

use std::sync::Arc;

use crate::identity::Identity;
use crate::payload::{self, Claim, SG1_PREFIX, SignedForm};
use crate::scan::{Outcome, Refusal};
use crate::verify::{self, KeyStore, Resolved, TokenCache, When};
use crate::workers::Together;

/// A code whose signature was never seen, and when it was scanned.
pub(super) struct Unseen {
    pub(super) text: String,
    pub(super) when: When,
}

/// What checking a signature takes, and where it is remembered that it held.
pub(super) struct Signatures {
    pub(super) keys: Arc<KeyStore>,
    pub(super) identity: Arc<Identity>,
    pub(super) tokens: Arc<TokenCache>,
}

/// A job is some codes of one request. One result a code, in order.
impl Together for Signatures {
    type Job = Vec<Unseen>;
    type Done = Vec<Result<Resolved, Refusal>>;

    /// Signatures in one equation: enough to pay for its fixed part, few enough that the other workers take
    /// their share of a batch.
    const WEIGHT_MAX: usize = 64;

    /// Only SG1's signatures are cheaper together. A code of another format has nothing to gain, and would only
    /// keep the others waiting for their answers.
    fn weight(codes: &Vec<Unseen>) -> usize {
        let weight = |code: &Unseen| if code.text.starts_with(SG1_PREFIX) { 1 } else { Self::WEIGHT_MAX };
        codes.iter().map(weight).sum()
    }

    fn run(&self, jobs: &[Vec<Unseen>]) -> Vec<Self::Done> {
        let codes: Vec<&Unseen> = jobs.iter().flatten().collect();
        let mut checked = self.check(&codes).into_iter();
        jobs.iter().map(|codes| checked.by_ref().take(codes.len()).collect()).collect()
    }
}

impl Signatures {
    /// One result a code, in order. Those that held are found in the cache from now on.
    fn check(&self, codes: &[&Unseen]) -> Vec<Result<Resolved, Refusal>> {
        let keys = self.keys.load();
        let unsigned = || Refusal::new(Outcome::Unrecognized, "the payload is not a signed code");
        let forms: Vec<Result<(SignedForm<'_>, When), Refusal>> = codes
            .iter()
            .map(|code| match payload::parse(&code.text)? {
                Claim::Signed(form) => Ok((form, code.when)),
                Claim::Person(_) | Claim::Place(_) => Err(unsigned()),
            })
            .collect();
        let signed: Vec<(SignedForm<'_>, When)> = forms.iter().flatten().copied().collect();
        let mut verified = verify::signed_all(&signed, &keys).into_iter();
        forms
            .into_iter()
            .map(|form| {
                let (form, _) = form?;
                let verified = verified.next().ok_or_else(unsigned)??;
                let subject = self.identity.holder(&verified.holder)?;
                let resolved = Resolved { subject, form: verified.form, validity: verified.validity };
                self.tokens.insert(self.tokens.key(form.text()), &keys, resolved);
                Ok(resolved)
            })
            .collect()
    }
}
