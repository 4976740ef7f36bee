//! How fast memory grows over the cycles of a long run, and how sure that is. Pure.
#![forbid(unsafe_code)]

use serde::Serialize;

/// With fewer points there is no interval.
const POINTS_MIN: usize = 4;
/// There are as many slopes as pairs of points: of more points every so-manieth is taken.
const POINTS_MAX: usize = 1_000;
/// Standard deviations to either side that hold 95 % of a normal distribution.
const DEVIATIONS: f64 = 1.96;

/// A line through points that single ones do not bend, by Theil and Sen: the median of the slopes of all pairs. A single step up, such as a
/// table that got its last page, leaves most pairs on the same side of it, and so is no slope.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Growth {
    pub(super) bytes_per_hour: f64,
    /// The interval that holds it with 95 %, if the deviations of the points are independent.
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Growth {
    /// Of points of seconds and bytes, in the order of time.
    pub(super) fn of(points: &[(f64, f64)]) -> Option<Growth> {
        let points: Vec<_> = points.iter().step_by(points.len().div_ceil(POINTS_MAX).max(1)).copied().collect();
        if points.len() < POINTS_MIN {
            return None;
        }
        let later = |at: usize| points[at + 1..].iter().map(move |point| (point, at));
        let pairs = (0..points.len()).flat_map(later).map(|(point, at)| (points[at], *point));
        let mut slopes: Vec<f64> = pairs.map(|(from, to)| (to.1 - from.1) / (to.0 - from.0) * 3_600.0).collect();
        slopes.sort_by(f64::total_cmp);
        let n = points.len() as f64;
        // By how many of the pairs the rising ones outnumber the falling ones by chance, where nothing grows (Kendall).
        let chance = DEVIATIONS * (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
        let outside = ((slopes.len() as f64 - chance) / 2.0).max(1.0) as usize - 1;
        let middle = slopes.len() / 2;
        let median = if slopes.len() % 2 == 1 { slopes[middle] } else { (slopes[middle - 1] + slopes[middle]) / 2.0 };
        Some(Growth { bytes_per_hour: median, low: slopes[outside], high: slopes[slopes.len() - 1 - outside] })
    }

    /// For a reader, in MB an hour.
    pub(super) fn words(&self) -> String {
        let [median, low, high] = [self.bytes_per_hour, self.low, self.high].map(|bytes| bytes / 1e6);
        format!("{median:+.2} MB an hour [{low:+.2}, {high:+.2}]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_half_minute(count: usize, bytes: impl Fn(usize) -> f64) -> Option<Growth> {
        let points: Vec<_> = (0..count).map(|at| (30.0 * at as f64, bytes(at))).collect();
        Growth::of(&points)
    }

    /// Up and down by so much, without order.
    fn noise(at: usize) -> f64 {
        ((at * 7_919 + 13) % 101) as f64 / 50.0 - 1.0
    }

    #[test]
    fn a_slope_is_found_in_noise_and_its_interval_holds_it() {
        // A byte each second, in noise of two minutes' growth.
        let growth = every_half_minute(30, |at| 30.0 * at as f64 + 120.0 * noise(at)).expect("enough");
        assert!(growth.low < 3_600.0 && growth.high > 3_600.0 && growth.low > 0.0, "{growth:?}");
        assert!((growth.bytes_per_hour - 3_600.0).abs() < 720.0, "{growth:?}");
        let level = every_half_minute(30, |at| 1e6 + 120.0 * noise(at)).expect("enough");
        assert!(level.low < 0.0 && level.high > 0.0, "{level:?}");
        let exact = every_half_minute(4, |at| 30.0 * at as f64).expect("enough");
        assert_eq!((exact.bytes_per_hour, exact.low, exact.high), (3_600.0, 3_600.0, 3_600.0));
        assert_eq!(every_half_minute(3, |at| at as f64), None);
        assert_eq!(every_half_minute(0, |at| at as f64), None);
    }

    #[test]
    fn a_single_step_is_no_slope() {
        for place in 0..30 {
            let growth = every_half_minute(30, |at| if at < place { 0.0 } else { 1e7 } + 1_000.0 * noise(at)).expect("enough");
            assert!(growth.low < 1e5, "{place}: {growth:?}");
        }
    }

    #[test]
    fn very_many_cycles_are_thinned_out() {
        let growth = every_half_minute(20_000, |at| 30.0 * at as f64).expect("enough");
        assert!((growth.bytes_per_hour - 3_600.0).abs() < 1e-6, "{growth:?}");
    }

    #[test]
    fn its_words_have_signs() {
        let growth = Growth { bytes_per_hour: 1.5e6, low: -2e6, high: 4.25e6 };
        assert_eq!(growth.words(), "+1.50 MB an hour [-2.00, +4.25]");
    }
}
