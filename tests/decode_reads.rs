//! What the cascade reads: every code of a frame, once, in reading order, the same from any encoding.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod decode_support;

use decode_support::{Sheet, jpeg, settings};
use scangate::decode::cascade::{self, Stage};
use scangate::decode::{
    self, Decoded, Decoder, Frame, FrameKind, Frames, Isolation, PayloadRefusal, StageOutcome,
};

fn texts(decoded: &Decoded) -> Vec<&str> {
    decoded.codes.iter().map(|code| code.payload.as_deref().unwrap_or("refused")).collect()
}

fn frames() -> Frames {
    Frames::start(settings()).unwrap()
}

fn four_codes() -> Sheet {
    let mut sheet = Sheet::new(640, 480);
    sheet.draw(b"third", (40, 270), 5);
    sheet.draw("fourth: Nguyễn Văn Ánh".as_bytes(), (360, 290), 5);
    sheet.draw(b"second", (350, 50), 5);
    sheet.draw(b"first", (50, 30), 5);
    sheet
}

#[test]
fn all_codes_of_a_frame_are_read_in_reading_order() {
    let frames = frames();
    for frame in [four_codes().frame(), jpeg(&four_codes())] {
        let decoded = frames.submit(frame).unwrap().wait().unwrap();
        assert_eq!(texts(&decoded), ["first", "second", "third", "fourth: Nguyễn Văn Ánh"]);
        let corner = decoded.codes[0].points[0];
        assert!((corner.x - 50).abs() < 8 && (corner.y - 30).abs() < 8, "{corner:?}");
    }
    let stats = frames.stats();
    assert_eq!((stats.completed, stats.codes, stats.without_code), (2, 8, 0));
    let reads: u64 = stats.stages.iter().map(|stage| stage.reads).sum();
    assert_eq!(reads, 2);
}

#[test]
fn each_decoder_reads_alone_and_in_threads() {
    for decoder in Decoder::ALL.into_iter().filter(|decoder| decoder.is_built()) {
        let mut settings = settings();
        settings.cascade.stages = vec![Stage { decoder, sharpened: false, start_within_ms: u64::MAX }];
        if decoder != Decoder::Zxing {
            settings.isolation = Isolation::Thread;
        }
        let frames = Frames::start(settings).unwrap();
        let decoded = frames.submit(four_codes().frame()).unwrap().wait().unwrap();
        // The baseline mixes up the finder patterns of neighbours.
        let floor = if decoder == Decoder::Rqrr { 1 } else { 4 };
        assert!(decoded.codes.len() >= floor, "{decoder:?} read {}", decoded.codes.len());
        assert!(decoded.codes.iter().all(|code| code.decoder == decoder));
    }
}

#[test]
fn a_large_image_is_scaled_and_its_corners_are_told_as_sent() {
    let mut sheet = Sheet::new(2560, 1920);
    sheet.draw(b"large", (1200, 800), 20);
    let decoded = frames().submit(jpeg(&sheet)).unwrap().wait().unwrap();
    assert_eq!(texts(&decoded), ["large"]);
    let corner = decoded.codes[0].points[0];
    assert!((corner.x - 1200).abs() < 24 && (corner.y - 800).abs() < 24, "{corner:?}");
}

#[test]
fn one_payload_printed_twice_is_one_code() {
    let mut sheet = Sheet::new(640, 480);
    sheet.draw(b"same", (50, 50), 5);
    sheet.draw(b"same", (350, 250), 5);
    assert_eq!(texts(&frames().submit(sheet.frame()).unwrap().wait().unwrap()), ["same"]);
}

#[test]
fn a_code_of_other_bytes_is_refused_and_its_neighbour_is_not() {
    let mut sheet = Sheet::new(640, 480);
    sheet.draw(b"\xff\xfe\x80 not text", (50, 50), 5);
    sheet.draw(b"text", (350, 50), 5);
    let decoded = frames().submit(sheet.frame()).unwrap().wait().unwrap();
    let payloads: Vec<_> =
        decoded.codes.iter().map(|code| code.payload.as_deref().map_err(|&error| error)).collect();
    assert_eq!(payloads, [Err(PayloadRefusal::NotUtf8), Ok("text")]);
}

#[test]
fn an_empty_frame_has_no_code_and_every_stage_reports() {
    let decoded = frames().submit(Sheet::new(640, 480).frame()).unwrap().wait().unwrap();
    assert!(decoded.codes.is_empty());
    let stages = cascade::Settings::default().stages;
    assert_eq!(decoded.stages.len(), stages.len());
    assert!(decoded.stages.iter().all(|stage| !matches!(stage.outcome, StageOutcome::Read(_))));
}

#[test]
fn files_are_read_by_their_first_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photo");
    let mut settings = decode::Settings::for_files();
    settings.sandbox.program = decode_support::settings().sandbox.program;
    let frames = Frames::start(settings).unwrap();
    std::fs::write(&path, jpeg(&four_codes()).bytes).unwrap();
    assert_eq!(decode::file(&frames, &path).unwrap().codes.len(), 4);
    std::fs::write(&path, "GIF89a").unwrap();
    assert!(matches!(decode::file(&frames, &path), Err(decode::FileError::UnknownKind)));
    assert!(matches!(decode::file(&frames, folder.path()), Err(decode::FileError::Read(_))));
}

#[test]
fn camera_like_frames_are_read_without_a_misread() {
    let frames = frames();
    let (mut count, mut reads) = (0, 0);
    for entry in std::fs::read_dir("tests/data/frames").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "jpg") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap().into();
        let text = std::fs::read_to_string(path.with_extension("txt")).unwrap();
        let decoded = frames.submit(Frame { bytes, kind: FrameKind::Jpeg }).unwrap().wait().unwrap();
        for code in &decoded.codes {
            assert_eq!(code.payload.as_ref().unwrap(), &text, "{}", path.display());
        }
        count += 1;
        reads += usize::from(!decoded.codes.is_empty());
    }
    // The corpus harness measures the rate; this only notices when reading breaks.
    let floor = if Decoder::Zxing.is_built() { 8 } else { 4 };
    assert!(count == 12 && reads >= floor, "{reads} of {count} read");
}
