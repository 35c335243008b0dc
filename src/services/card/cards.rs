//! The cards of everybody: the table in force, and what keeps it true.
//!
//! A person is judged anew when their facts change, at once and on the log's thread, and when one of their colours ends, by
//! the thread `card`, which looks each second. Where the rules change it makes a new table beside the old one, which goes on
//! answering until the other is whole; changes of facts go to both meanwhile.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

use super::rules::RuleSet;
use super::table::{Look, SHARDS, Table, shard_of};
use crate::scan::{PlaceKey, Pseudonym, UnixMillis};
use crate::services::capability::StateError;
use crate::services::health::Health;
use crate::services::health::fact::Known;
use crate::services::places::{Places, ProvinceCode};

/// Persons that are handed to a thread together.
const TOGETHER: usize = 256;

/// Where facts come from.
pub trait FactsOf: Send + Sync {
    /// What is known of a person now.
    ///
    /// # Errors
    /// The disk failed.
    fn facts_of(&self, person: Pseudonym) -> Result<Vec<Known>, StateError>;

    /// Calls `each` with everybody of whom something is known, more than once perhaps.
    ///
    /// # Errors
    /// The disk failed.
    fn each_person(&self, each: &mut dyn FnMut(Pseudonym)) -> Result<(), StateError>;
}

impl FactsOf for Health {
    fn facts_of(&self, person: Pseudonym) -> Result<Vec<Known>, StateError> {
        Self::facts_of(self, person)
    }

    fn each_person(&self, each: &mut dyn FnMut(Pseudonym)) -> Result<(), StateError> {
        Self::each_person(self, each)
    }
}

/// Everybody's cards.
pub struct Cards {
    facts: Arc<dyn FactsOf>,
    places: Arc<Places>,
    /// Every rule set that is known, in force or not.
    sets: Mutex<Vec<Arc<RuleSet>>>,
    rules_changed: AtomicBool,
    table: ArcSwap<Table>,
    /// One that is being filled.
    next: ArcSwapOption<Table>,
    /// Who judges a person has their turn, so that older facts are never written over newer ones.
    turns: Vec<Mutex<()>>,
    /// Until when the registers have told all that they know, in milliseconds; 0 where nobody says.
    told_until: AtomicI64,
}

impl Cards {
    /// Cards without rules and without persons.
    pub fn new(facts: Arc<dyn FactsOf>, places: Arc<Places>) -> Self {
        Self {
            facts,
            places,
            sets: Mutex::new(Vec::new()),
            rules_changed: AtomicBool::new(false),
            table: ArcSwap::from_pointee(Table::new(&[], UnixMillis(0))),
            next: ArcSwapOption::empty(),
            turns: (0..SHARDS).map(|_| Mutex::new(())).collect(),
            told_until: AtomicI64::new(0),
        }
    }

    /// The card that a place sees: by the rules of the province it lies in, where the directory knows the place, and by the
    /// national ones elsewhere.
    pub fn at_place(&self, person: Pseudonym, place: PlaceKey, now: UnixMillis) -> Look {
        self.look(person, self.places.get(place).map(|place| place.province), now)
    }

    /// The card by the rules of a province, or by the national ones.
    pub fn look(&self, person: Pseudonym, province: Option<ProvinceCode>, now: UnixMillis) -> Look {
        let mut look = self.table.load().look(person, province, now);
        let told = self.told_until.load(Ordering::Relaxed);
        if told > 0 && look.rules.is_some() {
            look.as_of = look.as_of.max(Some(UnixMillis(told)));
        }
        look
    }

    /// The rule set in force in a province.
    pub fn rules(&self, province: Option<ProvinceCode>) -> Option<Arc<RuleSet>> {
        self.table.load().set(province).cloned()
    }

    /// Those of the rule sets that are in force.
    pub fn in_force(&self) -> Vec<Arc<RuleSet>> {
        self.table.load().sets().to_vec()
    }

    /// Persons of whom something is known.
    pub fn persons(&self) -> usize {
        self.table.load().len()
    }

    /// Says until when the registers have told all that they know: facts are at least as new as that.
    pub fn told_until(&self, at: UnixMillis) {
        self.told_until.store(at.0, Ordering::Relaxed);
    }

    /// Takes other rule sets. They are in force from the next [`Cards::tick`] on.
    pub fn take_rules(&self, sets: Vec<Arc<RuleSet>>) {
        *self.sets.lock() = sets;
        self.rules_changed.store(true, Ordering::Release);
    }

    /// Judges a person anew, since their facts are others now.
    ///
    /// # Errors
    /// The disk failed.
    pub fn facts_changed(&self, person: Pseudonym, now: UnixMillis) -> Result<(), StateError> {
        let Some(turn) = self.turns.get(shard_of(person)) else { return Ok(()) };
        let _turn = turn.lock();
        let known = self.facts.facts_of(person)?;
        // The one being filled first: what takes its place in between has been told.
        if let Some(next) = &*self.next.load() {
            next.judge(person, &known, now);
        }
        self.table.load().judge(person, &known, now);
        Ok(())
    }

    /// Judges everybody, at a start: on all processors, since nobody is served yet.
    ///
    /// # Errors
    /// The disk failed.
    pub fn load(&self, now: UnixMillis) -> Result<(), StateError> {
        self.rules_changed.store(false, Ordering::Release);
        self.make_anew(now, std::thread::available_parallelism().map_or(1, NonZero::get))
    }

    /// Does what time and rules ask for. One thread at a time.
    ///
    /// # Errors
    /// The disk failed; the table stays as it was, and what ended in it is unknown.
    pub fn tick(&self, now: UnixMillis) -> Result<(), StateError> {
        let rules_changed = self.rules_changed.swap(false, Ordering::Acquire);
        if rules_changed || !self.table.load().stands_at(now) {
            let made = self.make_anew(now, 1);
            if made.is_err() {
                self.next.store(None);
                self.rules_changed.store(true, Ordering::Release);
            }
            return made;
        }
        let table = self.table.load_full();
        for shard in 0..SHARDS {
            for person in table.ended(shard, now) {
                if let Err(error) = self.facts_changed(person, now) {
                    table.look_again(shard);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn make_anew(&self, now: UnixMillis, threads: usize) -> Result<(), StateError> {
        let next = Arc::new(Table::new(&self.sets.lock(), now));
        self.next.store(Some(Arc::clone(&next)));
        let failed = Mutex::new(Ok(()));
        std::thread::scope(|scope| {
            let (send, receive) = sync_channel::<Vec<Pseudonym>>(threads);
            let receive = Arc::new(Mutex::new(receive));
            for _ in 0..threads {
                let (receive, next, failed) = (Arc::clone(&receive), &next, &failed);
                scope.spawn(move || {
                    while let Some(persons) = taken(&receive) {
                        if let Err(error) = self.judge_all(&persons, next, now) {
                            *failed.lock() = Err(error);
                            // Nobody takes more, and who walks over the persons is told.
                            break;
                        }
                    }
                });
            }
            drop(receive);
            let mut persons = Vec::with_capacity(TOGETHER);
            let mut send_on = true;
            let walked = self.facts.each_person(&mut |person| {
                persons.push(person);
                if persons.len() == TOGETHER && send_on {
                    send_on = send.send(std::mem::take(&mut persons)).is_ok();
                } else if !send_on {
                    persons.clear();
                }
            });
            // Only a thread that failed doesn't take them.
            let _ = send.send(persons);
            walked
        })?;
        failed.into_inner()?;
        self.table.store(next);
        self.next.store(None);
        Ok(())
    }

    fn judge_all(&self, persons: &[Pseudonym], next: &Table, now: UnixMillis) -> Result<(), StateError> {
        for person in persons {
            let Some(turn) = self.turns.get(shard_of(*person)) else { continue };
            let _turn = turn.lock();
            next.judge(*person, &self.facts.facts_of(*person)?, now);
        }
        Ok(())
    }
}

/// The next persons to be judged; none once all are.
fn taken(receive: &Mutex<Receiver<Vec<Pseudonym>>>) -> Option<Vec<Pseudonym>> {
    receive.lock().recv().ok()
}
