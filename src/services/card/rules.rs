//! Rule sets: what they are as documents, and what makes one fit to decide.
//!
//! The first rule of a set whose logic holds gives the colour; where none does, it is unknown. A set brings cases with it,
//! and is refused unless every one of them comes out as it says and every rule decides one of them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::certlogic::{self, Access, Evaluation, Expression};
use super::colour::Colour;
use super::facts::{FACTS_OF_KIND_MAX, Facts, KINDS};
use crate::scan::UnixMillis;
use crate::services::health::fact::{Fact, as_time};
use crate::services::places::ProvinceCode;

/// Most bytes of a set's document.
pub const SET_BYTES_MAX: usize = 49_152;

const RULES_MAX: usize = 32;
const CASES_MAX: usize = 64;
const CASE_FACTS_MAX: usize = 16;
const SOURCES_MAX: usize = 16;
const TEXT_CHARS_MAX: usize = 500;
const ID_CHARS_MAX: usize = 32;

/// A text in both languages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Words {
    /// Vietnamese.
    pub vi: String,
    /// English.
    pub en: String,
}

/// A rule set as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    id: String,
    version: u32,
    /// Missing in a set for all provinces that have none of their own.
    province: Option<ProvinceCode>,
    #[serde(with = "as_time")]
    valid_from: UnixMillis,
    valid_to: Option<String>,
    title: Words,
    /// The documents that it follows.
    sources: Vec<String>,
    rules: Vec<RuleDocument>,
    cases: Vec<Case>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleDocument {
    id: String,
    colour: Colour,
    description: Words,
    logic: Json,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(with = "as_time")]
    at: UnixMillis,
    facts: Vec<Fact>,
    colour: Colour,
    /// Which rule decides; missing where none does.
    rule: Option<String>,
}

/// A rule that can decide.
#[derive(Debug)]
pub struct Rule {
    /// Its name within the set.
    pub id: String,
    /// What it gives.
    pub colour: Colour,
    /// What it says.
    pub description: Words,
    logic: Expression,
}

/// A rule set that can decide.
#[derive(Debug)]
pub struct RuleSet {
    /// Its name.
    pub id: String,
    /// Its version, from 1.
    pub version: u32,
    /// `id@version`.
    pub label: String,
    /// Where it is in force; everywhere else if there is none.
    pub province: Option<ProvinceCode>,
    /// From when.
    pub valid_from: UnixMillis,
    /// Until when it is in force; not at this time any more.
    pub valid_to: Option<UnixMillis>,
    /// What it is called.
    pub title: Words,
    /// The documents that it follows.
    pub sources: Vec<String>,
    /// Its rules, in the order in which they are asked.
    pub rules: Vec<Rule>,
    /// How many cases it was tried on.
    pub cases: usize,
}

/// What a set makes of a person's facts.
#[derive(Debug, Clone, Copy)]
pub struct Judgement<'a> {
    /// The colour.
    pub colour: Colour,
    /// The rule that gave it; none where none holds.
    pub rule: Option<&'a Rule>,
    /// Until when it stays so while the facts do.
    pub until: Option<UnixMillis>,
}

/// What is wrong with a document, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Wrong {
    /// JSON pointer (RFC 6901) from the document's root.
    pub at: String,
    /// Which rule it breaks. Names rules and cases by their ids.
    pub detail: Cow<'static, str>,
}

fn wrong<T>(at: impl Into<String>, detail: impl Into<Cow<'static, str>>) -> Result<T, Wrong> {
    Err(Wrong { at: at.into(), detail: detail.into() })
}

impl RuleSet {
    /// Reads a document and tries it on its cases.
    ///
    /// # Errors
    /// It is no rule set, a logic is malformed or looks at what is never there, or a case comes out otherwise.
    pub fn read(json: &[u8]) -> Result<Self, Wrong> {
        if json.len() > SET_BYTES_MAX {
            return wrong("", "a rule set may have 49,152 bytes");
        }
        let mut reader = serde_json::Deserializer::from_slice(json);
        let document: Document = serde_path_to_error::deserialize(&mut reader).map_err(|error| Wrong {
            at: crate::services::ask::pointer(error.path()),
            detail: Cow::Borrowed("a member is missing, unknown, or of another type than a rule set has"),
        })?;
        reader.end().or_else(|_| wrong("", "nothing may follow the document"))?;
        document.check()?;
        let valid_to = document.valid_to.as_deref().map(UnixMillis::parse).transpose();
        let valid_to = valid_to.or_else(|_| wrong("/valid_to", "must be a time as in RFC 3339"))?;
        if valid_to.is_some_and(|end| end <= document.valid_from) {
            return wrong("/valid_to", "must be later than valid_from");
        }
        let rules = document.rules.iter().enumerate().map(|(index, rule)| rule.read(index));
        let set = Self {
            label: format!("{}@{}", document.id, document.version),
            rules: rules.collect::<Result<_, _>>()?,
            id: document.id,
            version: document.version,
            province: document.province,
            valid_from: document.valid_from,
            valid_to,
            title: document.title,
            sources: document.sources,
            cases: document.cases.len(),
        };
        set.try_on(&document.cases)?;
        Ok(set)
    }

    /// Whether it is in force.
    pub fn is_valid_at(&self, at: UnixMillis) -> bool {
        self.valid_from <= at && self.valid_to.is_none_or(|end| at < end)
    }

    /// Judges by data made for this time. Where a logic has no value on them, its rule gives no better than unknown.
    pub fn judge(&self, data: &Json, at: UnixMillis) -> Judgement<'_> {
        let mut evaluation = Evaluation::on(data, at.0);
        let mut decided = (Colour::Unknown, None);
        for rule in &self.rules {
            // Each rule has all the steps that one may take.
            evaluation.rest();
            match evaluation.evaluate(&rule.logic).map(|value| value.truth()) {
                Ok(Some(true)) => decided = (rule.colour, Some(rule)),
                Ok(Some(false)) => continue,
                Ok(None) | Err(_) => decided = (Colour::Unknown, Some(rule)),
            }
            break;
        }
        let turns = evaluation.turns_at_ms().map(UnixMillis);
        let until = turns.into_iter().chain(self.valid_to).min();
        Judgement { colour: decided.0, rule: decided.1, until }
    }

    fn try_on(&self, cases: &[Case]) -> Result<(), Wrong> {
        let mut shown = BTreeSet::new();
        for (index, case) in cases.iter().enumerate() {
            let at = format!("/cases/{index}");
            if !self.is_valid_at(case.at) {
                return wrong(format!("{at}/at"), "must lie between valid_from and valid_to");
            }
            let judged = self.judge(&Facts::of(&case.facts).data(case.at), case.at);
            let rule = judged.rule.map(|rule| rule.id.as_str());
            if rule != case.rule.as_deref() {
                let detail = format!(
                    "{} decides this case",
                    rule.map_or("no rule".to_owned(), |id| format!("rule {id}"))
                );
                return wrong(format!("{at}/rule"), detail);
            }
            if judged.colour != case.colour {
                return wrong(
                    format!("{at}/colour"),
                    format!("this case comes out {}", judged.colour.name()),
                );
            }
            shown.extend(rule);
        }
        match self.rules.iter().enumerate().find(|(_, rule)| !shown.contains(rule.id.as_str())) {
            Some((index, rule)) => {
                wrong(format!("/rules/{index}"), format!("rule {} decides no case", rule.id))
            }
            None => Ok(()),
        }
    }
}

impl Rule {
    /// The facts that the rule looks at.
    pub fn facts<'a>(&self, facts: &Facts<'a>) -> Vec<&'a Fact> {
        let mut seen: Vec<&Fact> = Vec::new();
        self.logic.accesses(&mut |access| {
            let new = |fact: &&&'a Fact| !access.in_lambda && !seen.contains(*fact);
            let found: Vec<&Fact> = facts.at(access.path).iter().filter(new).copied().collect();
            seen.extend(found);
        });
        seen
    }
}

impl Document {
    fn check(&self) -> Result<(), Wrong> {
        if !is_id(&self.id) {
            return wrong("/id", "must have 1 to 32 of a-z, 0-9 and -");
        }
        if self.version == 0 {
            return wrong("/version", "must be from 1 on");
        }
        self.title.check("/title")?;
        if !(1..=SOURCES_MAX).contains(&self.sources.len()) || !self.sources.iter().all(|text| is_text(text))
        {
            return wrong("/sources", "must be 1 to 16 texts, each the name of a document");
        }
        if !(1..=RULES_MAX).contains(&self.rules.len()) {
            return wrong("/rules", "must be 1 to 32 rules");
        }
        if !(1..=CASES_MAX).contains(&self.cases.len()) {
            return wrong("/cases", "must be 1 to 64 cases");
        }
        for (index, case) in self.cases.iter().enumerate() {
            if !is_text(&case.name) {
                return wrong(format!("/cases/{index}/name"), "must have 1 to 500 characters");
            }
            if case.facts.len() > CASE_FACTS_MAX {
                return wrong(format!("/cases/{index}/facts"), "a case may have 16 facts");
            }
        }
        let mut ids = BTreeSet::new();
        match self.rules.iter().position(|rule| !ids.insert(&rule.id)) {
            Some(index) => {
                wrong(format!("/rules/{index}/id"), "must be another than those of the rules before")
            }
            None => Ok(()),
        }
    }
}

impl RuleDocument {
    fn read(&self, index: usize) -> Result<Rule, Wrong> {
        let at = format!("/rules/{index}");
        if !is_id(&self.id) {
            return wrong(format!("{at}/id"), "must have 1 to 32 of a-z, 0-9 and -");
        }
        self.description.check(&format!("{at}/description"))?;
        let logic = Expression::read(&self.logic).map_err(|malformed| Wrong {
            at: format!("{at}/logic{}", malformed.at),
            detail: format!("rule {}: {}", self.id, malformed.why).into(),
        })?;
        let mut refused = None;
        logic.accesses(&mut |access| {
            if refused.is_none() {
                refused = unknown(access).map(|why| (access.path.to_owned(), why));
            }
        });
        if let Some((path, why)) = refused {
            let found = pointer_to(&self.logic, &path, &format!("{at}/logic"));
            return wrong(found.unwrap_or(at), format!("rule {}: {why}", self.id));
        }
        let (id, colour, description) = (self.id.clone(), self.colour, self.description.clone());
        Ok(Rule { id, colour, description, logic })
    }
}

impl Words {
    fn check(&self, at: &str) -> Result<(), Wrong> {
        match [("vi", &self.vi), ("en", &self.en)].into_iter().find(|(_, text)| !is_text(text)) {
            Some((language, _)) => wrong(format!("{at}/{language}"), "must have 1 to 500 characters"),
            None => Ok(()),
        }
    }
}

fn is_id(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=ID_CHARS_MAX).contains(&text.len()) && text.bytes().all(is_part)
}

fn is_text(text: &str) -> bool {
    (1..=TEXT_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

/// What is wrong with looking at this, if anything is.
fn unknown(access: Access<'_>) -> Option<&'static str> {
    const NEVER: &str = "var names something that is never there";
    let member = |name: &str| KINDS.iter().any(|(_, members)| members.contains(&name));
    let parts: Vec<&str> = access.path.split('.').collect();
    if access.in_lambda {
        return match *parts.as_slice() {
            ["current" | "accumulator"] => None,
            ["current", name] if member(name) => None,
            _ => Some(NEVER),
        };
    }
    if access.path == certlogic::CLOCK {
        // Otherwise nobody could tell how long a colour lasts.
        let why = "the clock may only be the first operand of a plusTime that adds days or hours";
        return (!access.is_reckoned).then_some(why);
    }
    let ["payload", kind, rest @ ..] = parts.as_slice() else { return Some(NEVER) };
    let known = KINDS.iter().find(|(name, _)| name == kind).is_some_and(|(_, members)| match *rest {
        [] => true,
        [index] => is_index(index),
        [index, name] => is_index(index) && members.contains(&name),
        _ => false,
    });
    (!known).then_some(NEVER)
}

fn is_index(text: &str) -> bool {
    text.parse().is_ok_and(|index: usize| index < FACTS_OF_KIND_MAX && index.to_string() == text)
}

/// Where a path is looked at for the first time.
fn pointer_to(logic: &Json, path: &str, at: &str) -> Option<String> {
    match logic {
        Json::Object(members) => members.iter().find_map(|(name, operands)| {
            let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
            let is_it = name == "var" && operands == path;
            if is_it { Some(at) } else { pointer_to(operands, path, &at) }
        }),
        Json::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| pointer_to(item, path, &format!("{at}/{index}"))),
        _ => None,
    }
}
