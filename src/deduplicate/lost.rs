//! Taking a scan out again whose record was lost, as if it had never been admitted.
//!
//! Its client id and its entry of `earlier` are simply removed. `presence` is harder, as it holds only the
//! newest of each direction: whatever was newest without the lost scan must become it again. That is what
//! the scan superseded when it was admitted, unless that was lost in the meantime, or something came since
//! that is newer than that and older than the scan. Both are only of interest while the newest is in flight,
//! and stand that long in [`Hidden`]: usually empty, and looked at only for late scans and lost ones.

use parking_lot::Mutex;

use super::generations::Key;
use super::{Deduplicate, Presence, Seen, Slot};
use crate::scan::{Checkin, CheckinId, DirectionRequest, Scan};

/// Entries kept; past it the oldest go. What is hidden while a commit is under way are a few; this many lie
/// behind scans whose callers all went away within the second until the next sweep.
const HIDDEN_MAX: usize = 65_536;

/// What stands in `earlier` and would be the newest if a newest that is in flight were lost.
#[derive(Debug, Default)]
pub(super) struct Hidden(Mutex<Vec<Entry>>);

#[derive(Debug, Clone, Copy)]
struct Entry {
    pair: Key,
    by: CheckinId,
    seen: Seen,
}

impl Hidden {
    fn add(&self, entry: Entry) {
        let mut entries = self.0.lock();
        if entries.len() >= HIDDEN_MAX {
            entries.remove(0);
        }
        entries.push(entry);
    }

    /// Takes out what `by` hides.
    fn take(&self, pair: Key, by: CheckinId) -> Vec<Seen> {
        let behind = |entry: &mut Entry| entry.pair == pair && entry.by == by;
        self.0.lock().extract_if(.., behind).map(|entry| entry.seen).collect()
    }

    /// Takes out a lost scan, whatever hides it.
    fn remove(&self, pair: Key, lost: Seen) {
        self.0.lock().retain(|entry| entry.pair != pair || entry.seen != lost);
    }

    /// Drops what lies behind scans that are not in flight any more.
    pub(super) fn sweep(&self, is_in_flight: impl Fn(CheckinId) -> bool) {
        self.0.lock().retain(|entry| is_in_flight(entry.by));
    }
}

impl<T: Copy, P: Copy> Deduplicate<T, P> {
    /// Takes every trace of a scan out again, since its record was lost. `previous` is what was seen of its
    /// person at its place when it was admitted.
    #[cold]
    pub(super) fn forget(&self, checkin: &Checkin, previous: [Option<Seen>; 2]) {
        let scan = &checkin.scan;
        let pair = self.pair_key(scan.person, scan.place);
        let _serialised = self.stripe(pair).lock();
        self.clients.remove(&Key::from_bytes(scan.client.0), scan.received.0);
        let lost = Seen {
            at: scan.at,
            auto: scan.direction == DirectionRequest::Auto,
            direction: checkin.direction,
        };
        self.tickets.hidden.remove(pair, lost);
        let mut behind = self.tickets.hidden.take(pair, checkin.id);
        let superseded = |seen: &Seen| seen.direction == lost.direction && seen.at <= lost.at;
        let before = previous.into_iter().flatten().find(superseded);
        // What it superseded stands in `earlier`, unless that was lost as well.
        behind.extend(before.filter(|before| self.is_earlier(pair, *before)));
        self.forget_earlier(pair, lost);
        let seen = self.seen_here(pair);
        let newest = match seen.into_iter().flatten().find(|seen| seen.direction == lost.direction) {
            Some(newest) if newest.at != lost.at => Some(newest),
            _ => {
                let newest = behind.iter().copied().max_by_key(|seen| seen.at);
                let other = seen.into_iter().flatten().find(|seen| seen.direction != lost.direction);
                match newest.or(other) {
                    Some(any) => self.set_presence(pair, scan.received, [other, None], any),
                    None => self.presence.remove_found(&pair),
                }
                newest
            }
        };
        if let Some(newest) = newest {
            for seen in behind.into_iter().filter(|seen| *seen != newest) {
                self.hide_behind(scan, pair, newest, seen);
            }
        }
        self.tickets.remove(checkin.id);
    }

    /// Notes that `newest` hides `seen`, for as long as that is in flight. `scan` is of the same person.
    pub(super) fn hide_behind(&self, scan: &Scan, pair: Key, newest: Seen, seen: Seen) {
        let by = self.original(scan, newest).id;
        if self.tickets.get(by).is_some() {
            self.tickets.hidden.add(Entry { pair, by, seen });
        }
    }

    fn forget_earlier(&self, pair: Key, lost: Seen) {
        let (key, start) = self.bucket_of(pair, lost.at);
        let Some(mut held) = self.earlier.get(&key, start) else { return };
        if !held.seen(start).contains(&Some(lost)) {
            return;
        }
        *held.at(lost.direction) = Slot::default();
        if held == Presence::default() {
            self.earlier.remove(&key, start);
        } else {
            self.earlier.upsert(key, start, |_| held);
        }
    }

    fn is_earlier(&self, pair: Key, seen: Seen) -> bool {
        let (key, start) = self.bucket_of(pair, seen.at);
        self.earlier.get(&key, start).is_some_and(|held| held.seen(start).contains(&Some(seen)))
    }
}
