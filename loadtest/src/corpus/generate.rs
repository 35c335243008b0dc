//! Camera-like frames: a printed code held before a cheap camera under uneven light.
//!
//! Each frame depends on its seed and index alone. What varies: version 3–19, error correction, text, distance
//! (pixels a module), rotation, tilt in perspective, gradient of light and vignette, contrast, defocus, motion,
//! sensor noise, and the clutter around the paper. Frames in which no decoder could be expected to read
//! (modules of 2.6 px, tilted and blurred) are part of it, as they are of life.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "pictures"
)]
#![allow(
    clippy::indexing_slicing,
    clippy::many_single_char_names,
    reason = "pictures, and geometry's own names"
)]

use qrcode::{EcLevel, QrCode, Version};

/// Pixels a row.
pub const WIDTH: usize = 640;
/// Rows.
pub const HEIGHT: usize = 480;

/// Paper around the code, in modules.
const QUIET: f32 = 4.0;

/// A rendered frame and what it says.
pub struct Rendered {
    /// What the code says.
    pub text: String,
    /// Luma, row by row.
    pub luma: Vec<u8>,
}

/// Frame `index` of a seed.
pub fn frame(seed: u64, index: u64) -> Rendered {
    let mut random =
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index.wrapping_mul(0xd1b5_4a32_d192_ed03));
    let version = 3 + i16::try_from(random.below(17)).unwrap_or_default();
    let (code, text) = code(version, &mut random);
    render(&code, text, &mut random)
}

/// A frame that says `text`, in the smallest version that holds it; none if no code does.
pub fn frame_of(text: &str, seed: u64) -> Option<Rendered> {
    let code = QrCode::with_error_correction_level(text.as_bytes(), EcLevel::M).ok()?;
    Some(render(&code, text.to_owned(), &mut Random(seed)))
}

fn render(code: &QrCode, text: String, random: &mut Random) -> Rendered {
    let scene = Scene::new(code, random);
    let mut luma = scene.render();
    blur(&mut luma, random.between(0.3, 1.3));
    if random.below(4) == 0 {
        motion(&mut luma, random.between(1.0, 3.0), random.below(2) == 0);
    }
    let noise = random.between(1.0, 9.0);
    let luma = luma.iter().map(|&value| to_byte(value + noise * random.normal())).collect();
    Rendered { text, luma }
}

/// Encodes as a camera does: colour, 4:2:0.
pub fn jpeg(frame: &Rendered, quality: u8) -> anyhow::Result<Vec<u8>> {
    // A warm light: the planes are not grey.
    let rgb: Vec<u8> = frame
        .luma
        .iter()
        .flat_map(|&luma| {
            let luma = f32::from(luma);
            [to_byte(luma * 1.04 + 2.0), to_byte(luma), to_byte(luma * 0.92)]
        })
        .collect();
    let mut bytes = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, quality);
    encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::R_4_2_0);
    encoder.encode(&rgb, u16::try_from(WIDTH)?, u16::try_from(HEIGHT)?, jpeg_encoder::ColorType::Rgb)?;
    Ok(bytes)
}

fn code(version: i16, random: &mut Random) -> (QrCode, String) {
    let level = *random.pick(&[EcLevel::L, EcLevel::M, EcLevel::M, EcLevel::Q]);
    let kind = random.below(3);
    let mut length = 1200;
    loop {
        let text = text(kind, length, random);
        if let Ok(code) = QrCode::with_version(text.as_bytes(), Version::Normal(version), level) {
            return (code, text);
        }
        length = length * 9 / 10;
    }
}

fn text(kind: u64, length: usize, random: &mut Random) -> String {
    const BASE45: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:";
    const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut draw = |alphabet: &[u8], length: usize| -> String {
        (0..length).map(|_| char::from(*random.pick(alphabet))).collect()
    };
    match kind {
        0 => format!("SG1:{}", draw(BASE45, length)),
        1 => format!("https://example.org/{}", draw(BASE64, length)),
        _ => format!("{}|Trần Thị Ở|{}", draw(b"0123456789", 12), draw(BASE64, length)),
    }
}

/// The plane of the paper before the camera, and the light on it.
struct Scene {
    modules: Vec<bool>,
    side: usize,
    /// Maps frame pixels to paper, in modules from the code's corner.
    map: [f32; 9],
    black: f32,
    white: f32,
    background: f32,
    stripes: f32,
    light: [f32; 3],
    vignette: f32,
}

impl Scene {
    fn new(code: &QrCode, random: &mut Random) -> Self {
        let side = code.width();
        let modules = code.to_colors().into_iter().map(|color| color == qrcode::Color::Dark).collect();
        let whole = side as f32 + 2.0 * QUIET;
        // The whole paper must be within the frame, whatever its rotation would like.
        let module_px = random.between(2.6, 6.5).min(440.0 / whole);
        let turn = random.between(-0.6, 0.6) + if random.below(8) == 0 { 1.6 } else { 0.0 };
        let (tilt_x, tilt_y) = (random.between(-0.55, 0.55), random.between(-0.55, 0.55));
        let centre = (320.0 + random.between(-60.0, 60.0), 240.0 + random.between(-20.0, 20.0));
        let direction = random.between(0.0, std::f32::consts::TAU);
        let strength = random.between(0.0, 0.55);
        Self {
            modules,
            side,
            map: invert(&projection(side as f32, module_px, turn, (tilt_x, tilt_y), centre)),
            black: random.between(20.0, 70.0),
            white: random.between(170.0, 245.0),
            background: random.between(40.0, 200.0),
            stripes: random.between(0.0, 40.0),
            light: [
                1.0 - strength / 2.0,
                strength * direction.cos() / 640.0,
                strength * direction.sin() / 480.0,
            ],
            vignette: random.between(0.0, 0.35),
        }
    }

    fn render(&self) -> Vec<f32> {
        let mut luma = Vec::with_capacity(WIDTH * HEIGHT);
        for y in 0..HEIGHT {
            for x in 0..WIDTH {
                let (x, y) = (x as f32, y as f32);
                // Nine samples a pixel stand for its area.
                let mut sum = 0.0;
                for sample in 0..9_u8 {
                    let (dx, dy) = (f32::from(sample % 3), f32::from(sample / 3));
                    sum += self.sample(x + (dx + 0.5) / 3.0, y + (dy + 0.5) / 3.0);
                }
                luma.push(sum / 9.0 * self.light_at(x, y));
            }
        }
        luma
    }

    fn sample(&self, x: f32, y: f32) -> f32 {
        let (u, v) = apply(&self.map, x, y);
        let side = self.side as f32;
        if u < -QUIET || v < -QUIET || u > side + QUIET || v > side + QUIET {
            return self.background + self.stripes * ((x / 23.0).sin() + (x / 61.0 + y / 17.0).sin());
        }
        if u < 0.0 || v < 0.0 || u >= side || v >= side {
            return self.white;
        }
        let dark = self.modules.get(v as usize * self.side + u as usize).copied().unwrap_or_default();
        if dark { self.black } else { self.white }
    }

    fn light_at(&self, x: f32, y: f32) -> f32 {
        let [base, across, down] = self.light;
        let (from_x, from_y) = ((x - 320.0) / 400.0, (y - 240.0) / 400.0);
        let fall = 1.0 - self.vignette * (from_x * from_x + from_y * from_y);
        (base + across * (x - 320.0) + down * (y - 240.0)) * fall
    }
}

/// Paper (in modules) to frame: turned, tilted and seen through a lens.
fn projection(side: f32, module_px: f32, turn: f32, tilt: (f32, f32), centre: (f32, f32)) -> [f32; 9] {
    const FOCAL_PX: f32 = 620.0;
    let (st, ct) = turn.sin_cos();
    let (sx, cx) = tilt.0.sin_cos();
    let (sy, cy) = tilt.1.sin_cos();
    // Columns of the rotation that the paper's axes take: Rx · Ry · Rz.
    let across = [cy * ct, cx * st + sx * sy * ct, sx * st - cx * sy * ct];
    let down = [-cy * st, cx * ct - sx * sy * st, sx * ct + cx * sy * st];
    let distance = FOCAL_PX / module_px;
    let half = side / 2.0;
    let at = |axis: usize| {
        let component = |vector: &[f32; 3]| vector.get(axis).copied().unwrap_or_default();
        let offset = -half * (component(&across) + component(&down));
        [component(&across), component(&down), offset + if axis == 2 { distance } else { 0.0 }]
    };
    let (row_x, row_y, row_z) = (at(0), at(1), at(2));
    let screen = |row: [f32; 3], middle: f32| {
        let [a, b, c] = row;
        let [za, zb, zc] = row_z;
        [FOCAL_PX * a + middle * za, FOCAL_PX * b + middle * zb, FOCAL_PX * c + middle * zc]
    };
    let ([a, b, c], [d, e, f], [g, h, i]) = (screen(row_x, centre.0), screen(row_y, centre.1), row_z);
    [a, b, c, d, e, f, g, h, i]
}

fn apply([a, b, c, d, e, f, g, h, i]: &[f32; 9], x: f32, y: f32) -> (f32, f32) {
    let z = g * x + h * y + i;
    ((a * x + b * y + c) / z, (d * x + e * y + f) / z)
}

/// Up to a factor, which a projection doesn't see.
fn invert([a, b, c, d, e, f, g, h, i]: &[f32; 9]) -> [f32; 9] {
    [
        e * i - f * h,
        c * h - b * i,
        b * f - c * e,
        f * g - d * i,
        a * i - c * g,
        c * d - a * f,
        d * h - e * g,
        b * g - a * h,
        a * e - b * d,
    ]
}

/// A Gaussian, one axis after the other.
fn blur(luma: &mut [f32], sigma: f32) {
    let kernel: Vec<f32> =
        (-4..=4_i8).map(|at| (-f32::from(at).powi(2) / (2.0 * sigma * sigma)).exp()).collect();
    convolve(luma, &kernel, true);
    convolve(luma, &kernel, false);
}

fn motion(luma: &mut [f32], length: f32, across: bool) {
    let kernel: Vec<f32> =
        (-4..=4_i8).map(|at| (length / 2.0 + 0.5 - f32::from(at).abs()).clamp(0.0, 1.0)).collect();
    convolve(luma, &kernel, across);
}

fn convolve(luma: &mut [f32], kernel: &[f32], across: bool) {
    let source = luma.to_vec();
    let total: f32 = kernel.iter().sum();
    let reach = kernel.len() / 2;
    for (at, out) in luma.iter_mut().enumerate() {
        let (x, y) = (at % WIDTH, at / WIDTH);
        let weighted = kernel.iter().enumerate().map(|(step, weight)| {
            let moved = |position: usize, end: usize| (position + step).saturating_sub(reach).min(end - 1);
            let near = if across { y * WIDTH + moved(x, WIDTH) } else { moved(y, HEIGHT) * WIDTH + x };
            weight * source.get(near).copied().unwrap_or_default()
        });
        *out = weighted.sum::<f32>() / total;
    }
}

fn to_byte(value: f32) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

/// SplitMix64: enough for pictures, and the same everywhere.
pub struct Random(pub u64);

impl Random {
    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn unit(&mut self) -> f32 {
        f32::from(u16::try_from(self.next() >> 48).unwrap_or_default()) / 65_536.0
    }

    fn between(&mut self, from: f32, to: f32) -> f32 {
        from + (to - from) * self.unit()
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let index = self.below(of.len() as u64) as usize;
        &of[index]
    }

    /// About normal, and cheap: a sum of four.
    fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: u32 = [0, 16, 32, 48]
            .iter()
            .map(|shift| u32::try_from((bits >> shift) & 0xffff).unwrap_or_default())
            .sum();
        (sum as f32 / 65_536.0 - 2.0) * 1.732
    }
}
