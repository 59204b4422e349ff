//! How long to leave the control plane alone.

use std::time::Duration;

/// After how many failures in a row which pause; after more of them the last one.
const PAUSES: [u64; 5] = [1, 2, 4, 8, 10];

/// The longest that a control plane can ask to be left alone. It asks in a header that anybody in its place could send.
const LONGEST: Duration = Duration::from_secs(300);

/// The shortest: "at once" would be a loop.
const SHORTEST: Duration = Duration::from_secs(1);

/// How long to wait after so many failures in a row, at least one, where the control plane asked for this much or for
/// nothing. Up to a fifth longer or shorter by chance, so that many daemons do not come back at the same moment; never
/// shorter than what was asked for.
pub(crate) fn pause(failures: u32, asked: Option<Duration>) -> Duration {
    pause_with(failures, asked, fastrand::f64())
}

/// The same with a chance between 0 and 1.
fn pause_with(failures: u32, asked: Option<Duration>, chance: f64) -> Duration {
    if let Some(asked) = asked {
        return asked.clamp(SHORTEST, LONGEST).mul_f64(1.0 + 0.2 * chance);
    }
    let step = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX);
    let seconds = PAUSES[step.min(PAUSES.len() - 1)];
    Duration::from_secs(seconds).mul_f64(0.8 + 0.4 * chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_ten_seconds_with_a_fifth_of_chance() {
        for (failures, seconds) in [
            (1, 1),
            (2, 2),
            (3, 4),
            (4, 8),
            (5, 10),
            (6, 10),
            (u32::MAX, 10),
        ] {
            let base = Duration::from_secs(seconds);
            assert_eq!(pause_with(failures, None, 0.0), base.mul_f64(0.8));
            assert_eq!(pause_with(failures, None, 0.5), base);
            assert_eq!(pause_with(failures, None, 1.0), base.mul_f64(1.2));
        }
    }

    #[test]
    fn what_is_asked_for_is_honoured_within_bounds() {
        for (asked, least, most) in [(0, 1.0, 1.2), (30, 30.0, 36.0), (86_400, 300.0, 360.0)] {
            let asked = Some(Duration::from_secs(asked));
            assert_eq!(pause_with(1, asked, 0.0), Duration::from_secs_f64(least));
            assert_eq!(pause_with(9, asked, 1.0), Duration::from_secs_f64(most));
        }
    }
}
