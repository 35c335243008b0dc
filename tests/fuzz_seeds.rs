//! The seeds of the fuzz targets, whole and spoilt, through the targets' own functions: on any toolchain, and
//! without luck. What it shows is that they hold for these bytes; `.ci/fuzz` looks for others.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::cast_possible_truncation, reason = "random numbers are cut to size")]

mod decode_support;
#[path = "../fuzz/entry.rs"]
mod entry;

use std::collections::BTreeSet;
use std::path::Path;

use decode_support::generate::Random;
use scangate::scan::UnixMillis;
use scangate::verify::revocations::bulk;

const SEEDS: &str = "fuzz/seeds";

/// How many spoilt copies of each seed a target gets. Decoding is slow.
fn spoilt_copies(target: &str) -> usize {
    match target {
        "cascade" => 40,
        "journal" => 100,
        _ => 400,
    }
}

#[test]
fn every_target_holds_for_its_seeds_and_what_is_near_them() {
    for (name, target) in entry::TARGETS {
        let mut random = Random(0xf0_22);
        let mut seeds = 0;
        for file in std::fs::read_dir(format!("{SEEDS}/{name}")).unwrap() {
            let path = file.unwrap().path();
            println!("{}", path.display());
            let seed = std::fs::read(path).unwrap();
            target(&seed);
            for _ in 0..spoilt_copies(name) {
                target(&spoilt(&seed, &mut random));
            }
            seeds += 1;
        }
        assert!(seeds > 0, "no seeds for {name}");
    }
}

/// A few bytes changed, in half of the copies to others of the same seed, and maybe cut.
fn spoilt(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    let length = bytes.len() as u64;
    for _ in 0..=random.below(6) {
        let (at, from) = (random.below(length) as usize, random.below(length) as usize);
        bytes[at] = if random.below(2) == 0 { bytes[from] } else { random.next() as u8 };
    }
    bytes.truncate(1 + random.below(2 * length) as usize);
    bytes
}

#[test]
fn every_folder_of_seeds_has_its_target() {
    let names: BTreeSet<String> = entry::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let folders = std::fs::read_dir(SEEDS).unwrap().map(|entry| entry.unwrap().file_name());
    let folders: BTreeSet<String> = folders.map(|name| name.into_string().unwrap()).collect();
    assert_eq!(folders, names);
}

/// Writes the seeds; run by hand after the formats of the targets change:
/// `SCANGATE_WRITE_SEEDS=1 cargo test --test fuzz_seeds write_seeds`.
#[test]
fn write_seeds() {
    if std::env::var_os("SCANGATE_WRITE_SEEDS").is_none() {
        return;
    }
    write_frames();
    write_payloads();
    write_signed();
    write_requests();
    write_journal();
    write_revocations();
}

fn write(name: &str, bytes: &[u8]) {
    let path = std::path::Path::new(SEEDS).join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn tagged(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [&[tag], bytes].concat()
}

fn write_frames() {
    let mut sheet = decode_support::Sheet::new(100, 100);
    sheet.draw(b"seed", (16, 16), 3);
    write("cascade/code", &tagged(100, &sheet.pixels));
    let mut two = decode_support::Sheet::new(200, 100);
    two.draw(b"one", (12, 16), 3);
    two.draw(b"two", (112, 16), 3);
    write("cascade/two-codes", &tagged(200, &two.pixels));
    write("image/luma", &tagged(101, &sheet.pixels[..101 * 40]));
    write("image/jpeg", &tagged(0, &decode_support::jpeg(&sheet).bytes));
    let mut progressive = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut progressive, 60);
    encoder.set_progressive(true);
    let rgb: Vec<u8> = sheet.pixels.iter().flat_map(|&level| [level, level / 2, level]).collect();
    encoder.encode(&rgb, 100, 100, jpeg_encoder::ColorType::Rgb).unwrap();
    write("image/jpeg-progressive", &tagged(0, &progressive));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 100, 100);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&rgb).unwrap();
    writer.finish().unwrap();
    write("image/png", &tagged(1, &bytes));
    write("content_type/luma", b"application/vnd.scangate.luma;w=640;h=480");
    write("content_type/spaced", b"application/vnd.scangate.luma ; h=1;\tw=65535");
    write("content_type/jpeg", b"image/jpeg");
}

fn write_payloads() {
    for (name, text) in [
        ("sg1", "SG1:A0A0A0A0"),
        ("hc1", "HC1:6BFOXN*TS0BI"),
        ("shc-chunk", "shc:/1/2/567629095243"),
        ("pc-covid", "https://qr.pccovid.gov.vn/Ab3xK9pQ"),
        ("tokhaiyte", "HTTPS://qr.tokhaiyte.vn/a/b%20c/?id=1#top"),
        ("nhs", "UKC19TRACING:1:eyJhbGciOiJFUzI1NiJ9.e30.AA"),
        ("nz", "NZCOVIDTRACER:eyJnbG4iOiI5NDI5MzAwMDAwMDA3In0="),
        ("cwa", "https://e.coronawarn.app?v=1#CAESEwgBEgdGcmlzZXVyGgZCZXJsaW4"),
        (
            "vietqr",
            "00020101021138530010A0000007270123000697041601098888888880208QRIBFTTA53037045802VN6304C09E",
        ),
        ("emv", "000201010211"),
        ("qrqg", "001093029317|NGUYEN VAN A|1987-01-18|0|162979388586171100|<1<00<0123232422"),
        ("qrqg-masked", "******029317|NGUYEN VAN A|1987-**-**|0|162979388586171100|<1<00<0123232422"),
        (
            "cccd",
            "001090123456|012345678|NGUYEN VAN A|01011990|Nam|12 Phố Huế, Hai Bà Trưng, Hà Nội|15042021",
        ),
        ("cccd-2024", "001190123456||NGUYEN VAN A|01011990|Nu\u{31b}\u{303}|Hà Nội|15042024||B|C|"),
        (
            "bhyt",
            "0123456789|4e677579656e2056616e2041|01/01/1990|1|-|01 - 001|01/04/2021|-|15/03/2021|\
             01010123456789|-|4| 01/10/2026|0123456789abcdef-1202|4|48e1bb93|$",
        ),
        (
            "bhyt-old",
            "DN4010123456789|4E677579656E2056616E2041|1990|2|48c3a0204ee1bb9969|01 - 001|01/01/2020|31/12/2020|\
             20/12/2019|0123456789abcdef-7102$",
        ),
    ] {
        write(&format!("payload/{name}"), text.as_bytes());
    }
    let poster = r#"{"gln":"9429300000007","ver":"c19:1","typ":"entry","opn":"Café","adr":"1 Road\nTown"}"#;
    write("nz/poster", poster.as_bytes());
    write("nz/more", poster.replacen('{', r#"{"new":[{"a":1e9}],"#, 1).as_bytes());
    // Found by fuzzing: what no one looks at was not even UTF-8, or a number that no one can hold.
    write("nz/not-utf8", &poster.chars().map(|character| character as u8).collect::<Vec<u8>>());
    write("nz/number", poster.replacen('{', r#"{"new":1e777,"#, 1).as_bytes());
    let field = |number: u8, value: &[u8]| [&[number << 3 | 2, value.len() as u8], value].concat();
    let place =
        [&[0x08, 1][..], &field(2, "Café".as_bytes()), &field(3, b"1 Road"), &[0x28, 0x80, 1]].concat();
    let keys = [&[0x08, 1][..], &field(2, &[7; 96]), &field(3, &[8; 16])].concat();
    let message = [&[0x08, 1][..], &field(2, &place), &field(3, &keys), &field(4, &[8, 1, 16, 5])].concat();
    write("cwa/poster", &message);
    write("cwa/more", &[&message[..], &[0x79, 0, 0, 0, 0, 0, 0, 0, 0, 0x7d, 0, 0, 0, 0]].concat());
}

fn write_signed() {
    write(
        "sg1/text",
        &tagged(0, b"6BF+70790T9WJWG.FKY*4GO0.O1CV2 O5 N2FBBRW1*70HS8WY04AC*WIFN0AHCD8KD97TK0F90KECTHG"),
    );
    let claims = [
        &b"\xa5\x01\x68scangate\x04\x1a\x63\x00\x00\x00\x06\x1a\x61\x00\x00\x00\x07\x50"[..],
        &[9; 16],
        b"\x3a\x00\x01\x00\x00\xa2\x61t\x00\x61e\x01",
    ];
    write("sg1/person", &tagged(1, &claims.concat()));
    let place = claims.concat().strip_suffix(b"\x00\x61e\x01").unwrap().to_vec();
    write("sg1/place", &tagged(1, &[&place[..], b"\x01\x61e\x01"].concat()));
    write("nhs/text", &tagged(0, b"eyJhbGciOiJFUzI1NiIsImtpZCI6Im9uZSJ9.eyJpZCI6IjRXVDU5TTVZIn0.AAAA"));
    let poster = "{\"alg\":\"ES256\",\"typ\":\"JWT\",\"kid\":\"one\"}\n{\"id\":\"4WT59M5Y\",\"opn\":\"Town Hall\",\"vt\":\"004\"}";
    write("nhs/poster", &tagged(1, poster.as_bytes()));
    // Found by fuzzing: a name that is not UTF-8.
    write(
        "nhs/not-utf8",
        &tagged(1, &[poster.as_bytes().strip_suffix(b"\"}").unwrap(), b"\xe9\"}"].concat()),
    );
    write("nhs/none", &tagged(1, poster.replace("ES256", "none").as_bytes()));
}

fn write_requests() {
    let one = r#"{"id":"0b5c1f0e-7a53","qr":"SG1:A0","at":"2021-11-24T06:49:29.123Z","direction":"in"}"#;
    let short = r#"{"id":"a","qr":"\u0053G1:\"\n"}"#;
    write("request/single", &tagged(0, one.as_bytes()));
    write("request/single-short", &tagged(0, short.as_bytes()));
    write("request/batch", &tagged(1, format!("{one}\n\n{short}\r\n").as_bytes()));
    write("request/batch-bad-line", &tagged(1, format!("{one}\n{{\n{short}").as_bytes()));
    // Found by fuzzing: no line is a document, and joined they were as many documents as lines.
    write("request/batch-split", b"1{\"id\":\"a\",\"qr\":\"x\"},{\"id\":\"b\"\n\"qr\":\"y\"}");
    write("request/query", &tagged(2, b"id=frame-1&at=2021-11-24T13%3A49%3A29+07:00&direction=auto"));
}

fn write_journal() {
    let record = [&[1, 94, 1, 1][..], &[0; 92]].concat();
    let batch = |kind: u8| vec![0, 1, kind];
    write("journal/records", &[batch(0), record.clone(), record.clone(), batch(0), record.clone()].concat());
    write("journal/sealed", &[batch(0), record.clone(), batch(1)].concat());
    write("journal/stopped", &[batch(0), record.clone(), batch(2), vec![2, 200]].concat());
    write("journal/torn", &[batch(0), record.clone(), vec![3, 9, 94, 0, 0, 0, 1, 2, 3, 4, 5]].concat());
    write("journal/damaged", &[batch(0), vec![3, 4, 1, 0, 0, 0], batch(0), record].concat());
}

fn write_revocations() {
    let key = "00112233445566778899aabbccddeeff";
    for (name, value) in
        [("cti", key), ("dcc", key), ("device-hash", key), ("device", "vneid/d"), ("kid", "k1")]
    {
        let line =
            format!("{{\"kind\":\"{name}\",\"value\":\"{value}\",\"at\":\"2021-11-24T06:49:29.123Z\"}}");
        write(&format!("revocation_line/{name}"), line.as_bytes());
    }
    for (name, count) in [("one", 1_u64), ("two-blocks", 300)] {
        let dir = tempfile::tempdir().unwrap();
        let line = |number: u64| {
            let key = u128::from(number) * 0x9e37_79b9_7f4a_7c15;
            format!("{{\"kind\":\"dcc\",\"value\":\"{key:032x}\"}}")
        };
        let list = (0..count).map(line).collect::<Vec<_>>().join("\n");
        bulk::import(dir.path(), Path::new("list"), list.as_bytes(), UnixMillis(0), |_| {}).unwrap();
        bulk::compact(dir.path()).unwrap();
        let files = std::fs::read_dir(dir.path().join("keys/revoked")).unwrap();
        let set = files.map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some()).unwrap();
        // Without the checksum: the target adds one that holds.
        let bytes = std::fs::read(set).unwrap();
        write(&format!("revocation_set/{name}"), &bytes[..bytes.len() - 32]);
    }
}
