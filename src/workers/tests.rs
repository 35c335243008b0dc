use super::*;

use std::sync::mpsc;

/// The jobs of the pool's kind as they were done together.
type Runs = Arc<Mutex<Vec<Vec<u32>>>>;

/// Doubles numbers, and notes which it was given together. 13 panics; above 100 a number weighs its last digit.
#[derive(Default)]
struct Doubling(Runs);

impl Together for Doubling {
    type Job = u32;
    type Done = u32;

    const WEIGHT_MAX: usize = 8;

    fn weight(job: &u32) -> usize {
        if *job > 100 { *job as usize % 10 } else { 1 }
    }

    fn run(&self, jobs: &[u32]) -> Vec<u32> {
        self.0.lock().push(jobs.to_vec());
        jobs.iter().map(|job| if *job == 13 { panic!("hostile") } else { job * 2 }).collect()
    }
}

fn pool(threads: usize, queue_jobs_max: usize, deadline_ms: u64) -> (Workers<Doubling>, Runs) {
    let (settings, kind) = (
        Settings { threads, queue_jobs_max, deadline: Duration::from_millis(deadline_ms) },
        Doubling::default(),
    );
    let runs = Arc::clone(&kind.0);
    (Workers::start(settings, kind).unwrap(), runs)
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Keeps one thread busy until the sender is used.
fn busy(
    pool: &Workers<Doubling>,
) -> (mpsc::Sender<()>, impl Future<Output = Result<(), WorkerError>> + use<>) {
    let (end, ended) = mpsc::channel::<()>();
    let (start, started) = mpsc::channel::<()>();
    let job = pool.submit(move || {
        start.send(()).unwrap();
        ended.recv().unwrap();
    });
    started.recv().unwrap();
    (end, job.unwrap())
}

#[test]
fn a_full_queue_refuses_at_once_and_a_late_job_is_dropped_unrun() {
    let (pool, runs) = pool(1, 2, 500);
    let (end, first) = busy(&pool);
    let late = pool.submit(|| 2).unwrap();
    let late_together = pool.submit_together(2).unwrap();
    assert_eq!(pool.submit(|| 3).map(|_| ()).unwrap_err(), WorkerError::QueueFull { limit: 2 });
    assert_eq!(pool.submit_together(3).map(|_| ()).unwrap_err(), WorkerError::QueueFull { limit: 2 });
    std::thread::sleep(Duration::from_millis(700));
    end.send(()).unwrap();
    assert_eq!(wait(first), Ok(()));
    assert_eq!(wait(late), Err(WorkerError::Deadline { limit_ms: 500 }));
    assert_eq!(wait(late_together), Err(WorkerError::Deadline { limit_ms: 500 }));
    assert_eq!(pool.stats(), Stats { queued: 0, completed: 1, refused: 2, late: 2, panicked: 0 });
    assert!(runs.lock().is_empty());
}

#[test]
fn a_late_job_is_left_out_of_what_is_done_together() {
    let (pool, runs) = pool(1, 10, 500);
    let (end, _first) = busy(&pool);
    let late = pool.submit_together(1).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let in_time = pool.submit_together(2).unwrap();
    end.send(()).unwrap();
    assert_eq!(wait(late), Err(WorkerError::Deadline { limit_ms: 500 }));
    assert_eq!(wait(in_time), Ok(4));
    assert_eq!(*runs.lock(), [[2]]);
}

#[test]
fn a_panic_is_one_verdict_and_the_pool_goes_on() {
    let (pool, _) = pool(1, 10, 10_000);
    let hostile = pool.submit(|| -> u32 { panic!("hostile") }).unwrap();
    let next = pool.submit(|| 7).unwrap();
    assert_eq!(wait(hostile), Err(WorkerError::Panicked));
    assert_eq!(wait(next), Ok(7));
}

#[test]
fn a_panic_among_jobs_done_together_is_the_verdict_of_one() {
    let (pool, runs) = pool(1, 10, 10_000);
    let (end, _first) = busy(&pool);
    let [one, hostile, other] = [1, 13, 2].map(|job| pool.submit_together(job).unwrap());
    end.send(()).unwrap();
    assert_eq!(wait(one), Ok(2));
    assert_eq!(wait(hostile), Err(WorkerError::Panicked));
    assert_eq!(wait(other), Ok(4));
    assert_eq!(*runs.lock(), [vec![1, 13, 2], vec![1], vec![13], vec![2]]);
    assert_eq!(wait(pool.submit_together(13).unwrap()), Err(WorkerError::Panicked));
    assert_eq!(wait(pool.submit_together(7).unwrap()), Ok(14));
    assert_eq!(pool.stats(), Stats { queued: 0, completed: 4, refused: 0, late: 0, panicked: 2 });
}

#[test]
fn what_waits_together_is_done_together_up_to_the_weight_and_overtakes_nothing() {
    let (pool, runs) = pool(1, 100, 10_000);
    let (end, _first) = busy(&pool);
    let before: Vec<_> = (1..=10).map(|job| pool.submit_together(job).unwrap()).collect();
    let log = Arc::clone(&runs);
    let between = pool.submit(move || log.lock().push(Vec::new())).unwrap();
    let after: Vec<_> = [105, 102, 104, 109, 50].map(|job| pool.submit_together(job).unwrap()).into();
    end.send(()).unwrap();
    for (job, done) in (1..=10).chain([105, 102, 104, 109, 50]).zip(before.into_iter().chain(after)) {
        assert_eq!(wait(done), Ok(job * 2));
    }
    assert_eq!(wait(between), Ok(()));
    let in_order =
        [vec![1, 2, 3, 4, 5, 6, 7, 8], vec![9, 10], vec![], vec![105, 102], vec![104], vec![109], vec![50]];
    assert_eq!(*runs.lock(), in_order);
}

#[test]
fn nobody_takes_more_than_a_share_of_the_queue() {
    let (pool, runs) = pool(2, 100, 10_000);
    let (one, other) = (busy(&pool), busy(&pool));
    let waiting: Vec<_> = (1..=8).map(|job| pool.submit_together(job).unwrap()).collect();
    for end in [one.0, other.0] {
        end.send(()).unwrap();
    }
    for (job, done) in (1..=8).zip(waiting) {
        assert_eq!(wait(done), Ok(job * 2));
    }
    let longest = runs.lock().iter().map(Vec::len).max();
    assert_eq!(longest, Some(4));
}
