//! Lists and files of revocations.

use scangate::scan::UnixMillis;
use scangate::verify::revocations::{bulk, lines};

/// A list's line: refused, or a revocation that is written and read back as the same.
pub fn line(data: &[u8]) {
    let Some((revocation, _)) = lines::read_line(data) else {
        return;
    };
    let written = lines::write_line(&revocation, UnixMillis(0));
    assert!(lines::read_line(written.trim_ascii_end()).is_some_and(|(again, _)| again == revocation));
    assert!(revocation.key().is_some() || revocation.kind() == "kid");
}

/// A set's file, with a checksum that holds, so that what lies behind it is reached: refused, or read whole.
pub fn set(data: &[u8]) {
    let path = std::env::temp_dir().join(format!("scangate-fuzz-{}.set", std::process::id()));
    let sealed = [data, bulk::set_checksum(data).as_slice()].concat();
    std::fs::write(&path, sealed).expect("a writable temporary directory");
    if let Ok(records) = bulk::check_set(&path) {
        assert!(records > 0 && records * 24 < data.len() as u64);
    }
    // The next input writes it again.
    let _ = std::fs::remove_file(&path);
}
