//! A second look at an image: noise smoothed, then edges sharpened.
//!
//! Cheap cameras blur and are noisy. A small binomial kernel takes the noise of single pixels away, and an
//! unsharp mask with the same kernel gives the edges between modules back what blur took. It helps where the
//! plain image fails, and not everywhere: so it is a view for later stages, never the first.

use crate::decode::image::Luma;

/// How many times the difference from the smoothed image is added. Between 4 and 8 it hardly matters on
/// generated frames; more reads more
/// of frames that are blurred, and less of frames that are noisy.
const GAIN: i16 = 6;

pub(super) fn sharpened(image: &Luma) -> Luma {
    let smooth = binomial(&image.pixels, image.width as usize);
    let smoother = binomial(&smooth, image.width as usize);
    let pixels = smooth.iter().zip(&smoother).map(|(&once, &twice)| {
        let (once, twice) = (i16::from(once), i16::from(twice));
        u8::try_from((once + GAIN * (once - twice)).clamp(0, 255)).unwrap_or_default()
    });
    Luma { pixels: pixels.collect(), ..*image }
}

/// The kernel 1 2 1 along both axes; pixels past the border are the border's.
fn binomial(pixels: &[u8], width: usize) -> Vec<u8> {
    let mut smooth = Vec::with_capacity(pixels.len());
    let mut columns = vec![0_u16; width + 2];
    let rows: Vec<&[u8]> = pixels.chunks_exact(width.max(1)).collect();
    let mut above = rows.first();
    let mut after = rows.iter().skip(1);
    for row in &rows {
        let below = after.next().unwrap_or(row);
        let three = above.unwrap_or(row).iter().zip(row.iter()).zip(below.iter());
        let inner = columns.get_mut(1..).unwrap_or_default();
        for (column, ((&a, &b), &c)) in inner.iter_mut().zip(three) {
            *column = u16::from(a) + 2 * u16::from(b) + u16::from(c);
        }
        if let [first, second, .., last_but_one, last] = columns.as_mut_slice() {
            (*first, *last) = (*second, *last_but_one);
        } else if let [first, only, last] = columns.as_mut_slice() {
            (*first, *last) = (*only, *only);
        }
        let (middle, right) = (columns.get(1..).unwrap_or_default(), columns.get(2..).unwrap_or_default());
        let three = columns.iter().zip(middle).zip(right);
        smooth.extend(three.map(|((&a, &b), &c)| u8::try_from((a + 2 * b + c + 8) >> 4).unwrap_or(u8::MAX)));
        above = Some(row);
    }
    smooth
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: u32, height: u32, pixels: Vec<u8>) -> Luma {
        Luma { width, height, pixels, source_width: width, source_height: height }
    }

    #[test]
    fn an_even_image_stays_as_it_is_at_any_size() {
        for (width, height) in [(1, 1), (1, 5), (5, 1), (2, 2), (3, 7)] {
            let pixels = vec![93; (width * height) as usize];
            assert_eq!(sharpened(&image(width, height, pixels.clone())).pixels, pixels, "{width}x{height}");
        }
    }

    #[test]
    fn a_lone_pixel_spreads_by_the_kernel() {
        let mut pixels = vec![0; 25];
        pixels[12] = 160;
        let smooth = binomial(&pixels, 5);
        assert_eq!(smooth[6..9], [10, 20, 10]);
        assert_eq!(smooth[11..14], [20, 40, 20]);
        assert_eq!(smooth[0..5], [0; 5]);
    }

    #[test]
    fn an_edge_gains_contrast() {
        let pixels = (0..8).flat_map(|_| [90, 90, 90, 90, 160, 160, 160, 160]).collect();
        let sharp = sharpened(&image(8, 8, pixels));
        assert!(sharp.pixels[26] < 90 && sharp.pixels[29] > 160, "{:?}", &sharp.pixels[24..32]);
    }
}
