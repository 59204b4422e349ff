//! How much memory waits: the daemon's, and that of every slot.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process,
};

/// A slot that waits for its job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SlotMemory {
    /// Its processes.
    pub processes: usize,
    /// Proportional set size of all of them, in KiB: what it shares with its zygote counts by its share.
    pub pss_kib: u64,
}

/// Slots by the number of their pid namespace, which no two share, and the file name of their program.
pub(super) type Slots = BTreeMap<(u64, String), SlotMemory>;

/// Resident memory of this process in KiB; `None` where the system does not tell.
pub(super) fn resident_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    kib_of(&status, "VmRSS:")
}

/// Every slot below this process whose memory may be read. A zygote lives in a pid namespace of its own, and each of its
/// slots in one more below: that is how they are told apart.
pub(super) fn slots() -> Slots {
    let mut slots = Slots::new();
    let Some(own_depth) = read(Path::new("/proc/self"), "status").and_then(|s| depth_of(&s)) else {
        return slots;
    };
    let processes = processes();
    for (pid, found) in &processes {
        if found.depth != own_depth + 2 || !is_below(&processes, *pid, process::id()) {
            continue;
        }
        let directory = PathBuf::from(format!("/proc/{pid}"));
        let pss = read(&directory, "smaps_rollup").and_then(|text| kib_of(&text, "Pss:"));
        let namespace = fs::read_link(directory.join("ns/pid")).ok();
        let namespace = namespace.and_then(|link| namespace_of(link.to_str()?));
        let program = fs::read_link(directory.join("exe")).ok();
        let program = program.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
        if let (Some(pss), Some(namespace), Some(program)) = (pss, namespace, program) {
            let slot = slots.entry((namespace, program)).or_default();
            slot.processes += 1;
            slot.pss_kib += pss;
        }
    }
    slots
}

/// What is known of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// In how many pid namespaces it is.
    depth: usize,
}

fn processes() -> BTreeMap<u32, Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let status = read(&PathBuf::from(format!("/proc/{pid}")), "status")?;
            Some((pid, process_of(&status)?))
        })
        .collect()
}

/// A process that ends while it is looked at is none.
fn read(directory: &Path, file: &str) -> Option<String> {
    fs::read_to_string(directory.join(file)).ok()
}

fn process_of(status: &str) -> Option<Process> {
    Some(Process {
        parent: field(status, "PPid:")?.parse().ok()?,
        depth: depth_of(status)?,
    })
}

/// In how many pid namespaces a process is, as seen from ours (`NSpid`, proc(5)).
fn depth_of(status: &str) -> Option<usize> {
    Some(field(status, "NSpid:")?.split_whitespace().count())
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim())
}

fn kib_of(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.strip_suffix("kB")?.trim().parse().ok()
}

/// `pid:[4026531836]`
fn namespace_of(link: &str) -> Option<u64> {
    link.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

/// Whether a process descends from another one.
fn is_below(processes: &BTreeMap<u32, Process>, pid: u32, ancestor: u32) -> bool {
    let mut current = pid;
    // No longer than there are processes: the list is no snapshot, and could go round.
    for _ in 0..processes.len() {
        match processes.get(&current) {
            Some(process) if process.parent == ancestor => return true,
            Some(process) => current = process.parent,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tpython3\nUmask:\t0022\nState:\tS (sleeping)\nPid:\t7\nPPid:\t5\n\
                          NSpid:\t7\t3\t1\nVmRSS:\t   12345 kB\n";

    #[test]
    fn the_kernels_words_are_understood() {
        let expected = Process {
            parent: 5,
            depth: 3,
        };
        assert_eq!(process_of(STATUS), Some(expected));
        assert_eq!(kib_of(STATUS, "VmRSS:"), Some(12_345));
        assert_eq!(
            kib_of(
                "Rss: 9 kB\nPss:                1340 kB\nPss_Dirty: 8 kB\n",
                "Pss:"
            ),
            Some(1_340)
        );
        assert_eq!(namespace_of("pid:[4026531836]"), Some(4_026_531_836));
        assert_eq!(process_of("Name:\tx\n"), None);
        assert_eq!(kib_of("VmRSS: many kB\n", "VmRSS:"), None);
    }

    #[test]
    fn descent_is_followed_and_ends() {
        let process = |parent| Process { parent, depth: 1 };
        let processes = BTreeMap::from([
            (2, process(1)),
            (3, process(2)),
            (4, process(9)),
            // Numbers were used anew while we read.
            (5, process(6)),
            (6, process(5)),
        ]);
        for (pid, below) in [(2, true), (3, true), (4, false), (5, false), (7, false)] {
            assert_eq!(is_below(&processes, pid, 1), below, "{pid}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_and_no_slots() {
        assert!(resident_kib().is_some_and(|kib| kib > 0));
        assert_eq!(slots(), Slots::new());
    }
}
