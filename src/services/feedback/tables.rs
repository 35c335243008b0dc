//! The tables of feedback, and what an event does to them.

use std::collections::BTreeMap;

use fjall::{Keyspace, OwnedWriteBatch};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::event::{Sent, Text, Told};
use super::item::{Item, State, Step, written};
use crate::journal::Event;
use crate::respond::{Cause, Refused};
use crate::services::capability::{Effect, State as Tables, StateError};
use crate::verify::hex;

/// What has the same text and category, from the same sender, within this time is one.
pub const REPEAT_MS: i64 = 10 * 60 * 1_000;

/// Pieces and photos that one event lets go of at most.
pub const EXPIRED_MAX: usize = 100;

/// The tables.
pub struct Store {
    /// Id → [`Item`] as JSON.
    items: Keyspace,
    /// State or 0, since when, id → nothing.
    queue: Keyspace,
    /// `r` and a receipt's hash, `i` and an id's, `t` and a text's → id.
    keys: Keyspace,
    /// A photo's id → [`Photo`] as JSON.
    photos: Keyspace,
    /// Draft and number → [`Part`] as JSON.
    parts: Keyspace,
    /// Name → number, eight bytes.
    counts: Keyspace,
}

/// A photo that is on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Photo {
    bytes: u64,
    at: i64,
    used: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Part {
    at: i64,
    text: String,
}

/// What is told of feedback that was taken, besides its receipt.
#[derive(Debug, Serialize, Deserialize)]
pub struct Taken {
    /// Its id.
    pub id: String,
    /// How far it has come.
    pub state: State,
    /// When it came.
    pub received: String,
}

/// What is told of a step.
#[derive(Debug, Serialize)]
struct Moved<'a> {
    id: &'a str,
    state: State,
    revision: u32,
}

const OPEN: &str = "open_anonymous";

impl Store {
    /// Opens them.
    ///
    /// # Errors
    /// They can't be opened.
    pub fn open(tables: &Tables) -> Result<Self, StateError> {
        Ok(Self {
            items: tables.table("feedback_item1")?,
            queue: tables.table("feedback_queue1")?,
            keys: tables.table("feedback_key1")?,
            photos: tables.table("feedback_photo1")?,
            parts: tables.table("feedback_part1")?,
            counts: tables.table("feedback_count1")?,
        })
    }

    /// Does what an event says.
    ///
    /// # Errors
    /// The tables can't be read.
    pub fn apply(&self, event: &Event, batch: &mut OwnedWriteBatch) -> Result<Effect, StateError> {
        let Ok(told) = serde_json::from_slice::<Told>(&event.body) else {
            return Err(StateError::Damaged { table: "feedback's log" });
        };
        let at = event.at.0;
        match told {
            Told::Part { draft, number, text } => {
                put(batch, &self.parts, part_key(&draft, number), &Part { at, text });
                Ok(Effect::Done(vec![]))
            }
            Told::Sent(sent) => self.sent(hex(&event.id), at, *sent, batch),
            Told::Moved { id, to, revision, answer, by } => {
                self.moved(&id, (to, revision, answer), Step { to, at, by }, batch)
            }
            Told::Photo { id, bytes } => {
                let used = self.photo(&id)?.map_or(0, |photo| photo.used);
                put(batch, &self.photos, id, &Photo { bytes, at, used });
                Ok(Effect::Done(vec![]))
            }
            Told::Expired { unused_before, unchanged_before } => {
                self.expired(unused_before, unchanged_before, batch)
            }
        }
    }

    fn sent(
        &self,
        id: String,
        at: i64,
        sent: Sent,
        batch: &mut OwnedWriteBatch,
    ) -> Result<Effect, StateError> {
        let (key, repeat) = (format!("i{}", sent.key), format!("t{}", sent.repeat));
        if let Some(item) = self.by_key(&key)? {
            if item.content != sent.content {
                let refused = Refused::new(Cause::Conflict, "something else was sent under this id before");
                return Ok(Effect::Refused(refused.field("/id")));
            }
            return Ok(self.again(item, vec![receipt_key(&sent.receipt)], batch));
        }
        let repeated = self.by_key(&repeat)?.filter(|item| at.saturating_sub(item.at) < REPEAT_MS);
        if let Some(item) = repeated {
            return Ok(self.again(item, vec![receipt_key(&sent.receipt), key], batch));
        }
        let open = self.open_anonymous()?;
        if sent.sender.is_none() && open >= sent.open_max {
            let detail = "too much that nobody signed waits for an answer; signed feedback is taken";
            let refused = Refused::new(Cause::Unavailable, detail).bound("feedback.anonymous_open_max");
            return Ok(Effect::Refused(refused.limit(sent.open_max, Some(open)).retry_after(3_600)));
        }
        if let Some(photo) = &sent.photo {
            let Some(known) = self.photo(photo)? else {
                return Ok(Effect::Refused(unknown_photo()));
            };
            put(batch, &self.photos, photo.clone(), &Photo { used: known.used.saturating_add(1), ..known });
        }
        let Some(text) = self.whole(sent.text, batch)? else { return Ok(Effect::Refused(torn("/text"))) };
        let keys = vec![receipt_key(&sent.receipt), key, repeat];
        for key in &keys {
            batch.insert(&self.keys, key.as_bytes(), id.as_bytes());
        }
        let (category, language, place, photo) = (sent.category, sent.language, sent.place, sent.photo);
        let (sender, state) = (sent.sender, State::Received);
        let item = Item {
            id,
            at,
            changed: at,
            category,
            language,
            text,
            place,
            photo,
            sender,
            state,
            revision: 0,
            answer: None,
            history: vec![],
            content: sent.content,
            keys,
        };
        batch.insert(&self.queue, item.queue_key(None), []);
        batch.insert(&self.queue, item.queue_key(Some(state)), []);
        if item.is_open_anonymous() {
            batch.insert(&self.counts, OPEN, (open + 1).to_be_bytes());
        }
        put(batch, &self.items, item.id.clone(), &item);
        Ok(Effect::created(&taken(&item)))
    }

    /// The same once more: one piece, and another receipt for it, since whoever sends it may never have seen the first.
    fn again(&self, mut item: Item, keys: Vec<String>, batch: &mut OwnedWriteBatch) -> Effect {
        if !item.has_room_for_a_receipt() {
            let refused =
                Refused::new(Cause::RateLimited, "the same was sent too often; it was taken the first time");
            return Effect::Refused(refused.field("/text").retry_after(600));
        }
        for key in keys {
            batch.insert(&self.keys, key.as_bytes(), item.id.as_bytes());
            item.keys.push(key);
        }
        put(batch, &self.items, item.id.clone(), &item);
        Effect::done(&taken(&item))
    }

    fn moved(
        &self,
        id: &str,
        (to, revision, answer): (State, u32, Option<Text>),
        step: Step,
        batch: &mut OwnedWriteBatch,
    ) -> Result<Effect, StateError> {
        let Some(mut item) = self.item(id)? else {
            return Ok(Effect::Refused(Refused::new(Cause::NotFound, "there is no such feedback")));
        };
        let answer = match answer {
            None => None,
            Some(text) => match self.whole(text, batch)? {
                None => return Ok(Effect::Refused(torn("/answer"))),
                whole => whole,
            },
        };
        let told =
            |item: &Item| Effect::done(&Moved { id: &item.id, state: item.state, revision: item.revision });
        let is_repeated = item.revision == revision.saturating_add(1)
            && item.history.last().is_some_and(|last| last.to == to && last.by == step.by)
            && (answer.is_none() || item.answer == answer);
        if is_repeated {
            return Ok(told(&item));
        }
        if let Err(refused) = may_move(&item, (to, revision), answer.is_some()) {
            return Ok(Effect::Refused(refused));
        }
        let was_counted = item.is_open_anonymous();
        batch.remove(&self.queue, item.queue_key(Some(item.state)));
        (item.state, item.changed, item.revision) = (to, step.at, item.revision + 1);
        item.answer = answer.or(item.answer);
        item.history.push(step);
        batch.insert(&self.queue, item.queue_key(Some(to)), []);
        if was_counted && !item.is_open_anonymous() {
            let open = self.open_anonymous()?.saturating_sub(1);
            batch.insert(&self.counts, OPEN, open.to_be_bytes());
        }
        put(batch, &self.items, item.id.clone(), &item);
        Ok(told(&item))
    }

    fn expired(
        &self,
        unused_before: i64,
        unchanged_before: i64,
        batch: &mut OwnedWriteBatch,
    ) -> Result<Effect, StateError> {
        for photo in self.unused_photos(unused_before)? {
            batch.remove(&self.photos, photo);
        }
        for key in self.abandoned_parts(unused_before)? {
            batch.remove(&self.parts, key);
        }
        let mut open = self.open_anonymous()?;
        let mut given_back: BTreeMap<String, u32> = BTreeMap::new();
        for item in self.unchanged(unchanged_before)? {
            open = open.saturating_sub(u64::from(item.is_open_anonymous()));
            if let Some(photo) = &item.photo {
                *given_back.entry(photo.clone()).or_default() += 1;
            }
            for key in &item.keys {
                // The key of a text may be a later piece's by now.
                if self.keys.get(key)?.is_some_and(|id| *id == *item.id.as_bytes()) {
                    batch.remove(&self.keys, key.as_bytes());
                }
            }
            batch.remove(&self.queue, item.queue_key(None));
            batch.remove(&self.queue, item.queue_key(Some(item.state)));
            batch.remove(&self.items, item.id.as_bytes());
        }
        for (id, times) in given_back {
            if let Some(photo) = self.photo(&id)? {
                let used = photo.used.saturating_sub(times);
                put(batch, &self.photos, id, &Photo { used, ..photo });
            }
        }
        batch.insert(&self.counts, OPEN, open.to_be_bytes());
        Ok(Effect::Done(vec![]))
    }

    /// Whether anything is there for an [`Told::Expired`] of these moments to let go of.
    ///
    /// # Errors
    /// The tables can't be read.
    pub fn has_expired(&self, unused_before: i64, unchanged_before: i64) -> Result<bool, StateError> {
        Ok(!self.unchanged(unchanged_before)?.is_empty()
            || !self.unused_photos(unused_before)?.is_empty()
            || !self.abandoned_parts(unused_before)?.is_empty())
    }

    fn unchanged(&self, before: i64) -> Result<Vec<Item>, StateError> {
        let mut items = Vec::new();
        for state in State::ALL {
            let (from, mut to) = (vec![state.code()], vec![state.code()]);
            to.extend_from_slice(&before.max(0).to_be_bytes());
            for guard in self.queue.range(from..to).take(EXPIRED_MAX - items.len()) {
                items.extend(self.of_queue(&guard.key()?)?);
            }
        }
        Ok(items)
    }

    fn unused_photos(&self, before: i64) -> Result<Vec<String>, StateError> {
        let mut unused = Vec::new();
        for guard in self.photos.iter() {
            let (key, value) = guard.into_inner()?;
            let photo: Photo = read(&value, "feedback_photo1")?;
            if photo.used == 0 && photo.at < before && unused.len() < EXPIRED_MAX {
                unused.push(String::from_utf8_lossy(&key).into_owned());
            }
        }
        Ok(unused)
    }

    fn abandoned_parts(&self, before: i64) -> Result<Vec<Vec<u8>>, StateError> {
        let mut abandoned = Vec::new();
        for guard in self.parts.iter().take(EXPIRED_MAX) {
            let (key, value) = guard.into_inner()?;
            if read::<Part>(&value, "feedback_part1")?.at < before {
                abandoned.push(key.to_vec());
            }
        }
        Ok(abandoned)
    }

    /// A text put together; its parts go.
    fn whole(&self, text: Text, batch: &mut OwnedWriteBatch) -> Result<Option<String>, StateError> {
        let (draft, count) = match text {
            Text::Here(text) => return Ok(Some(text)),
            Text::Parts { draft, count } => (draft, count),
        };
        let mut whole = String::new();
        for number in 0..count {
            let key = part_key(&draft, number);
            let Some(part) = get::<Part>(&self.parts, &key, "feedback_part1")? else { return Ok(None) };
            whole.push_str(&part.text);
            batch.remove(&self.parts, key);
        }
        Ok(Some(whole))
    }

    /// How many pieces wait that nobody signed.
    ///
    /// # Errors
    /// The tables can't be read.
    pub fn open_anonymous(&self) -> Result<u64, StateError> {
        let value = self.counts.get(OPEN)?;
        Ok(value.and_then(|value| value.first_chunk().copied()).map_or(0, u64::from_be_bytes))
    }

    /// The piece with this id.
    ///
    /// # Errors
    /// The tables can't be read.
    pub fn item(&self, id: &str) -> Result<Option<Item>, StateError> {
        get(&self.items, id.as_bytes(), "feedback_item1")
    }

    /// The piece that a receipt with this hash is for.
    ///
    /// # Errors
    /// The tables can't be read.
    pub fn of_receipt(&self, hash: &str) -> Result<Option<Item>, StateError> {
        self.by_key(&receipt_key(hash))
    }

    /// The photo with this id.
    ///
    /// # Errors
    /// The tables can't be read.
    pub fn photo(&self, id: &str) -> Result<Option<Photo>, StateError> {
        get(&self.photos, id.as_bytes(), "feedback_photo1")
    }

    /// Up to `max` pieces of a state, or of all, behind a place in the queue, and whether there are more.
    ///
    /// # Errors
    /// The tables can't be read.
    pub fn page(
        &self,
        state: Option<State>,
        after: &[u8],
        max: usize,
    ) -> Result<(Vec<Item>, bool), StateError> {
        let code = state.map_or(0, State::code);
        let mut from = vec![code];
        from.extend_from_slice(after);
        let to = vec![code + 1];
        let mut items = Vec::new();
        for guard in self.queue.range(from.clone()..to) {
            let key = guard.key()?;
            if *key == *from {
                continue;
            }
            if items.len() == max {
                return Ok((items, true));
            }
            items.extend(self.of_queue(&key)?);
        }
        Ok((items, false))
    }

    fn of_queue(&self, key: &[u8]) -> Result<Option<Item>, StateError> {
        let id = key.get(9..).unwrap_or_default();
        get(&self.items, id, "feedback_item1")
    }

    fn by_key(&self, key: &str) -> Result<Option<Item>, StateError> {
        match self.keys.get(key)? {
            Some(id) => get(&self.items, &id, "feedback_item1"),
            None => Ok(None),
        }
    }
}

fn may_move(item: &Item, (to, revision): (State, u32), has_answer: bool) -> Result<(), Refused> {
    if item.revision != revision {
        let detail = format!("it was changed since; it is {} now", item.state.name());
        let refused = Refused::new(Cause::Conflict, detail).field("/revision");
        return Err(refused.limit(u64::from(item.revision), Some(u64::from(revision))));
    }
    if !item.state.next().contains(&to) {
        let next: Vec<_> = item.state.next().iter().map(|state| state.name()).collect();
        let next = if next.is_empty() { "nowhere".to_owned() } else { next.join(", ") };
        let detail = format!("from {} it goes to {next}", item.state.name());
        return Err(Refused::new(Cause::Conflict, detail).field("/to"));
    }
    if has_answer != (to == State::Answered) {
        let detail = "an answer belongs to the step to answered, and to no other";
        return Err(Refused::new(Cause::Invalid, detail).field("/answer"));
    }
    Ok(())
}

/// The refusal of a photo that isn't there.
pub fn unknown_photo() -> Refused {
    Refused::new(Cause::Invalid, "photo must be the id of a photo that was sent within the last hour")
        .field("/photo")
}

fn torn(field: &'static str) -> Refused {
    Refused::new(Cause::Unavailable, "it took too long to be recorded; nothing was").field(field)
}

fn taken(item: &Item) -> Taken {
    Taken { id: item.id.clone(), state: item.state, received: written(item.at) }
}

fn receipt_key(hash: &str) -> String {
    format!("r{hash}")
}

fn part_key(draft: &str, number: u8) -> Vec<u8> {
    [draft.as_bytes(), &[number]].concat()
}

fn put(
    batch: &mut OwnedWriteBatch,
    table: &Keyspace,
    key: impl Into<fjall::UserKey>,
    value: &impl Serialize,
) {
    // Structs of strings and numbers always serialize.
    batch.insert(table, key, serde_json::to_vec(value).unwrap_or_default());
}

fn get<T: DeserializeOwned>(
    table: &Keyspace,
    key: &[u8],
    name: &'static str,
) -> Result<Option<T>, StateError> {
    table.get(key)?.map(|value| read(&value, name)).transpose()
}

fn read<T: DeserializeOwned>(value: &[u8], table: &'static str) -> Result<T, StateError> {
    serde_json::from_slice(value).map_err(|_| StateError::Damaged { table })
}
