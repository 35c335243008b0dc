//! Time: who may wait how long, enforced by one sweeper a core instead of a timer a connection.
//!
//! Connections note on a [`Watch`] what they are doing and since when; the sweep reads the notes every
//! [`SWEEP_MS`] and ends what is overdue by shutting its socket down and waking its task. Clock readings
//! are those of the last sweep, so a limit is kept to within two sweeps and a request costs no clock call.

use std::cell::{Cell, RefCell};
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};

use socket2::SockRef;

use super::uring::SharedFd;
use super::{Counters, Settings};

/// Between two sweeps.
pub(super) const SWEEP_MS: u64 = 100;

thread_local! {
    static NOW_MS: Cell<u64> = const { Cell::new(1) };
    static WAITS: RefCell<Waits> = const { RefCell::new(Waits { waits: Vec::new(), free: Vec::new() }) };
    static CORE: RefCell<Option<CoreLimits>> = const { RefCell::new(None) };
}

/// Milliseconds of this core's own clock, as of its last sweep. Never 0.
pub(super) fn now_ms() -> u64 {
    NOW_MS.get()
}

/// Makes this thread a core's, for code that has no connection at hand.
pub(super) fn enter_core(body_timeout_ms: u64, counters: Arc<Counters>) {
    CORE.set(Some(CoreLimits { body_timeout_ms, counters }));
}

/// Counts a body that took too long, and says how long it was given.
pub(super) fn body_timed_out() -> u64 {
    CORE.with_borrow(|core| {
        core.as_ref().map_or(0, |core| {
            core.counters.body_timeouts.fetch_add(1, Ordering::Relaxed);
            core.body_timeout_ms
        })
    })
}

struct CoreLimits {
    body_timeout_ms: u64,
    counters: Arc<Counters>,
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// TLS handshake.
    Handshake,
    /// No request; no hyper either.
    Parked,
    /// No request; hyper waits for one.
    Idle,
    /// Part of an HTTP/1.1 request's head is here.
    Head,
    /// An HTTP/1.1 request is with the service.
    Busy,
    /// Requests with limits of their own: a streamed response, or HTTP/2.
    Streaming,
    /// Responses are out; discarding what the peer still sends.
    Linger,
}

/// One connection's notes.
pub(super) struct Watch {
    fd: SharedFd,
    slot: Cell<usize>,
    phase: Cell<Phase>,
    since_ms: Cell<u64>,
    /// When the write that is stuck got stuck; 0 for none.
    write_since_ms: Cell<u64>,
    /// Requests whose response isn't all with hyper.
    requests: Cell<u32>,
    /// hyper has response bytes that it hasn't flushed.
    unflushed: Cell<bool>,
    http2: Cell<bool>,
    park: Cell<bool>,
    drain: Cell<bool>,
    expired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Watch {
    /// Starts a phase now.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since_ms.set(now_ms());
    }

    /// From idle to parked or back: the wait goes on, so does its clock.
    pub(super) fn continue_as(&self, phase: Phase) {
        self.phase.set(phase);
    }

    /// Remembers the connection's task. A task's waker stays the same, so once is enough.
    pub(super) fn listen(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if waker.is_none() {
            *waker = Some(cx.waker().clone());
        }
    }

    pub(super) fn set_http2(&self) {
        self.http2.set(true);
    }

    /// hyper was given bytes.
    pub(super) fn note_read(&self) {
        if self.phase.get() == Phase::Idle && !self.http2.get() {
            self.enter(Phase::Head);
        }
    }

    pub(super) fn note_write(&self, stuck: bool) {
        if !stuck {
            self.write_since_ms.set(0);
        } else if self.write_since_ms.get() == 0 {
            self.write_since_ms.set(now_ms());
        }
    }

    pub(super) fn note_flushed(&self) {
        self.unflushed.set(false);
    }

    pub(super) fn begin_request(&self) {
        self.requests.set(self.requests.get() + 1);
        self.enter(if self.http2.get() { Phase::Streaming } else { Phase::Busy });
    }

    pub(super) fn end_request(&self) {
        self.requests.set(self.requests.get().saturating_sub(1));
        self.unflushed.set(true);
        if self.requests.get() == 0 {
            self.enter(Phase::Idle);
        }
    }

    /// Whether hyper's state may be dropped: no request, nothing unsent, nothing half read.
    pub(super) fn may_park(&self) -> bool {
        self.park.take()
            && self.phase.get() == Phase::Idle
            && self.requests.get() == 0
            && !self.unflushed.get()
            && self.write_since_ms.get() == 0
    }

    /// Whether a request's head has begun to arrive, and no more.
    pub(super) fn reads_head(&self) -> bool {
        self.phase.get() == Phase::Head
    }

    pub(super) fn draining(&self) -> bool {
        self.drain.get()
    }

    pub(super) fn is_http2(&self) -> bool {
        self.http2.get()
    }

    /// The sweeper has given this connection up.
    pub(super) fn expired(&self) -> bool {
        self.expired.get()
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn expire(&self) {
        self.expired.set(true);
        let _ = SockRef::from(&self.fd).shutdown(Shutdown::Both);
        self.wake();
    }

    /// What to do about this connection, and when to look again.
    fn judge(&self, now_ms: u64, settings: &Settings) -> Verdict {
        let elapsed_ms = |since_ms: u64| now_ms.saturating_sub(since_ms);
        let stuck_since_ms = self.write_since_ms.get();
        if stuck_since_ms != 0 && elapsed_ms(stuck_since_ms) > settings.write_timeout_ms {
            return Verdict::Expire(Some(|counters| &counters.write_timeouts));
        }
        let since_ms = self.since_ms.get();
        let limit: (u64, Expired) = match self.phase.get() {
            Phase::Handshake => (settings.handshake_timeout_ms, |c| &c.handshake_timeouts),
            Phase::Parked | Phase::Idle => (settings.idle_timeout_ms, |c| &c.idle_timeouts),
            Phase::Head => (settings.header_timeout_ms, |c| &c.header_timeouts),
            Phase::Busy => (settings.request_timeout_ms, |c| &c.request_timeouts),
            Phase::Linger if elapsed_ms(since_ms) > settings.linger_timeout_ms => {
                return Verdict::Expire(None);
            }
            Phase::Linger | Phase::Streaming => return Verdict::Keep { look_again_ms: 0 },
        };
        if elapsed_ms(since_ms) > limit.0 {
            return Verdict::Expire(Some(limit.1));
        }
        match self.phase.get() {
            Phase::Parked => Verdict::Keep { look_again_ms: since_ms + limit.0 },
            Phase::Idle if !self.http2.get() && elapsed_ms(since_ms) >= settings.park_after_ms => {
                Verdict::Park
            }
            _ => Verdict::Keep { look_again_ms: 0 },
        }
    }
}

/// Which counter an expiry goes to.
type Expired = fn(&Counters) -> &AtomicU64;

enum Verdict {
    Keep { look_again_ms: u64 },
    Park,
    Expire(Option<Expired>),
}

/// The connections of one core.
#[derive(Default)]
pub(super) struct Registry {
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
}

struct Slot {
    /// The sweep passes over the slot until then: parked connections are many and change rarely.
    look_again_ms: u64,
    watch: Option<Rc<Watch>>,
}

impl Registry {
    pub(super) fn add(&self, fd: SharedFd, phase: Phase) -> Rc<Watch> {
        let watch = Rc::new(Watch {
            fd,
            slot: Cell::new(0),
            phase: Cell::new(phase),
            since_ms: Cell::new(now_ms()),
            write_since_ms: Cell::new(0),
            requests: Cell::new(0),
            unflushed: Cell::new(false),
            http2: Cell::new(false),
            park: Cell::new(false),
            drain: Cell::new(false),
            expired: Cell::new(false),
            waker: RefCell::new(None),
        });
        let slot = Slot { look_again_ms: 0, watch: Some(Rc::clone(&watch)) };
        let mut slots = self.slots.borrow_mut();
        let free = self.free.borrow_mut().pop();
        watch.slot.set(free.unwrap_or(slots.len()));
        match free.and_then(|index| slots.get_mut(index)) {
            Some(place) => *place = slot,
            None => slots.push(slot),
        }
        watch
    }

    pub(super) fn remove(&self, watch: &Watch) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(watch.slot.get()) {
            slot.watch = None;
        }
        self.free.borrow_mut().push(watch.slot.get());
    }

    /// A parked connection stirs: the next sweep looks at it.
    pub(super) fn stir(&self, watch: &Watch) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(watch.slot.get()) {
            slot.look_again_ms = 0;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.borrow().len() - self.free.borrow().len()
    }

    /// Moves the clock and ends or parks what is due. Wakes tasks, but runs none. Says how many
    /// connections are not parked.
    pub(super) fn sweep(&self, now_ms: u64, settings: &Settings, counters: &Counters) -> usize {
        NOW_MS.set(now_ms);
        let mut active = 0;
        for slot in self.slots.borrow_mut().iter_mut().filter(|slot| slot.look_again_ms <= now_ms) {
            let Some(watch) = &slot.watch else { continue };
            active += usize::from(watch.phase.get() != Phase::Parked);
            match watch.judge(now_ms, settings) {
                Verdict::Keep { look_again_ms } => slot.look_again_ms = look_again_ms,
                Verdict::Park => {
                    watch.park.set(true);
                    watch.wake();
                }
                Verdict::Expire(counter) => {
                    if let Some(counter) = counter
                        && !watch.expired()
                    {
                        counter(counters).fetch_add(1, Ordering::Relaxed);
                    }
                    watch.expire();
                }
            }
        }
        WAITS.with_borrow_mut(|waits| waits.sweep(now_ms));
        active
    }

    /// Asks every connection to finish what it is doing and end.
    pub(super) fn drain(&self) {
        self.each(|watch| {
            watch.drain.set(true);
            watch.wake();
        });
    }

    /// Ends every connection now.
    pub(super) fn expire_all(&self, counters: &Counters) {
        self.each(|watch| {
            if !watch.expired() {
                counters.drain_timeouts.fetch_add(1, Ordering::Relaxed);
            }
            watch.expire();
        });
    }

    fn each(&self, act: impl Fn(&Watch)) {
        self.slots.borrow().iter().filter_map(|slot| slot.watch.as_ref()).for_each(|watch| act(watch));
    }
}

/// Waits that belong to one request rather than to a connection.
struct Waits {
    waits: Vec<Option<Wait>>,
    free: Vec<usize>,
}

struct Wait {
    until_ms: u64,
    waker: Waker,
}

impl Waits {
    fn sweep(&mut self, now_ms: u64) {
        for wait in self.waits.iter().flatten().filter(|wait| wait.until_ms < now_ms) {
            wait.waker.wake_by_ref();
        }
    }
}

/// A limit on one wait, from its first poll on. Costs nothing until then.
pub(super) struct Deadline {
    limit_ms: u64,
    place: Option<usize>,
}

impl Deadline {
    pub(super) fn new(limit_ms: u64) -> Self {
        Self { limit_ms, place: None }
    }

    /// The limit on a request's body; off the listener's cores there is none.
    pub(super) fn for_body() -> Self {
        Self::new(CORE.with_borrow(|core| core.as_ref().map_or(u64::MAX, |core| core.body_timeout_ms)))
    }

    /// To be asked while pending: whether the time is up; if not, the task is woken when it is.
    pub(super) fn poll_over(&mut self, cx: &Context<'_>) -> bool {
        WAITS.with_borrow_mut(|waits| {
            if let Some(wait) =
                self.place.and_then(|place| waits.waits.get_mut(place)).and_then(Option::as_mut)
            {
                if !wait.waker.will_wake(cx.waker()) {
                    wait.waker.clone_from(cx.waker());
                }
                return wait.until_ms < now_ms();
            }
            let wait = Wait { until_ms: now_ms().saturating_add(self.limit_ms), waker: cx.waker().clone() };
            let place = waits.free.pop().unwrap_or_else(|| {
                waits.waits.push(None);
                waits.waits.len() - 1
            });
            if let Some(free) = waits.waits.get_mut(place) {
                *free = Some(wait);
            }
            self.place = Some(place);
            false
        })
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        // A request dropped at thread exit may come after the waits.
        let _ = WAITS.try_with(|waits| {
            let mut waits = waits.borrow_mut();
            if let Some(wait) = waits.waits.get_mut(place) {
                *wait = None;
            }
            waits.free.push(place);
        });
    }
}
