//! Decisions about descriptors, memory and mounts: pure functions.

use crate::protocol::Private;

/// The ranges of descriptors, both ends included, that have to be closed so that of those from `first` on only `keep` stay
/// open.
pub fn gaps(first: u32, keep: &[i32]) -> Vec<(u32, u32)> {
    let mut kept: Vec<u32> = keep
        .iter()
        .filter_map(|descriptor| u32::try_from(*descriptor).ok())
        .filter(|descriptor| *descriptor >= first)
        .collect();
    kept.sort_unstable();
    let mut gaps = Vec::new();
    let mut next = first;
    for descriptor in kept {
        if descriptor > next {
            gaps.push((next, descriptor - 1));
        }
        next = next.max(descriptor.saturating_add(1));
    }
    gaps.push((next, u32::MAX));
    gaps
}

/// A range of addresses, the end excluded.
pub type Range = std::ops::Range<usize>;

/// Longest mapping of a file that is worth having whole for the sake of what is used of it, in bytes;
const SMALL: usize = 1 << 20;
/// and the same of memory, of which each slot takes as much.
const SMALL_OWN: usize = 256 << 10;

/// Memory that an interpreter has in small mappings, by its `/proc/self/maps` (proc(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Small {
    /// Files that it only reads: its code.
    pub read: Vec<Range>,
    /// What is its own: data, heap and stack.
    pub written: Vec<Range>,
}

/// The small mappings among those of a process: without its stack, of which the kernel maps more than is used, and without
/// files in memory, among which is this library, which a guest is done with.
pub fn small(maps: &str) -> Small {
    let mut small = Small::default();
    for line in maps.lines() {
        let Some(range) = range(line).filter(|range| range.len() <= SMALL) else {
            continue;
        };
        let mut words = line.split_whitespace().skip(1);
        let permissions = words.next().unwrap_or_default();
        let path = words.nth(3).unwrap_or_default();
        let is_file = path.starts_with('/') && !path.starts_with("/memfd:");
        match permissions {
            "rw-p" if path != "[stack]" && range.len() <= SMALL_OWN => small.written.push(range),
            "r-xp" | "r--p" if is_file => small.read.push(range),
            _ => {}
        }
    }
    small
}

/// The addresses at the start of a line of `/proc/self/maps`.
pub fn range(line: &str) -> Option<Range> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

/// The options of a new memory file system: its bounds, and that anybody in there may write to it where the guest may.
pub fn options(private: &Private) -> String {
    let mode = if private.writable { "1777" } else { "755" };
    let Private { bytes, inodes, .. } = private;
    format!("size={bytes},nr_inodes={inodes},mode={mode}")
}

/// The bounds of a writable memory file system that is to have another size.
pub fn bounds(private: &Private, bytes: u64) -> String {
    format!("size={bytes},nr_inodes={}", private.inodes)
}

/// The line that maps one id of a new user namespace to one outside (`user_namespaces(7)`).
pub fn id_map(inside: u32, outside: u32) -> String {
    format!("{inside} {outside} 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_the_kept_ones_is_closed() {
        for (first, keep, expected) in [
            (3, &[][..], &[(3, u32::MAX)][..]),
            (3, &[3, 4], &[(5, u32::MAX)]),
            (3, &[9, 5], &[(3, 4), (6, 8), (10, u32::MAX)]),
            (3, &[0, 2, 4, 4], &[(3, 3), (5, u32::MAX)]),
            (5, &[3, 4], &[(5, u32::MAX)]),
            (0, &[-1, 0], &[(1, u32::MAX)]),
        ] {
            assert_eq!(gaps(first, keep), expected, "{first} {keep:?}");
        }
    }

    #[test]
    fn a_line_of_maps_starts_with_a_range() {
        let line = "7f1200000000-7f1200021000 rw-p 00000000 00:00 0 ";
        assert_eq!(range(line), Some(0x7f12_0000_0000..0x7f12_0002_1000));
        assert_eq!(range("x-y rw-p"), None);
        assert_eq!(range(""), None);
    }

    #[test]
    fn small_mappings_are_told_by_size_and_use() {
        let maps = "\
1000-3000 r--p 00000000 fe:00 247003                     /usr/bin/bash
3000-4000 r-xp 0002f000 fe:00 247003                     /usr/bin/bash
4000-5000 rw-p 0002f000 fe:00 247003                     /usr/bin/bash
5000-6000 rw-s 00000000 00:01 5                          /memfd:shared (deleted)
6000-7000 ---p 00000000 00:00 0
8000-9000 rw-p 00000000 00:00 0                          [heap]
9000-4a000 rw-p 00000000 00:00 0
9001000-9002000 r-xp 00000000 00:00 0                    [vdso]
9002000-9003000 r-xp 00000000 00:01 7                    /memfd:library (deleted)
9003000-9004000 rw-p 00000000 00:00 0                    [stack]
";
        let expected = Small {
            read: vec![0x1000..0x3000, 0x3000..0x4000],
            written: vec![0x4000..0x5000, 0x8000..0x9000],
        };
        assert_eq!(small(maps), expected);
    }

    #[test]
    fn a_memory_file_system_is_always_bounded() {
        let mut private = Private {
            path: "/tmp".into(),
            bytes: 4096,
            inodes: 9,
            writable: true,
        };
        assert_eq!(options(&private), "size=4096,nr_inodes=9,mode=1777");
        assert_eq!(bounds(&private, 1), "size=1,nr_inodes=9");
        private.writable = false;
        assert_eq!(options(&private), "size=4096,nr_inodes=9,mode=755");
    }
}
