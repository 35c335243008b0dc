//! What must be so: the definition of a duplicate, and the book of everything that was recorded and told.

use std::collections::{BTreeMap, BTreeSet};

use scangate::deduplicate::Original;
use scangate::scan::{Checkin, CheckinId, ClientKey, Direction, DirectionRequest, PlaceKey, Pseudonym, Scan};

/// A gateway's memory as its definition has it: everything known, compared with everything.
pub struct Definition {
    pairs: BTreeMap<(Pseudonym, PlaceKey), Vec<Checkin>>,
    clients: BTreeMap<ClientKey, Original>,
    unsure: BTreeSet<(Pseudonym, PlaceKey)>,
    auto_reset_ms: i64,
}

/// What a scan must be.
#[derive(Debug)]
pub enum Expected {
    /// A repetition of one of these.
    Repeats(Vec<Original>),
    /// New, under this direction.
    Fresh(Direction),
}

impl Definition {
    pub fn new(auto_reset_s: u32) -> Self {
        Self {
            pairs: BTreeMap::new(),
            clients: BTreeMap::new(),
            unsure: BTreeSet::new(),
            auto_reset_ms: i64::from(auto_reset_s) * 1000,
        }
    }

    pub fn add(&mut self, checkin: &Checkin) {
        self.remember_client(checkin.scan.client, original(checkin));
        self.pairs.entry((checkin.scan.person, checkin.scan.place)).or_default().push(*checkin);
    }

    /// Another client id for what is known. The first meaning of an id stays.
    pub fn remember_client(&mut self, client: ClientKey, original: Original) {
        self.clients.entry(client).or_insert(original);
    }

    pub fn forget(&mut self, checkin: &Checkin) {
        self.clients.remove(&checkin.scan.client);
        if let Some(known) = self.pairs.get_mut(&(checkin.scan.person, checkin.scan.place)) {
            known.retain(|other| other != checkin);
        }
        if checkin.scan.window_s == 0 {
            self.unsure.insert((checkin.scan.person, checkin.scan.place));
        }
    }

    /// Whether the direction of an `auto` scan can't be relied on: a memory keeps the older check-ins of a
    /// person only as far as a window needs them, so where there is none, the last one may be lost with
    /// those whose commit failed.
    pub fn is_unsure(&self, scan: &Scan) -> bool {
        scan.direction == DirectionRequest::Auto && self.unsure.contains(&(scan.person, scan.place))
    }

    /// What is known of the scan's person at its place, in the order it became known.
    pub fn of(&self, scan: &Scan) -> String {
        let known = self.pairs.get(&(scan.person, scan.place)).into_iter().flatten();
        let line = |known: &Checkin| {
            let Scan { at, received, direction, .. } = known.scan;
            format!(
                "\n    {} at {} received {} {direction} -> {}",
                known.id, at.0, received.0, known.direction
            )
        };
        known.map(line).collect()
    }

    pub fn expect(&self, scan: &Scan) -> Expected {
        if let Some(original) = self.clients.get(&scan.client) {
            return Expected::Repeats(vec![*original]);
        }
        let known = self.pairs.get(&(scan.person, scan.place)).map_or(&[][..], Vec::as_slice);
        let direction = match scan.direction {
            DirectionRequest::In => Direction::In,
            DirectionRequest::Out => Direction::Out,
            DirectionRequest::Auto => match known.iter().max_by_key(|known| (known.scan.at, known.direction))
            {
                Some(last) if apart_ms(last, scan) <= self.auto_reset_ms => last.direction.toggled(),
                _ => Direction::In,
            },
        };
        let is_auto = scan.direction == DirectionRequest::Auto;
        let near = || {
            let counts = known.iter().filter(|known| is_auto || known.direction == direction);
            counts.filter(|known| apart_ms(known, scan) < i64::from(scan.window_s) * 1000)
        };
        match near().map(|known| apart_ms(known, scan)).min() {
            None => Expected::Fresh(direction),
            Some(least) => Expected::Repeats(
                near().filter(|known| apart_ms(known, scan) == least).map(original).collect(),
            ),
        }
    }
}

fn apart_ms(known: &Checkin, scan: &Scan) -> i64 {
    (known.scan.at.0 - scan.at.0).abs()
}

fn original(checkin: &Checkin) -> Original {
    Original { id: checkin.id, direction: checkin.direction }
}

/// What became of a record that was handed to a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Not known yet.
    Pending,
    /// On disk, the journal said.
    Durable,
    /// Nothing of it was kept, the journal said.
    Gone,
    /// Its gateway ended, or its journal was poisoned, before it could be known.
    Unknown,
}

#[derive(Debug, Clone, Copy)]
pub struct Record {
    pub checkin: Checkin,
    pub gateway: usize,
    pub fate: Fate,
}

/// An answer that left a gateway.
#[derive(Debug, Clone, Copy)]
pub enum Told {
    Recorded(Checkin),
    Duplicate(Scan, Original),
}

/// Everything that was recorded and told.
#[derive(Default)]
pub struct Ledger {
    pub records: Vec<Record>,
    by_id: BTreeMap<CheckinId, Vec<usize>>,
    pub told: Vec<Told>,
}

impl Ledger {
    /// Enters a record, and returns its number.
    pub fn append(&mut self, gateway: usize, checkin: Checkin) -> usize {
        let number = self.records.len();
        self.records.push(Record { checkin, gateway, fate: Fate::Pending });
        self.by_id.entry(checkin.id).or_default().push(number);
        number
    }

    pub fn of_id(&self, id: CheckinId) -> impl Iterator<Item = &Record> {
        self.by_id.get(&id).into_iter().flatten().map(|number| &self.records[*number])
    }

    /// A gateway found this record in its journal at a start.
    pub fn replayed(&mut self, gateway: usize, checkin: &Checkin) -> Result<(), String> {
        let same = |number: &&usize| {
            let record = &self.records[**number];
            record.gateway == gateway && record.checkin == *checkin
        };
        let numbers = self.by_id.get(&checkin.id).map_or(&[][..], Vec::as_slice);
        let mut same: Vec<usize> = numbers.iter().filter(same).copied().collect();
        // The same bytes may have been refused and taken later: then the later record came back.
        same.sort_by_key(|number| self.records[*number].fate == Fate::Gone);
        let Some(&number) = same.first() else {
            return Err(format!("gateway {gateway} replayed a record that it was never given: {checkin:?}"));
        };
        if self.records[number].fate == Fate::Gone {
            return Err(format!("gateway {gateway} replayed a record that was refused: {checkin:?}"));
        }
        self.records[number].fate = Fate::Durable;
        Ok(())
    }
}
