//! Keeps what a gateway under test leaves behind, where `SCANGATE_KEEP_LOGS` names a directory: its log, its metrics
//! and every file it wrote but keys. `.ci/privacy` searches all of it for the specimens that the tests sent.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where things are kept, made if need be; none where nobody asks for it.
fn place(data_dir: &Path) -> Option<PathBuf> {
    let root = PathBuf::from(std::env::var_os("SCANGATE_KEEP_LOGS")?);
    let site = data_dir.parent()?.file_name()?.to_string_lossy().trim_start_matches('.').to_owned();
    let place = root.join(format!("{site}-{}", data_dir.file_name()?.to_string_lossy()));
    fs::create_dir_all(&place).ok()?;
    Some(place)
}

/// To be called while the gateway answers: keeps its metrics and statistics. One that doesn't answer, since a test
/// has killed it, has none.
pub fn answers(data_dir: &Path, admin: SocketAddr) {
    let Some(place) = place(data_dir) else { return };
    for (path, name) in [("/metrics", "metrics"), ("/v1/stats", "stats")] {
        if let Ok(answer) = get(admin, path) {
            let _ = fs::write(place.join(format!("{name}.{}", admin.port())), answer);
        }
    }
}

/// To be called when the gateway has ended: keeps its log and its files. A file kept before is replaced.
pub fn files(data_dir: &Path, log: Option<&Path>) {
    let Some(place) = place(data_dir) else { return };
    if let Some(text) = log.and_then(|log| fs::read(log).ok()) {
        let _ = fs::write(place.join("log"), without_greeting(&text));
    }
    // What can't be kept, as files that a compaction takes away under the copy, isn't worth a test's failure.
    let _ = copy(data_dir, &place.join("data"));
}

/// The greeting that `serve` prints holds the specimen of the card's own document, ready to paste, and in a
/// demonstration the token of a specimen's phone; it isn't log.
fn without_greeting(text: &[u8]) -> Vec<u8> {
    let is_example =
        |line: &&[u8]| line.starts_with(b"  -d '{\"id\":\"scan-1\",") || line.starts_with(b"export PHONE=");
    text.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_example(line)).flatten().copied().collect()
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "keys" {
                copy(&entry.path(), &target)?;
            }
            continue;
        }
        let mut bytes = Vec::new();
        if File::open(entry.path()).and_then(|mut file| file.read_to_end(&mut bytes)).is_ok() {
            // Preallocated space.
            bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
            fs::write(target, bytes)?;
        }
    }
    Ok(())
}

fn get(from: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let timeout = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&from, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}
