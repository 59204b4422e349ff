//! Decisions about descriptors and mounts: pure functions.

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
