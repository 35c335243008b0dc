//! Check-ins: those that the services look at, and those that arrive beside their load and must not feel it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::time::sleep_until;

use super::caller::{Caller, locked, request, typed};
use crate::codes;
use crate::ledger::Ledger;
use crate::record::{Ending, Recorder};
use crate::requests::time_text;

/// People who check in beside the load are none of those whom the services are asked about.
const BESIDE: u64 = 50_000_000;

/// One check-in to be made.
pub struct Visit {
    /// The number of a made-up person.
    pub person: u64,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// Otherwise an entry.
    pub is_exit: bool,
}

/// Sends check-ins and remembers what was acknowledged.
pub struct Scans {
    /// The public listener's.
    pub caller: Caller,
    /// Of what arrives beside the load and was answered the first time it was asked.
    pub recorder: Recorder,
    ledger: Mutex<Ledger>,
}

impl Scans {
    /// To the public listener.
    pub fn new(caller: Caller) -> Self {
        Self { caller, recorder: Recorder::start(), ledger: Mutex::default() }
    }

    /// What was acknowledged so far, which is forgotten here.
    pub fn take(&self) -> Ledger {
        std::mem::take(&mut *locked(&self.ledger))
    }

    /// Takes back what was taken.
    pub fn give(&self, ledger: Ledger) {
        locked(&self.ledger).merge(ledger);
    }

    /// Batches, each of one device and recorded before the next of the same sender, eight senders at a time.
    pub async fn fill(&self, batches: &[(String, Vec<Visit>)]) -> Result<()> {
        let next = AtomicUsize::new(0);
        let sender = || async {
            while let Some((token, visits)) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.batch(token, visits).await?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(sender(), sender(), sender(), sender(), sender(), sender(), sender(), sender())?;
        Ok(())
    }

    async fn batch(&self, token: &str, visits: &[Visit]) -> Result<()> {
        let body = visits.iter().fold(String::new(), |body, visit| body + &line(visit) + "\n");
        let post = typed("POST", "/v1/checkins", token, ("application/x-ndjson", body.as_bytes()));
        loop {
            let answer = self.caller.insist(&post).await?;
            ensure!(answer.status == 200, "a batch was answered {}", answer.status);
            let lines = answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let mut answered = 0;
            let mut is_shed = false;
            for (visit, line) in visits.iter().zip(lines) {
                is_shed |= memchr::memmem::find(line, b"\"status\":503").is_some();
                locked(&self.ledger).answer(direction(visit), line)?;
                answered += 1;
            }
            ensure!(answered == visits.len(), "{} lines were answered with {answered}", visits.len());
            if !is_shed {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// One check-in after the other at a rate, until it is over.
    pub async fn beside(
        self: &std::sync::Arc<Self>,
        tokens: &[String],
        rate: f64,
        over: &AtomicBool,
    ) -> Result<u64> {
        let began = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        let mut number = 0_u64;
        while rate > 0.0 && !over.load(Ordering::Relaxed) {
            #[allow(clippy::cast_precision_loss)] // Millions at most.
            let due = began + Duration::from_secs_f64(number as f64 / rate);
            sleep_until(due.into()).await;
            let device = usize::try_from(number)? % tokens.len().max(1);
            let token = tokens.get(device).context("no device")?.clone();
            let scans = std::sync::Arc::clone(self);
            tasks.spawn(async move { scans.one(&token, number, due).await });
            number += 1;
            while let Some(ended) = tasks.try_join_next() {
                ended??;
            }
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(number)
    }

    async fn one(&self, token: &str, number: u64, due: Instant) -> Result<()> {
        let at_ms = scangate::scan::UnixMillis::now().0;
        let visit = Visit { person: BESIDE + number, at_ms, is_exit: false };
        let (answer, attempts) =
            self.caller.insist_counted(&request("POST", "/v1/checkins", token, &line(&visit))).await?;
        ensure!(matches!(answer.status, 200 | 201), "a check-in was answered {}", answer.status);
        locked(&self.ledger).answer("in", &answer.body)?;
        if attempts == 1 {
            self.recorder.record(Ending::Answered, due.elapsed());
        }
        Ok(())
    }
}

const fn direction(visit: &Visit) -> &'static str {
    if visit.is_exit { "out" } else { "in" }
}

fn line(visit: &Visit) -> String {
    let direction = direction(visit);
    let id = format!("{}-{}-{direction}", visit.person, visit.at_ms);
    json!({"id": id, "qr": codes::cccd(visit.person), "at": time_text(visit.at_ms), "direction": direction})
        .to_string()
}
