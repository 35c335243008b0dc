//! CertLogic suites: each assertion of each suite in `tests/data/certlogic`, and of whatever else is named.
//!
//! `SCANGATE_CERTLOGIC_SUITES` names more directories, separated by colons: suites of the specification's own form
//! (`certlogic/specification/testSuite` of ehn-dcc-development/eu-dcc-business-rules), and repositories of rules with
//! their tests (eu-digital-green-certificates/dgc-business-rules-testdata). `.ci/certlogic` runs them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use scangate::scan::UnixMillis;
use scangate::services::card::certlogic::{Evaluation, Expression};
use serde_json::Value;

#[derive(Debug, Default)]
struct Counts {
    suites: usize,
    assertions: usize,
    rules: usize,
    rule_tests: usize,
    skipped: Vec<String>,
    failed: Vec<String>,
}

fn json_files(directory: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            json_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            found.push(path);
        }
    }
}

fn evaluated(logic: &Value, data: &Value) -> Result<Value, String> {
    let expression = Expression::read(logic).map_err(|error| format!("{} at {:?}", error.why, error.at))?;
    let clock = data["external"]["validationClock"].as_str().and_then(|text| UnixMillis::parse(text).ok());
    let mut evaluation = Evaluation::on(data, clock.map_or(0, |at| at.0));
    Ok(evaluation.evaluate(&expression).map_err(|error| error.to_string())?.to_json())
}

fn run_suite(name: &str, suite: &Value, counts: &mut Counts) {
    counts.suites += 1;
    for case in suite["cases"].as_array().unwrap() {
        for (index, assertion) in case["assertions"].as_array().unwrap().iter().enumerate() {
            counts.assertions += 1;
            let place = format!("{name}: {}: {}", case["name"].as_str().unwrap(), index + 1);
            let is_skipped = |part: &Value| part["directive"] == "skip";
            if [suite, case, assertion].into_iter().any(is_skipped) {
                counts.skipped.push(format!("{place}: the suite says skip"));
                continue;
            }
            let own = assertion.get("certLogicExpression");
            let logic = own.or_else(|| case.get("certLogicExpression")).unwrap();
            let got = evaluated(logic, &assertion["data"]);
            let is_right = match (&got, &assertion["expected"]) {
                // Own suites only: what has no value.
                (Err(_), Value::Object(expected)) if expected.contains_key("fails") => true,
                (Ok(got), expected) => got == expected,
                (Err(_), _) => false,
            };
            if !is_right {
                counts.failed.push(format!("{place}: {got:?} instead of {}", assertion["expected"]));
            }
        }
    }
}

/// Expressions that are none, as the specification's suites for validators have them.
fn run_validation(name: &str, suite: &Value, counts: &mut Counts) {
    counts.suites += 1;
    for (index, case) in suite["cases"].as_array().unwrap().iter().enumerate() {
        counts.assertions += 1;
        let is_refused = Expression::read(&case["certLogicExpression"]).is_err();
        if is_refused == case["issues"].as_array().unwrap().is_empty() {
            counts.failed.push(format!("{name}: {}: refused: {is_refused}", index + 1));
        }
    }
}

fn run_rule(file: &Path, rule: &Value, counts: &mut Counts) {
    counts.rules += 1;
    let mut tests = Vec::new();
    let directory = file.parent().unwrap().join("tests");
    if directory.is_dir() {
        json_files(&directory, &mut tests);
    }
    for file in tests {
        counts.rule_tests += 1;
        let test: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let got = evaluated(&rule["Logic"], &test);
        if got.as_ref() != Ok(&test["expected"]) {
            counts.failed.push(format!("{}: {got:?} instead of {}", file.display(), test["expected"]));
        }
    }
}

fn run(directory: &Path) -> Counts {
    let mut counts = Counts::default();
    let mut files = Vec::new();
    json_files(directory, &mut files);
    for file in files {
        let Ok(json) = serde_json::from_slice::<Value>(&fs::read(&file).unwrap()) else { continue };
        let name = file.strip_prefix(directory).unwrap().display().to_string();
        if json.get("Logic").is_some() {
            run_rule(&file, &json, &mut counts);
        } else if json["cases"][0].get("issues").is_some() {
            run_validation(&name, &json, &mut counts);
        } else if json.get("cases").is_some() {
            run_suite(&name, &json, &mut counts);
        }
    }
    counts
}

#[test]
fn every_assertion_of_every_suite_holds() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/certlogic");
    let named = std::env::var("SCANGATE_CERTLOGIC_SUITES").unwrap_or_default();
    let named = named.split(':').filter(|name| !name.is_empty()).map(PathBuf::from);
    for directory in std::iter::once(own).chain(named) {
        let counts = run(&directory);
        for skipped in &counts.skipped {
            eprintln!("skipped: {skipped}");
        }
        eprintln!(
            "certlogic: {}: {} suites, {} assertions, {} rules with {} tests, {} skipped, {} failed",
            directory.display(),
            counts.suites,
            counts.assertions,
            counts.rules,
            counts.rule_tests,
            counts.skipped.len(),
            counts.failed.len(),
        );
        assert!(counts.failed.is_empty(), "\n{}", counts.failed.join("\n"));
        assert!(counts.assertions + counts.rule_tests > 0, "{} has none", directory.display());
    }
}
