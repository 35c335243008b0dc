//! Citizen card: `number|old CMND|name|ddmmyyyy|Nam or Nữ|address|issued ddmmyyyy`, and since July 2024
//! more fields behind those, which are not read. The number says the century and sex (its fourth digit)
//! and the year of birth (its fifth and sixth); a card that contradicts itself is refused. Only the
//! number survives, and only until it becomes a pseudonym.

use super::text::{Date, fields, is_digits, number};
use super::{Claim, Format, PersonForm, PersonRef};
use crate::scan::{Form, Outcome, Refusal};

/// Digits in a citizen number.
const NUMBER_DIGITS: usize = 12;

pub(super) const FORMAT: Format = Format { name: Form::Cccd.name(), sniff, parse };

fn sniff(text: &str) -> bool {
    let ([citizen, ..], count) = fields::<7>(text);
    count >= 7 && is_digits(citizen, NUMBER_DIGITS)
}

fn parse(text: &str) -> Result<Claim<'_>, Refusal> {
    let ([citizen, _, _, born, sex, _, issued], _) = fields::<7>(text);
    let Some(sex) = Sex::read(sex) else {
        return Err(Refusal::new(Outcome::Unrecognized, "a citizen card's fifth field must be Nam or Nữ"));
    };
    if !is_digits(born, 8) {
        return Err(Refusal::new(Outcome::Unrecognized, "a citizen card's fourth field must be ddmmyyyy"));
    }
    if !is_digits(issued, 8) {
        return Err(Refusal::new(Outcome::Unrecognized, "a citizen card's seventh field must be ddmmyyyy"));
    }
    let Some(born) = Date::ddmmyyyy(born) else {
        return Err(inconsistent("the birth date on the card is not a day of the calendar"));
    };
    let Some(issued) = Date::ddmmyyyy(issued) else {
        return Err(inconsistent("the issue date on the card is not a day of the calendar"));
    };
    if issued < born {
        return Err(inconsistent("the card was issued before its holder was born"));
    }
    check_number(citizen, born, sex)?;
    Ok(Claim::Person(PersonForm { form: Form::Cccd, key: PersonRef::Citizen(citizen) }))
}

/// The number's digit G is 2 × (century − 19) + (0 for a man, 1 for a woman); YY is the year of birth.
fn check_number(citizen: &str, born: Date, sex: Sex) -> Result<(), Refusal> {
    let (Some(g), Some(yy)) = (citizen.get(3..4).and_then(number), citizen.get(4..6).and_then(number)) else {
        return Err(inconsistent("the citizen number is not twelve digits"));
    };
    if (g % 2 == 0) != (sex == Sex::Man) {
        return Err(inconsistent("the citizen number's fourth digit contradicts the sex on the card"));
    }
    if 1900 + g / 2 * 100 + yy != born.year {
        return Err(inconsistent("the citizen number contradicts the birth year on the card"));
    }
    Ok(())
}

const fn inconsistent(detail: &'static str) -> Refusal {
    Refusal::new(Outcome::InconsistentIdentity, detail)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sex {
    Man,
    Woman,
}

impl Sex {
    /// `Nam` or `Nữ`, in any case and in any canonically equivalent spelling of `ữ`: scanners send it
    /// composed, decomposed and half-composed.
    fn read(text: &str) -> Option<Self> {
        if text.eq_ignore_ascii_case("nam") {
            return Some(Self::Man);
        }
        let (mut letters, mut horns, mut tildes) = (0_u8, 0_u8, 0_u8);
        for character in text.strip_prefix(['N', 'n'])?.chars().take(4) {
            let (letter, horn, tilde) = match character {
                'u' | 'U' if letters == 0 => (1, 0, 0),
                'ư' | 'Ư' if letters == 0 => (1, 1, 0),
                'ũ' | 'Ũ' if letters == 0 => (1, 0, 1),
                'ữ' | 'Ữ' if letters == 0 => (1, 1, 1),
                '\u{31b}' if letters == 1 => (0, 1, 0),
                '\u{303}' if letters == 1 => (0, 0, 1),
                _ => return None,
            };
            letters += letter;
            horns += horn;
            tildes += tilde;
        }
        (letters == 1 && horns == 1 && tildes == 1).then_some(Self::Woman)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIMEN: &str =
        "001090123456|012345678|NGUYEN VAN A|01011990|Nam|12 Phố Huế, Hai Bà Trưng, Hà Nội|15042021";

    fn outcome(text: &str) -> Option<Outcome> {
        parse(text).err().map(|refusal| refusal.outcome)
    }

    fn card(citizen: &str, born: &str, sex: &str) -> String {
        format!("{citizen}||NGUYEN VAN A|{born}|{sex}|Hà Nội|15042021")
    }

    #[test]
    fn the_number_is_the_key_and_later_fields_are_dropped() {
        let expected =
            Ok(Claim::Person(PersonForm { form: Form::Cccd, key: PersonRef::Citizen("001090123456") }));
        assert!(sniff(SPECIMEN));
        assert_eq!(parse(SPECIMEN), expected);
        let of_2024 = format!("{SPECIMEN}||NGUYEN VAN B|TRAN THI C|");
        assert!(sniff(&of_2024));
        assert_eq!(parse(&of_2024), expected);
    }

    #[test]
    fn shape() {
        assert!(!sniff("001090123456|012345678|NGUYEN VAN A|01011990|Nam|Hà Nội"));
        assert!(!sniff("00109012345|012345678|NGUYEN VAN A|01011990|Nam|Hà Nội|15042021"));
        assert!(!sniff("00109012345a|012345678|NGUYEN VAN A|01011990|Nam|Hà Nội|15042021"));
        assert_eq!(outcome(&card("001090123456", "1990", "Nam")), Some(Outcome::Unrecognized));
        assert_eq!(outcome(&card("001090123456", "01011990", "Male")), Some(Outcome::Unrecognized));
        assert_eq!(outcome("001090123456||A|01011990|Nam|Hà Nội|2021"), Some(Outcome::Unrecognized));
    }

    #[test]
    fn century_and_sex_digit_and_birth_year_must_agree() {
        for (citizen, born, sex) in [
            ("001090123456", "01011990", "Nam"),
            ("001190123456", "01011990", "Nữ"),
            ("001204123456", "29022004", "Nam"),
            ("001304123456", "29022004", "Nữ"),
        ] {
            assert_eq!(outcome(&card(citizen, born, sex)), None, "{citizen} {born} {sex}");
        }
        for (citizen, born, sex) in [
            ("001190123456", "01011990", "Nam"),
            ("001090123456", "01011990", "Nữ"),
            ("001090123456", "01011991", "Nam"),
            ("001090123456", "01012090", "Nam"),
            ("001290123456", "01011990", "Nam"),
            ("001490123456", "01011990", "Nam"),
            ("001090123456", "31021990", "Nam"),
            ("001090123456", "00001990", "Nam"),
        ] {
            let refused = outcome(&card(citizen, born, sex));
            assert_eq!(refused, Some(Outcome::InconsistentIdentity), "{citizen} {born} {sex}");
        }
        assert_eq!(
            outcome("001090123456||A|01011990|Nam|Hà Nội|31022021"),
            Some(Outcome::InconsistentIdentity)
        );
        assert_eq!(
            outcome("001090123456||A|01011990|Nam|Hà Nội|31121989"),
            Some(Outcome::InconsistentIdentity)
        );
    }

    #[test]
    fn every_spelling_of_the_sex_is_read() {
        for woman in [
            "N\u{1eef}",
            "Nu\u{31b}\u{303}",
            "Nu\u{303}\u{31b}",
            "N\u{1b0}\u{303}",
            "N\u{169}\u{31b}",
            "N\u{1eee}",
            "NU\u{31b}\u{303}",
            "n\u{1eef}",
        ] {
            assert_eq!(outcome(&card("001190123456", "01011990", woman)), None, "{woman:?}");
        }
        for man in ["Nam", "NAM", "nam"] {
            assert_eq!(outcome(&card("001090123456", "01011990", man)), None, "{man}");
        }
        for neither in
            ["", "N", "Nu", "N\u{1b0}", "N\u{1eef}\u{303}", "Nu\u{31b}\u{303}u", "Nữ ", "\u{31b}\u{303}"]
        {
            let refused = outcome(&card("001190123456", "01011990", neither));
            assert_eq!(refused, Some(Outcome::Unrecognized), "{neither:?}");
        }
    }
}
