//! What the guards on instructions and allocations refuse, apart from any measurement. That a real
//! regression is measured and refused is seen by `.ci/guard/run --self-test`.
#![allow(dead_code)] // The tables are the bench's.

#[path = "../benches/guard/budget.rs"]
mod budget;

use budget::{Budget, Costs, Row, Standing};

fn costs(costs: &[(&str, f64)]) -> Costs {
    costs.iter().map(|(stage, cost)| ((*stage).to_owned(), *cost)).collect()
}

fn standing(rows: &[Row]) -> Vec<Standing> {
    rows.iter().map(|row| row.standing).collect()
}

#[test]
fn three_percent_more_instructions_are_refused_and_three_less_are_told() {
    let budget = costs(&[("a", 1000.0)]);
    for (now, expected) in [
        (1030.0, Standing::Over),
        (1029.9, Standing::Kept),
        (1000.0, Standing::Kept),
        (970.1, Standing::Kept),
        (970.0, Standing::Better),
    ] {
        let rows = budget::compare_instructions(&budget, &costs(&[("a", now)]));
        assert_eq!(standing(&rows), [expected], "{now}");
        assert_eq!(rows[0].standing.is_refused(), expected == Standing::Over, "{now}");
    }
}

#[test]
fn one_more_allocation_is_refused_however_many_there_are() {
    let budget = costs(&[("few", 1.0), ("many", 1000.0), ("same", 20.0)]);
    let now = costs(&[("few", 2.0), ("many", 1001.0), ("same", 20.02)]);
    let rows = budget::compare_allocations(&budget, &now);
    assert_eq!(standing(&rows), [Standing::Over, Standing::Over, Standing::Kept]);
}

#[test]
fn a_stage_without_a_budget_or_a_measurement_is_refused() {
    let rows = budget::compare_instructions(&costs(&[("gone", 1.0)]), &costs(&[("new", 1.0)]));
    assert_eq!(standing(&rows), [Standing::Unmeasured, Standing::Unbudgeted]);
    assert!(rows.iter().all(|row| row.standing.is_refused()));
}

#[test]
fn the_table_names_stage_budget_count_and_ratio() {
    let rows = budget::compare_instructions(&costs(&[("parse", 200.0)]), &costs(&[("parse", 210.0)]));
    let table = budget::table("instructions", &rows);
    let line = table.lines().nth(1).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words, ["parse", "200.0", "210.0", "1.050", "OVER", "BUDGET"]);
}

#[test]
fn the_stored_budget_is_readable_and_names_every_kind_of_stage() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/guard/budget.json");
    let budget: Budget = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for prefix in
        ["authenticate", "request", "payload", "verify", "identity", "deduplicate", "journal", "respond"]
    {
        assert!(budget.instructions.keys().any(|stage| stage.starts_with(prefix)), "{prefix}");
    }
    for runtime in ["epoll", "uring"] {
        assert!(budget.allocations.keys().any(|stage| stage.contains(runtime)), "{runtime}");
    }
}
