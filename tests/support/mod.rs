//! What the end-to-end tests share: a gateway as a child process, a blocking HTTP/1.1 client over a raw
//! socket, the specimens, and the export as a set of rows. Standard library and serde_json only, so that
//! nothing the gateway is built from also judges it.

// Every test binary compiles all of this and uses a part.
#![allow(dead_code)]

pub mod codes;
pub mod cql;
pub mod export;
pub mod gateway;
pub mod http;
pub mod keep;
pub mod ports;

/// Runs a test once per runtime, each as a test of its own, so that a failure names the runtime.
#[macro_export]
macro_rules! on_both_runtimes {
    ($($name:ident),* $(,)?) => {
        mod uring { $(#[test] fn $name() { if $crate::support::io_uring_allowed() { super::$name("uring"); } })* }
        mod epoll { $(#[test] fn $name() { super::$name("epoll"); })* }
    };
}

/// Whether this kernel and sandbox let a process make a ring. Where they don't, the ring's tests pass empty
/// (and say so): the gateway falls back to epoll there, which its other half tests.
pub fn io_uring_allowed() -> bool {
    // SAFETY: io_uring_setup reads and writes the 120-byte params struct it is given, and nothing else; the
    // returned descriptor is owned here and closed at once.
    let ring = unsafe {
        let mut params = [0_u8; 120];
        let ring = libc::syscall(libc::SYS_io_uring_setup, 2, params.as_mut_ptr());
        if ring >= 0 {
            libc::close(i32::try_from(ring).expect("a descriptor fits an i32"));
        }
        ring
    };
    if ring < 0 {
        eprintln!("io_uring is denied here: skipped");
    }
    ring >= 0
}
