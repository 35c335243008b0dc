#![no_main]

#[path = "../entry.rs"]
#[allow(dead_code, reason = "each target has its function")]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::revocation_line(data));
