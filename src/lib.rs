//! scangate: a national-scale QR check-in gateway.
//!
//! # Path of a scan through the gateway
//!
//! A device posts a payload, or a camera frame in which [`decode`] finds payloads. [`listen`] reads the
//! request on the core that accepted the connection; [`authenticate`] turns its bearer token into a
//! device; [`payload`] says what the code is; [`verify`] checks its signature and validity, on the
//! bounded [`workers`] when the token was never seen; [`identity`] turns every personal form into one
//! pseudonym; [`deduplicate`] admits it or names the original it repeats; [`journal`] writes and fsyncs
//! it together with whatever else is waiting; [`respond`] answers. **The client is answered only then,
//! and a 2xx promises that the check-in is on disk and will reach the store exactly once.** [`store`]
//! drains the journal behind the answer, and [`observe`] watches every stage. [`gateway`] wires the
//! stages together.

pub mod scan;
pub mod listen;
pub mod authenticate;
pub mod request;
pub mod workers;
pub mod decode;
pub mod payload;
pub mod verify;
pub mod identity;
pub mod issue;
pub mod deduplicate;
pub mod journal;
pub mod respond;
pub mod openapi;
pub mod store;
pub mod audit;
pub mod observe;
pub mod pages;
pub mod services;
pub mod gateway;
pub mod config;
pub mod cli;
