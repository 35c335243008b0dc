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
