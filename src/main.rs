//! The `scangate` binary.
fn main() {}
