//! Time and chance of a drain.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::{Duration, Instant};

use super::Source;

/// Time and chance as the drain meets them: its thread's, or a simulation's.
pub trait Pace: 'static {
    /// The time.
    fn now(&self) -> Instant;

    /// Resolves after `time`.
    fn pause(&self, time: Duration) -> impl Future<Output = ()>;

    /// Resolves once `source` may have something beyond `position`, or after `limit`.
    fn until_more<S: Source>(
        &self,
        source: &S,
        position: S::Position,
        limit: Duration,
    ) -> impl Future<Output = ()>;

    /// A number that no other gateway is likely to draw.
    fn chance(&self) -> u64;
}

/// A thread that has nothing else to do.
pub(super) struct ThreadPace;

impl Pace for ThreadPace {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn pause(&self, time: Duration) -> impl Future<Output = ()> {
        tokio::time::sleep(time)
    }

    /// Blocks, as the thread may.
    async fn until_more<S: Source>(&self, source: &S, position: S::Position, limit: Duration) {
        source.wait(position, limit);
    }

    fn chance(&self) -> u64 {
        // Every RandomState is keyed anew, which is all the chance that is needed here.
        RandomState::new().build_hasher().finish()
    }
}

/// Doubling pauses, each between half and all of its length, so that gateways which failed together
/// don't come back together.
pub(super) struct Backoff {
    next_ms: u64,
    max_ms: u64,
}

impl Backoff {
    pub(super) fn new(min_ms: u64, max_ms: u64) -> Self {
        Self { next_ms: min_ms, max_ms: max_ms.max(min_ms) }
    }

    pub(super) fn pause(&mut self, chance: u64) -> Duration {
        let whole = self.next_ms;
        self.next_ms = (whole * 2).min(self.max_ms);
        let half = whole / 2;
        Duration::from_millis(half + chance % (whole - half + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_its_limit_and_jitters_within_half() {
        let mut backoff = Backoff::new(50, 300);
        for whole in [50, 100, 200, 300, 300] {
            let pause = backoff.pause(ThreadPace.chance());
            let bounds = Duration::from_millis(whole / 2)..=Duration::from_millis(whole);
            assert!(bounds.contains(&pause), "{pause:?} of {whole} ms");
        }
    }
}
