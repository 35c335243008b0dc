//! PC-COVID personal code (Decision 1405/QĐ-BTTTT, v1.1), which PC-COVID, VNeID and Sổ sức khỏe điện tử
//! all show: `number|name|YYYY-MM-DD|kind|QID|EXT`. The app masks part of the number and of the birth
//! date by default, so neither can be a key: the QID is, and masked and full codes meet in it. Nothing
//! signs the code, and the number in it is not compared with the date (the decision's own specimen
//! disagrees with itself).

use super::text::{Date, fields, is_digits};
use super::{Claim, Format, PersonForm, PersonRef};
use crate::scan::{Form, Outcome, Refusal};

/// Digits in a QID.
const QID_DIGITS: usize = 18;

pub(super) const FORMAT: Format = Format { name: Form::Qrqg.name(), sniff, parse };

fn sniff(text: &str) -> bool {
    let ([_, _, date, kind, _, _], count) = fields::<6>(text);
    count == 6 && matches!(kind, "0" | "1") && is_date_or_masked(date)
}

fn parse(text: &str) -> Result<Claim<'_>, Refusal> {
    let ([_, _, _, _, qid, _], _) = fields::<6>(text);
    if !is_digits(qid, QID_DIGITS) {
        return Err(Refusal::new(
            Outcome::Unrecognized,
            "a PC-COVID personal code needs a QID of 18 digits in its fifth field",
        ));
    }
    Ok(Claim::Person(PersonForm { form: Form::Qrqg, key: PersonRef::Qid(qid) }))
}

/// `YYYY-MM-DD` where any digit may be masked; with none masked it must be a calendar date.
fn is_date_or_masked(text: &str) -> bool {
    if text.len() != 10 {
        return false;
    }
    let mut masked = false;
    for (index, byte) in text.bytes().enumerate() {
        match (index, byte) {
            (4 | 7, b'-') => {}
            (4 | 7, _) => return false,
            (_, b'0'..=b'9') => {}
            (_, b'*' | b'x' | b'X') => masked = true,
            _ => return false,
        }
    }
    masked || Date::iso(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIMEN: &str = "001093029317|NGUYEN VAN A|1987-01-18|0|162979388586171100|<1<00<0123232422";

    #[test]
    fn masked_and_full_forms_name_one_person() {
        let expected =
            Claim::Person(PersonForm { form: Form::Qrqg, key: PersonRef::Qid("162979388586171100") });
        for text in [
            SPECIMEN,
            "******029317|NGUYEN VAN A|1987-**-**|0|162979388586171100|<1<00<0123232422",
            "******029317|Nguyễn Văn A|1987-xx-xx|1|162979388586171100|",
            "|||0|162979388586171100|".replacen("|||", "||1987-XX-XX|", 1).as_str(),
        ] {
            assert!(sniff(text), "{text}");
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn the_shape_is_exact() {
        for text in [
            "001093029317|NGUYEN VAN A|1987-01-18|2|162979388586171100|",
            "001093029317|NGUYEN VAN A|1987-02-30|0|162979388586171100|",
            "001093029317|NGUYEN VAN A|18/01/1987|0|162979388586171100|",
            "001093029317|NGUYEN VAN A|1987-01-18|0|162979388586171100",
            "001093029317|NGUYEN VAN A|1987-01-18|0|162979388586171100||",
        ] {
            assert!(!sniff(text), "{text}");
        }
    }

    #[test]
    fn a_qid_has_eighteen_digits() {
        for qid in
            ["", "16297938858617110", "1629793885861711000", "16297938858617110x", "١62979388586171100"]
        {
            let text = format!("001093029317|NGUYEN VAN A|1987-01-18|0|{qid}|");
            assert!(sniff(&text));
            assert_eq!(parse(&text).map_err(|refusal| refusal.outcome), Err(Outcome::Unrecognized), "{qid}");
        }
    }
}
