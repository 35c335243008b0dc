//! Pages with charts as inline SVG, no script, no outside file; and the page of a scenario.

use std::fmt::Write as _;

use crate::record::Second;
use crate::report::Report;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 28.0;

/// Classes of the style sheet, for lines in turn.
pub const CLASSES: [&str; 6] = ["a", "b", "c", "d", "f", "h"];

/// One line of a chart.
pub struct Line<'a> {
    /// What it shows.
    pub name: &'a str,
    /// A class of the style sheet.
    pub class: &'a str,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// Percentiles at equal distances: 90 %, 99 %, 99.9 % …
pub const QUANTILE_TICKS: [(f64, &str); 5] =
    [(0.0, "0"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %"), (4.0, "99.99 %")];

/// Latency's curve on the scale of [`QUANTILE_TICKS`].
pub fn by_quantile(curve: &[(f64, f64)]) -> Vec<(f64, f64)> {
    curve.iter().map(|(quantile, ms)| (-(1.0 - quantile.min(0.99999)).log10(), *ms)).collect()
}

/// The whole page.
pub fn page(report: &Report) -> String {
    let seconds = |value: fn(&Second) -> f64| -> Vec<(f64, f64)> {
        report.seconds.iter().zip(0_u32..).map(|(second, at)| (f64::from(at), value(second))).collect()
    };
    let curve = by_quantile(&report.latency.curve);
    let charts = [
        chart(
            "Latency by percentile, ms",
            &[Line { name: "latency", class: "a", points: curve }],
            &QUANTILE_TICKS,
            &[],
        ),
        over_time(
            "Requests a second",
            &[
                Line { name: "answered", class: "a", points: seconds(|second| count(second.answered)) },
                Line { name: "shed", class: "b", points: seconds(|second| count(second.shed)) },
                Line { name: "failed", class: "c", points: seconds(|second| count(second.failed)) },
            ],
            report,
        ),
        over_time(
            "Latency over time, ms",
            &[
                Line { name: "p50", class: "a", points: seconds(|second| second.p50_ms) },
                Line { name: "p99", class: "b", points: seconds(|second| second.p99_ms) },
                Line { name: "slowest", class: "c", points: seconds(|second| second.max_ms) },
            ],
            report,
        ),
        over_time(
            "Gateway's memory, MiB",
            &[Line { name: "resident", class: "a", points: seconds(|second| second.resident_mib) }],
            report,
        ),
    ];
    let verdict = if report.passed() { "passed" } else { "failed" };
    let facts = serde_json::json!({
        "command": report.command, "machine": report.machine, "settings": report.settings, "plan": report.plan,
        "audit": report.audit, "outcomes": report.outcomes, "notes": report.notes, "checks": report.checks,
    });
    document(&format!("{}: {verdict}", report.scenario), &report.summary(), &charts.concat(), &facts)
}

/// A whole page: a title, the text that the terminal gets, charts, and the facts behind them.
pub fn document(title: &str, summary: &str, charts: &str, facts: &serde_json::Value) -> String {
    let facts = escape(&serde_json::to_string_pretty(facts).unwrap_or_default());
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>scangate {name}</title><style>{STYLE}</style>\
         <h1>{name}</h1><pre>{summary}</pre>{charts}<h2>Command, machine, settings</h2>\
         <pre>{facts}</pre></html>\n",
        name = escape(title),
        summary = escape(summary),
    )
}

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;\
color:#1b1f24;background:#fff}h1{font-size:1.5em}h2{font-size:1.05em;margin:1.6em 0 .3em}\
pre{background:#f4f5f7;padding:.8em;overflow:auto;font-size:13px}svg{width:100%;height:auto}\
svg text{font:11px system-ui,sans-serif;fill:#59636e}.g{stroke:#e2e5e9}.e{stroke:#9aa2ab;stroke-dasharray:3 3}\
path{fill:none;stroke-width:1.6}.a{stroke:#0b62c4}.b{stroke:#b55a00}.c{stroke:#b3261e}.d{stroke:#1a7f37}\
.f{stroke:#8250df}.h{stroke:#59636e}rect{stroke:none;fill:#0b62c4}rect.b{fill:#b55a00}\
text.a{fill:#0b62c4;stroke:none}text.b{fill:#b55a00;stroke:none}text.c{fill:#b3261e;stroke:none}\
text.d{fill:#1a7f37;stroke:none}text.f{fill:#8250df;stroke:none}text.h{fill:#59636e;stroke:none}\
@media(prefers-color-scheme:dark){body{color:#e3e6ea;background:#14171a}pre{background:#1e2226}.g{stroke:#2c3238}\
svg text{fill:#98a1ab}.a{stroke:#6cb0ff}.b{stroke:#ffb066}.c{stroke:#ff8a80}text.a{fill:#6cb0ff}text.b{fill:#ffb066}\
text.c{fill:#ff8a80}.d{stroke:#56d364}text.d{fill:#56d364}.f{stroke:#bc8cff}text.f{fill:#bc8cff}\
rect{fill:#6cb0ff}rect.b{fill:#ffb066}}";

fn over_time(title: &str, lines: &[Line<'_>], report: &Report) -> String {
    let end = report.seconds.len().saturating_sub(1).max(1);
    let step =
        [1, 2, 5, 10, 30, 60, 300, 600, 3600].into_iter().find(|step| end / step <= 12).unwrap_or(7200);
    let labels: Vec<(f64, String)> =
        (0..=end).step_by(step).map(|second| (count(second as u64), format!("{second} s"))).collect();
    let ticks: Vec<(f64, &str)> = labels.iter().map(|(at, label)| (*at, label.as_str())).collect();
    chart(title, lines, &ticks, &report.events)
}

/// Bars from the left, each with its parts, such as what is spent before and after the answer.
pub fn bars(title: &str, parts: [&str; 2], rows: &[(String, [f64; 2])]) -> String {
    const ROW: f64 = 24.0;
    let name_width = 170.0;
    let most = rows.iter().map(|(_, [first, second])| first + second).fold(1e-9, f64::max);
    let scale = (WIDTH - name_width - 90.0) / most;
    let height = 22.0 + ROW * count(rows.len() as u64);
    let mut svg = format!("<h2>{}</h2><svg viewBox='0 0 {WIDTH} {height}' role=img>", escape(title));
    for (class, part, at) in [("a", parts[0], 0.0), ("b", parts[1], 200.0)] {
        let _ = write!(svg, "<text class={class} x={:.1} y=12>{}</text>", name_width + at, escape(part));
    }
    for ((name, [first, second]), row) in rows.iter().zip(0_u32..) {
        let top = 20.0 + ROW * f64::from(row);
        let (first_width, second_width) = (first.max(0.0) * scale, second.max(0.0) * scale);
        let _ = write!(
            svg,
            "<text x={:.1} y={:.1} text-anchor=end>{}</text>\
             <rect x={name_width} y={top:.1} width={first_width:.1} height=16 />\
             <rect class=b x={:.1} y={top:.1} width={second_width:.1} height=16 />\
             <text x={:.1} y={:.1}>{}</text>",
            name_width - 8.0,
            top + 12.0,
            escape(name),
            name_width + first_width,
            name_width + first_width + second_width + 6.0,
            top + 12.0,
            short(first + second),
        );
    }
    svg + "</svg>"
}

/// Lines over a common axis that starts at zero; `ticks` are its labels, `events` vertical marks.
pub fn chart(title: &str, lines: &[Line<'_>], ticks: &[(f64, &str)], events: &[(f64, String)]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let x_max = points().map(|point| point.0).fold(1e-9, f64::max);
    let y_max = nice(points().map(|point| point.1).fold(1e-9, f64::max));
    let x = |value: f64| LEFT + value / x_max * (WIDTH - LEFT - 12.0);
    let y = |value: f64| HEIGHT - BOTTOM - value / y_max * (HEIGHT - BOTTOM - 26.0);
    let mut svg = format!("<h2>{}</h2><svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img>", escape(title));
    for quarter in 0..=4 {
        let value = y_max * f64::from(quarter) / 4.0;
        let (at, label) = (y(value), short(value));
        let _ = write!(
            svg,
            "<line class=g x1={LEFT} x2={WIDTH} y1={at:.1} y2={at:.1} /><text x={:.1} y={:.1} text-anchor=end>{label}</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    for (value, label) in ticks.iter().filter(|(value, _)| *value <= x_max) {
        let _ =
            write!(svg, "<text x={:.1} y={:.1} text-anchor=middle>{label}</text>", x(*value), HEIGHT - 8.0);
    }
    for (at, what) in events.iter().filter(|(at, _)| *at <= x_max) {
        let at = x(*at);
        let _ = write!(
            svg,
            "<line class=e x1={at:.1} x2={at:.1} y1=26 y2={:.1} /><text x={:.1} y=36>{}</text>",
            HEIGHT - BOTTOM,
            at + 4.0,
            escape(what)
        );
    }
    let mut legend = LEFT;
    for line in lines {
        let mut path = String::new();
        for (index, point) in line.points.iter().enumerate() {
            let _ = write!(path, "{}{:.1} {:.1}", if index == 0 { 'M' } else { 'L' }, x(point.0), y(point.1));
        }
        let _ = write!(svg, "<path class={} d='{path}'/>", line.class);
        let _ = write!(svg, "<text class={} x={legend:.1} y=14>{}</text>", line.class, escape(line.name));
        legend += 24.0 + 7.0 * count(line.name.chars().count() as u64);
    }
    svg + "</svg>"
}

/// The next of 1, 2, 5, 10, 20, … at or above a value.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= value).unwrap_or(value)
}

fn short(value: f64) -> String {
    if value >= 10_000.0 {
        format!("{:.0}k", value / 1000.0)
    } else if value >= 10.0 || value == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

#[allow(clippy::cast_precision_loss)] // Counts of a run stay far below 2^52.
fn count(value: u64) -> f64 {
    value as f64
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
