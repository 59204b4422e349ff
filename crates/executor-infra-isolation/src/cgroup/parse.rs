//! Readers for the kernel's text formats: pure functions, so that every kind of host can be tested
//! anywhere.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

/// A line of `/proc/self/cgroup`: where a process is in one hierarchy (`cgroups(7)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Membership {
    /// Controllers of a v1 hierarchy; empty for v2, which has no name here.
    pub(super) controllers: Vec<String>,
    /// Path within the hierarchy, as seen from the cgroup namespace.
    pub(super) path: PathBuf,
}

/// Which hierarchy a mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hierarchy {
    V2,
    V1 { controllers: Vec<String> },
}

/// A mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) hierarchy: Hierarchy,
    /// The part of the hierarchy that is mounted.
    pub(super) root: PathBuf,
    /// Where it is mounted.
    pub(super) point: PathBuf,
}

/// Parses `/proc/self/cgroup`; lines of another form are skipped.
pub(super) fn memberships(text: &[u8]) -> Vec<Membership> {
    let parse = |line: &[u8]| {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        let (_id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Membership {
            controllers: comma_list(controllers),
            path: PathBuf::from(OsString::from_vec(path.to_vec())),
        })
    };
    lines(text).filter_map(parse).collect()
}

/// Finds the cgroup mounts in `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
///
/// The fields are: id, parent, device, root, mount point, options, any number of optional fields, a
/// single hyphen, file system type, source, super block options (a v1 hierarchy's controllers are
/// among these).
pub(super) fn mounts(text: &[u8]) -> Vec<Mount> {
    let parse = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let root = unescape(fields.nth(3)?);
        let point = unescape(fields.next()?);
        let mut tail = fields.skip_while(|field| *field != b"-").skip(1);
        let kind = tail.next()?;
        let options = tail.nth(1)?;
        let hierarchy = match kind {
            b"cgroup2" => Hierarchy::V2,
            b"cgroup" => Hierarchy::V1 {
                controllers: comma_list(options),
            },
            _ => return None,
        };
        Some(Mount {
            hierarchy,
            root,
            point,
        })
    };
    lines(text).filter_map(parse).collect()
}

/// The number behind `key` in a file of `key value` lines (`cpu.stat`, `memory.events`).
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.trim().parse().ok())
}

/// The sum over all devices of `key` in `io.stat`, whose lines read `8:0 rbytes=1 wbytes=2 …`.
pub(super) fn summed(text: &str, key: &str) -> u64 {
    text.split_whitespace()
        .filter_map(|word| word.split_once('='))
        .filter(|(name, _)| *name == key)
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
}

fn comma_list(field: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(field)
        .split(',')
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Undoes the kernel's octal escapes of blank, tab, newline and backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let [
            b'\\',
            a @ b'0'..=b'3',
            b @ b'0'..=b'7',
            c @ b'0'..=b'7',
            after @ ..,
        ] = rest
        {
            plain.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
            rest = after;
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_of_a_hybrid_host() {
        let text = b"12:cpu,cpuacct:/user.slice\n1:name=systemd:/a:b\n0::/init.scope\ngarbage\n";
        let parsed = memberships(text);
        let expected = [
            (vec!["cpu", "cpuacct"], "/user.slice"),
            (vec!["name=systemd"], "/a:b"),
            (vec![], "/init.scope"),
        ];
        assert_eq!(parsed.len(), expected.len());
        for (found, (controllers, path)) in parsed.iter().zip(expected) {
            assert_eq!(found.controllers, controllers);
            assert_eq!(found.path, PathBuf::from(path));
        }
    }

    #[test]
    fn mounts_with_and_without_optional_fields_and_with_escapes() {
        let text = b"22 1 0:21 / /proc rw,relatime shared:5 - proc proc rw\n\
            25 1 0:23 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n\
            32 1 0:29 /docker/a /sys/fs/cgroup/with\\040blank rw - cgroup cgroup rw,cpu,cpuacct\n\
            truncated line\n";
        let expected = [
            Mount {
                hierarchy: Hierarchy::V2,
                root: "/".into(),
                point: "/sys/fs/cgroup".into(),
            },
            Mount {
                hierarchy: Hierarchy::V1 {
                    controllers: vec!["rw".into(), "cpu".into(), "cpuacct".into()],
                },
                root: "/docker/a".into(),
                point: "/sys/fs/cgroup/with blank".into(),
            },
        ];
        assert_eq!(mounts(text), expected);
    }

    #[test]
    fn an_incomplete_escape_is_kept_as_it_is() {
        assert_eq!(unescape(b"a\\04"), PathBuf::from("a\\04"));
        assert_eq!(unescape(b"\\134\\"), PathBuf::from("\\\\"));
    }

    #[test]
    fn counters() {
        let events = "low 0\noom 3\noom_kill 2\n";
        assert_eq!(keyed(events, "oom_kill"), Some(2));
        assert_eq!(keyed(events, "oom_group_kill"), None);
        assert_eq!(keyed("usage_usec x\n", "usage_usec"), None);
        let io = "8:0 rbytes=10 wbytes=1 rios=1\n8:16 rbytes=5 wbytes=0\n";
        assert_eq!(summed(io, "rbytes"), 15);
        assert_eq!(summed(io, "wbytes"), 1);
        assert_eq!(summed("", "rbytes"), 0);
    }
}
