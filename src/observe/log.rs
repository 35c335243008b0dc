//! Log lines on standard error, and what is said when a thread panics.

use std::io::{self, IsTerminal as _};
use std::panic;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Level, Log, LogFormat};

/// Starts logging, and from then on reports a panic as one log line with its place. The panic's message is
/// left out: it may quote what it choked on, and a payload must never reach the log. Called once, by `main`;
/// a second call changes nothing.
pub fn start(settings: &Log) {
    let registry = tracing_subscriber::registry().with(filter(settings.level));
    let lines =
        tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    // Fails only where logging was started before, as by another test.
    let _ = match settings.format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        LogFormat::Text => registry.with(lines).try_init(),
    };
    panic::set_hook(Box::new(|panic| {
        let location = panic.location();
        tracing::error!(
            file = location.map_or("unknown", panic::Location::file),
            line = location.map_or(0, panic::Location::line),
            thread = std::thread::current().name().unwrap_or("unnamed"),
            "a thread panicked"
        );
    }));
}

/// The level is the gateway's own. Libraries speak at "warn" at most, or the chatter of the database
/// driver and of HTTP/2 would drown it, except at "trace", which is asked for to see just that.
fn filter(level: Level) -> Targets {
    let own = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let others = if level == Level::Trace { own } else { own.min(LevelFilter::WARN) };
    Targets::new().with_default(others).with_target("scangate", own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quieter_than_the_gateway() {
        let targets = filter(Level::Debug);
        assert!(targets.would_enable("scangate::journal", &tracing::Level::DEBUG));
        assert!(!targets.would_enable("scylla", &tracing::Level::INFO));
        assert!(targets.would_enable("scylla", &tracing::Level::WARN));
        assert!(!filter(Level::Error).would_enable("scylla", &tracing::Level::WARN));
        assert!(filter(Level::Trace).would_enable("scylla", &tracing::Level::TRACE));
    }
}
