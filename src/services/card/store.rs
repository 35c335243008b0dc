//! The rule sets that officers brought, and the events that bring them.
//!
//! A set is longer than an event may be: it comes in parts, which are kept until an event says that they are all there.
//!
//! ```text
//! card_rules1  id 0 version(4)      ->  the document
//! card_parts1  SHA-256(32) part(2)  ->  a part of a document with this hash
//! ```

use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fjall::{Keyspace, OwnedWriteBatch};
use serde::{Deserialize, Serialize};

use super::SETS_MAX;
use super::rules::{RuleSet, SET_BYTES_MAX};
use crate::journal::Event;
use crate::respond::{Cause, Refused};
use crate::services::capability::{Effect, State, StateError};
use crate::verify::{hex, unhex};

const RULES: &str = "card_rules1";
const PARTS: &str = "card_parts1";

/// Bytes of a part: 3,600 characters of Base64, which an event has room for.
const PART_BYTES: usize = 2_700;

/// Most versions of a set.
const VERSIONS_MAX: usize = 512;

/// What the log holds.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Change {
    /// A part of a document.
    Part { document: String, part: u16, base64: String },
    /// All parts of a document are there.
    Put { document: String, parts: u16 },
}

/// What became of a set.
#[derive(Debug, Serialize)]
struct Taken<'a> {
    id: &'a str,
    version: u32,
    rules: usize,
    cases: usize,
}

/// The tables.
pub(super) struct Stored {
    rules: Keyspace,
    parts: Keyspace,
}

/// The events that bring a document, in order.
pub(super) fn events(document: &[u8]) -> Vec<Vec<u8>> {
    let hash = digest::digest(&digest::SHA256, document);
    let name = hex(hash.as_ref());
    let parts = document.chunks(PART_BYTES).zip(0_u16..).map(|(bytes, part)| Change::Part {
        document: name.clone(),
        part,
        base64: STANDARD.encode(bytes),
    });
    let count = u16::try_from(document.len().div_ceil(PART_BYTES)).unwrap_or(u16::MAX);
    let put = Change::Put { document: name.clone(), parts: count };
    // Strings and numbers always serialize.
    parts.chain([put]).map(|change| serde_json::to_vec(&change).unwrap_or_default()).collect()
}

/// Whether an event may have changed the rules.
pub(super) fn changes_rules(event: &Event) -> bool {
    matches!(serde_json::from_slice(&event.body), Ok(Change::Put { .. }))
}

impl Stored {
    pub(super) fn open(state: &State) -> Result<Self, StateError> {
        Ok(Self { rules: state.table(RULES)?, parts: state.table(PARTS)? })
    }

    /// The highest version of each set.
    pub(super) fn all(&self) -> Result<Vec<Arc<RuleSet>>, StateError> {
        let mut sets: Vec<Arc<RuleSet>> = Vec::new();
        for guard in self.rules.iter() {
            let set = read(&guard.value()?)?;
            if sets.last().is_some_and(|last| last.id == set.id) {
                sets.pop();
            }
            sets.push(Arc::new(set));
        }
        Ok(sets)
    }

    pub(super) fn apply(&self, event: &Event, batch: &mut OwnedWriteBatch) -> Result<Effect, StateError> {
        let meaningless = || Refused::new(Cause::Invalid, "the event means nothing here");
        match serde_json::from_slice(&event.body) {
            Ok(Change::Part { document, part, base64 }) => {
                let (Some(hash), Ok(bytes)) = (unhex::<32>(&document), STANDARD.decode(base64)) else {
                    return Ok(Effect::Refused(meaningless()));
                };
                batch.insert(&self.parts, key(hash, part), bytes);
                Ok(Effect::Done(Vec::new()))
            }
            Ok(Change::Put { document, parts }) => match unhex(&document) {
                Some(hash) => self.put(hash, parts, batch),
                None => Ok(Effect::Refused(meaningless())),
            },
            Err(_) => Ok(Effect::Refused(meaningless())),
        }
    }

    fn put(&self, hash: [u8; 32], parts: u16, batch: &mut OwnedWriteBatch) -> Result<Effect, StateError> {
        let mut document = Vec::new();
        for part in 0..parts {
            if let Some(bytes) = self.parts.get(key(hash, part))? {
                document.extend_from_slice(&bytes);
            }
            if document.len() > SET_BYTES_MAX {
                break;
            }
        }
        // Whatever a request that broke off has left goes too, or it would stay for ever. One that is under way is refused
        // below, and comes again.
        for guard in self.parts.iter() {
            batch.remove(&self.parts, guard.key()?);
        }
        if digest::digest(&digest::SHA256, &document).as_ref() != hash {
            let detail = "another rule set was brought at the same time; send it again";
            return Ok(Effect::Refused(Refused::new(Cause::Conflict, detail)));
        }
        let set = match RuleSet::read(&document) {
            Ok(set) => set,
            Err(wrong) => {
                return Ok(Effect::Refused(Refused::new(Cause::Invalid, wrong.detail).field(wrong.at)));
            }
        };
        if let Some(before) = self.rules.get(version_key(&set))? {
            let same = *before == *document.as_slice();
            return Ok(if same { Effect::done(&taken(&set)) } else { Effect::Refused(not_newer()) });
        }
        let versions = self.rules.prefix([set.id.as_bytes(), &[0]].concat()).take(VERSIONS_MAX);
        let mut last = None;
        let mut count = 0;
        for guard in versions {
            last = guard.key()?.last_chunk::<4>().map(|version| u32::from_be_bytes(*version));
            count += 1;
        }
        if last.is_some_and(|last| last > set.version) {
            return Ok(Effect::Refused(not_newer()));
        }
        if count >= VERSIONS_MAX || (count == 0 && self.all()?.len() >= SETS_MAX) {
            let detail = "there are as many rule sets, or versions of this one, as are kept";
            return Ok(Effect::Refused(Refused::new(Cause::Invalid, detail).field("/id")));
        }
        let effect = Effect::created(&taken(&set));
        batch.insert(&self.rules, version_key(&set), document);
        Ok(effect)
    }
}

/// The refusal of a version that isn't the newest.
pub(super) fn not_newer() -> Refused {
    let detail = "this version of the rule set, or a higher one, says otherwise; a change takes a higher one";
    Refused::new(Cause::Conflict, detail).field("/version")
}

fn taken(set: &RuleSet) -> Taken<'_> {
    Taken { id: &set.id, version: set.version, rules: set.rules.len(), cases: set.cases }
}

fn read(document: &[u8]) -> Result<RuleSet, StateError> {
    RuleSet::read(document).map_err(|_| StateError::Damaged { table: RULES })
}

fn key(hash: [u8; 32], part: u16) -> Vec<u8> {
    [&hash[..], &part.to_be_bytes()].concat()
}

fn version_key(set: &RuleSet) -> Vec<u8> {
    [set.id.as_bytes(), &[0], &set.version.to_be_bytes()].concat()
}
