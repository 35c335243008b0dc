//! How many scans a second, over time: straight pieces, and the moment at which the n-th scan is due.

use std::time::Duration;

/// Rate over time as a line through points.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Seconds and arrivals a second, in order of time.
    points: Vec<(f64, f64)>,
}

impl Profile {
    /// One rate.
    pub fn constant(rate: f64, seconds: f64) -> Self {
        Self { points: vec![(0.0, rate), (seconds, rate)] }
    }

    /// Through these points.
    pub fn through(points: Vec<(f64, f64)>) -> Self {
        Self { points }
    }

    /// All arrivals.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A count from a positive area.
    pub fn arrivals(&self) -> u64 {
        self.pieces().map(|piece| piece.area()).sum::<f64>().floor() as u64
    }

    /// When arrival `n` (from 0) is due; none after the last one.
    #[allow(clippy::cast_precision_loss)] // Arrivals stay far below 2^52.
    pub fn due(&self, n: u64) -> Option<Duration> {
        let mut left = n as f64;
        for piece in self.pieces() {
            if left < piece.area() {
                return Some(Duration::from_secs_f64(piece.start_s + piece.time_of(left)));
            }
            left -= piece.area();
        }
        None
    }

    fn pieces(&self) -> impl Iterator<Item = Piece> {
        self.points.iter().zip(self.points.iter().skip(1)).map(|(from, to)| Piece {
            start_s: from.0,
            length_s: to.0 - from.0,
            from: from.1,
            to: to.1,
        })
    }
}

struct Piece {
    start_s: f64,
    length_s: f64,
    from: f64,
    to: f64,
}

impl Piece {
    fn area(&self) -> f64 {
        f64::midpoint(self.from, self.to) * self.length_s
    }

    /// The time after which `count` arrivals have come: the area under a sloping line, solved for time.
    fn time_of(&self, count: f64) -> f64 {
        let slope = (self.to - self.from) / self.length_s;
        if slope.abs() < 1e-9 {
            return count / self.from;
        }
        ((self.from * self.from + 2.0 * slope * count).max(0.0).sqrt() - self.from) / slope
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_follow_the_line() {
        let steady = Profile::constant(100.0, 2.0);
        assert_eq!(steady.arrivals(), 200);
        assert_eq!(steady.due(100), Some(Duration::from_secs(1)));
        assert_eq!(steady.due(200), None);

        let ramp = Profile::through(vec![(0.0, 0.0), (10.0, 100.0), (20.0, 100.0)]);
        assert_eq!(ramp.arrivals(), 1500);
        assert_eq!(ramp.due(125).map(|due| due.as_secs_f64().round()), Some(5.0));
        assert_eq!(ramp.due(1000), Some(Duration::from_secs(15)));
        let due: Vec<_> = (0..1500).map(|n| ramp.due(n).unwrap()).collect();
        assert!(due.is_sorted());
    }
}
