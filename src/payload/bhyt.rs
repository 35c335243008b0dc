//! Health-insurance card (BHYT): `code|name|born|sex|address|facility|from|to|issued|…|check$`.
//!
//! - `code`: the ten digits of the social-insurance number (cards since April 2021, Decision
//!   1666/QĐ-BHXH), or before them two letters for the insured's group, a digit 1 to 5 for the share
//!   covered and two for the province (Decision 1351/QĐ-BHXH).
//! - `name` and `address`: UTF-8 in hexadecimal; an address that the card leaves out is `-`.
//! - `born`: `dd/mm/yyyy`, or the year where only that is known. `sex`: 1 man, 2 woman.
//! - `from`, `to`, `issued`: `dd/mm/yyyy`, or `-`; a card without an end has `-` for `to`.
//!
//! What follows differs from one print to the next (guardian, area, five years' date, issuing office) and
//! is not read, except for the `$` that ends it: without it the code was read in part. Nothing signs the
//! card: the check field's rule is the insurer's own. Only the social-insurance number survives, which old
//! and new cards of one person share, and only until it becomes a pseudonym.

use super::text::{Date, fields, is_digits, number};
use super::{Claim, Format, PersonForm, PersonRef};
use crate::scan::{Form, Outcome, Refusal};

/// Digits in a social-insurance number.
const NUMBER_DIGITS: usize = 10;

/// Digits behind the two letters of a code of fifteen characters.
const LETTERED_DIGITS: usize = 13;

/// The fewest fields that a card has: the eight that are read, and the last.
const FIELDS_MIN: usize = 9;

pub(super) const FORMAT: Format = Format { name: Form::Bhyt.name(), sniff, parse };

/// Several fields, the first of ten digits, or of two letters and thirteen digits.
fn sniff(text: &str) -> bool {
    let ([code], count) = fields::<1>(text);
    count >= 3 && (is_digits(code, NUMBER_DIGITS) || is_lettered(code))
}

fn parse(text: &str) -> Result<Claim<'_>, Refusal> {
    let (fields, count) = fields::<9>(text);
    let [code, name, born, sex, address, _, from, to, issued] = fields.map(|field| field.trim_matches(' '));
    if count < FIELDS_MIN || !text.ends_with('$') {
        return Err(unrecognized("a health-insurance card has nine or more fields and ends in $"));
    }
    if !is_hex(name) {
        return Err(unrecognized("a health-insurance card's second field must be a name in hexadecimal"));
    }
    if !matches!(sex, "1" | "2") {
        return Err(unrecognized("a health-insurance card's fourth field must be 1 or 2"));
    }
    if !is_left_out(address) && !is_hex(address) {
        return Err(unrecognized("a health-insurance card's fifth field must be an address in hexadecimal"));
    }
    // With nine fields the last is the check field.
    let issued = if count > FIELDS_MIN { issued } else { "-" };
    check_dates(born, from, to, issued)?;
    let key = PersonRef::Insurance(social_insurance_number(code)?);
    Ok(Claim::Person(PersonForm { form: Form::Bhyt, key }))
}

fn is_lettered(code: &str) -> bool {
    code.split_at_checked(2).is_some_and(|(letters, digits)| {
        letters.bytes().all(|byte| byte.is_ascii_alphabetic()) && is_digits(digits, LETTERED_DIGITS)
    })
}

/// The last ten digits; the share covered ahead of them is 1 to 5.
fn social_insurance_number(code: &str) -> Result<&str, Refusal> {
    let (head, number) =
        code.split_at_checked(code.len().saturating_sub(NUMBER_DIGITS)).unwrap_or(("", code));
    match head.as_bytes() {
        [] | [_, _, b'1'..=b'5', _, _] => Ok(number),
        _ => Err(unrecognized("a health-insurance card's code must have a digit 1 to 5 after its letters")),
    }
}

fn check_dates(born: &str, from: &str, to: &str, issued: &str) -> Result<(), Refusal> {
    let Some(born) = birth(born)? else {
        return Err(unrecognized("a health-insurance card's third field must be dd/mm/yyyy or yyyy"));
    };
    let from = day(from, "a health-insurance card's seventh field must be dd/mm/yyyy or -")?;
    let to = day(to, "a health-insurance card's eighth field must be dd/mm/yyyy or -")?;
    let issued = day(issued, "a health-insurance card's ninth field must be dd/mm/yyyy or -")?;
    if from.zip(to).is_some_and(|(from, to)| to < from) {
        return Err(inconsistent("the card ends before it begins"));
    }
    // A newborn's card begins on its birthday.
    if from.is_some_and(|from| from < born) {
        return Err(inconsistent("the card begins before its holder was born"));
    }
    if issued.is_some_and(|issued| issued < born) {
        return Err(inconsistent("the card was issued before its holder was born"));
    }
    Ok(())
}

/// The day of birth, or the first day that it can be where only the year is known.
fn birth(text: &str) -> Result<Option<Date>, Refusal> {
    if text.len() == 4 {
        let year = number(text).filter(|year| *year > 0);
        return Ok(year.map(|year| Date { year, month: 1, day: 1 }));
    }
    day(text, "a health-insurance card's third field must be dd/mm/yyyy or yyyy")
}

/// A date that the card may leave out. `malformed` says what the field must be.
fn day(text: &str, malformed: &'static str) -> Result<Option<Date>, Refusal> {
    if is_left_out(text) {
        return Ok(None);
    }
    let shaped = text.len() == 10
        && text.bytes().enumerate().all(|(index, byte)| match index {
            2 | 5 => byte == b'/',
            _ => byte.is_ascii_digit(),
        });
    if !shaped {
        return Err(unrecognized(malformed));
    }
    match Date::slashed(text) {
        Some(day) => Ok(Some(day)),
        None => Err(inconsistent("a date on the card is not a day of the calendar")),
    }
}

fn is_left_out(text: &str) -> bool {
    matches!(text, "" | "-")
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

const fn unrecognized(detail: &'static str) -> Refusal {
    Refusal::new(Outcome::Unrecognized, detail)
}

const fn inconsistent(detail: &'static str) -> Refusal {
    Refusal::new(Outcome::InconsistentIdentity, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A card of 2021: Nguyen Van A, no address, with the fields behind the dates and `$` by itself.
    const NEW: &str = "0123456789|4e677579656e2056616e2041|01/01/1990|1|-|01 - 001|01/04/2021|-|15/03/2021|\
                       01010123456789|-|4| 01/10/2026|0123456789abcdef-1202|4|48e1bb93|$";

    /// The same person's card of before, with an address, and `$` behind the check field.
    const OLD: &str = "DN4010123456789|4E677579656E2056616E2041|1990|1|48c3a0204ee1bb9969|01 - 001|\
                       01/01/2020|31/12/2020|20/12/2019|01010123456789|-|4|01/10/2026|0123456789abcdef-7102$";

    fn outcome(text: &str) -> Option<Outcome> {
        parse(text).err().map(|refusal| refusal.outcome)
    }

    #[test]
    fn old_and_new_cards_name_one_person_by_the_last_ten_digits() {
        let expected =
            Ok(Claim::Person(PersonForm { form: Form::Bhyt, key: PersonRef::Insurance("0123456789") }));
        for text in [NEW, OLD] {
            assert!(sniff(text), "{text}");
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn prints_with_fewer_fields_are_read() {
        for tail in ["|x$", "|$", "|15/03/2021|x$", "|-|$", "||||$"] {
            let text = format!("0123456789|4e|1990|2||01-001|01/04/2021|31/03/2022{tail}");
            assert_eq!(outcome(&text), None, "{text}");
        }
    }

    #[test]
    fn shape() {
        for text in [
            "0123456789|4e",
            "012345678|4e|1990|1",
            "01234567890|4e|1990|1",
            "D14010123456789|4e|1990|1",
            "DN401012345678|4e|1990|1",
            "DN40101234567890|4e|1990|1",
            "ĐN4010123456789|4e|1990|1",
        ] {
            assert!(!sniff(text), "{text}");
        }
    }

    #[test]
    fn what_is_not_laid_out_like_a_card_is_unrecognized() {
        for (from, to) in [
            ("|$", ""),
            ("|$", "|"),
            ("|4e677579656e2056616e2041|", "|Nguyen Van A|"),
            ("|4e677579656e2056616e2041|", "|4e677579656e2056616e204|"),
            ("|4e677579656e2056616e2041|", "||"),
            ("|01/01/1990|", "|01011990|"),
            ("|01/01/1990|", "|01-01-1990|"),
            ("|01/01/1990|", "|0000|"),
            ("|01/01/1990|", "|199x|"),
            ("|01/01/1990|", "|-|"),
            ("|01/01/1990|", "|+1/01/1990|"),
            ("|1|-|", "|0|-|"),
            ("|1|-|", "|3|-|"),
            ("|1|-|", "||-|"),
            ("|1|-|", "|1|Hà Nội|"),
            ("|01/04/2021|", "|2021-04-01|"),
            ("|15/03/2021|", "|15/03/21|"),
            ("0123456789|", "DN0010123456789|"),
            ("0123456789|", "DN6010123456789|"),
        ] {
            let text = NEW.replacen(from, to, 1);
            assert_ne!(text, NEW, "{from}");
            assert!(sniff(&text), "{text}");
            assert_eq!(outcome(&text), Some(Outcome::Unrecognized), "{text}");
        }
        assert_eq!(outcome("0123456789|4e|1990|1|-|01-001|01/04/2021|$"), Some(Outcome::Unrecognized));
    }

    #[test]
    fn dates_that_cannot_be_are_inconsistent() {
        for (from, to) in [
            ("|01/01/1990|", "|31/02/1990|"),
            ("|01/04/2021|", "|31/04/2021|"),
            ("|15/03/2021|", "|15/13/2021|"),
            ("|01/04/2021|-|", "|01/04/2021|31/03/2021|"),
            ("|01/01/1990|", "|02/04/2021|"),
            ("|01/01/1990|", "|16/03/2021|"),
            ("|01/01/1990|", "|2022|"),
        ] {
            let text = NEW.replacen(from, to, 1);
            assert_ne!(text, NEW, "{from}");
            assert_eq!(outcome(&text), Some(Outcome::InconsistentIdentity), "{text}");
        }
        let newborn = NEW.replace("01/01/1990", "15/03/2021").replace("01/04/2021", "15/03/2021");
        assert_eq!(outcome(&newborn), None);
    }
}
