//! Reading a log from its beginning, and holding it to its chain.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::record::{Action, LINE_BYTES_MAX, Outcome, Record};
use super::segment::{self, whole_bytes};
use super::{AuditError, Head};

/// The first place at which a log is not what was once written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// The file; the directory where a file is what is missing.
    pub file: PathBuf,
    /// The line in it, from 1; 0 where it is not about a line.
    pub line: u64,
    /// What is wrong there.
    pub what: &'static str,
}

/// What a log holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Files.
    pub segments: u64,
    /// Records read, up to where it is broken.
    pub records: u64,
    /// The number of the first; 0 if there is none. Above 1 where older ones are past their retention.
    pub first: u64,
    /// The number of the last good one.
    pub seq: u64,
    /// Its hash.
    pub hash: String,
    /// Calls that began and have no end: under way, or broken off by a crash.
    pub calls_without_end: u64,
    /// Bytes at the end that a crash left half written; nothing was answered on their account.
    pub torn_bytes: u64,
    /// The first broken link, if any.
    pub broken: Option<Broken>,
}

/// Holds a log to its chain, and to a head that was kept elsewhere: a log that doesn't hold that record was cut off
/// or replaced.
///
/// # Errors
/// The files can't be read.
pub fn verify(dir: &Path, published: Option<Head>) -> Result<Verified, AuditError> {
    let mut chain = Chain { published, ..Chain::default() };
    let (torn_bytes, mut broken) = walk(dir, &mut |record| match chain.link(record) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(what) => Err(what),
    })?;
    if broken.is_none() {
        broken = chain.ends_well().err().map(|what| Broken { file: dir.to_owned(), line: 0, what });
    }
    Ok(Verified {
        segments: segment::list(dir)?.len() as u64,
        records: chain.records,
        first: chain.first.map_or(0, |first| first.seq + 1),
        seq: chain.head.seq,
        hash: chain.head.hash.to_string(),
        calls_without_end: chain.open.len() as u64,
        torn_bytes,
        broken,
    })
}

/// Hands out every record in order until one can't be read or `sink` breaks; each by itself is as it was written,
/// whether the chain holds is for [`verify`] to say.
///
/// # Errors
/// The files can't be read.
pub fn each(
    dir: &Path,
    sink: &mut dyn FnMut(&Record) -> ControlFlow<()>,
) -> Result<Option<Broken>, AuditError> {
    walk(dir, &mut |record| Ok(sink(record))).map(|(_, broken)| broken)
}

type Step<'a> = &'a mut dyn FnMut(&Record) -> Result<ControlFlow<()>, &'static str>;

/// Bytes torn at the end, and the first broken place.
fn walk(dir: &Path, step: Step<'_>) -> Result<(u64, Option<Broken>), AuditError> {
    let numbers = segment::list(dir)?;
    let first = numbers.first().copied().unwrap_or_default();
    for (expected, number) in (first..).zip(&numbers) {
        let file = segment::path(dir, *number);
        if *number != expected {
            return Ok((0, Some(Broken { file, line: 0, what: "the file before it is missing" })));
        }
        let is_last = numbers.last() == Some(number);
        match lines(&file, is_last, step)? {
            Lines::Whole => {}
            Lines::Torn(bytes) => return Ok((bytes, None)),
            Lines::Ended => return Ok((0, None)),
            Lines::Broken(line, what) => return Ok((0, Some(Broken { file, line, what }))),
        }
    }
    Ok((0, None))
}

enum Lines {
    Whole,
    Torn(u64),
    Ended,
    Broken(u64, &'static str),
}

fn lines(path: &Path, is_last: bool, step: Step<'_>) -> Result<Lines, AuditError> {
    let file = File::open(path).map_err(AuditError::io("open", path))?;
    let length = file.metadata().map_err(AuditError::io("read", path))?.len();
    let mut reader = BufReader::new(file.take(length));
    let (mut number, mut at) = (0, 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        let read = read.map_err(AuditError::io("read", path))? as u64;
        if read == 0 {
            return Ok(Lines::Whole);
        }
        number += 1;
        if is_last && at + read == length && whole_bytes(&line) == 0 {
            return Ok(Lines::Torn(length - at));
        }
        at += read;
        let Some(text) = line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok()) else {
            return Ok(Lines::Broken(number, "is no record"));
        };
        match Record::parse(text).and_then(|record| step(&record)) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => return Ok(Lines::Ended),
            Err(what) => return Ok(Lines::Broken(number, what)),
        }
    }
}

/// What is known of the chain so far.
#[derive(Default)]
struct Chain {
    head: Head,
    /// What the first record follows.
    first: Option<Head>,
    records: u64,
    open: BTreeSet<u64>,
    published: Option<Head>,
    met: bool,
    /// Whether a record says that what stood before the first went in time.
    anchored: bool,
}

impl Default for Head {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Chain {
    fn link(&mut self, record: &Record) -> Result<(), &'static str> {
        let head = record.head();
        if self.first.is_none() {
            let hash = super::RecordHash::parse(&record.prev).ok_or("has no hash of a record before it")?;
            self.head = Head { seq: record.seq.wrapping_sub(1), hash };
            if record.seq == 0 || (record.seq == 1 && self.head != Head::EMPTY) {
                return Err("can't be the first");
            }
            self.first = Some(self.head);
        } else if record.seq != self.head.seq + 1 {
            return Err("doesn't have the number after the record before it");
        } else if record.prev != self.head.hash.to_string() {
            return Err("doesn't follow from the record before it");
        }
        if self.published.is_some_and(|published| published.seq == head.seq) {
            if self.published != Some(head) {
                return Err("is not the record that was published under its number");
            }
            self.met = true;
        }
        match (record.outcome, record.action, record.call) {
            (Outcome::Begun, ..) => {
                self.open.insert(record.seq);
            }
            (_, Action::Expire, Some(through)) => {
                let gone = self.first.is_some_and(|first| {
                    first.seq == through && record.subject == Some(first.hash.to_string())
                });
                self.anchored |= gone;
            }
            // A call that began in a segment that went has its end here.
            (_, _, Some(call))
                if !self.open.remove(&call) && self.first.is_some_and(|first| call > first.seq) =>
            {
                return Err("ends a call that didn't begin");
            }
            _ => {}
        }
        self.head = head;
        self.records += 1;
        Ok(())
    }

    fn ends_well(&self) -> Result<(), &'static str> {
        if self.first.is_some_and(|first| first.seq > 0) && !self.anchored {
            return Err("no record says that the ones before the first went in time");
        }
        match self.published {
            Some(published) if published == Head::EMPTY || self.met => Ok(()),
            // It went in time, which the chain says.
            Some(published) if self.first.is_some_and(|first| published.seq <= first.seq) => Ok(()),
            Some(_) => Err("it ends before the record that was published"),
            None => Ok(()),
        }
    }
}
