//! Whoever calls a listener: over connections that are kept, and again until there is an answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::open::plain;
use crate::wire::{Answer, Http1, PATIENCE, Target};

/// How long whoever got no answer goes on asking.
const PERSISTENCE: Duration = Duration::from_mins(1);

/// Before it is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// What was answered so far.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests sent again: no answer, or 503.
    pub again: u64,
    /// Answers with 429 or 503 that don't say when to come back.
    pub without_retry_after: u64,
}

impl Tally {
    /// Answers with a status of 500 or above that isn't 503.
    pub fn server_errors(&self) -> u64 {
        self.statuses.range(500..).filter(|(status, _)| **status != 503).map(|(_, count)| count).sum()
    }

    fn count(&mut self, answer: &Answer) {
        *self.statuses.entry(answer.status).or_default() += 1;
        if matches!(answer.status, 429 | 503) && answer.header("retry-after").is_none() {
            self.without_retry_after += 1;
        }
    }
}

/// All who call one listener.
pub struct Caller {
    target: Target,
    idle: Mutex<Vec<Http1>>,
    tally: Mutex<Tally>,
}

impl Caller {
    /// Without a connection yet.
    pub fn new(to: SocketAddr) -> Self {
        Self { target: plain(to), idle: Mutex::default(), tally: Mutex::default() }
    }

    /// What was answered so far.
    pub fn tally(&self) -> Tally {
        locked(&self.tally).clone()
    }

    /// The same request until it has an answer that isn't 503, as an app would.
    pub async fn insist(&self, request: &[u8]) -> Result<Answer> {
        self.insist_counted(request).await.map(|(answer, _)| answer)
    }

    /// The same, and how often it was asked.
    pub async fn insist_counted(&self, request: &[u8]) -> Result<(Answer, u32)> {
        let began = Instant::now();
        let mut attempts = 1;
        loop {
            if let Ok(answer) = self.once(request).await {
                locked(&self.tally).count(&answer);
                if answer.status != 503 {
                    return Ok((answer, attempts));
                }
            }
            if began.elapsed() > PERSISTENCE {
                bail!("no answer within {PERSISTENCE:?}");
            }
            locked(&self.tally).again += 1;
            attempts += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn once(&self, request: &[u8]) -> Result<Answer> {
        let kept = locked(&self.idle).pop();
        let mut open = match kept {
            Some(open) => open,
            None => self.target.http1().await?,
        };
        let answered = tokio::time::timeout(PATIENCE, open.exchange(request)).await;
        if let Ok(Ok(answer)) = answered {
            locked(&self.idle).push(open);
            return Ok(answer);
        }
        // A gateway that is gone has taken all of them with it.
        locked(&self.idle).clear();
        answered?
    }
}

/// A request with a body of JSON, or none.
pub fn request(method: &str, path: &str, token: &str, body: &str) -> Vec<u8> {
    typed(method, path, token, ("application/json", body.as_bytes()))
}

/// A request with a body of any type; an empty token signs nothing.
pub fn typed(method: &str, path: &str, token: &str, (kind, body): (&str, &[u8])) -> Vec<u8> {
    let authorization =
        if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// A panic elsewhere leaves counts and connections as they are.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
