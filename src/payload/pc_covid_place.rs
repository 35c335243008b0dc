//! PC-COVID place poster: a plain URL on one of two hosts, unsigned. Everyone prints the same poster a
//! little differently, so scheme and host are compared without case, and the query, the fragment and
//! trailing slashes are dropped; what is left of the path is the place's slug, its case kept.

use super::{Claim, Format, PlaceForm, PlaceRef};
use crate::scan::{Form, Outcome, Refusal};

/// Hosts whose URLs are place posters.
const HOSTS: [&str; 2] = ["qr.pccovid.gov.vn", "qr.tokhaiyte.vn"];

const SCHEME: &str = "https://";

/// The longest slug, in bytes.
const SLUG_BYTES_MAX: usize = 128;

pub(super) const FORMAT: Format = Format { name: Form::PcCovidPlace.name(), sniff, parse };

fn sniff(text: &str) -> bool {
    split(text).is_some()
}

fn parse(text: &str) -> Result<Claim<'_>, Refusal> {
    match reference(text) {
        Some(reference) => Ok(Claim::Place(PlaceForm { form: Form::PcCovidPlace, reference })),
        None => Err(Refusal::new(
            Outcome::Unrecognized,
            "a PC-COVID place poster names its place in a path of 1 to 128 unreserved characters",
        )),
    }
}

/// The canonical reference behind a poster's URL.
fn reference(text: &str) -> Option<PlaceRef<'_>> {
    let (host, path) = split(text)?;
    let slug = slug(path)?;
    Some(PlaceRef::Url { host, slug })
}

/// The known host and everything after it; the host must end there.
fn split(text: &str) -> Option<(&'static str, &str)> {
    let (scheme, rest) = text.split_at_checked(SCHEME.len())?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return None;
    }
    HOSTS.into_iter().find_map(|host| {
        let (start, path) = rest.split_at_checked(host.len())?;
        let ends = path.is_empty() || path.starts_with(['/', '?', '#']);
        (ends && start.eq_ignore_ascii_case(host)).then_some((host, path))
    })
}

fn slug(path: &str) -> Option<&str> {
    let end = memchr::memchr2(b'?', b'#', path.as_bytes()).unwrap_or(path.len());
    let slug = path.get(..end)?.trim_matches('/');
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%' | b'/');
    ((1..=SLUG_BYTES_MAX).contains(&slug.len()) && slug.bytes().all(plain)).then_some(slug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printings_of_one_poster_are_one_place() {
        let expected = Some(PlaceRef::Url { host: "qr.pccovid.gov.vn", slug: "Ab3x-9" });
        for text in [
            "https://qr.pccovid.gov.vn/Ab3x-9",
            "https://qr.pccovid.gov.vn/Ab3x-9/",
            "HTTPS://QR.PCCOVID.GOV.VN/Ab3x-9",
            "https://qr.pccovid.gov.vn/Ab3x-9?utm=poster",
            "https://qr.pccovid.gov.vn/Ab3x-9/?a#b",
            "https://qr.pccovid.gov.vn/Ab3x-9#top",
        ] {
            assert_eq!(reference(text), expected, "{text}");
        }
        assert_ne!(reference("https://qr.pccovid.gov.vn/ab3x-9"), expected);
        assert_ne!(reference("https://qr.tokhaiyte.vn/Ab3x-9"), expected);
    }

    #[test]
    fn other_hosts_are_not_posters() {
        for text in [
            "https://qr.pccovid.gov.vn.example.org/a",
            "https://qr.pccovid.gov.vn@example.org/a",
            "https://qr.pccovid.gov.vn:8443/a",
            "https://pccovid.gov.vn/a",
            "http://qr.pccovid.gov.vn/a",
        ] {
            assert!(!sniff(text), "{text}");
        }
    }

    #[test]
    fn a_poster_without_a_slug_is_unrecognized() {
        let long = format!("https://qr.tokhaiyte.vn/{}", "a".repeat(SLUG_BYTES_MAX + 1));
        for text in [
            "https://qr.tokhaiyte.vn",
            "https://qr.tokhaiyte.vn/",
            "https://qr.tokhaiyte.vn/?id=1",
            "https://qr.tokhaiyte.vn/a b",
            "https://qr.tokhaiyte.vn/ă",
            long.as_str(),
        ] {
            assert!(sniff(text), "{text}");
            assert_eq!(parse(text).map_err(|refusal| refusal.outcome), Err(Outcome::Unrecognized), "{text}");
        }
    }
}
