//! The seeds of the fuzz targets, whole and spoilt, through the targets' own functions. Without a sanitizer
//! this
//! proves that they don't panic or break a limit, not that memory is never misused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::cast_possible_truncation, reason = "random numbers are cut to size")]

mod decode_support;
#[path = "../fuzz/entry.rs"]
#[allow(dead_code, reason = "each test has its targets")]
mod entry;

use decode_support::generate::Random;

fn feed(folder: &str, target: fn(&[u8]), spoilt: usize) {
    let mut random = Random(0xf0_22);
    let mut seeds = 0;
    for entry in std::fs::read_dir(format!("fuzz/seeds/{folder}")).unwrap() {
        let seed = std::fs::read(entry.unwrap().path()).unwrap();
        target(&seed);
        for _ in 0..spoilt {
            let mut bytes = seed.clone();
            for _ in 0..=random.below(6) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
            }
            bytes.truncate(1 + random.below(2 * bytes.len() as u64) as usize);
            target(&bytes);
        }
        seeds += 1;
    }
    assert!(seeds > 0, "no seeds for {folder}");
}

#[test]
fn image_seeds() {
    feed("image", entry::image, 200);
}

#[test]
fn content_type_seeds() {
    feed("content_type", entry::content_type, 500);
}

#[test]
fn cascade_seeds() {
    feed("cascade", entry::cascade, 40);
}

/// Writes the seeds; run by hand after the formats of the targets change:
/// `SCANGATE_WRITE_SEEDS=1 cargo test --test decode_fuzz_seeds write_seeds`.
#[test]
fn write_seeds() {
    if std::env::var_os("SCANGATE_WRITE_SEEDS").is_none() {
        return;
    }
    let write = |name: &str, bytes: &[u8]| std::fs::write(format!("fuzz/seeds/{name}"), bytes).unwrap();
    let mut sheet = decode_support::Sheet::new(100, 100);
    sheet.draw(b"seed", (16, 16), 3);
    let tagged = |tag: u8, bytes: &[u8]| [&[tag], bytes].concat();
    write("cascade/code", &tagged(100, &sheet.pixels));
    let mut two = decode_support::Sheet::new(200, 100);
    two.draw(b"one", (12, 16), 3);
    two.draw(b"two", (112, 16), 3);
    write("cascade/two-codes", &tagged(200, &two.pixels));
    write("image/luma", &tagged(101, &sheet.pixels[..101 * 40]));
    write("image/jpeg", &tagged(0, &sheet.jpeg().bytes));
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
