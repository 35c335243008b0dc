//! Reads, misreads and times of each decoder, of the cascade, and of whole frames.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use scangate::decode::cascade::{self, Stage};
use scangate::decode::image::{self, Luma};
use scangate::decode::{self, Code, Decoder, FrameKind};

use crate::Pair;

pub fn print(pairs: &[Pair], name: &str) -> anyhow::Result<()> {
    let limits = decode::Settings::for_files().image;
    let mut images = Vec::new();
    let mut decoding = Row::default();
    for pair in pairs {
        let bytes = std::fs::read(&pair.image)?;
        let kind = FrameKind::sniff(&bytes);
        let (luma, elapsed) = timed(|| kind.and_then(|kind| image::luma(&bytes, kind, &limits).ok()));
        decoding.times.push(elapsed);
        decoding.reads += usize::from(luma.is_some());
        images.push(luma.map(|luma| (luma, bytes.len())));
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{name}: {} images", pairs.len())?;
    writeln!(
        out,
        "{:<24}{:>7}{:>9}{:>10}{:>10}{:>10}",
        "", "reads", "misreads", "mean ms", "p50 ms", "p99 ms"
    )?;
    decoding.print(&mut out, "image to luma")?;
    for decoder in Decoder::ALL.into_iter().filter(|decoder| decoder.is_built()) {
        for sharpened in [false, true] {
            let alone = Stage { decoder, sharpened, start_within_ms: u64::MAX };
            let name = format!("{}{}", decoder.name(), if sharpened { ", sharpened" } else { "" });
            let settings = cascade::Settings { stages: vec![alone], codes_max: 16 };
            read(&images, pairs, &settings).print(&mut out, &name)?;
        }
    }
    let mut settings = cascade::Settings::default();
    let row = read(&images, pairs, &settings);
    row.print(&mut out, "cascade")?;
    // What the budgets cost.
    for stage in &mut settings.stages {
        stage.start_within_ms = u64::MAX;
    }
    read(&images, pairs, &settings).print(&mut out, "cascade without budgets")?;
    let each = (decoding.mean() + row.mean()).as_secs_f64();
    writeln!(out, "bytes to payloads: {:.0} frames a second and core", 1.0 / each)?;
    Ok(())
}

#[derive(Default)]
struct Row {
    reads: usize,
    misreads: usize,
    times: Vec<Duration>,
}

fn read(images: &[Option<(Luma, usize)>], pairs: &[Pair], settings: &cascade::Settings) -> Row {
    let mut row = Row::default();
    for (image, pair) in images.iter().zip(pairs) {
        let Some((luma, _)) = image else {
            continue;
        };
        let ((codes, _), elapsed) = timed(|| cascade::read(luma, settings));
        row.times.push(elapsed);
        row.reads += usize::from(codes.iter().any(|code| says(code, &pair.text)));
        row.misreads += codes.iter().filter(|code| !says(code, &pair.text)).count();
    }
    row
}

/// Texts in files may end with a line end that the code doesn't have.
fn says(code: &Code, text: &str) -> bool {
    let trimmed = |text: &str| text.trim_end_matches(['\r', '\n']).to_owned();
    code.payload.as_ref().is_ok_and(|payload| trimmed(payload) == trimmed(text))
}

impl Row {
    fn mean(&self) -> Duration {
        self.times.iter().sum::<Duration>() / u32::try_from(self.times.len().max(1)).unwrap_or(u32::MAX)
    }

    fn print(&self, out: &mut impl std::io::Write, name: &str) -> anyhow::Result<()> {
        let mut sorted = self.times.clone();
        sorted.sort();
        let at = |percent: usize| sorted.get(sorted.len() * percent / 100).copied().unwrap_or_default();
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let (mean, p50, p99) = (ms(self.mean()), ms(at(50)), ms(at(99)));
        writeln!(out, "{name:<24}{:>7}{:>9}{mean:>10.2}{p50:>10.2}{p99:>10.2}", self.reads, self.misreads)
            .context("can't print")
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = processor_time();
    let result = work();
    (result, processor_time().saturating_sub(started))
}

fn processor_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value that outlives the call, and the clock exists on every Linux.
    unsafe {
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now);
    }
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or_default(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}
