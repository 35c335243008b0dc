//! Photographs that people took of printed codes, through the whole of the path that a frame takes.
#![allow(clippy::unwrap_used, reason = "tests")]

mod decode_support;

use decode_support::settings;
use scangate::decode::{Decoder, Frame, FrameKind, Frames};

#[test]
fn photographs_are_read_without_a_misread() {
    let frames = Frames::start(settings()).unwrap();
    let (mut count, mut reads, mut misreads) = (0, 0, 0);
    let mut paths: Vec<_> =
        std::fs::read_dir("tests/data/photos").unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "png")) {
        let bytes = std::fs::read(path).unwrap().into();
        let text = std::fs::read_to_string(path.with_extension("txt")).unwrap();
        let decoded = frames.submit(Frame { bytes, kind: FrameKind::Png }).unwrap().wait().unwrap();
        let says = |payload: &str| payload.trim_end() == text.trim_end();
        let payloads: Vec<&str> =
            decoded.codes.iter().filter_map(|code| code.payload.as_deref().ok()).collect();
        count += 1;
        reads += usize::from(payloads.iter().any(|payload| says(payload)));
        misreads += payloads.iter().filter(|payload| !says(payload)).count();
        if payloads.is_empty() {
            println!("not read: {}", path.display());
        }
    }
    println!("{reads} of {count} read, {misreads} misread");
    let floor = if Decoder::Zxing.is_built() { 22 } else { 15 };
    assert!(count == 22 && reads >= floor && misreads == 0, "{reads} of {count} read, {misreads} misread");
}
