//! A queue and a client: what is put in is sent until it is answered for good.

use std::time::{Duration, Instant};

use crate::client::{Client, Error, Lines};
use crate::queue::{Queue, QueueError};
use crate::types::{Answer, Reason, Refusal, Scan};

/// What a gateway takes in one batch, unless it is configured to take less (`limits.batch_lines_max`, `…_bytes_max`).
const BATCH_LINES_MAX: usize = 1000;
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// The first wait after a failure, and the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_mins(1);

/// Keeps scans until the gateway has them.
pub struct Outbox {
    client: Client,
    queue: Queue,
}

/// What became of scans in one go.
#[derive(Debug, Default)]
pub struct Flushed {
    /// Newly recorded.
    pub recorded: usize,
    /// Known before.
    pub duplicates: usize,
    /// Refused for good; out of the queue.
    pub refused: Vec<Refused>,
    /// Still in the queue.
    pub waiting: usize,
    /// Why some wait; none do without a reason.
    pub stopped_by: Option<Error>,
}

/// A scan that will never be recorded.
#[derive(Debug)]
pub struct Refused {
    /// The scan's id.
    pub id: String,
    /// Why.
    pub refusal: Refusal,
}

impl Outbox {
    /// What waits in `queue` goes to the gateway of `client`.
    pub fn new(client: Client, queue: Queue) -> Self {
        Self { client, queue }
    }

    /// Takes a scan in. It is on disk when this returns.
    pub fn push(&mut self, scan: &Scan) -> Result<(), QueueError> {
        self.queue.push(scan)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Sends under another token from now on.
    pub fn renew(&mut self, client: Client) {
        self.client = client;
    }

    /// Sends what waits, oldest first, until nothing does or the gateway asks for a pause.
    pub fn flush(&mut self) -> Result<Flushed, QueueError> {
        let mut flushed = Flushed::default();
        let mut lines_max = BATCH_LINES_MAX;
        while flushed.stopped_by.is_none() && !self.queue.is_empty() {
            let batch = self.queue.oldest(lines_max, BATCH_BYTES_MAX);
            let ids: Vec<String> = batch.iter().map(|waiting| waiting.id.clone()).collect();
            let body: String = batch.iter().map(|waiting| waiting.line.as_str()).collect();
            let settled = match self.client.batch(body.as_bytes()) {
                Ok(lines) => flushed.take(&ids, lines),
                // A gateway with narrower limits. One line that is too large alone is too large for good.
                Err(Error::TooLarge(_)) if ids.len() > 1 => {
                    lines_max = ids.len() / 2;
                    continue;
                }
                Err(Error::TooLarge(detail)) => {
                    let refusal = Refusal::too_large(detail);
                    flushed
                        .refused
                        .extend(ids.iter().map(|id| Refused { id: id.clone(), refusal: refusal.clone() }));
                    ids
                }
                Err(error) => {
                    flushed.stopped_by = Some(error);
                    break;
                }
            };
            self.queue.settle(&settled)?;
        }
        flushed.waiting = self.queue.len();
        Ok(flushed)
    }

    /// Flushes again and again, with pauses, until nothing waits, `patience` has run out or only another token
    /// helps.
    pub fn drain(&mut self, patience: Duration) -> Result<Flushed, QueueError> {
        let deadline = Instant::now() + patience;
        let (mut all, mut failures) = (Flushed::default(), 0);
        loop {
            let before = self.queue.len();
            let one = self.flush()?;
            failures = if one.waiting < before { 0 } else { failures + 1 };
            all.add(one);
            let asked = match &all.stopped_by {
                None | Some(Error::Unauthorized(_) | Error::Rejected { .. }) => return Ok(all),
                Some(Error::Busy { retry_after, .. }) => *retry_after,
                Some(_) => None,
            };
            let pause = pause(failures, asked);
            if Instant::now() + pause > deadline {
                return Ok(all);
            }
            std::thread::sleep(pause);
        }
    }
}

/// How long to wait after so many failures in a row: any time up to a bound that doubles, so that devices that lost the
/// same gateway don't come back together; never shorter than the gateway asked for.
fn pause(failures: u32, asked: Option<Duration>) -> Duration {
    let bound = BACKOFF_MAX.min(BACKOFF_MIN * 2_u32.saturating_pow(failures));
    bound.mul_f64(fastrand::f64()) + asked.unwrap_or_default()
}

impl Flushed {
    /// Reads the answer to the scans `ids`, and returns those that are answered for good. An answer that breaks off, or
    /// leaves some out, leaves these waiting.
    fn take(&mut self, ids: &[String], lines: Lines) -> Vec<String> {
        let mut settled = Vec::with_capacity(ids.len());
        for line in lines {
            let line = match line {
                Ok(line) => line,
                Err(error) => {
                    self.stopped_by = Some(error);
                    return settled;
                }
            };
            let Some(id) = ids.get(line.number.wrapping_sub(1)) else { continue };
            match line.answer {
                Ok(Answer::Recorded(_)) => self.recorded += 1,
                Ok(Answer::Duplicate(_)) => self.duplicates += 1,
                Ok(Answer::Refused(refusal)) if refusal.is_for_now(line.status) => {
                    let retry_after = refusal.retry_after_s.map(Duration::from_secs);
                    self.stopped_by = Some(Error::Busy { detail: refusal.detail, retry_after });
                    continue;
                }
                Ok(Answer::Refused(refusal)) => self.refused.push(Refused { id: id.clone(), refusal }),
                Err(error) => {
                    self.stopped_by = Some(error);
                    continue;
                }
            }
            settled.push(id.clone());
        }
        if settled.len() < ids.len() && self.stopped_by.is_none() {
            self.stopped_by = Some(Error::transport("the answer left scans out"));
        }
        settled
    }

    fn add(&mut self, more: Self) {
        self.recorded += more.recorded;
        self.duplicates += more.duplicates;
        self.refused.extend(more.refused);
        self.waiting = more.waiting;
        self.stopped_by = more.stopped_by;
    }
}

impl Refusal {
    fn too_large(detail: String) -> Self {
        Self { reason: Reason::TooLarge, detail, field: None, bound: None, retry_after_s: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_keep_what_the_gateway_asks() {
        for failures in [0, 1, 5, 20, u32::MAX] {
            for _ in 0..100 {
                assert!(pause(failures, None) <= BACKOFF_MAX);
                assert!(pause(failures, Some(Duration::from_secs(7))) >= Duration::from_secs(7));
            }
            assert!(pause(0, None) <= BACKOFF_MIN);
        }
    }
}
