//! Scans between admission and commit.

use parking_lot::Mutex;

use super::lost::Hidden;
use super::{Deduplicate, Seen};
use crate::scan::{Checkin, CheckinId};

/// Locks over the tickets; a power of two. Few scans are in flight at once, so short lists beat a map.
const SHELVES: usize = 1024;

/// A scan between admission and commit. Dropped unsettled (its caller went away), it is settled by the
/// first [`Deduplicate::sweep`] after its commit.
#[must_use]
#[derive(Debug)]
pub struct InFlight<'a, T: Copy, P: Copy> {
    memory: &'a Deduplicate<T, P>,
    checkin: Checkin,
    previous: [Option<Seen>; 2],
    ticket: T,
    settled: bool,
}

impl<'a, T: Copy, P: Copy> InFlight<'a, T, P> {
    pub(super) fn new(
        memory: &'a Deduplicate<T, P>,
        checkin: Checkin,
        previous: [Option<Seen>; 2],
        ticket: T,
    ) -> Self {
        Self { memory, checkin, previous, ticket, settled: false }
    }

    /// The journal's ticket.
    pub fn ticket(&self) -> T {
        self.ticket
    }

    /// The record is on disk: from now on a duplicate is answered at once.
    pub fn durable(mut self, proof: P) -> Checkin {
        self.settled = true;
        self.memory.durable(self.checkin.id, proof);
        self.checkin
    }

    /// The record was lost: the same scan sent again must be admitted as new.
    pub fn failed(mut self) {
        self.settled = true;
        self.memory.forget(&self.checkin, self.previous);
    }
}

impl<T: Copy, P: Copy> Drop for InFlight<'_, T, P> {
    fn drop(&mut self) {
        if !self.settled {
            let orphan = Orphan { checkin: self.checkin, previous: self.previous, ticket: self.ticket };
            self.memory.tickets.orphans.lock().push(orphan);
        }
    }
}

/// A scan whose caller went away before its commit.
#[derive(Debug)]
pub(super) struct Orphan<T> {
    pub(super) checkin: Checkin,
    pub(super) previous: [Option<Seen>; 2],
    ticket: T,
}

type Shelf<T> = Mutex<Vec<(u64, T)>>;

/// The journal's tickets of all scans in flight, by the hash in their id. What has no ticket is durable.
#[derive(Debug)]
pub(super) struct Tickets<T> {
    shelves: Box<[Shelf<T>]>,
    orphans: Mutex<Vec<Orphan<T>>>,
    pub(super) hidden: Hidden,
}

impl<T: Copy> Tickets<T> {
    pub(super) fn new() -> Self {
        Self {
            shelves: (0..SHELVES).map(|_| Mutex::new(Vec::new())).collect(),
            orphans: Mutex::new(Vec::new()),
            hidden: Hidden::default(),
        }
    }

    pub(super) fn insert(&self, id: CheckinId, ticket: T) {
        self.shelf(id).lock().push((id.hash(), ticket));
    }

    pub(super) fn get(&self, id: CheckinId) -> Option<T> {
        let shelf = self.shelf(id).lock();
        shelf.iter().find(|(hash, _)| *hash == id.hash()).map(|(_, ticket)| *ticket)
    }

    pub(super) fn remove(&self, id: CheckinId) {
        let mut shelf = self.shelf(id).lock();
        if let Some(index) = shelf.iter().position(|(hash, _)| *hash == id.hash()) {
            shelf.swap_remove(index);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shelves.iter().map(|shelf| shelf.lock().len()).sum()
    }

    /// Takes out the orphans whose commit is known, each with its proof if it succeeded.
    pub(super) fn settled<P>(&self, outcome: impl Fn(T) -> Option<Option<P>>) -> Vec<(Orphan<T>, Option<P>)> {
        let mut settled = Vec::new();
        let mut orphans = self.orphans.lock();
        for orphan in std::mem::take(&mut *orphans) {
            match outcome(orphan.ticket) {
                Some(proof) => settled.push((orphan, proof)),
                None => orphans.push(orphan),
            }
        }
        settled
    }

    fn shelf(&self, id: CheckinId) -> &Shelf<T> {
        let index = usize::try_from(id.hash() % SHELVES as u64).unwrap_or_default();
        #[allow(clippy::indexing_slicing)] // Taken modulo the slice's fixed length.
        &self.shelves[index]
    }
}
