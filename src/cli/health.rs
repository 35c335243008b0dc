//! `health`: asks a running gateway whether scans should be sent to it, for health checks of images that hold
//! nothing but this program.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;

use super::print;
use crate::config::{self, Config, Overrides};

/// A readiness of every reason is a tenth of this.
const ANSWER_BYTES_MAX: u64 = 4096;

/// `health`
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Asks /readyz of listen.addr or, where that speaks TLS, of listen.admin.\nExit code 0 if scans should be sent, 1 if not.\n\nExample:\n  scangate health --address 127.0.0.1:8080"
)]
pub struct Health {
    /// Configuration file of the gateway that is asked.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Asks here, over plain HTTP, and not where the configuration says.
    #[arg(long, value_name = "ADDR:PORT")]
    address: Option<SocketAddr>,
    /// How long everything may take.
    #[arg(long, value_name = "MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
}

pub(super) fn run(health: &Health) -> anyhow::Result<ExitCode> {
    let address = if let Some(address) = health.address {
        address
    } else {
        asked(&config::load(health.config.as_deref(), std::env::vars_os(), &Overrides::default())?.config)
    };
    let until = Instant::now() + Duration::from_millis(health.timeout_ms);
    let answer = ask(address, until).with_context(|| format!("no answer from {address}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    print(body)?;
    match status {
        "200" => Ok(ExitCode::SUCCESS),
        "503" => Ok(ExitCode::FAILURE),
        _ => bail!("{address} answers as no gateway does"),
    }
}

/// Where a gateway of this configuration can be asked from its own machine.
fn asked(config: &Config) -> SocketAddr {
    let listen = &config.listen;
    let mut address = if config.tls.certificate_file.is_some() { listen.admin } else { listen.addr };
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// The whole answer. A gateway that closes its connections early, or drips, is none.
fn ask(address: SocketAddr, until: Instant) -> io::Result<String> {
    let left = || {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut piece = [0; 512];
    loop {
        stream.set_read_timeout(Some(left()?))?;
        let length = stream.read(&mut piece)?;
        let read = piece.get(..length).unwrap_or_default();
        if read.is_empty() {
            break;
        }
        answer.extend_from_slice(read);
        if answer.len() as u64 > ANSWER_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    String::from_utf8(answer).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn asks_loopback_and_the_listener_that_speaks_plain_http() {
        let mut config = Config::default();
        config.listen.addr = "0.0.0.0:8080".parse().unwrap();
        config.listen.admin = "[::]:9090".parse().unwrap();
        assert_eq!(asked(&config), "127.0.0.1:8080".parse().unwrap());
        config.tls.certificate_file = Some(PathBuf::from("c.pem"));
        assert_eq!(asked(&config), "[::1]:9090".parse().unwrap());
    }

    /// A listener that answers with these bytes and keeps the connection open.
    fn answering(bytes: Vec<u8>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(&bytes);
            let _ = stream.read(&mut [0; 1]);
            // Held until the asker goes away.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        address
    }

    #[test]
    fn an_answer_is_bounded_in_time_and_size() {
        let soon = || Instant::now() + Duration::from_millis(200);
        let never = ask(answering(Vec::new()), soon()).unwrap_err();
        assert!(matches!(never.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{never}");
        let later = Instant::now() + Duration::from_secs(20);
        let endless = ask(answering(vec![b'x'; 1 << 16]), later).unwrap_err();
        assert_eq!(endless.kind(), io::ErrorKind::InvalidData);
    }
}
