//! Open-loop load: every request has an intended time of sending that doesn't depend on how the gateway
//! fares, and its latency runs from there. A gateway that stalls for a second makes all requests of that
//! second late, as it would make devices wait; a closed loop would have sent one and reported one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::sleep;

use crate::cpu;
use crate::ledger::{Doubt, Ledger};
use crate::profile::Profile;
use crate::record::{Ending, Recorder};
use crate::traffic::Traffic;
use crate::wire::{Answer, Http1, Post, Target, post_http2};

/// The ticker wakes at most this often; requests due in between are sent together.
const TICK: Duration = Duration::from_micros(200);
/// Pause between attempts to connect to a gateway that isn't there.
const RECONNECT: Duration = Duration::from_millis(20);
/// After the last intended time, how long answers may still come.
const TAIL: Duration = Duration::from_mins(1);

/// What to send, how, and to whom.
pub struct Plan {
    /// Where to; two gateways take requests in turn.
    pub targets: Vec<Target>,
    /// Requests a second, over time.
    pub profile: Profile,
    /// Connections, shared out over the targets.
    pub connections: usize,
    /// Streams of one HTTP/2 connection.
    pub streams: usize,
    /// Lines of a request; 0 sends single scans.
    pub batch_lines: u64,
    /// Number of the first scan: distinct runs must not overlap.
    pub first_scan: u64,
    /// The event time of what is due at the start. Event times follow the schedule, not the clock, so that two
    /// runs of one plan send the same scans.
    pub base_ms: i64,
    /// The gateway's process, for its memory over time.
    pub watch_pid: Arc<AtomicU64>,
}

/// One request that is due.
#[derive(Clone, Copy)]
struct Job {
    doubt: Doubt,
    due: Instant,
}

/// Everything a connection's task needs.
struct Shared {
    traffic: Arc<Traffic>,
    recorder: Arc<Recorder>,
    ledger: Mutex<Ledger>,
    batch: bool,
    /// Set when answers are no longer waited for.
    over: AtomicBool,
    settled: AtomicU64,
}

/// Sends the plan and returns what came of it. Blocks; call it on a thread of its own where something else
/// must happen meanwhile.
pub fn run(plan: &Plan, traffic: &Arc<Traffic>, recorder: &Arc<Recorder>, quiet: bool) -> Result<Ledger> {
    ensure!(!plan.targets.is_empty() && plan.connections >= plan.targets.len(), "too few connections");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let shared = Arc::new(Shared {
        traffic: traffic.clone(),
        recorder: recorder.clone(),
        ledger: Mutex::new(Ledger::default()),
        batch: plan.batch_lines > 0,
        over: AtomicBool::new(false),
        settled: AtomicU64::new(0),
    });
    let mut queues = Vec::new();
    let mut tasks = Vec::new();
    for index in 0..plan.connections {
        let target = plan.targets.get(index % plan.targets.len()).context("no target")?.clone();
        let (sender, receiver) = mpsc::unbounded_channel();
        queues.push(sender);
        let shared = shared.clone();
        tasks.push(if target.http2 {
            runtime.spawn(http2(target, receiver, shared, plan.streams))
        } else {
            runtime.spawn(http1(target, receiver, shared))
        });
    }
    let sent = tick(plan, recorder, &queues, quiet);
    drop(queues);
    let waiting = Instant::now();
    while shared.settled.load(Ordering::Acquire) < sent && waiting.elapsed() < TAIL {
        std::thread::sleep(Duration::from_millis(10));
    }
    shared.over.store(true, Ordering::Release);
    runtime.block_on(async {
        for task in tasks {
            let _ = tokio::time::timeout(Duration::from_secs(35), task).await;
        }
        Ok(std::mem::take(&mut *shared.ledger.lock().await))
    })
}

/// Sends what was left unanswered again, one request at a time, until each has an answer.
pub fn resend(target: &Target, traffic: &Traffic, ledger: &mut Ledger) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut doubts = std::mem::take(&mut ledger.doubts);
    doubts.sort_by_key(|doubt| doubt.n);
    let count = doubts.len() as u64;
    runtime.block_on(async {
        let target = Target { http2: false, ..target.clone() };
        let mut connection = target.http1().await?;
        for doubt in doubts {
            let (post, asked) = make(traffic, &doubt, doubt.lines > 1)?;
            let mut answer = connection.post(&post).await?;
            for _ in 0..100 {
                if answer.status != 503 {
                    break;
                }
                sleep(Duration::from_millis(200)).await;
                answer = connection.post(&post).await?;
            }
            settle(ledger, &asked, &answer, post.batch)?;
        }
        Ok(count)
    })
}

/// Hands each request to its connection when it is due. Returns how many were.
fn tick(plan: &Plan, recorder: &Recorder, queues: &[mpsc::UnboundedSender<Job>], quiet: bool) -> u64 {
    let started = recorder.started();
    let lines = plan.batch_lines.max(1);
    let mut next_line = Duration::from_secs(1);
    let mut request = 0_u64;
    while let Some(due) = plan.profile.due(request) {
        let now = started.elapsed();
        if now < due {
            std::thread::sleep(due.saturating_sub(now).max(TICK).min(Duration::from_millis(50)));
        }
        if started.elapsed() >= next_line {
            watch(plan, recorder, next_line.as_secs(), quiet);
            next_line += Duration::from_secs(1);
        }
        if started.elapsed() < due {
            continue;
        }
        let n = plan.first_scan + request * lines;
        let at_ms = plan.base_ms + i64::try_from(due.as_millis()).unwrap_or_default();
        let doubt = Doubt { n, group: plan.first_scan + request, lines, at_ms };
        let queue = usize::try_from(request % queues.len() as u64).ok().and_then(|index| queues.get(index));
        if let Some(queue) = queue {
            // The receiver lives as long as its sender.
            let _ = queue.send(Job { doubt, due: started + due });
        }
        request += 1;
    }
    request
}

fn watch(plan: &Plan, recorder: &Recorder, second: u64, quiet: bool) {
    let pid = u32::try_from(plan.watch_pid.load(Ordering::Relaxed)).unwrap_or_default();
    let resident = cpu::resident_bytes(&[pid]).unwrap_or_default();
    recorder.resident(resident);
    if let Some(last) = recorder.last_second().filter(|_| !quiet) {
        eprintln!(
            "{second:>5} s  {:>7} answered  {:>5} shed  {:>5} failed  p50 {:>8.2} ms  p99 {:>8.2} ms  {:>5} MiB",
            last.answered,
            last.shed,
            last.failed,
            last.p50_ms,
            last.p99_ms,
            resident >> 20
        );
    }
}

async fn http1(target: Target, mut queue: mpsc::UnboundedReceiver<Job>, shared: Arc<Shared>) {
    let mut connection: Option<Http1> = None;
    while let Some(job) = queue.recv().await {
        while connection.is_none() && !shared.over.load(Ordering::Acquire) {
            match target.http1().await {
                Ok(open) => connection = Some(open),
                Err(_) => sleep(RECONNECT).await,
            }
        }
        let result = match (&mut connection, make(&shared.traffic, &job.doubt, shared.batch)) {
            (Some(open), Ok((post, asked))) => open.post(&post).await.map(|answer| (answer, asked)),
            (None, _) => Err(anyhow::anyhow!("no connection")),
            (_, Err(error)) => Err(error),
        };
        // After a status that closes the connection, the next request would find it closed.
        if result.as_ref().map_or(true, |(answer, _)| matches!(answer.status, 400 | 408 | 413)) {
            connection = None;
        }
        finish(&shared, &job, result).await;
    }
}

async fn http2(target: Target, mut queue: mpsc::UnboundedReceiver<Job>, shared: Arc<Shared>, streams: usize) {
    let slots = Arc::new(Semaphore::new(streams));
    let mut connection: Option<SendRequest<Bytes>> = None;
    let broken = Arc::new(AtomicBool::new(false));
    while let Some(job) = queue.recv().await {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        if broken.swap(false, Ordering::AcqRel) {
            connection = None;
        }
        while connection.is_none() && !shared.over.load(Ordering::Acquire) {
            match target.http2().await {
                Ok(open) => connection = Some(open),
                Err(_) => sleep(RECONNECT).await,
            }
        }
        let (sender, shared, broken) = (connection.clone(), shared.clone(), broken.clone());
        tokio::spawn(async move {
            let result = match (sender, make(&shared.traffic, &job.doubt, shared.batch)) {
                (Some(sender), Ok((post, asked))) => {
                    post_http2(sender, post).await.map(|answer| (answer, asked))
                }
                (None, _) => Err(anyhow::anyhow!("no connection")),
                (_, Err(error)) => Err(error),
            };
            if result.is_err() {
                broken.store(true, Ordering::Release);
            }
            finish(&shared, &job, result).await;
            drop(slot);
        });
    }
    // All slots free: every request has ended.
    let _ = slots.acquire_many(u32::try_from(streams).unwrap_or(u32::MAX)).await;
}

/// The request, and the direction that each of its scans asks for.
pub fn make(traffic: &Traffic, doubt: &Doubt, batch: bool) -> Result<(Post, Vec<&'static str>)> {
    let mut body = Vec::new();
    let mut asked = Vec::new();
    let mut device = 0;
    for n in doubt.n..doubt.n + doubt.lines {
        let scan = traffic.scan(n, doubt.group, doubt.at_ms);
        body.extend_from_slice(scan.json.as_bytes());
        if batch {
            body.push(b'\n');
        }
        asked.push(scan.direction);
        device = scan.device;
    }
    Ok((Post { token: traffic.token(device)?.to_owned(), batch, body }, asked))
}

/// Takes the answers of a request into the ledger.
pub fn settle(ledger: &mut Ledger, asked: &[&str], answer: &Answer, batch: bool) -> Result<Ending> {
    if answer.status >= 500 && answer.status != 503 {
        ledger.server_errors += 1;
    }
    if !batch || answer.status != 200 {
        for asked in asked {
            ledger.answer(asked, &answer.body)?;
        }
        return Ok(match answer.status {
            200 | 201 => Ending::Answered,
            429 | 503 => Ending::Shed,
            _ => Ending::Failed,
        });
    }
    let lines: Vec<&[u8]> =
        answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    ensure!(lines.len() == asked.len(), "{} lines answered with {}", asked.len(), lines.len());
    for (asked, line) in asked.iter().zip(&lines) {
        ledger.answer(asked, line)?;
    }
    let shed = lines.iter().all(|line| memchr::memmem::find(line, b"\"status\":503").is_some());
    Ok(if shed { Ending::Shed } else { Ending::Answered })
}

async fn finish(shared: &Shared, job: &Job, result: Result<(Answer, Vec<&'static str>)>) {
    let mut ledger = shared.ledger.lock().await;
    let ending = match result {
        Ok((answer, asked)) => settle(&mut ledger, &asked, &answer, shared.batch),
        Err(error) => Err(error),
    };
    let ending = ending.unwrap_or_else(|_| {
        ledger.doubts.push(job.doubt);
        Ending::Failed
    });
    drop(ledger);
    shared.recorder.record(ending, job.due.elapsed());
    shared.settled.fetch_add(1, Ordering::AcqRel);
}

/// A plain HTTP/1.1 target.
pub fn plain(to: SocketAddr) -> Target {
    Target { to, http2: false, tls: None }
}
