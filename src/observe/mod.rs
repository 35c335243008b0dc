//! What the gateway says about itself: metrics, statistics, health and log lines. None of it holds
//! anything from a request but its size, its time and how it ended.

pub mod health;
pub mod histogram;
pub mod log;
pub mod metrics;
pub mod names;
pub mod notify;
pub mod process;
mod render;
pub mod sampled;
pub mod stats;

pub use health::Health;
pub use metrics::{AuthFailure, Cache, CoreMetrics, Endpoint, Metrics, TimeoutKind};
pub use sampled::Sampled;
