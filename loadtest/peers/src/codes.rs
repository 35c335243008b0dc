//! Whose code it is: read with scangate's own reader of the formats, verified once, then found in a cache.

use std::sync::Arc;

use moka::sync::Cache;
use scangate::identity::Identity;
use scangate::payload::{self, Claim, SignedForm};
use scangate::scan::{Form, Outcome, Pseudonym, Refusal, Trust, UnixMillis};
use scangate::verify::{self, Keys, ResolvedSubject, Validity};

/// Verified codes kept: a printed code is shown day after day.
const CODES_MAX: u64 = 1_000_000;

/// A person's code.
#[derive(Debug, Clone, Copy)]
pub struct Code {
    /// Whose.
    pub person: Pseudonym,
    /// What it was read as.
    pub form: Form,
    /// Whether anyone vouches for it.
    pub trust: Trust,
}

/// Reads and verifies codes.
pub struct Codes {
    keys: Arc<Keys>,
    identity: Arc<Identity>,
    known: Cache<String, (Code, Validity)>,
}

impl Codes {
    /// With the issuers' public keys.
    pub fn new(keys: Arc<Keys>, identity: Arc<Identity>) -> Self {
        Self { keys, identity, known: Cache::new(CODES_MAX) }
    }

    /// The person whose code was scanned.
    pub fn read(&self, text: &str, now: UnixMillis) -> Result<Code, Refusal> {
        if let Some((code, validity)) = self.known.get(text) {
            validity.check(now)?;
            return Ok(code);
        }
        match payload::parse(text)? {
            Claim::Signed(form) => self.verify(text, form, now),
            Claim::Person(form) => {
                let person = self.identity.person(&form);
                Ok(Code { person, form: form.form, trust: Trust::Asserted })
            }
            Claim::Place(_) => Err(not_a_person()),
        }
    }

    fn verify(&self, text: &str, form: SignedForm<'_>, now: UnixMillis) -> Result<Code, Refusal> {
        let verified = verify::signed(form, now, &self.keys)?;
        let ResolvedSubject::Person(person) = self.identity.holder(&verified.holder)? else {
            return Err(not_a_person());
        };
        let code = Code { person, form: verified.form, trust: Trust::Proven };
        self.known.insert(text.to_owned(), (code, verified.validity));
        Ok(code)
    }
}

fn not_a_person() -> Refusal {
    Refusal::new(Outcome::WrongSubject, "the code stands for no person")
}
