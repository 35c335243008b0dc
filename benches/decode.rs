//! One frame: image to luma, then the default cascade, then both behind the process boundary.
//!
//! `cargo bench --bench decode`; for rates and reads over many frames see `scangate-loadtest corpus`.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;

use criterion::Criterion;
use scangate::decode::{self, Frame, FrameKind, Frames, Settings, cascade, image};

/// A frame that the first stage reads, and one that none does.
const FRAMES: [(&str, &[u8]); 2] = [
    ("read", include_bytes!("../tests/data/frames/frame-7-0001.jpg")),
    ("unread", include_bytes!("../tests/data/frames/frame-7-0000.jpg")),
];

fn main() {
    // The bench executes itself for the processes that read frames.
    decode::sandbox::worker_main();
    let mut criterion = Criterion::default().configure_from_args();
    let settings = Settings::default();
    let frames = Frames::start(settings.clone()).expect("a pool of one process starts");
    for (name, bytes) in FRAMES {
        let luma = image::luma(bytes, FrameKind::Jpeg, &settings.image).expect("the frame is an image");
        criterion.bench_function(&format!("decode/jpeg to luma/{name}"), |bencher| {
            bencher.iter(|| image::luma(black_box(bytes), FrameKind::Jpeg, &settings.image));
        });
        criterion.bench_function(&format!("decode/cascade/{name}"), |bencher| {
            bencher.iter(|| cascade::read(black_box(&luma), &settings.cascade));
        });
        criterion.bench_function(&format!("decode/behind the process boundary/{name}"), |bencher| {
            bencher.iter(|| {
                let frame = Frame { bytes: bytes.into(), kind: FrameKind::Jpeg };
                frames.submit(frame).map(decode::Pending::wait)
            });
        });
    }
    criterion.final_summary();
}
