//! The file in which scans wait.
//!
//! Append-only NDJSON: a scan as it will be sent, or `{"done":"<id>"}` once the gateway has answered it for good. Each
//! append is fsynced before it counts. A last line without its end was never acknowledged to anyone and is cut off. When
//! most of the file is done, what waits is written anew beside it and takes its place.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::types::Scan;

/// Done lines from which on the file is written anew, if they are more than what waits.
const DONE_LINES_MAX: usize = 1000;

/// Why a scan is not in the queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// As many wait as may.
    #[error("{max} scans wait already, as many as may")]
    Full {
        /// The bound.
        max: usize,
    },
    /// Another process has this queue.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// A line in the middle is none of the queue's.
    #[error("line {line} of {} can't be read", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// The disk.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// Scans that wait, oldest first.
pub struct Queue {
    path: PathBuf,
    file: File,
    waiting: VecDeque<Waiting>,
    done: usize,
    scans_max: usize,
    // Held as long as the queue is.
    _lock: File,
}

/// One of them.
pub(crate) struct Waiting {
    pub(crate) id: String,
    /// As it is sent, with its line end.
    pub(crate) line: String,
}

#[derive(Serialize, Deserialize)]
struct Done<'a> {
    #[serde(borrow)]
    done: std::borrow::Cow<'a, str>,
}

impl Queue {
    /// Opens the queue at `path`, or begins it. At most `scans_max` wait in it; about 300 bytes each, on disk and
    /// in memory.
    pub fn open(path: impl Into<PathBuf>, scans_max: usize) -> Result<Self, QueueError> {
        let path = path.into();
        let io = |source| QueueError::Io { path: path.clone(), source };
        let lock_path = path.with_added_extension("lock");
        let lock = File::options().create(true).append(true).open(&lock_path).map_err(io)?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => QueueError::InUse(path.clone()),
            fs::TryLockError::Error(source) => io(source),
        })?;
        let file = File::options().create(true).read(true).append(true).open(&path).map_err(io)?;
        sync_directory(&path).map_err(io)?;
        let text = fs::read(&path).map_err(io)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            file.set_len(whole as u64).and_then(|()| file.sync_data()).map_err(io)?;
        }
        let mut queue =
            Self { path: path.clone(), file, waiting: VecDeque::new(), done: 0, scans_max, _lock: lock };
        let lines = text.get(..whole).unwrap_or_default().split_inclusive(|&byte| byte == b'\n');
        for (number, line) in lines.enumerate() {
            let damaged = || QueueError::Damaged { path: path.clone(), line: number + 1 };
            let line = std::str::from_utf8(line).map_err(|_| damaged())?;
            if let Ok(Done { done }) = serde_json::from_str(line) {
                queue.done += 1;
                queue.waiting.retain(|waiting| waiting.id != done);
            } else {
                let scan: Scan = serde_json::from_str(line).map_err(|_| damaged())?;
                queue.waiting.push_back(Waiting { id: scan.id, line: line.to_owned() });
            }
        }
        Ok(queue)
    }

    /// Takes a scan in. It is on disk when this returns. One whose id waits already is the same one.
    pub fn push(&mut self, scan: &Scan) -> Result<(), QueueError> {
        if self.waiting.iter().any(|waiting| waiting.id == scan.id) {
            return Ok(());
        }
        if self.waiting.len() >= self.scans_max {
            return Err(QueueError::Full { max: self.scans_max });
        }
        let mut line = serde_json::to_string(scan).map_err(|error| self.error(error.into()))?;
        line.push('\n');
        self.append(line.as_bytes())?;
        self.waiting.push_back(Waiting { id: scan.id.clone(), line });
        Ok(())
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The oldest, so many and so long together at most, but one in any case.
    pub(crate) fn oldest(&self, lines_max: usize, bytes_max: usize) -> Vec<&Waiting> {
        let mut bytes = 0;
        let fits = |waiting: &&Waiting| {
            bytes += waiting.line.len();
            bytes <= bytes_max || bytes == waiting.line.len()
        };
        self.waiting.iter().take(lines_max.max(1)).take_while(fits).collect()
    }

    /// Lets those go that have been answered for good.
    pub(crate) fn settle(&mut self, ids: &[String]) -> Result<(), QueueError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for id in ids {
            serde_json::to_writer(&mut lines, &Done { done: id.into() })
                .map_err(|error| self.error(error.into()))?;
            lines.push(b'\n');
        }
        self.append(&lines)?;
        let ids: std::collections::HashSet<&str> = ids.iter().map(String::as_str).collect();
        self.waiting.retain(|waiting| !ids.contains(waiting.id.as_str()));
        self.done += ids.len();
        if self.done >= DONE_LINES_MAX && self.done > self.waiting.len() {
            self.write_anew()?;
        }
        Ok(())
    }

    fn append(&mut self, lines: &[u8]) -> Result<(), QueueError> {
        let before = self.file.metadata().map_err(|error| self.error(error))?.len();
        self.file.write_all(lines).and_then(|()| self.file.sync_data()).map_err(|error| {
            // Half a line must not stand before the next one. If this fails too, the next open cuts it off.
            let _ = self.file.set_len(before);
            self.error(error)
        })
    }

    fn write_anew(&mut self) -> Result<(), QueueError> {
        let beside = self.path.with_added_extension("new");
        let written = File::create(&beside).and_then(|mut file| {
            for waiting in &self.waiting {
                file.write_all(waiting.line.as_bytes())?;
            }
            file.sync_all()?;
            fs::rename(&beside, &self.path)?;
            sync_directory(&self.path)?;
            File::options().read(true).append(true).open(&self.path)
        });
        self.file = written.map_err(|error| self.error(error))?;
        self.done = 0;
        Ok(())
    }

    fn error(&self, source: io::Error) -> QueueError {
        QueueError::Io { path: self.path.clone(), source }
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new("."))).and_then(|directory| directory.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Direction;

    fn scan(number: usize) -> Scan {
        let at = "2021-11-24T06:49:29Z".parse().unwrap();
        let qr = "https://qr.pccovid.gov.vn/Ab3x".to_owned();
        Scan { id: format!("scan-{number}"), qr, at, direction: Direction::Auto }
    }

    fn waiting(queue: &Queue) -> Vec<String> {
        queue.waiting.iter().map(|one| one.id.clone()).collect()
    }

    #[test]
    fn what_waits_is_there_after_a_restart_and_what_is_done_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue");
        let mut queue = Queue::open(&path, 10).unwrap();
        for number in 0..4 {
            queue.push(&scan(number)).unwrap();
        }
        queue.push(&scan(2)).unwrap();
        queue.settle(&["scan-0".to_owned(), "scan-2".to_owned()]).unwrap();
        drop(queue);
        assert_eq!(waiting(&Queue::open(&path, 10).unwrap()), ["scan-1", "scan-3"]);
    }

    #[test]
    fn a_torn_line_is_cut_off_and_a_damaged_one_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue");
        Queue::open(&path, 10).unwrap().push(&scan(1)).unwrap();
        let whole = fs::read(&path).unwrap();
        for torn in 1..whole.len() {
            fs::write(&path, [&whole[..], &whole[..torn]].concat()).unwrap();
            let mut queue = Queue::open(&path, 10).unwrap();
            assert_eq!(waiting(&queue), ["scan-1"], "torn at {torn}");
            queue.push(&scan(2)).unwrap();
            drop(queue);
            assert_eq!(waiting(&Queue::open(&path, 10).unwrap()), ["scan-1", "scan-2"], "torn at {torn}");
        }
        fs::write(&path, [b"nonsense\n", &whole[..]].concat()).unwrap();
        assert!(matches!(Queue::open(&path, 10), Err(QueueError::Damaged { line: 1, .. })));
    }

    #[test]
    fn it_is_bounded_and_one_process_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue");
        let mut queue = Queue::open(&path, 2).unwrap();
        queue.push(&scan(1)).unwrap();
        queue.push(&scan(2)).unwrap();
        assert!(matches!(queue.push(&scan(3)), Err(QueueError::Full { max: 2 })));
        assert!(matches!(Queue::open(&path, 2), Err(QueueError::InUse(_))));
    }

    #[test]
    fn a_file_of_done_lines_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue");
        let mut queue = Queue::open(&path, 2000).unwrap();
        let ids: Vec<String> = (0..1200).map(|number| scan(number).id).collect();
        for number in 0..1200 {
            let mut line = serde_json::to_string(&scan(number)).unwrap();
            line.push('\n');
            queue.waiting.push_back(Waiting { id: scan(number).id, line });
        }
        queue.settle(&ids[..1100]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 100);
        drop(queue);
        let mut queue = Queue::open(&path, 2000).unwrap();
        assert_eq!(waiting(&queue), ids[1100..]);
        queue.push(&scan(5000)).unwrap();
        drop(queue);
        assert_eq!(Queue::open(&path, 2000).unwrap().len(), 101);
    }

    #[test]
    fn a_batch_takes_what_fits_and_one_in_any_case() {
        let directory = tempfile::tempdir().unwrap();
        let mut queue = Queue::open(directory.path().join("queue"), 10).unwrap();
        for number in 0..4 {
            queue.push(&scan(number)).unwrap();
        }
        let length = queue.waiting[0].line.len();
        assert_eq!(queue.oldest(3, 1 << 20).len(), 3);
        assert_eq!(queue.oldest(9, 2 * length).len(), 2);
        assert_eq!(queue.oldest(9, 1).len(), 1);
    }
}
