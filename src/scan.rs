//! Domain types: what a scan is, on its way from socket to row. No I/O, no HTTP.
//!
//! Sizes matter here: a national rush hour keeps tens of millions of these identifiers in memory,
//! so every identifier is a fixed array and every record is `Copy`.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01T00:00:00Z, the only clock reading in the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub i64);

/// Milliseconds in a UTC day, the partition width of both store tables.
pub const DAY_MS: i64 = 86_400_000;

impl UnixMillis {
    /// The wall clock. The one place that reads it (see `clippy.toml`).
    #[allow(clippy::disallowed_methods)]
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    /// Whole seconds, rounded down.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Days since 1970-01-01 in UTC, the store's partition day.
    pub fn day(self) -> i32 {
        i32::try_from(self.0.div_euclid(DAY_MS)).unwrap_or(i32::MAX)
    }

    /// Parses an RFC 3339 timestamp; fractions finer than a millisecond are dropped.
    ///
    /// # Errors
    /// The text isn't RFC 3339, or lies outside the years 1970 to 9999.
    pub fn parse(text: &str) -> Result<Self, InvalidTimestamp> {
        if let Some(at) = timestamp::read(text.as_bytes()) {
            return Ok(Self(at));
        }
        let at: jiff::Timestamp = text.parse().map_err(|_| InvalidTimestamp)?;
        let ms = at.as_millisecond();
        if ms < 0 { Err(InvalidTimestamp) } else { Ok(Self(ms)) }
    }

    /// Appends the text that [`fmt::Display`] gives, without the detour over a formatter.
    pub fn write(self, text: &mut Vec<u8>) {
        match timestamp::written(self.0) {
            Some(written) => text.extend_from_slice(&written),
            None => text.extend_from_slice(self.to_string().as_bytes()),
        }
    }
}

/// RFC 3339 in UTC with milliseconds: `2021-11-24T06:49:29.123Z`.
impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = timestamp::written(self.0) {
            return f.write_str(std::str::from_utf8(&text).unwrap_or_default());
        }
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

/// The one notation that devices send and answers carry, `2021-11-24T06:49:29.123Z` (when read, the
/// fraction may be missing), in a third of the instructions that the general reader takes, which on a line
/// of a batch was an eighth of all. Everything else is left to that one.
mod timestamp {
    use super::DAY_MS;

    /// 9999-12-30T22:00:00Z, the last time that the general reader knows.
    const LAST_MS: i64 = 253_402_207_200_000;

    /// Milliseconds since 1970, if the text is of that notation and not before.
    pub(super) fn read(text: &[u8]) -> Option<i64> {
        let (date_time, fraction) = text.split_at_checked(19)?;
        let ms = match fraction {
            b"Z" => 0,
            [b'.', ms @ .., b'Z'] if ms.len() == 3 => number(ms)?,
            _ => return None,
        };
        let [_, _, _, _, b'-', _, _, b'-', _, _, b'T', _, _, b':', _, _, b':', _, _] = date_time else {
            return None;
        };
        let part = |from, to| number(date_time.get(from..to)?);
        let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
        let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
        let is_date = year >= 1970 && (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
        // A leap second is among what is left to the general reader.
        if !is_date || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let at = days_until(year, month, day) * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000 + ms;
        (at <= LAST_MS).then_some(at)
    }

    /// The text of a time from 1970 to 9999.
    pub(super) fn written(ms: i64) -> Option<[u8; 24]> {
        if !(0..=LAST_MS).contains(&ms) {
            return None;
        }
        let (year, month, day) = date_after(u32::try_from(ms / DAY_MS).ok()?);
        let of_day = u32::try_from(ms % DAY_MS).ok()?;
        let ([y1, y2], [y3, y4]) = (digits(year / 100), digits(year % 100));
        let ([m1, m2], [d1, d2]) = (digits(month), digits(day));
        let ([h1, h2], [n1, n2]) = (digits(of_day / 3_600_000), digits(of_day / 60_000 % 60));
        let ([s1, s2], [f0, f1]) = (digits(of_day / 1000 % 60), digits(of_day % 1000 / 100));
        let [f2, f3] = digits(of_day % 100);
        debug_assert_eq!(f0, b'0');
        Some([
            y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2, b'.', f1,
            f2, f3, b'Z',
        ])
    }

    /// Two digits of a number below 100.
    #[allow(clippy::cast_possible_truncation)] // Each is below 10.
    const fn digits(number: u32) -> [u8; 2] {
        [b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8]
    }

    fn number(digits: &[u8]) -> Option<i64> {
        digits.iter().try_fold(0, |number, digit| match digit {
            b'0'..=b'9' => Some(number * 10 + i64::from(digit - b'0')),
            _ => None,
        })
    }

    fn days_in(year: i64, month: i64) -> i64 {
        match month {
            2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// Days from 0000-03-01 to 1970-01-01. A year that begins in March has its leap day last, and the
    /// months before it lengths of a steady pattern: 153 days in five.
    const EPOCH_DAYS: u32 = 719_468;

    fn days_until(year: i64, month: i64, day: i64) -> i64 {
        let year = if month <= 2 { year - 1 } else { year };
        let leap_days = year / 4 - year / 100 + year / 400;
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        year * 365 + leap_days + day_of_year - i64::from(EPOCH_DAYS)
    }

    fn date_after(days: u32) -> (u32, u32, u32) {
        let days = days + EPOCH_DAYS;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = (month_from_march + 2) % 12 + 1;
        (era * 400 + year_of_era + u32::from(month <= 2), month, day)
    }
}

/// The text was not an RFC 3339 timestamp of 1970 or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an RFC 3339 timestamp such as 2021-11-24T06:49:29Z")]
pub struct InvalidTimestamp;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        /// Lowercase hexadecimal.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in self.0 {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

identifier!(
    /// One person: the first 16 bytes of HMAC-SHA-256(pepper, canonical citizen number), or of the
    /// best identifier known until a link to that number arrives. Never reversible without the pepper.
    Pseudonym, 16
);
identifier!(
    /// One place: the first 16 bytes of HMAC-SHA-256(pepper, canonical place reference), equal for
    /// every form of code that names the place.
    PlaceKey, 16
);
identifier!(
    /// One device of one app: a keyed hash of the token's `iss` and `sub`.
    DeviceKey, 8
);
identifier!(
    /// A device's own id for one scan: a keyed hash of [`DeviceKey`] and the client id it sent.
    ClientKey, 12
);

/// The check-in's public id: an RFC 9562 UUID version 8 whose first 48 bits are the event time in
/// milliseconds and whose other 64 free bits are a keyed hash of person, place, requested direction
/// and event time. The same scan gets the same id on every gateway and at every replay, and ids sort
/// by event time. The last ten bits count the pepper's rotations, which change persons and so hashes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckinId(pub [u8; 16]);

impl CheckinId {
    /// The largest epoch that an id has room for.
    pub const EPOCH_MAX: u16 = 0x3ff;

    /// Lays out event time and hash as a UUIDv8: 48 bits of time, version, 12 bits of hash, variant,
    /// 52 bits of hash, 10 bits of epoch, of which there is none yet.
    pub fn new(at: UnixMillis, hash: u64) -> Self {
        let high = (u128::from(at.0.unsigned_abs() & 0xffff_ffff_ffff) << 80) | (0x8 << 76);
        let hash_high = u128::from(hash >> 52) << 64;
        let variant = 0b10_u128 << 62;
        let hash_low = u128::from(hash & ((1 << 52) - 1)) << 10;
        Self((high | hash_high | variant | hash_low).to_be_bytes())
    }

    /// The same of an epoch: how often the pepper had been rotated when the person got the pseudonym.
    #[must_use]
    pub fn of_epoch(self, epoch: u16) -> Self {
        let bits = u128::from_be_bytes(self.0) & !u128::from(Self::EPOCH_MAX);
        Self((bits | u128::from(epoch & Self::EPOCH_MAX)).to_be_bytes())
    }

    /// The epoch this id carries.
    pub fn epoch(self) -> u16 {
        let [.., high, low] = self.0;
        u16::from_be_bytes([high, low]) & Self::EPOCH_MAX
    }

    /// The event time this id carries.
    pub fn at(self) -> UnixMillis {
        UnixMillis(i64::try_from(u128::from_be_bytes(self.0) >> 80).unwrap_or(i64::MAX))
    }

    /// The 64 bits of keyed hash this id carries.
    pub fn hash(self) -> u64 {
        let bits = u128::from_be_bytes(self.0);
        let high = u64::try_from((bits >> 64) & 0xfff).unwrap_or_default();
        let low = u64::try_from((bits >> 10) & ((1 << 52) - 1)).unwrap_or_default();
        (high << 52) | low
    }
}

/// Hyphenated lowercase UUID.
impl fmt::Display for CheckinId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(uuid::Uuid::from_bytes_ref(&self.0), f)
    }
}

impl fmt::Debug for CheckinId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckinId({self})")
    }
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal => $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$variant_doc])* $variant = $code,)+ }

        impl $name {
            /// Every variant, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable name shared by the API, the log, the metrics and the store.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The byte that the journal writes.
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// The variant behind a journal byte.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }

            /// The variant with this stable name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named!(
    /// The direction a check-in was recorded under.
    Direction {
        /// The person entered the place.
        In = 0 => "in",
        /// The person left the place.
        Out = 1 => "out",
    }
);

impl Direction {
    /// Entry becomes exit and exit becomes entry.
    #[must_use]
    pub const fn toggled(self) -> Self {
        match self {
            Self::In => Self::Out,
            Self::Out => Self::In,
        }
    }
}

named!(
    /// The direction a device asked for.
    DirectionRequest {
        /// Entry.
        In = 0 => "in",
        /// Exit.
        Out = 1 => "out",
        /// The opposite of the person's last durable check-in at the place; entry if there is none.
        Auto = 2 => "auto",
    }
);

named!(
    /// What the scanned code stood for.
    Subject {
        /// A person's code, scanned by a place's device.
        Person = 0 => "person",
        /// A place's code, scanned by a person's device.
        Place = 1 => "place",
    }
);

named!(
    /// How far the code itself can be believed.
    Trust {
        /// A signature by a known issuer was checked.
        Proven = 0 => "proven",
        /// The code only claims: anyone could have printed it.
        Asserted = 1 => "asserted",
    }
);

named!(
    /// The payload format a code was read as. New formats take the next number and a file under `payload/`.
    Form {
        /// scangate's own signed token.
        Sg1 = 0 => "sg1",
        /// Citizen identity card.
        Cccd = 1 => "cccd",
        /// PC-COVID personal code (Decision 1405/QĐ-BTTTT).
        Qrqg = 2 => "qrqg",
        /// PC-COVID place poster.
        PcCovidPlace = 3 => "pc_covid_place",
        /// Health-insurance card.
        Bhyt = 4 => "bhyt",
        /// EU Digital COVID Certificate, Vietnam's vaccine passport.
        Hc1 = 5 => "hc1",
        /// SMART Health Card.
        Shc = 6 => "shc",
        /// NHS place poster.
        NhsPlace = 7 => "nhs_place",
        /// NZ COVID Tracer place poster.
        NzPlace = 8 => "nz_place",
        /// Corona-Warn-App place poster.
        CwaPlace = 9 => "cwa_place",
    }
);

named!(
    /// The app whose issuer key signed the device's token (JWT `iss`).
    App {
        /// PC-COVID.
        PcCovid = 0 => "pc-covid",
        /// VNeID.
        Vneid = 1 => "vneid",
        /// Sổ sức khỏe điện tử.
        Sskdt = 2 => "sskdt",
    }
);

/// A scan whose code has been read, verified and resolved to one person at one place, ready to be
/// deduplicated. It carries no name, number or raw payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// Who.
    pub person: Pseudonym,
    /// Where.
    pub place: PlaceKey,
    /// The direction asked for.
    pub direction: DirectionRequest,
    /// Event time, from the device (or the arrival time where the device gave none).
    pub at: UnixMillis,
    /// When the gateway received it.
    pub received: UnixMillis,
    /// The device's own id for this scan.
    pub client: ClientKey,
    /// The device that sent it.
    pub device: DeviceKey,
    /// The app that vouches for the device.
    pub app: App,
    /// Whether the code was a person's or a place's.
    pub subject: Subject,
    /// How far the code can be believed.
    pub trust: Trust,
    /// The payload format.
    pub form: Form,
    /// The deduplication window that applies at this place, in seconds; 0 for none.
    pub window_s: u16,
}

/// One check-in: what the journal records, and what the store keeps as a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkin {
    /// Deterministic id.
    pub id: CheckinId,
    /// The direction it counts under.
    pub direction: Direction,
    /// The scan it records.
    pub scan: Scan,
}

named!(
    /// How a scan ended: exactly one of these for every line received. The names are the API's.
    #[must_use]
    Outcome {
        /// Durable, and new.
        Recorded = 0 => "recorded",
        /// The same scan is already durable.
        Duplicate = 1 => "duplicate",
        /// The payload matches no known format.
        Unrecognized = 2 => "unrecognized",
        /// A bank or payment code: refused, and kept out of every log.
        PaymentCode = 3 => "payment_code",
        /// The signature does not verify under the named key.
        BadSignature = 4 => "bad_signature",
        /// No key is known under the code's kid.
        UnknownKey = 5 => "unknown_key",
        /// The code's validity has ended.
        Expired = 6 => "expired",
        /// The code's validity has not begun.
        NotYetValid = 7 => "not_yet_valid",
        /// The code, its key or its holder has been revoked.
        Revoked = 8 => "revoked",
        /// The number on the card contradicts the birth date or sex printed beside it.
        InconsistentIdentity = 9 => "inconsistent_identity",
        /// One chunk of a code split over several pictures.
        ChunkedCode = 10 => "chunked_code",
        /// A place's device scanned a place, or a person's device a person.
        WrongSubject = 11 => "wrong_subject",
        /// The event time lies outside the accepted bounds around now.
        ClockSkew = 12 => "clock_skew",
        /// The frame holds no readable code.
        NoCodeFound = 13 => "no_code_found",
        /// The request or line cannot be parsed.
        Malformed = 14 => "malformed",
        /// No valid device token.
        Unauthenticated = 15 => "unauthenticated",
        /// The device may not do this.
        Forbidden = 16 => "forbidden",
        /// A size limit was passed.
        TooLarge = 17 => "too_large",
        /// The device is over its rate.
        RateLimited = 18 => "rate_limited",
        /// A bound of the gateway was reached; sending again later is right.
        Overloaded = 19 => "overloaded",
        /// The journal can't accept records; nothing was recorded.
        Unavailable = 20 => "unavailable",
    }
);

/// A readable code that was refused: the 422 outcomes, as the stages before `deduplicate` return them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// The named outcome.
    pub outcome: Outcome,
    /// Why, for the caller: fixed text that names the rule, never the payload.
    pub detail: &'static str,
}

impl Refusal {
    /// A refusal with its reason.
    pub const fn new(outcome: Outcome, detail: &'static str) -> Self {
        Self { outcome, detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkin_id_is_a_uuid_v8_that_carries_time_and_hash() {
        for (at, hash) in [(0, 0), (1_637_736_569_123, u64::MAX), (1_637_736_569_123, 0x0123_4567_89ab_cdef)]
        {
            let id = CheckinId::new(UnixMillis(at), hash);
            assert_eq!(id.at(), UnixMillis(at));
            assert_eq!(id.hash(), hash);
            let later = id.of_epoch(CheckinId::EPOCH_MAX);
            assert_eq!((id.epoch(), later.epoch()), (0, CheckinId::EPOCH_MAX));
            assert_eq!((later.at(), later.hash(), later.of_epoch(0)), (id.at(), id.hash(), id));
            let uuid = uuid::Uuid::from_bytes(id.0);
            assert_eq!(uuid.get_version_num(), 8);
            assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
        }
    }

    /// The short way must agree with the general one on every text it takes, and on every day.
    #[test]
    fn timestamps_agree_with_the_general_reader() {
        for day in (0..=2_932_893).step_by(7).chain(10_950..11_330).chain([2_932_893]) {
            let at = UnixMillis(day * DAY_MS + (day * 7919) % DAY_MS);
            let general = jiff::Timestamp::from_millisecond(at.0).unwrap();
            assert_eq!(at.to_string(), format!("{general:.3}"));
            assert_eq!(timestamp::read(at.to_string().as_bytes()), Some(at.0));
        }
        for at in [-1, 253_402_207_200_001, i64::MAX] {
            assert_eq!(timestamp::written(at), None, "{at}");
        }
        assert_eq!(UnixMillis::parse("9999-12-30T22:00:00Z"), Ok(UnixMillis(253_402_207_200_000)));
    }

    proptest::proptest! {
        #[test]
        fn no_timestamp_is_read_that_the_general_reader_refuses(
            text in "(19|20|21)[0-9]{2}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,4})?[Zz+]"
        ) {
            if let Some(at) = timestamp::read(text.as_bytes()) {
                let general: jiff::Timestamp = text.parse().unwrap();
                proptest::prop_assert_eq!(at, general.as_millisecond());
            }
        }
    }

    #[test]
    fn timestamps_round_trip() {
        for text in ["2021-11-24T06:49:29.123Z", "1970-01-01T00:00:00.000Z"] {
            assert_eq!(UnixMillis::parse(text).map(|at| at.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(
            UnixMillis::parse("2021-11-24T13:49:29+07:00").map(|at| at.to_string()),
            Ok("2021-11-24T06:49:29.000Z".to_owned())
        );
        assert_eq!(UnixMillis::parse("yesterday"), Err(InvalidTimestamp));
    }
}
