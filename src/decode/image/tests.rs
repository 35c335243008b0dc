use super::*;

const LIMITS: Limits = Limits {
    frame_bytes_max: 262_144,
    pixels_max: 16_777_216,
    luma_side_px_max: 1280,
    decode_side_px_max: 1280,
};

fn kind(value: &str) -> Result<FrameKind, ContentTypeError> {
    FrameKind::from_content_type(value)
}

fn gradient_rgb(width: u16, height: u16) -> Vec<u8> {
    let (width, height) = (usize::from(width), usize::from(height));
    (0..width * height)
        .flat_map(|at| {
            let level = u8::try_from((at % width) * 255 / width).unwrap();
            [level, level, level]
        })
        .collect()
}

fn jpeg(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
    encoder.encode(&gradient_rgb(width, height), width, height, jpeg_encoder::ColorType::Rgb).unwrap();
    bytes
}

/// Writes another size into the frame header.
fn jpeg_saying(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = jpeg(64, 48);
    let header = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    bytes[header + 5..header + 7].copy_from_slice(&height.to_be_bytes());
    bytes[header + 7..header + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

fn png(width: u32, height: u32, color: ::png::ColorType, depth: ::png::BitDepth, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == ::png::ColorType::Indexed {
        encoder.set_palette(vec![0, 0, 0, 255, 255, 255, 255, 0, 0]);
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(data).unwrap();
    writer.finish().unwrap();
    bytes
}

/// Writes another size into the header, with a checksum that holds.
fn png_saying(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = png(8, 8, ::png::ColorType::Grayscale, ::png::BitDepth::Eight, &[0; 64]);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let mut checksum = flate2::Crc::new();
    checksum.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.sum().to_be_bytes());
    bytes
}

#[test]
fn content_types_are_read_and_everything_else_is_refused_by_name() {
    let luma = |width, height| Ok(FrameKind::Luma { width, height });
    assert_eq!(kind("image/jpeg"), Ok(FrameKind::Jpeg));
    assert_eq!(kind("Image/PNG"), Ok(FrameKind::Png));
    assert_eq!(kind("application/vnd.scangate.luma;w=640;h=480"), luma(640, 480));
    assert_eq!(kind("application/vnd.scangate.luma ; H=1 ;\tW=65535"), luma(65_535, 1));
    for (value, error) in [
        ("", ContentTypeError::Unsupported),
        ("image/gif", ContentTypeError::Unsupported),
        ("application/vnd.scangate.luma", ContentTypeError::Missing { name: 'w' }),
        ("application/vnd.scangate.luma;w=1", ContentTypeError::Missing { name: 'h' }),
        ("application/vnd.scangate.luma;w=1;w=1;h=1", ContentTypeError::Twice { name: 'w' }),
        ("application/vnd.scangate.luma;w=1;h=1;", ContentTypeError::Unknown),
        ("application/vnd.scangate.luma;w=1;h=1;x=1", ContentTypeError::Unknown),
        ("application/vnd.scangate.luma;w;h=1", ContentTypeError::Unknown),
    ] {
        assert_eq!(kind(value), Err(error), "{value}");
    }
    for value in ["0", "", "+1", "-1", "65536", "4294967297", "1e3", "0x10", "١"] {
        let value = format!("application/vnd.scangate.luma;w={value};h=1");
        assert_eq!(kind(&value), Err(ContentTypeError::Value { name: 'w', limit: 65_535 }), "{value}");
    }
}

#[test]
fn raw_luma_has_exactly_its_pixels() {
    let read =
        |width, height, bytes: usize| luma(&vec![9; bytes], FrameKind::Luma { width, height }, &LIMITS);
    assert_eq!(read(4, 3, 12).unwrap().pixels, [9; 12]);
    assert_eq!(read(4, 3, 11).unwrap_err(), ImageError::Length { limit: 12, value: 11 });
    assert_eq!(read(4, 3, 13).unwrap_err(), ImageError::Length { limit: 12, value: 13 });
    assert_eq!(read(1281, 1, 1281).unwrap_err(), ImageError::Side { side: 'w', limit: 1280, value: 1281 });
    assert_eq!(
        read(1, 65_535, 65_535).unwrap_err(),
        ImageError::Side { side: 'h', limit: 1280, value: 65_535 }
    );
    assert_eq!(read(0, 1, 0).unwrap_err(), ImageError::Side { side: 'w', limit: 1280, value: 0 });
    let huge = FrameKind::Luma { width: u32::MAX, height: u32::MAX };
    let limits = Limits { luma_side_px_max: u32::MAX, ..LIMITS };
    assert!(matches!(huge.check_length(1, &limits), Err(ImageError::Length { value: 1, .. })));
}

#[test]
fn files_past_their_bytes_are_refused_before_they_are_read() {
    let bytes = vec![0; 262_145];
    for (kind, format) in [(FrameKind::Jpeg, Format::Jpeg), (FrameKind::Png, Format::Png)] {
        let error = luma(&bytes, kind, &LIMITS).unwrap_err();
        assert_eq!(error, ImageError::BytesMax { format, limit: 262_144, value: 262_145 });
    }
}

#[test]
fn headers_past_the_pixels_or_past_belief_are_refused() {
    let error = luma(&jpeg_saying(65_535, 65_535), FrameKind::Jpeg, &LIMITS).unwrap_err();
    let limit = 16_777_216;
    assert_eq!(error, ImageError::PixelsMax { format: Format::Jpeg, limit, width: 65_535, height: 65_535 });
    let lying = jpeg_saying(4096, 4096);
    let error = luma(&lying, FrameKind::Jpeg, &LIMITS).unwrap_err();
    let value = lying.len();
    assert_eq!(error, ImageError::Lying { format: Format::Jpeg, width: 4096, height: 4096, value });
    assert!(luma(&jpeg_saying(0, 10), FrameKind::Jpeg, &LIMITS).is_err());

    let error = luma(&png_saying(65_535, 65_535), FrameKind::Png, &LIMITS).unwrap_err();
    assert_eq!(error, ImageError::PixelsMax { format: Format::Png, limit, width: 65_535, height: 65_535 });
    let lying = png_saying(4096, 4096);
    let error = luma(&lying, FrameKind::Png, &LIMITS).unwrap_err();
    let value = lying.len();
    assert_eq!(error, ImageError::Lying { format: Format::Png, width: 4096, height: 4096, value });
    assert!(luma(&png_saying(0, 10), FrameKind::Png, &LIMITS).is_err());
    assert!(luma(&png_saying(9, 9), FrameKind::Png, &LIMITS).is_err());
}

#[test]
fn broken_files_are_refused_or_read_in_part_but_never_more() {
    for bytes in [&b""[..], b"\xff", b"\xff\xd8\xff", b"\x89PNG", b"\x89PNG\r\n\x1a\n", &[0; 100]] {
        for (kind, format) in [(FrameKind::Jpeg, Format::Jpeg), (FrameKind::Png, Format::Png)] {
            assert_eq!(luma(bytes, kind, &LIMITS).unwrap_err(), ImageError::Malformed { format });
        }
    }
    let whole = jpeg(64, 48);
    for length in 0..whole.len() {
        if let Ok(image) = luma(&whole[..length], FrameKind::Jpeg, &LIMITS) {
            assert_eq!((image.width, image.height, image.pixels.len()), (64, 48, 64 * 48));
        }
    }
    let whole = png(8, 8, ::png::ColorType::Grayscale, ::png::BitDepth::Eight, &[7; 64]);
    for length in 0..whole.len() - 16 {
        assert!(luma(&whole[..length], FrameKind::Png, &LIMITS).is_err(), "{length}");
    }
}

#[test]
fn jpeg_becomes_luma_whatever_its_planes() {
    let close = |image: &Luma| {
        let line = image.pixels.get(..64).unwrap();
        line.iter()
            .enumerate()
            .all(|(x, &level)| (i32::from(level) - i32::try_from(x).unwrap() * 4).abs() < 12)
    };
    let image = luma(&jpeg(64, 48), FrameKind::Jpeg, &LIMITS).unwrap();
    assert!(close(&image));
    let gray: Vec<u8> = gradient_rgb(64, 48).chunks(3).map(|rgb| rgb[0]).collect();
    let mut bytes = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
    encoder.encode(&gray, 64, 48, jpeg_encoder::ColorType::Luma).unwrap();
    assert!(close(&luma(&bytes, FrameKind::Jpeg, &LIMITS).unwrap()));
    let mut bytes = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
    encoder.set_progressive(true);
    encoder.encode(&gradient_rgb(64, 48), 64, 48, jpeg_encoder::ColorType::Rgb).unwrap();
    assert!(close(&luma(&bytes, FrameKind::Jpeg, &LIMITS).unwrap()));
    // Ink takes light away.
    let ink: Vec<u8> = gray.iter().flat_map(|&level| [0, 0, 0, 255 - level]).collect();
    let mut bytes = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
    encoder.encode(&ink, 64, 48, jpeg_encoder::ColorType::Cmyk).unwrap();
    let image = luma(&bytes, FrameKind::Jpeg, &LIMITS).unwrap();
    assert_eq!((image.width, image.height), (64, 48));
}

#[test]
fn png_becomes_luma_whatever_its_colours() {
    use ::png::{BitDepth, ColorType};
    let read = |color, depth, data: &[u8]| {
        luma(&png(2, 1, color, depth, data), FrameKind::Png, &LIMITS).unwrap().pixels
    };
    assert_eq!(read(ColorType::Grayscale, BitDepth::Eight, &[3, 200]), [3, 200]);
    assert_eq!(read(ColorType::Grayscale, BitDepth::One, &[0b0100_0000]), [0, 255]);
    assert_eq!(read(ColorType::Grayscale, BitDepth::Sixteen, &[3, 0, 200, 0]), [3, 200]);
    assert_eq!(read(ColorType::GrayscaleAlpha, BitDepth::Eight, &[0, 0, 0, 255]), [255, 0]);
    assert_eq!(read(ColorType::Rgb, BitDepth::Eight, &[255, 0, 0, 255, 255, 255]), [77, 255]);
    assert_eq!(read(ColorType::Rgba, BitDepth::Eight, &[0, 0, 0, 255, 0, 0, 0, 0]), [0, 255]);
    assert_eq!(read(ColorType::Indexed, BitDepth::Two, &[0b0110_0000]), [255, 77]);
}

#[test]
fn a_large_image_is_scaled_to_its_long_side_by_area() {
    let image = scale::to_fit(4, 2, vec![0, 100, 10, 30, 100, 200, 50, 70], 2);
    assert_eq!((image.width, image.height), (2, 1));
    assert_eq!(image.pixels, [100, 40]);
    assert_eq!((image.source_width, image.source_height), (4, 2));
    let even = scale::to_fit(1999, 1333, vec![201; 1999 * 1333], 1280);
    assert_eq!((even.width, even.height), (1280, 853));
    assert!(even.pixels.iter().all(|&pixel| pixel == 201));
    assert_eq!(even.pixels.len(), 1280 * 853);
    let thin = scale::to_fit(5000, 1, vec![7; 5000], 1280);
    assert_eq!((thin.width, thin.height), (1280, 1));
    let small = scale::to_fit(3, 3, vec![5; 9], 1280);
    assert_eq!((small.width, small.height), (3, 3));
}
