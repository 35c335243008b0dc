//! What a verified code says, as facts: an EU Digital COVID Certificate (schema 1.3) or a SMART Health Card
//! (spec.smarthealth.cards, "Vaccination & Testing": a FHIR R4 bundle of immunizations and observations).

use serde::Deserialize;

use super::fact::{FACTS_MAX, Fact, TestKind, TestResult, as_date};
use crate::payload::SignedForm;
use crate::scan::UnixMillis;
use crate::verify::hc1::{self, CertificateEntry, EntryKind};
use crate::verify::shc;

/// COVID-19 in SNOMED CT, the one disease that certificates are for.
const COVID_19: &str = "840539006";

/// Most entries of a bundle that are looked at: a card in one code has room for a few dozen.
const ENTRIES_MAX: usize = 64;

/// What a code says, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Presented {
    /// When it was issued, in seconds since 1970: a later edition of a code replaces an earlier one.
    pub(super) issued_at_s: u64,
    pub(super) facts: Vec<Fact>,
}

/// What is wrong with a code that verified: for whoever presented it.
pub(super) type Unusable = &'static str;

/// The facts of a verified code.
pub(super) fn presented(form: SignedForm<'_>) -> Result<Presented, Unusable> {
    match form {
        SignedForm::Hc1(text) => {
            let entry = hc1::entry(text).ok_or("the certificate's entry can't be read")?;
            let issued_at_s = u64::try_from(entry.issued_at_s).unwrap_or_default();
            Ok(Presented { issued_at_s, facts: vec![certified(&entry)?] })
        }
        SignedForm::Shc(text) => {
            let payload = shc::payload(text).ok_or(BUNDLE)?;
            let card: Card = serde_json::from_slice(&payload).map_err(|_| BUNDLE)?;
            // Whole seconds, saturating at 0: times may have a fraction.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
            let issued_at_s = card.nbf as u64;
            let facts = listed(card.vc.credential_subject.fhir_bundle.entry)?;
            Ok(Presented { issued_at_s, facts })
        }
        SignedForm::Sg1(_) | SignedForm::Nhs(_) => Err("only HC1 and shc codes say something about health"),
    }
}

const BUNDLE: Unusable = "the card's FHIR bundle can't be read";

fn certified(entry: &CertificateEntry) -> Result<Fact, Unusable> {
    if entry.text("tg") != Some(COVID_19) {
        return Err("the certificate must be about COVID-19 (tg 840539006)");
    }
    match entry.kind {
        EntryKind::Vaccination => {
            let number = |member| entry.number(member).and_then(|number| u8::try_from(number).ok());
            Ok(Fact::Vaccination {
                product: entry.text("mp").ok_or("the certificate names no product (mp)")?.to_owned(),
                dose: number("dn").ok_or("the certificate's dose (dn) must be a number up to 255")?,
                doses: number("sd").ok_or("the certificate's doses (sd) must be a number up to 255")?,
                day: day(entry.text("dt")).ok_or("the certificate's day (dt) must be a day")?,
            })
        }
        EntryKind::Test => {
            let taken_at = entry.text("sc").and_then(|text| UnixMillis::parse(text).ok());
            Ok(Fact::Test {
                kind: match entry.text("tt") {
                    Some("LP6464-4") => TestKind::Pcr,
                    Some("LP217198-3") => TestKind::Antigen,
                    _ => return Err("the certificate's test (tt) must be LP6464-4 or LP217198-3"),
                },
                result: entry
                    .text("tr")
                    .and_then(result)
                    .ok_or("the certificate's result (tr) is unknown")?,
                taken_at: taken_at.ok_or("the certificate's time (sc) must be an RFC 3339 timestamp")?,
            })
        }
        EntryKind::Recovery => Ok(Fact::Recovery {
            positive_day: day(entry.text("fr")).ok_or("the certificate's day (fr) must be a day")?,
            from_day: day(entry.text("df")).ok_or("the certificate's day (df) must be a day")?,
            until_day: day(entry.text("du")).ok_or("the certificate's day (du) must be a day")?,
        }),
    }
}

/// A day; some issuers write a time behind it.
fn day(text: Option<&str>) -> Option<i32> {
    text?.get(..10).and_then(as_date::parse)
}

/// A result's SNOMED CT code: detected, positive; not detected, negative.
fn result(code: &str) -> Option<TestResult> {
    match code {
        "260373001" | "10828004" => Some(TestResult::Positive),
        "260415000" | "260385009" => Some(TestResult::Negative),
        _ => None,
    }
}

#[derive(Deserialize)]
struct Card {
    nbf: f64,
    vc: Credential,
}

#[derive(Deserialize)]
struct Credential {
    #[serde(rename = "credentialSubject")]
    credential_subject: Subject,
}

#[derive(Deserialize)]
struct Subject {
    #[serde(rename = "fhirBundle")]
    fhir_bundle: Bundle,
}

#[derive(Deserialize)]
struct Bundle {
    entry: Vec<BundleEntry>,
}

#[derive(Deserialize)]
struct BundleEntry {
    resource: Resource,
}

/// Persons are resources too: nothing of them is read.
#[derive(Deserialize)]
#[serde(tag = "resourceType")]
enum Resource {
    Immunization(Immunization),
    Observation(Observation),
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Immunization {
    status: String,
    vaccine_code: Concept,
    occurrence_date_time: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Observation {
    status: String,
    code: Concept,
    value_codeable_concept: Option<Concept>,
    effective_date_time: Option<String>,
}

#[derive(Deserialize)]
struct Concept {
    coding: Vec<Coding>,
}

#[derive(Deserialize)]
struct Coding {
    #[serde(default)]
    system: String,
    code: String,
}

impl Concept {
    fn code(&self, system: &str) -> Option<&str> {
        self.coding.iter().find(|coding| coding.system == system).map(|coding| coding.code.as_str())
    }
}

const CVX: &str = "http://hl7.org/fhir/sid/cvx";
const LOINC: &str = "http://loinc.org";
const SNOMED: &str = "http://snomed.info/sct";

/// The CVX code of the vaccine that takes one dose; all others take two.
const CVX_OF_ONE_DOSE: &str = "212";

/// LOINC codes of tests for the virus's proteins.
const ANTIGEN: [&str; 5] = ["94558-4", "95209-3", "96119-3", "97097-0", "94762-2"];

/// And for its nucleic acid.
const NUCLEIC_ACID: [&str; 10] = [
    "94309-2", "94500-6", "94531-1", "94533-7", "94534-5", "94559-2", "94565-9", "94759-8", "94845-5",
    "95406-5",
];

/// The facts of a bundle's entries. Doses aren't numbered there: they are counted by their days.
fn listed(entries: Vec<BundleEntry>) -> Result<Vec<Fact>, Unusable> {
    if entries.len() > ENTRIES_MAX {
        return Err("the card's FHIR bundle has too many entries");
    }
    let (mut doses, mut tests) = (Vec::new(), Vec::new());
    for entry in entries {
        match entry.resource {
            Resource::Immunization(given) if given.status == "completed" => {
                let day = day(Some(&given.occurrence_date_time))
                    .ok_or("a dose's occurrenceDateTime must be a day")?;
                let code = given.vaccine_code.code(CVX).ok_or("a dose's vaccineCode must be in CVX")?;
                doses.push((day, code.to_owned()));
            }
            Resource::Observation(test) if matches!(&*test.status, "final" | "amended" | "corrected") => {
                tests.extend(observed(&test)?);
            }
            Resource::Immunization(_) | Resource::Observation(_) | Resource::Other => {}
        }
    }
    doses.sort();
    let one = |_: &(i32, String)| doses.iter().all(|(_, code)| code == CVX_OF_ONE_DOSE);
    let of = doses.first().map_or(2, |first| if one(first) { 1 } else { 2 });
    let number = |(index, (day, code)): (usize, &(i32, String))| Fact::Vaccination {
        product: format!("cvx:{code}"),
        dose: u8::try_from(index + 1).unwrap_or(u8::MAX),
        doses: of,
        day: *day,
    };
    let facts: Vec<Fact> = doses.iter().enumerate().map(number).chain(tests).collect();
    match facts.len() {
        0 => Err("the card lists no vaccination and no test that is known here"),
        1..=FACTS_MAX => Ok(facts),
        _ => Err("the card lists more than 12 vaccinations and tests"),
    }
}

/// None for an observation of something else.
fn observed(test: &Observation) -> Result<Option<Fact>, Unusable> {
    let Some(code) = test.code.code(LOINC) else { return Ok(None) };
    let kind = match code {
        code if ANTIGEN.contains(&code) => TestKind::Antigen,
        code if NUCLEIC_ACID.contains(&code) => TestKind::Pcr,
        _ => return Ok(None),
    };
    let found = test.value_codeable_concept.as_ref().and_then(|value| value.code(SNOMED)).and_then(result);
    let Some(result) = found else {
        return Err("a test's valueCodeableConcept must be a result in SNOMED CT");
    };
    let at = test.effective_date_time.as_deref().ok_or("a test has no effectiveDateTime")?;
    let midnight = || day(Some(at)).map(|day| UnixMillis(i64::from(day) * crate::scan::DAY_MS));
    let taken_at = UnixMillis::parse(at).ok().or_else(midnight);
    let taken_at = taken_at.ok_or("a test's effectiveDateTime must be a day or an RFC 3339 timestamp")?;
    Ok(Some(Fact::Test { kind, result, taken_at }))
}
