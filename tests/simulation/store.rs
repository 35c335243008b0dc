//! A store that can be slow, down, refuse, apply a part, apply everything and then not say so, and apply
//! a write again long after it was acknowledged. It keeps rows by the rule that both real stores keep
//! (`version_us`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;

use scangate::scan::{Checkin, CheckinId};
use scangate::store::drain::Target;
use scangate::store::{StoreError, version_us};

use crate::Defect;
use crate::sim::Random;
use crate::time::Time;
use crate::trace::{Trace, What};

/// Where rows stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In a database shared by all gateways: what it acknowledged stays.
    Shared,
    /// In the gateway's own files: what wasn't synced may go with the gateway.
    Embedded,
}

struct State {
    random: Random,
    rows: BTreeMap<CheckinId, Checkin>,
    unsynced: Vec<Vec<Checkin>>,
    /// Writes that will be applied later, whatever their sender was told.
    late: Vec<(i64, Vec<Checkin>)>,
    down_until_ms: i64,
    failing: bool,
    written: usize,
}

pub struct Store {
    time: Rc<Time>,
    trace: Trace,
    kind: Kind,
    defect: Defect,
    state: RefCell<State>,
}

/// What will become of a write.
enum Fate {
    Applied,
    AppliedAgainLater,
    Refused,
    AppliedInPart,
    AppliedUnsaid,
    AppliedLaterUnsaid,
}

impl Store {
    pub fn new(time: &Rc<Time>, trace: &Trace, kind: Kind, defect: Defect, seed: u64) -> Rc<Self> {
        let state = State {
            random: Random(seed),
            rows: BTreeMap::new(),
            unsynced: Vec::new(),
            late: Vec::new(),
            down_until_ms: 0,
            failing: true,
            written: 0,
        };
        let (time, trace) = (Rc::clone(time), trace.clone());
        Rc::new(Self { time, trace, kind, defect, state: RefCell::new(state) })
    }

    pub fn go_down(&self, ms: i64) {
        self.trace.note(self.time.now_ms(), None, What::StoreDown { ms });
        self.state.borrow_mut().down_until_ms = self.time.now_ms() + ms;
    }

    /// Nothing fails any more, and what was under way arrives.
    pub fn heal(&self) {
        let mut state = self.state.borrow_mut();
        state.down_until_ms = 0;
        state.failing = false;
        for (_, batch) in std::mem::take(&mut state.late) {
            state.apply(&batch, self.defect);
        }
    }

    /// Applies what is late and due.
    pub fn tick(&self) {
        let mut state = self.state.borrow_mut();
        let now_ms = self.time.now_ms();
        let (due, late) =
            std::mem::take(&mut state.late).into_iter().partition(|(at_ms, _)| *at_ms <= now_ms);
        state.late = late;
        for (_, batch) in due {
            state.apply(&batch, self.defect);
        }
    }

    /// The gateway that this store is a part of ended: of what wasn't synced, a first part stays.
    pub fn lose_unsynced(&self) {
        let mut state = self.state.borrow_mut();
        let unsynced = std::mem::take(&mut state.unsynced);
        let kept = usize::try_from(state.random.below(unsynced.len() as u64 + 1)).unwrap();
        for batch in unsynced.iter().take(kept) {
            state.apply(batch, self.defect);
        }
    }

    /// Whether the record, or a later one of the same scan, is there to stay.
    pub fn holds(&self, checkin: &Checkin) -> bool {
        let state = self.state.borrow();
        state.rows.get(&checkin.id).is_some_and(|row| version_us(row) >= version_us(checkin))
    }

    pub fn rows(&self) -> BTreeMap<CheckinId, Checkin> {
        self.state.borrow().rows.clone()
    }

    /// Records acknowledged so far.
    pub fn written(&self) -> usize {
        self.state.borrow().written
    }

    fn is_down(&self) -> bool {
        self.time.now_ms() < self.state.borrow().down_until_ms
    }

    fn plan(&self) -> (i64, Fate) {
        let state = &mut *self.state.borrow_mut();
        if !state.failing {
            return (0, Fate::Applied);
        }
        let random = &mut state.random;
        if self.kind == Kind::Embedded {
            return (0, if random.once_in(12) { Fate::Refused } else { Fate::Applied });
        }
        let latency_ms = match random.below(20) {
            0 => 3_000,
            1..=5 => 0,
            _ => i64::try_from(random.below(40)).unwrap(),
        };
        let fate = match random.below(24) {
            0 => Fate::Refused,
            1 => Fate::AppliedInPart,
            2 => Fate::AppliedUnsaid,
            3 => Fate::AppliedLaterUnsaid,
            4 => Fate::AppliedAgainLater,
            _ => Fate::Applied,
        };
        (latency_ms, fate)
    }

    async fn write(self: Rc<Self>, batch: Vec<Checkin>) -> Result<(), StoreError> {
        let (latency_ms, fate) = self.plan();
        let mut under_way = UnderWay { store: Rc::clone(&self), batch: Some(batch) };
        Rc::clone(&self.time).until(self.time.now_ms() + latency_ms).await;
        let batch = under_way.batch.take().unwrap_or_default();
        if self.is_down() {
            return self.fail();
        }
        let mut state = self.state.borrow_mut();
        let later_ms = self.time.now_ms() + i64::try_from(state.random.below(20_000)).unwrap();
        match fate {
            Fate::Refused => {}
            Fate::AppliedInPart => {
                let part = usize::try_from(state.random.below(batch.len() as u64)).unwrap();
                state.apply(&batch[part..], self.defect);
            }
            Fate::AppliedLaterUnsaid => state.late.push((later_ms, batch)),
            Fate::AppliedUnsaid => state.apply(&batch, self.defect),
            Fate::Applied | Fate::AppliedAgainLater => {
                state.written += batch.len();
                if matches!(fate, Fate::AppliedAgainLater) {
                    state.late.push((later_ms, batch.clone()));
                }
                match self.kind {
                    Kind::Shared if self.defect == Defect::StoreLosesRows && state.random.once_in(20) => {}
                    Kind::Shared => state.apply(&batch, self.defect),
                    Kind::Embedded => state.unsynced.push(batch),
                }
                return Ok(());
            }
        }
        drop(state);
        self.fail()
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut state = self.state.borrow_mut();
        if self.kind == Kind::Embedded {
            if state.failing && state.random.once_in(12) {
                drop(state);
                return self.fail();
            }
            for batch in std::mem::take(&mut state.unsynced) {
                state.apply(&batch, self.defect);
            }
        }
        Ok(())
    }

    fn fail(&self) -> Result<(), StoreError> {
        self.trace.note(self.time.now_ms(), None, What::StoreFailed);
        Err(StoreError::ConnectTimeout { limit_ms: 0 })
    }
}

impl State {
    fn apply(&mut self, batch: &[Checkin], defect: Defect) {
        for checkin in batch {
            let row = self.rows.entry(checkin.id).or_insert(*checkin);
            // Two records of one version differ in the direction at most, and a database takes the larger.
            let version = |row: &Checkin| (version_us(row), row.direction);
            if version(checkin) > version(row) || defect == Defect::StoreForgetsVersions {
                *row = *checkin;
            }
        }
    }
}

/// A write whose sender may go away before its answer: it may arrive all the same.
struct UnderWay {
    store: Rc<Store>,
    batch: Option<Vec<Checkin>>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Some(batch) = self.batch.take() else { return };
        let state = &mut *self.store.state.borrow_mut();
        if self.store.kind == Kind::Shared && state.random.once_in(2) {
            let later_ms = self.store.time.now_ms() + i64::try_from(state.random.below(5_000)).unwrap();
            state.late.push((later_ms, batch));
        }
    }
}

/// A gateway's way to the store.
pub struct Client(pub Rc<Store>);

impl Target for Client {
    fn write(&self, batch: &[Checkin]) -> impl Future<Output = Result<(), StoreError>> {
        Rc::clone(&self.0).write(batch.to_vec())
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.0.sync()
    }
}
