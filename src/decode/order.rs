//! Codes of one frame in reading order, each once.

use std::cmp::Reverse;

use super::cascade::{Code, Point};

/// Sorts codes top to bottom, and left to right within a row; drops every code whose payload stands
/// earlier.
///
/// A code belongs to a row when its centre lies less than half a code's height from the centre of the
/// row's topmost code: a sheet held at an angle keeps its rows.
pub fn reading_order(codes: Vec<Code>) -> Vec<Code> {
    let mut placed: Vec<Placed> = codes.into_iter().map(Placed::new).collect();
    placed.sort_by_key(|code| (code.y, code.x, Reverse(code.height)));
    let mut row = 0;
    let mut row_end = i64::MIN;
    for code in &mut placed {
        if code.y > row_end {
            row += 1;
            row_end = code.y + code.height / 2;
        }
        code.row = row;
    }
    placed.sort_by_key(|code| (code.row, code.x, code.y));
    let mut ordered: Vec<Code> = Vec::with_capacity(placed.len());
    for Placed { code, .. } in placed {
        let repeated = ordered.iter().any(|earlier| earlier.payload == code.payload && code.payload.is_ok());
        if !repeated {
            ordered.push(code);
        }
    }
    ordered
}

struct Placed {
    code: Code,
    /// Centre and height, in pixels.
    x: i64,
    y: i64,
    height: i64,
    row: u32,
}

impl Placed {
    fn new(code: Code) -> Self {
        let sum = |of: fn(&Point) -> i32| code.points.iter().map(|point| i64::from(of(point))).sum::<i64>();
        let ys = || code.points.iter().map(|point| i64::from(point.y));
        let height = ys().max().unwrap_or_default() - ys().min().unwrap_or_default();
        let (x, y) = (sum(|point| point.x), sum(|point| point.y));
        Self { x: x / 4, y: y / 4, height, row: 0, code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::cascade::{Decoder, PayloadRefusal};

    fn code(text: &str, x: i32, y: i32, side: i32) -> Code {
        let points = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)];
        Code {
            payload: Ok(text.to_owned()),
            decoder: Decoder::Quircs,
            points: points.map(|(x, y)| Point { x, y }),
        }
    }

    fn texts(codes: Vec<Code>) -> Vec<String> {
        codes.into_iter().map(|code| code.payload.unwrap()).collect()
    }

    #[test]
    fn rows_are_read_left_to_right_though_they_slant() {
        let codes = vec![
            code("d", 210, 205, 100),
            code("b", 200, 30, 100),
            code("c", 0, 190, 100),
            code("a", 0, 0, 100),
        ];
        assert_eq!(texts(reading_order(codes)), ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_payload_stands_once_where_it_is_read_first() {
        let codes = vec![code("b", 0, 200, 50), code("a", 0, 100, 50), code("b", 0, 0, 50)];
        assert_eq!(texts(reading_order(codes)), ["b", "a"]);
    }

    #[test]
    fn refused_codes_keep_their_places_and_are_not_one() {
        let refused = |y| Code { payload: Err(PayloadRefusal::NotUtf8), ..code("", 0, y, 50) };
        let ordered = reading_order(vec![refused(200), code("a", 0, 100, 50), refused(0)]);
        let kinds: Vec<bool> = ordered.iter().map(|code| code.payload.is_ok()).collect();
        assert_eq!(kinds, [false, true, false]);
    }

    #[test]
    fn wild_corners_order_without_overflow() {
        let wild = |x, y| Code { points: [Point { x, y }; 4], ..code("a", 0, 0, 1) };
        assert_eq!(reading_order(vec![wild(i32::MAX, i32::MIN), wild(i32::MIN, i32::MAX)]).len(), 1);
    }
}
