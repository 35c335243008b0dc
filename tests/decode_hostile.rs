//! The promise: a hostile frame costs its sender one verdict, never a process. 2,000 frames by default;
//! `SCANGATE_HOSTILE_FRAMES=100000` for the long run.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::cast_possible_truncation, reason = "random numbers are cut to size")]

mod decode_support;

use std::collections::VecDeque;

use decode_support::generate::Random;
use decode_support::{Sheet, settings};
use scangate::decode::{DecodeError, Frame, FrameKind, Frames, Pending};

const KINDS: u64 = 12;

/// Small, so that many can be read.
const WIDTH: u16 = 176;
const HEIGHT: u16 = 144;

#[test]
fn hostile_frames_cost_one_verdict_each_and_no_process() {
    let count: u64 =
        std::env::var("SCANGATE_HOSTILE_FRAMES").ok().and_then(|count| count.parse().ok()).unwrap_or(2_000);
    let mut settings = settings();
    settings.workers = 2;
    settings.sandbox.process_frames_max = u64::MAX;
    let frames = Frames::start(settings).unwrap();
    let samples = Samples::new();
    let mut random = Random(0x5ca6_a7e5);
    let mut waiting: VecDeque<Pending> = VecDeque::new();
    let mut tally = Tally::default();
    for index in 0..count {
        if let Ok(pending) = frames.submit(samples.hostile(index % KINDS, &mut random)) {
            waiting.push_back(pending);
        }
        if waiting.len() > 100 {
            tally.add(&waiting.pop_front().unwrap().wait());
        }
    }
    for pending in waiting {
        tally.add(&pending.wait());
    }
    let stats = frames.stats();
    println!("{tally:?} {stats:?}");
    assert_eq!((tally.deaths, stats.crashed, stats.restarts), (0, 0, 0));
    assert_eq!(stats.timed_out, 0);
    assert!(tally.read > 0 && tally.refused > 0);
}

#[derive(Debug, Default)]
struct Tally {
    read: u64,
    refused: u64,
    deaths: u64,
}

impl Tally {
    fn add(&mut self, result: &Result<scangate::decode::Decoded, DecodeError>) {
        match result {
            Ok(_) => self.read += 1,
            Err(DecodeError::Image(_) | DecodeError::Panicked) => self.refused += 1,
            Err(_) => self.deaths += 1,
        }
    }
}

/// Sound files that are then spoilt.
struct Samples {
    jpeg: Vec<u8>,
    progressive: Vec<u8>,
    png: Vec<u8>,
    luma: Vec<u8>,
}

impl Samples {
    fn new() -> Self {
        let mut sheet = Sheet::new(WIDTH.into(), HEIGHT.into());
        sheet.draw(b"a code that will be torn", (30, 20), 4);
        let luma = sheet.pixels;
        let mut plain = Vec::new();
        let encoder = jpeg_encoder::Encoder::new(&mut plain, 60);
        let rgb: Vec<u8> = luma.iter().flat_map(|&level| [level, level, level / 2]).collect();
        encoder.encode(&rgb, WIDTH, HEIGHT, jpeg_encoder::ColorType::Rgb).unwrap();
        let mut progressive = Vec::new();
        let mut encoder = jpeg_encoder::Encoder::new(&mut progressive, 70);
        encoder.set_progressive(true);
        encoder.encode(&luma, WIDTH, HEIGHT, jpeg_encoder::ColorType::Luma).unwrap();
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, 160, 120);
        encoder.set_color(png::ColorType::Grayscale);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&luma[..160 * 120]).unwrap();
        writer.finish().unwrap();
        Self { jpeg: plain, progressive, png, luma }
    }

    fn hostile(&self, kind: u64, random: &mut Random) -> Frame {
        match kind {
            0 => file(FrameKind::Jpeg, truncated(&self.jpeg, random)),
            1 => file(FrameKind::Jpeg, flipped(&self.jpeg, random)),
            2 => file(FrameKind::Jpeg, flipped(&self.progressive, random)),
            3 => file(FrameKind::Jpeg, resized_jpeg(&self.jpeg, random)),
            4 => file(FrameKind::Png, flipped(&self.png, random)),
            5 => file(FrameKind::Png, resized_png(&self.png, random)),
            6 => file(FrameKind::Png, truncated(&self.png, random)),
            7 => file(FrameKind::Jpeg, bytes(random, 2_000)),
            8 => noise(random),
            9 => fake_finders(random),
            10 => stripes(random),
            _ => self.torn(random),
        }
    }

    /// A readable frame with pieces moved about: codes that are nearly whole.
    fn torn(&self, random: &mut Random) -> Frame {
        let mut sheet = Sheet { width: WIDTH.into(), height: HEIGHT.into(), pixels: self.luma.clone() };
        for _ in 0..random.below(40) {
            let at = (random.below(170) as usize, random.below(140) as usize);
            sheet.fill(at, 1 + random.below(40) as usize, random.below(256) as u8);
        }
        sheet.frame()
    }
}

fn file(kind: FrameKind, bytes: Vec<u8>) -> Frame {
    Frame { bytes: bytes.into(), kind }
}

fn bytes(random: &mut Random, count: usize) -> Vec<u8> {
    [0xff, 0xd8, 0xff].into_iter().chain((0..count).map(|_| random.next() as u8)).collect()
}

fn truncated(whole: &[u8], random: &mut Random) -> Vec<u8> {
    whole[..random.below(whole.len() as u64) as usize].to_vec()
}

fn flipped(whole: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    // Half of the flips hit the headers.
    let reach = if random.below(2) == 0 { 700 } else { bytes.len() as u64 };
    for _ in 0..=random.below(8) {
        let at = random.below(reach.min(bytes.len() as u64)) as usize;
        bytes[at] = random.next() as u8;
    }
    bytes
}

fn side(random: &mut Random) -> u16 {
    *[0, 1, 7, 9, 640, 4096, 16_384, 65_535].get(random.below(8) as usize).unwrap()
}

fn resized_jpeg(whole: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    let header = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    bytes[header + 5..header + 7].copy_from_slice(&side(random).to_be_bytes());
    bytes[header + 7..header + 9].copy_from_slice(&side(random).to_be_bytes());
    bytes
}

fn resized_png(whole: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    bytes[16..20].copy_from_slice(&u32::from(side(random)).to_be_bytes());
    bytes[20..24].copy_from_slice(&u32::from(side(random)).to_be_bytes());
    bytes[25] = random.below(8) as u8;
    let mut checksum = flate2::Crc::new();
    checksum.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.sum().to_be_bytes());
    bytes
}

fn sheet(random: &mut Random) -> Sheet {
    Sheet::new(16 + random.below(240) as usize, 16 + random.below(180) as usize)
}

fn noise(random: &mut Random) -> Frame {
    let mut sheet = sheet(random);
    let block = 1 + random.below(6) as usize;
    for y in (0..sheet.height).step_by(block) {
        for x in (0..sheet.width).step_by(block) {
            sheet.fill((x, y), block, random.next() as u8);
        }
    }
    sheet.frame()
}

/// Finder patterns everywhere: every three of them may be a code.
fn fake_finders(random: &mut Random) -> Frame {
    let mut sheet = sheet(random);
    let module = 1 + random.below(3) as usize;
    let count = random.below(60);
    for _ in 0..count {
        let (x, y) = (random.below(sheet.width as u64) as usize, random.below(sheet.height as u64) as usize);
        for (inset, level) in [(0, 20), (1, 235), (2, 20)] {
            sheet.fill((x + inset * module, y + inset * module), (7 - 2 * inset) * module, level);
        }
    }
    sheet.frame()
}

/// Stripes in the finder's proportions, which start a candidate on every line.
fn stripes(random: &mut Random) -> Frame {
    let mut sheet = sheet(random);
    let module = 1 + random.below(4) as usize;
    let pattern = [true, false, true, true, true, false, true, false, false];
    let diagonal = random.below(2) as usize;
    for y in 0..sheet.height {
        for x in 0..sheet.width {
            let at = (x + y * diagonal) / module % pattern.len();
            sheet.pixels[y * sheet.width + x] = if pattern[at] { 20 } else { 235 };
        }
    }
    sheet.frame()
}
