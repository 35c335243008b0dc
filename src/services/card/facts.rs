//! A person's facts in the shape on which rules are evaluated: an EU certificate's, so that its public rules read alike.
//!
//! ```text
//! payload.v[]  vaccinations: mp product, dn dose, sd doses of the series, dt day
//! payload.t[]  tests: tt LP6464-4 (PCR) or LP217198-3 (antigen), tr 260373001 (positive) or 260415000 (negative), sc taken at
//! payload.r[]  recoveries: fr day of the first positive test, df first and du last day on which it counts
//! external.validationClock  the time
//! ```
//!
//! Each list has its newest first, so that `payload.v.0` is the last dose. Days begin when they do in Việt Nam.

use serde_json::{Value as Json, json};

use crate::scan::{DAY_MS, UnixMillis};
use crate::services::health::fact::{Fact, Known, TestKind, TestResult};

/// Most facts of a kind that rules look at, newest first.
pub const FACTS_OF_KIND_MAX: usize = 16;

/// Lists of the payload, and the members that their items have.
pub const KINDS: [(&str, &[&str]); 3] =
    [("v", &["mp", "dn", "sd", "dt"]), ("t", &["tt", "tr", "sc"]), ("r", &["fr", "df", "du"])];

/// Facts in order, of each kind the newest first.
#[derive(Debug, Clone, Default)]
pub struct Facts<'a> {
    kinds: [Vec<&'a Fact>; 3],
}

impl<'a> Facts<'a> {
    /// Puts facts in order. The same fact, told by two sources, is one; of a dose told twice the first stands.
    pub fn of(facts: impl IntoIterator<Item = &'a Fact>) -> Self {
        let mut kinds: [Vec<&Fact>; 3] = Default::default();
        for fact in facts {
            if let Some(kind) = kinds.get_mut(kind_of(fact))
                && !kind.contains(&fact)
            {
                kind.push(fact);
            }
        }
        for kind in &mut kinds {
            kind.sort_by_key(|fact| std::cmp::Reverse(rank(fact)));
            kind.truncate(FACTS_OF_KIND_MAX);
        }
        Self { kinds }
    }

    /// The data that rules are evaluated on.
    pub fn data(&self, at: UnixMillis) -> Json {
        let mut payload = serde_json::Map::new();
        for ((name, _), facts) in KINDS.iter().zip(&self.kinds) {
            payload.insert((*name).to_owned(), facts.iter().map(|fact| written(fact)).collect());
        }
        json!({ "payload": payload, "external": { "validationClock": at.to_string() } })
    }

    /// The facts that a path leads to: `payload.t` to all tests, `payload.v.0.dt` to the newest dose.
    pub fn at(&self, path: &str) -> &[&'a Fact] {
        let mut parts = path.split('.').skip(1);
        let kind = parts.next().and_then(|name| KINDS.iter().position(|(kind, _)| *kind == name));
        let facts = kind.and_then(|kind| self.kinds.get(kind)).map(Vec::as_slice).unwrap_or_default();
        match parts.next().map(str::parse::<usize>) {
            None => facts,
            Some(Ok(index)) => facts.get(index..=index).unwrap_or_default(),
            Some(Err(_)) => &[],
        }
    }
}

/// The newest of when these facts arrived.
pub fn as_of(known: &[Known]) -> Option<UnixMillis> {
    known.iter().map(|known| known.provenance.received).max()
}

const fn kind_of(fact: &Fact) -> usize {
    match fact {
        Fact::Vaccination { .. } => 0,
        Fact::Test { .. } => 1,
        Fact::Recovery { .. } => 2,
    }
}

/// How new a fact is among those of its kind.
fn rank(fact: &Fact) -> (i64, u8) {
    match fact {
        Fact::Vaccination { day, dose, .. } => (i64::from(*day), *dose),
        Fact::Test { taken_at, result, .. } => (taken_at.0, u8::from(*result == TestResult::Positive)),
        Fact::Recovery { positive_day, .. } => (i64::from(*positive_day), 0),
    }
}

fn written(fact: &Fact) -> Json {
    match fact {
        Fact::Vaccination { product, dose, doses, day } => {
            json!({ "mp": product, "dn": dose, "sd": doses, "dt": midnight(*day) })
        }
        Fact::Test { kind, result, taken_at } => {
            let kind = match kind {
                TestKind::Pcr => "LP6464-4",
                TestKind::Antigen => "LP217198-3",
            };
            let result = match result {
                TestResult::Positive => "260373001",
                TestResult::Negative => "260415000",
            };
            json!({ "tt": kind, "tr": result, "sc": taken_at.to_string() })
        }
        Fact::Recovery { positive_day, from_day, until_day } => {
            json!({ "fr": midnight(*positive_day), "df": midnight(*from_day), "du": midnight(*until_day) })
        }
    }
}

/// When a day begins in Việt Nam, which has had one time all year round since 1975.
fn midnight(day: i32) -> String {
    let text = UnixMillis(i64::from(day) * DAY_MS).to_string();
    format!("{}T00:00:00+07:00", text.split('T').next().unwrap_or_default())
}
