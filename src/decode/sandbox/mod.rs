//! A confined process that reads frames, and the two ends of its socket.
//!
//! The gateway executes itself again (`/proc/self/exe`, so that an upgrade of the file on disk changes
//! nothing) with [`WORKER_ARGUMENT`]; `main` calls [`worker_main`] before anything else. The process
//! inherits nothing but one end of a socket pair as its standard input: no environment, no file, and it
//! confines itself (`confine.rs`) before it reads the first frame. It serves one frame at a time:
//!
//! - gateway → process: one JSON line's worth of settings, then for each frame a header of 13 bytes
//!   (command, width, height, length, little endian) and the frame's bytes;
//! - process → gateway: the length (u32, little endian) and a JSON answer.
//!
//! The answer is as hostile as the frame: bounded before it is read, and checked.
//! A process that dies, answers nonsense or passes the deadline is killed; only its frame knows.
//! It is also replaced after [`Settings::process_frames_max`] frames, so that a process subverted
//! without a trace does not stay.

mod confine;
mod starved;
mod worker;

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::cascade::CODE_BYTES_MAX;
use super::{Code, DecodeError, Decoded, Frame, FrameKind, cascade, image};

use starved::ProcessClock;

pub use confine::ConfineStep;
pub use worker::worker_main;

/// The hidden first argument that makes the binary a worker.
pub const WORKER_ARGUMENT: &str = "__decode-worker";

/// Sixteen codes of the largest kind, each byte escaped to six.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// How long a process may take to start and confine itself; 10 ms as a rule, more on a loaded machine.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A year. The kernel counts in nanoseconds and lets a limit near 2⁶⁴ wrap around to seconds.
const CPU_S_MAX: u64 = 31_536_000;

/// Confinement of the processes.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The program to execute with [`WORKER_ARGUMENT`]; itself, as a rule.
    pub program: PathBuf,
    /// Address space of a process.
    pub memory_bytes_max: u64,
    /// Frames after which a process is replaced by a new one.
    pub process_frames_max: u64,
    /// How much a process yields to everything else.
    pub priority: Priority,
    /// Whether [`super::Frames::probe`] works; for tests.
    #[doc(hidden)]
    pub probes: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            // A progressive JPEG of 16 megapixels takes about 150 MB, the binary's own maps about 100.
            memory_bytes_max: 512 << 20,
            process_frames_max: 10_000,
            priority: Priority::Idle,
            probes: false,
        }
    }
}

/// What a process gets of a processor that others want.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Priority {
    /// Only what nobody else wants (SCHED_IDLE): whoever wakes up on its processor has it at once, so that
    /// payloads don't wait for frames.
    Idle,
    /// A tenth of an ordinary process's share (SCHED_BATCH, nice 10): for machines that are never idle.
    Low,
}

/// Why a process can't be started.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The system refused the socket or the process.
    #[error("the process can't be executed")]
    Spawn(#[source] std::io::Error),
    /// It didn't report itself ready.
    #[error("the process didn't report ready")]
    Silent,
    /// It couldn't confine itself, and so didn't start.
    #[error("the process can't be confined: {step} failed")]
    Confine {
        /// What the system refused.
        step: ConfineStep,
    },
}

/// A misbehaviour that tests ask of a process.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Dies.
    Crash,
    /// Never answers.
    Hang,
    /// Allocates past its memory.
    Allocate,
    /// Opens a file.
    Open,
    /// Opens a network socket.
    Connect,
    /// Starts a process.
    Execute,
    /// Answers with more bytes than allowed.
    Flood,
}

impl Probe {
    /// Every probe, in the order of its command.
    pub const ALL: [Self; 7] =
        [Self::Crash, Self::Hang, Self::Allocate, Self::Open, Self::Connect, Self::Execute, Self::Flood];
}

/// What the process must know; sent first.
#[derive(Debug, Serialize, Deserialize)]
struct Orders {
    parent_pid: u32,
    image: image::Limits,
    cascade: cascade::Settings,
    memory_bytes_max: u64,
    cpu_s_max: u64,
    priority: Priority,
    probes: bool,
}

/// The header before each frame.
struct Header {
    command: u8,
    width: u32,
    height: u32,
    length: u32,
}

const COMMAND_JPEG: u8 = 0;
const COMMAND_PNG: u8 = 1;
const COMMAND_LUMA: u8 = 2;
const COMMAND_PROBE: u8 = 0x80;

impl Header {
    const BYTES: usize = 13;

    fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let parts = [
            &[self.command][..],
            &self.width.to_le_bytes(),
            &self.height.to_le_bytes(),
            &self.length.to_le_bytes(),
        ];
        for (byte, part) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *byte = *part;
        }
        bytes
    }

    fn decode(bytes: [u8; Self::BYTES]) -> Self {
        let [command, w0, w1, w2, w3, h0, h1, h2, h3, l0, l1, l2, l3] = bytes;
        Self {
            command,
            width: u32::from_le_bytes([w0, w1, w2, w3]),
            height: u32::from_le_bytes([h0, h1, h2, h3]),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
        }
    }
}

/// A running process, from the gateway's side.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    clock: ProcessClock,
    socket: UnixStream,
    codes_max: usize,
    stages: usize,
    frames_left: u64,
    usable: bool,
}

impl Process {
    /// Starts a process and waits until it is confined.
    ///
    /// It dies with the calling thread.
    pub(super) fn start(settings: &super::Settings) -> Result<Self, ProcessError> {
        let (socket, other) = UnixStream::pair().map_err(ProcessError::Spawn)?;
        let child = Command::new(&settings.sandbox.program)
            .arg(WORKER_ARGUMENT)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(other)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(ProcessError::Spawn)?;
        let sandbox = &settings.sandbox;
        let mut process = Self {
            clock: ProcessClock::of(child.id()),
            child,
            socket,
            codes_max: settings.cascade.codes_max,
            stages: settings.cascade.stages.len(),
            frames_left: sandbox.process_frames_max.max(1),
            usable: true,
        };
        let orders = Orders {
            parent_pid: std::process::id(),
            image: settings.image,
            cascade: settings.cascade.clone(),
            memory_bytes_max: sandbox.memory_bytes_max,
            // A backstop only: the deadline ends a frame, this ends a process that nobody watches.
            cpu_s_max: (process.frames_left.saturating_mul(settings.deadline_ms) / 1000 + 10).min(CPU_S_MAX),
            priority: sandbox.priority,
            probes: sandbox.probes,
        };
        let orders = serde_json::to_vec(&orders).map_err(|_| ProcessError::Silent)?;
        let until = Instant::now() + START_TIMEOUT;
        process.send(&[&length_prefix(orders.len()), &orders], until).map_err(|_| ProcessError::Silent)?;
        let ready = process.receive(until).map_err(|_| ProcessError::Silent)?;
        let ready: Result<(), ConfineStep> =
            serde_json::from_slice(&ready).map_err(|_| ProcessError::Silent)?;
        ready.map_err(|step| ProcessError::Confine { step })?;
        Ok(process)
    }

    pub(super) fn read(&mut self, frame: &Frame, timeout: Duration) -> Result<Decoded, DecodeError> {
        let (command, width, height) = match frame.kind {
            FrameKind::Jpeg => (COMMAND_JPEG, 0, 0),
            FrameKind::Png => (COMMAND_PNG, 0, 0),
            FrameKind::Luma { width, height } => (COMMAND_LUMA, width, height),
        };
        self.exchange(command, (width, height), &frame.bytes, timeout)
    }

    pub(super) fn probe(&mut self, probe: Probe, timeout: Duration) -> Result<Decoded, DecodeError> {
        let index = Probe::ALL.iter().position(|known| *known == probe).unwrap_or_default();
        let command = COMMAND_PROBE + u8::try_from(index).unwrap_or_default();
        self.exchange(command, (0, 0), &[], timeout)
    }

    pub(super) fn is_usable(&self) -> bool {
        self.usable && self.frames_left > 0
    }

    fn exchange(
        &mut self,
        command: u8,
        (width, height): (u32, u32),
        bytes: &[u8],
        timeout: Duration,
    ) -> Result<Decoded, DecodeError> {
        let length = u32::try_from(bytes.len()).map_err(|_| DecodeError::Unavailable)?;
        let header = Header { command, width, height, length }.encode();
        let (until, before) = (Instant::now() + timeout, self.clock.now());
        self.frames_left = self.frames_left.saturating_sub(1);
        let answer = self.send(&[&header, bytes], until).and_then(|()| self.receive(until));
        let answer = answer.and_then(|answer| check(&answer, self.codes_max, self.stages));
        match answer {
            Ok(result) => result,
            Err(Broken::Late) => {
                self.usable = false;
                let limit_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                Err(if self.clock.was_starved(before, timeout) {
                    DecodeError::Starved { limit_ms }
                } else {
                    DecodeError::TimedOut { limit_ms }
                })
            }
            Err(Broken::Off) => {
                self.usable = false;
                Err(DecodeError::Crashed)
            }
        }
    }

    fn send(&mut self, parts: &[&[u8]], until: Instant) -> Result<(), Broken> {
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                self.socket.set_write_timeout(Some(left(until)?)).map_err(|_| Broken::Off)?;
                let sent = retry(self.socket.write(rest))?;
                rest = rest.get(sent..).unwrap_or_default();
            }
        }
        Ok(())
    }

    fn receive(&mut self, until: Instant) -> Result<Vec<u8>, Broken> {
        let mut prefix = [0; 4];
        self.fill(&mut prefix, until)?;
        let length = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
        if length > ANSWER_BYTES_MAX {
            return Err(Broken::Off);
        }
        let mut answer = vec![0; length];
        self.fill(&mut answer, until)?;
        Ok(answer)
    }

    fn fill(&mut self, mut rest: &mut [u8], until: Instant) -> Result<(), Broken> {
        while !rest.is_empty() {
            self.socket.set_read_timeout(Some(left(until)?)).map_err(|_| Broken::Off)?;
            let outcome = self.socket.read(rest);
            // End of file: the process has died.
            if matches!(outcome, Ok(0)) {
                return Err(Broken::Off);
            }
            let received = retry(outcome)?;
            rest = rest.get_mut(received..).unwrap_or_default();
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Either may find it dead already, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes an answer only if a sound process could have given it.
fn check(answer: &[u8], codes_max: usize, stages: usize) -> Result<Result<Decoded, DecodeError>, Broken> {
    let result: Result<Decoded, DecodeError> = serde_json::from_slice(answer).map_err(|_| Broken::Off)?;
    let sound = match &result {
        Ok(decoded) => {
            let fits = |code: &Code| code.payload.as_ref().map_or(0, String::len) <= CODE_BYTES_MAX;
            decoded.codes.len() <= codes_max
                && decoded.stages.len() == stages
                && decoded.codes.iter().all(fits)
        }
        Err(error) => matches!(error, DecodeError::Image(_) | DecodeError::Panicked),
    };
    if sound { Ok(result) } else { Err(Broken::Off) }
}

/// Why an exchange ended early.
#[derive(Debug, PartialEq, Eq)]
enum Broken {
    /// The deadline passed.
    Late,
    /// The process died or doesn't keep to the protocol.
    Off,
}

fn left(until: Instant) -> Result<Duration, Broken> {
    let left = until.saturating_duration_since(Instant::now());
    // A zero timeout would mean none.
    if left.is_zero() { Err(Broken::Late) } else { Ok(left.max(Duration::from_micros(1))) }
}

/// The bytes moved; none when the call must be made again.
fn retry(outcome: std::io::Result<usize>) -> Result<usize, Broken> {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    match outcome {
        Ok(moved) => Ok(moved),
        // The deadline decides, before the next call.
        Err(error) if matches!(error.kind(), Interrupted | TimedOut | WouldBlock) => Ok(0),
        Err(_) => Err(Broken::Off),
    }
}

fn length_prefix(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Decoder, Point};

    fn answer(codes: usize, bytes: usize) -> Vec<u8> {
        let code = Code {
            payload: Ok("\u{1}".repeat(bytes)),
            decoder: Decoder::Quircs,
            points: [Point { x: i32::MIN, y: i32::MAX }; 4],
        };
        let decoded = Decoded {
            codes: vec![code; codes],
            stages: Vec::new(),
            image_elapsed: Duration::ZERO,
            elapsed: Duration::MAX,
        };
        serde_json::to_vec(&Ok::<_, DecodeError>(decoded)).unwrap()
    }

    #[test]
    fn the_largest_sound_answer_fits_and_is_taken() {
        let answer = answer(16, CODE_BYTES_MAX);
        assert!(answer.len() <= ANSWER_BYTES_MAX);
        assert_eq!(check(&answer, 16, 0).unwrap().unwrap().codes.len(), 16);
    }

    #[test]
    fn what_no_sound_process_answers_is_a_crash() {
        assert_eq!(check(&answer(17, 1), 16, 0).unwrap_err(), Broken::Off);
        assert_eq!(check(&answer(1, CODE_BYTES_MAX + 1), 16, 0).unwrap_err(), Broken::Off);
        assert_eq!(check(&answer(1, 1), 16, 1).unwrap_err(), Broken::Off);
        for answer in [
            &b""[..],
            b"{}",
            b"null",
            b"{\"Err\":\"Stopped\"}",
            b"{\"Err\":{\"QueueFull\":{\"limit\":1}}}",
            b"\xff",
        ] {
            assert_eq!(check(answer, 16, 0).unwrap_err(), Broken::Off);
        }
        assert_eq!(check(b"{\"Err\":\"Panicked\"}", 16, 0), Ok(Err(DecodeError::Panicked)));
    }

    #[test]
    fn a_header_comes_back_as_it_went() {
        let header = Header { command: 2, width: 640, height: 0x0102_0304, length: u32::MAX };
        let back = Header::decode(header.encode());
        assert_eq!((back.command, back.width, back.height, back.length), (2, 640, 0x0102_0304, u32::MAX));
    }
}
