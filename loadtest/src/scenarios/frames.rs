//! Payloads beside frames: a payload's p99 with the frame lane idle and with frames offered at three times what
//! is read of them, in turns, so that the machine's mood meets both.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use scangate::decode::{self, FrameKind};
use scangate::scan::UnixMillis;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use crate::codes;
use crate::corpus::generate;
use crate::cpu::{self, Cost};
use crate::ledger::{Ledger, text_of};
use crate::profile::Profile;
use crate::requests::time_text;
use crate::sys;
use crate::wire::Target;

use super::Stage;

/// The note that the limit `loaded_by_idle_p99_max` is about.
pub const LOADED_BY_IDLE: &str = "payload p99 with frames / without";

/// Frames offered, as a multiple of what was read of them alone.
const OFFERED: f64 = 3.0;
/// Connections that frames are offered on: more than the lane's queue takes, so that it overflows.
const CONNECTIONS: usize = 96;
/// Connections that keep the lane busy while its capacity is measured.
const BUSY_CONNECTIONS: usize = 4;
/// Seconds for which the capacity is measured.
const CAPACITY_S: u64 = 3;
/// Frames drawn; each is of a person of its own.
const FRAMES: u64 = 48;
/// Seconds left out at the start of each stretch: what the one before left behind.
const SETTLE_S: usize = 1;

/// Offers frames and keeps the answers.
struct Offer {
    target: Target,
    jpegs: Vec<Vec<u8>>,
    tokens: Vec<String>,
    next: u64,
}

/// What came of a stretch of offering.
#[derive(Default)]
struct Offered {
    ledger: Ledger,
    /// Answers by status and, for 503, by the bound's name.
    answers: BTreeMap<String, u64>,
    elapsed_s: f64,
}

/// Measures the lane's capacity, then payloads with and without frames in turns.
pub fn run(stage: &mut Stage<'_>) -> Result<()> {
    let pairs = usize::try_from(stage.options.amount.unwrap_or(5))?;
    let mut offer = Offer::prepare(stage)?;
    let capacity = capacity(stage, &mut offer)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Seconds of an option.
    let stretch_s = SETTLE_S + (stage.options.seconds as usize).max(2);
    // The lane's own time starts the clock of the intended times.
    let start_s = stage.recorder.started().elapsed().as_secs_f64().ceil() + 1.0;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // As above.
    let first = start_s as usize;
    let total_s = stretch_s * (2 * pairs + 1);
    #[allow(clippy::cast_precision_loss)] // As above.
    let end_s = start_s + total_s as f64;
    let plan = stage.plan(
        |rate| Profile::through(vec![(0.0, 0.0), (start_s, 0.0), (start_s + 1e-6, rate), (end_s, rate)]),
        0,
    );
    let mut all = Offered::default();
    stage.load_while(&plan, |stage| {
        for pair in 0..pairs {
            let from_s = (first + stretch_s * (2 * pair + 1)) as u64;
            let from = stage.recorder.started() + Duration::from_secs(from_s);
            std::thread::sleep(from.saturating_duration_since(Instant::now()));
            stage.event("frames");
            all.add(offer.open_loop(capacity * OFFERED, Duration::from_secs(stretch_s as u64))?);
            stage.event("no frames");
        }
        Ok(())
    })?;
    note(stage, first, stretch_s, pairs, capacity, &all);
    stage.ledger.merge(all.ledger);
    Ok(())
}

/// Frames read a second when nothing else is asked of the gateway, and what one costs.
fn capacity(stage: &mut Stage<'_>, offer: &mut Offer) -> Result<f64> {
    stage.event("frames alone");
    // Everything is warm after a second.
    let warm = offer.closed_loop(Duration::from_secs(1))?;
    stage.ledger.merge(warm.ledger);
    let pids = stage.server.pids();
    let before = cpu::usage(&pids)?;
    let alone = offer.closed_loop(Duration::from_secs(CAPACITY_S))?;
    let read = alone.count("200") + alone.count("422");
    ensure!(read > 0 && alone.count("200") > 0, "no frame was read: {:?}", alone.answers);
    // A reader that never had a processor was ended and replaced; what the old one took is not known then.
    let cost =
        if stage.server.pids() == pids { cpu::usage(&pids)?.since(&before, read) } else { Cost::default() };
    #[allow(clippy::cast_precision_loss)] // Frames of seconds.
    let capacity = read as f64 / alone.elapsed_s;
    let mut keep =
        |name: &str, value: f64| stage.notes.insert(name.to_owned(), (value * 100.0).round() / 100.0);
    keep("frames a second alone", capacity);
    if cost.total_us > 0.0 {
        keep("frames a second and core (CPU of gateway and readers)", 1e6 / cost.total_us);
    }
    for (thread, us) in cost.by_thread_us {
        keep(&format!("CPU us a frame, {thread}"), us);
    }
    stage.ledger.merge(alone.ledger);
    Ok(capacity)
}

fn note(stage: &mut Stage<'_>, first: usize, stretch_s: usize, pairs: usize, capacity: f64, all: &Offered) {
    let p99 = |stretch: usize| {
        let from = first + stretch_s * stretch;
        stage.recorder.latency_within(from + SETTLE_S..from + stretch_s).p99_ms
    };
    let (mut ratios, mut idle, mut loaded) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs {
        // Against the stretches on both sides of it.
        let (before, with, after) = (p99(2 * pair), p99(2 * pair + 1), p99(2 * pair + 2));
        let without = f64::midpoint(before, after);
        ratios.push(with / without);
        idle.push(without);
        loaded.push(with);
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    #[allow(clippy::cast_precision_loss)] // As above.
    let offered = all.answers.values().sum::<u64>() as f64;
    let figures = [
        (LOADED_BY_IDLE, median(&mut ratios)),
        ("payload p99 ms without frames", median(&mut idle)),
        ("payload p99 ms with frames", median(&mut loaded)),
        ("frames offered a second", offered / all.elapsed_s),
        ("frames meant to be offered a second", capacity * OFFERED),
    ];
    stage.notes.extend(figures.map(|(name, value)| (name.to_owned(), round(value))));
    for (answer, count) in &all.answers {
        #[allow(clippy::cast_precision_loss)] // As above.
        stage.notes.insert(format!("frames answered {answer}"), *count as f64);
    }
}

impl Offer {
    fn prepare(stage: &Stage<'_>) -> Result<Self> {
        let settings = decode::Settings::default();
        let mut jpegs = Vec::new();
        let mut person = 0;
        while (jpegs.len() as u64) < FRAMES {
            person += 1;
            let frame = generate::frame_of(&codes::cccd(person), person).context("a code holds a card")?;
            jpegs.push(generate::jpeg(&frame, 80)?);
            ensure!(FrameKind::Jpeg.check_length(jpegs.last().map_or(0, Vec::len), &settings.image).is_ok());
        }
        let tokens = (0..stage.options.devices).map(|device| Ok(stage.traffic.token(device)?.to_owned()));
        Ok(Self { target: stage.target(), jpegs, tokens: tokens.collect::<Result<_>>()?, next: 0 })
    }

    /// The next frame's request. Each has an id of its own; a code that a place has seen within its window is a
    /// duplicate, and acknowledged as one.
    fn request(&mut self) -> Result<Vec<u8>> {
        let number = self.next;
        self.next += 1;
        let index = |length: usize, stride: u64| usize::try_from(number / stride % length.max(1) as u64);
        let jpeg = self.jpegs.get(index(self.jpegs.len(), 1)?).context("no frame")?;
        let token = self.tokens.get(index(self.tokens.len(), FRAMES)?).context("no token")?;
        let at = time_text(UnixMillis::now().0);
        let mut request = format!(
            "POST /v1/frames?id=frame-{number}&direction=in&at={at} HTTP/1.1\r\nHost: localhost\r\n\
             Authorization: Bearer {token}\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n",
            jpeg.len()
        )
        .into_bytes();
        request.extend_from_slice(jpeg);
        Ok(request)
    }

    /// Keeps a few connections busy.
    fn closed_loop(&mut self, time: Duration) -> Result<Offered> {
        self.offer(BUSY_CONNECTIONS, time, None)
    }

    /// Sends at a rate, whatever becomes of it.
    fn open_loop(&mut self, rate: f64, time: Duration) -> Result<Offered> {
        self.offer(CONNECTIONS, time, Some(rate))
    }

    fn offer(&mut self, connections: usize, time: Duration, rate: Option<f64>) -> Result<Offered> {
        let offer = || {
            // The payloads' client measures; this one only sends.
            sys::give_way();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let started = Instant::now();
            let mut offered = runtime.block_on(self.connections(connections, started, time, rate))?;
            offered.elapsed_s = started.elapsed().as_secs_f64();
            Ok(offered)
        };
        std::thread::scope(|scope| {
            scope.spawn(offer).join().unwrap_or_else(|_| bail!("the offering thread panicked"))
        })
    }

    async fn connections(
        &mut self,
        connections: usize,
        started: Instant,
        time: Duration,
        rate: Option<f64>,
    ) -> Result<Offered> {
        let mut idle = Vec::new();
        for _ in 0..connections {
            idle.push(self.target.http1().await?);
        }
        let mut offered = Offered::default();
        let mut under_way = JoinSet::new();
        let mut sent = 0_u32;
        while started.elapsed() < time {
            if let Some(rate) = rate {
                let due = started + Duration::from_secs_f64(f64::from(sent) / rate);
                sleep_until(due.into()).await;
            }
            // With no connection free a frame waits for one: the lane then has all that it can queue.
            while let Some(ended) =
                if idle.is_empty() { under_way.join_next().await } else { under_way.try_join_next() }
            {
                idle.push(offered.take(ended?)?);
            }
            let mut connection = idle.pop().context("no connection")?;
            let request = self.request()?;
            sent += 1;
            under_way.spawn(async move {
                let answer = connection.exchange(&request).await;
                (connection, answer)
            });
        }
        while let Some(ended) = under_way.join_next().await {
            offered.take(ended?)?;
        }
        Ok(offered)
    }
}

type Exchanged = (crate::wire::Http1, Result<crate::wire::Answer>);

impl Offered {
    /// Takes an answer in and gives its connection back. Any answer but a verdict on each code, none found, or
    /// shed by a bound of frames ends the run.
    fn take(&mut self, (connection, answer): Exchanged) -> Result<crate::wire::Http1> {
        let answer = answer.context("a frame was not answered")?;
        let bound = text_of(&answer.body, b"\"bound\":\"").unwrap_or_default();
        let kind = match answer.status {
            200 => {
                for line in answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    self.ledger.answer("in", line)?;
                }
                "200".to_owned()
            }
            422 => {
                self.ledger.answer("in", &answer.body)?;
                "422".to_owned()
            }
            503 if bound.starts_with("frames.") => format!("503 {bound}"),
            status => bail!("a frame was answered {status}: {}", String::from_utf8_lossy(&answer.body)),
        };
        *self.answers.entry(kind).or_default() += 1;
        Ok(connection)
    }

    fn count(&self, kind: &str) -> u64 {
        self.answers.get(kind).copied().unwrap_or_default()
    }

    fn add(&mut self, other: Self) {
        self.ledger.merge(other.ledger);
        self.elapsed_s += other.elapsed_s;
        for (answer, count) in other.answers {
            *self.answers.entry(answer).or_default() += count;
        }
    }
}
