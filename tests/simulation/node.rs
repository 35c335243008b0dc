//! One gateway: its real memory, journal and drain over its own simulated disk, one life after another.

use std::cell::RefCell;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use scangate::deduplicate::{Admission, Deduplicate, Original, Settings, Standing};
use scangate::gateway::settle;
use scangate::gateway::source::{JournalSource, Written};
use scangate::journal::{
    CommitError, Durable, Journal, JournalError, JournalSettings, Lane, Position, ReadError, Ticket,
};
use scangate::scan::{Checkin, Scan, UnixMillis};
use scangate::store::drain::{Backlog, Drain, DrainEnd, DrainSettings, Source};
use scangate::store::watermark::Watermark;
use tokio::sync::watch;

use crate::Defect;
use crate::sim::{Random, SimDisk};
use crate::store::{Client, Store};
use crate::time::{SimPace, Time};

/// What all lives of a gateway have in common.
#[derive(Clone)]
pub struct Setup {
    pub journal: JournalSettings,
    pub memory: Settings,
    pub drain: DrainSettings,
    pub defect: Defect,
}

/// What a request's steps use.
pub struct Core {
    pub journal: Arc<Journal>,
    pub lanes: Vec<Lane>,
    pub memory: Deduplicate<Ticket, Durable>,
}

/// How a scan was admitted.
pub enum Admitted {
    Fresh(Checkin, Ticket),
    Repeats(Original, Standing<Ticket, Durable>),
    NotTaken,
}

/// What a device is told of one scan.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    Recorded(Checkin),
    Duplicate(Original),
    Refused,
}

/// A request on its way.
pub struct Request {
    /// The numbers of its scans.
    pub scans: Vec<usize>,
    pub sent: Vec<Scan>,
    pub device: usize,
    pub admitted: Rc<RefCell<Vec<Admitted>>>,
    pub answers: Rc<RefCell<Vec<Answer>>>,
    /// How many of either were looked at.
    pub seen: (usize, usize),
    woken: Arc<Flag>,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Request {
    pub fn new(
        core: &Rc<Core>,
        lane: usize,
        device: usize,
        scans: Vec<usize>,
        sent: Vec<Scan>,
        early: bool,
    ) -> Self {
        let (admitted, answers) = (Rc::default(), Rc::default());
        let (to_admitted, to_answers) = (Rc::clone(&admitted), Rc::clone(&answers));
        let future = Box::pin(serve(Rc::clone(core), lane, sent.clone(), to_admitted, to_answers, early));
        let woken = Arc::new(Flag(AtomicBool::new(true)));
        Self { scans, sent, device, admitted, answers, seen: (0, 0), woken, future }
    }

    /// Whether anything woke it since the last poll.
    pub fn is_woken(&self) -> bool {
        self.woken.0.load(Ordering::Relaxed)
    }

    /// Polls it, as its runtime would once it was woken. True when it is done.
    pub fn poll(&mut self) -> bool {
        self.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.woken));
        self.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
    }
}

/// All lines are admitted before the first is settled, as in `gateway::steps`.
async fn serve(
    core: Rc<Core>,
    lane: usize,
    scans: Vec<Scan>,
    admitted: Rc<RefCell<Vec<Admitted>>>,
    answers: Rc<RefCell<Vec<Answer>>>,
    early: bool,
) {
    let lane = &core.lanes[lane];
    let mut waiting = Vec::with_capacity(scans.len());
    for scan in &scans {
        let mut taken = None;
        let admission = core.memory.admit(scan, &[], |checkin| {
            taken = Some(*checkin);
            lane.append(checkin)
        });
        admitted.borrow_mut().push(match (&admission, taken) {
            (Ok(Admission::Fresh(in_flight)), Some(checkin)) => Admitted::Fresh(checkin, in_flight.ticket()),
            (Ok(Admission::Duplicate(original, standing)), _) => Admitted::Repeats(*original, *standing),
            _ => Admitted::NotTaken,
        });
        waiting.push((admission, taken));
    }
    for (admission, taken) in waiting {
        let answer = match (admission, taken) {
            (Ok(Admission::Fresh(_)), Some(checkin)) if early => Answer::Recorded(checkin),
            (Ok(Admission::Fresh(in_flight)), _) => match settle::fresh(lane, in_flight).await {
                Ok((checkin, _)) => Answer::Recorded(checkin),
                Err(_) => Answer::Refused,
            },
            (Ok(Admission::Duplicate(original, standing)), _) => match settle::repeated(lane, standing).await
            {
                Ok(_) => Answer::Duplicate(original),
                Err(_) => Answer::Refused,
            },
            (Err(_), _) => Answer::Refused,
        };
        answers.borrow_mut().push(answer);
    }
}

/// One process.
pub struct Life {
    pub requests: Vec<Request>,
    drain: Option<Pin<Box<dyn Future<Output = DrainEnd>>>>,
    stop: watch::Sender<Option<Instant>>,
    pub core: Rc<Core>,
}

/// Why a gateway did not start.
pub enum NotStarted {
    /// The disk failed: the next attempt may do better.
    Disk,
    /// It refuses to, although nothing but what a disk may do was done to its files.
    Broken(String),
}

impl Life {
    /// Starts on `disk`, and hands out what was replayed.
    pub fn start(
        disk: &SimDisk,
        setup: &Setup,
        wall_ms: &Arc<AtomicI64>,
        (time, store): (&Rc<Time>, &Rc<Store>),
        random: Random,
    ) -> Result<(Self, Vec<Checkin>), NotStarted> {
        let memory = Deduplicate::new(setup.memory.clone(), [5; 16]);
        let now = UnixMillis(wall_ms.load(Ordering::Relaxed));
        let mut replayed = Vec::new();
        let mut on_record = |checkin: &Checkin| {
            replayed.push(*checkin);
            if setup.defect != Defect::HalfRestored || replayed.len() % 2 == 0 {
                memory.restore(checkin, now);
            }
        };
        let wall = Arc::clone(wall_ms);
        let clock = Box::new(move || UnixMillis(wall.load(Ordering::Relaxed)));
        let (storage, dir) = (Arc::new(disk.clone()), Path::new("/data/journal"));
        let opened =
            Journal::open_by_hand(storage.clone(), clock, dir, setup.journal.clone(), &mut on_record);
        let (journal, recovery) = opened.map_err(|error| match error {
            JournalError::Io { .. } => NotStarted::Disk,
            other => NotStarted::Broken(other.to_string()),
        })?;
        memory.vouch(recovery.durable);
        let journal = Arc::new(journal);
        let lanes = (0..setup.journal.lanes).map(|index| journal.lane(index)).collect::<Result<_, _>>();
        let lanes = lanes.map_err(|error| NotStarted::Broken(error.to_string()))?;
        let source =
            JournalSource::new(Arc::clone(&journal), setup.journal.segment_bytes, Written::default());
        let source = Reading { source, journal: Arc::clone(&journal), defect: setup.defect };
        let watermark = Watermark::on(storage, "/data/watermark".into());
        let pace = SimPace { time: Rc::clone(time), random: RefCell::new(random) };
        let (stop, drain) = Drain::by_hand(source, Client(Rc::clone(store)), setup.drain, watermark, pace)
            .map_err(|_| NotStarted::Disk)?;
        let core = Rc::new(Core { journal, lanes, memory });
        Ok((Self { requests: Vec::new(), drain: Some(Box::pin(drain)), stop, core }, replayed))
    }

    /// Lets the drain do what it can now. Says how it ended, if it did.
    pub fn poll_drain(&mut self) -> Option<DrainEnd> {
        let drain = self.drain.as_mut()?;
        let mut context = Context::from_waker(Waker::noop());
        let std::task::Poll::Ready(end) = drain.as_mut().poll(&mut context) else { return None };
        self.drain = None;
        Some(end)
    }

    pub fn has_drain(&self) -> bool {
        self.drain.is_some()
    }

    pub fn stop_drain(&self, at: Instant) {
        self.stop.send_replace(Some(at));
    }
}

/// What the journal said became of a record.
pub fn is_gone(error: CommitError) -> bool {
    matches!(error, CommitError::DiskFull | CommitError::BytesMax { .. })
}

/// The drain's source, with room for a defect.
struct Reading {
    source: JournalSource,
    journal: Arc<Journal>,
    defect: Defect,
}

impl Source for Reading {
    type Position = Position;
    type Error = ReadError;

    fn seek(&mut self, to: Option<Position>) -> Result<Position, ReadError> {
        self.source.seek(to)
    }

    fn read(&mut self, into: &mut Vec<Checkin>, records_max: usize) -> Result<Position, ReadError> {
        let position = self.source.read(into, records_max)?;
        if self.defect == Defect::DrainSkips && into.len() > 3 {
            into.pop();
        }
        Ok(position)
    }

    fn wait(&self, position: Position, limit: Duration) -> bool {
        self.source.wait(position, limit)
    }

    fn release(&self, position: Position) {
        self.source.release(position);
    }

    fn backlog(&self, position: Position) -> Backlog {
        if self.defect == Defect::ReleasedEarly {
            self.journal.release(self.journal.durable_position());
        }
        self.source.backlog(position)
    }
}
