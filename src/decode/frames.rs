//! The pool that reads frames: a bounded queue and one driving thread for each process (or thread).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::cascade::{Decoder, Stage, StageOutcome};
use super::sandbox::{Probe, Process};
use super::threads::Reader;
use super::{DecodeError, Decoded, Frame, Isolation, Settings};

/// The first wait before a process that died is replaced; it doubles with each death in a row.
const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// The longest such wait.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Why the pool can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system refused a thread.
    #[error("frames.workers: a thread can't be started")]
    Thread(#[source] std::io::Error),
    /// A process can't be started, or can't confine itself.
    #[error("frames.workers: a process to read frames can't be started")]
    Process(#[from] super::sandbox::ProcessError),
    /// The C++ stage was asked to run in the gateway itself.
    #[error("frames.stages must not hold zxing where frames.isolation is thread")]
    CxxInThread,
    /// A stage that this build lacks.
    #[error("frames.stages must hold only decoders of this build; got {name}")]
    NotBuilt {
        /// The decoder's name.
        name: &'static str,
    },
}

/// Counts since start, and the queue now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FramesStats {
    /// Frames waiting now.
    pub queued: usize,
    /// Frames read to their end, with codes or without.
    pub completed: u64,
    /// Frames in which no code was found.
    pub without_code: u64,
    /// Codes found.
    pub codes: u64,
    /// Frames refused because the queue was full.
    pub refused: u64,
    /// Frames whose bytes were no image within the limits.
    pub malformed: u64,
    /// Frames dropped because they had waited too long for their turn or for a processor.
    pub late: u64,
    /// Frames ended at the wall deadline.
    pub timed_out: u64,
    /// Frames during which the process died.
    pub crashed: u64,
    /// Frames whose reading panicked.
    pub panicked: u64,
    /// Frames for which no process could be had.
    pub unavailable: u64,
    /// Processes started in place of another.
    pub restarts: u64,
    /// Wall time spent reading frames, in microseconds.
    pub busy_us: u64,
    /// Each stage's counts, in the order of the settings.
    pub stages: Vec<StageStats>,
}

/// What one stage did since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageStats {
    /// The stage.
    pub stage: Stage,
    /// Frames it ran on.
    pub tries: u64,
    /// Frames in which it found a code.
    pub reads: u64,
    /// Frames on which it panicked.
    pub panics: u64,
    /// Frames that didn't need it or that it came too late for.
    pub skipped: u64,
    /// Processor time it took, in microseconds.
    pub busy_us: u64,
}

/// The pool. Dropping it finishes the queue, ends its processes and joins its threads.
#[derive(Debug)]
pub struct Frames {
    shared: Arc<Shared>,
    drivers: Vec<JoinHandle<()>>,
}

/// A frame's result to come; a future, and for plain threads [`Pending::wait`].
#[derive(Debug)]
#[must_use = "the frame is read, but its result is lost"]
pub struct Pending(oneshot::Receiver<Result<Decoded, DecodeError>>);

impl Frames {
    /// Starts the pool and waits until every process stands confined.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        for stage in &settings.cascade.stages {
            if !stage.decoder.is_built() {
                return Err(StartError::NotBuilt { name: stage.decoder.name() });
            }
            if stage.decoder == Decoder::Zxing && settings.isolation == Isolation::Thread {
                return Err(StartError::CxxInThread);
            }
        }
        let workers = settings.workers.max(1);
        let mut frames =
            Self { shared: Arc::new(Shared::new(settings)), drivers: Vec::with_capacity(workers) };
        for index in 0..workers {
            let shared = Arc::clone(&frames.shared);
            let (report, reported) = std::sync::mpsc::sync_channel(1);
            let driver = std::thread::Builder::new()
                .name(format!("frames-{index}"))
                // The process must be started by this thread: it is told to die when its starter does.
                .spawn(move || match Engine::start(&shared.settings) {
                    Ok(engine) => {
                        // The starter waits for exactly this report.
                        let _ = report.send(Ok(()));
                        shared.drive(Some(engine));
                    }
                    Err(error) => {
                        let _ = report.send(Err(error));
                    }
                })
                .map_err(StartError::Thread)?;
            frames.drivers.push(driver);
            match reported.recv() {
                Ok(result) => result?,
                Err(_) => return Err(StartError::Thread(std::io::ErrorKind::BrokenPipe.into())),
            }
        }
        Ok(frames)
    }

    /// Queues a frame.
    ///
    /// # Errors
    /// At once: the queue is full, or the frame's length breaks a limit. Later, from the result: all else.
    pub fn submit(&self, frame: Frame) -> Result<Pending, DecodeError> {
        if let Err(error) = frame.kind.check_length(frame.bytes.len(), &self.shared.settings.image) {
            self.shared.counts.malformed.add(1);
            return Err(error.into());
        }
        self.shared.push(Task::Frame(frame))
    }

    /// Makes a process misbehave, to prove that nothing comes of it. Only where
    /// [`super::sandbox::Settings::probes`] is set; no frame's bytes reach this.
    #[doc(hidden)]
    pub fn probe(&self, probe: Probe) -> Result<Pending, DecodeError> {
        self.shared.push(Task::Probe(probe))
    }

    /// The bound on a JPEG's or PNG's bytes.
    pub fn frame_bytes_max(&self) -> usize {
        self.shared.settings.image.frame_bytes_max
    }

    /// The pool's counts.
    pub fn stats(&self) -> FramesStats {
        let counts = &self.shared.counts;
        FramesStats {
            queued: self.shared.queue.lock().jobs.len(),
            completed: counts.completed.get(),
            without_code: counts.without_code.get(),
            codes: counts.codes.get(),
            refused: counts.refused.get(),
            malformed: counts.malformed.get(),
            late: counts.late.get(),
            timed_out: counts.timed_out.get(),
            crashed: counts.crashed.get(),
            panicked: counts.panicked.get(),
            unavailable: counts.unavailable.get(),
            restarts: counts.restarts.get(),
            busy_us: counts.busy_us.get(),
            stages: self
                .shared
                .settings
                .cascade
                .stages
                .iter()
                .zip(&counts.stages)
                .map(|(&stage, count)| count.stats(stage))
                .collect(),
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.shared.queue.lock().stopped = true;
        self.shared.changed.notify_all();
        for driver in self.drivers.drain(..) {
            // A driver that panicked has nothing left to finish.
            let _ = driver.join();
        }
    }
}

impl Pending {
    /// Blocks until the result is there. Not for a reactor's thread.
    pub fn wait(self) -> Result<Decoded, DecodeError> {
        self.0.blocking_recv().unwrap_or(Err(DecodeError::Stopped))
    }
}

impl Future for Pending {
    type Output = Result<Decoded, DecodeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(DecodeError::Stopped)))
    }
}

struct Shared {
    settings: Settings,
    queue: Mutex<Queue>,
    changed: Condvar,
    counts: Counts,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    stopped: bool,
}

struct Job {
    queued: Instant,
    task: Task,
    answer: oneshot::Sender<Result<Decoded, DecodeError>>,
}

enum Task {
    Frame(Frame),
    Probe(Probe),
}

/// What reads the frames of one driver.
enum Engine {
    Process(Process),
    Thread(Reader),
}

impl Engine {
    fn start(settings: &Settings) -> Result<Self, StartError> {
        Ok(match settings.isolation {
            Isolation::Process => Self::Process(Process::start(settings)?),
            Isolation::Thread => Self::Thread(Reader::start(settings).map_err(StartError::Thread)?),
        })
    }

    fn run(&mut self, task: Task, timeout: Duration) -> Result<Decoded, DecodeError> {
        match (self, task) {
            (Self::Process(process), Task::Frame(frame)) => process.read(&frame, timeout),
            (Self::Process(process), Task::Probe(probe)) => process.probe(probe, timeout),
            (Self::Thread(reader), Task::Frame(frame)) => reader.read(frame, timeout),
            (Self::Thread(_), Task::Probe(_)) => Err(DecodeError::Unavailable),
        }
    }

    /// Whether it can read another frame.
    fn is_usable(&self) -> bool {
        match self {
            Self::Process(process) => process.is_usable(),
            Self::Thread(reader) => reader.is_usable(),
        }
    }
}

impl Shared {
    fn new(settings: Settings) -> Self {
        let stages = settings.cascade.stages.iter().map(|_| StageCounts::default()).collect();
        let counts = Counts { stages, ..Counts::default() };
        Self { settings, queue: Mutex::default(), changed: Condvar::new(), counts }
    }

    fn push(&self, task: Task) -> Result<Pending, DecodeError> {
        let (answer, answered) = oneshot::channel();
        let limit = self.settings.queue_frames_max;
        let mut queue = self.queue.lock();
        if queue.stopped {
            return Err(DecodeError::Stopped);
        }
        if queue.jobs.len() >= limit {
            self.counts.refused.add(1);
            return Err(DecodeError::QueueFull { limit });
        }
        queue.jobs.push_back(Job { queued: Instant::now(), task, answer });
        drop(queue);
        self.changed.notify_one();
        Ok(Pending(answered))
    }

    /// Runs until the pool has stopped and its queue is empty.
    fn drive(&self, mut engine: Option<Engine>) {
        let mut backoff = Duration::ZERO;
        loop {
            if !engine.as_ref().is_some_and(Engine::is_usable) {
                // The old process is gone before the new one comes.
                drop(engine.take());
                self.pause(backoff);
                engine = Engine::start(&self.settings)
                    .map_err(|error| tracing::warn!(%error, "no process to read frames"))
                    .ok();
                self.counts.restarts.add(u64::from(engine.is_some()));
            }
            let Some(job) = self.next() else {
                return;
            };
            if job.answer.is_closed() {
                // Its sender has gone away.
                continue;
            }
            let result = self.run(engine.as_mut(), job.queued, job.task);
            let died = matches!(result, Err(DecodeError::Crashed | DecodeError::Unavailable));
            backoff = if died { (backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX) } else { Duration::ZERO };
            self.counts.result(&result);
            // The sender may have gone away; the result then concerns nobody.
            let _ = job.answer.send(result);
        }
    }

    /// Each frame has its deadline from the moment it was queued, so however many slow ones stand before it,
    /// its answer is there by then: the one before it had to end earlier still.
    fn run(&self, engine: Option<&mut Engine>, queued: Instant, task: Task) -> Result<Decoded, DecodeError> {
        let Settings { wait_ms_max, deadline_ms, .. } = self.settings;
        let waited = queued.elapsed();
        let left = Duration::from_millis(deadline_ms).saturating_sub(waited);
        if waited > Duration::from_millis(wait_ms_max) || left.is_zero() {
            return Err(DecodeError::Late { limit_ms: wait_ms_max });
        }
        let engine = engine.ok_or(DecodeError::Unavailable)?;
        let started = Instant::now();
        let result = engine.run(task, left);
        self.counts.busy_us.add(micros(started.elapsed()));
        result.map_err(|error| match error {
            DecodeError::TimedOut { .. } => DecodeError::TimedOut { limit_ms: deadline_ms },
            DecodeError::Starved { .. } => DecodeError::Starved { limit_ms: deadline_ms },
            other => other,
        })
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.stopped {
                return None;
            }
            self.changed.wait(&mut queue);
        }
    }

    /// Waits, but not longer than the pool lives.
    fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut queue = self.queue.lock();
        while !queue.stopped && !self.changed.wait_until(&mut queue, until).timed_out() {}
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
struct Counts {
    completed: Count,
    without_code: Count,
    codes: Count,
    refused: Count,
    malformed: Count,
    late: Count,
    timed_out: Count,
    crashed: Count,
    panicked: Count,
    unavailable: Count,
    restarts: Count,
    busy_us: Count,
    stages: Vec<StageCounts>,
}

#[derive(Default)]
struct StageCounts {
    tries: Count,
    reads: Count,
    panics: Count,
    skipped: Count,
    busy_us: Count,
}

impl StageCounts {
    fn stats(&self, stage: Stage) -> StageStats {
        StageStats {
            stage,
            tries: self.tries.get(),
            reads: self.reads.get(),
            panics: self.panics.get(),
            skipped: self.skipped.get(),
            busy_us: self.busy_us.get(),
        }
    }
}

impl Counts {
    fn result(&self, result: &Result<Decoded, DecodeError>) {
        match result {
            Ok(decoded) => self.decoded(decoded),
            Err(DecodeError::Image(_)) => self.malformed.add(1),
            Err(DecodeError::QueueFull { .. } | DecodeError::Stopped) => {}
            Err(DecodeError::Late { .. } | DecodeError::Starved { .. }) => self.late.add(1),
            Err(DecodeError::TimedOut { .. }) => self.timed_out.add(1),
            Err(DecodeError::Crashed) => self.crashed.add(1),
            Err(DecodeError::Panicked) => self.panicked.add(1),
            Err(DecodeError::Unavailable) => self.unavailable.add(1),
        }
    }

    fn decoded(&self, decoded: &Decoded) {
        self.completed.add(1);
        self.without_code.add(u64::from(decoded.codes.is_empty()));
        self.codes.add(u64::try_from(decoded.codes.len()).unwrap_or(u64::MAX));
        for (stage, counts) in decoded.stages.iter().zip(&self.stages) {
            counts.busy_us.add(micros(stage.elapsed));
            let ran = stage.outcome != StageOutcome::Skipped;
            counts.tries.add(u64::from(ran));
            counts.skipped.add(u64::from(!ran));
            counts.reads.add(u64::from(matches!(stage.outcome, StageOutcome::Read(_))));
            counts.panics.add(u64::from(stage.outcome == StageOutcome::Panicked));
        }
    }
}

fn micros(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}
