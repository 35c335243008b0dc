use fjall::OwnedWriteBatch;
use futures_util::future::join_all;

use super::*;
use crate::journal::EVENT_BODY_BYTES_MAX;

/// Keeps each event's body under the number of events before it, and refuses what begins with "no".
struct Tally {
    table: Keyspace,
    /// From this event on, the tables fail.
    fails_from: u64,
    applied: AtomicU64,
}

impl Tally {
    fn new(state: &State, fails_from: u64) -> Arc<Self> {
        Arc::new(Self { table: state.table("tally1").unwrap(), fails_from, applied: AtomicU64::new(0) })
    }

    fn bodies(&self) -> Vec<Vec<u8>> {
        self.table.iter().map(|entry| entry.value().unwrap().to_vec()).collect()
    }
}

impl Capability for Tally {
    fn kind(&self) -> Kind {
        Kind::Feedback
    }

    fn apply(&self, event: &Event, batch: &mut OwnedWriteBatch) -> Result<Effect, StateError> {
        let count = self.table.len()? as u64;
        if count >= self.fails_from {
            return Err(StateError::Damaged { table: "tally1" });
        }
        assert!(event.body != b"panic", "an error in a capability");
        if event.body.starts_with(b"no") {
            return Ok(Effect::Refused(Refused::new(Cause::Conflict, "no")));
        }
        batch.insert(&self.table, count.to_be_bytes(), event.body.as_slice());
        Ok(Effect::created(&count))
    }

    fn applied(&self, _: &Event) {
        self.applied.fetch_add(1, Ordering::Relaxed);
    }
}

const SMALL: Settings = Settings { segment_bytes: 64 << 10, bytes_max: 128 << 10, retain_ms: 0 };
const LARGE: Settings = Settings { segment_bytes: 1 << 20, bytes_max: 64 << 20, retain_ms: 0 };

fn open(dir: &Path, settings: &Settings, fails_from: u64) -> (Arc<Tally>, EventLog) {
    let state = State::open(&dir.join("tables")).unwrap();
    let tally = Tally::new(&state, fails_from);
    let log = EventLog::open(&dir.join("log"), settings, &state, vec![Arc::clone(&tally) as _]).unwrap();
    (tally, log)
}

fn record(log: &EventLog, body: &str) -> Result<Effect, Refused> {
    log.record_blocking(Kind::Feedback, body.as_bytes().to_vec(), UnixMillis::now())
}

#[test]
fn an_event_is_answered_once_it_is_applied_and_counts_once_whatever_comes() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..4_u64 {
        let (tally, log) = open(dir.path(), &LARGE, u64::MAX);
        assert_eq!(tally.bodies().len() as u64, round * 10);
        for number in 0..10 {
            let count = round * 10 + number;
            assert_eq!(record(&log, "yes"), Ok(Effect::created(&count)));
            assert_eq!(tally.bodies().len() as u64, count + 1);
        }
        assert!(matches!(record(&log, "no"), Ok(Effect::Refused(_))));
        assert_eq!(tally.applied.load(Ordering::Relaxed), 11);
        let counted: Vec<_> = log.applied_by_kind().into_iter().filter(|(_, events)| *events > 0).collect();
        assert_eq!((counted, log.applied_total()), (vec![("feedback", 11)], 11));
    }
}

#[test]
fn events_that_came_together_are_all_answered_in_the_logs_order() {
    let dir = tempfile::tempdir().unwrap();
    let (tally, log) = open(dir.path(), &LARGE, u64::MAX);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let bodies: Vec<String> = (0..500).map(|number| format!("{number:04}")).collect();
    let told = runtime.block_on(join_all(
        bodies.iter().map(|body| log.record(Kind::Feedback, body.clone().into_bytes(), UnixMillis::now())),
    ));
    for (count, told) in told.into_iter().enumerate() {
        assert_eq!(told, Ok(Effect::created(&count)));
    }
    assert_eq!(tally.bodies(), bodies.iter().map(|body| body.clone().into_bytes()).collect::<Vec<_>>());
}

#[test]
fn what_could_not_be_applied_is_refused_kept_and_applied_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (_, log) = open(dir.path(), &LARGE, 2);
        assert!(record(&log, "a").is_ok() && record(&log, "b").is_ok());
        assert_eq!(record(&log, "c").unwrap_err().cause, Cause::Unavailable);
        assert!(!log.is_sound());
        assert_eq!(record(&log, "d").unwrap_err().cause, Cause::Unavailable);
    }
    let (tally, log) = open(dir.path(), &LARGE, u64::MAX);
    assert_eq!(tally.bodies(), [b"a", b"b", b"c"]);
    assert!(log.is_sound() && record(&log, "e").is_ok());
}

#[test]
fn a_panic_in_a_capability_leaves_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let (_, log) = open(dir.path(), &LARGE, u64::MAX);
    assert_eq!(record(&log, "panic").unwrap_err().cause, Cause::Unavailable);
    assert_eq!(record(&log, "a").unwrap_err().cause, Cause::Unavailable);
    assert!(!log.is_sound());
}

#[test]
fn the_byte_bound_refuses_until_the_tables_are_synced() {
    let dir = tempfile::tempdir().unwrap();
    let (tally, log) = open(dir.path(), &SMALL, u64::MAX);
    let body = "x".repeat(4_000);
    let refused = loop {
        if let Err(refused) = record(&log, &body) {
            break refused;
        }
        assert!(tally.bodies().len() < 100, "the bound was never reached");
    };
    assert_eq!((refused.cause, refused.bound), (Cause::Unavailable, Some("journal.bytes_max")));
    let before = tally.bodies().len();
    log.expire(UnixMillis::now());
    // The writer takes a moment to see the room.
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while record(&log, &body).is_err() {
        assert!(std::time::Instant::now() < deadline, "there is room, and nothing is taken");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(tally.bodies().len(), before + 1);
}

#[test]
fn a_body_that_is_too_long_is_refused_by_its_length() {
    let dir = tempfile::tempdir().unwrap();
    let (_, log) = open(dir.path(), &LARGE, u64::MAX);
    assert!(record(&log, &"x".repeat(EVENT_BODY_BYTES_MAX)).is_ok());
    let refused = record(&log, &"x".repeat(EVENT_BODY_BYTES_MAX + 1)).unwrap_err();
    assert_eq!((refused.cause, refused.value), (Cause::TooLarge, Some(EVENT_BODY_BYTES_MAX as u64 + 1)));
}

#[test]
fn an_event_of_an_unknown_capability_refuses_the_start() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (_, log) = open(dir.path(), &LARGE, u64::MAX);
        let refused = log.record_blocking(Kind::Places, b"?".to_vec(), UnixMillis::now()).unwrap_err();
        assert_eq!(refused.cause, Cause::Unavailable);
    }
    let state = State::open(&dir.path().join("tables")).unwrap();
    let opened = EventLog::open(&dir.path().join("log"), &LARGE, &state, vec![Tally::new(&state, 9)]);
    assert!(matches!(opened.err(), Some(LogError::UnknownCapability { code: 8 })));
}
