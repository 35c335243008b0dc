//! The envelope: a COSE_Sign1, tagged or not, and what of it is signed.

use aws_lc_rs::digest::{self, Digest};

use super::cbor::{Label, Reader};

const TAG_SIGN1: u64 = 18;
const TAG_CWT: u64 = 61;

const HEADER_ALGORITHM: i64 = 1;
const HEADER_CRITICAL: i64 = 2;
const HEADER_KID: i64 = 4;

/// What comes before the protected header in the bytes that are signed: an array of four, `Signature1`.
const SIGNED_HEAD: [u8; 12] = *b"\x84\x6aSignature1";

/// The algorithms that a certificate may be signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::verify) enum Algorithm {
    /// ECDSA with SHA-256.
    Es256,
    /// RSASSA-PSS with SHA-256.
    Ps256,
}

impl Algorithm {
    const fn from_number(number: i64) -> Option<Self> {
        match number {
            -7 => Some(Self::Es256),
            -37 => Some(Self::Ps256),
            _ => None,
        }
    }
}

/// The parts of a message.
pub(super) struct Envelope<'a> {
    /// None if it is another than the known ones.
    pub(super) algorithm: Option<Algorithm>,
    pub(super) kid: Option<&'a [u8]>,
    pub(super) payload: &'a [u8],
    pub(super) signature: &'a [u8],
    protected: &'a [u8],
}

impl Envelope<'_> {
    /// The hash of the signed bytes, `["Signature1", protected, h'', payload]`, which are never put together.
    pub(super) fn signed(&self) -> Digest {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&SIGNED_HEAD);
        update_bytes(&mut context, self.protected);
        update_bytes(&mut context, &[]);
        update_bytes(&mut context, self.payload);
        context.finish()
    }
}

/// Adds a CBOR byte string with the shortest head, which is how what is signed is encoded whatever the
/// message itself looks like.
fn update_bytes(context: &mut digest::Context, part: &[u8]) {
    // A message has at most 8 KiB, so that no length is lost.
    match u16::try_from(part.len()).unwrap_or_default().to_be_bytes() {
        [0, small @ 0..=23] => context.update(&[0x40 | small]),
        [0, byte] => context.update(&[0x58, byte]),
        [high, low] => context.update(&[0x59, high, low]),
    }
    context.update(part);
}

pub(super) fn envelope(message: &[u8]) -> Option<Envelope<'_>> {
    let mut reader = Reader::new(message);
    let mut tag = reader.tag();
    if tag == Some(TAG_CWT) {
        tag = reader.tag();
    }
    if tag.is_some_and(|tag| tag != TAG_SIGN1) {
        return None;
    }
    let mut parts = reader.array()?;
    let mut next = |reader: &mut Reader<'_>| reader.another(&mut parts);
    let protected = next(&mut reader)?.then(|| reader.bytes())??;
    let unprotected = next(&mut reader)?.then(|| header(&mut reader, Others::Refused))??;
    let payload = next(&mut reader)?.then(|| reader.bytes())??;
    let signature = next(&mut reader)?.then(|| reader.bytes())??;
    if next(&mut reader)? {
        return None;
    }
    reader.end()?;
    let inside = protected_header(protected)?;
    Some(Envelope {
        algorithm: inside.algorithm.or(unprotected.algorithm).and_then(Algorithm::from_number),
        kid: inside.kid.or(unprotected.kid),
        payload,
        signature,
        protected,
    })
}

/// A header's members that matter.
#[derive(Default)]
struct Header<'a> {
    algorithm: Option<i64>,
    kid: Option<&'a [u8]>,
}

/// An empty one may be written as no bytes at all (RFC 9052 §3).
fn protected_header(bytes: &[u8]) -> Option<Header<'_>> {
    if bytes.is_empty() {
        return Some(Header::default());
    }
    let mut reader = Reader::new(bytes);
    let header = header(&mut reader, Others::PassedOver)?;
    reader.end()?;
    Some(header)
}

/// What becomes of members that don't matter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    /// What is signed may say more.
    PassedOver,
    /// Nothing may hide in the header that no signature covers.
    Refused,
}

fn header<'a>(reader: &mut Reader<'a>, others: Others) -> Option<Header<'a>> {
    let mut header = Header::default();
    let mut pairs = reader.map()?;
    while reader.another(&mut pairs)? {
        match reader.label()? {
            Label::Number(HEADER_ALGORITHM) if header.algorithm.is_none() => {
                header.algorithm = Some(reader.integer()?);
            }
            Label::Number(HEADER_KID) if header.kid.is_none() => header.kid = Some(reader.bytes()?),
            // No second of a kind, and nothing that asks to be understood.
            Label::Number(HEADER_ALGORITHM | HEADER_KID | HEADER_CRITICAL) => return None,
            _ if others == Others::Refused => return None,
            _ => reader.skip()?,
        }
    }
    Some(header)
}
