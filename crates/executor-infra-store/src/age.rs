//! How old things are, whatever the host's clock does.
//!
//! A clock that jumps a day ahead must not throw every result away, and one that jumps back must not keep them for ever.
//! So the store has a time of its own: seconds that it was open, measured by a clock that never jumps, and seconds in
//! between, as far as the host's clock tells them; those count for one lifetime of a result at most.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The host's clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Since some point in the past that stays the same as long as the process lives.
    pub steady: Duration,
    /// Seconds since 1970, as the host believes.
    pub wall: i64,
}

/// Looks at the host's clocks.
pub(crate) type Clocks = Box<dyn Fn() -> Moment + Send>;

/// The clocks of this host.
pub(crate) fn host() -> Clocks {
    let begun = Instant::now();
    Box::new(move || {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Moment {
            steady: begun.elapsed(),
            wall: seconds(since_1970),
        }
    })
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// What is remembered of the store's time from one opening to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// The store's time, in seconds.
    pub age: i64,
    /// The host's clock at that time.
    pub wall: i64,
}

/// The store's time.
pub(crate) struct StoreTime {
    clocks: Clocks,
    /// When it was opened.
    opened: Duration,
    /// Its time then, in seconds.
    age: i64,
}

impl StoreTime {
    /// Goes on from what was remembered.
    pub(crate) fn open(clocks: Clocks, remembered: Option<Remembered>, ttl: Duration) -> Self {
        let now = clocks();
        let age = remembered.map_or(0, |then| {
            let away = now.wall.saturating_sub(then.wall);
            then.age.saturating_add(away.clamp(0, seconds(ttl)))
        });
        Self {
            opened: now.steady,
            clocks,
            age,
        }
    }

    /// The store's time, in seconds.
    pub(crate) fn now(&self) -> i64 {
        let open = (self.clocks)().steady.saturating_sub(self.opened);
        self.age.saturating_add(seconds(open))
    }

    pub(crate) fn to_remember(&self) -> Remembered {
        Remembered {
            age: self.now(),
            wall: (self.clocks)().wall,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn clocks(steady: u64, wall: i64) -> (Clocks, Arc<Mutex<Moment>>) {
        let moment = Arc::new(Mutex::new(Moment {
            steady: Duration::from_secs(steady),
            wall,
        }));
        let shown = Arc::clone(&moment);
        (Box::new(move || *shown.lock().unwrap()), moment)
    }

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_jump_while_it_is_open_changes_nothing() {
        let (clocks, moment) = clocks(5, 1_000_000);
        let time = StoreTime::open(clocks, None, DAY);
        assert_eq!(time.now(), 0);
        for wall in [0, 9_000_000_000, -5] {
            moment.lock().unwrap().wall = wall;
            assert_eq!(time.now(), 0);
        }
        moment.lock().unwrap().steady += Duration::from_secs(90);
        assert_eq!(time.now(), 90);
        assert_eq!(time.to_remember(), Remembered { age: 90, wall: -5 });
    }

    #[test]
    fn time_away_counts_for_one_lifetime_and_never_backwards() {
        let then = Remembered {
            age: 100,
            wall: 1_000_000,
        };
        for (wall, age) in [
            (1_000_050, 150),
            (999_000, 100),
            (9_000_000_000, 100 + 86_400),
        ] {
            let time = StoreTime::open(clocks(0, wall).0, Some(then), DAY);
            assert_eq!(time.now(), age, "{wall}");
        }
    }
}
