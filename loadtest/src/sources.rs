//! The requests of the comparison: every scan is one that the gateway must record anew.

use anyhow::{Result, ensure};
use scangate::scan::UnixMillis;

use crate::closed::Source;
use crate::codes::qrqg;
use crate::requests::{Line, assemble, head, time_text};

/// Event times advance by this much when a device starts over with its people: past the default window of
/// 60 s, so that the window is looked up and never met.
const STEP_MS: i64 = 61_000;
/// Event times start this long ago, inside the two days that are accepted.
const BACK_MS: i64 = 46 * 3_600_000;

/// Scans of a fixed set of people, over and over, each device at a place of its own.
pub struct Cached {
    heads: Vec<Vec<u8>>,
    lines: Vec<Line>,
    devices: Vec<Device>,
    lines_per_request: usize,
    expected_status: u16,
    origin_ms: i64,
    number: u64,
    /// Lines answered as expected.
    pub lines_recorded: u64,
}

struct Device {
    next_line: usize,
    at_ms: i64,
    at: String,
}

impl Cached {
    /// One token a connection. `lines_per_request` of 0 sends single scans.
    pub fn new(tokens: &[String], codes: &[String], lines_per_request: usize, expected_status: u16) -> Self {
        let kind = if lines_per_request == 0 { "application/json" } else { "application/x-ndjson" };
        let origin_ms = UnixMillis::now().0 - BACK_MS;
        // Connections start apart, so that they don't all meet a code for the first time at once.
        let device = |index: usize| Device {
            next_line: index * codes.len() / tokens.len().max(1),
            at_ms: origin_ms,
            at: time_text(origin_ms),
        };
        Self {
            heads: tokens.iter().map(|token| head(token, kind)).collect(),
            lines: codes.iter().map(|code| Line::new(code, "in")).collect(),
            devices: (0..tokens.len()).map(device).collect(),
            lines_per_request,
            expected_status,
            origin_ms,
            number: 0,
            lines_recorded: 0,
        }
    }

    /// Client ids count up from here: two sources of the same devices must not use the same.
    #[must_use]
    pub fn numbered_from(mut self, number: u64) -> Self {
        self.number = number;
        self
    }
}

impl Source for Cached {
    fn next(&mut self, connection: usize, request: &mut Vec<u8>) -> bool {
        let (Some(head), Some(device)) = (self.heads.get(connection), self.devices.get_mut(connection))
        else {
            return false;
        };
        let count = self.lines_per_request.max(1);
        let newline = usize::from(self.lines_per_request > 0);
        let chosen = (0..count).map(|n| (device.next_line + n) % self.lines.len());
        let length = chosen.filter_map(|index| self.lines.get(index)).map(|line| line.len() + newline).sum();
        let (lines, number) = (&self.lines, &mut self.number);
        assemble(head, length, request, |out| {
            for _ in 0..count {
                if let Some(line) = lines.get(device.next_line) {
                    line.write(*number, &device.at, out);
                }
                if newline == 1 {
                    out.push(b'\n');
                }
                *number += 1;
                device.next_line += 1;
                if device.next_line == lines.len() {
                    device.next_line = 0;
                    device.at_ms += STEP_MS;
                    device.at = time_text(device.at_ms);
                }
            }
        });
        // The device has used up its two days: a longer run needs more people or devices.
        device.at_ms < self.origin_ms + BACK_MS
    }

    fn answer(&mut self, _connection: usize, status: u16, body: &[u8]) -> Result<()> {
        self.lines_recorded += recorded(status, body, self.lines_per_request, self.expected_status)?;
        Ok(())
    }
}

/// Another source's first requests.
pub struct Limited<'a, S> {
    inner: &'a mut S,
    left: u64,
}

impl<'a, S: Source> Limited<'a, S> {
    /// This many.
    pub fn new(inner: &'a mut S, count: u64) -> Self {
        Self { inner, left: count }
    }
}

impl<S: Source> Source for Limited<'_, S> {
    fn next(&mut self, connection: usize, request: &mut Vec<u8>) -> bool {
        if self.left == 0 || !self.inner.next(connection, request) {
            return false;
        }
        self.left -= 1;
        true
    }

    fn answer(&mut self, connection: usize, status: u16, body: &[u8]) -> Result<()> {
        self.inner.answer(connection, status, body)
    }
}

/// Another source, while some of what it sends is shed: by workers that have too many new tokens to verify at once,
/// or by a journal that is full.
pub struct Tolerant<'a, S> {
    inner: &'a mut S,
    /// Requests that were shed.
    pub shed: u64,
}

impl<'a, S: Source> Tolerant<'a, S> {
    /// Over a source that takes all other answers.
    pub fn new(inner: &'a mut S) -> Self {
        Self { inner, shed: 0 }
    }
}

impl<S: Source> Source for Tolerant<'_, S> {
    fn next(&mut self, connection: usize, request: &mut Vec<u8>) -> bool {
        self.inner.next(connection, request)
    }

    fn answer(&mut self, connection: usize, status: u16, body: &[u8]) -> Result<()> {
        if status == 503 {
            self.shed += 1;
            return Ok(());
        }
        self.inner.answer(connection, status, body)
    }
}

/// Batches of scans of people who were never seen, by unsigned codes, to fill a gateway's memory.
pub struct Fill {
    heads: Vec<Vec<u8>>,
    next_person: u64,
    end: u64,
    at: String,
    body: Vec<u8>,
}

impl Fill {
    /// Lines of a batch: the API's limit.
    const LINES: u64 = 1000;
    /// Client ids count up from here, far from those of other sources.
    const FIRST_NUMBER: u64 = 1 << 60;

    /// One token a connection; nobody is there yet.
    pub fn new(tokens: &[String]) -> Self {
        Self {
            heads: tokens.iter().map(|token| head(token, "application/x-ndjson")).collect(),
            next_person: 0,
            end: 0,
            at: String::new(),
            body: Vec::new(),
        }
    }

    /// How many have been there.
    pub fn people(&self) -> u64 {
        self.next_person
    }

    /// From now on, until so many people have been there.
    pub fn up_to(&mut self, people: u64) {
        self.end = people;
        self.at = time_text(UnixMillis::now().0);
    }
}

impl Source for Fill {
    fn next(&mut self, connection: usize, request: &mut Vec<u8>) -> bool {
        let Some(head) = self.heads.get(connection).filter(|_| self.next_person < self.end) else {
            return false;
        };
        self.body.clear();
        let end = self.end.min(self.next_person + Self::LINES);
        for person in self.next_person..end {
            Line::new(&qrqg(person), "in").write(Self::FIRST_NUMBER + person, &self.at, &mut self.body);
            self.body.push(b'\n');
        }
        self.next_person = end;
        let body = &self.body;
        assemble(head, body.len(), request, |out| out.extend_from_slice(body));
        true
    }

    fn answer(&mut self, _connection: usize, status: u16, body: &[u8]) -> Result<()> {
        ensure!(status == 200, "a batch was answered {status}: {}", String::from_utf8_lossy(body));
        Ok(())
    }
}

/// Scans of people whose codes the gateway has never seen, each used once.
pub struct NeverSeen {
    heads: Vec<Vec<u8>>,
    lines: Vec<Line>,
    lines_per_request: usize,
    at: String,
    next: usize,
    first_number: u64,
    /// Lines answered as expected.
    pub lines_recorded: u64,
    /// Requests that were shed with 503.
    pub shed: u64,
}

impl NeverSeen {
    /// One token a connection; takes the codes in order.
    /// Client ids count up from `first_number`.
    pub fn new(tokens: &[String], codes: &[String], lines_per_request: usize, first_number: u64) -> Self {
        let kind = if lines_per_request == 0 { "application/json" } else { "application/x-ndjson" };
        Self {
            heads: tokens.iter().map(|token| head(token, kind)).collect(),
            lines: codes.iter().map(|code| Line::new(code, "in")).collect(),
            lines_per_request,
            at: time_text(UnixMillis::now().0),
            next: 0,
            first_number,
            lines_recorded: 0,
            shed: 0,
        }
    }
}

impl Source for NeverSeen {
    fn next(&mut self, connection: usize, request: &mut Vec<u8>) -> bool {
        let count = self.lines_per_request.max(1);
        let newline = usize::from(self.lines_per_request > 0);
        let (Some(head), Some(lines)) =
            (self.heads.get(connection), self.lines.get(self.next..self.next + count))
        else {
            return false;
        };
        let length = lines.iter().map(|line| line.len() + newline).sum();
        let (first, at) = (self.first_number + self.next as u64, &self.at);
        assemble(head, length, request, |out| {
            for (line, number) in lines.iter().zip(first..) {
                line.write(number, at, out);
                if newline == 1 {
                    out.push(b'\n');
                }
            }
        });
        self.next += count;
        true
    }

    fn answer(&mut self, _connection: usize, status: u16, body: &[u8]) -> Result<()> {
        if status == 503 {
            self.shed += 1;
            return Ok(());
        }
        if self.lines_per_request > 0 {
            self.shed += memchr::memmem::find_iter(body, b"\"status\":503").count() as u64;
            self.lines_recorded += memchr::memmem::find_iter(body, b"\"status\":201").count() as u64;
            return Ok(());
        }
        self.lines_recorded += recorded(status, body, 0, 201)?;
        Ok(())
    }
}

/// Lines of an answer that were recorded; an error when any was not.
fn recorded(status: u16, body: &[u8], lines_per_request: usize, expected_status: u16) -> Result<u64> {
    if lines_per_request == 0 || expected_status != 201 {
        ensure!(status == expected_status, "answered {status}: {}", String::from_utf8_lossy(body));
        return Ok(lines_per_request.max(1) as u64);
    }
    ensure!(status == 200, "a batch was answered {status}: {}", String::from_utf8_lossy(body));
    let lines = memchr::memmem::find_iter(body, b"\"status\":201").count();
    let first =
        || String::from_utf8_lossy(body).lines().find(|line| !line.contains(":201")).map(str::to_owned);
    ensure!(lines == lines_per_request, "{lines} of {lines_per_request} lines were recorded; {:?}", first());
    Ok(lines as u64)
}
