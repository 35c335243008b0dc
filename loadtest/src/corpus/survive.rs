//! `hostile`: frames that mean harm, by the number, and the worst crafted ones against the clock.

use std::collections::VecDeque;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use scangate::decode::{DecodeError, Decoded, Frames, Pending, Settings};

use super::hostile::{Hostile, worst};

/// Options of `hostile`.
#[derive(Debug, Args)]
pub struct Options {
    /// Spoilt files, lying headers, noise and near-codes to read.
    #[arg(long, default_value_t = 100_000)]
    frames: u64,
    /// Repeats a run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Processes that read.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// What the worst crafted frame of 1280 × 720 may take, from submission to answer.
    #[arg(long, default_value_t = 600)]
    worst_ms_max: u64,
}

/// Reads all, prints what came of it. False when a process died, or a crafted frame was answered too late.
pub fn run(options: &Options) -> Result<bool> {
    let survived = by_the_number(options)?;
    let in_time = crafted(options)?;
    Ok(survived && in_time)
}

#[derive(Debug, Default)]
struct Tally {
    read: u64,
    refused: u64,
    deaths: u64,
}

impl Tally {
    fn add(&mut self, result: &Result<Decoded, DecodeError>) {
        match result {
            Ok(_) => self.read += 1,
            Err(DecodeError::Image(_) | DecodeError::Panicked) => self.refused += 1,
            Err(_) => self.deaths += 1,
        }
    }
}

fn by_the_number(options: &Options) -> Result<bool> {
    // Patient with a loaded machine: what is looked for here is deaths.
    let mut settings = Settings { deadline_ms: 20_000, wait_ms_max: 60_000, ..Settings::default() };
    (settings.workers, settings.queue_frames_max) = (options.workers, 256);
    // The same processes to the end, so that what one frame breaks shows in the next.
    settings.sandbox.process_frames_max = u64::MAX;
    let frames = Frames::start(settings)?;
    let hostile = Hostile::new(options.seed)?;
    let mut waiting: VecDeque<Pending> = VecDeque::new();
    let mut tally = Tally::default();
    for index in 0..options.frames {
        match frames.submit(hostile.frame(index)) {
            Ok(pending) => waiting.push_back(pending),
            Err(error) => tally.add(&Err(error)),
        }
        if waiting.len() > 100
            && let Some(pending) = waiting.pop_front()
        {
            tally.add(&pending.wait());
        }
    }
    for pending in waiting {
        tally.add(&pending.wait());
    }
    let stats = frames.stats();
    let Tally { read, refused, deaths } = tally;
    writeln!(
        std::io::stdout(),
        "hostile frames: {read} read to their end, {refused} refused, {deaths} deaths; processes started again: {}",
        stats.restarts
    )?;
    Ok(deaths == 0 && stats.restarts == 0)
}

fn crafted(options: &Options) -> Result<bool> {
    let settings = Settings::default();
    let deadline_ms = settings.deadline_ms;
    let frames = Frames::start(settings)?;
    let mut out = std::io::stdout().lock();
    let mut slowest = Duration::ZERO;
    let mut ended = 0_u32;
    writeln!(out, "crafted frames of 1280 x 720, submission to answer:")?;
    for (name, frame) in worst(options.seed) {
        let started = Instant::now();
        let result = frames.submit(frame).and_then(Pending::wait);
        let elapsed = started.elapsed();
        slowest = slowest.max(elapsed);
        let (verdict, stages) = match &result {
            Ok(decoded) => (format!("{} codes", decoded.codes.len()), per_stage(decoded)),
            Err(error) => (error.to_string(), String::new()),
        };
        ended += u32::from(result.is_err());
        writeln!(out, "  {:>6.1} ms  {name}: {verdict}{stages}", elapsed.as_secs_f64() * 1000.0)?;
        // A process that was ended is replaced meanwhile, and not on the next frame's account.
        std::thread::sleep(Duration::from_millis(if result.is_err() { 500 } else { 0 }));
    }
    let slowest_ms = slowest.as_secs_f64() * 1000.0;
    writeln!(out, "  slowest {slowest_ms:.1} ms; {ended} ended at the deadline of {deadline_ms} ms")?;
    Ok(slowest <= Duration::from_millis(options.worst_ms_max))
}

fn per_stage(decoded: &Decoded) -> String {
    let stages = decoded.stages.iter().map(|report| {
        let sharpened = if report.stage.sharpened { " sharpened" } else { "" };
        format!("{}{sharpened} {:.1} ms", report.stage.decoder.name(), report.elapsed.as_secs_f64() * 1000.0)
    });
    format!(" ({})", stages.collect::<Vec<_>>().join(", "))
}
