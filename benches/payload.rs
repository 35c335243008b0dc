//! What it costs to say what a scanned code is: sniffing and parsing, no signature.
//!
//! `cargo bench --bench payload`

use criterion::{Criterion, criterion_group, criterion_main};
use scangate::payload;
use std::hint::black_box;

const FORMS: &[(&str, &str)] = &[
    ("cccd", "001090123456|012345678|NGUYEN VAN A|01011990|Nam|12 Phố Huế, Hai Bà Trưng, Hà Nội|15042021"),
    ("qrqg", "001093029317|NGUYEN VAN A|1987-01-18|0|162979388586171100|<1<00<0123232422"),
    ("qrqg_masked", "******029317|NGUYEN VAN A|1987-**-**|0|162979388586171100|<1<00<0123232422"),
    ("pc_covid_place", "https://qr.pccovid.gov.vn/Ab3xK9pQ"),
    (
        "bhyt",
        "0123456789|4e677579656e2056616e2041|01/01/1990|1|-|01 - 001|01/04/2021|-|15/03/2021|01010123456789|-|4|\
         01/10/2026|0123456789abcdef-1202|4|48e1bb93|$",
    ),
    (
        "nz_place",
        "NZCOVIDTRACER:eyJnbG4iOiI5NDI5MzAwMDAwMDA3IiwidmVyIjoiYzE5OjEiLCJ0eXAiOiJlbnRyeSIsIm9wbiI6IkNhZsOpIiwiYWRy\
         IjoiMSBSb2FkXG5Ub3duIn0=",
    ),
    (
        "cwa_place",
        "https://e.coronawarn.app?v=1#CAESEwgBEgdGcmlzZXVyGgZCZXJsaW4adggBEmCDAszMTXne1DAA5_YxmhRdd_NZN2VKl9L32Jl9-ZybE4\
         b2eNIrhFOKYU4XAOHq3RPLDxdHTW6ANiO24rCOO4rj06HzcVZy3pel58-L1KSPG-_PneL2BoyZQRz3qlu2hoAaEATXwzyyIshzBHREtsdmc6ki\
         BggBEAUYeA",
    ),
    ("payment", "00020101021138530010A0000007270123000697041601098888888880208QRIBFTTA53037045802VN6304C09E"),
    ("unrecognized", "https://example.org/a/page/that/no/format/knows?with=a&longer=query"),
];

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("payload/parse");
    for (name, text) in FORMS {
        group.bench_function(*name, |bencher| bencher.iter(|| payload::parse(black_box(text)).is_ok()));
    }
    let token = format!("SG1:{}", "A0".repeat(100));
    group.bench_function("sg1", |bencher| bencher.iter(|| payload::parse(black_box(&token)).is_ok()));
    group.finish();
}

criterion_group!(benches, parse);
criterion_main!(benches);
