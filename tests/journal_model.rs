//! The promise pinned here: journal, deduplication and replay together never lose an acknowledged scan,
//! never record one twice, and never call a lost scan a duplicate, whatever is sent, whatever the disk
//! does, and wherever the power fails.
//!
//! A model keeps what the gateway said; a simulated disk with sector-granular crashes, short writes, EIO,
//! ENOSPC and failing syncs stands under the journal. What this doesn't prove: that the kernel and the
//! hardware keep an fsync's promise.
#![allow(missing_docs)]

#[path = "journal_common/mod.rs"]
mod common;
#[path = "journal_common/sim.rs"]
mod sim;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use scangate::deduplicate::{Admission, Deduplicate, InFlight, Settings, Standing};
use scangate::journal::{Durable, Journal, JournalError, Ticket};
use scangate::scan::{
    App, Checkin, CheckinId, ClientKey, DeviceKey, DirectionRequest, Form, PlaceKey, Pseudonym, Scan,
    Subject, Trust, UnixMillis,
};
use sim::{Fault, SimDisk};

const T0: UnixMillis = UnixMillis(1_637_700_000_000);

#[derive(Debug, Clone)]
enum Step {
    Scan { person: u8, client: u8, at_s: i64, direction: DirectionRequest },
    Commit,
    Fault(u64, Fault),
    Crash(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let scan = (0_u8..4, 0_u8..60, -300_i64..300, 0_u8..3).prop_map(|(person, client, at_s, direction)| {
        let direction = DirectionRequest::from_code(direction).expect("below three");
        Step::Scan { person, client, at_s, direction }
    });
    let fault = prop::sample::select(vec![Fault::Short, Fault::Eio, Fault::Enospc]);
    prop_oneof![
        20 => scan,
        6 => Just(Step::Commit),
        1 => (0_u64..20, fault).prop_map(|(after, fault)| Step::Fault(after, fault)),
        1 => any::<u64>().prop_map(Step::Crash),
        1 => Just(Step::Restart),
    ]
}

fn scan(person: u8, client: u8, at_s: i64, direction: DirectionRequest) -> Scan {
    Scan {
        person: Pseudonym([person; 16]),
        place: PlaceKey([9; 16]),
        direction,
        at: UnixMillis(T0.0 + at_s * 1000),
        received: T0,
        client: ClientKey([client; 12]),
        device: DeviceKey([1; 8]),
        app: App::Vneid,
        subject: Subject::Person,
        trust: Trust::Proven,
        form: Form::Sg1,
        window_s: 60,
    }
}

/// One process's worth of state, and the disk under it.
struct Life {
    disk: SimDisk,
    journal: Journal,
    memory: Deduplicate<Ticket, Durable>,
}

impl Life {
    /// Starts on `disk`; a disk that fails while opening is restarted without faults.
    fn begin(disk: &SimDisk, replayed: &mut Vec<Checkin>) -> Self {
        let open = |disk: SimDisk, replayed: &mut Vec<Checkin>| {
            let settings = Settings {
                windows_s: vec![60],
                remember_s: 172_800,
                auto_reset_s: 57_600,
                entries_max: u64::MAX,
            };
            let memory = Deduplicate::new(settings, [5; 16]);
            replayed.clear();
            let mut on_record = |checkin: &Checkin| {
                replayed.push(*checkin);
                memory.restore(checkin, T0);
            };
            let (journal, recovery) =
                Journal::open_on(Arc::new(disk.clone()), Path::new("/j"), common::small(), &mut on_record)?;
            memory.vouch(recovery.durable);
            Ok::<_, JournalError>(Self { disk, journal, memory })
        };
        match open(disk.clone(), replayed) {
            Ok(life) => life,
            Err(_) => open(disk.restarted(), replayed).expect("a disk without faults opens"),
        }
    }
}

/// What the gateway has told its clients.
#[derive(Default)]
struct Told {
    recorded: HashMap<CheckinId, Checkin>,
}

impl Told {
    fn settle(&mut self, life: &Life, in_flight: Vec<InFlight<'_, Ticket, Durable>>) {
        for scan in in_flight {
            match life.journal.committed_blocking(scan.ticket()) {
                Ok(proof) => {
                    let checkin = scan.durable(proof);
                    self.recorded.insert(checkin.id, checkin);
                }
                Err(_) => scan.failed(),
            }
        }
    }

    /// Everything told is there, nothing is there twice, and no two are one scan by definition.
    fn check(&self, replayed: &[Checkin]) -> Result<(), TestCaseError> {
        let mut there = HashMap::new();
        for checkin in replayed {
            prop_assert!(there.insert(checkin.id, *checkin).is_none(), "{checkin:?} is there twice");
        }
        for (id, checkin) in &self.recorded {
            prop_assert_eq!(there.get(id), Some(checkin), "an acknowledged check-in is lost");
        }
        for (index, one) in replayed.iter().enumerate() {
            for other in replayed.iter().skip(index + 1) {
                prop_assert_ne!(one.scan.client, other.scan.client, "one client id was recorded twice");
                let same = one.scan.person == other.scan.person && one.direction == other.direction;
                let apart_ms = (one.scan.at.0 - other.scan.at.0).abs();
                prop_assert!(!same || apart_ms >= 60_000, "{one:?} and {other:?} are one scan");
            }
        }
        Ok(())
    }
}

fn play(steps: Vec<Step>, seed: u64) -> Result<(), TestCaseError> {
    let mut told = Told::default();
    let mut replayed = Vec::new();
    let mut life = Life::begin(&SimDisk::new(seed, 1 << 20), &mut replayed);
    let mut steps = steps.into_iter().peekable();
    while steps.peek().is_some() {
        let mut next_disk = None;
        {
            let lane = life.journal.lane(0).expect("the lane is free");
            let mut in_flight = Vec::new();
            for step in steps.by_ref() {
                match step {
                    Step::Scan { person, client, at_s, direction } => {
                        let scan = scan(person, client, at_s, direction);
                        match life.memory.admit(&scan, &[], |checkin| lane.append(checkin)) {
                            Ok(Admission::Fresh(fresh)) => in_flight.push(fresh),
                            Ok(Admission::Duplicate(original, Standing::Durable(_))) => {
                                let known = told.recorded.contains_key(&original.id)
                                    || replayed.iter().any(|checkin| checkin.id == original.id);
                                prop_assert!(known, "named an original that is not on disk");
                            }
                            // In flight, or refused: nothing was promised.
                            Ok(Admission::Duplicate(_, Standing::InFlight(_))) | Err(_) => {}
                        }
                    }
                    Step::Commit => told.settle(&life, std::mem::take(&mut in_flight)),
                    Step::Fault(after, fault) => life.disk.set_faults([(after, fault)]),
                    Step::Crash(seed) => {
                        next_disk = Some(life.disk.crashed(seed));
                        break;
                    }
                    Step::Restart => {
                        told.settle(&life, std::mem::take(&mut in_flight));
                        next_disk = Some(life.disk.clone());
                        break;
                    }
                }
            }
            told.settle_if_alive(&life, in_flight, next_disk.is_some());
        }
        let disk = next_disk.unwrap_or_else(|| life.disk.clone());
        life.journal.close();
        life = Life::begin(&disk.restarted(), &mut replayed);
        told.check(&replayed)?;
        // A resend of anything acknowledged is a duplicate of it, from the first request on.
        let lane = life.journal.lane(0).expect("the lane is free");
        for checkin in told.recorded.values() {
            match life.memory.admit(&checkin.scan, &[], |checkin| lane.append(checkin)) {
                Ok(Admission::Duplicate(original, Standing::Durable(_))) => {
                    prop_assert_eq!(original.id, checkin.id);
                }
                other => prop_assert!(false, "{checkin:?} came back as {other:?}"),
            }
        }
    }
    Ok(())
}

impl Told {
    /// What is in flight when the power fails was promised to nobody; at an orderly end it is settled.
    fn settle_if_alive(&mut self, life: &Life, in_flight: Vec<InFlight<'_, Ticket, Durable>>, ended: bool) {
        if ended {
            drop(in_flight);
        } else {
            self.settle(life, in_flight);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_acknowledged_is_lost_or_doubled(
        steps in prop::collection::vec(step(), 1..120), seed in any::<u64>(),
    ) {
        play(steps, seed)?;
    }
}
