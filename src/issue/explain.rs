//! What a payload is, and what would become of it: the fields of `scangate verify`, and the same in plain
//! words. It asks the very functions that scans pass, so a verdict here is the verdict there; and it shows
//! no name, number or payload.

use serde::Serialize;

use crate::payload::{self, Claim, SignedForm};
use crate::scan::{Outcome, Refusal, Trust, UnixMillis};
use crate::verify::{self, Keys, TokenKind, Verified};

/// What a payload is and what would become of it: what `scangate verify` prints. No personal data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The format whose shape it has.
    pub format: Option<&'static str>,
    /// `person`, `place` or `device`.
    pub subject: Option<&'static str>,
    /// `proven` or `asserted`.
    pub trust: Option<&'static str>,
    /// `accepted`, or the outcome's name.
    pub outcome: &'static str,
    /// Why.
    pub detail: &'static str,
    /// The cti in hexadecimal, which `scangate keys revoke` takes. It reveals no one.
    pub cti: Option<String>,
    /// When a signed code ends, or ended, RFC 3339.
    pub expires: Option<String>,
    /// From when on a signed code that isn't valid yet will be, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<String>,
    /// The id of the key that a signed code names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// When it, or its key, was revoked, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<String>,
    /// What to do about a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<&'static str>,
}

/// Explains one payload.
pub fn explain(text: &str, now: UnixMillis, keys: &Keys) -> Explanation {
    let mut explanation = Explanation {
        format: payload::format_name(text),
        subject: None,
        trust: None,
        outcome: "accepted",
        detail: "the payload would be accepted",
        cti: None,
        expires: None,
        valid_from: None,
        kid: None,
        revoked_at: None,
        advice: None,
    };
    match payload::parse(text) {
        Ok(Claim::Person(_)) => explanation.say("person", Trust::Asserted),
        Ok(Claim::Place(_)) => explanation.say("place", Trust::Asserted),
        Ok(Claim::Signed(form)) => explanation.signed(form, now, keys),
        Err(refusal) => explanation.refuse(refusal),
    }
    explanation
}

impl Explanation {
    /// Whether a gateway would record it.
    pub fn is_accepted(&self) -> bool {
        self.outcome == "accepted"
    }

    fn say(&mut self, subject: &'static str, trust: Trust) {
        self.subject = Some(subject);
        self.trust = Some(trust.name());
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.outcome = refusal.outcome.name();
        self.detail = refusal.detail;
        self.advice = Some(advice(refusal.outcome, self.revoked_at.is_some() && self.cti.is_none()));
    }

    fn signed(&mut self, form: SignedForm<'_>, now: UnixMillis, keys: &Keys) {
        let says = verify::sg1::unverified(form.text());
        self.kid = says.as_ref().map(|says| says.kid.to_string());
        match verify::signed(form, now, keys) {
            Ok(verified) => {
                self.expires =
                    time(says.as_ref().map_or(verified.validity.until_s, |says| says.expires_at_s));
                self.cti = says.map(|says| verify::hex(&says.cti));
                self.holder(&verified);
            }
            Err(refusal) => {
                // What the code says of itself is shown once its signature held, and that is asked first.
                match refusal.outcome {
                    Outcome::Expired => self.expires = ended(form, now, keys).and_then(time),
                    Outcome::NotYetValid => self.valid_from = begins(form, now, keys).and_then(time),
                    Outcome::Revoked => self.revoked(says.as_ref(), keys),
                    _ => {}
                }
                self.refuse(refusal);
            }
        }
    }

    fn holder(&mut self, verified: &Verified) {
        let kind = verified.holder.kind();
        self.say(kind.name(), Trust::Proven);
        if kind == TokenKind::Device {
            self.refuse(Refusal::new(Outcome::WrongSubject, "a device's token is not a check-in code"));
        }
    }

    /// The key comes first, since its revocation is asked first; then the code's own.
    fn revoked(&mut self, says: Option<&verify::sg1::Unverified>, keys: &Keys) {
        let key = self.kid.as_deref().and_then(|kid| keys.kid_revoked_since_s(kid));
        if let Some(since) = key {
            self.revoked_at = time(since);
        } else if let Some(says) = says {
            self.cti = Some(verify::hex(&says.cti));
            self.revoked_at = keys.cti_revoked_until_s(&says.cti).and_then(time);
        }
    }

    /// The same in plain words, a few lines for a person at a counter.
    pub fn plain(&self) -> String {
        let mut lines =
            vec![format!("This is {}.", self.format.map_or("no code that scangate knows", named))];
        match (self.trust, self.subject) {
            (Some("proven"), Some(subject)) => {
                lines.push(format!("It stands for a {subject}, and that is proven: its signature holds."));
            }
            (Some(_), Some(subject)) => {
                lines.push(format!(
                    "It names a {subject}, and nothing proves it: anybody can print such a code."
                ));
            }
            _ => {}
        }
        lines.extend(self.kid.as_ref().map(|kid| format!("The key it names is {kid}.")));
        if self.is_accepted() {
            let until = self.expires.as_ref().map(|expires| format!(", until {expires}"));
            lines.push(format!("It would be accepted{}.", until.unwrap_or_default()));
        } else {
            lines.push(format!("It is refused as `{}`: {}.", self.outcome, self.detail));
            for (label, at) in [
                ("It ended at", &self.expires),
                ("It begins at", &self.valid_from),
                ("The revocation is of", &self.revoked_at),
            ] {
                lines.extend(at.as_ref().map(|at| format!("{label} {at}.")));
            }
        }
        lines.extend(self.advice.map(|advice| format!("What to do: {advice}.")));
        lines.extend(self.cti.as_ref().map(|cti| format!("Its cti, to revoke it by, is {cti}.")));
        lines.join("\n")
    }
}

/// What people call a format. A new one shows its plain name until it has a line here.
fn named(format: &'static str) -> &'static str {
    match format {
        "sg1" => "a signed code of scangate's own (SG1)",
        "hc1" => "a health certificate of the EU's kind (HC1)",
        "shc" => "a SMART Health Card",
        "pc_covid_place" => "a place's poster of PC-COVID",
        "nhs_place" => "a place's poster of the NHS",
        "nz_place" => "a place's poster of NZ COVID Tracer",
        "cwa_place" => "a place's poster of the Corona-Warn-App",
        "payment" => "a bank's payment code (VietQR)",
        "qrqg" => "a personal code of PC-COVID",
        "cccd" => "a citizen card (CCCD)",
        "bhyt" => "a health-insurance card (BHYT)",
        other => other,
    }
}

/// What helps, in one clause.
fn advice(outcome: Outcome, key_revoked: bool) -> &'static str {
    match outcome {
        Outcome::Unrecognized => {
            "look whether the whole code was read; a code of another system can't be used here"
        }
        Outcome::PaymentCode => "show the personal or place code, not the one for paying",
        Outcome::BadSignature => {
            "scan it again; if it is refused again it was changed or forged, and a new one must be issued"
        }
        Outcome::UnknownKey => {
            "look for the key in `scangate keys list`; bring it with `scangate keys import`, or copy it from \
             the gateway that issued the code, and reload"
        }
        Outcome::Expired => "issue a new one; a phone shows one by itself when it is online",
        Outcome::NotYetValid => "compare the clocks of issuer and gateway; else wait until it begins",
        Outcome::Revoked if key_revoked => "issue a new code, which another key will sign",
        Outcome::Revoked => "issue a new code, if its holder may have one",
        Outcome::InconsistentIdentity => "look at the card itself: what it says does not belong together",
        Outcome::ChunkedCode => "ask for the card as a single code",
        Outcome::WrongSubject => "use a code of a person or of a place",
        _ => "try again",
    }
}

/// RFC 3339; none for a code without end.
fn time(at_s: i64) -> Option<String> {
    (0..LAST_S).contains(&at_s).then(|| UnixMillis(at_s * 1000).to_string())
}

/// 9999-12-30T22:00:00Z, the last time that can be written.
const LAST_S: i64 = 253_402_207_200;

/// When a code that has expired ended, in seconds. A verdict depends on nothing but the time that is given,
/// so the border is found by asking: it works for every format, and takes 40 signature checks at most.
fn ended(form: SignedForm<'_>, now: UnixMillis, keys: &Keys) -> Option<i64> {
    border(0, now.seconds(), |at| is(form, at, keys, Outcome::Expired))
}

/// When a code that isn't valid yet begins, in seconds.
fn begins(form: SignedForm<'_>, now: UnixMillis, keys: &Keys) -> Option<i64> {
    border(now.seconds(), LAST_S, |at| !is(form, at, keys, Outcome::NotYetValid))
}

fn is(form: SignedForm<'_>, at_s: i64, keys: &Keys, outcome: Outcome) -> bool {
    verify::signed(form, UnixMillis(at_s * 1000), keys).is_err_and(|refusal| refusal.outcome == outcome)
}

/// The first second in `from..=until` from which on something holds that doesn't hold at `from`.
fn border(mut from: i64, mut until: i64, holds: impl Fn(i64) -> bool) -> Option<i64> {
    if holds(from) || !holds(until) {
        return None;
    }
    while until - from > 1 {
        let middle = from.midpoint(until);
        if holds(middle) {
            until = middle;
        } else {
            from = middle;
        }
    }
    Some(until)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::issue::{
        KeyUse, ensure_development, issue_person, issue_place, keys_list, keys_revoke, keys_rotate, sg1_token,
    };
    use crate::verify::{Kid, Revocation, manage};

    const NOW: UnixMillis = UnixMillis(1_637_736_569_000);
    const CARD: &str = "001090123456|012345678|NGUYEN VAN A|01011990|Nam|Hà Nội|15042021";
    const HOUR: Duration = Duration::from_hours(1);

    fn data_dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        ensure_development(dir.path(), NOW).unwrap();
        dir
    }

    fn explained(dir: &Path, text: &str, seconds_later: i64) -> Explanation {
        let keys = Keys::load(dir).unwrap();
        explain(text, UnixMillis(NOW.0 + seconds_later * 1000), &keys)
    }

    /// A refusal's name, and words that its explanation must have.
    fn assert_refused(explanation: &Explanation, outcome: &str, words: &[&str]) {
        let plain = explanation.plain();
        assert_eq!((explanation.outcome, explanation.is_accepted()), (outcome, false), "{plain}");
        assert!(plain.contains(&format!("`{outcome}`")) && plain.contains("What to do:"), "{plain}");
        for word in words {
            assert!(plain.contains(word), "{word}: {plain}");
        }
    }

    #[test]
    fn an_accepted_code_is_named_with_its_key_and_end() {
        let dir = data_dir();
        let person = explained(dir.path(), &issue_person(dir.path(), "001090123456", HOUR, NOW).unwrap(), 0);
        assert_eq!(
            (person.format, person.subject, person.trust),
            (Some("sg1"), Some("person"), Some("proven"))
        );
        assert_eq!((person.outcome, person.advice), ("accepted", None));
        assert_eq!(person.expires.as_deref(), Some("2021-11-24T07:49:29.000Z"));
        let plain = person.plain();
        for word in ["SG1", "a person", "proven", "until 2021-11-24T07:49:29.000Z", "cti"] {
            assert!(plain.contains(word), "{word}: {plain}");
        }
        assert!(plain.contains(person.kid.as_deref().unwrap()));
        let place = explained(dir.path(), &issue_place(dir.path(), "gate 4", HOUR, NOW).unwrap(), 0);
        assert_eq!((place.subject, place.outcome), (Some("place"), "accepted"));
    }

    #[test]
    fn an_unsigned_code_is_accepted_and_said_to_prove_nothing() {
        let dir = data_dir();
        let card = explained(dir.path(), CARD, 0);
        assert_eq!((card.format, card.trust, card.outcome), (Some("cccd"), Some("asserted"), "accepted"));
        assert!(card.plain().contains("nothing proves it"));
        let poster = explained(dir.path(), "https://qr.pccovid.gov.vn/Ab3x", 0);
        assert_eq!((poster.subject, poster.trust), (Some("place"), Some("asserted")));
        let printed = serde_json::to_string(&card).unwrap() + &card.plain();
        assert!(!printed.contains("001090123456") && !printed.contains("NGUYEN"));
    }

    #[test]
    fn an_expired_code_and_one_of_the_future_say_when() {
        let dir = data_dir();
        let token = issue_person(dir.path(), "001090123456", HOUR, NOW).unwrap();
        let late = explained(dir.path(), &token, 3600);
        assert_refused(&late, "expired", &["It ended at 2021-11-24T07:49:29.000Z"]);
        let early = explained(dir.path(), &token, -3600);
        assert_refused(&early, "not_yet_valid", &["It begins at 2021-11-24T06:44:29.000Z", "clocks"]);
    }

    #[test]
    fn a_key_that_is_not_here_is_named() {
        let (dir, other) = (data_dir(), data_dir());
        let token = issue_person(other.path(), "001090123456", HOUR, NOW).unwrap();
        let foreign = explained(dir.path(), &token, 0);
        let kid = &keys_list(other.path()).unwrap()[1].kid;
        assert_refused(&foreign, "unknown_key", &[kid, "keys import"]);
        assert_eq!((foreign.cti, foreign.expires), (None, None), "nothing is believed of it");
    }

    #[test]
    fn a_revocation_says_since_when_and_of_what() {
        let dir = data_dir();
        let token = issue_person(dir.path(), "001090123456", HOUR, NOW).unwrap();
        let good = explained(dir.path(), &token, 0);
        let cti = Revocation::parse("cti", good.cti.as_deref().unwrap()).unwrap();
        keys_revoke(dir.path(), &cti, UnixMillis(NOW.0 + 60_000)).unwrap();
        let revoked = explained(dir.path(), &token, 120);
        assert_refused(&revoked, "revoked", &["2021-11-24T06:50:29.000Z", "if its holder may have one"]);
        assert_eq!(revoked.cti, good.cti);
        keys_rotate(dir.path(), KeyUse::Sg1, NOW).unwrap();
        keys_revoke(dir.path(), &Revocation::Kid(good.kid.unwrap()), NOW).unwrap();
        let key = explained(dir.path(), &token, 120);
        assert_refused(&key, "revoked", &["2021-11-24T06:49:29.000Z", "another key"]);
        assert_eq!(key.cti, None);
    }

    #[test]
    fn a_changed_code_and_a_device_token_are_told_apart() {
        let dir = data_dir();
        let token = issue_person(dir.path(), "001090123456", HOUR, NOW).unwrap();
        let mut bytes = base45::decode(token.strip_prefix("SG1:").unwrap()).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        let forged = explained(dir.path(), &format!("SG1:{}", base45::encode(bytes)), 0);
        assert_refused(&forged, "bad_signature", &["forged"]);
        // A key may sign for devices where its file says so.
        let path = keys_list(dir.path()).unwrap()[1].path.clone();
        let file = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, file.replace("\"person\"", "\"device\"")).unwrap();
        let key = manage::sg1_signing_key(dir.path(), NOW).unwrap();
        let kid = Kid::parse(&key.kid).unwrap();
        let at = NOW.seconds();
        let device =
            sg1_token(&key.pair, kid, &key.issuer, 1, TokenKind::Device, [7; 16], at, at + 60).unwrap();
        assert_refused(
            &explained(dir.path(), &device, 0),
            "wrong_subject",
            &["a device", "person or of a place"],
        );
    }

    #[test]
    fn what_is_no_check_in_code_says_what_it_is() {
        let dir = data_dir();
        let nothing = explained(dir.path(), "hello", 0);
        assert_eq!(nothing.format, None);
        assert_refused(&nothing, "unrecognized", &["no code that scangate knows"]);
        assert_refused(&explained(dir.path(), "SG1:", 0), "unrecognized", &["SG1"]);
        assert_refused(&explained(dir.path(), "shc:/1/2/567629", 0), "chunked_code", &["single code"]);
        let mixed = explained(dir.path(), &CARD.replace("Nam", "Nữ"), 0);
        assert_refused(&mixed, "inconsistent_identity", &["citizen card", "the card itself"]);
        let amount =
            "00020101021138540010A00000072701240006970436011001234567890208QRIBFTTA53037045802VN6304";
        let payment = explained(dir.path(), &format!("{amount}{:04X}", crc(amount)), 0);
        assert_refused(&payment, "payment_code", &["payment code"]);
    }

    /// CRC-16/CCITT-FALSE.
    fn crc(text: &str) -> u16 {
        text.bytes().fold(0xffff, |crc, byte| {
            (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            })
        })
    }
}
