//! Reads, misreads and times of each decoder, of the cascade, and of whole frames.

use std::collections::VecDeque;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use scangate::decode::cascade::{self, Stage};
use scangate::decode::image::{self, Luma};
use scangate::decode::{self, Code, Decoder, Frame, FrameKind, Frames, Pending};

use super::Pair;
use crate::{cpu, sys};

/// Frames that the rate from bytes to answer is measured over, at least.
const RATE_FRAMES: usize = 400;

/// Prints the table of one folder.
pub fn print(pairs: &[Pair], name: &str, workers: usize) -> Result<()> {
    let limits = decode::Settings::for_files().image;
    let mut files = Vec::new();
    let mut images = Vec::new();
    let mut decoding = Row::default();
    for pair in pairs {
        let bytes = std::fs::read(&pair.image)?;
        let kind = FrameKind::sniff(&bytes);
        let (luma, elapsed) = timed(|| kind.and_then(|kind| image::luma(&bytes, kind, &limits).ok()));
        decoding.times.push(elapsed);
        decoding.reads += usize::from(luma.is_some());
        images.push(luma);
        files.extend(kind.map(|kind| Frame { bytes: bytes.into(), kind }));
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{name}: {} images", pairs.len())?;
    let (reads, misreads, mean) = ("reads", "misreads", "mean ms");
    writeln!(out, "{:<24}{reads:>7}{misreads:>9}{mean:>10}{:>10}{:>10}", "", "p50 ms", "p99 ms")?;
    decoding.print(&mut out, "image to luma")?;
    for decoder in Decoder::ALL.into_iter().filter(|decoder| decoder.is_built()) {
        for sharpened in [false, true] {
            let alone = Stage { decoder, sharpened, start_within_ms: cascade::ALWAYS_MS };
            let name = format!("{}{}", decoder.name(), if sharpened { ", sharpened" } else { "" });
            let settings = cascade::Settings { stages: vec![alone], codes_max: 16 };
            read(&images, pairs, &settings).print(&mut out, &name)?;
        }
    }
    let mut settings = cascade::Settings::default();
    read(&images, pairs, &settings).print(&mut out, "cascade")?;
    // What the budgets cost.
    for stage in &mut settings.stages {
        stage.start_within_ms = cascade::ALWAYS_MS;
    }
    read(&images, pairs, &settings).print(&mut out, "cascade without budgets")?;
    drop(images);
    rate(&mut out, &files, workers)
}

/// Frames from bytes to answer, through the pool and its confined processes.
fn rate(out: &mut impl Write, files: &[Frame], workers: usize) -> Result<()> {
    let mut settings = decode::Settings::for_files();
    (settings.workers, settings.queue_frames_max) = (workers.max(1), 256);
    let frames = Frames::start(settings)?;
    let run = |count: usize| -> Result<()> {
        let mut waiting: VecDeque<Pending> = VecDeque::new();
        for frame in files.iter().cycle().take(count) {
            waiting.push_back(frames.submit(frame.clone())?);
            if waiting.len() > 4 * workers
                && let Some(pending) = waiting.pop_front()
            {
                // What is asked for is the time; the table above has the reads.
                drop(pending.wait());
            }
        }
        for pending in waiting {
            drop(pending.wait());
        }
        Ok(())
    };
    run(files.len().min(50))?;
    let count = RATE_FRAMES.max(files.len()).div_ceil(files.len().max(1)) * files.len();
    let pids = cpu::tree(std::process::id());
    let (before, started) = (cpu::usage(&pids)?, Instant::now());
    run(count)?;
    let elapsed = started.elapsed().as_secs_f64();
    let cost = cpu::usage(&pids)?.since(&before, count as u64);
    #[allow(clippy::cast_precision_loss)] // Frames of a folder.
    let rate = count as f64 / elapsed;
    writeln!(
        out,
        "bytes to answer: {:.0} frames a second and core (CPU of all threads and processes), {rate:.0} a second by \
         the clock with {workers}",
        1e6 / cost.total_us
    )?;
    Ok(())
}

#[derive(Default)]
struct Row {
    reads: usize,
    misreads: usize,
    times: Vec<Duration>,
}

fn read(images: &[Option<Luma>], pairs: &[Pair], settings: &cascade::Settings) -> Row {
    let mut row = Row::default();
    for (image, pair) in images.iter().zip(pairs) {
        let Some(luma) = image else {
            continue;
        };
        let ((codes, _), elapsed) = timed(|| cascade::read(luma, settings));
        let payloads: Vec<&str> = codes.iter().filter_map(payload).collect();
        row.times.push(elapsed);
        row.reads += usize::from(pair.is_read_by(&payloads));
        row.misreads += payloads.iter().filter(|payload| !pair.expects(payload)).count();
    }
    row
}

fn payload(code: &Code) -> Option<&str> {
    code.payload.as_deref().ok()
}

impl Row {
    fn print(&self, out: &mut impl Write, name: &str) -> Result<()> {
        let mut sorted = self.times.clone();
        sorted.sort();
        let mean = sorted.iter().sum::<Duration>() / u32::try_from(sorted.len().max(1)).unwrap_or(u32::MAX);
        let at = |percent: usize| sorted.get(sorted.len() * percent / 100).copied().unwrap_or_default();
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let (mean, p50, p99) = (ms(mean), ms(at(50)), ms(at(99)));
        writeln!(out, "{name:<24}{:>7}{:>9}{mean:>10.2}{p50:>10.2}{p99:>10.2}", self.reads, self.misreads)
            .context("can't print")
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = sys::thread_cpu_ns();
    let result = work();
    (result, Duration::from_nanos(sys::thread_cpu_ns() - started))
}
