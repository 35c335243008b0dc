//! A panic is one log line that names its place and never what it choked on.

use std::process::Command;

use scangate::config::{Log, LogFormat};

const CHILD: &str = "OBSERVE_PANIC_CHILD";

#[test]
fn a_panic_is_logged_without_its_message() {
    if let Some(format) = std::env::var_os(CHILD) {
        let format = if format == "json" { LogFormat::Json } else { LogFormat::Text };
        scangate::observe::log::start(&Log { format, ..Log::default() });
        let joined =
            std::thread::Builder::new().name("worker".to_owned()).spawn(|| panic!("000201-a-payload"));
        assert!(joined.expect("spawned").join().is_err());
        return;
    }
    for format in ["json", "text"] {
        // The harness captures what a test prints, so a child with --nocapture stands in for the gateway.
        let child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "a_panic_is_logged_without_its_message", "--nocapture"])
            .env(CHILD, format)
            .output()
            .expect("runs");
        let log = String::from_utf8(child.stderr).expect("UTF-8");
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("a thread panicked")).collect();
        assert_eq!(lines.len(), 1, "{log}");
        let line = lines.first().expect("one");
        assert!(line.contains("tests/observe_panic.rs") && line.contains("worker"), "{line}");
        assert!(!log.contains("payload"), "{log}");
        if format == "json" {
            let parsed: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
            assert_eq!(parsed["level"], "ERROR");
            assert_eq!(parsed["message"], "a thread panicked");
        }
    }
}
