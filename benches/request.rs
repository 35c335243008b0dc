//! JSON on the way in: `simd-json` against `serde_json`, on the same bytes.
//!
//! simd-json indexes a whole document before it reads it, which pays on large ones only: a batch, parsed as
//! one array of its lines. The gateway reads strings without escapes by its own short reader, and leaves the
//! rest to whichever wins. Every group prints all, with and without escapes, so that a release that turns the
//! tables is noticed.

use std::borrow::Cow;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use scangate::request;

const LINES: usize = 1_000;

fn line(index: usize) -> String {
    let token = "SG1:".to_owned() + &"6BF1C0T9K%5NQG8B2".repeat(12);
    format!(
        r#"{{"id":"0b5c1f0e-7a53-4f0e-9d3c-{index:012}","qr":"{token}","at":"2021-11-24T06:49:29.123Z","direction":"in"}}"#
    )
}

#[derive(serde::Deserialize)]
#[allow(dead_code)]
struct Fields<'a> {
    id: &'a str,
    #[serde(borrow)]
    qr: Cow<'a, str>,
    at: Option<&'a str>,
    direction: Option<&'a str>,
}

fn json(criterion: &mut Criterion) {
    let one = line(7);
    let mut group = criterion.benchmark_group("single");
    group.throughput(Throughput::Bytes(one.len() as u64));
    group.bench_function("gateway", |bench| {
        bench.iter(|| request::single(black_box(one.as_bytes()), 4096).is_ok());
    });
    group.bench_function("serde_json", |bench| {
        bench.iter(|| serde_json::from_slice::<Fields<'_>>(black_box(one.as_bytes())).is_ok());
    });
    group.bench_function("simd_json", |bench| {
        bench.iter_batched_ref(
            || one.clone().into_bytes(),
            |bytes| simd_json::serde::from_slice::<Fields<'_>>(black_box(bytes)).is_ok(),
            BatchSize::SmallInput,
        );
    });
    group.finish();

    let body: String = (0..LINES).map(|index| line(index) + "\n").collect();
    batch(criterion, "batch_of_1000_lines", &body);
    // As some writers have it, with an escape in every line.
    batch(criterion, "batch_of_1000_lines_with_escapes", &body.replace("SG1:", "SG1\\u003a"));
}

fn batch(criterion: &mut Criterion, name: &str, body: &str) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(LINES as u64));
    group.bench_function("gateway", |bench| {
        bench.iter(|| request::batch(&mut Vec::new(), black_box(body.as_bytes()), LINES, 4096).len());
    });
    group.bench_function("simd_json_one_document", |bench| {
        bench.iter_batched_ref(
            || request::joined(body.as_bytes(), LINES),
            |document| simd_json::serde::from_slice::<Vec<Fields<'_>>>(document).map_or(0, |all| all.len()),
            BatchSize::LargeInput,
        );
    });
    group.bench_function("serde_json_line_by_line", |bench| {
        bench.iter(|| {
            request::lines(black_box(body.as_bytes()))
                .filter(|line| serde_json::from_slice::<Fields<'_>>(line).is_ok())
                .count()
        });
    });
    group.finish();
}

criterion_group!(benches, json);
criterion_main!(benches);
