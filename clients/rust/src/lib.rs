//! Sends scans to a scangate gateway.
//!
//! [`Client`] asks once and says what the gateway answered. [`Outbox`] is for devices that must not lose a scan:
//! it keeps each one in a file until the gateway has answered it for good, and sends what waits in batches, with the
//! ids and times it was scanned under, so that sending twice records once.
//!
//! Nothing here logs, and no error shows a code: they name persons.

mod types;
mod client;
mod queue;
mod outbox;

pub use client::{Client, ClientBuilder, Error};
pub use outbox::{Flushed, Outbox, Refused};
pub use queue::{Queue, QueueError};
pub use types::{Answer, Direction, Duplicate, Original, Reason, Recorded, Refusal, Scan};

/// The example in README.md compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
