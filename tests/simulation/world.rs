//! Devices, gateways and the store in one thread: what happens next is drawn from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use scangate::deduplicate::{Settings, Standing};
use scangate::journal::{JournalSettings, Ticket};
use scangate::scan::{
    App, Checkin, CheckinId, ClientKey, DeviceKey, DirectionRequest, Form, PlaceKey, Pseudonym, Scan,
    Subject, Trust, UnixMillis,
};
use scangate::store::drain::{DrainEnd, DrainSettings};

use crate::Defect;
use crate::audit::audit;
use crate::ledger::{Definition, Expected, Fate, Ledger, Told};
use crate::node::{Admitted, Answer, Life, NotStarted, Request, Setup, is_gone};
use crate::sim::{Fault, Lies, Random, SimDisk};
use crate::store::{Kind, Store};
use crate::time::Time;
use crate::trace::{Trace, What};

/// Windows of the places, in seconds.
const WINDOWS_S: [u16; 4] = [60, 30, 600, 0];
const REMEMBER_S: u32 = 176_400;
/// A memory's generation begins here: where seeds begin just before, it does so under way.
const GENERATION_MS: i64 = REMEMBER_S as i64 * 1000 * 9_280;
const CAPACITY: usize = 1 << 20;
/// Rounds in which everything must come to rest once nothing fails any more.
const ROUNDS_MAX: usize = 400;

/// How a run ended.
pub struct Run {
    pub trace: Trace,
    pub violation: Option<String>,
}

/// A gateway's machine.
struct Node {
    disk: SimDisk,
    wall_ms: Arc<AtomicI64>,
    clock_off_ms: i64,
    life: Option<Life>,
    /// Of this life: what its memory must know, its records without a fate, and scans whose caller left.
    known: Definition,
    pending: Vec<(Ticket, usize)>,
    orphans: Vec<(Ticket, Checkin)>,
    released: usize,
}

/// A scan as its device keeps it.
struct Job {
    scan: Scan,
    /// None: the gateway's time of arrival counts.
    at: Option<UnixMillis>,
    /// Which gateways answered for good.
    told_by: BTreeSet<usize>,
}

struct Device {
    place: u8,
    home: usize,
    clock_off_ms: i64,
    offline_until_ms: i64,
    outbox: Vec<usize>,
}

/// What may go wrong in this seed: each with chance one half, so that seeds differ in kind.
#[allow(clippy::struct_excessive_bools)] // Each is a kind of trouble of its own.
struct Weather {
    kills: bool,
    power: bool,
    stops: bool,
    disk: bool,
    space: bool,
    outages: bool,
    clocks: bool,
    roaming: bool,
    late: bool,
}

pub struct World {
    random: Random,
    time: Rc<Time>,
    trace: Trace,
    start_ms: i64,
    store: Rc<Store>,
    kind: Kind,
    setup: Setup,
    nodes: Vec<Node>,
    devices: Vec<Device>,
    jobs: Vec<Job>,
    persons: u64,
    weather: Weather,
    ledger: Ledger,
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Wait,
    Scan,
    Send,
    Poll,
    Commit,
    Drain,
    Sweep,
    Start,
    Trouble,
}

/// Plays a seed from beginning to end.
pub fn play(seed: u64, defect: Defect) -> Run {
    let mut world = World::new(seed, defect);
    let violation = world.play().err();
    Run { trace: world.trace, violation }
}

impl World {
    fn new(seed: u64, defect: Defect) -> Self {
        let mut random = Random(seed);
        let (time, trace) = (Time::begin(), Trace::default());
        let kind = if random.once_in(4) { Kind::Embedded } else { Kind::Shared };
        let gateways = if kind == Kind::Embedded { 1 } else { 1 + random.below(3) };
        let store = Store::new(&time, &trace, kind, defect, random.next());
        let mut half = || random.once_in(2);
        let weather = Weather {
            kills: half(),
            power: half(),
            stops: half(),
            disk: half(),
            space: half(),
            outages: half(),
            clocks: half(),
            roaming: half(),
            late: half(),
        };
        let setup = setup(&mut random, defect);
        let before_ms = if random.once_in(2) { random.below(180_000) } else { 40_000_000 };
        let start_ms = GENERATION_MS - i64::try_from(before_ms).unwrap();
        let node = |_| {
            let disk = SimDisk::new(random.next(), CAPACITY);
            disk.take_removed();
            disk.set_lies(Lies {
                sync: defect == Defect::DiskLies,
                sync_dir: defect == Defect::DirectoryLies,
            });
            Node {
                disk,
                wall_ms: Arc::new(AtomicI64::new(start_ms)),
                clock_off_ms: 0,
                life: None,
                known: Definition::new(setup.memory.auto_reset_s),
                pending: Vec::new(),
                orphans: Vec::new(),
                released: 0,
            }
        };
        let nodes: Vec<Node> = (0..gateways).map(node).collect();
        let device = |_| Device {
            place: u8::try_from(random.below(WINDOWS_S.len() as u64)).unwrap(),
            home: usize::try_from(random.below(gateways)).unwrap(),
            clock_off_ms: i64::try_from(random.below(4_000)).unwrap() - 2_000,
            offline_until_ms: 0,
            outbox: Vec::new(),
        };
        let devices = (0..3).map(device).collect();
        let persons = 1 + random.below(4);
        let (jobs, ledger) = (Vec::new(), Ledger::default());
        Self {
            random,
            time,
            trace,
            start_ms,
            store,
            kind,
            setup,
            nodes,
            devices,
            jobs,
            persons,
            weather,
            ledger,
        }
    }

    fn play(&mut self) -> Result<(), String> {
        for gateway in 0..self.nodes.len() {
            self.start(gateway)?;
        }
        for _ in 0..60 + self.random.below(240) {
            let gateway = self.any_gateway();
            match self.next_action() {
                Action::Wait => self.wait(),
                Action::Scan => self.scan(),
                Action::Send => self.send(),
                Action::Poll => self.poll_one(gateway)?,
                Action::Commit => self.commit(gateway)?,
                Action::Drain => {
                    // Machines stop while segments are deleted, too, which a drain seldom does.
                    if self.weather.stops && self.random.once_in(40) {
                        self.nodes[gateway].disk.stop_at(self.random.below(12));
                        self.note(Some(gateway), What::StopsSoon);
                    }
                    self.drain(gateway)?;
                }
                Action::Sweep => {
                    self.sweep(gateway);
                    self.look_at_removals(gateway)?;
                }
                Action::Start => self.start(gateway)?,
                Action::Trouble => self.trouble(gateway)?,
            }
            self.look_after(gateway)?;
        }
        self.come_to_rest()?;
        let counted = audit(&self.ledger, &self.store.rows())?;
        self.ask_again()?;
        let again = audit(&self.ledger, &self.store.rows())?;
        // A journal that no longer holds a scan may take it once more, under the same id.
        let forgot = self.nodes.iter().any(|node| node.released > 0);
        if forgot || counted == again { Ok(()) } else { Err("scans sent again count differently".into()) }
    }

    fn next_action(&mut self) -> Action {
        match self.random.below(100) {
            0..=12 => Action::Wait,
            13..=25 => Action::Scan,
            26..=39 => Action::Send,
            40..=56 => Action::Poll,
            57..=69 => Action::Commit,
            70..=84 => Action::Drain,
            85..=86 => Action::Sweep,
            87..=91 => Action::Start,
            _ => Action::Trouble,
        }
    }

    fn any_gateway(&mut self) -> usize {
        usize::try_from(self.random.below(self.nodes.len() as u64)).unwrap()
    }

    fn below(&mut self, bound: i64) -> i64 {
        i64::try_from(self.random.below(bound.unsigned_abs())).unwrap()
    }

    fn note(&self, gateway: Option<usize>, what: What) {
        self.trace.note(self.time.now_ms(), gateway, what);
    }

    fn wait(&mut self) {
        let ms = match self.random.below(20) {
            0 => self.below(120_000),
            1..=5 => self.below(2_000),
            _ => self.below(10),
        };
        self.advance(ms);
    }

    fn advance(&mut self, ms: i64) {
        self.time.advance(ms);
        self.store.tick();
        self.set_clocks();
    }

    fn set_clocks(&self) {
        for node in &self.nodes {
            node.wall_ms.store(self.start_ms + self.time.now_ms() + node.clock_off_ms, Ordering::Relaxed);
        }
    }

    /// A person comes by a device.
    fn scan(&mut self) {
        // No device makes two scans in a millisecond.
        self.advance(1);
        let device = usize::try_from(self.random.below(self.devices.len() as u64)).unwrap();
        let (person, number) = (u8::try_from(self.random.below(self.persons)).unwrap(), self.jobs.len());
        let direction = DirectionRequest::from_code(u8::try_from(self.random.below(3)).unwrap()).unwrap();
        let late_ms = if self.weather.late && self.random.once_in(4) { self.below(10_800_000) } else { 0 };
        let Device { place, clock_off_ms, .. } = self.devices[device];
        let at = UnixMillis(self.start_ms + self.time.now_ms() + clock_off_ms - late_ms);
        // Where there is no window, scans that arrive together would be one scan by their time.
        let timeless = late_ms == 0 && WINDOWS_S[usize::from(place)] > 0 && self.random.once_in(5);
        let at = if timeless { None } else { Some(at) };
        let mut client = [u8::try_from(device).unwrap(); 12];
        client[4..].copy_from_slice(&(number as u64).to_le_bytes());
        let scan = Scan {
            person: Pseudonym([person; 16]),
            place: PlaceKey([place; 16]),
            direction,
            at: UnixMillis(0),
            received: UnixMillis(0),
            client: ClientKey(client),
            device: DeviceKey([u8::try_from(device).unwrap(); 8]),
            app: App::Vneid,
            subject: Subject::Person,
            trust: Trust::Asserted,
            form: Form::Cccd,
            window_s: WINDOWS_S[usize::from(place)],
        };
        self.jobs.push(Job { scan, at, told_by: BTreeSet::new() });
        self.devices[device].outbox.push(number);
        self.note(None, What::Scanned { scan: number, device, person, place, direction, late_ms });
    }

    /// A device sends one scan, or several as a batch, to its gateway or, roaming, to another.
    fn send(&mut self) {
        let device = usize::try_from(self.random.below(self.devices.len() as u64)).unwrap();
        if self.weather.outages && self.random.once_in(30) {
            self.devices[device].offline_until_ms = self.time.now_ms() + self.below(60_000);
        }
        let waiting = self.devices[device].outbox.len();
        if waiting == 0 || self.time.now_ms() < self.devices[device].offline_until_ms {
            return;
        }
        let first = usize::try_from(self.random.below(waiting as u64)).unwrap();
        let count =
            if self.random.once_in(3) { 1 + usize::try_from(self.random.below(6)).unwrap() } else { 1 };
        let scans: Vec<usize> = self.devices[device].outbox[first..].iter().take(count).copied().collect();
        let roams = self.weather.roaming && self.random.once_in(4);
        let gateway = if roams { self.any_gateway() } else { self.devices[device].home };
        self.request(gateway, device, scans);
    }

    fn request(&mut self, gateway: usize, device: usize, scans: Vec<usize>) {
        let received = UnixMillis(self.nodes[gateway].wall_ms.load(Ordering::Relaxed));
        let sent = scans.iter().map(|number| {
            let Job { scan, at, .. } = &self.jobs[*number];
            Scan { at: at.unwrap_or(received), received, ..*scan }
        });
        let sent: Vec<Scan> = sent.collect();
        let lane = usize::try_from(self.random.below(self.setup.journal.lanes.into())).unwrap();
        let Some(life) = &mut self.nodes[gateway].life else {
            self.note(Some(gateway), What::Unreachable);
            return;
        };
        let early = self.setup.defect == Defect::AnswersEarly;
        let count = scans.len();
        life.requests.push(Request::new(&life.core, lane, device, scans, sent, early));
        self.note(Some(gateway), What::Sent { device, scans: count });
    }

    /// Runs one request that was woken; or its device goes away.
    fn poll_one(&mut self, gateway: usize) -> Result<(), String> {
        let Some(life) = &mut self.nodes[gateway].life else { return Ok(()) };
        let woken = life.requests.iter().enumerate().filter(|(_, request)| request.is_woken());
        let woken: Vec<usize> = woken.map(|(index, _)| index).collect();
        if woken.is_empty() {
            if !life.requests.is_empty() && self.random.once_in(12) {
                let index = usize::try_from(self.random.below(life.requests.len() as u64)).unwrap();
                let request = life.requests.swap_remove(index);
                self.disconnect(gateway, request);
            }
            return Ok(());
        }
        let index = woken[usize::try_from(self.random.below(woken.len() as u64)).unwrap()];
        self.poll(gateway, index)
    }

    /// A request's caller goes away: what is in flight is nobody's now.
    #[allow(clippy::needless_pass_by_value)] // Dropping it is the point.
    fn disconnect(&mut self, gateway: usize, request: Request) {
        self.note(Some(gateway), What::Disconnected);
        let node = &mut self.nodes[gateway];
        let admitted = request.admitted.borrow();
        for (index, admitted) in admitted.iter().enumerate() {
            if let Admitted::Fresh(checkin, ticket) = admitted
                && index >= request.answers.borrow().len()
            {
                node.orphans.push((*ticket, *checkin));
            }
        }
    }

    fn poll(&mut self, gateway: usize, index: usize) -> Result<(), String> {
        let Some(life) = &mut self.nodes[gateway].life else { return Ok(()) };
        let done = life.requests[index].poll();
        let mut request = life.requests.swap_remove(index);
        self.look_at_admissions(gateway, &mut request)?;
        self.look_at_answers(gateway, &mut request)?;
        if let (false, Some(life)) = (done, &mut self.nodes[gateway].life) {
            life.requests.push(request);
        }
        Ok(())
    }

    /// Compares each admission with the definition.
    fn look_at_admissions(&mut self, gateway: usize, request: &mut Request) -> Result<(), String> {
        let admitted = request.admitted.borrow();
        for index in request.seen.0..admitted.len() {
            let (number, scan) = (request.scans[index], &request.sent[index]);
            let node = &mut self.nodes[gateway];
            let expected = node.known.expect(scan);
            let what = match (&admitted[index], &expected) {
                (Admitted::NotTaken, _) => What::NotTaken { scan: number },
                (Admitted::Fresh(checkin, ticket), Expected::Fresh(direction))
                    if checkin.direction == *direction || node.known.is_unsure(scan) =>
                {
                    let record = self.ledger.append(gateway, *checkin);
                    node.pending.push((*ticket, record));
                    node.known.add(checkin);
                    What::Fresh { scan: number, id: checkin.id.hash(), direction: checkin.direction }
                }
                (Admitted::Repeats(original, standing), Expected::Repeats(originals))
                    if originals.contains(original) =>
                {
                    let durable = matches!(standing, Standing::Durable(_));
                    if durable {
                        node.known.remember_client(scan.client, *original);
                        self.is_durable(gateway, original.id)?;
                    }
                    What::Repeats { scan: number, id: original.id.hash(), durable }
                }
                (Admitted::Fresh(checkin, _), _) => {
                    let known = node.known.of(scan);
                    return Err(format!(
                        "gateway {gateway} admitted {checkin:?}; expected {expected:?}, knowing {known}"
                    ));
                }
                (Admitted::Repeats(original, _), _) => {
                    let known = node.known.of(scan);
                    return Err(format!(
                        "gateway {gateway} took {scan:?} for {original:?}; expected {expected:?}, knowing {known}"
                    ));
                }
            };
            self.trace.note(self.time.now_ms(), Some(gateway), what);
        }
        request.seen.0 = admitted.len();
        Ok(())
    }

    fn is_durable(&self, gateway: usize, id: CheckinId) -> Result<(), String> {
        let here = |record: &&crate::ledger::Record| record.gateway == gateway;
        if self.ledger.of_id(id).filter(here).any(|record| record.fate == Fate::Durable) {
            return Ok(());
        }
        Err(format!("gateway {gateway} called {id} durable, which no commit has said"))
    }

    fn look_at_answers(&mut self, gateway: usize, request: &mut Request) -> Result<(), String> {
        let answers = request.answers.borrow();
        let lost = self.random.once_in(8);
        for index in request.seen.1..answers.len() {
            let (number, answer) = (request.scans[index], answers[index]);
            self.note(
                Some(gateway),
                What::Answered {
                    scan: number,
                    recorded: matches!(answer, Answer::Recorded(_)),
                    refused: matches!(answer, Answer::Refused),
                },
            );
            match answer {
                Answer::Recorded(checkin) => {
                    self.jobs[number].told_by.insert(gateway);
                    self.ledger.told.push(Told::Recorded(checkin));
                    self.is_durable(gateway, checkin.id).or_else(|violation| {
                        if self.setup.defect == Defect::AnswersEarly { Ok(()) } else { Err(violation) }
                    })?;
                }
                Answer::Duplicate(original) => {
                    // Of a scan without a time of its own a gateway can't know later when it was.
                    if self.jobs[number].at.is_some() {
                        self.jobs[number].told_by.insert(gateway);
                    }
                    self.ledger.told.push(Told::Duplicate(request.sent[index], original));
                    self.is_durable(gateway, original.id)?;
                }
                Answer::Refused => {
                    if let Admitted::Fresh(checkin, _) = &request.admitted.borrow()[index] {
                        self.nodes[gateway].known.forget(checkin);
                    }
                }
            }
            // A device keeps what it has no good answer to; now and then it gives up, or asks another gateway.
            let done = match answer {
                Answer::Refused => self.random.once_in(20),
                _ => !(lost || self.weather.roaming && self.random.once_in(10)),
            };
            if done {
                self.devices[request.device].outbox.retain(|other| *other != number);
            }
        }
        if lost && answers.len() > request.seen.1 {
            self.note(Some(gateway), What::AnswerLost);
        }
        request.seen.1 = answers.len();
        Ok(())
    }

    /// The journal's writer does one batch.
    fn commit(&mut self, gateway: usize) -> Result<(), String> {
        let Some(life) = &self.nodes[gateway].life else { return Ok(()) };
        life.core.journal.step();
        self.learn_fates(gateway)
    }

    fn learn_fates(&mut self, gateway: usize) -> Result<(), String> {
        let node = &mut self.nodes[gateway];
        let Some(life) = &node.life else { return Ok(()) };
        let (mut ok, mut failed) = (0, 0);
        node.pending.retain(|(ticket, record)| {
            let fate = match life.core.journal.outcome(*ticket) {
                None => return true,
                Some(Ok(_)) => Fate::Durable,
                Some(Err(error)) if is_gone(error) => Fate::Gone,
                Some(Err(_)) => Fate::Unknown,
            };
            if fate == Fate::Durable {
                ok += 1;
            } else {
                failed += 1;
            }
            self.ledger.records[*record].fate = fate;
            false
        });
        if ok + failed > 0 {
            self.note(Some(gateway), What::Committed { ok, failed });
        }
        self.look_at_removals(gateway)
    }

    /// A segment may go only when everything in it is in the store.
    fn look_at_removals(&mut self, gateway: usize) -> Result<(), String> {
        let removed = self.nodes[gateway].disk.take_removed();
        for (path, bytes) in
            removed.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "journal"))
        {
            self.nodes[gateway].released += 1;
            self.note(Some(gateway), What::SegmentGone);
            let here = self.ledger.records.iter().filter(|record| record.gateway == gateway);
            let here: BTreeMap<(&[u8], i64), Checkin> = here
                .filter(|record| record.fate == Fate::Durable)
                .map(|record| ((&record.checkin.id.0[..], record.checkin.scan.received.0), record.checkin))
                .collect();
            // A record begins with the id, and has the arrival 56 bytes behind that.
            for window in bytes.windows(64).filter(|window| window[0] == 0x01) {
                let received = i64::from_le_bytes(window[56..].try_into().unwrap());
                let found = here.get(&(&window[..16], received));
                if let Some(checkin) = found.filter(|checkin| !self.store.holds(checkin)) {
                    return Err(format!(
                        "gateway {gateway} deleted {} with a check-in that is not in the store: {checkin:?}",
                        path.display()
                    ));
                }
            }
        }
        Ok(())
    }

    fn drain(&mut self, gateway: usize) -> Result<(), String> {
        let before = self.store.written();
        let Some(life) = &mut self.nodes[gateway].life else { return Ok(()) };
        let ended = life.poll_drain();
        self.look_at_removals(gateway)?;
        let rows = self.store.written() - before;
        if rows > 0 {
            self.note(Some(gateway), What::Drained { rows });
        }
        match ended {
            None => Ok(()),
            Some(end) => Err(format!("gateway {gateway}'s drain ended by itself: {end:?}")),
        }
    }

    /// What a gateway does once a second.
    fn sweep(&mut self, gateway: usize) {
        let node = &mut self.nodes[gateway];
        let Some(life) = &node.life else { return };
        let now = UnixMillis(node.wall_ms.load(Ordering::Relaxed));
        let journal = &life.core.journal;
        life.core.memory.sweep(now, |ticket| journal.outcome(ticket).map(Result::ok));
        journal.expire(now);
        let known = &mut node.known;
        node.orphans.retain(|(ticket, checkin)| match journal.outcome(*ticket) {
            None => true,
            Some(Ok(_)) => false,
            Some(Err(_)) => {
                known.forget(checkin);
                false
            }
        });
        self.note(Some(gateway), What::Swept);
    }

    /// Something goes wrong, if this seed has it in store.
    fn trouble(&mut self, gateway: usize) -> Result<(), String> {
        let weather = &self.weather;
        match self.random.below(9) {
            0 if weather.kills => return self.kill(gateway, false),
            1 if weather.power => return self.kill(gateway, true),
            2 if weather.stops => {
                self.nodes[gateway].disk.stop_at(self.random.below(16));
                self.note(Some(gateway), What::StopsSoon);
            }
            3 if weather.disk => {
                let node = &self.nodes[gateway];
                match self.random.below(4) {
                    0 => node.disk.fail_read(self.random.below(20)),
                    1 => node.disk.fail_sync(self.random.below(3), Fault::Eio),
                    _ => {
                        let kinds = [Fault::Short, Fault::Short, Fault::Eio, Fault::Enospc];
                        let fault = |random: &mut Random| kinds[usize::try_from(random.below(4)).unwrap()];
                        let faults = (0..=self.random.below(3))
                            .map(|_| (self.random.below(12), fault(&mut self.random)));
                        node.disk.set_faults(faults.collect::<Vec<_>>());
                    }
                }
                self.note(Some(gateway), What::DiskFaults);
            }
            4 if weather.space => {
                let segment_bytes = self.setup.journal.segment_bytes;
                let segments = if self.random.once_in(2) { 256 } else { 1 + self.random.below(5) };
                let capacity = segment_bytes * segments + self.random.below(segment_bytes);
                let capacity = usize::try_from(capacity).unwrap();
                self.nodes[gateway].disk.set_capacity(capacity);
                self.note(Some(gateway), What::DiskCapacity(capacity));
            }
            5 if weather.outages => {
                let ms = self.below(90_000);
                self.store.go_down(ms);
            }
            6 if weather.clocks => {
                let ms = if self.random.once_in(3) {
                    self.below(1_200_000) - 600_000
                } else {
                    self.below(6_000) - 3_000
                };
                self.nodes[gateway].clock_off_ms += ms;
                self.set_clocks();
                self.note(Some(gateway), What::ClockStepped { ms });
            }
            7 if self.random.once_in(2) => return self.stop(gateway),
            8 => {
                self.nodes[gateway].disk.heal();
                self.note(Some(gateway), What::Healed);
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends a gateway whose machine stopped; restarts, now and then, one whose journal is poisoned.
    fn look_after(&mut self, gateway: usize) -> Result<(), String> {
        let node = &self.nodes[gateway];
        let stopped = node.disk.is_stopped();
        let poisoned = node.life.as_ref().is_some_and(|life| life.core.journal.stats().poisoned);
        if stopped || (poisoned && self.random.once_in(10)) {
            let power = self.weather.power && self.random.once_in(2);
            return self.kill(gateway, power);
        }
        Ok(())
    }

    /// The process ends here; with the power, what was not synced is in doubt.
    fn kill(&mut self, gateway: usize, power: bool) -> Result<(), String> {
        self.learn_fates(gateway)?;
        let seed = self.random.next();
        let node = &mut self.nodes[gateway];
        let disk = if power { node.disk.crashed(seed) } else { node.disk.restarted() };
        // Whatever the old process does while it is taken down is done to nothing.
        node.disk.stop_at(0);
        let was_up = node.life.take().is_some();
        node.disk = disk;
        self.bury(gateway);
        if was_up && self.kind == Kind::Embedded {
            self.store.lose_unsynced();
        }
        self.note(Some(gateway), What::Killed { power });
        Ok(())
    }

    /// What a gateway's end leaves open stays unknown.
    fn bury(&mut self, gateway: usize) {
        let node = &mut self.nodes[gateway];
        node.orphans.clear();
        for (_, record) in node.pending.drain(..) {
            self.ledger.records[record].fate = Fate::Unknown;
        }
    }

    fn start(&mut self, gateway: usize) -> Result<(), String> {
        if self.nodes[gateway].life.is_some() {
            return Ok(());
        }
        let random = Random(self.random.next());
        let node = &mut self.nodes[gateway];
        let host = (&self.time, &self.store);
        let started = Life::start(&node.disk, &self.setup, &node.wall_ms, host, random);
        self.look_at_removals(gateway)?;
        let (life, replayed) = match started {
            Ok(started) => started,
            Err(NotStarted::Disk) => {
                self.note(Some(gateway), What::NotStarted);
                return self.kill(gateway, false);
            }
            Err(NotStarted::Broken(error)) => {
                return Err(format!("gateway {gateway} does not start any more: {error}"));
            }
        };
        let node = &mut self.nodes[gateway];
        node.life = Some(life);
        node.known = Definition::new(self.setup.memory.auto_reset_s);
        for checkin in &replayed {
            self.ledger.replayed(gateway, checkin)?;
            node.known.add(checkin);
        }
        self.nothing_is_lost(gateway, &replayed)?;
        self.note(Some(gateway), What::Started { replayed: replayed.len() });
        Ok(())
    }

    /// What was durable is in the journal still, or in the store.
    fn nothing_is_lost(&self, gateway: usize, replayed: &[Checkin]) -> Result<(), String> {
        let replayed: BTreeMap<CheckinId, &Checkin> = replayed.iter().map(|c| (c.id, c)).collect();
        for record in self.ledger.records.iter().filter(|record| record.gateway == gateway) {
            let kept = || replayed.contains_key(&record.checkin.id) || self.store.holds(&record.checkin);
            if record.fate == Fate::Durable && !kept() {
                return Err(format!("gateway {gateway} started without a durable check-in: {record:?}"));
            }
        }
        Ok(())
    }

    /// An orderly stop: answer what was asked, close the journal, drain for a while.
    fn stop(&mut self, gateway: usize) -> Result<(), String> {
        for _ in 0..50 {
            self.commit(gateway)?;
            self.poll_woken(gateway)?;
        }
        let Some(life) = self.nodes[gateway].life.as_mut() else { return Ok(()) };
        let left = std::mem::take(&mut life.requests);
        for request in left {
            self.disconnect(gateway, request);
        }
        let limit_ms = 1 + self.below(10_000);
        let Some(life) = &mut self.nodes[gateway].life else { return Ok(()) };
        life.core.journal.close();
        life.stop_drain(self.time.instant() + Duration::from_millis(limit_ms.unsigned_abs()));
        self.learn_fates(gateway)?;
        let mut end = None;
        for _ in 0..100 {
            let Some(life) = &mut self.nodes[gateway].life else { return Ok(()) };
            end = life.poll_drain();
            self.look_at_removals(gateway)?;
            if end.is_some() || self.nodes[gateway].disk.is_stopped() {
                break;
            }
            self.advance(200);
        }
        if end.is_none() && !self.nodes[gateway].disk.is_stopped() {
            return Err(format!("gateway {gateway}'s drain did not stop within its limit"));
        }
        let drained = end == Some(DrainEnd::Drained);
        self.note(Some(gateway), What::Stopped { drained });
        if drained {
            self.store_has_all_of(gateway)?;
        }
        let disk = self.nodes[gateway].disk.restarted();
        self.nodes[gateway].life = None;
        self.nodes[gateway].disk = disk;
        self.bury(gateway);
        Ok(())
    }

    fn store_has_all_of(&self, gateway: usize) -> Result<(), String> {
        let here = self.ledger.records.iter().filter(|record| record.gateway == gateway);
        match here.filter(|record| record.fate == Fate::Durable).find(|r| !self.store.holds(&r.checkin)) {
            Some(record) => Err(format!("gateway {gateway} drained, but the store lacks {record:?}")),
            None => Ok(()),
        }
    }

    fn poll_woken(&mut self, gateway: usize) -> Result<(), String> {
        loop {
            let Some(life) = &self.nodes[gateway].life else { return Ok(()) };
            let Some(index) = life.requests.iter().position(Request::is_woken) else { return Ok(()) };
            self.poll(gateway, index)?;
        }
    }

    /// Nothing fails any more: every scan gets its answer, and every record its row.
    fn come_to_rest(&mut self) -> Result<(), String> {
        self.note(None, What::Healed);
        self.store.heal();
        for gateway in 0..self.nodes.len() {
            self.nodes[gateway].disk.heal();
            self.nodes[gateway].disk.set_capacity(CAPACITY);
            self.look_after(gateway)?;
        }
        for _ in 0..ROUNDS_MAX {
            self.round()?;
            let busy = |node: &Node| node.life.as_ref().is_none_or(|life| !life.requests.is_empty());
            if self.devices.iter().all(|device| device.outbox.is_empty()) && !self.nodes.iter().any(busy) {
                return self.drain_all();
            }
            for device in 0..self.devices.len() {
                let scans: Vec<usize> = self.devices[device].outbox.iter().take(8).copied().collect();
                if !scans.is_empty() {
                    self.request(self.devices[device].home, device, scans);
                }
            }
        }
        Err("scans have no answer although nothing fails any more".into())
    }

    /// A while in which everyone does what there is to do.
    fn round(&mut self) -> Result<(), String> {
        self.advance(500);
        for gateway in 0..self.nodes.len() {
            self.start(gateway)?;
            if self.nodes[gateway].life.as_ref().is_some_and(|life| life.core.journal.stats().poisoned) {
                self.kill(gateway, false)?;
                self.start(gateway)?;
            }
            for _ in 0..4 {
                self.poll_woken(gateway)?;
                self.commit(gateway)?;
            }
            self.poll_woken(gateway)?;
            self.drain(gateway)?;
            self.sweep(gateway);
            self.look_at_removals(gateway)?;
        }
        Ok(())
    }

    /// Stops every drain when it has drained, and with it its gateway.
    fn drain_all(&mut self) -> Result<(), String> {
        for gateway in 0..self.nodes.len() {
            let Some(life) = &mut self.nodes[gateway].life else { continue };
            life.stop_drain(self.time.instant() + Duration::from_hours(1));
            let mut end = None;
            for _ in 0..ROUNDS_MAX {
                let Some(life) = &mut self.nodes[gateway].life else { break };
                end = life.poll_drain();
                if end.is_some() || !life.has_drain() {
                    break;
                }
                self.advance(500);
            }
            self.look_at_removals(gateway)?;
            if end != Some(DrainEnd::Drained) {
                return Err(format!("gateway {gateway} did not drain: {end:?}"));
            }
            self.store_has_all_of(gateway)?;
            self.kill(gateway, gateway % 2 == 0)?;
        }
        Ok(())
    }

    /// Everything that was ever told is asked again, of the gateways that told it, which have restarted.
    fn ask_again(&mut self) -> Result<(), String> {
        for gateway in 0..self.nodes.len() {
            self.start(gateway)?;
            for number in 0..self.jobs.len() {
                if self.jobs[number].told_by.contains(&gateway) {
                    let device = usize::from(self.jobs[number].scan.device.0[0]);
                    self.request(gateway, device, vec![number]);
                }
            }
        }
        self.come_to_rest()
    }
}

fn setup(random: &mut Random, defect: Defect) -> Setup {
    // Segments of eight records or of forty.
    let (segment_bytes, lane_bytes_max) = if random.once_in(3) { (4096, 1024) } else { (1024, 512) };
    let journal = JournalSettings {
        lanes: u16::try_from(1 + random.below(2)).unwrap(),
        lane_bytes_max,
        batch_bytes_max: if random.once_in(2) { 256 } else { 102 },
        segment_bytes,
        bytes_max: segment_bytes * (3 + random.below(12)),
        retain_ms: [0, 30_000, 3_600_000][usize::try_from(random.below(3)).unwrap()],
        probe_ms: 5,
    };
    let memory = Settings {
        windows_s: WINDOWS_S.to_vec(),
        remember_s: REMEMBER_S,
        auto_reset_s: if random.once_in(2) { 57_600 } else { 300 },
        entries_max: u64::MAX,
    };
    let drain = DrainSettings {
        batch_records_max: usize::try_from(1 + random.below(20)).unwrap(),
        sync_every_ms: random.below(2_000),
        sync_records_max: 1 + random.below(30),
        ..DrainSettings::default()
    };
    Setup { journal, memory, drain, defect }
}
