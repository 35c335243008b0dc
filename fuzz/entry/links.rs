//! The feed of links.

use scangate::identity::feed::{self, Alias};

/// A line of the feed of links: refused by a field's name and no value, or a citizen's number and identifiers
/// in the one notation that pseudonyms are made from.
pub fn line(data: &[u8]) {
    let all_digits =
        |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let read = feed::line(data, |citizen, aliases| {
        assert!(citizen.is_none_or(|number| all_digits(number, 12)));
        assert!((1..=4).contains(&aliases.len()));
        for alias in aliases {
            match alias {
                Alias::Qid(qid) => assert!(all_digits(qid, 18)),
                Alias::Insurance(number) => assert!(all_digits(number, 10)),
                Alias::Certificate(uvci) => {
                    assert!((1..=feed::CERTIFICATE_CHARS_MAX).contains(&uvci.len()));
                    assert!(uvci.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_lowercase()));
                }
                Alias::Card(name) => assert!((8..=feed::CERTIFICATE_CHARS_MAX).contains(&name.len())),
                Alias::Cti(_) => {}
            }
        }
    });
    if let Err(bad) = read {
        assert!(["line", "citizen", "qid", "cti", "insurance", "certificate"].contains(&bad.field));
    }
}
