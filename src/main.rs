//! The `scangate` binary.
fn main() {
    // First of all: the gateway re-executes itself as the process that reads frames.
    scangate::decode::sandbox::worker_main();
}
