//! A line of the feed that tells which identifiers belong to which citizen.
//!
//! ```text
//! {"citizen":"001093029317","qid":"162979388586171100","cti":"<32 hex>","insurance":"<10 digits, or 2
//!  letters and 13 digits>","certificate":"<UVCI, or a SMART Health Card's https://issuer#rid>"}
//! ```
//! Any of the aliases may be missing, but not all of them; `"citizen":null` takes their links away. A line
//! that can't be read is told by the field and the rule, never by a value.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};

/// Bytes of a line. All fields at their longest take 290.
pub const LINE_BYTES_MAX: usize = 512;

/// Characters of a certificate's identifier without its prefix: as many as a scanned certificate may have.
pub const CERTIFICATE_CHARS_MAX: usize = 128;

/// What a SMART Health Card's name begins with.
const CARD_PREFIX: &str = "https://";

/// Characters of a cursor.
pub const CURSOR_CHARS_MAX: usize = 64;

/// Characters of a source's name.
pub const SOURCE_CHARS_MAX: usize = 32;

/// One identifier that is not the citizen's number, in the notation that pseudonyms are made from.
#[derive(Clone, PartialEq, Eq)]
pub enum Alias<'a> {
    /// PC-COVID's QID, eighteen digits.
    Qid(&'a str),
    /// The cti of an SG1 token of a person.
    Cti([u8; 16]),
    /// The last ten digits of a health-insurance code.
    Insurance(&'a str),
    /// A certificate's UVCI in upper case, without `URN:UVCI:`.
    Certificate(Cow<'a, str>),
    /// A SMART Health Card's issuer, `#` and its `rid`, as they stand: no UVCI begins as a URL does.
    Card(&'a str),
}

impl Alias<'_> {
    /// The field that it stands in.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Qid(_) => "qid",
            Self::Cti(_) => "cti",
            Self::Insurance(_) => "insurance",
            Self::Certificate(_) | Self::Card(_) => "certificate",
        }
    }
}

/// Shows the kind only: the value is a person's.
impl std::fmt::Debug for Alias<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Alias({}, ..)", self.field())
    }
}

/// Why a line is no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} {rule}")]
pub struct BadLine {
    /// The field, or `line`.
    pub field: &'static str,
    /// What it must be.
    pub rule: &'static str,
    /// The limit on its size, and its size, where that is what is wrong.
    pub size: Option<(u64, u64)>,
}

impl BadLine {
    pub(super) const fn new(field: &'static str, rule: &'static str) -> Self {
        Self { field, rule, size: None }
    }

    fn over(field: &'static str, rule: &'static str, limit: usize, size: usize) -> Self {
        let wide = |count| u64::try_from(count).unwrap_or(u64::MAX);
        Self { field, rule, size: Some((wide(limit), wide(size))) }
    }
}

/// The fields as they stand in the line. A misspelt one must not quietly link less than was meant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(borrow, default, deserialize_with = "given")]
    citizen: Citizen<'a>,
    #[serde(borrow, default)]
    qid: Option<Text<'a>>,
    #[serde(borrow, default)]
    cti: Option<Text<'a>>,
    #[serde(borrow, default)]
    insurance: Option<Text<'a>>,
    #[serde(borrow, default)]
    certificate: Option<Text<'a>>,
}

/// serde borrows a `Cow` field, but not one inside an `Option`.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Tells a null from a field that is missing.
#[derive(Default)]
enum Citizen<'a> {
    #[default]
    Missing,
    Null,
    Number(Text<'a>),
}

fn given<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Citizen<'a>, D::Error> {
    Ok(Option::deserialize(from)?.map_or(Citizen::Null, Citizen::Number))
}

/// Reads one line and hands its citizen (none: unlink) and its aliases, at most four, to `each`.
///
/// # Errors
/// The first thing wrong with it.
pub fn line<T>(bytes: &[u8], each: impl FnOnce(Option<&str>, &[Alias<'_>]) -> T) -> Result<T, BadLine> {
    const SHAPE: &str = "must be a JSON object of citizen and any of qid, cti, insurance and certificate, \
                         each a string";
    if bytes.len() > LINE_BYTES_MAX {
        let rule = "must be at most 512 bytes";
        return Err(BadLine::over("line", rule, LINE_BYTES_MAX, bytes.len()));
    }
    // serde would take an array for the fields in their order.
    let object = bytes.trim_ascii_start().starts_with(b"{");
    let fields: Option<Fields<'_>> = if object { serde_json::from_slice(bytes).ok() } else { None };
    let fields = fields.ok_or(BadLine::new("line", SHAPE))?;
    let citizen = match &fields.citizen {
        Citizen::Missing => {
            return Err(BadLine::new("citizen", "must be there, null where the links are to be taken away"));
        }
        Citizen::Null => None,
        Citizen::Number(Text(number)) => Some(digits("citizen", "must be 12 digits", number, 12)?),
    };
    let mut aliases = Vec::with_capacity(4);
    if let Some(Text(qid)) = &fields.qid {
        aliases.push(Alias::Qid(digits("qid", "must be 18 digits", qid, 18)?));
    }
    if let Some(Text(cti)) = &fields.cti {
        aliases.push(Alias::Cti(hexadecimal(cti)?));
    }
    if let Some(Text(code)) = &fields.insurance {
        aliases.push(Alias::Insurance(insurance(code)?));
    }
    if let Some(Text(uvci)) = &fields.certificate {
        let name = certificate(uvci)?;
        aliases.push(if uvci.starts_with(CARD_PREFIX) {
            Alias::Card(uvci)
        } else {
            Alias::Certificate(name)
        });
    }
    if aliases.is_empty() {
        return Err(BadLine::new("line", "must hold one of qid, cti, insurance and certificate"));
    }
    Ok(each(citizen, &aliases))
}

/// A cursor: up to 64 visible ASCII characters, of which only its source knows the meaning.
pub fn is_cursor(text: &str) -> bool {
    text.len() <= CURSOR_CHARS_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A source's name: 1 to 32 of lower-case letters, digits, `.`, `_` and `-`.
pub fn is_source(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    (1..=SOURCE_CHARS_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

fn digits<'a>(
    field: &'static str,
    rule: &'static str,
    text: &'a str,
    count: usize,
) -> Result<&'a str, BadLine> {
    if text.len() != count {
        return Err(BadLine::over(field, rule, count, text.len()));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) { Ok(text) } else { Err(BadLine::new(field, rule)) }
}

fn hexadecimal(text: &str) -> Result<[u8; 16], BadLine> {
    const RULE: &str = "must be 32 hexadecimal digits";
    if text.len() != 32 {
        return Err(BadLine::over("cti", RULE, 32, text.len()));
    }
    let well_formed = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let value = u128::from_str_radix(text, 16).ok().filter(|_| well_formed);
    value.map(u128::to_be_bytes).ok_or(BadLine::new("cti", RULE))
}

/// The last ten digits of a code of ten digits, or of two letters and thirteen digits.
fn insurance(code: &str) -> Result<&str, BadLine> {
    const RULE: &str = "must be 10 digits, or 2 letters and 13 digits";
    let number = match code.len() {
        10 => Some(code),
        15 => code
            .split_at_checked(2)
            .filter(|(class, _)| class.bytes().all(|byte| byte.is_ascii_alphabetic()))
            .filter(|(_, rest)| rest.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|_| code.get(5..)),
        length => return Err(BadLine::over("insurance", RULE, 15, length)),
    };
    let all_digits = |number: &&str| number.bytes().all(|byte| byte.is_ascii_digit());
    number.filter(all_digits).ok_or(BadLine::new("insurance", RULE))
}

/// As codes of that form are resolved: without `URN:UVCI:` in whatever case, in upper case.
fn certificate(uvci: &str) -> Result<Cow<'_, str>, BadLine> {
    const RULE: &str = "must be 1 to 128 visible ASCII characters";
    const PREFIX: &str = "URN:UVCI:";
    let bare = match uvci.split_at_checked(PREFIX.len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case(PREFIX) => rest,
        _ => uvci,
    };
    if !(1..=CERTIFICATE_CHARS_MAX).contains(&bare.len()) {
        return Err(BadLine::over("certificate", RULE, CERTIFICATE_CHARS_MAX, bare.len()));
    }
    if !bare.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(BadLine::new("certificate", RULE));
    }
    let is_upper = !bare.bytes().any(|byte| byte.is_ascii_lowercase());
    Ok(if is_upper { Cow::Borrowed(bare) } else { Cow::Owned(bare.to_ascii_uppercase()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Result<(Option<String>, Vec<String>), BadLine> {
        line(text.as_bytes(), |citizen, aliases| {
            let shown = aliases.iter().map(|alias| match alias {
                Alias::Cti(cti) => format!("cti {:032x}", u128::from_be_bytes(*cti)),
                Alias::Qid(text) | Alias::Insurance(text) => format!("{} {text}", alias.field()),
                Alias::Certificate(text) => format!("certificate {text}"),
                Alias::Card(text) => format!("card {text}"),
            });
            (citizen.map(str::to_owned), shown.collect())
        })
    }

    #[test]
    fn a_line_may_hold_any_of_the_aliases() {
        let whole = r#"{"citizen":"001093029317","qid":"162979388586171100","cti":"00112233445566778899AABBCCDDEEFF",
            "insurance":"DN4010109063006","certificate":"urn:uvci:01:vn:abc#x"}"#;
        let aliases = [
            "qid 162979388586171100",
            "cti 00112233445566778899aabbccddeeff",
            "insurance 0109063006",
            "certificate 01:VN:ABC#X",
        ];
        assert_eq!(fields(whole), Ok((Some("001093029317".to_owned()), aliases.map(str::to_owned).to_vec())));
        let unlink = r#"{"citizen":null,"insurance":"0109063006"}"#;
        assert_eq!(fields(unlink), Ok((None, vec!["insurance 0109063006".to_owned()])));
        let card = r#"{"citizen":null,"certificate":"https://example.org/issuer#MKyCxh7p6uQ"}"#;
        assert_eq!(fields(card), Ok((None, vec!["card https://example.org/issuer#MKyCxh7p6uQ".to_owned()])));
    }

    #[test]
    fn a_bad_line_is_told_by_field_and_rule_and_never_by_its_value() {
        for (text, field) in [
            ("", "line"),
            ("[]", "line"),
            (r#"["001093029317","162979388586171100"]"#, "line"),
            (r#"{"citizen":"001093029317"}"#, "line"),
            (r#"{"citizen":"001093029317","qid":7}"#, "line"),
            (r#"{"citizen":"001093029317","quid":"162979388586171100"}"#, "line"),
            (r#"{"citizen":"001093029317","qid":"162979388586171100","qid":"162979388586171100"}"#, "line"),
            (r#"{"qid":"162979388586171100"}"#, "citizen"),
            (r#"{"citizen":"00109302931","qid":"162979388586171100"}"#, "citizen"),
            (r#"{"citizen":"00109302931x","qid":"162979388586171100"}"#, "citizen"),
            (r#"{"citizen":"001093029317","qid":"16297938858617110"}"#, "qid"),
            (r#"{"citizen":"001093029317","cti":"+0112233445566778899aabbccddeeff"}"#, "cti"),
            (r#"{"citizen":"001093029317","insurance":"4N4010109063006"}"#, "insurance"),
            (r#"{"citizen":"001093029317","insurance":"DN401010906300x"}"#, "insurance"),
            (r#"{"citizen":"001093029317","insurance":"DN40101090630"}"#, "insurance"),
            (r#"{"citizen":"001093029317","certificate":"a b"}"#, "certificate"),
            (r#"{"citizen":"001093029317","certificate":""}"#, "certificate"),
        ] {
            let error = fields(text).expect_err(text);
            assert_eq!(error.field, field, "{text}");
            for value in ["001093", "1629793", "01122334", "401010"] {
                assert!(!error.to_string().contains(value), "{error}");
            }
        }
        let long = format!(r#"{{"citizen":"001093029317","qid":"{}"}}"#, "1".repeat(512));
        let size = fields(&long).expect_err("too long").size;
        assert_eq!(size, Some((512, u64::try_from(long.len()).unwrap())));
    }

    #[test]
    fn cursors_and_sources_are_short_and_visible() {
        assert!(is_cursor("") && is_cursor(&"~".repeat(64)));
        assert!(!is_cursor(&"~".repeat(65)) && !is_cursor("a b") && !is_cursor("é"));
        assert!(is_source("vneid.prod-1") && is_source(&"a".repeat(32)));
        assert!(!is_source("") && !is_source("VNeID") && !is_source(&"a".repeat(33)));
    }
}
