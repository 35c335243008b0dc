//! The binary's exit codes and streams: 0 done, 1 failed, 2 wrong usage or configuration.

use std::process::{Command, Output};

/// Runs the binary with no setting inherited from the environment.
fn scangate(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let inherited = std::env::vars_os().map(|(name, _)| name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_scangate"));
    for name in inherited.filter(|name| name.to_string_lossy().starts_with("SCANGATE_")) {
        command.env_remove(name);
    }
    command.args(arguments).envs(variables.iter().copied()).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn check_config_reports_every_mistake_and_exits_2() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("s.toml");
    std::fs::write(&file, "[limits]\nbatch_lines_max = 0\n[nowhere]\n").expect("written");
    let file = file.to_str().expect("UTF-8");
    let variables = [("SCANGATE_DEDUPLICATE__WINDOW_S", "long")];
    for arguments in [["check-config", file].as_slice(), &["serve", "--config", file]] {
        let output = scangate(arguments, &variables);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
        assert_eq!(
            text(&output.stderr).replace(file, "F"),
            "F:2:19: limits.batch_lines_max: must be a whole number in 1..=100000; got 0\n\
             F:3:2: nowhere: unknown section\n\
             SCANGATE_DEDUPLICATE__WINDOW_S: deduplicate.window_s: must be a whole number in 0..=65535; got \"long\"\n"
        );
    }
}

#[test]
fn check_config_accepts_the_shipped_file() {
    let output =
        scangate(&["check-config", concat!(env!("CARGO_MANIFEST_DIR"), "/config/scangate.toml")], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).ends_with("all at their defaults\n"), "{}", text(&output.stdout));
}

#[test]
fn wrong_usage_exits_2_and_help_0() {
    assert_eq!(scangate(&[], &[]).status.code(), Some(2));
    assert_eq!(scangate(&["serve", "--listen", "nowhere"], &[]).status.code(), Some(2));
    let help = scangate(&["--help"], &[]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("scangate serve"));
    let version = scangate(&["--version"], &[]);
    assert_eq!(text(&version.stdout), format!("scangate {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn documents_go_to_standard_output() {
    let openapi = scangate(&["openapi"], &[]);
    let document: serde_json::Value = serde_json::from_slice(&openapi.stdout).expect("JSON");
    assert_eq!(document["openapi"], "3.1.0");
    for shell in ["bash", "zsh", "fish"] {
        let completions = scangate(&["completions", shell], &[]);
        assert_eq!(completions.status.code(), Some(0));
        assert!(text(&completions.stdout).contains("check-config"));
    }
}
