//! The one clock of a simulation. It moves only when told to.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use scangate::store::drain::{Pace, Source};

use crate::sim::Random;

/// Milliseconds since the simulation began.
pub struct Time {
    now_ms: Cell<i64>,
    base: Instant,
}

impl Time {
    pub fn begin() -> Rc<Self> {
        Rc::new(Self { now_ms: Cell::new(0), base: Instant::now() })
    }

    pub fn now_ms(&self) -> i64 {
        self.now_ms.get()
    }

    pub fn advance(&self, ms: i64) {
        self.now_ms.set(self.now_ms.get() + ms);
    }

    /// As a monotonic clock reads.
    pub fn instant(&self) -> Instant {
        self.base + Duration::from_millis(self.now_ms().unsigned_abs())
    }

    /// Resolves when the time has come; whoever advances it polls again.
    pub fn until(self: Rc<Self>, at_ms: i64) -> impl Future<Output = ()> {
        poll_fn(move |_| if self.now_ms() >= at_ms { Poll::Ready(()) } else { Poll::Pending })
    }

    fn after(self: &Rc<Self>, time: Duration) -> i64 {
        self.now_ms() + i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 2)
    }
}

/// A drain's time and chance.
pub struct SimPace {
    pub time: Rc<Time>,
    pub random: RefCell<Random>,
}

impl Pace for SimPace {
    fn now(&self) -> Instant {
        self.time.instant()
    }

    fn pause(&self, time: Duration) -> impl Future<Output = ()> {
        Rc::clone(&self.time).until(self.time.after(time))
    }

    fn until_more<S: Source>(
        &self,
        source: &S,
        position: S::Position,
        limit: Duration,
    ) -> impl Future<Output = ()> {
        let until_ms = self.time.after(limit);
        poll_fn(move |_| {
            let done = source.wait(position, Duration::ZERO) || self.time.now_ms() >= until_ms;
            if done { Poll::Ready(()) } else { Poll::Pending }
        })
    }

    fn chance(&self) -> u64 {
        self.random.borrow_mut().next()
    }
}
