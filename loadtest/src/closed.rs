//! HTTP/1.1 load from one thread. Closed-loop: each connection sends its next request when its answer has
//! arrived, which is right for the cost of a request, since the server is always busy, and wrong for latency (it
//! sends less when the server is slow). Open-loop: requests are due at a rate, and their latency runs from there.
//! The scenarios, whose answers are audited, have a client of their own in `open`.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

/// How long a server may keep all connections waiting.
const STALL_S_MAX: u64 = 20;
/// Bytes read at once; a batch's answer of 250 KB takes a few reads.
const READ_BYTES: usize = 1 << 16;

/// Makes requests and sees their answers.
pub trait Source {
    /// Replaces `request` with the connection's next one; false when there are no more.
    fn next(&mut self, connection: usize, request: &mut Vec<u8>) -> bool;
    /// The answer to the connection's last request.
    fn answer(&mut self, connection: usize, status: u16, body: &[u8]) -> Result<()>;
}

/// What a stretch of load came to.
#[derive(Debug)]
pub struct Stretch {
    /// Answers, by status.
    pub statuses: BTreeMap<u16, u64>,
    /// How long it took.
    pub elapsed: Duration,
    /// From the first byte written to the last byte read, in microseconds.
    pub latency_us: Histogram<u64>,
    /// Bytes of all requests, heads included.
    pub request_bytes: u64,
    /// Bytes of all answers.
    pub answer_bytes: u64,
}

impl Stretch {
    /// All answers.
    pub fn answers(&self) -> u64 {
        self.statuses.values().sum()
    }
}

/// Connections that are open and ready.
pub struct Closed {
    poll: Poll,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    written: usize,
    answer: Vec<u8>,
    started: Instant,
    busy: bool,
}

impl Closed {
    /// Opens the connections.
    pub fn connect(to: SocketAddr, count: usize) -> Result<Self> {
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(count);
        for index in 0..count {
            let stream = std::net::TcpStream::connect(to).with_context(|| format!("connection {index}"))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            connections.push(Connection {
                stream,
                request: Vec::new(),
                written: 0,
                answer: Vec::new(),
                started: Instant::now(),
                busy: false,
            });
        }
        Ok(Self { poll, connections, buffer: vec![0; READ_BYTES] })
    }

    /// Sends for this long, or until the source ends, then waits for the answers under way.
    pub fn run(&mut self, time: Duration, source: &mut impl Source) -> Result<Stretch> {
        let started = Instant::now();
        let mut stretch = Stretch::empty()?;
        let mut busy = 0_usize;
        for (index, connection) in self.connections.iter_mut().enumerate() {
            busy += usize::from(connection.start(index, source)?);
        }
        let mut events = Events::with_capacity(1024);
        let mut last_answer = Instant::now();
        while busy > 0 {
            self.poll.poll(&mut events, Some(Duration::from_millis(500)))?;
            let more = started.elapsed() < time;
            for event in &events {
                let index = event.token().0;
                let connection = self.connections.get_mut(index).context("an unknown connection")?;
                if !connection.advance(event, &mut self.buffer, source, &mut stretch)? {
                    continue;
                }
                last_answer = Instant::now();
                if !(more && connection.start(index, source)?) {
                    busy -= 1;
                }
            }
            if last_answer.elapsed() > Duration::from_secs(STALL_S_MAX) {
                bail!("{busy} connections have waited over {STALL_S_MAX} s for an answer");
            }
        }
        stretch.elapsed = started.elapsed();
        Ok(stretch)
    }

    /// Sends at a rate for a while, and waits for the last answers. What is due while all connections wait is sent by
    /// the first that is free; its latency runs from when it was due.
    pub fn run_open(&mut self, rate_per_s: f64, time: Duration, source: &mut impl Source) -> Result<Stretch> {
        let mut stretch = Stretch::empty()?;
        let mut free: Vec<usize> = (0..self.connections.len()).rev().collect();
        let mut events = Events::with_capacity(1024);
        let started = Instant::now();
        let mut last_answer = started;
        let mut due = Duration::ZERO;
        let mut sent = 0_u32;
        while due < time || free.len() < self.connections.len() {
            while due < time && due <= started.elapsed() {
                let Some(index) = free.pop() else { break };
                let connection = self.connections.get_mut(index).context("an unknown connection")?;
                ensure!(connection.start(index, source)?, "the source ran dry after {sent} requests");
                connection.started = started + due;
                sent += 1;
                due = Duration::from_secs_f64(f64::from(sent) / rate_per_s);
            }
            self.poll.poll(&mut events, Some(pause(due, time, started.elapsed(), free.is_empty())))?;
            for event in &events {
                let index = event.token().0;
                let connection = self.connections.get_mut(index).context("an unknown connection")?;
                if connection.advance(event, &mut self.buffer, source, &mut stretch)? {
                    last_answer = Instant::now();
                    free.push(index);
                }
            }
            ensure!(
                free.len() == self.connections.len() || last_answer.elapsed().as_secs() < STALL_S_MAX,
                "no answer for {STALL_S_MAX} s"
            );
        }
        stretch.elapsed = started.elapsed();
        Ok(stretch)
    }
}

/// How long to wait for answers before the next request is due. The system's timer knows whole milliseconds, so
/// the last one is spent asking again and again.
fn pause(due: Duration, end: Duration, now: Duration, all_wait: bool) -> Duration {
    const LONG: Duration = Duration::from_millis(500);
    const TIMER: Duration = Duration::from_millis(1);
    let nothing_to_send = due >= end || all_wait;
    if nothing_to_send { LONG } else { due.saturating_sub(now).saturating_sub(TIMER) }
}

impl Stretch {
    fn empty() -> Result<Self> {
        Ok(Self {
            statuses: BTreeMap::new(),
            elapsed: Duration::ZERO,
            latency_us: Histogram::new_with_bounds(1, 60_000_000, 3)?,
            request_bytes: 0,
            answer_bytes: 0,
        })
    }
}

impl Connection {
    /// Goes on as far as the event lets it; true once the answer is whole, which has been recorded then.
    fn advance(
        &mut self,
        event: &Event,
        buffer: &mut [u8],
        source: &mut impl Source,
        stretch: &mut Stretch,
    ) -> Result<bool> {
        if !self.busy {
            return Ok(false);
        }
        if event.is_writable() {
            self.flush()?;
        }
        if !event.is_readable() {
            return Ok(false);
        }
        let Some((status, body_at)) = self.receive(buffer)? else { return Ok(false) };
        stretch.latency_us.saturating_record(micros(self.started.elapsed()));
        stretch.request_bytes += self.request.len() as u64;
        stretch.answer_bytes += self.answer.len() as u64;
        *stretch.statuses.entry(status).or_default() += 1;
        source.answer(event.token().0, status, self.answer.get(body_at..).unwrap_or_default())?;
        self.busy = false;
        Ok(true)
    }

    fn start(&mut self, index: usize, source: &mut impl Source) -> Result<bool> {
        if !source.next(index, &mut self.request) {
            return Ok(false);
        }
        self.written = 0;
        self.answer.clear();
        self.started = Instant::now();
        self.busy = true;
        self.flush()?;
        Ok(true)
    }

    fn flush(&mut self) -> Result<()> {
        while let Some(rest) = self.request.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => bail!("the peer takes no more bytes"),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("can't send a request"),
            }
        }
        Ok(())
    }

    /// Status and start of the body, once the whole answer is in `answer`.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<(u16, usize)>> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => bail!("the peer closed instead of answering"),
                Ok(count) => {
                    self.answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
                    if let Some(found) = parse(&self.answer)? {
                        return Ok(Some(found));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("can't read an answer"),
            }
        }
    }
}

/// Status and start of the body of a whole HTTP/1.1 answer; none while bytes are missing.
pub fn parse(answer: &[u8]) -> Result<Option<(u16, usize)>> {
    let Some(head_end) = memchr::memmem::find(answer, b"\r\n\r\n") else { return Ok(None) };
    let head = answer.get(..head_end).unwrap_or_default();
    let status = head.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse::<u16>().ok());
    let status = status.context("no status line")?;
    let mut length = None;
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = line.split_at(colon);
        if name.eq_ignore_ascii_case(b"content-length") {
            let value = std::str::from_utf8(value.get(1..).unwrap_or_default())?;
            length = Some(value.trim().parse::<usize>()?);
        }
    }
    let body_at = head_end + 4;
    // These two never have a body (RFC 9110, section 6.4.1), whatever length the second one tells.
    let is_bare = matches!(status, 204 | 304);
    ensure!(length.is_some() || is_bare, "an answer {status} without Content-Length");
    let whole = body_at + length.filter(|_| !is_bare).unwrap_or_default();
    ensure!(answer.len() <= whole, "more bytes than one answer");
    Ok((answer.len() == whole).then_some((status, body_at)))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_at_its_length_and_not_before() {
        let answer = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nx: y\r\n\r\nab";
        for cut in 0..answer.len() {
            assert_eq!(parse(&answer[..cut]).unwrap(), None);
        }
        assert_eq!(parse(answer).unwrap(), Some((201, answer.len() - 2)));
        assert!(parse(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nx").is_err());
        let bare = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n";
        assert_eq!(parse(bare).unwrap(), Some((304, bare.len())));
    }
}
