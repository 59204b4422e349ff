//! What the daemon itself uses, without its guests.

/// What the daemon itself uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Process {
    /// CPU time, user and system, in seconds.
    pub(crate) cpu_seconds: f64,
    /// Resident memory, in bytes.
    pub(crate) resident_bytes: u64,
    /// Descriptors that are open.
    pub(crate) open_descriptors: u64,
    /// Descriptors that may be open.
    pub(crate) max_descriptors: u64,
}

/// Has a look; `None` where `/proc` does not tell, as nowhere but on Linux.
#[cfg(not(target_os = "linux"))]
pub(crate) const fn look() -> Option<Process> {
    None
}

/// Has a look; `None` where `/proc` does not tell. Takes some microseconds, and one more for each open descriptor.
#[cfg(target_os = "linux")]
pub(crate) fn look() -> Option<Process> {
    use std::fs;

    use rustix::process::{Resource, getrlimit};

    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    // Reading the directory takes a descriptor itself.
    let open = fs::read_dir("/proc/self/fd")
        .ok()?
        .count()
        .saturating_sub(1);
    Some(Process {
        cpu_seconds: cpu_ticks(&stat)? / ticks_per_second(),
        resident_bytes: pages.saturating_mul(rustix::param::page_size() as u64),
        open_descriptors: open as u64,
        max_descriptors: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
    })
}

/// Fields 14 and 15 of `/proc/self/stat`, utime and stime (proc(5)). The name in field 2 can have spaces and
/// parentheses, so counting begins behind its last one.
#[cfg(target_os = "linux")]
fn cpu_ticks(stat: &str) -> Option<f64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(f64::from(user) + f64::from(system))
}

#[cfg(target_os = "linux")]
fn ticks_per_second() -> f64 {
    u32::try_from(rustix::param::clock_ticks_per_second()).map_or(100.0, f64::from)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn reads_the_fields_behind_the_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 9 9 20 0 1 0 100 0 0";
        assert!((cpu_ticks(stat).unwrap() - 200.0).abs() < f64::EPSILON);
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn finds_itself_alive() {
        let before = look().unwrap();
        assert!(before.resident_bytes > 100_000, "{before:?}");
        assert!(before.open_descriptors >= 3, "{before:?}");
        assert!(before.max_descriptors >= before.open_descriptors);
        let _more: Vec<_> = (0..5)
            .map(|_| std::fs::File::open("/dev/null").unwrap())
            .collect();
        // Other tests of this process open and close descriptors meanwhile; some of ours are there in any case.
        assert!(look().unwrap().open_descriptors >= 5);
    }
}
