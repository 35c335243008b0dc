#![no_main]

#[path = "../entry.rs"]
#[allow(dead_code, reason = "each target has its function")]
mod entry;

// The fuzzer ends at any panic, a contained one too; the cascade contains those of its stages.
libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| {})),
    |data: &[u8]| entry::cascade(data)
);
