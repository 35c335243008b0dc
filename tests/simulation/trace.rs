//! What happened, in order: for the eye when a seed fails, and as a hash for the proof that a seed
//! always plays the same.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::rc::Rc;

use scangate::scan::{Direction, DirectionRequest};

/// Kinds of events that are counted.
pub const REMARKABLE: usize = 17;

/// One event. Check-ins are named by the hash in their id, scans by their number.
#[derive(Debug, Clone, Copy, Hash)]
pub enum What {
    Scanned { scan: usize, device: usize, person: u8, place: u8, direction: DirectionRequest, late_ms: i64 },
    Sent { device: usize, scans: usize },
    Unreachable,
    Fresh { scan: usize, id: u64, direction: Direction },
    Repeats { scan: usize, id: u64, durable: bool },
    NotTaken { scan: usize },
    Committed { ok: usize, failed: usize },
    Answered { scan: usize, recorded: bool, refused: bool },
    AnswerLost,
    Disconnected,
    Swept,
    Drained { rows: usize },
    SegmentGone,
    StoreFailed,
    StoreDown { ms: i64 },
    ClockStepped { ms: i64 },
    DiskFaults,
    DiskCapacity(usize),
    StopsSoon,
    Killed { power: bool },
    Stopped { drained: bool },
    Started { replayed: usize },
    NotStarted,
    Healed,
}

#[derive(Debug, Clone, Copy, Hash)]
struct Event {
    at_ms: i64,
    gateway: Option<usize>,
    what: What,
}

#[derive(Default)]
struct State {
    hasher: DefaultHasher,
    events: Vec<Event>,
}

/// The events so far. Clones are the same trace.
#[derive(Clone, Default)]
pub struct Trace(Rc<RefCell<State>>);

impl Trace {
    pub fn note(&self, at_ms: i64, gateway: Option<usize>, what: What) {
        let event = Event { at_ms, gateway, what };
        let mut state = self.0.borrow_mut();
        event.hash(&mut state.hasher);
        state.events.push(event);
    }

    /// Adds what is remarkable to counts of it.
    pub fn count(&self, counts: &mut BTreeMap<&'static str, u64>) {
        for event in &self.0.borrow().events {
            let remarkable = match event.what {
                What::Answered { recorded: true, .. } => "answers: recorded",
                What::Answered { refused: true, .. } => "answers: refused",
                What::Answered { .. } => "answers: duplicate",
                What::AnswerLost => "answers lost",
                What::Repeats { durable: false, .. } => "duplicates of scans in flight",
                What::NotTaken { .. } => "scans the journal did not take",
                What::Committed { failed: 1.., .. } => "commits that failed",
                What::Disconnected => "requests dropped",
                What::SegmentGone => "segments deleted",
                What::StoreFailed => "writes that the store failed",
                What::Killed { power: true } => "ends by power",
                What::Killed { power: false } => "ends by kill",
                What::Stopped { drained: true } => "stops with all drained",
                What::Stopped { drained: false } => "stops behind",
                What::NotStarted => "starts that failed",
                What::Started { replayed: 1.. } => "starts with a replay",
                What::ClockStepped { .. } => "clock steps",
                _ => continue,
            };
            *counts.entry(remarkable).or_default() += 1;
        }
    }

    pub fn hash(&self) -> u64 {
        self.0.borrow().hasher.finish()
    }

    /// The last `count` events, one a line.
    pub fn last(&self, count: usize) -> String {
        let state = self.0.borrow();
        let mut text = String::new();
        for event in state.events.iter().skip(state.events.len().saturating_sub(count)) {
            let gateway = event.gateway.map_or(String::from("-"), |gateway| gateway.to_string());
            let (seconds, ms) = (event.at_ms / 1000, event.at_ms % 1000);
            writeln!(text, "{seconds:6}.{ms:03} s  gateway {gateway}  {:?}", event.what).unwrap();
        }
        text
    }
}
