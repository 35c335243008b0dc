//! The process's side: orders, confinement, then frame after frame.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use super::{
    ANSWER_BYTES_MAX, COMMAND_JPEG, COMMAND_LUMA, COMMAND_PNG, COMMAND_PROBE, Header, Orders, Probe,
};
use super::{WORKER_ARGUMENT, confine, length_prefix};
use crate::decode::{DecodeError, Decoded, FrameKind, read_contained};

/// Orders are a few hundred bytes.
const ORDERS_BYTES_MAX: u32 = 65_536;

/// Exit codes, for whoever traces a process that doesn't start.
const EXIT_CLOSED: i32 = 0;
const EXIT_PROTOCOL: i32 = 3;
const EXIT_CONFINE: i32 = 4;

/// Serves frames and never returns, if this process was started to; otherwise does nothing.
///
/// The first thing in `main`: before any thread, file or log.
pub fn worker_main() {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == WORKER_ARGUMENT) {
        std::process::exit(serve());
    }
}

fn serve() -> i32 {
    // A panic is reported to the gateway by the answer; its message may quote the frame.
    std::panic::set_hook(Box::new(|_| {}));
    let Ok(socket) = std::io::stdin().as_fd().try_clone_to_owned() else {
        return EXIT_PROTOCOL;
    };
    // A file reads and writes by the plain calls, which are all that the filter lets through.
    let mut socket = File::from(socket);
    let Some(orders) = orders(&mut socket) else {
        return EXIT_PROTOCOL;
    };
    let confined = confine::confine(&orders, &socket);
    let told = answer(&mut socket, &confined);
    if confined.is_err() {
        return EXIT_CONFINE;
    }
    if told.is_none() {
        return EXIT_PROTOCOL;
    }
    let mut frame = Vec::new();
    loop {
        let mut header = [0; Header::BYTES];
        if socket.read_exact(&mut header).is_err() {
            return EXIT_CLOSED;
        }
        let header = Header::decode(header);
        frame.clear();
        let length = u64::from(header.length);
        if (&socket).take(length).read_to_end(&mut frame).is_err() || u64::try_from(frame.len()) != Ok(length)
        {
            return EXIT_PROTOCOL;
        }
        let kind = match header.command {
            COMMAND_JPEG => FrameKind::Jpeg,
            COMMAND_PNG => FrameKind::Png,
            COMMAND_LUMA => FrameKind::Luma { width: header.width, height: header.height },
            probe if orders.probes => {
                misbehave(probe, &mut socket);
                continue;
            }
            _ => return EXIT_PROTOCOL,
        };
        let result = read_contained(&frame, kind, &orders.image, &orders.cascade);
        if answer(&mut socket, &result).is_none() {
            return EXIT_CLOSED;
        }
    }
}

fn orders(socket: &mut File) -> Option<Orders> {
    let mut prefix = [0; 4];
    socket.read_exact(&mut prefix).ok()?;
    let length = u32::from_le_bytes(prefix);
    if length > ORDERS_BYTES_MAX {
        return None;
    }
    let mut bytes = Vec::new();
    socket.take(u64::from(length)).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn answer(socket: &mut File, answer: &impl serde::Serialize) -> Option<()> {
    let mut bytes = length_prefix(0).to_vec();
    serde_json::to_writer(&mut bytes, answer).ok()?;
    let prefix = length_prefix(bytes.len().checked_sub(4)?);
    bytes.get_mut(..4)?.copy_from_slice(&prefix);
    socket.write_all(&bytes).ok()
}

/// What a subverted process would try; each ends it, but for the one that merely talks too much.
fn misbehave(command: u8, socket: &mut File) {
    let probe = command.checked_sub(COMMAND_PROBE).and_then(|index| Probe::ALL.get(usize::from(index)));
    let outlived = match probe {
        Some(Probe::Crash) => std::process::abort(),
        Some(Probe::Hang) => loop {
            std::hint::spin_loop();
        },
        Some(Probe::Allocate) => vec![1_u8; 64 << 30].len() > 1,
        Some(Probe::Open) => File::open("/").is_ok(),
        Some(Probe::Connect) => std::net::UdpSocket::bind("127.0.0.1:0").is_ok(),
        Some(Probe::Execute) => std::process::Command::new("/bin/true").status().is_ok(),
        Some(Probe::Flood) => socket.write_all(&length_prefix(ANSWER_BYTES_MAX + 1)).is_ok(),
        None => false,
    };
    // Whoever sees this answer to a probe knows that the confinement leaks.
    if probe != Some(&Probe::Flood) {
        let leaked: Result<Decoded, DecodeError> = Err(DecodeError::Panicked);
        let _ = (outlived, answer(socket, &leaked));
    }
}
