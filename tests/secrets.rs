//! What a running gateway keeps of its secrets: the text of no private key and not the pepper, neither as its file
//! writes it nor as bytes, and no core dump. Looked for in the process's own memory, heap and stacks.
//!
//! What this doesn't prove: that keys in use, which are kept in the libraries' own forms, can't be had by whoever may
//! read the memory of the process. They must be there to be used.
#![allow(missing_docs, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use support::codes::CCCD;
use support::gateway::Site;

/// Every secret under a data directory: the pepper and the private parts of keys, as text and as bytes.
fn secrets(data_dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut add = |name: String, value: &Value| {
        if let Some(text) = value.as_str() {
            found.insert(format!("{name}, text"), text.as_bytes().to_vec());
            found.insert(format!("{name}, bytes"), URL_SAFE_NO_PAD.decode(text).expect("base64url"));
        }
    };
    let json =
        |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON") };
    add("the pepper".to_owned(), &json(&data_dir.join("keys/pepper"))["pepper"]);
    for directory in ["sg1", "devices"] {
        for entry in fs::read_dir(data_dir.join("keys").join(directory)).expect("keys") {
            let path = entry.expect("an entry").path();
            add(format!("{directory} key"), &json(&path)["d"]);
        }
    }
    found
}

/// The writable mappings of a process; none where this user may not look into it.
fn memory(pid: u32) -> Option<Vec<Vec<u8>>> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let maps = match fs::read_to_string(proc.join("maps")) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return None,
        maps => maps.expect("the process is there"),
    };
    let mut memory = File::open(proc.join("mem")).expect("its memory");
    let mut read = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        let (start, end) = (address(start)?, address(end)?);
        rest.starts_with("rw").then_some(())?;
        memory.seek(SeekFrom::Start(start)).ok()?;
        let mut bytes = Vec::new();
        // Mappings of devices can't be read, and rings aren't where keys are.
        (&memory).take(end - start).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    };
    Some(maps.lines().filter_map(&mut read).collect())
}

#[test]
fn a_gateway_that_serves_holds_no_text_of_a_secret() {
    let gateway = Site::new().start();
    let token = gateway.site.place_device("gate");
    let scan = serde_json::json!({"id": "scan-1", "qr": CCCD});
    assert_eq!(gateway.connect().scan(&token, &scan).status, 201);
    let Some(memory) = memory(gateway.pid()) else {
        // Not root: then the kernel refuses, which is what was asked of it.
        return;
    };
    let holds = |piece: &[u8]| memory.iter().any(|bytes| memchr::memmem::find(bytes, piece).is_some());
    let bytes: usize = memory.iter().map(Vec::len).sum();
    assert!(
        bytes > 1 << 20 && holds(gateway.site.data.as_os_str().as_encoded_bytes()),
        "the memory was read"
    );
    let secrets = secrets(&gateway.site.data);
    assert!(secrets.len() >= 6, "{:?}", secrets.keys());
    let held: Vec<&String> =
        secrets.iter().filter(|(_, secret)| holds(secret)).map(|(name, _)| name).collect();
    assert!(held.is_empty(), "in memory: {held:?}");
}

#[test]
fn a_crash_leaves_no_core() {
    use std::os::unix::process::ExitStatusExt as _;
    let mut gateway = Site::new().start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).expect("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("the limit");
    let values: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
    assert_eq!(values, ["0", "0"], "{core}");
    gateway.signal(libc::SIGABRT);
    let status = gateway.wait(Duration::from_secs(20));
    assert_eq!((status.signal(), status.core_dumped()), (Some(libc::SIGABRT), false));
}
