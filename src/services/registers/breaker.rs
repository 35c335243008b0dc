//! A circuit breaker: what keeps failing is left alone for a time, and then tried with one request.
//!
//! Pure: it has no clock and no lock, and is told the time.
//!
//! ```text
//!          failures in a row               the pause is over
//! closed ────────────────────▶ open ────────────────────────▶ half-open: one probe
//!    ▲                          ▲                                │        │
//!    │                          └────────── it failed ───────────┘        │
//!    └───────────────────────────── it succeeded ─────────────────────────┘
//! ```

use std::time::{Duration, Instant};

/// When it opens, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long nothing is sent then.
    pub pause: Duration,
}

/// Whether requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// All are.
    Closed,
    /// None is.
    Open,
    /// One is, and decides.
    HalfOpen,
}

impl Position {
    /// A stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
    },
    /// A probe is under way.
    Probing,
}

/// The breaker of one register.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    state: State,
}

impl Breaker {
    /// Closed.
    pub fn new(settings: Settings) -> Self {
        Self { settings, state: State::Closed { failures: 0 } }
    }

    /// Whether a request may be sent. Whoever is let through must report how it ended.
    ///
    /// # Errors
    /// It may not; how long until one may be tried.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        match self.state {
            State::Closed { .. } => Ok(()),
            State::Open { until } if now < until => Err(until.saturating_duration_since(now)),
            State::Open { .. } => {
                self.state = State::Probing;
                Ok(())
            }
            State::Probing => Err(self.settings.pause),
        }
    }

    /// A request that was let through has been answered well.
    pub fn succeeded(&mut self) {
        // One that was sent before it opened says nothing of what came later: only a probe closes it.
        if !matches!(self.state, State::Open { .. }) {
            self.state = State::Closed { failures: 0 };
        }
    }

    /// A request that was let through has failed.
    pub fn failed(&mut self, now: Instant) {
        let open = State::Open { until: now + self.settings.pause };
        self.state = match self.state {
            State::Closed { failures } if failures + 1 < self.settings.failures => {
                State::Closed { failures: failures + 1 }
            }
            State::Closed { .. } | State::Probing => open,
            State::Open { until } => State::Open { until },
        };
    }

    /// Where it stands.
    pub fn position(&self, now: Instant) -> Position {
        match self.state {
            State::Closed { .. } => Position::Closed,
            State::Open { until } if now < until => Position::Open,
            State::Open { .. } | State::Probing => Position::HalfOpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(30);

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(Settings { failures: 3, pause: PAUSE });
        for _ in 0..3 {
            assert_eq!(breaker.admit(now), Ok(()));
            breaker.failed(now);
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let now = Instant::now();
        let mut breaker = Breaker::new(Settings { failures: 3, pause: PAUSE });
        for failed in [true, true, false, true, true] {
            assert_eq!(breaker.admit(now), Ok(()));
            if failed { breaker.failed(now) } else { breaker.succeeded() }
        }
        assert_eq!(breaker.position(now), Position::Closed);
        breaker.failed(now);
        assert_eq!(breaker.position(now), Position::Open);
        assert_eq!(breaker.admit(now + Duration::from_secs(10)), Err(Duration::from_secs(20)));
    }

    #[test]
    fn after_the_pause_one_probe_decides() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + PAUSE;
        assert_eq!(breaker.position(later), Position::HalfOpen);
        assert_eq!(breaker.admit(later), Ok(()));
        assert_eq!(breaker.admit(later), Err(PAUSE), "one probe at a time");
        breaker.failed(later);
        assert_eq!(breaker.position(later), Position::Open);
        assert_eq!(breaker.admit(later + PAUSE), Ok(()));
        breaker.succeeded();
        assert_eq!(breaker.position(later + PAUSE), Position::Closed);
        assert_eq!(breaker.admit(later + PAUSE), Ok(()));
    }

    #[test]
    fn what_was_sent_before_it_opened_neither_closes_it_nor_makes_the_pause_longer() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.succeeded();
        assert_eq!(breaker.position(now), Position::Open);
        breaker.failed(now + Duration::from_secs(29));
        assert_eq!(breaker.position(now + PAUSE), Position::HalfOpen);
    }
}
