//! Scaling down by area averaging: each output pixel is the mean of the source area it covers, so that
//! thin modules turn grey instead of vanishing.

use super::Luma;

/// Weights sum to this for every output pixel of a row or a column.
const ONE: u32 = 1 << 12;

/// Scales the image down so that its long side fits; a smaller image stays as it is.
pub(super) fn to_fit(width: u32, height: u32, pixels: Vec<u8>, side_px_max: u32) -> Luma {
    let long = width.max(height);
    let (source_width, source_height) = (width, height);
    if long <= side_px_max {
        return Luma { width, height, pixels, source_width, source_height };
    }
    let fit = |side: u32| {
        let scaled = u64::from(side) * u64::from(side_px_max) / u64::from(long);
        u32::try_from(scaled).unwrap_or(side_px_max).max(1)
    };
    let (width, height) = (fit(width), fit(height));
    let columns = spans(source_width, width);
    let rows = spans(source_height, height);
    let stride = source_width as usize;
    let mut scaled = Vec::with_capacity(width as usize * height as usize);
    let mut sums = vec![0_u64; width as usize];
    for row in &rows {
        sums.fill(0);
        let lines = pixels.chunks_exact(stride).skip(row.start);
        for (line, &weight) in lines.zip(&row.weights) {
            add_line(line, &columns, u64::from(weight), &mut sums);
        }
        scaled.extend(sums.iter().map(|&sum| {
            let rounded = (sum + u64::from(ONE / 2) * u64::from(ONE)) / (u64::from(ONE) * u64::from(ONE));
            u8::try_from(rounded).unwrap_or(u8::MAX)
        }));
    }
    Luma { width, height, pixels: scaled, source_width, source_height }
}

/// The source pixels that one output pixel covers along one axis.
struct Span {
    start: usize,
    weights: Vec<u32>,
}

fn add_line(line: &[u8], columns: &[Span], weight: u64, sums: &mut [u64]) {
    for (column, sum) in columns.iter().zip(sums) {
        let covered = line.iter().skip(column.start).zip(&column.weights);
        let part: u32 = covered.map(|(&pixel, &weight)| u32::from(pixel) * weight).sum();
        *sum += u64::from(part) * weight;
    }
}

fn spans(source: u32, target: u32) -> Vec<Span> {
    let (source, target) = (u64::from(source), u64::from(target));
    (0..target)
        .map(|index| {
            // Positions in units of 1/target of a source pixel, so that all of it is whole numbers.
            let (from, to) = (index * source, (index + 1) * source);
            let (first, last) = (from / target, (to - 1) / target);
            let mut weights: Vec<u32> = (first..=last)
                .map(|pixel| {
                    let covered = (to.min((pixel + 1) * target)) - from.max(pixel * target);
                    u32::try_from(covered * u64::from(ONE) / source).unwrap_or(ONE)
                })
                .collect();
            // Rounding down lost a little of the whole: the middle pixel takes it.
            let middle = weights.len() / 2;
            let lost = ONE - weights.iter().sum::<u32>().min(ONE);
            if let Some(weight) = weights.get_mut(middle) {
                *weight += lost;
            }
            Span { start: usize::try_from(first).unwrap_or(usize::MAX), weights }
        })
        .collect()
}
