//! Issuing what the gateway accepts: device tokens, and SG1 codes for persons and places, drawn as QR.
//! Private keys are read from the data directory here, used once, zeroed and dropped, so issuing works
//! beside a running server.

use std::path::Path;
use std::time::Duration;

use aws_lc_rs::signature::Ed25519KeyPair;
use coset::cwt::{ClaimsSetBuilder, Timestamp};
use coset::{CborSerializable, CoseSign1Builder, HeaderBuilder, cbor::value::Value, iana};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use qrcode::{EcLevel, QrCode, render::svg};
use serde::Serialize;

use crate::identity::Identity;
use crate::payload::{self, Claim, SG1_PREFIX};
use crate::scan::{App, Outcome, Refusal, Trust, UnixMillis};
use crate::verify::manage::{SigningKey, device_signing_key, sg1_signing_key};
use crate::verify::sg1::PRIVATE_CLAIM;
use crate::verify::{self, Holder, Keys, KeysError, Kid, Pepper, TokenKind, Verified};

pub use crate::verify::Revocation;
pub use crate::verify::manage::{
    KeyInfo, KeyUse, ensure_development, keys_generate, keys_list, keys_revoke, keys_rotate,
};

/// How long a device token lives unless told otherwise.
pub const DEVICE_TTL: Duration = Duration::from_hours(30 * 24);

/// How long a printed code lives unless told otherwise: it dies through the revocation list, not of age.
pub const PRINTED_TTL: Duration = Duration::from_hours(5 * 365 * 24);

/// The longest reference that is issued for, in bytes.
pub const REFERENCE_BYTES_MAX: usize = 256;

/// Modules of white around a code, as the QR standard asks.
const QUIET_MODULES: usize = 4;

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The keys could not be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The reference can't stand for anything.
    #[error("a reference must be 1 to {limit} bytes; got {value}")]
    Reference {
        /// The limit.
        limit: usize,
        /// The length given.
        value: usize,
    },
    /// The lifetime is out of bounds.
    #[error("a lifetime must be at least one second and end before the year 9999")]
    Ttl,
    /// The key would not sign.
    #[error("the {what} could not be signed")]
    Signing {
        /// What was to be signed.
        what: &'static str,
    },
    /// The code could not be drawn.
    #[error("the payload does not fit a QR code or could not be drawn")]
    Drawing,
}

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
    let mut nonce = [0_u8; 8];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| KeysError::Random)?;
    let sub = format!("dev-{:016x}", u64::from_be_bytes(nonce));
    issue_device_named(data_dir, app, role, &sub, class, ttl, now)
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
    let (place, person) = match role {
        RoleRef::Place(place) => (Some(checked(place)?), None),
        RoleRef::Person(person) => (None, Some(checked(person)?)),
    };
    let key = device_signing_key(data_dir, app)?;
    let iat = now.seconds();
    let claims = DeviceClaims { iss: app.name(), sub, iat, exp: expiry(iat, ttl)?, place, person, class };
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
    let identity = Identity::new(&Pepper::load(data_dir)?);
    let cti = identity.cti_of_reference(checked(reference)?);
    issue_sg1(data_dir, TokenKind::Person, cti, ttl, now)
}

/// Issues a place's code: `reference` is a poster's URL or any other text that names the place.
pub fn issue_place(
    data_dir: &Path,
    reference: &str,
    ttl: Duration,
    now: UnixMillis,
) -> Result<String, IssueError> {
    let identity = Identity::new(&Pepper::load(data_dir)?);
    let cti = identity.cti_of_place(identity.place(checked(reference)?));
    issue_sg1(data_dir, TokenKind::Place, cti, ttl, now)
}

fn issue_sg1(
    data_dir: &Path,
    kind: TokenKind,
    cti: [u8; 16],
    ttl: Duration,
    now: UnixMillis,
) -> Result<String, IssueError> {
    let key = sg1_signing_key(data_dir)?;
    // A cti is revoked up to a second of issue; a replacement made in that very second must be later.
    let revoked_until_s = Keys::load(data_dir)?.cti_revoked_until_s(&cti).unwrap_or(0);
    let iat = now.seconds().max(revoked_until_s.saturating_add(1).min(now.seconds() + 1));
    sign_sg1(&key, kind, cti, iat, expiry(now.seconds(), ttl)?)
}

/// Encodes and signs one token.
fn sign_sg1(
    key: &SigningKey,
    kind: TokenKind,
    cti: [u8; 16],
    issued_at_s: i64,
    expires_at_s: i64,
) -> Result<String, IssueError> {
    let kid = Kid::parse(&key.kid).ok_or(IssueError::Signing { what: "SG1 token" })?;
    sg1_token(&key.pair, kid, &key.issuer, key.epoch, kind, cti, issued_at_s, expires_at_s)
}

/// Encodes and signs one token from its parts. The encoding is the deterministic one that `verify` reads.
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
    let signing = |_| IssueError::Signing { what: "SG1 token" };
    let private = Value::Map(vec![
        (Value::Text("t".to_owned()), Value::from(kind.code())),
        (Value::Text("e".to_owned()), Value::from(epoch)),
    ]);
    let claims = ClaimsSetBuilder::new()
        .issuer(issuer.to_owned())
        .expiration_time(Timestamp::WholeSeconds(expires_at_s))
        .issued_at(Timestamp::WholeSeconds(issued_at_s))
        .cwt_id(cti.to_vec())
        .private_claim(PRIVATE_CLAIM, private)
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

/// Draws a payload as an SVG document.
pub fn draw_svg(payload: &str) -> Result<String, IssueError> {
    let code = code(payload)?;
    Ok(code.render::<svg::Color<'_>>().quiet_zone(true).module_dimensions(4, 4).build())
}

/// Draws a payload as a PNG of `module_px` pixels per module, black on white, one bit a pixel.
pub fn draw_png(payload: &str, module_px: usize) -> Result<Vec<u8>, IssueError> {
    let bitmap = Bitmap::of(payload)?;
    let module_px = module_px.clamp(1, 64);
    let side_px = bitmap.side * module_px;
    let mut rows = Vec::with_capacity(side_px.div_ceil(8) * side_px);
    for y in 0..side_px {
        let mut row = vec![0_u8; side_px.div_ceil(8)];
        for x in (0..side_px).filter(|x| !bitmap.dark(x / module_px, y / module_px)) {
            if let Some(byte) = row.get_mut(x / 8) {
                *byte |= 0x80 >> (x % 8);
            }
        }
        rows.extend_from_slice(&row);
    }
    let side = u32::try_from(side_px).map_err(|_| IssueError::Drawing)?;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    let mut writer = encoder.write_header().map_err(|_| IssueError::Drawing)?;
    writer.write_image_data(&rows).and_then(|()| writer.finish()).map_err(|_| IssueError::Drawing)?;
    Ok(bytes)
}

/// Draws a payload as a one-page PDF, `module_pt` points per module.
pub fn draw_pdf(payload: &str, module_pt: usize) -> Result<Vec<u8>, IssueError> {
    use std::fmt::Write as _;
    let bitmap = Bitmap::of(payload)?;
    let module_pt = module_pt.clamp(1, 64);
    let side_pt = bitmap.side * module_pt;
    let mut drawing = String::new();
    for y in 0..bitmap.side {
        for x in (0..bitmap.side).filter(|x| bitmap.dark(*x, y)) {
            // Y grows upwards on a PDF page. Writing to a String cannot fail.
            let bottom = side_pt - (y + 1) * module_pt;
            let _ = writeln!(drawing, "{} {bottom} {module_pt} {module_pt} re", x * module_pt);
        }
    }
    drawing.push_str("f\n");
    let objects = [
        "<</Type/Catalog/Pages 2 0 R>>".to_owned(),
        "<</Type/Pages/Kids[3 0 R]/Count 1>>".to_owned(),
        format!("<</Type/Page/Parent 2 0 R/Resources<<>>/MediaBox[0 0 {side_pt} {side_pt}]/Contents 4 0 R>>"),
        format!("<</Length {}>>stream\n{drawing}endstream", drawing.len()),
    ];
    let mut document = "%PDF-1.4\n".to_owned();
    let mut offsets = String::new();
    for (index, object) in objects.iter().enumerate() {
        let _ = writeln!(offsets, "{:010} 00000 n ", document.len());
        let _ = writeln!(document, "{} 0 obj{object}\nendobj", index + 1);
    }
    let start = document.len();
    let _ = write!(
        document,
        "xref\n0 5\n0000000000 65535 f \n{offsets}trailer<</Size 5/Root 1 0 R>>\nstartxref\n{start}\n%%EOF\n"
    );
    Ok(document.into_bytes())
}

fn code(payload: &str) -> Result<QrCode, IssueError> {
    QrCode::with_error_correction_level(payload.as_bytes(), EcLevel::M).map_err(|_| IssueError::Drawing)
}

/// A code with its quiet zone, module by module.
struct Bitmap {
    side: usize,
    width: usize,
    modules: Vec<qrcode::Color>,
}

impl Bitmap {
    fn of(payload: &str) -> Result<Self, IssueError> {
        let code = code(payload)?;
        let width = code.width();
        Ok(Self { side: width + 2 * QUIET_MODULES, width, modules: code.into_colors() })
    }

    fn dark(&self, x: usize, y: usize) -> bool {
        let inside = |at: usize| at.checked_sub(QUIET_MODULES).filter(|at| *at < self.width);
        let module = inside(x).zip(inside(y)).and_then(|(x, y)| self.modules.get(y * self.width + x));
        module == Some(&qrcode::Color::Dark)
    }
}

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
    /// When a signed code ends, RFC 3339.
    pub expires: Option<String>,
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
    };
    let refused = match payload::parse(text) {
        Ok(Claim::Person(_)) => explanation.say("person", Trust::Asserted),
        Ok(Claim::Place(_)) => explanation.say("place", Trust::Asserted),
        Ok(Claim::Signed(form)) => match verify::signed(form, now, keys) {
            Ok(verified) => explanation.say_verified(&verified),
            Err(refusal) => Some(refusal),
        },
        Err(refusal) => Some(refusal),
    };
    if let Some(refusal) = refused {
        explanation.outcome = refusal.outcome.name();
        explanation.detail = refusal.detail;
    }
    explanation
}

impl Explanation {
    fn say_verified(&mut self, verified: &Verified) -> Option<Refusal> {
        // A code without an end says nothing of one.
        let until = Some(verified.validity.until_s).filter(|until_s| *until_s != i64::MAX);
        self.expires = until.map(|until_s| UnixMillis(until_s.saturating_mul(1000)).to_string());
        match &verified.holder {
            Holder::Cti(kind, cti) => {
                self.cti = Some(verify::hex(cti));
                let refused = self.say(kind.name(), Trust::Proven);
                match kind {
                    TokenKind::Person | TokenKind::Place => refused,
                    TokenKind::Device => {
                        Some(Refusal::new(Outcome::WrongSubject, "a device's token is not a check-in code"))
                    }
                }
            }
            Holder::Person { .. } => self.say("person", Trust::Proven),
            Holder::NhsVenue(_) => self.say("place", Trust::Proven),
        }
    }

    fn say(&mut self, subject: &'static str, trust: Trust) -> Option<Refusal> {
        self.subject = Some(subject);
        self.trust = Some(trust.name());
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{PersonForm, SignedForm};
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
        assert!(matches!(draw_svg(&"a".repeat(5000)), Err(IssueError::Drawing)));
    }

    #[test]
    fn drawings_have_a_quiet_zone_and_the_documented_version() {
        let (dir, ..) = data_dir();
        let token = issue_place(dir.path(), "gate 4", PRINTED_TTL, NOW).unwrap();
        let qrcode::Version::Normal(version) = code(&token).unwrap().version() else { panic!("micro") };
        assert!((7..=9).contains(&version), "{version}");
        let modules = 17 + 4 * usize::try_from(version).unwrap() + 2 * QUIET_MODULES;
        let svg = draw_svg(&token).unwrap();
        assert!(svg.contains(&format!("viewBox=\"0 0 {0} {0}\"", 4 * modules)), "{}", &svg[..300]);
        let png = draw_png(&token, 3).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let frame = reader.next_frame(&mut pixels).unwrap();
        assert_eq!(usize::try_from(frame.width).unwrap(), 3 * modules);
        // Quiet zone white, then the finder pattern's black corner.
        let pixel = |x: usize, y: usize| (pixels[y * frame.line_size + x / 8] >> (7 - x % 8)) & 1;
        assert_eq!((pixel(11, 11), pixel(12, 12), pixel(12 + 20, 12 + 20)), (1, 0, 0));
        let pdf = draw_pdf(&token, 3).unwrap();
        let text = String::from_utf8(pdf).unwrap();
        let start: usize = text.lines().rev().nth(1).unwrap().parse().unwrap();
        assert!(text[start..].starts_with("xref"));
    }

    #[test]
    fn explanations_name_what_and_why_and_nobody() {
        let (dir, _, keys) = data_dir();
        let token = issue_person(dir.path(), "001090123456", Duration::from_mins(1), NOW).unwrap();
        let good = explain(&token, NOW, &keys);
        assert_eq!((good.format, good.subject, good.trust), (Some("sg1"), Some("person"), Some("proven")));
        assert_eq!((good.outcome, good.expires.as_deref()), ("accepted", Some("2021-11-24T06:50:29.000Z")));
        let late = explain(&token, UnixMillis(NOW.0 + 60_000), &keys);
        assert_eq!((late.outcome, late.trust), ("expired", None));
        let card = explain(CARD, NOW, &keys);
        assert_eq!((card.format, card.trust, card.outcome), (Some("cccd"), Some("asserted"), "accepted"));
        let printed = serde_json::to_string(&[&good, &late, &card]).unwrap();
        assert!(!printed.contains("001090123456") && !printed.contains("NGUYEN"));
        assert_eq!(explain("hello", NOW, &keys).outcome, "unrecognized");
        assert_eq!(explain("hello", NOW, &keys).format, None);
    }
}
