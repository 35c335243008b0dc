//! What registers send: pages of changes, as the contracts in `config/registers` describe them.
//!
//! A page goes from the cursor `after` to the cursor `cursor`; `behind` changes come after it. A change is a version of
//! a record, about one citizen. Only here and in `intake` is there a citizen's number.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::identity::feed;
use crate::openapi::REGISTER_CHANGES_MAX as CHANGES_MAX;
use crate::scan::UnixMillis;
use crate::services::ask::pointer;
use crate::services::health::fact::{
    Fact, RECORD_BYTES_MAX, RegisterId, TestKind, TestResult, as_date, as_time,
};

/// A page of a register's feed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// The cursor that it begins behind; "" at the very beginning.
    pub after: String,
    /// The cursor at its end.
    pub cursor: String,
    /// How many changes come after it.
    pub behind: u64,
    /// Each still to be read: a bad one spoils only itself.
    pub changes: Vec<Value>,
}

/// The answer to a question about one citizen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// The current version of every record, each as in a page.
    pub records: Vec<Value>,
}

/// One version of a record.
pub struct Change {
    /// The record's id in the register; never a person's number.
    pub record: String,
    /// Its version: a higher one replaces all lower ones, in whatever order they come.
    pub version: u64,
    /// Whom it is about, by the twelve digits.
    pub citizen: String,
    /// Whether it holds no longer.
    pub withdrawn: bool,
    /// What it says.
    pub content: Content,
}

/// Shows nothing of the citizen.
impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change").field("version", &self.version).finish_non_exhaustive()
    }
}

/// What a record says, by its register.
pub enum Content {
    /// Vaccination and testing.
    Fact(Fact),
    /// Population and insurance: identifiers of the citizen, as members of a line of `POST /v1/links`.
    Identifiers(String),
}

/// What is wrong with a change. Quotes nothing of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// The member, as a JSON pointer into the change; "" for the whole.
    pub field: String,
    /// The rule.
    pub rule: String,
}

impl Bad {
    pub(super) fn new(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { field: field.into(), rule: rule.into() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw<C> {
    record: String,
    version: u64,
    citizen: String,
    withdrawn: bool,
    content: C,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vaccination {
    product: String,
    dose: u8,
    doses: u8,
    #[serde(with = "as_date")]
    day: i32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    kind: TestKind,
    result: TestResult,
    #[serde(with = "as_time")]
    taken_at: UnixMillis,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Population {
    #[serde(skip_serializing_if = "Option::is_none")]
    qid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cti: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Insurance {
    insurance: String,
}

impl Page {
    /// Reads a page, all but the changes in it.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let page: Self = serde_json::from_slice(bytes).ok()?;
        page.keeps_the_contract().ok().map(|()| page)
    }

    /// Whether its cursors are cursors, and its size is within bounds.
    ///
    /// # Errors
    /// The member that isn't as the contract has it.
    pub fn keeps_the_contract(&self) -> Result<(), Bad> {
        const CURSOR: &str = "must be up to 64 visible ASCII characters";
        if !feed::is_cursor(&self.after) {
            return Err(Bad::new("/after", CURSOR));
        }
        if !feed::is_cursor(&self.cursor) {
            return Err(Bad::new("/cursor", CURSOR));
        }
        if self.behind > 0 && self.cursor == self.after {
            return Err(Bad::new("/cursor", "must differ from after where changes come behind the page"));
        }
        if self.changes.len() > CHANGES_MAX {
            return Err(Bad::new("/changes", format!("a page may have {CHANGES_MAX} changes")));
        }
        Ok(())
    }
}

impl Found {
    /// Reads an answer, all but the records in it.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let found: Self = serde_json::from_slice(bytes).ok()?;
        (found.records.len() <= CHANGES_MAX).then_some(found)
    }
}

impl Change {
    /// Reads a change of this register.
    ///
    /// # Errors
    /// The first thing wrong with it.
    pub fn read(register: RegisterId, value: Value) -> Result<Self, Bad> {
        let change = match register {
            RegisterId::Vaccination => raw(value)?.with(|Vaccination { product, dose, doses, day }| {
                Content::Fact(Fact::Vaccination { product, dose, doses, day })
            }),
            RegisterId::Testing => raw(value)?
                .with(|Test { kind, result, taken_at }| Content::Fact(Fact::Test { kind, result, taken_at })),
            RegisterId::Population => raw::<Population>(value)?.with(|content| identifiers(&content)),
            RegisterId::Insurance => raw::<Insurance>(value)?.with(|content| identifiers(&content)),
        };
        change.check()
    }

    fn check(self) -> Result<Self, Bad> {
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let record = self.record.as_bytes();
        if !(1..=RECORD_BYTES_MAX).contains(&record.len()) || !record.iter().all(u8::is_ascii_graphic) {
            return Err(Bad::new("/record", "must have 1 to 64 visible ASCII characters"));
        }
        if self.citizen.len() != 12 || !digits(&self.citizen) {
            return Err(Bad::new("/citizen", "must be 12 digits"));
        }
        if self.record.contains(self.citizen.as_str()) || (record.len() >= 9 && digits(&self.record)) {
            return Err(Bad::new("/record", "must not be or hold a person's number"));
        }
        Ok(self)
    }
}

impl<C> Raw<C> {
    fn with(self, content: impl FnOnce(C) -> Content) -> Change {
        let Self { record, version, citizen, withdrawn, content: told } = self;
        Change { record, version, citizen, withdrawn, content: content(told) }
    }
}

fn raw<C: DeserializeOwned>(value: Value) -> Result<Raw<C>, Bad> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        // What serde says may quote what was sent.
        let rule = "must be as the contract has it: a member is missing, unknown, or of another type";
        Bad::new(pointer(error.path()), rule)
    })
}

fn identifiers(content: &impl Serialize) -> Content {
    // Strings always serialize.
    Content::Identifiers(serde_json::to_string(content).unwrap_or_default())
}

impl Content {
    /// The line of the feed of links that ties the identifiers to the citizen, or takes that away.
    pub(super) fn line(&self, citizen: Option<&str>) -> Option<String> {
        let Self::Identifiers(members) = self else { return None };
        let members = members.strip_prefix('{')?;
        let separator = if members == "}" { "" } else { "," };
        let citizen = citizen.map_or_else(|| "null".to_owned(), |number| format!("\"{number}\""));
        Some(format!("{{\"citizen\":{citizen}{separator}{members}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dose() -> Value {
        let content = json!({"product": "EU/1/20/1528", "dose": 1, "doses": 2, "day": "2021-11-24"});
        json!({"record": "vx-1", "version": 1, "citizen": "001093029317", "withdrawn": false, "content": content})
    }

    #[test]
    fn a_bad_change_is_told_by_its_member_and_never_by_its_value() {
        assert!(Change::read(RegisterId::Vaccination, dose()).is_ok());
        for (member, value, field) in [
            ("/record", json!("001093029317"), "/record"),
            ("/record", json!("vx 1"), "/record"),
            ("/record", json!("vx-001093029317"), "/record"),
            ("/version", json!(-1), "/version"),
            ("/citizen", json!("00109302931"), "/citizen"),
            ("/citizen", json!(1_093_029_317_u64), "/citizen"),
            ("/withdrawn", Value::Null, "/withdrawn"),
            ("/content/dose", json!("one"), "/content/dose"),
            ("/content/day", json!("2021-11-31"), "/content/day"),
            ("/content", json!({"kind": "pcr"}), "/content/kind"),
        ] {
            let mut change = dose();
            *change.pointer_mut(member).unwrap() = value;
            let bad = Change::read(RegisterId::Vaccination, change).expect_err(member);
            assert_eq!(bad.field, field, "{member}");
            assert!(!bad.rule.contains("00109302931"), "{}", bad.rule);
        }
    }

    #[test]
    fn identifiers_become_a_line_of_links() {
        let change = json!({"record": "p-1", "version": 1, "citizen": "001093029317", "withdrawn": false,
                            "content": {"qid": "162979388586171100"}});
        let change = Change::read(RegisterId::Population, change).unwrap();
        let line = change.content.line(Some(&change.citizen)).unwrap();
        assert_eq!(line, r#"{"citizen":"001093029317","qid":"162979388586171100"}"#);
        let gone = change.content.line(None).unwrap();
        assert_eq!(gone, r#"{"citizen":null,"qid":"162979388586171100"}"#);
    }

    #[test]
    fn a_page_that_goes_nowhere_or_is_too_long_is_none() {
        let page = |after: &str, cursor: &str, behind: u64, changes: usize| Page {
            after: after.to_owned(),
            cursor: cursor.to_owned(),
            behind,
            changes: vec![Value::Null; changes],
        };
        assert_eq!(page("", "", 0, 0).keeps_the_contract(), Ok(()));
        for (wrong, field) in [
            (page("a", "a", 1, 1), "/cursor"),
            (page("a b", "c", 0, 0), "/after"),
            (page("", &"c".repeat(65), 0, 0), "/cursor"),
            (page("", "c", 0, CHANGES_MAX + 1), "/changes"),
        ] {
            assert_eq!(wrong.keeps_the_contract().expect_err(field).field, field);
        }
        assert_eq!(Page::parse(b"<html>"), None);
    }
}
