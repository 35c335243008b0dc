//! What a certificate's one entry says, for whoever keeps it as a fact. Read only of codes that were verified.

use super::cbor::{Label, Reader};
use super::claims::{CERTIFICATE_V1, CLAIM_CERTIFICATES, claims};
use super::{COSE_BYTES_MAX, EntryKind, cose, inflated, packed};

/// An entry's members by the names of the schema (1.3), as they stand: texts, and numbers where the schema has numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateEntry {
    /// What it certifies.
    pub kind: EntryKind,
    /// When the certificate was issued, in seconds since 1970.
    pub issued_at_s: i64,
    texts: Vec<(&'static str, String)>,
    numbers: Vec<(&'static str, i64)>,
}

/// Members that hold texts: disease; product and day of a dose; type, result and time of a test; days of a recovery.
const TEXTS: [&str; 9] = ["tg", "mp", "dt", "tt", "tr", "sc", "fr", "df", "du"];

/// Members that hold numbers: which dose, and of how many.
const NUMBERS: [&str; 2] = ["dn", "sd"];

impl CertificateEntry {
    /// A member that holds a text.
    pub fn text(&self, member: &str) -> Option<&str> {
        self.texts.iter().find(|(name, _)| *name == member).map(|(_, text)| text.as_str())
    }

    /// A member that holds a number.
    pub fn number(&self, member: &str) -> Option<i64> {
        self.numbers.iter().find(|(name, _)| *name == member).map(|(_, number)| *number)
    }
}

/// The entry of a certificate, prefix included. None for what isn't one; whether it holds is asked before, of
/// [`super::hc1()`].
pub fn entry(text: &str) -> Option<CertificateEntry> {
    let mut buffer = [0; COSE_BYTES_MAX];
    let message = inflated(&packed(text).ok()?, &mut buffer).ok()?;
    let payload = cose::envelope(message)?.payload;
    let claims = claims(payload)?;
    let mut entry = CertificateEntry {
        kind: claims.kind,
        issued_at_s: claims.issued_at_s,
        texts: Vec::new(),
        numbers: Vec::new(),
    };
    let mut reader = Reader::new(payload);
    let is_certificate =
        |number| move |label: &Label| matches!(label, Label::Number(label) if *label == number);
    descend(&mut reader, Reader::label, is_certificate(CLAIM_CERTIFICATES))?;
    descend(&mut reader, Reader::label, is_certificate(CERTIFICATE_V1))?;
    descend(&mut reader, Reader::text, |member: &&str| *member == entry.kind.member())?;
    let mut entries = reader.array()?;
    reader.another(&mut entries)?.then_some(())?;
    let mut pairs = reader.map()?;
    while reader.another(&mut pairs)? {
        let member = reader.text()?;
        if let Some(name) = TEXTS.iter().find(|name| **name == member) {
            while reader.tag().is_some() {}
            entry.texts.push((name, reader.text()?.to_owned()));
        } else if let Some(name) = NUMBERS.iter().find(|name| **name == member) {
            // Some issuers write whole numbers as floating-point ones, as with times.
            entry.numbers.push((name, reader.seconds()?));
        } else {
            reader.skip()?;
        }
    }
    Some(entry)
}

/// Opens the map that begins here, and passes over its pairs up to the value whose key is wanted.
fn descend<'a, K>(
    reader: &mut Reader<'a>,
    key: impl Fn(&mut Reader<'a>) -> Option<K>,
    wanted: impl Fn(&K) -> bool,
) -> Option<()> {
    let mut pairs = reader.map()?;
    while reader.another(&mut pairs)? {
        if wanted(&key(reader)?) {
            return Some(());
        }
        reader.skip()?;
    }
    None
}
