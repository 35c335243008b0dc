//! Who met whom: a case's contacts out of the store's check-ins.
//!
//! Depth one are those who were at a place together with the case's person, or at the case's place; depth two are those
//! who met one of them from that meeting on. Nobody counts twice: who is of depth one is not of depth two, and who met
//! several of depth one is listed under the one they were with longest.
//!
//! What is read: the person's days, then of each place they were at the time around the stay, as long before and after
//! as a stay may be; then, of those whose entry or exit is missing, the days around it. Pseudonyms of one citizen are
//! one person, as the links say now.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::StreamExt as _;
use futures_util::stream;

use super::stays::{Assumed, Rules, Stay, meetings, overlap, seconds, stays};
use crate::identity::links::{Links, LinksError};
use crate::scan::{Checkin, DAY_MS, PlaceKey, Pseudonym, UnixMillis};
use crate::store::fold::fold;
use crate::store::{Store, StoreError};

/// Reads under way at once, which is what a database on other machines takes to be quick.
const READS: usize = 16;

/// The meetings that one contact is listed with; more are counted.
const MEETINGS_MAX: usize = 64;

/// Around whom or what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Around {
    /// A person, by the citizen's pseudonym.
    Person(Pseudonym),
    /// A place.
    Place(PlaceKey),
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Around whom or what.
    pub around: Around,
    /// First moment.
    pub from: UnixMillis,
    /// First moment that is left out.
    pub to: UnixMillis,
    /// 1, or 2 for the contacts of contacts as well.
    pub depth: u8,
}

/// What a search may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Contacts told; those with the least time go.
    pub contacts_max: usize,
    /// Rows read, about 130 bytes of memory each if they are all of one place.
    pub rows_max: u64,
}

/// Where two were together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Meeting {
    /// When it began.
    pub from: UnixMillis,
    /// When it ended.
    pub to: UnixMillis,
    /// Where.
    pub place: PlaceKey,
    /// Whether an end of either's stay is missing, and the rule's.
    pub assumed: bool,
}

/// One contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Who, by the citizen's pseudonym.
    pub person: Pseudonym,
    /// 1 or 2.
    pub depth: u8,
    /// The contact of depth one that they met, for one of depth two.
    pub via: Option<Pseudonym>,
    /// How long, each moment once.
    pub seconds: i64,
    /// Where and when, the first of them.
    pub meetings: Vec<Meeting>,
    /// How many there were.
    pub meetings_total: usize,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// By depth, then person.
    pub contacts: Vec<Contact>,
    /// The bound that cut it short, by its name in the configuration.
    pub bound: Option<&'static str>,
    /// Rows read.
    pub rows: u64,
}

/// Why a search failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// The store can't be read.
    #[error("the store can't be read")]
    Store(#[from] StoreError),
    /// The links can't be read.
    #[error("the links can't be read")]
    Links(#[from] LinksError),
}

/// A meeting, and whose it is.
struct Met {
    seed: Pseudonym,
    person: Pseudonym,
    meeting: Meeting,
}

/// A search in a store. Blocks the thread where the store is the embedded one.
pub struct Search<'a> {
    store: &'a Store,
    links: &'a Links,
    rules: Rules,
    bounds: Bounds,
    rows: Cell<u64>,
}

impl<'a> Search<'a> {
    /// A search by these rules.
    pub fn new(store: &'a Store, links: &'a Links, rules: Rules, bounds: Bounds) -> Self {
        Self { store, links, rules, bounds, rows: Cell::new(0) }
    }

    /// Finds the contacts.
    ///
    /// # Errors
    /// Something can't be read.
    pub async fn contacts(&self, question: &Question) -> Result<Found, SearchError> {
        let (mut left_out, first) = match question.around {
            Around::Person(person) => {
                let seeds = self.stays_of(person, question.from, question.to).await?;
                (BTreeSet::from([person]), self.met(&seeds).await?)
            }
            Around::Place(place) => (BTreeSet::new(), self.visitors(place, question).await?),
        };
        let mut by_person: BTreeMap<Pseudonym, Vec<Meeting>> = BTreeMap::new();
        for met in first.into_iter().filter(|met| !left_out.contains(&met.person)) {
            by_person.entry(met.person).or_default().push(met.meeting);
        }
        let second = if question.depth > 1 {
            let mut seeds = Vec::new();
            for (person, meetings) in &by_person {
                let since = meetings.iter().map(|meeting| meeting.from).min().unwrap_or(question.to);
                seeds.extend(self.stays_of(*person, since, question.to).await?);
                if self.is_spent() {
                    break;
                }
            }
            left_out.extend(by_person.keys());
            self.met(&seeds).await?
        } else {
            Vec::new()
        };
        let mut contacts: Vec<Contact> =
            by_person.into_iter().map(|(person, meetings)| contact(person, None, meetings)).collect();
        contacts.extend(of_depth_two(second, &left_out));
        Ok(self.bounded(contacts))
    }

    fn bounded(&self, mut contacts: Vec<Contact>) -> Found {
        let mut bound = self.is_spent().then_some("tracing.rows_max");
        if contacts.len() > self.bounds.contacts_max {
            contacts.sort_unstable_by_key(|contact| (contact.depth, -contact.seconds, contact.person));
            contacts.truncate(self.bounds.contacts_max);
            bound = Some("tracing.contacts_max");
        }
        contacts.sort_unstable_by_key(|contact| (contact.depth, contact.person));
        Found { contacts, bound, rows: self.rows.get() }
    }

    /// Whether as much was read as may be. What is read next is then left out.
    fn is_spent(&self) -> bool {
        self.rows.get() >= self.bounds.rows_max
    }

    fn took(&self, rows: &[Checkin]) {
        self.rows.set(self.rows.get() + rows.len() as u64);
    }

    /// A citizen's stays in the range, as far as they lie in it.
    ///
    /// # Errors
    /// Something can't be read.
    pub async fn stays_of(
        &self,
        person: Pseudonym,
        from: UnixMillis,
        to: UnixMillis,
    ) -> Result<Vec<Stay>, SearchError> {
        let history = self.history(person, self.around(from, to)).await?;
        let mut places: BTreeMap<PlaceKey, Vec<Checkin>> = BTreeMap::new();
        for row in &history {
            places.entry(row.scan.place).or_default().push(*row);
        }
        let mut found = Vec::new();
        for rows in places.values() {
            for mut stay in stays(rows, &self.rules) {
                stay.tighten(&history);
                found.extend(stay.within(from, to));
            }
        }
        Ok(found)
    }

    /// The range, and around it as much as a stay may be long.
    fn around(&self, from: UnixMillis, to: UnixMillis) -> (UnixMillis, UnixMillis) {
        let stay_ms = self.rules.stay_ms;
        (UnixMillis(from.0.saturating_sub(stay_ms).max(0)), UnixMillis(to.0.saturating_add(stay_ms)))
    }

    /// A person's check-ins on the days of a range, under all their pseudonyms, folded, by event time.
    async fn history(
        &self,
        person: Pseudonym,
        (from, to): (UnixMillis, UnixMillis),
    ) -> Result<Vec<Checkin>, SearchError> {
        let mut pseudonyms = self.links.aliases_of(person)?;
        pseudonyms.push(person);
        let mut rows = Vec::new();
        for own in pseudonyms {
            if self.is_spent() {
                break;
            }
            let read = self.store.person_history(own, from.day(), to.day()).await?;
            self.took(&read);
            rows.extend(read);
        }
        for row in &mut rows {
            row.scan.person = person;
        }
        fold(&mut rows);
        Ok(rows)
    }

    /// A place's check-ins in a range, each under the citizen's pseudonym, folded, by event time; a day at a time, so
    /// that the bound holds within a day's rows.
    async fn place(
        &self,
        place: PlaceKey,
        (from, to): (UnixMillis, UnixMillis),
    ) -> Result<Vec<Checkin>, SearchError> {
        let (mut rows, mut since) = (Vec::new(), from);
        while since < to && !self.is_spent() {
            let next = UnixMillis((i64::from(since.day()) + 1).saturating_mul(DAY_MS)).min(to);
            let read = self.store.place_rows(place, since, next).await?;
            self.took(&read);
            rows.extend(read);
            since = next;
        }
        for row in &mut rows {
            row.scan.person = self.links.citizen_of(row.scan.person);
        }
        fold(&mut rows);
        Ok(rows)
    }

    /// Who was at the place in the range, and when.
    async fn visitors(&self, place: PlaceKey, question: &Question) -> Result<Vec<Met>, SearchError> {
        let rows = self.place(place, self.around(question.from, question.to)).await?;
        let in_range = |stay: &Stay| stay.within(question.from, question.to).is_some();
        let mut found = stays(&rows, &self.rules);
        found.retain(in_range);
        let histories = self.histories(found.iter()).await?;
        let visits = found.into_iter().filter_map(|mut stay| {
            stay.tighten(histories.get(&stay.person).map_or(&[], Vec::as_slice));
            stay.within(question.from, question.to)
        });
        let long = visits.filter(|stay| stay.to.0.saturating_sub(stay.from.0) >= self.rules.overlap_ms);
        Ok(long.map(|stay| met(&stay, &stay, (stay.from, stay.to))).collect())
    }

    /// Whoever met one of the stays' persons there.
    async fn met(&self, seeds: &[Stay]) -> Result<Vec<Met>, SearchError> {
        let mut windows: Vec<(PlaceKey, Vec<Stay>, (UnixMillis, UnixMillis))> = Vec::new();
        let mut by_place = seeds.to_vec();
        by_place.sort_unstable_by_key(|stay| (stay.place, stay.from));
        for stay in by_place {
            let (from, to) = self.around(stay.from, stay.to);
            match windows.last_mut() {
                Some((place, of_window, (_, until))) if *place == stay.place && from <= *until => {
                    of_window.push(stay);
                    *until = to.max(*until);
                }
                _ => windows.push((stay.place, vec![stay], (from, to))),
            }
        }
        let mut reads = stream::iter(windows)
            .map(|(place, of_window, range)| async move { (of_window, self.place(place, range).await) })
            .buffered(READS);
        let mut pairs: Vec<(Stay, Stay)> = Vec::new();
        while let Some((of_window, rows)) = reads.next().await {
            let others = stays(&rows?, &self.rules);
            let met = meetings(&of_window, &others, &self.rules);
            pairs.extend(met.into_iter().map(|(seed, other)| (*seed, *other)));
        }
        let histories = self.histories(pairs.iter().map(|(_, other)| other)).await?;
        let found = pairs.into_iter().filter_map(|(seed, mut other)| {
            other.tighten(histories.get(&other.person).map_or(&[], Vec::as_slice));
            overlap(&seed, &other, &self.rules).map(|when| met(&seed, &other, when))
        });
        Ok(found.collect())
    }

    /// The check-ins, around those stays, of everybody whose entry or exit is missing.
    async fn histories(
        &self,
        stays: impl Iterator<Item = &Stay>,
    ) -> Result<HashMap<Pseudonym, Vec<Checkin>>, SearchError> {
        let mut ranges: BTreeMap<Pseudonym, (UnixMillis, UnixMillis)> = BTreeMap::new();
        for stay in stays.filter(|stay| stay.assumed != Assumed::Neither) {
            let range = ranges.entry(stay.person).or_insert((stay.from, stay.to));
            *range = (range.0.min(stay.from), range.1.max(stay.to));
        }
        let mut reads = stream::iter(ranges)
            .map(|(person, range)| async move { (person, self.history(person, range).await) })
            .buffered(READS);
        let mut histories = HashMap::new();
        while let Some((person, rows)) = reads.next().await {
            histories.insert(person, rows?);
        }
        Ok(histories)
    }
}

fn met(seed: &Stay, other: &Stay, (from, to): (UnixMillis, UnixMillis)) -> Met {
    let assumed = [seed, other].iter().any(|stay| stay.assumed != Assumed::Neither);
    Met {
        seed: seed.person,
        person: other.person,
        meeting: Meeting { from, to, place: other.place, assumed },
    }
}

fn contact(person: Pseudonym, via: Option<Pseudonym>, mut meetings: Vec<Meeting>) -> Contact {
    meetings.sort_unstable();
    let seconds = seconds(meetings.iter().map(|meeting| (meeting.from, meeting.to)).collect());
    let meetings_total = meetings.len();
    meetings.truncate(MEETINGS_MAX);
    Contact { person, depth: if via.is_some() { 2 } else { 1 }, via, seconds, meetings, meetings_total }
}

/// Each of them once, by way of the contact they were with longest.
fn of_depth_two(found: Vec<Met>, left_out: &BTreeSet<Pseudonym>) -> Vec<Contact> {
    let mut by_person: BTreeMap<Pseudonym, BTreeMap<Pseudonym, Vec<Meeting>>> = BTreeMap::new();
    for met in found.into_iter().filter(|met| !left_out.contains(&met.person)) {
        by_person.entry(met.person).or_default().entry(met.seed).or_default().push(met.meeting);
    }
    let longest = |(person, paths): (Pseudonym, BTreeMap<Pseudonym, Vec<Meeting>>)| {
        let paths = paths.into_iter().map(|(via, meetings)| contact(person, Some(via), meetings));
        // Of equal ones the first, so that it is the same each time.
        paths.reduce(|best, other| if other.seconds > best.seconds { other } else { best })
    };
    by_person.into_iter().filter_map(longest).collect()
}

#[cfg(test)]
mod tests;
