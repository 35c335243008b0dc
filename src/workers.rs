//! The bounded CPU pool: device tokens and codes' signatures are checked here, never on a core's ring.
//!
//! A job is refused at once when the queue is full, dropped unrun when it has waited past its deadline,
//! and contained when it panics: a hostile input costs its sender one verdict, never the process.
//!
//! Jobs begin in the order in which they came. Those of the pool's [`Together`] kind that stand behind each other
//! when a worker comes for the first of them are done in one go, since that is cheaper; a worker never waits for
//! more to come. What they share is the cost, not the fate: each has its own deadline, and where one panics, all
//! are done again one by one, so that it takes none of the others with it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

/// The pool's bounds.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Threads; at least one.
    pub threads: usize,
    /// Jobs that may wait.
    pub queue_jobs_max: usize,
    /// How long a job may wait before it is dropped unrun.
    pub deadline: Duration,
}

/// Why a job gave no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// The queue stands at its bound.
    #[error("workers.queue must hold at most {limit} jobs")]
    QueueFull {
        /// `workers.queue_jobs_max`.
        limit: usize,
    },
    /// The job waited too long.
    #[error("workers.deadline of {limit_ms} ms passed before the job began")]
    Deadline {
        /// `workers.deadline_ms`.
        limit_ms: u64,
    },
    /// The job panicked; the pool goes on.
    #[error("the job panicked")]
    Panicked,
    /// The pool has stopped.
    #[error("the worker pool has stopped")]
    Stopped,
}

/// Counts since start, and the queue now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Jobs waiting now.
    pub queued: usize,
    /// Jobs run to their end.
    pub completed: u64,
    /// Jobs refused because the queue was full.
    pub refused: u64,
    /// Jobs dropped past their deadline.
    pub late: u64,
    /// Jobs that panicked.
    pub panicked: u64,
}

/// Jobs that are cheaper together, each with the very result that it has alone.
pub trait Together: Send + Sync + 'static {
    /// What there is to do, as data, so that it can be looked at again by itself.
    type Job: Send + 'static;
    /// What came of it.
    type Done: Send + 'static;

    /// What the jobs of one go may weigh together; a single job may weigh more.
    const WEIGHT_MAX: usize;

    /// What a job counts for.
    fn weight(job: &Self::Job) -> usize;

    /// Does the jobs: one result each, in order.
    fn run(&self, jobs: &[Self::Job]) -> Vec<Self::Done>;
}

/// A fixed set of threads behind one bounded queue. Dropping it finishes the queue and joins the threads.
pub struct Workers<K: Together> {
    shared: Arc<Shared<K>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<K: Together> {
    settings: Settings,
    kind: K,
    queue: Mutex<Queue<K>>,
    waiting: Condvar,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    completed: AtomicU64,
    refused: AtomicU64,
    late: AtomicU64,
    panicked: AtomicU64,
}

struct Queue<K: Together> {
    jobs: VecDeque<Queued<K>>,
    stopped: bool,
}

struct Queued<K: Together> {
    since: Instant,
    work: Work<K>,
}

type Run = Box<dyn FnOnce(Result<(), WorkerError>) + Send>;

enum Work<K: Together> {
    Alone(Run),
    Together { weight: usize, job: K::Job, sender: oneshot::Sender<Result<K::Done, WorkerError>> },
}

impl<K: Together> Workers<K> {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system refused a thread.
    pub fn start(settings: Settings, kind: K) -> std::io::Result<Self> {
        let settings = Settings { threads: settings.threads.max(1), ..settings };
        let queue = Queue { jobs: VecDeque::new(), stopped: false };
        let shared = Arc::new(Shared {
            settings,
            kind,
            queue: Mutex::new(queue),
            waiting: Condvar::new(),
            counts: Arc::default(),
        });
        let threads = (0..settings.threads)
            .map(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || shared.work())
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { shared, threads })
    }

    /// Queues `job` and returns a future of its result.
    ///
    /// # Errors
    /// At once: the queue is full or the pool has stopped. Later, from the future: the deadline passed
    /// or the job panicked.
    pub fn submit<T, F>(
        &self,
        job: F,
    ) -> Result<impl Future<Output = Result<T, WorkerError>> + use<T, F, K>, WorkerError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let counts = Arc::clone(&self.shared.counts);
        let run = Box::new(move |admitted: Result<(), WorkerError>| {
            let result = admitted.and_then(|()| contained(job));
            counts.answer(sender, result);
        });
        self.shared.push(Work::Alone(run))?;
        Ok(async { receiver.await.unwrap_or(Err(WorkerError::Stopped)) })
    }

    /// As [`Workers::submit`], for a job of the pool's own kind, which may be done together with others.
    ///
    /// # Errors
    /// As there.
    pub fn submit_together(
        &self,
        job: K::Job,
    ) -> Result<impl Future<Output = Result<K::Done, WorkerError>> + use<K>, WorkerError> {
        let (sender, receiver) = oneshot::channel();
        self.shared.push(Work::Together { weight: K::weight(&job), job, sender })?;
        Ok(async { receiver.await.unwrap_or(Err(WorkerError::Stopped)) })
    }

    /// The pool's counts.
    pub fn stats(&self) -> Stats {
        let counts = &self.shared.counts;
        Stats {
            queued: self.shared.queue.lock().jobs.len(),
            completed: counts.completed.load(Ordering::Relaxed),
            refused: counts.refused.load(Ordering::Relaxed),
            late: counts.late.load(Ordering::Relaxed),
            panicked: counts.panicked.load(Ordering::Relaxed),
        }
    }
}

impl<K: Together> Drop for Workers<K> {
    fn drop(&mut self) {
        self.shared.queue.lock().stopped = true;
        self.shared.waiting.notify_all();
        for thread in self.threads.drain(..) {
            // A worker contains its jobs' panics, so joining can't fail on one.
            let _ = thread.join();
        }
    }
}

impl<K: Together> Shared<K> {
    fn push(&self, work: Work<K>) -> Result<(), WorkerError> {
        let since = Instant::now();
        let mut queue = self.queue.lock();
        if queue.stopped {
            return Err(WorkerError::Stopped);
        }
        if queue.jobs.len() >= self.settings.queue_jobs_max {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            return Err(WorkerError::QueueFull { limit: self.settings.queue_jobs_max });
        }
        queue.jobs.push_back(Queued { since, work });
        drop(queue);
        self.waiting.notify_one();
        Ok(())
    }

    fn work(&self) {
        let mut taken = Vec::new();
        loop {
            let mut queue = self.queue.lock();
            while queue.jobs.is_empty() {
                if queue.stopped {
                    return;
                }
                self.waiting.wait(&mut queue);
            }
            self.take(queue, &mut taken);
            self.run(&mut taken);
        }
    }

    /// Takes the first job and, if it is of the pool's kind, those behind it that may go with it: no more than a
    /// worker's share of the queue, so that none stands idle beside one that has taken all.
    fn take(&self, mut queue: MutexGuard<'_, Queue<K>>, taken: &mut Vec<Queued<K>>) {
        let share = queue.jobs.len().div_ceil(self.settings.threads);
        let mut room = K::WEIGHT_MAX;
        while taken.len() < share
            && let Some(next) = queue.jobs.front()
        {
            let weight = match &next.work {
                Work::Alone(_) => K::WEIGHT_MAX,
                Work::Together { weight, .. } => *weight,
            };
            if weight > room && !taken.is_empty() {
                return;
            }
            room = room.saturating_sub(weight);
            taken.extend(queue.jobs.pop_front());
        }
    }

    fn run(&self, taken: &mut Vec<Queued<K>>) {
        let (mut jobs, mut senders) = (Vec::with_capacity(taken.len()), Vec::with_capacity(taken.len()));
        for Queued { since, work } in taken.drain(..) {
            match (work, self.in_time(since)) {
                (Work::Alone(run), admitted) => run(admitted),
                (Work::Together { job, sender, .. }, Ok(())) => {
                    jobs.push(job);
                    senders.push(sender);
                }
                (Work::Together { sender, .. }, Err(late)) => self.counts.answer(sender, Err(late)),
            }
        }
        if jobs.is_empty() {
            return;
        }
        match contained(|| self.kind.run(&jobs)) {
            Ok(done) => {
                for (sender, done) in senders.into_iter().zip(done) {
                    self.counts.answer(sender, Ok(done));
                }
            }
            // Which one it was shows when each is done by itself.
            Err(_) if jobs.len() > 1 => {
                for (sender, job) in senders.into_iter().zip(&jobs) {
                    let alone = contained(|| self.kind.run(std::slice::from_ref(job)).pop());
                    let result = alone.and_then(|done| done.ok_or(WorkerError::Panicked));
                    self.counts.answer(sender, result);
                }
            }
            Err(panicked) => {
                for sender in senders {
                    self.counts.answer(sender, Err(panicked));
                }
            }
        }
    }

    fn in_time(&self, since: Instant) -> Result<(), WorkerError> {
        if since.elapsed() <= self.settings.deadline {
            return Ok(());
        }
        let limit_ms = u64::try_from(self.settings.deadline.as_millis()).unwrap_or(u64::MAX);
        Err(WorkerError::Deadline { limit_ms })
    }
}

fn contained<T>(job: impl FnOnce() -> T) -> Result<T, WorkerError> {
    catch_unwind(AssertUnwindSafe(job)).map_err(|_| WorkerError::Panicked)
}

impl Counts {
    fn answer<T>(&self, sender: oneshot::Sender<Result<T, WorkerError>>, result: Result<T, WorkerError>) {
        let count = match result {
            Err(WorkerError::Panicked) => &self.panicked,
            Err(_) => &self.late,
            Ok(_) => &self.completed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        // The caller may have gone away; the result then concerns nobody.
        let _ = sender.send(result);
    }
}

impl<K: Together> std::fmt::Debug for Workers<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
