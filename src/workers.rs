//! The bounded CPU pool: signature checks (and, later, frames) run here, never on a core's ring.
//!
//! A job is refused at once when the queue is full, dropped unrun when it has waited past its deadline,
//! and contained when it panics: a hostile input costs its sender one verdict, never the process.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
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

/// A fixed set of threads behind one bounded queue. Dropping it finishes the queue and joins the threads.
#[derive(Debug)]
pub struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    settings: Settings,
    queue: Mutex<Queue>,
    waiting: Condvar,
    completed: AtomicU64,
    refused: AtomicU64,
    late: AtomicU64,
    panicked: AtomicU64,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    stopped: bool,
}

struct Job {
    queued: Instant,
    run: Box<dyn FnOnce(Result<(), WorkerError>) + Send>,
}

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system refused a thread.
    pub fn start(settings: Settings) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            settings,
            queue: Mutex::default(),
            waiting: Condvar::new(),
            completed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            late: AtomicU64::new(0),
            panicked: AtomicU64::new(0),
        });
        let threads = (0..settings.threads.max(1))
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
    ) -> Result<impl Future<Output = Result<T, WorkerError>> + use<T, F>, WorkerError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        let run = Box::new(move |admitted: Result<(), WorkerError>| {
            let result = admitted
                .and_then(|()| catch_unwind(AssertUnwindSafe(job)).map_err(|_| WorkerError::Panicked));
            let count = match result {
                Err(WorkerError::Panicked) => &shared.panicked,
                Err(_) => &shared.late,
                Ok(_) => &shared.completed,
            };
            count.fetch_add(1, Ordering::Relaxed);
            // The caller may have gone away; the result then concerns nobody.
            let _ = sender.send(result);
        });
        self.shared.push(Job { queued: Instant::now(), run })?;
        Ok(async { receiver.await.unwrap_or(Err(WorkerError::Stopped)) })
    }

    /// The pool's counts.
    pub fn stats(&self) -> Stats {
        Stats {
            queued: self.shared.queue.lock().jobs.len(),
            completed: self.shared.completed.load(Ordering::Relaxed),
            refused: self.shared.refused.load(Ordering::Relaxed),
            late: self.shared.late.load(Ordering::Relaxed),
            panicked: self.shared.panicked.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.queue.lock().stopped = true;
        self.shared.waiting.notify_all();
        for thread in self.threads.drain(..) {
            // A worker contains its jobs' panics, so joining can't fail on one.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn push(&self, job: Job) -> Result<(), WorkerError> {
        let mut queue = self.queue.lock();
        if queue.stopped {
            return Err(WorkerError::Stopped);
        }
        if queue.jobs.len() >= self.settings.queue_jobs_max {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(WorkerError::QueueFull { limit: self.settings.queue_jobs_max });
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.waiting.notify_one();
        Ok(())
    }

    fn work(&self) {
        loop {
            let mut queue = self.queue.lock();
            let job = loop {
                if let Some(job) = queue.jobs.pop_front() {
                    break job;
                }
                if queue.stopped {
                    return;
                }
                self.waiting.wait(&mut queue);
            };
            drop(queue);
            let limit_ms = u64::try_from(self.settings.deadline.as_millis()).unwrap_or(u64::MAX);
            let late = job.queued.elapsed() > self.settings.deadline;
            (job.run)(if late { Err(WorkerError::Deadline { limit_ms }) } else { Ok(()) });
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(queue_jobs_max: usize, deadline_ms: u64) -> Workers {
        let deadline = Duration::from_millis(deadline_ms);
        Workers::start(Settings { threads: 1, queue_jobs_max, deadline }).unwrap()
    }

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn a_full_queue_refuses_at_once_and_a_late_job_is_dropped_unrun() {
        let pool = pool(1, 500);
        let (begin, begun) = std::sync::mpsc::channel::<()>();
        let (started, has_started) = std::sync::mpsc::channel::<()>();
        let first = pool
            .submit(move || {
                started.send(()).unwrap();
                begun.recv().unwrap();
                1
            })
            .unwrap();
        has_started.recv().unwrap();
        let second = pool.submit(|| 2).unwrap();
        assert_eq!(pool.submit(|| 3).map(|_| ()).unwrap_err(), WorkerError::QueueFull { limit: 1 });
        std::thread::sleep(Duration::from_millis(700));
        begin.send(()).unwrap();
        assert_eq!(wait(first), Ok(1));
        assert_eq!(wait(second), Err(WorkerError::Deadline { limit_ms: 500 }));
        assert_eq!(pool.stats(), Stats { queued: 0, completed: 1, refused: 1, late: 1, panicked: 0 });
    }

    #[test]
    fn a_panic_is_one_verdict_and_the_pool_goes_on() {
        let pool = pool(10, 10_000);
        let hostile = pool.submit(|| -> u32 { panic!("hostile") }).unwrap();
        let next = pool.submit(|| 7).unwrap();
        assert_eq!(wait(hostile), Err(WorkerError::Panicked));
        assert_eq!(wait(next), Ok(7));
    }
}
