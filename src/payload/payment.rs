//! EMV merchant-presented codes, VietQR among them: tag-length-value text that opens with `000201` and
//! closes with tag 63, a CRC-16/CCITT-FALSE over everything before its four digits. People present the
//! wrong code all day; this one names a bank account, so it is refused by name and kept out of every log.

use super::{Claim, Format};
use crate::scan::{Outcome, Refusal};

pub(super) const FORMAT: Format = Format { name: "payment", sniff, parse };

/// Payload format indicator: tag 00, length 02, version 01.
const HEAD: &str = "000201";

/// CRC: tag 63, length 04, ahead of its four hexadecimal digits.
const CRC_TAG: &str = "6304";

fn sniff(text: &str) -> bool {
    text.starts_with(HEAD) && crc_matches(text)
}

fn parse(_: &str) -> Result<Claim<'_>, Refusal> {
    Err(Refusal::new(Outcome::PaymentCode, "this is a payment code, not a check-in code"))
}

fn crc_matches(text: &str) -> bool {
    let Some((body, digits)) = text.len().checked_sub(4).and_then(|at| text.split_at_checked(at)) else {
        return false;
    };
    body.ends_with(CRC_TAG)
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        && u16::from_str_radix(digits, 16).is_ok_and(|crc| crc == crc16_ccitt_false(body.as_bytes()))
}

/// CRC-16 with polynomial 0x1021 and initial value 0xFFFF, unreflected.
fn crc16_ccitt_false(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, &byte| {
        let [high, low] = crc.to_be_bytes();
        let shifted = u16::from(low) << 8;
        // TABLE has 256 entries and the index is a byte: `get` never misses.
        shifted ^ TABLE.get(usize::from(high ^ byte)).copied().unwrap_or_default()
    })
}

const TABLE: [u16; 256] = table();

#[allow(clippy::indexing_slicing)] // Evaluated at compile time: a wrong index is a compile error.
const fn table() -> [u16; 256] {
    let mut table = [0_u16; 256];
    let mut index = 0;
    let mut high: u16 = 0;
    while index < 256 {
        let mut crc = high;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[index] = crc;
        high = high.wrapping_add(0x0100);
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc_16_ccitt_false() {
        assert_eq!(crc16_ccitt_false(b"123456789"), 0x29B1);
        assert_eq!(crc16_ccitt_false(b""), 0xFFFF);
    }

    #[test]
    fn only_a_right_checksum_makes_a_payment_code() {
        let body = "00020101021138530010A0000007270123000697041601098888888880208QRIBFTTA53037045802VN6304";
        let crc = crc16_ccitt_false(body.as_bytes());
        let good = format!("{body}{crc:04X}");
        assert!(sniff(&good));
        assert!(sniff(&format!("{body}{crc:04x}")));
        assert_eq!(parse(&good).map_err(|refusal| refusal.outcome), Err(Outcome::PaymentCode));
        for bad in [
            format!("{body}{:04X}", crc ^ 1),
            body.to_owned(),
            format!("{body}{:03X}", crc >> 4),
            format!("{body}+{:03X}", crc >> 4),
            "000201".to_owned(),
            good.replacen("000201", "000202", 1),
            good.replacen("6304", "6404", 1),
            format!("{body}ộ1"),
        ] {
            assert!(!sniff(&bad), "{bad}");
        }
    }
}
