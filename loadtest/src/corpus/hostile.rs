//! Frames that mean harm: spoilt files, lying headers, noise, and patterns that almost are codes. Frame `index`
//! of a seed is always the same.

#![allow(clippy::cast_possible_truncation, reason = "random numbers are cut to size")]

use anyhow::{Context as _, Result};
use scangate::decode::{Frame, FrameKind};

use super::generate::Random;
use super::sheet::Sheet;

/// How many ways of meaning harm there are.
const KINDS: u64 = 12;

/// Small, so that many can be read.
const WIDTH: u16 = 176;
const HEIGHT: u16 = 144;

/// Sound files that are then spoilt.
pub struct Hostile {
    seed: u64,
    jpeg: Vec<u8>,
    progressive: Vec<u8>,
    png: Vec<u8>,
    luma: Vec<u8>,
}

impl Hostile {
    /// Makes the sound files.
    pub fn new(seed: u64) -> Result<Self> {
        let mut sheet = Sheet::new(WIDTH.into(), HEIGHT.into());
        sheet.draw(b"a code that will be torn", (30, 20), 4);
        let luma = sheet.pixels;
        let mut plain = Vec::new();
        let encoder = jpeg_encoder::Encoder::new(&mut plain, 60);
        let rgb: Vec<u8> = luma.iter().flat_map(|&level| [level, level, level / 2]).collect();
        encoder.encode(&rgb, WIDTH, HEIGHT, jpeg_encoder::ColorType::Rgb)?;
        let mut progressive = Vec::new();
        let mut encoder = jpeg_encoder::Encoder::new(&mut progressive, 70);
        encoder.set_progressive(true);
        encoder.encode(&luma, WIDTH, HEIGHT, jpeg_encoder::ColorType::Luma)?;
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, 160, 120);
        encoder.set_color(png::ColorType::Grayscale);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(luma.get(..160 * 120).context("the sheet is larger")?)?;
        writer.finish()?;
        Ok(Self { seed, jpeg: plain, progressive, png, luma })
    }

    /// One of them; every kind comes in turn.
    pub fn frame(&self, index: u64) -> Frame {
        let random = &mut Random(self.seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        match index % KINDS {
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
    whole.iter().copied().take(random.below(whole.len() as u64) as usize).collect()
}

fn flipped(whole: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    // Half of the flips hit the headers.
    let reach = if random.below(2) == 0 { 700 } else { bytes.len() as u64 };
    for _ in 0..=random.below(8) {
        let at = random.below(reach.min(bytes.len() as u64)) as usize;
        overwrite(&mut bytes, at, &[random.next() as u8]);
    }
    bytes
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    if let Some(part) = bytes.get_mut(at..at + with.len()) {
        part.copy_from_slice(with);
    }
}

fn side(random: &mut Random) -> u16 {
    const SIDES: [u16; 8] = [0, 1, 7, 9, 640, 4096, 16_384, 65_535];
    SIDES.get(random.below(8) as usize).copied().unwrap_or_default()
}

fn resized_jpeg(whole: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    let header = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap_or_default();
    overwrite(&mut bytes, header + 5, &side(random).to_be_bytes());
    overwrite(&mut bytes, header + 7, &side(random).to_be_bytes());
    bytes
}

fn resized_png(whole: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    overwrite(&mut bytes, 16, &u32::from(side(random)).to_be_bytes());
    overwrite(&mut bytes, 20, &u32::from(side(random)).to_be_bytes());
    overwrite(&mut bytes, 25, &[random.below(8) as u8]);
    let mut checksum = flate2::Crc::new();
    checksum.update(bytes.get(12..29).unwrap_or_default());
    overwrite(&mut bytes, 29, &checksum.sum().to_be_bytes());
    bytes
}

fn sheet(random: &mut Random) -> Sheet {
    Sheet::new(16 + random.below(240) as usize, 16 + random.below(180) as usize)
}

fn noise(random: &mut Random) -> Frame {
    let mut sheet = sheet(random);
    let block = 1 + random.below(6) as usize;
    blocks(&mut sheet, block, random);
    sheet.frame()
}

fn blocks(sheet: &mut Sheet, block: usize, random: &mut Random) {
    for y in (0..sheet.height).step_by(block) {
        for x in (0..sheet.width).step_by(block) {
            sheet.fill((x, y), block, random.next() as u8);
        }
    }
}

/// Finder patterns everywhere: every three of them may be a code.
fn fake_finders(random: &mut Random) -> Frame {
    let mut sheet = sheet(random);
    let module = 1 + random.below(3) as usize;
    for _ in 0..random.below(60) {
        let at = (random.below(sheet.width as u64) as usize, random.below(sheet.height as u64) as usize);
        sheet.finder(at, module);
    }
    sheet.frame()
}

/// Stripes in the finder's proportions, which start a candidate on every line.
fn stripes(random: &mut Random) -> Frame {
    let sheet = sheet(random);
    let module = 1 + random.below(4) as usize;
    let diagonal = random.below(2) as usize;
    striped(sheet, module, diagonal).frame()
}

fn striped(mut sheet: Sheet, module: usize, diagonal: usize) -> Sheet {
    const PATTERN: [bool; 9] = [true, false, true, true, true, false, true, false, false];
    let width = sheet.width;
    for (at, pixel) in sheet.pixels.iter_mut().enumerate() {
        let (x, y) = (at % width, at / width);
        let dark = PATTERN.get((x + y * diagonal) / module % PATTERN.len()).copied().unwrap_or_default();
        *pixel = if dark { 20 } else { 235 };
    }
    sheet
}

/// Frames of 1280 × 720 that were found to take decoders longest, each with its name.
pub fn worst(seed: u64) -> Vec<(String, Frame)> {
    let random = &mut Random(seed);
    let mut all = Vec::new();
    for step in [9, 11, 13, 15, 17, 21, 29, 43] {
        let mut sheet = Sheet::new(1280, 720);
        let module = (step / 8).max(1);
        for (row, y) in (0..720).step_by(step).enumerate() {
            for x in (row % 3..1280).step_by(step) {
                sheet.finder((x, y), module);
            }
        }
        all.push((format!("finder patterns every {step} px"), sheet.frame()));
    }
    for count in [300, 1_000, 3_000] {
        let mut sheet = Sheet::new(1280, 720);
        for _ in 0..count {
            let at = (random.below(1280) as usize, random.below(720) as usize);
            sheet.finder(at, 1 + random.below(5) as usize);
        }
        all.push((format!("{count} finder patterns at random"), sheet.frame()));
    }
    for block in [1, 2, 3, 5] {
        let mut sheet = Sheet::new(1280, 720);
        blocks(&mut sheet, block, random);
        all.push((format!("noise in blocks of {block} px"), sheet.frame()));
        let mut sheet = Sheet::new(1280, 720);
        for y in (0..720).step_by(block) {
            for x in (0..1280).step_by(block).filter(|x| (x + y) / block % 2 == 0) {
                sheet.fill((x, y), block, 20);
            }
        }
        all.push((format!("checkerboard of {block} px"), sheet.frame()));
    }
    for (module, diagonal) in [(1, 0), (1, 1), (2, 1), (3, 0), (3, 1)] {
        let name = format!("stripes of {module} px, {}", if diagonal == 1 { "slanted" } else { "upright" });
        all.push((name, striped(Sheet::new(1280, 720), module, diagonal).frame()));
    }
    for damage in [20, 200, 2_000] {
        let mut sheet = Sheet::new(1280, 720);
        // Version 40, as large as it fits; its neighbour's finder patterns offer false partners.
        let text: Vec<u8> = (0..2_200).map(|_| random.next() as u8).collect();
        for left in [5, 650] {
            sheet.draw(&text, (left, 20), 3);
        }
        for _ in 0..damage {
            let at = (random.below(1280) as usize, random.below(720) as usize);
            sheet.fill(at, 3 + random.below(9) as usize, random.next() as u8);
        }
        all.push((format!("two codes of version 40, damaged {damage} times"), sheet.frame()));
    }
    all
}
