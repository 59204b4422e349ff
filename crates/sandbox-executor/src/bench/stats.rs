//! What samples say: percentiles, and rates.

use std::time::Duration;

/// Times of many runs, in order. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Samples(Vec<Duration>);

impl Samples {
    /// `None` where there is nothing to say anything about.
    pub(super) fn new(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        (!times.is_empty()).then_some(Self(times))
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest sample that so many percent of all samples do not exceed (the nearest rank). Of few samples, a high
    /// percentile is simply the largest one.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0[rank.min(self.0.len()) - 1]
    }

    pub(super) fn longest(&self) -> Duration {
        self.percentile(100)
    }

    /// What is shown of them.
    pub(super) fn latency(&self) -> Latency {
        Latency {
            samples: self.count(),
            p50: self.percentile(50),
            p95: self.percentile(95),
            p99: self.percentile(99),
        }
    }
}

/// How long runs took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Latency {
    /// How many were measured.
    pub samples: usize,
    pub p50: Duration,
    pub p95: Duration,
    pub p99: Duration,
}

/// What share one time is of another.
pub(super) fn ratio(of: Duration, to: Duration) -> f64 {
    of.as_secs_f64() / to.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// How many a second.
pub(super) fn rate(count: usize, within: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "nobody counts 2^52 runs")]
    let count = count as f64;
    count / within.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// In milliseconds, as people read them.
pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: impl IntoIterator<Item = u64>) -> Samples {
        Samples::new(times.into_iter().map(Duration::from_millis).collect()).unwrap()
    }

    #[test]
    fn a_percentile_is_a_sample_that_so_many_do_not_exceed() {
        let hundred = of((1..=100).rev());
        for percent in [1, 50, 95, 99, 100] {
            let expected = Duration::from_millis(percent as u64);
            assert_eq!(hundred.percentile(percent), expected, "{percent}");
        }
        assert_eq!(hundred.percentile(0), Duration::from_millis(1));
        assert_eq!(of([7]).percentile(99), Duration::from_millis(7));
        assert_eq!(of([3, 1, 2]).percentile(50), Duration::from_millis(2));
        // Of two, half do not exceed the smaller one.
        assert_eq!(of([1, 2]).percentile(50), Duration::from_millis(1));
        assert_eq!(of([1, 2]).percentile(51), Duration::from_millis(2));
        assert_eq!(of([3, 1]).longest(), Duration::from_millis(3));
    }

    #[test]
    fn nothing_has_no_percentiles() {
        assert_eq!(Samples::new(Vec::new()), None);
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "powers of two divide exactly")]
    fn ratios_and_rates_of_nothing_are_no_nonsense() {
        let second = Duration::from_secs(1);
        assert_eq!(ratio(second, second * 4), 0.25);
        assert_eq!(rate(8, second * 2), 4.0);
        assert_eq!(rate(0, Duration::ZERO), 0.0);
        assert!(ratio(second, Duration::ZERO).is_finite() || ratio(second, Duration::ZERO) > 1e300);
    }
}
