//! Specimens of every format, and made-up people by number.

/// Citizen card, the specimen of the format's description.
pub const CCCD: &str =
    "001090123456|012345678|NGUYEN VAN A|01011990|Nam|12 Phố Huế, Hai Bà Trưng, Hà Nội|15042021";
/// PC-COVID personal code, full.
pub const QRQG: &str = "001093029317|NGUYEN VAN A|1987-01-18|0|162979388586171100|<1<00<0123232422";
/// The same code as the app masks it: the same person.
pub const QRQG_MASKED: &str = "******029317|NGUYEN VAN A|1987-**-**|0|162979388586171100|<1<00<0123232422";
/// PC-COVID place poster.
pub const PLACE: &str = "https://qr.pccovid.gov.vn/Xa3bK9pQ";
/// A bank transfer code: EMV fields and a CRC over all that comes before it.
pub fn payment() -> String {
    let body = "00020101021138570010A00000072701270006970436011301234567890120208QRIBFTTA53037045802VN6304";
    format!("{body}{:04X}", crc16_ccitt_false(body.as_bytes()))
}

/// The citizen card of a made-up woman or man, born in 1990, by serial number (below 1,000,000).
pub fn citizen(serial: u32) -> String {
    assert!(serial < 1_000_000, "six digits");
    let (sex, digit) = if serial.is_multiple_of(2) { ("Nam", 0) } else { ("Nữ", 1) };
    format!("001{digit}90{serial:06}||NGUYEN VAN {serial}|01011990|{sex}|Hà Nội|15042021")
}

/// The citizen's number alone.
pub fn citizen_number(serial: u32) -> String {
    citizen(serial)[..12].to_owned()
}

/// CRC-16/CCITT-FALSE as EMV QR codes end in.
pub fn crc16_ccitt_false(bytes: &[u8]) -> u16 {
    let mut crc = 0xffff_u16;
    for byte in bytes {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc
}

/// RFC 3339 text of `offset_s` seconds from now, cut to the second.
pub fn at(offset_s: i64) -> String {
    scangate::scan::UnixMillis((scangate::scan::UnixMillis::now().seconds() + offset_s) * 1000).to_string()
}
