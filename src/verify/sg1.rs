//! SG1, scangate's own signed token: `SG1:` + base45 of a COSE_Sign1 (RFC 9052), deterministically encoded.
//!
//! ```text
//! [ h'{1: -8, 4: kid}', {}, h'claims', signature ]       kid of 4 to 8 bytes, 64 bytes of Ed25519
//! claims = {1: iss, 4: exp, 6: iat, 7: cti, -65537: {"t": kind, "e": epoch}}
//! a person's, issued for one purpose:  … -65537: {"t": 0, "e": epoch, "p": h'16 bytes'}}
//! ```
//!
//! - Every byte is either signed or fixed, so a token has exactly one text.
//! - A person's `cti` is all that stands for them, so revoking it revokes every code of theirs. A code that has to go
//!   alone, as a journey's, has a `cti` of its own, and the person sealed under it in `p` ([`Holder::Sealed`]).
//! - The signature is checked before any claim is looked at.
//! - `exp` is exact, but for a token that lives no longer than [`ROTATING_TTL_S_MAX`]: that one is good for
//!   `verify.rotating_skew_s` more. `iat` may lie up to [`SKEW_S`] ahead, for an issuer whose clock runs fast.
//!
//! The envelope is read with `cbor` and not through a general COSE type: that would allocate a
//! dozen times and cost a tenth of the signature check, on the path that bounds how many never-seen
//! tokens a core can take. The tests hold it against the `coset` crate.

use crate::payload::{SG1_BYTES_MAX, SG1_PREFIX};
use crate::scan::{Form, Outcome, Refusal};

use super::batch::{self, Claimed};
use super::cbor::Reader;
use super::keys::{Keys, Kid, Sg1Key};
use super::unpack;
use super::{Holder, Validity, Verified, When};

/// How far an issuer's clock may run ahead, in seconds.
pub const SKEW_S: i64 = 300;

/// The longest lifetime of a token that is reissued all the time, as a phone's is, in seconds.
pub const ROTATING_TTL_S_MAX: i64 = 120;

/// How long such a token is still good after its end unless the configuration says otherwise, in seconds: a
/// phone's clock is off by some seconds, and so is a scanner's.
pub const ROTATING_SKEW_S: u32 = 30;

/// COSE's number for EdDSA.
const ALG_EDDSA: i64 = -8;

/// The claim that carries kind and epoch.
pub(crate) const PRIVATE_CLAIM: i64 = -65_537;

const ISSUER_BYTES_MAX: usize = 64;

/// What comes before the protected header in the bytes that are signed: an array of four, `Signature1`.
const SIGNED_HEAD: [u8; 12] = *b"\x84\x6aSignature1";

/// The bytes of a token that its text can hold at most.
const TOKEN_BYTES_MAX: usize = (SG1_BYTES_MAX - SG1_PREFIX.len()) * 2 / 3;

/// Room for what is signed: the token's own bytes and less than a signature's worth around them.
const SIGNED_BYTES_MAX: usize = TOKEN_BYTES_MAX + 64;

/// What a token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A person.
    Person,
    /// A place.
    Place,
    /// A device.
    Device,
}

impl TokenKind {
    /// The number in the claim `t`.
    pub const fn code(self) -> u8 {
        match self {
            Self::Person => 0,
            Self::Place => 1,
            Self::Device => 2,
        }
    }

    /// The name in a key file's `types`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Place => "place",
            Self::Device => "device",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Person, Self::Place, Self::Device].into_iter().find(|kind| kind.name() == name)
    }

    fn from_code(code: i64) -> Option<Self> {
        [Self::Person, Self::Place, Self::Device].into_iter().find(|kind| i64::from(kind.code()) == code)
    }
}

/// A token whose signature held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sg1 {
    /// What it stands for.
    pub kind: TokenKind,
    /// The reference that it carries.
    pub cti: [u8; 16],
    /// The person sealed under the cti, where that is not the person's own.
    pub sealed: Option<[u8; 16]>,
    /// The key that signed it.
    pub kid: Kid,
    /// When it was issued, in seconds since 1970.
    pub issued_at_s: i64,
    /// When it ends, in seconds since 1970.
    pub expires_at_s: i64,
    /// When it may be used, the tolerance for clocks included.
    pub validity: Validity,
}

fn validity(issued_at_s: i64, expires_at_s: i64, rotating_skew_s: u32) -> Validity {
    let lifetime_s = expires_at_s.saturating_sub(issued_at_s);
    let rotates = (1..=ROTATING_TTL_S_MAX).contains(&lifetime_s);
    let skew_s = if rotates { i64::from(rotating_skew_s) } else { 0 };
    Validity { from_s: issued_at_s.saturating_sub(SKEW_S), until_s: expires_at_s.saturating_add(skew_s) }
}

impl From<Sg1> for Verified {
    fn from(token: Sg1) -> Self {
        let holder = match token.sealed {
            Some(person) => Holder::Sealed { cti: token.cti, person },
            None => Holder::Cti(token.kind, token.cti),
        };
        Self { holder, form: Form::Sg1, validity: token.validity }
    }
}

/// Verifies a token, prefix included.
///
/// # Errors
/// It can't be read, its key is unknown or revoked, its signature doesn't hold, or it isn't valid now.
pub fn sg1(text: &str, when: impl Into<When>, keys: &Keys) -> Result<Sg1, Refusal> {
    let bytes = decode(text)?;
    let opened = Opened::new(&bytes, keys)?;
    let holds = opened.key.public.verify_sig(opened.message(), opened.signature).is_ok();
    opened.token(holds, when.into(), keys)
}

/// Verifies tokens, each at its own time, their signatures together. One result a token, in order, the same as
/// [`sg1`]'s but for what `batch` says of it.
pub fn sg1_all<T: Into<When> + Copy>(tokens: &[(&str, T)], keys: &Keys) -> Vec<Result<Sg1, Refusal>> {
    let decoded: Vec<_> = tokens.iter().map(|(text, _)| decode(text)).collect();
    let opened: Vec<_> = decoded
        .iter()
        .map(|bytes| bytes.as_ref().map_err(|refusal| *refusal).and_then(|bytes| Opened::new(bytes, keys)))
        .collect();
    let claimed: Vec<_> = opened.iter().flatten().map(Opened::claimed).collect();
    let mut verdicts = batch::hold(&claimed).into_iter();
    opened
        .iter()
        .zip(tokens)
        .map(|(opened, (_, when))| match opened {
            Ok(opened) => opened.token(verdicts.next().unwrap_or_default(), (*when).into(), keys),
            Err(refusal) => Err(*refusal),
        })
        .collect()
}

/// A token read as far as its signature.
struct Opened<'a> {
    kid: Kid,
    key: &'a Sg1Key,
    payload: &'a [u8],
    signature: &'a [u8; 64],
    signed: Signed,
}

impl<'a> Opened<'a> {
    fn new(bytes: &'a [u8], keys: &'a Keys) -> Result<Self, Refusal> {
        let Envelope { protected: header, payload, signature } = envelope(bytes).ok_or(UNREADABLE)?;
        let kid = protected(header)?;
        let key = keys.sg1_key(kid).ok_or(UNKNOWN_KEY)?;
        if key.revoked {
            return Err(REVOKED_KEY);
        }
        // The text's bound is the room's.
        let signed = Signed::new(header, payload).ok_or(UNREADABLE)?;
        Ok(Self { kid, key, payload, signature, signed })
    }

    fn message(&self) -> &[u8] {
        self.signed.bytes.get(..self.signed.length).unwrap_or_default()
    }

    fn claimed(&self) -> Claimed<'_> {
        Claimed { key: self.key, message: self.message(), signature: self.signature }
    }

    /// The token, if its signature holds and all that it says does.
    fn token(&self, holds: bool, when: When, keys: &Keys) -> Result<Sg1, Refusal> {
        if !holds {
            return Err(Refusal::new(Outcome::BadSignature, "the SG1 token's signature does not verify"));
        }
        let (kid, key) = (self.kid, self.key);
        let claims = claims(self.payload).ok_or(CLAIMS)?;
        if claims.issuer != key.issuer
            || claims.epoch != i64::from(key.epoch)
            || !key.kinds.contains(&claims.kind)
        {
            return Err(Refusal::new(
                Outcome::UnknownKey,
                "the SG1 token's issuer, epoch or type is not one its key may sign for",
            ));
        }
        let token = Sg1 {
            kind: claims.kind,
            cti: claims.cti,
            sealed: claims.sealed,
            kid,
            issued_at_s: claims.issued_at_s,
            expires_at_s: claims.expires_at_s,
            validity: validity(claims.issued_at_s, claims.expires_at_s, keys.rotating_skew_s()),
        };
        token.validity.check(when)?;
        if keys.is_cti_revoked(&token.cti, token.issued_at_s) {
            return Err(Refusal::new(Outcome::Revoked, "the SG1 token has been revoked"));
        }
        Ok(token)
    }
}

/// What a token says of itself, with nothing of it checked: for explanations of a verdict.
pub(crate) struct Unverified {
    pub(crate) kid: Kid,
    pub(crate) cti: [u8; 16],
    pub(crate) expires_at_s: i64,
}

/// Reads a token, prefix included, without believing it; none for any other code.
pub(crate) fn unverified(text: &str) -> Option<Unverified> {
    let bytes = decode(text).ok()?;
    let envelope = envelope(&bytes)?;
    let kid = protected(envelope.protected).ok()?;
    let claims = claims(envelope.payload)?;
    Some(Unverified { kid, cti: claims.cti, expires_at_s: claims.expires_at_s })
}

const UNREADABLE: Refusal =
    Refusal::new(Outcome::Unrecognized, "an SG1 token must be base45 of a COSE_Sign1");
const CLAIMS: Refusal = Refusal::new(
    Outcome::Unrecognized,
    "the SG1 token's claims must be iss, exp, iat, cti and one private claim",
);
const UNKNOWN_KEY: Refusal = Refusal::new(Outcome::UnknownKey, "no key is known under the SG1 token's kid");
const REVOKED_KEY: Refusal = Refusal::new(Outcome::Revoked, "the SG1 token's key has been revoked");

fn decode(text: &str) -> Result<Vec<u8>, Refusal> {
    let body = text.strip_prefix(SG1_PREFIX).filter(|_| text.len() <= SG1_BYTES_MAX);
    body.and_then(unpack::base45).ok_or(UNREADABLE)
}

struct Envelope<'a> {
    protected: &'a [u8],
    payload: &'a [u8],
    signature: &'a [u8; 64],
}

fn envelope(bytes: &[u8]) -> Option<Envelope<'_>> {
    let mut reader = Reader::new(bytes);
    if reader.array()? != 4 {
        return None;
    }
    let protected = reader.bytes()?;
    // Nothing may hide in the header that no signature covers.
    if reader.map()? != 0 {
        return None;
    }
    let payload = reader.bytes()?;
    let signature = reader.bytes()?.try_into().ok()?;
    reader.end()?;
    Some(Envelope { protected, payload, signature })
}

/// The protected header: exactly the algorithm and the key id.
fn protected(header: &[u8]) -> Result<Kid, Refusal> {
    let mut reader = Reader::new(header);
    let read = |reader: &mut Reader<'_>| {
        let (mut algorithm, mut kid) = (None, None);
        if reader.map()? != 2 {
            return None;
        }
        for _ in 0..2 {
            match reader.integer()? {
                1 if algorithm.is_none() => algorithm = Some(reader.integer()?),
                4 if kid.is_none() => kid = Some(Kid::new(reader.bytes()?)?),
                _ => return None,
            }
        }
        reader.end()?;
        Some((algorithm?, kid?))
    };
    match read(&mut reader) {
        Some((ALG_EDDSA, kid)) => Ok(kid),
        Some(_) => Err(Refusal::new(Outcome::BadSignature, "an SG1 token must be signed with EdDSA")),
        None => Err(UNREADABLE),
    }
}

/// The signed bytes, `["Signature1", protected, h'', payload]`, rebuilt without an allocation.
struct Signed {
    bytes: [u8; SIGNED_BYTES_MAX],
    length: usize,
}

impl Signed {
    fn new(protected: &[u8], payload: &[u8]) -> Option<Self> {
        let mut signed = Self { bytes: [0; SIGNED_BYTES_MAX], length: 0 };
        signed.push(&SIGNED_HEAD)?;
        signed.push_bytes(protected)?;
        signed.push_bytes(&[])?;
        signed.push_bytes(payload)?;
        Some(signed)
    }

    fn push(&mut self, part: &[u8]) -> Option<()> {
        let end = self.length.checked_add(part.len())?;
        self.bytes.get_mut(self.length..end)?.copy_from_slice(part);
        self.length = end;
        Some(())
    }

    /// A CBOR byte string with the shortest head.
    fn push_bytes(&mut self, part: &[u8]) -> Option<()> {
        match u16::try_from(part.len()).ok()?.to_be_bytes() {
            [0, small @ 0..=23] => self.push(&[0x40 | small])?,
            [0, byte] => self.push(&[0x58, byte])?,
            [high, low] => self.push(&[0x59, high, low])?,
        }
        self.push(part)
    }
}

struct Claims<'a> {
    issuer: &'a str,
    expires_at_s: i64,
    issued_at_s: i64,
    cti: [u8; 16],
    kind: TokenKind,
    epoch: i64,
    sealed: Option<[u8; 16]>,
}

/// Exactly the five claims, in any order.
fn claims(payload: &[u8]) -> Option<Claims<'_>> {
    let mut reader = Reader::new(payload);
    if reader.map()? != 5 {
        return None;
    }
    let (mut issuer, mut expires, mut issued, mut cti, mut private) = (None, None, None, None, None);
    for _ in 0..5 {
        match reader.integer()? {
            1 if issuer.is_none() => issuer = Some(reader.text()?),
            4 if expires.is_none() => expires = Some(reader.integer()?),
            6 if issued.is_none() => issued = Some(reader.integer()?),
            7 if cti.is_none() => cti = Some(<[u8; 16]>::try_from(reader.bytes()?).ok()?),
            PRIVATE_CLAIM if private.is_none() => private = Some(private_claim(&mut reader)?),
            _ => return None,
        }
    }
    reader.end()?;
    let (kind, epoch, sealed) = private?;
    let (expires_at_s, issued_at_s) = (expires?, issued?);
    let claims = Claims { issuer: issuer?, expires_at_s, issued_at_s, cti: cti?, kind, epoch, sealed };
    (claims.issuer.len() <= ISSUER_BYTES_MAX && claims.issued_at_s >= 0).then_some(claims)
}

fn private_claim(reader: &mut Reader<'_>) -> Option<(TokenKind, i64, Option<[u8; 16]>)> {
    let members = reader.map().filter(|members| (2..=3).contains(members))?;
    let (mut kind, mut epoch, mut sealed) = (None, None, None);
    for _ in 0..members {
        match reader.text()? {
            "t" if kind.is_none() => kind = Some(TokenKind::from_code(reader.integer()?)?),
            "e" if epoch.is_none() => epoch = Some(reader.integer()?),
            "p" if sealed.is_none() => sealed = Some(reader.bytes()?.try_into().ok()?),
            _ => return None,
        }
    }
    let kind = kind?;
    // Only a person is ever sealed.
    (sealed.is_none() || kind == TokenKind::Person).then_some((kind, epoch?, sealed))
}
