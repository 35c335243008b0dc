use super::*;

/// A block of Exif with an orientation and, in a directory of GPS, a place: 21° N.
fn exif(orientation: u16) -> Vec<u8> {
    let mut tiff = b"II*\0\x08\0\0\0".to_vec();
    tiff.extend_from_slice(&[2, 0]);
    let mut entry = |tag: u16, kind: u16, count: u32, value: u32| {
        tiff.extend_from_slice(&tag.to_le_bytes());
        tiff.extend_from_slice(&kind.to_le_bytes());
        tiff.extend_from_slice(&count.to_le_bytes());
        tiff.extend_from_slice(&value.to_le_bytes());
    };
    entry(0x0112, 3, 1, u32::from(orientation));
    entry(0x8825, 4, 1, 38);
    tiff.extend_from_slice(&[0; 4]);
    // The directory of GPS: GPSLatitudeRef and GPSLatitude.
    tiff.extend_from_slice(b"\x02\0\x01\0\x02\0\x02\0\0\0N\0\0\0\x02\0\x05\0\x03\0\0\0\x48\0\0\0\0\0\0\0");
    for part in [21_u32, 1, 1, 1, 42, 1] {
        tiff.extend_from_slice(&part.to_le_bytes());
    }
    tiff.extend_from_slice(b"GPS-SPECIMEN-21-01-42");
    tiff
}

/// A JPEG whose left half is red and whose right half is blue, with segments of metadata put in.
fn jpeg(width: u16, height: u16, segments: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let rgb: Vec<u8> = (0..height)
        .flat_map(|_| (0..width).flat_map(|x| if x < width / 2 { [200, 0, 0] } else { [0, 0, 200] }))
        .collect();
    let mut plain = Vec::new();
    Encoder::new(&mut plain, 90).encode(&rgb, width, height, EncodedAs::Rgb).expect("encodes");
    let (start, rest) = plain.split_at(2);
    let mut out = start.to_vec();
    for (marker, body) in segments {
        let length = u16::try_from(body.len() + 2).expect("a segment");
        out.extend_from_slice(&[0xff, *marker]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(body);
    }
    out.extend_from_slice(rest);
    out
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Names of the segments before the scan, in order.
fn markers(jpeg: &[u8]) -> Vec<u8> {
    let mut markers = Vec::new();
    let mut at = 2;
    while let [0xff, marker, high, low, ..] = jpeg[at..] {
        markers.push(marker);
        if marker == 0xda {
            break;
        }
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
    }
    markers
}

#[test]
fn no_byte_of_metadata_survives() {
    let segments = [
        (0xe1, [&b"Exif\0\0"[..], &exif(1)].concat()),
        (0xe1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>XMP-SPECIMEN</x:xmpmeta>".to_vec()),
        (0xe2, b"ICC_PROFILE\0\x01\x01ICC-SPECIMEN".to_vec()),
        (0xed, b"Photoshop 3.0\0IPTC-SPECIMEN".to_vec()),
        (0xfe, b"COMMENT-SPECIMEN".to_vec()),
    ];
    let mut sent = jpeg(64, 32, &segments);
    sent.extend_from_slice(b"TRAILER-SPECIMEN");
    assert!(holds(&sent, b"GPS-SPECIMEN"));
    let kept = kept(&sent, Kind::Jpeg).expect("a photo");
    assert!(!holds(&kept, b"SPECIMEN") && !holds(&kept, b"Exif") && !holds(&kept, b"http"));
    // Eight bytes of metadata in a row would be a copy of it.
    for (_, body) in &segments {
        for piece in body.windows(8).filter(|piece| piece.iter().any(|byte| *byte != 0)) {
            assert!(!holds(&kept, piece), "{piece:?}");
        }
    }
    // JFIF's own 14 bytes, tables, frame and scan: no other segment is there.
    let named = markers(&kept);
    assert!(named.iter().all(|marker| matches!(marker, 0xe0 | 0xdb | 0xc0 | 0xc4 | 0xda)), "{named:x?}");
    assert_eq!(
        named.iter().position(|marker| *marker == 0xe0),
        named.iter().rposition(|marker| *marker == 0xe0)
    );
    assert!(kept.ends_with(&[0xff, 0xd9]));
}

fn decoded(jpeg: &[u8]) -> Picture {
    from_jpeg(jpeg).expect("what is kept is an image").0
}

fn is_red(picture: &Picture, x: u32, y: u32) -> bool {
    let [red, _, blue] = picture.rgb[(y * picture.width + x) as usize];
    red > 150 && blue < 80
}

#[test]
fn a_photo_is_turned_as_its_camera_was() {
    // Where the red half, left in the file, is to be seen: at the left, right, top or bottom.
    for (orientation, size, red, blue) in [
        (1, (64, 32), (4, 16), (60, 16)),
        (2, (64, 32), (60, 16), (4, 16)),
        (3, (64, 32), (60, 16), (4, 16)),
        (4, (64, 32), (4, 16), (60, 16)),
        (5, (32, 64), (16, 4), (16, 60)),
        (6, (32, 64), (16, 4), (16, 60)),
        (7, (32, 64), (16, 60), (16, 4)),
        (8, (32, 64), (16, 60), (16, 4)),
    ] {
        let sent = jpeg(64, 32, &[(0xe1, [&b"Exif\0\0"[..], &exif(orientation)].concat())]);
        let kept = decoded(&kept(&sent, Kind::Jpeg).expect("a photo"));
        assert_eq!((kept.width, kept.height), size, "{orientation}");
        assert!(is_red(&kept, red.0, red.1) && !is_red(&kept, blue.0, blue.1), "{orientation}");
    }
    assert_eq!([exif(0), exif(9), b"II*\0".to_vec(), vec![]].map(|exif| orientation(&exif)), [1; 4]);
}

#[test]
fn a_large_photo_is_scaled_down_and_a_small_one_is_not() {
    let large = decoded(&kept(&jpeg(3_200, 1_001, &[]), Kind::Jpeg).expect("a photo"));
    assert_eq!((large.width, large.height), (1_600, 500));
    assert!(is_red(&large, 10, 250) && !is_red(&large, 1_590, 250));
    let small = decoded(&kept(&jpeg(33, 17, &[]), Kind::Jpeg).expect("a photo"));
    assert_eq!((small.width, small.height), (33, 17));
    let thin = decoded(&kept(&jpeg(8_000, 1, &[]), Kind::Jpeg).expect("a photo"));
    assert_eq!((thin.width, thin.height), (1_600, 1));
}

fn png(width: u32, height: u32, color: ColorType, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(color);
    encoder.set_depth(BitDepth::Eight);
    encoder.add_text_chunk("Comment".to_owned(), "TEXT-SPECIMEN".to_owned()).expect("a chunk");
    let mut writer = encoder.write_header().expect("a header");
    writer.write_image_data(data).expect("data");
    writer.finish().expect("an end");
    out
}

#[test]
fn every_kind_of_png_is_read_over_white() {
    for (color, pixel, expected) in [
        (ColorType::Grayscale, &[90][..], [90; 3]),
        (ColorType::GrayscaleAlpha, &[0, 0], [255; 3]),
        (ColorType::Rgb, &[200, 100, 50], [200, 100, 50]),
        (ColorType::Rgba, &[0, 0, 0, 128], [127; 3]),
    ] {
        let kept = kept(&png(16, 16, color, &pixel.repeat(256)), Kind::Png).expect("a photo");
        assert!(!holds(&kept, b"SPECIMEN"));
        let kept = decoded(&kept);
        let close = kept.rgb[120].iter().zip(expected).all(|(kept, sent)| kept.abs_diff(sent) < 4);
        assert!(close, "{color:?}: {:?}", kept.rgb[120]);
    }
}

#[test]
fn what_is_too_large_broken_or_something_else_is_refused() {
    // A header that announces 65,000 by 65,000 and nothing behind it.
    let mut bomb = jpeg(64, 32, &[]);
    let frame = bomb.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame");
    bomb[frame + 5..frame + 9].copy_from_slice(&[0xfd, 0xe8, 0xfd, 0xe8]);
    assert_eq!(kept(&bomb, Kind::Jpeg), Err(PhotoError::Pixels(4_225_000_000)));
    let mut png = png(4, 4, ColorType::Rgb, &[0; 48]);
    assert_eq!(kept(&png, Kind::Jpeg), Err(PhotoError::Malformed));
    png.truncate(60);
    assert_eq!(kept(&png, Kind::Png), Err(PhotoError::Malformed));
    assert_eq!(kept(b"<svg/>", Kind::Png), Err(PhotoError::Malformed));
    assert_eq!(kept(&[], Kind::Jpeg), Err(PhotoError::Malformed));
}
