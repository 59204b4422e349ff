//! Points in time, told by whoever has a clock.

use core::time::Duration;

/// A point in wall-clock time: microseconds since 1970-01-01T00:00:00Z.
///
/// For people and reports. What is measured and limited runs on a monotonic clock, elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// A point in time from microseconds since the Unix epoch.
    pub const fn from_unix_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn unix_micros(self) -> i64 {
        self.0
    }

    /// Time from `earlier` to here; zero when the clock was set back in between.
    pub const fn since(self, earlier: Self) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        if micros > 0 {
            Duration::from_micros(micros.unsigned_abs())
        } else {
            Duration::ZERO
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_measures_zero() {
        let early = Timestamp::from_unix_micros(1_000);
        let late = Timestamp::from_unix_micros(3_500);
        assert_eq!(late.since(early), Duration::from_micros(2_500));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
