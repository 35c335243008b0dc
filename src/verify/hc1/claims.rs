//! The claims, once their signature held: whom the one entry names, and for how long.

use super::EntryKind;
use super::cbor::{Label, Reader};

const CLAIM_ISSUER: i64 = 1;
const CLAIM_EXPIRES: i64 = 4;
const CLAIM_ISSUED: i64 = 6;
pub(super) const CLAIM_CERTIFICATES: i64 = -260;

/// The member of [`CLAIM_CERTIFICATES`] that holds the certificate.
pub(super) const CERTIFICATE_V1: i64 = 1;

/// The longest UVCI, in bytes. The schema allows 80 and some issuers add a prefix of 9.
const UVCI_BYTES_MAX: usize = 128;

/// What a certificate says.
pub(super) struct Claims<'a> {
    /// Who issued it: the claim's country, or else the entry's.
    pub(super) country: Option<&'a str>,
    pub(super) expires_at_s: i64,
    pub(super) issued_at_s: i64,
    pub(super) kind: EntryKind,
    /// The entry's `ci`, as it stands.
    pub(super) uvci: &'a str,
}

struct Entry<'a> {
    kind: EntryKind,
    uvci: &'a str,
    country: Option<&'a str>,
}

pub(super) fn claims(payload: &[u8]) -> Option<Claims<'_>> {
    let mut reader = Reader::new(payload);
    let (mut issuer, mut expires, mut issued, mut entry) = (None, None, None, None);
    let mut pairs = reader.map()?;
    while reader.another(&mut pairs)? {
        match reader.label()? {
            Label::Number(CLAIM_ISSUER) if issuer.is_none() => issuer = Some(reader.text()?),
            Label::Number(CLAIM_EXPIRES) if expires.is_none() => expires = Some(reader.seconds()?),
            Label::Number(CLAIM_ISSUED) if issued.is_none() => issued = Some(reader.seconds()?),
            Label::Number(CLAIM_CERTIFICATES) if entry.is_none() => entry = Some(certificates(&mut reader)?),
            Label::Number(CLAIM_ISSUER | CLAIM_EXPIRES | CLAIM_ISSUED | CLAIM_CERTIFICATES) => return None,
            _ => reader.skip()?,
        }
    }
    reader.end()?;
    let entry = entry?;
    Some(Claims {
        country: issuer.or(entry.country),
        expires_at_s: expires?,
        issued_at_s: issued?,
        kind: entry.kind,
        uvci: entry.uvci,
    })
}

fn certificates<'a>(reader: &mut Reader<'a>) -> Option<Entry<'a>> {
    let mut entry = None;
    let mut pairs = reader.map()?;
    while reader.another(&mut pairs)? {
        match reader.label()? {
            Label::Number(CERTIFICATE_V1) if entry.is_none() => entry = Some(certificate(reader)?),
            Label::Number(CERTIFICATE_V1) => return None,
            _ => reader.skip()?,
        }
    }
    entry
}

fn certificate<'a>(reader: &mut Reader<'a>) -> Option<Entry<'a>> {
    let mut entry = None;
    let mut pairs = reader.map()?;
    while reader.another(&mut pairs)? {
        let member = reader.text()?;
        match EntryKind::ALL.into_iter().find(|kind| kind.member() == member) {
            // Some issuers write the ones that are not there as null.
            Some(_) if reader.null() => {}
            Some(kind) if entry.is_none() => entry = Some(only_entry(reader, kind)?),
            Some(_) => return None,
            None => reader.skip()?,
        }
    }
    entry
}

fn only_entry<'a>(reader: &mut Reader<'a>, kind: EntryKind) -> Option<Entry<'a>> {
    let mut entries = reader.array()?;
    let entry = reader.another(&mut entries)?.then(|| one_entry(reader, kind))??;
    if reader.another(&mut entries)? { None } else { Some(entry) }
}

fn one_entry<'a>(reader: &mut Reader<'a>, kind: EntryKind) -> Option<Entry<'a>> {
    let (mut uvci, mut country) = (None, None);
    let mut pairs = reader.map()?;
    while reader.another(&mut pairs)? {
        match reader.text()? {
            "ci" if uvci.is_none() => uvci = Some(reader.text()?),
            "co" if country.is_none() => country = Some(reader.text()?),
            "ci" | "co" => return None,
            _ => reader.skip()?,
        }
    }
    let uvci = uvci.filter(|uvci| (1..=UVCI_BYTES_MAX).contains(&uvci.len()))?;
    Some(Entry { kind, uvci, country })
}
