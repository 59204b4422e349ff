//! Every process of this host. From `/proc` on Linux, from ps(1) elsewhere: macOS has no other interface that safe code
//! can use, and its ps is the system's own.

use std::{io, time::Duration};

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub pid: i32,
    pub parent: i32,
    /// Its process group; `None` where its leader is outside of our process namespace.
    pub group: Option<i32>,
    /// Its session; `None` where its leader is outside of our process namespace, or it has ended since it was listed.
    pub session: Option<i32>,
    /// The user that it runs as.
    pub user: u32,
    /// Resident memory in bytes.
    pub memory: u64,
    /// User and system time.
    pub cpu: Duration,
    /// When it was started, in words that mean nothing but are the same as long as it lives.
    pub started: String,
    /// Dead, and not yet waited for.
    pub is_zombie: bool,
}

/// The number of a group or session, as the kernel tells it: zero stands for all those that have no number here, and so
/// makes nobody kin.
fn known(id: i32) -> Option<i32> {
    (id != 0).then_some(id)
}

/// Lists all processes. Blocks for a millisecond on Linux, ten or so on macOS.
#[cfg(target_os = "linux")]
pub(crate) fn list() -> io::Result<Vec<Entry>> {
    proc::list()
}

/// Lists all processes. Blocks for a millisecond on Linux, ten or so on macOS.
#[cfg(not(target_os = "linux"))]
pub(crate) fn list() -> io::Result<Vec<Entry>> {
    ps::list()
}

#[cfg(target_os = "linux")]
mod proc {
    use std::{fs, io, os::unix::fs::MetadataExt, time::Duration};

    use super::{Entry, known};

    /// Clock ticks per second in /proc: `USER_HZ`, 100 on every architecture that Linux runs Rust on (proc(5)).
    const TICKS: u64 = 100;

    pub(super) fn list() -> io::Result<Vec<Entry>> {
        let page = rustix::param::page_size() as u64;
        let entries = fs::read_dir("/proc")?.filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let pid: i32 = name.to_str()?.parse().ok()?;
            let directory = format!("/proc/{pid}");
            let user = fs::metadata(&directory).ok()?.uid();
            let stat = fs::read_to_string(format!("{directory}/stat")).ok()?;
            parse(pid, user, &stat, page)
        });
        Ok(entries.collect())
    }

    /// A line of `/proc/PID/stat` (proc(5)). The name in parentheses may hold anything.
    pub(super) fn parse(pid: i32, user: u32, stat: &str, page: u64) -> Option<Entry> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // Field 3 of the manual page, "state", is the first after the name.
        let field = |number: usize| fields.get(number - 3).copied();
        let number = |index: usize| field(index)?.parse::<u64>().ok();
        let id = |index: usize| field(index)?.parse::<i32>().ok();
        let ticks = number(14)? + number(15)?;
        Some(Entry {
            pid,
            parent: id(4)?,
            group: known(id(5)?),
            session: known(id(6)?),
            user,
            memory: number(24)? * page,
            cpu: Duration::from_millis(ticks * 1000 / TICKS),
            started: field(22)?.to_owned(),
            is_zombie: matches!(field(3)?, "Z" | "X"),
        })
    }
}

#[cfg(any(not(target_os = "linux"), test))]
mod ps {
    use std::{io, process::Command, time::Duration};

    use nix::unistd::Pid;

    use super::{Entry, known};

    /// By its path: nobody's PATH decides what runs outside of the sandbox.
    const PS: &str = "/bin/ps";

    /// One option for each column: after an equals sign, BSD's ps takes the rest of the word for a heading. The last
    /// column is the one with spaces.
    const COLUMNS: [&str; 8] = [
        "pid=", "ppid=", "pgid=", "uid=", "rss=", "time=", "stat=", "lstart=",
    ];

    pub(super) fn list() -> io::Result<Vec<Entry>> {
        let mut command = Command::new(PS);
        command.arg("-A").env_clear().env("LC_ALL", "C");
        for column in COLUMNS {
            command.args(["-o", column]);
        }
        let output = command.output()?;
        if !output.status.success() {
            return Err(io::Error::other(format!("{PS}: {}", output.status)));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let entries: Vec<_> = text.lines().filter_map(parse).map(with_session).collect();
        if entries.is_empty() {
            return Err(io::Error::other(format!(
                "{PS} says nothing that we understand"
            )));
        }
        Ok(entries)
    }

    /// ps cannot tell the session on macOS, where its column holds an address.
    fn with_session(entry: Entry) -> Entry {
        let session = nix::unistd::getsid(Some(Pid::from_raw(entry.pid)));
        Entry {
            session: session.ok().and_then(|id| known(id.as_raw())),
            ..entry
        }
    }

    /// A line of the columns above; `None` for one that is none.
    pub(super) fn parse(line: &str) -> Option<Entry> {
        let mut words = line.split_whitespace();
        let mut word = || words.next();
        let pid = word()?.parse().ok()?;
        let parent = word()?.parse().ok()?;
        let group = word()?.parse().ok()?;
        // nobody's is -2 on macOS, which other tools show as 4294967294.
        let user: i64 = word()?.parse().ok()?;
        let kibibytes: u64 = word()?.parse().ok()?;
        let cpu = parse_time(word()?)?;
        let is_zombie = word()?.starts_with('Z');
        let started: Vec<_> = words.collect();
        (!started.is_empty()).then(|| Entry {
            pid,
            parent,
            group: known(group),
            session: None,
            user: u32::try_from(user.rem_euclid(1 << 32)).unwrap_or(u32::MAX),
            memory: kibibytes << 10,
            cpu,
            started: started.join(" "),
            is_zombie,
        })
    }

    /// `[[days-]hours:]minutes:seconds[.hundredths]`: macOS never shows hours, Linux never hundredths.
    fn parse_time(text: &str) -> Option<Duration> {
        let (days, clock) = text.split_once('-').unwrap_or(("0", text));
        let (clock, hundredths) = clock.split_once('.').unwrap_or((clock, "0"));
        let mut seconds = 0_u64;
        for part in clock.split(':') {
            seconds = seconds.checked_mul(60)?.checked_add(part.parse().ok()?)?;
        }
        let days: u64 = days.parse().ok()?;
        let seconds = days.checked_mul(86_400)?.checked_add(seconds)?;
        let hundredths: u64 = hundredths.parse().ok()?;
        Some(Duration::from_secs(seconds) + Duration::from_millis(hundredths * 10))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_macos_prints_is_understood() {
            let text = "    1     0     1     0  21872   9:51.02 Ss   Tue Nov 24 02:00:01 2026    \n\
                        \x20 412   399   412   501   4096   0:00.01 S+   Tue Nov 24 02:17:29 2026    \n\
                        \x20 413     1   413    -2      0 123:45.67 Z    Tue Nov 24 02:17:29 2026    \n";
            let entries: Vec<_> = text.lines().filter_map(parse).collect();
            assert_eq!(entries.len(), 3);
            assert_eq!(
                entries[1],
                Entry {
                    pid: 412,
                    parent: 399,
                    group: Some(412),
                    session: None,
                    user: 501,
                    memory: 4 << 20,
                    cpu: Duration::from_millis(10),
                    started: "Tue Nov 24 02:17:29 2026".into(),
                    is_zombie: false,
                }
            );
            assert_eq!(entries[2].user, 4_294_967_294);
            assert!(entries[2].is_zombie);
            assert_eq!(entries[2].cpu, Duration::from_millis(7_425_670));
        }

        #[test]
        fn times_are_read_in_every_form() {
            for (text, seconds) in [("0:59", 59), ("01:00:01", 3601), ("2-00:00:03", 172_803)] {
                assert_eq!(
                    parse_time(text),
                    Some(Duration::from_secs(seconds)),
                    "{text}"
                );
            }
            for bad in ["", ":", "1:x", "-1:00", "9999999999999999999:00", "1:1.x"] {
                assert_eq!(parse_time(bad), None, "{bad}");
            }
        }

        #[test]
        fn a_line_that_is_none_is_passed_over() {
            for bad in ["", "  PID  PPID", "1 0 1 0 0 0:00 S", "1 0 1 0 0 now S Tue"] {
                assert_eq!(parse(bad), None, "{bad}");
            }
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };

    fn of(entries: &[Entry], pid: i32) -> Entry {
        let found = entries.iter().find(|entry| entry.pid == pid);
        found.unwrap().clone()
    }

    fn us(entries: &[Entry]) -> Entry {
        of(entries, nix::unistd::getpid().as_raw())
    }

    /// Whoever started us may be outside of our process namespace, and the kernel's number for that is zero.
    #[test]
    fn we_are_listed_as_we_are() {
        let us = us(&list().unwrap());
        assert_eq!(us.parent, nix::unistd::getppid().as_raw());
        assert_eq!(us.group, known(nix::unistd::getpgrp().as_raw()));
        let session = nix::unistd::getsid(None).unwrap();
        assert_eq!(us.session, known(session.as_raw()));
        assert_eq!(us.user, rustix::process::geteuid().as_raw());
        assert!(us.memory > 100 << 10 && !us.is_zombie, "{us:?}");
    }

    /// A group and a session that have a number wherever this runs.
    #[test]
    fn the_leader_of_a_session_is_listed_as_one() {
        let mut leader = Command::new("setsid")
            .args(["sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Once it speaks, it leads.
        let mut line = String::new();
        let mut output = BufReader::new(leader.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();

        let pid = leader.id().cast_signed();
        for entries in [proc::list().unwrap(), ps::list().unwrap()] {
            let found = of(&entries, pid);
            assert_eq!(found.parent, nix::unistd::getpid().as_raw());
            assert_eq!((found.group, found.session), (Some(pid), Some(pid)));
        }
        drop(leader.stdin.take());
        assert!(leader.wait().unwrap().success());
    }

    /// This host's ps is not macOS's, but takes the same options.
    #[test]
    fn both_ways_to_list_agree() {
        let (one, other) = (us(&proc::list().unwrap()), us(&ps::list().unwrap()));
        assert_eq!(
            (one.pid, one.parent, one.group, one.session, one.user),
            (
                other.pid,
                other.parent,
                other.group,
                other.session,
                other.user
            )
        );
        assert!(other.memory > 100 << 10 && !other.started.is_empty());
    }

    #[test]
    fn a_name_with_everything_in_it_misleads_nobody() {
        let stat = "7 (a) Z 1 (b) R 3 4 5 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0 777 4096 25 0";
        let entry = proc::parse(7, 501, stat, 4096).unwrap();
        assert_eq!(
            (entry.parent, entry.group, entry.session),
            (3, Some(4), Some(5))
        );
        assert_eq!((entry.memory, entry.started.as_str()), (25 * 4096, "777"));
        assert_eq!(entry.cpu, Duration::from_secs(2));
        assert!(!entry.is_zombie);
    }

    #[test]
    fn leaders_outside_of_the_namespace_are_nobody() {
        let stat = "7 (sh) S 0 0 0 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 777 4096 25 0";
        let entry = proc::parse(7, 501, stat, 4096).unwrap();
        assert_eq!((entry.group, entry.session), (None, None));
        let entry = ps::parse("7 0 0 501 4 0:00 S Tue Nov 24 02:00:01 2026").unwrap();
        assert_eq!((entry.group, entry.session), (None, None));
    }
}
