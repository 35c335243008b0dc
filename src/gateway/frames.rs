//! `POST /v1/frames`: a camera frame to check-ins.
//!
//! ```text
//! authenticate → read → decode (processes of their own) → each code as a payload → respond
//! ```
//!
//! What a frame may cost is bounded apart from payloads: a queue and processes of its own, and a budget of
//! reading time for each device. The frame lives in memory until its codes are read, and nowhere else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Response, Version};

use super::core::Core;
use super::frame_problems::{self as problems, Refused};
use super::steps::{Spoilt, authenticate, record_all, within_rate};
use super::{GatewayError, cores};
use crate::authenticate::{Bucket, Buckets, Device, RateLimits};
use crate::config::{self, Config, FrameDecoder, FrameIsolation, FramePriority, FrameStage};
use crate::decode::sandbox::Priority;
use crate::decode::{self, Code, DecodeError, Decoded, Decoder, Frame, FrameKind, Frames, Stage, StartError};
use crate::decode::{Isolation, PayloadRefusal, cascade};
use crate::listen::body::{self, BodyError};
use crate::observe::sampled::{FrameStageSample, FramesSample};
use crate::request::{self, FrameQuery, ScanRequest};
use crate::respond::{self, Problem, Rejection};
use crate::scan::{Outcome, UnixMillis};

/// Deadlines' worth of reading time that a device's rest saves up: one frame that hangs costs it a pause, and
/// not more than four of its frames can be under way at once.
const BURST_DEADLINES: u32 = 4;

/// The way of frames through this gateway.
pub(super) struct FrameLane {
    settings: decode::Settings,
    /// None where the system refused its processes, and after the stop.
    frames: ArcSwapOption<Frames>,
    budgets: Buckets,
    device_ms_per_s: u32,
}

impl FrameLane {
    /// Starts the processes that read frames; none where frames are off. A system that refuses them costs
    /// frames and not check-ins: it is logged, and each frame is answered 503 until a restart.
    pub(super) fn start(config: &Config) -> Result<Option<Self>, GatewayError> {
        if !config.frames.enabled {
            return Ok(None);
        }
        let settings = settings(&config.frames);
        let frames = match Frames::start(settings.clone()) {
            Ok(frames) => Some(Arc::new(frames)),
            // What was asked for is wrong, rather than refused.
            Err(error @ (StartError::CxxInThread | StartError::NotBuilt { .. })) => return Err(error.into()),
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::error!(error = %format_args!("{error:#}"), "frames can't be read; they are answered 503");
                None
            }
        };
        let device_ms_per_s = config.frames.device_ms_per_s;
        let limits = RateLimits {
            device_scans_per_s: device_ms_per_s,
            device_burst_scans: deadline_ms(&settings).saturating_mul(BURST_DEADLINES),
        };
        let budgets = Buckets::new(limits, config.verify.device_cache_entries_max);
        Ok(Some(Self { settings, frames: ArcSwapOption::new(frames), budgets, device_ms_per_s }))
    }

    /// Ends the processes. Only once nothing listens any more.
    pub(super) fn stop(&self) {
        drop(self.frames.swap(None));
    }

    /// Counts for a scrape.
    pub(super) fn sample(&self) -> FramesSample {
        let frames = self.frames.load();
        let Some(stats) = frames.as_ref().map(|frames| frames.stats()) else {
            return FramesSample::default();
        };
        let stage = |(index, stage): (usize, &decode::StageStats)| FrameStageSample {
            name: stage_name(index, stage.stage),
            read: stage.reads,
            nothing: stage.tries.saturating_sub(stage.reads + stage.panics),
            panicked: stage.panics,
            skipped: stage.skipped,
            busy_us: stage.busy_us,
        };
        FramesSample {
            available: true,
            queue_frames: stats.queued as u64,
            read: stats.completed.saturating_sub(stats.without_code),
            without_code: stats.without_code,
            malformed: stats.malformed,
            shed: stats.refused,
            late: stats.late,
            timed_out: stats.timed_out,
            crashed: stats.crashed,
            panicked: stats.panicked,
            unavailable: stats.unavailable,
            codes: stats.codes,
            restarts: stats.restarts,
            busy_us: stats.busy_us,
            stages: stats.stages.iter().enumerate().map(stage).collect(),
        }
    }

    /// Reads a frame, on its device's budget.
    async fn decode(&self, device: &Device, frame: Frame) -> Result<Decoded, Problem> {
        let mut spending = self.reserve(device)?;
        let frames = self.frames.load().as_ref().map(Arc::clone);
        let pending = frames.ok_or(DecodeError::Unavailable).and_then(|frames| frames.submit(frame));
        let result = match pending {
            Ok(pending) => pending.await,
            Err(error) => Err(error),
        };
        spending.spent = match &result {
            Ok(decoded) => Some(decoded.elapsed),
            // Never begun, or hardly.
            Err(
                DecodeError::QueueFull { .. }
                | DecodeError::Late { .. }
                | DecodeError::Starved { .. }
                | DecodeError::Unavailable
                | DecodeError::Stopped,
            ) => Some(Duration::ZERO),
            Err(_) => None,
        };
        result.map_err(|error| problems::undecoded(&error))
    }

    /// Sets a whole deadline aside, so that no number of frames at once gets past the budget.
    fn reserve(&self, device: &Device) -> Result<Spending, Problem> {
        let began = Instant::now();
        let bucket = self.budgets.of(device.key, began);
        let reserved_ms = deadline_ms(&self.settings);
        match bucket.admit(reserved_ms, began) {
            Ok(()) => Ok(Spending { bucket, reserved_ms, began, spent: None }),
            Err(limited) => Err(problems::over_budget(self.device_ms_per_s, limited.retry_after_s)),
        }
    }
}

/// Reading time that was set aside. What wasn't spent goes back when it is dropped.
struct Spending {
    bucket: Arc<Bucket>,
    reserved_ms: u32,
    began: Instant,
    /// None if only the clock on the wall can tell: the frame failed, or its sender went away.
    spent: Option<Duration>,
}

impl Drop for Spending {
    fn drop(&mut self) {
        let spent = self.spent.unwrap_or_else(|| self.began.elapsed());
        let spent_ms = u32::try_from(spent.as_micros().div_ceil(1000)).unwrap_or(u32::MAX);
        self.bucket.give_back(self.reserved_ms.saturating_sub(spent_ms));
    }
}

/// A code that was found and carries no payload.
struct Unread {
    id: String,
    problem: Problem,
}

impl Spoilt for Unread {
    fn problem(&self) -> Problem {
        self.problem.clone()
    }

    fn id(&self) -> &str {
        &self.id
    }
}

/// Answers one frame: a line for each code in it, in reading order.
pub(super) async fn post(core: &Core, lane: &FrameLane, head: &Parts, body: Incoming) -> Response<Bytes> {
    let device = match authenticate(core, head, UnixMillis::now()).await {
        Ok(device) => device,
        Err(problem) => return respond::problem(&problem),
    };
    let (query, frame) = match read(lane, head, body).await {
        Ok(read) => read,
        Err(refused) => return refused.response(),
    };
    core.counters().body(frame.bytes.len());
    let received = UnixMillis::now();
    match codes(core, lane, &device, frame).await {
        Ok(codes) => {
            let payload_bytes_max = core.shared.limits().payload_bytes_max;
            let scans: Vec<_> = codes
                .iter()
                .enumerate()
                .map(|(index, code)| scan_request(&query, index, code, payload_bytes_max))
                .collect();
            respond::batch(record_all(core, &device, &scans, received, false).await)
        }
        Err(problem) => {
            core.counters().outcome(problem.outcome);
            respond::problem(&problem)
        }
    }
}

/// The codes of a frame, at least one. Each counts as a scan against the device's rate, and so does a frame
/// without any.
async fn codes(core: &Core, lane: &FrameLane, device: &Device, frame: Frame) -> Result<Vec<Code>, Problem> {
    within_rate(core, device, 1, Instant::now())?;
    let Decoded { codes, .. } = lane.decode(device, frame).await?;
    match u32::try_from(codes.len()).unwrap_or(u32::MAX) {
        0 => Err(Problem::new(Outcome::NoCodeFound, "no code was found in the frame")),
        count => within_rate(core, device, count - 1, Instant::now()).map(|()| codes),
    }
}

/// From here on a code is a payload, and held to the same limits.
fn scan_request<'a>(
    query: &'a FrameQuery,
    index: usize,
    code: &'a Code,
    payload_bytes_max: usize,
) -> Result<ScanRequest<'a>, Unread> {
    let id = query.code_id(index);
    let payload = match &code.payload {
        Ok(payload) => Ok(payload.as_str()),
        Err(PayloadRefusal::Empty) => Ok(""),
        Err(refusal @ PayloadRefusal::NotUtf8) => {
            Err(Problem::new(Outcome::Unrecognized, refusal.to_string()))
        }
    };
    let checked = payload.and_then(|qr| match request::check_payload(qr, payload_bytes_max) {
        Ok(()) => Ok(qr),
        Err(malformed) => Err(malformed.into()),
    });
    match checked {
        Ok(qr) => Ok(ScanRequest { id, qr: qr.into(), at: query.at, direction: query.direction }),
        Err(problem) => Err(Unread { id: id.into_owned(), problem }),
    }
}

/// Reads all that a request says of its frame, and then the frame, up to its limit.
async fn read(lane: &FrameLane, head: &Parts, body: Incoming) -> Result<(FrameQuery, Frame), Refused> {
    let declared = head.headers.contains_key(CONTENT_LENGTH) || head.headers.contains_key(TRANSFER_ENCODING);
    if head.version < Version::HTTP_2 && !declared {
        return Err(Rejection::LengthRequired.into());
    }
    let kind = kind(&head.headers)?;
    let query = FrameQuery::parse(head.uri.query().unwrap_or_default()).map_err(Problem::from)?;
    let limits = &lane.settings.image;
    let bytes_max = match kind {
        FrameKind::Jpeg | FrameKind::Png => limits.frame_bytes_max,
        FrameKind::Luma { width, height } => {
            let bytes = usize::try_from(u64::from(width) * u64::from(height)).unwrap_or(usize::MAX);
            // Its sides bound its bytes, before any of them is read.
            kind.check_length(bytes, limits).map_err(|error| problems::image(&error))?;
            bytes
        }
    };
    let bytes = body::read(body, bytes_max).await.map_err(|error| match error {
        BodyError::TooLarge { limit_bytes } => problems::too_long(kind, limit_bytes).into(),
        BodyError::Timeout { limit_ms } => Rejection::RequestTimeout { limit_ms }.into(),
        BodyError::Broken => {
            Refused::Problem(Problem::new(Outcome::Malformed, "the body ended before its end").field("body"))
        }
    })?;
    Ok((query, Frame { bytes, kind }))
}

fn kind(headers: &HeaderMap) -> Result<FrameKind, Refused> {
    let encoding = headers.get(CONTENT_ENCODING).map_or(&b"identity"[..], |value| value.as_bytes());
    if !encoding.eq_ignore_ascii_case(b"identity") {
        return Err(Rejection::UnsupportedEncoding("identity").into());
    }
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    FrameKind::from_content_type(value).map_err(problems::content_type)
}

fn deadline_ms(settings: &decode::Settings) -> u32 {
    u32::try_from(settings.deadline_ms).unwrap_or(u32::MAX)
}

/// What the configuration says, in the decoder's terms.
fn settings(frames: &config::Frames) -> decode::Settings {
    let isolation = match frames.isolation {
        FrameIsolation::Process => Isolation::Process,
        FrameIsolation::Thread => Isolation::Thread,
    };
    let mut cascade = match isolation {
        Isolation::Process => cascade::Settings::default(),
        Isolation::Thread => cascade::Settings::rust_only(),
    };
    cascade.codes_max = frames.codes_max;
    if !frames.stages.is_empty() {
        cascade.stages = frames.stages.iter().copied().map(stage).collect();
    }
    let mut settings = decode::Settings {
        isolation,
        workers: if frames.workers > 0 { frames.workers } else { cores(0).div_ceil(2) },
        queue_frames_max: frames.queue_frames_max,
        wait_ms_max: frames.wait_ms_max,
        deadline_ms: frames.deadline_ms,
        cascade,
        ..decode::Settings::default()
    };
    settings.image.frame_bytes_max = frames.frame_bytes_max;
    settings.image.pixels_max = frames.pixels_max;
    settings.image.luma_side_px_max = frames.side_px_max;
    settings.image.decode_side_px_max = frames.side_px_max;
    settings.sandbox.memory_bytes_max = frames.memory_bytes_max;
    settings.sandbox.priority = match frames.priority {
        FramePriority::Idle => Priority::Idle,
        FramePriority::Low => Priority::Low,
    };
    settings
}

fn stage(stage: FrameStage) -> Stage {
    Stage {
        decoder: match stage.decoder {
            FrameDecoder::Zxing => Decoder::Zxing,
            FrameDecoder::Quircs => Decoder::Quircs,
            FrameDecoder::Rqrr => Decoder::Rqrr,
        },
        sharpened: stage.sharpened,
        start_within_ms: stage.start_within_ms.map_or(cascade::ALWAYS_MS, u64::from),
    }
}

/// As metrics name it: its place in the order, so that one decoder may stand there twice.
fn stage_name(index: usize, stage: Stage) -> String {
    let sharpened = if stage.sharpened { "_sharpened" } else { "" };
    format!("{}_{}{sharpened}", index + 1, stage.decoder.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_the_configuration_are_the_decoders() {
        let (made, defaults) = (settings(&config::Frames::default()), decode::Settings::default());
        assert_eq!(made.isolation, defaults.isolation);
        assert_eq!(
            (made.queue_frames_max, made.wait_ms_max),
            (defaults.queue_frames_max, defaults.wait_ms_max)
        );
        assert_eq!((made.deadline_ms, made.cascade), (defaults.deadline_ms, defaults.cascade));
        let (image, expected) = (made.image, defaults.image);
        assert_eq!(
            (image.frame_bytes_max, image.pixels_max),
            (expected.frame_bytes_max, expected.pixels_max)
        );
        assert_eq!(image.luma_side_px_max, expected.luma_side_px_max);
        assert_eq!(image.decode_side_px_max, expected.decode_side_px_max);
        assert_eq!(made.sandbox.memory_bytes_max, defaults.sandbox.memory_bytes_max);
        assert_eq!(made.sandbox.priority, defaults.sandbox.priority);
        assert!(made.workers >= 1);
    }

    /// `decode_contained` shows that a process which hangs is ended at the deadline.
    #[test]
    fn by_default_every_frame_has_its_answer_within_600_ms() {
        // To end a process and start another took 8 to 30 ms; the next frame in the queue waits for it.
        const RESTART_MS: u64 = 50;
        let defaults = settings(&config::Frames::default());
        assert!(defaults.deadline_ms + RESTART_MS <= 600);
        // Whoever had its turn in time has time to be read: fifty times an ordinary frame's.
        assert!(defaults.deadline_ms >= defaults.wait_ms_max + 250);
    }

    #[test]
    fn a_device_pays_what_its_frames_took_and_no_more_than_four_at_once() {
        let limits = RateLimits { device_scans_per_s: 250, device_burst_scans: 2_200 };
        let bucket = Buckets::new(limits, 1).of(crate::scan::DeviceKey([1; 8]), Instant::now());
        let reserve = |spent_ms| {
            let began = Instant::now();
            let spent = Some(Duration::from_millis(spent_ms));
            let bucket = Arc::clone(&bucket);
            bucket.admit(550, began).map(|()| Spending { bucket, reserved_ms: 550, began, spent })
        };
        let held: Vec<_> = (0..4).map(|_| reserve(2).expect("one of four")).collect();
        assert!(reserve(2).is_err());
        drop(held);
        for _ in 0..100 {
            drop(reserve(2).expect("ordinary frames pass"));
        }
        while reserve(550).is_ok() {}
        assert!(reserve(2).is_err(), "slow frames use the budget up");
    }
}
