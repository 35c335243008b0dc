//! What is known about a person's health, and from whom.

use serde::{Deserialize, Serialize};

use crate::scan::{Form, UnixMillis};

/// Longest name of a product, in bytes.
pub const PRODUCT_BYTES_MAX: usize = 64;

/// Longest id of a record, in bytes.
pub const RECORD_BYTES_MAX: usize = 64;

/// Most facts that one record tells: a SMART Health Card lists every dose.
pub const FACTS_MAX: usize = 12;

/// One thing that was done or found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fact {
    /// A dose of a vaccine.
    Vaccination {
        /// Which vaccine, by the code that its source uses: `EU/1/20/1528`, `cvx:208`, `AstraZeneca`.
        product: String,
        /// Which dose of the series it was, from 1.
        dose: u8,
        /// How many the series has.
        doses: u8,
        /// The day it was given, in days since 1970; as text `2021-11-24`.
        #[serde(with = "as_date")]
        day: i32,
    },
    /// A test for the virus.
    Test {
        /// Of which kind.
        #[serde(rename = "test")]
        kind: TestKind,
        /// What it found.
        result: TestResult,
        /// When the sample was taken.
        #[serde(with = "as_time")]
        taken_at: UnixMillis,
    },
    /// Somebody was ill, and is well again.
    Recovery {
        /// The day of the first positive test.
        #[serde(with = "as_date")]
        positive_day: i32,
        /// The first day on which it counts.
        #[serde(with = "as_date")]
        from_day: i32,
        /// The last one.
        #[serde(with = "as_date")]
        until_day: i32,
    },
}

impl Fact {
    /// When the sample of a positive test was taken.
    pub fn positive_at(&self) -> Option<UnixMillis> {
        match self {
            Self::Test { result: TestResult::Positive, taken_at, .. } => Some(*taken_at),
            _ => None,
        }
    }
}

/// How a sample was tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestKind {
    /// For the virus's nucleic acid: RT-PCR, LAMP.
    Pcr,
    /// For its proteins: a rapid test.
    Antigen,
}

/// What a test found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestResult {
    /// The virus.
    Positive,
    /// No virus.
    Negative,
}

/// The national registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum RegisterId {
    /// Citizens and their numbers.
    Population = 1,
    /// Insured persons.
    Insurance = 2,
    /// Vaccinations.
    Vaccination = 3,
    /// Tests.
    Testing = 4,
}

impl RegisterId {
    /// Every register.
    pub const ALL: &[Self] = &[Self::Population, Self::Insurance, Self::Vaccination, Self::Testing];

    /// Its stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Population => "population",
            Self::Insurance => "insurance",
            Self::Vaccination => "vaccination",
            Self::Testing => "testing",
        }
    }

    /// The register with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|register| register.name() == name)
    }
}

/// Who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A register, by its feed.
    Register(RegisterId),
    /// The issuer of a signed code that the person presented.
    Code(Form),
}

impl Source {
    /// Its stable name: a register's, or a form's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Register(register) => register.name(),
            Self::Code(form) => form.name(),
        }
    }

    /// The source with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let form = |name| Form::from_name(name).map(Self::Code);
        RegisterId::from_name(name).map(Self::Register).or_else(|| form(name))
    }

    /// Two bytes for the keys of tables.
    pub(super) const fn code(self) -> [u8; 2] {
        match self {
            Self::Register(register) => [1, register as u8],
            Self::Code(form) => [2, form.code()],
        }
    }

    /// The source behind these two bytes.
    pub(super) fn from_code([kind, code]: [u8; 2]) -> Option<Self> {
        match kind {
            1 => RegisterId::ALL.iter().copied().find(|register| *register as u8 == code).map(Self::Register),
            2 => Form::from_code(code).map(Self::Code),
            _ => None,
        }
    }
}

impl Serialize for Source {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::from_name(&name).ok_or_else(|| serde::de::Error::custom("no known source"))
    }
}

/// Where a fact comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Who says so.
    pub source: Source,
    /// The record's id at the source, which leads to nobody: a register's own, or of a code the pseudonym of its holder's
    /// name.
    pub record: String,
    /// Which version of the record: a higher one replaces all lower ones, in whatever order they come.
    pub version: u64,
    /// When it arrived.
    #[serde(with = "as_time")]
    pub received: UnixMillis,
}

/// A fact and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The fact.
    #[serde(flatten)]
    pub fact: Fact,
    /// Where it comes from.
    pub provenance: Provenance,
}

/// A day as `2021-11-24`.
pub(crate) mod as_date {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::scan::{DAY_MS, UnixMillis};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
    pub(crate) fn serialize<S: Serializer>(day: &i32, serializer: S) -> Result<S::Ok, S::Error> {
        let text = UnixMillis(i64::from(*day) * DAY_MS).to_string();
        serializer.serialize_str(text.split('T').next().unwrap_or_default())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| serde::de::Error::custom("must be a day such as 2021-11-24, from 1970 on"))
    }

    /// Days since 1970, of a text that is a day and nothing else.
    pub(crate) fn parse(text: &str) -> Option<i32> {
        if text.len() != 10 {
            return None;
        }
        UnixMillis::parse(&format!("{text}T00:00:00Z")).ok().map(UnixMillis::day)
    }
}

/// A time as RFC 3339.
pub(crate) mod as_time {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::scan::UnixMillis;

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
    pub(crate) fn serialize<S: Serializer>(at: &UnixMillis, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(at)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UnixMillis, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        UnixMillis::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_written_with_days_and_times_as_text() {
        let day = as_date::parse("2021-11-24").unwrap();
        let dose = Fact::Vaccination { product: "EU/1/20/1528".to_owned(), dose: 2, doses: 2, day };
        let taken_at = UnixMillis::parse("2021-11-24T06:49:29Z").unwrap();
        let test = Fact::Test { kind: TestKind::Pcr, result: TestResult::Negative, taken_at };
        let well = Fact::Recovery { positive_day: day, from_day: day + 11, until_day: day + 180 };
        let texts = [
            r#"{"kind":"vaccination","product":"EU/1/20/1528","dose":2,"doses":2,"day":"2021-11-24"}"#,
            r#"{"kind":"test","test":"pcr","result":"negative","taken_at":"2021-11-24T06:49:29.000Z"}"#,
            r#"{"kind":"recovery","positive_day":"2021-11-24","from_day":"2021-12-05","until_day":"2022-05-23"}"#,
        ];
        for (fact, text) in [dose, test, well].iter().zip(texts) {
            assert_eq!(serde_json::to_string(fact).unwrap(), text);
            assert_eq!(serde_json::from_str::<Fact>(text).unwrap(), *fact);
        }
        for wrong in ["2021-11-31", "2021-1-1", "24/11/2021", "1969-12-31", "2021-11-24T", "२०२१"] {
            assert_eq!(as_date::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sources_have_names_and_codes_of_their_own() {
        let registers = RegisterId::ALL.iter().copied().map(Source::Register);
        let all: Vec<Source> = registers.chain(Form::ALL.iter().copied().map(Source::Code)).collect();
        for source in &all {
            assert_eq!(Source::from_name(source.name()), Some(*source));
            assert_eq!(Source::from_code(source.code()), Some(*source));
            assert_eq!(all.iter().filter(|other| other.code() == source.code()).count(), 1);
        }
    }
}
