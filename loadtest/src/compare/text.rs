//! What a comparison came to, as text and as a page.

use std::fmt::Write as _;

use super::{Figure, Report};
use crate::plot::{self, CLASSES, Line};

/// The page: bars of CPU and rate, curves of latency.
pub fn page(report: &Report, text: &str) -> String {
    let mut charts = String::new();
    let parts = ["up to the answer", "behind it"];
    let cpu = |figures: &[Figure]| -> Vec<(String, [f64; 2])> {
        figures.iter().map(|figure| (figure.server.clone(), [figure.answer_us, figure.drain_us])).collect()
    };
    let rate = |figures: &[Figure]| -> Vec<(String, [f64; 2])> {
        figures.iter().map(|figure| (figure.server.clone(), [figure.rate_per_s, 0.0])).collect()
    };
    for (title, figures) in [
        ("single POST of a known code", &report.single),
        ("line of a batch of known codes", &report.batch),
        ("never-seen code in batches", &report.never_seen_batch),
        ("never-seen code as a single POST", &report.never_seen_single),
    ] {
        if !figures.is_empty() {
            charts += &plot::bars(&format!("CPU, µs a {title}"), parts, &cpu(figures));
            charts += &plot::bars(
                &format!("Rate on one core, closed loop, a second: {title}"),
                ["a second", ""],
                &rate(figures),
            );
        }
    }
    if let Some(first) = report.open.first() {
        let lines: Vec<Line<'_>> = report
            .open
            .iter()
            .zip(CLASSES)
            .map(|(open, class)| Line {
                name: &open.server,
                class,
                points: plot::by_quantile(&open.latency.curve),
            })
            .collect();
        let title = format!("Latency by percentile at {} single POSTs a second, ms", first.offered_per_s);
        charts += &plot::chart(&title, &lines, &plot::QUANTILE_TICKS, &[]);
    }
    if !report.idle.is_empty() {
        let rows: Vec<(String, [f64; 2])> =
            report.idle.iter().map(|idle| (idle.server.clone(), [idle.bytes_each, 0.0])).collect();
        charts += &plot::bars("Memory of an idle connection, bytes", ["bytes", ""], &rows);
    }
    let facts = serde_json::json!({
        "command": report.command, "machine": report.machine, "settings": report.settings,
        "nginx": report.nginx, "benthos": report.benthos,
    });
    plot::document("Servers compared in one run", text, &charts, &facts)
}

/// What the terminal gets.
pub fn table(report: &Report) -> String {
    let mut out = String::new();
    let machine = &report.machine;
    let _ = writeln!(
        out,
        "{}\n{}, {} cores, {} MiB, Linux {}; {}",
        report.command,
        machine.cpu,
        machine.cores,
        machine.memory_mib,
        machine.kernel,
        [&report.nginx, &report.benthos].into_iter().flatten().cloned().collect::<Vec<_>>().join(", ")
    );
    for (title, figures) in [
        ("single POST of a cached SG1 token, recorded and durable", &report.single),
        ("batch of cached SG1 tokens, recorded and durable", &report.batch),
        ("never-seen SG1 tokens in batches", &report.never_seen_batch),
        ("never-seen SG1 tokens in singles", &report.never_seen_single),
    ] {
        if figures.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n{title}");
        for figure in figures {
            let _ = writeln!(
                out,
                "  {:<10} {:>8.2} µs CPU a {} ({:.2} up to the answer, {:.2} store drain)  {:>9.0}/s  p50 {} µs  p99 {} µs  of {}{}",
                figure.server,
                figure.cpu.total_us,
                figure.unit,
                figure.answer_us,
                figure.drain_us,
                figure.rate_per_s,
                figure.p50_us,
                figure.p99_us,
                figure.count,
                if figure.shed > 0 { format!("  shed {}", figure.shed) } else { String::new() },
            );
            let threads: Vec<String> =
                figure.cpu.by_thread_us.iter().map(|(name, us)| format!("{name} {us:.2}")).collect();
            let _ = writeln!(out, "         by thread: {}", threads.join(", "));
        }
    }
    for open in &report.open {
        if open.server == report.open.first().map_or("", |first| &first.server) {
            let _ =
                writeln!(out, "\nlatency of single POSTs at {} a second, open loop, ms", open.offered_per_s);
        }
        let latency = &open.latency;
        let _ = writeln!(
            out,
            "  {:<10} {:>6.0}/s answered  p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2}",
            open.server,
            open.answered_per_s,
            latency.p50_ms,
            latency.p90_ms,
            latency.p99_ms,
            latency.p999_ms,
            latency.max_ms
        );
    }
    if let Some(verify) = &report.verify_only {
        let _ = writeln!(
            out,
            "\nverify only: Ed25519 {:.1} µs, whole SG1 token {:.1} µs, one of 64 together {:.1} µs",
            verify.ed25519_us, verify.sg1_us, verify.sg1_together_us
        );
    }
    if !report.idle.is_empty() {
        let _ = writeln!(out, "\nidle keep-alive connections after one request");
        for idle in &report.idle {
            let _ = writeln!(
                out,
                "  {:<10} {:>8.0} bytes of RSS a connection ({} connections)",
                idle.server, idle.bytes_each, idle.connections
            );
        }
    }
    if let Some(cql) = &report.cql {
        out += &cql.table();
    }
    if !report.ratios.is_empty() {
        let _ = writeln!(out, "\nratios");
        for (name, ratio) in &report.ratios {
            let _ = writeln!(out, "  {ratio:>6.2}  {name}");
        }
    }
    out
}
