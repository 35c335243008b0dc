//! Device tokens and SG1 codes as text.

use std::path::Path;
use std::time::Duration;

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coset::cwt::{ClaimsSetBuilder, Timestamp};
use coset::{CborSerializable, CoseSign1Builder, HeaderBuilder, cbor::value::Value, iana};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::{IssueError, REFERENCE_BYTES_MAX};
use crate::identity::Identity;
use crate::payload::SG1_PREFIX;
use crate::scan::{App, Pseudonym, UnixMillis};
use crate::verify::manage::{SigningKey, device_signing_key, sg1_signing_key};
use crate::verify::sg1::PRIVATE_CLAIM;
use crate::verify::{Keys, KeysError, Kid, Pepper, TokenKind};

/// Whom or what a device stands for.
#[derive(Clone, Copy)]
pub enum RoleRef<'a> {
    /// A place's fixed scanner: it scans persons.
    Place(&'a str),
    /// A person's phone: it scans places.
    Person(&'a str),
}

/// What a device token says.
#[derive(Serialize)]
struct DeviceClaims<'a> {
    iss: &'static str,
    sub: &'a str,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    person: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cnf: Option<Confirmation>,
}

/// The certificate that a token is bound to (RFC 8705, section 3.1).
#[derive(Serialize)]
struct Confirmation {
    #[serde(rename = "x5t#S256")]
    certificate: String,
}

/// Issues a device token (a JWT) with a fresh device name, and the class of its place if it has one.
pub fn issue_device(
    data_dir: &Path,
    app: App,
    role: RoleRef<'_>,
    class: Option<&str>,
    ttl: Duration,
    now: UnixMillis,
) -> Result<String, IssueError> {
    sign_device(data_dir, app, role, &fresh_name()?, class, None, ttl, now)
}

/// The same, good only over connections whose client certificate has this SHA-256.
pub fn issue_device_bound(
    data_dir: &Path,
    app: App,
    role: RoleRef<'_>,
    class: Option<&str>,
    certificate: &[u8; 32],
    ttl: Duration,
    now: UnixMillis,
) -> Result<String, IssueError> {
    sign_device(data_dir, app, role, &fresh_name()?, class, Some(certificate), ttl, now)
}

fn fresh_name() -> Result<String, IssueError> {
    let mut nonce = [0_u8; 8];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| KeysError::Random)?;
    Ok(format!("dev-{:016x}", u64::from_be_bytes(nonce)))
}

/// Issues a device token for a device of this name (`sub`), with the class of its place if it has one.
pub fn issue_device_named(
    data_dir: &Path,
    app: App,
    role: RoleRef<'_>,
    sub: &str,
    class: Option<&str>,
    ttl: Duration,
    now: UnixMillis,
) -> Result<String, IssueError> {
    sign_device(data_dir, app, role, sub, class, None, ttl, now)
}

#[allow(clippy::too_many_arguments)] // A claim each; the public ones above name what may be left out.
fn sign_device(
    data_dir: &Path,
    app: App,
    role: RoleRef<'_>,
    sub: &str,
    class: Option<&str>,
    certificate: Option<&[u8; 32]>,
    ttl: Duration,
    now: UnixMillis,
) -> Result<String, IssueError> {
    let (place, person) = match role {
        RoleRef::Place(place) => (Some(checked(place)?), None),
        RoleRef::Person(person) => (None, Some(checked(person)?)),
    };
    let key = device_signing_key(data_dir, app, now)?;
    let iat = now.seconds();
    let cnf = certificate.map(|sha256| Confirmation { certificate: URL_SAFE_NO_PAD.encode(sha256) });
    let claims =
        DeviceClaims { iss: app.name(), sub, iat, exp: expiry(iat, ttl)?, place, person, class, cnf };
    let header = Header { kid: Some(key.kid.clone()), ..Header::new(Algorithm::EdDSA) };
    let signing = IssueError::Signing { what: "device token" };
    let Ok(pkcs8) = key.pair.to_pkcs8() else { return Err(signing) };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(pkcs8.as_ref())).map_err(|_| signing)
}

/// Issues a person's code: `reference` is a citizen number, a QID, or any other text that names them.
pub fn issue_person(
    data_dir: &Path,
    reference: &str,
    ttl: Duration,
    now: UnixMillis,
) -> Result<String, IssueError> {
    let code = Issuer::open(data_dir, now)?.issue(TokenKind::Person, reference, ttl, now)?;
    Ok(code.payload)
}

/// Issues a place's code: `reference` is a poster's URL or any other text that names the place.
pub fn issue_place(
    data_dir: &Path,
    reference: &str,
    ttl: Duration,
    now: UnixMillis,
) -> Result<String, IssueError> {
    let code = Issuer::open(data_dir, now)?.issue(TokenKind::Place, reference, ttl, now)?;
    Ok(code.payload)
}

/// The cti that every code of this person or place has. It needs the pepper, and reveals no one.
pub fn cti_of(data_dir: &Path, kind: TokenKind, reference: &str) -> Result<[u8; 16], IssueError> {
    cti(&Identity::new(&Pepper::load(data_dir)?), kind, reference)
}

fn cti(identity: &Identity, kind: TokenKind, reference: &str) -> Result<[u8; 16], IssueError> {
    let reference = checked(reference)?;
    match kind {
        TokenKind::Person => Ok(identity.cti_of_reference(reference)),
        TokenKind::Place => Ok(identity.cti_of_place(identity.place(reference))),
        TokenKind::Device => Err(IssueError::Signing { what: "SG1 token of a device" }),
    }
}

/// One issued code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// The text that is drawn.
    pub payload: String,
    /// What it can be revoked by.
    pub cti: [u8; 16],
    /// When it ends, in seconds since 1970.
    pub expires_at_s: i64,
}

/// The key, the pepper and the revocations that codes are issued with, read once. The private key is zeroed
/// when it is dropped.
pub struct Issuer {
    key: SigningKey,
    identity: Identity,
    keys: Keys,
}

impl Issuer {
    /// Reads them.
    pub fn open(data_dir: &Path, now: UnixMillis) -> Result<Self, IssueError> {
        Ok(Self {
            identity: Identity::new(&Pepper::load(data_dir)?),
            key: sg1_signing_key(data_dir, now)?,
            keys: Keys::load(data_dir)?,
        })
    }

    /// The id of the key that signs.
    pub fn kid(&self) -> &str {
        &self.key.kid
    }

    /// The cti that every code of this person or place has.
    pub fn cti(&self, kind: TokenKind, reference: &str) -> Result<[u8; 16], IssueError> {
        cti(&self.identity, kind, reference)
    }

    /// Issues a code for a person or a place.
    pub fn issue(
        &self,
        kind: TokenKind,
        reference: &str,
        ttl: Duration,
        now: UnixMillis,
    ) -> Result<Code, IssueError> {
        let cti = self.cti(kind, reference)?;
        // A cti is revoked up to a second of issue; a replacement made in that very second must be later.
        let revoked_until_s = self.keys.cti_revoked_until_s(&cti).unwrap_or(0);
        let iat = now.seconds().max(revoked_until_s.saturating_add(1).min(now.seconds() + 1));
        let expires_at_s = expiry(now.seconds(), ttl)?;
        Ok(Code { payload: sign_sg1(&self.key, kind, cti, None, iat, expires_at_s)?, cti, expires_at_s })
    }
}

/// The key that codes for one purpose each are signed with: codes of persons that can be revoked alone. The private key is
/// zeroed when it is dropped.
pub struct SealedIssuer(SigningKey);

impl SealedIssuer {
    /// Reads the key.
    pub fn open(data_dir: &Path, now: UnixMillis) -> Result<Self, IssueError> {
        Ok(Self(sg1_signing_key(data_dir, now)?))
    }

    /// The id of the key that signs.
    pub fn kid(&self) -> &str {
        &self.0.kid
    }

    /// The code of a person, by a cti of [`Identity::sealed_cti`], with its times in seconds since 1970. The same code
    /// each time.
    pub fn issue(
        &self,
        identity: &Identity,
        cti: [u8; 16],
        person: Pseudonym,
        issued_at_s: i64,
        expires_at_s: i64,
    ) -> Result<Code, IssueError> {
        let sealed = Some(identity.sealed(cti, person));
        let payload = sign_sg1(&self.0, TokenKind::Person, cti, sealed, issued_at_s, expires_at_s)?;
        Ok(Code { payload, cti, expires_at_s })
    }
}

/// Encodes and signs one token.
fn sign_sg1(
    key: &SigningKey,
    kind: TokenKind,
    cti: [u8; 16],
    sealed: Option<[u8; 16]>,
    issued_at_s: i64,
    expires_at_s: i64,
) -> Result<String, IssueError> {
    let kid = Kid::parse(&key.kid).ok_or(IssueError::Signing { what: "SG1 token" })?;
    token(&key.pair, kid, &key.issuer, key.epoch, kind, cti, sealed, issued_at_s, expires_at_s)
}

/// Encodes and signs one token of one's own cti.
#[cfg(test)]
#[allow(clippy::too_many_arguments)] // One per claim; a struct would only rename them.
pub(crate) fn sg1_token(
    pair: &Ed25519KeyPair,
    kid: Kid,
    issuer: &str,
    epoch: u32,
    kind: TokenKind,
    cti: [u8; 16],
    issued_at_s: i64,
    expires_at_s: i64,
) -> Result<String, IssueError> {
    token(pair, kid, issuer, epoch, kind, cti, None, issued_at_s, expires_at_s)
}

/// Encodes and signs one token from its parts. The encoding is the deterministic one that `verify` reads.
#[allow(clippy::too_many_arguments)] // One per claim; a struct would only rename them.
fn token(
    pair: &Ed25519KeyPair,
    kid: Kid,
    issuer: &str,
    epoch: u32,
    kind: TokenKind,
    cti: [u8; 16],
    sealed: Option<[u8; 16]>,
    issued_at_s: i64,
    expires_at_s: i64,
) -> Result<String, IssueError> {
    let signing = |_| IssueError::Signing { what: "SG1 token" };
    let mut private = vec![
        (Value::Text("t".to_owned()), Value::from(kind.code())),
        (Value::Text("e".to_owned()), Value::from(epoch)),
    ];
    private.extend(sealed.map(|person| (Value::Text("p".to_owned()), Value::Bytes(person.to_vec()))));
    let claims = ClaimsSetBuilder::new()
        .issuer(issuer.to_owned())
        .expiration_time(Timestamp::WholeSeconds(expires_at_s))
        .issued_at(Timestamp::WholeSeconds(issued_at_s))
        .cwt_id(cti.to_vec())
        .private_claim(PRIVATE_CLAIM, Value::Map(private))
        .build()
        .to_vec()
        .map_err(signing)?;
    let header =
        HeaderBuilder::new().algorithm(iana::Algorithm::EdDSA).key_id(kid.as_bytes().to_vec()).build();
    let token = CoseSign1Builder::new()
        .protected(header)
        .payload(claims)
        .create_signature(b"", |message| pair.sign(message).as_ref().to_vec())
        .build()
        .to_vec()
        .map_err(signing)?;
    Ok(format!("{SG1_PREFIX}{}", base45::encode(token)))
}

fn checked(reference: &str) -> Result<&str, IssueError> {
    let reference = reference.trim();
    if (1..=REFERENCE_BYTES_MAX).contains(&reference.len()) {
        Ok(reference)
    } else {
        Err(IssueError::Reference { limit: REFERENCE_BYTES_MAX, value: reference.len() })
    }
}

fn expiry(now_s: i64, ttl: Duration) -> Result<i64, IssueError> {
    /// 9999-12-31T23:59:59Z, the last second that RFC 3339 can write.
    const LAST_S: i64 = 253_402_300_799;
    let ttl_s = i64::try_from(ttl.as_secs()).map_err(|_| IssueError::Ttl)?;
    match now_s.checked_add(ttl_s) {
        Some(expires) if ttl_s > 0 && expires <= LAST_S => Ok(expires),
        _ => Err(IssueError::Ttl),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issue::{PRINTED_TTL, ensure_development};
    use crate::payload::{self, Claim, PersonForm, SignedForm};
    use crate::verify::sg1;

    const NOW: UnixMillis = UnixMillis(1_637_736_569_000);
    const CARD: &str = "001090123456|012345678|NGUYEN VAN A|01011990|Nam|Hà Nội|15042021";
    const POSTER: &str = "https://qr.pccovid.gov.vn/Ab3x";

    fn data_dir() -> (tempfile::TempDir, Identity, Keys) {
        let dir = tempfile::tempdir().unwrap();
        ensure_development(dir.path(), NOW).unwrap();
        let identity = Identity::new(&Pepper::load(dir.path()).unwrap());
        let keys = Keys::load(dir.path()).unwrap();
        (dir, identity, keys)
    }

    #[test]
    fn an_issued_code_and_a_card_of_one_number_are_one_person() {
        let (dir, identity, keys) = data_dir();
        let token = issue_person(dir.path(), "001090123456", PRINTED_TTL, NOW).unwrap();
        let Ok(Claim::Person(card)) = payload::parse(CARD) else { panic!("not a card") };
        let Ok(Claim::Signed(SignedForm::Sg1(text))) = payload::parse(&token) else { panic!("not SG1") };
        let verified = sg1(text, NOW, &keys).unwrap();
        assert_eq!(identity.person_of_cti(verified.cti), identity.person(&card));
        let other = PersonForm { key: crate::payload::PersonRef::Citizen("001090123457"), ..card };
        assert_ne!(identity.person_of_cti(verified.cti), identity.person(&other));
        assert_eq!(cti_of(dir.path(), TokenKind::Person, "001090123456").unwrap(), verified.cti);
        assert_ne!(cti_of(dir.path(), TokenKind::Place, "001090123456").unwrap(), verified.cti);
    }

    #[test]
    fn a_code_for_one_purpose_is_the_persons_and_goes_alone() {
        let (dir, identity, _) = data_dir();
        let person = identity.person_reference("001090123456");
        let cti = Identity::sealed_cti([9; 16], identity.epoch());
        let issuer = SealedIssuer::open(dir.path(), NOW).unwrap();
        let issue = |at_s| issuer.issue(&identity, cti, person, at_s, at_s + 3600).unwrap().payload;
        let (code, printed) =
            (issue(NOW.seconds()), issue_person(dir.path(), "001090123456", PRINTED_TTL, NOW).unwrap());
        assert_eq!(code, issue(NOW.seconds()));
        assert!(code.len() < 300, "{}", code.len());
        let holder = |text: &str, keys: &Keys| {
            let Ok(Claim::Signed(form)) = payload::parse(text) else { panic!("not SG1") };
            crate::verify::signed(form, NOW, keys).map(|verified| identity.holder(&verified.holder))
        };
        let is_person = Ok(Ok(crate::verify::ResolvedSubject::Person(person)));
        let keys = Keys::load(dir.path()).unwrap();
        assert_eq!([holder(&code, &keys), holder(&printed, &keys)], [is_person, is_person]);
        crate::issue::keys_revoke(dir.path(), &crate::issue::Revocation::Cti(cti), NOW).unwrap();
        let keys = Keys::load(dir.path()).unwrap();
        assert!(holder(&code, &keys).is_err());
        assert_eq!(
            [holder(&printed, &keys), holder(&issue(NOW.seconds() + 1), &keys)],
            [is_person, is_person]
        );
    }

    #[test]
    fn an_issued_code_and_a_poster_of_one_place_are_one_place() {
        let (dir, identity, keys) = data_dir();
        let token = issue_place(dir.path(), POSTER, PRINTED_TTL, NOW).unwrap();
        let Ok(Claim::Place(poster)) = payload::parse(POSTER) else { panic!("not a poster") };
        let verified = sg1(&token, NOW, &keys).unwrap();
        assert_eq!(identity.place_of_cti(verified.cti), identity.place_form(&poster));
    }

    #[test]
    fn bad_requests_are_refused() {
        let (dir, ..) = data_dir();
        let reference = |text: &str| issue_person(dir.path(), text, PRINTED_TTL, NOW);
        assert!(matches!(reference("  "), Err(IssueError::Reference { value: 0, .. })));
        assert!(matches!(reference(&"a".repeat(257)), Err(IssueError::Reference { value: 257, .. })));
        for ttl in
            [Duration::ZERO, Duration::from_millis(999), Duration::from_hours(100_000_000), Duration::MAX]
        {
            assert!(matches!(issue_place(dir.path(), "a", ttl, NOW), Err(IssueError::Ttl)), "{ttl:?}");
        }
    }
}
