//! The one cgroup that holds those of all runs, with a bound for all of them together.
//!
//! Each run has limits of its own, and so many runs at the same time as are allowed could still take all that the host has: a
//! hundred of 512 MiB. What this bound refuses, the kernel takes from a run, never from a process outside.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{CgroupError, Leftovers, Version, files, layout::Directories, names};

/// Bounds for all runs at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of memory, swap included.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids_max: u64,
}

/// Of what there is, guests may have this many percent, unless somebody has said otherwise.
const SHARE_PERCENT: u64 = 75;
/// Room for a few runs, on a host however small.
const LEAST_MEMORY: u64 = 256 << 20;
const LEAST_PIDS: u64 = 512;

/// What the host has, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Host {
    memory_bytes: Option<u64>,
    pids: Option<u64>,
}

impl Bounds {
    /// What was asked for; else a share of what the host has, and of what the cgroups above allow.
    pub(super) fn of_host(wished: Wished, base: &Directories, version: Version) -> Self {
        let host = Host::look(base, version);
        Self {
            memory_bytes: wished
                .memory_bytes
                .unwrap_or_else(|| share(host.memory_bytes, LEAST_MEMORY)),
            pids_max: wished
                .pids_max
                .unwrap_or_else(|| share(host.pids, LEAST_PIDS)),
        }
    }
}

/// Bounds that somebody has asked for; `None`: a share of what the host has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wished {
    /// Bytes of memory, swap included.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids_max: Option<u64>,
}

/// Where nobody knows what there is, no bound is better than a wrong one.
fn share(there_is: Option<u64>, least: u64) -> u64 {
    there_is.map_or(i64::MAX.cast_unsigned(), |all| {
        (all / 100 * SHARE_PERCENT).max(least)
    })
}

impl Host {
    fn look(base: &Directories, version: Version) -> Self {
        let (memory_file, of_machine) = match version {
            Version::V1 => ("memory.limit_in_bytes", memory_of_machine()),
            Version::V2 => ("memory.max", memory_of_machine()),
        };
        Self {
            memory_bytes: smallest(of_machine, base.memory.as_deref(), memory_file),
            pids: smallest(pids_of_machine(), base.pids.as_deref(), "pids.max"),
        }
    }
}

/// The smallest limit of a directory and those above it that have such a file, and of the machine.
fn smallest(of_machine: Option<u64>, base: Option<&Path>, file: &str) -> Option<u64> {
    base.into_iter()
        .flat_map(Path::ancestors)
        // `max` is no number, and no limit.
        .filter_map(|directory| files::read_number(&directory.join(file)))
        .chain(of_machine)
        .min()
}

/// `MemTotal` of proc(5).
fn memory_of_machine() -> Option<u64> {
    let text = files::read(Path::new("/proc/meminfo")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Most numbers of processes, and most threads, that the kernel gives out.
fn pids_of_machine() -> Option<u64> {
    ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"]
        .iter()
        .filter_map(|path| files::read_number(Path::new(path)))
        .min()
}

/// Where runs go: below one directory where there is something to bound, and in the hierarchies of v1 that count time where they
/// always went, with a share of the processors for each.
fn place(base: &Directories, name: &str) -> Directories {
    let bounded = [&base.memory, &base.pids];
    let below = |directory: &Option<PathBuf>| {
        let path = directory.as_ref()?;
        // A process has one place in a hierarchy, whatever that has been mounted with.
        Some(if bounded.contains(&directory) {
            path.join(name)
        } else {
            path.clone()
        })
    };
    Directories {
        memory: below(&base.memory),
        pids: below(&base.pids),
        accounting: below(&base.accounting),
        weight: below(&base.weight),
    }
}

/// Makes the cgroup of all runs below `base`, with these bounds, and says where runs go then. It is removed with the last of
/// those who hold the leftovers.
pub(super) fn make(
    base: &Directories,
    version: Version,
    bounds: &Bounds,
    leftovers: &Leftovers,
) -> Result<Directories, CgroupError> {
    let together = place(base, &names::all_runs());
    let there_already = base.distinct();
    let new = together.distinct().into_iter();
    for path in new.filter(|path| !there_already.contains(path)) {
        fs::create_dir(&path).map_err(|source| CgroupError::Create {
            path: path.clone(),
            source,
        })?;
        leftovers.add_parent(path);
    }
    let set = |path: PathBuf, value: String| {
        files::write(&path, &value).map_err(|source| CgroupError::Configure {
            path,
            value,
            source,
        })
    };
    let optional = |path: PathBuf, value: String| {
        files::write_if_present(&path, &value).map_err(|source| CgroupError::Configure {
            path,
            value,
            source,
        })
    };
    let bytes = bounds.memory_bytes.to_string();
    if let Some(memory) = &together.memory {
        match version {
            Version::V2 => {
                set(memory.join("memory.max"), bytes)?;
                optional(memory.join("memory.swap.max"), "0".into())?;
            }
            Version::V1 => {
                // Kernels before 5.11 count children only where they are told to.
                optional(memory.join("memory.use_hierarchy"), "1".into())
                    .or_else(already_hierarchical)?;
                set(memory.join("memory.limit_in_bytes"), bytes.clone())?;
                optional(memory.join("memory.memsw.limit_in_bytes"), bytes)?;
            }
        }
    }
    if let Some(pids) = &together.pids {
        set(pids.join("pids.max"), bounds.pids_max.to_string())?;
    }
    if version == Version::V2 {
        hand_on(&together, &set)?;
    }
    Ok(together)
}

/// The kernel refuses to be told what its parent has been told.
fn already_hierarchical(error: CgroupError) -> Result<(), CgroupError> {
    match error {
        CgroupError::Configure { source, .. } if source.kind() == io::ErrorKind::ResourceBusy => {
            Ok(())
        }
        CgroupError::Configure { source, .. } if source.kind() == io::ErrorKind::InvalidInput => {
            Ok(())
        }
        other => Err(other),
    }
}

/// On v2 a cgroup's children have the controllers that it hands on.
fn hand_on(
    together: &Directories,
    set: &impl Fn(PathBuf, String) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    let controllers = [
        (&together.memory, "+memory"),
        (&together.pids, "+pids"),
        (&together.weight, "+cpu"),
    ];
    for (directory, controller) in controllers {
        if let Some(directory) = directory {
            set(directory.join("cgroup.subtree_control"), controller.into())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_get_a_share_and_never_less_than_a_few_need() {
        assert_eq!(share(Some(4 << 30), LEAST_MEMORY), (4 << 30) / 100 * 75);
        assert_eq!(share(Some(100 << 20), LEAST_MEMORY), LEAST_MEMORY);
        assert!(share(None, LEAST_MEMORY) > 1 << 60);
    }

    #[test]
    fn the_tightest_limit_above_counts() {
        let root = tempfile::tempdir().unwrap();
        let above = root.path().join("above");
        let base = above.join("base");
        fs::create_dir_all(&base).unwrap();
        let write = |directory: &Path, text: &str| fs::write(directory.join("memory.max"), text);
        write(&base, "max\n").unwrap();
        assert_eq!(smallest(Some(9), Some(&base), "memory.max"), Some(9));
        write(&above, "7\n").unwrap();
        assert_eq!(smallest(Some(9), Some(&base), "memory.max"), Some(7));
        write(&base, "5\n").unwrap();
        assert_eq!(smallest(Some(9), Some(&base), "memory.max"), Some(5));
        assert_eq!(smallest(Some(9), None, "memory.max"), Some(9));
        assert_eq!(smallest(None, None, "memory.max"), None);
    }

    #[test]
    fn what_is_not_bounded_stays_where_it_was() {
        let base = Directories {
            memory: Some("/c/memory".into()),
            pids: Some("/c/both".into()),
            accounting: Some("/c/cpu".into()),
            weight: Some("/c/both".into()),
        };
        let expected = Directories {
            memory: Some("/c/memory/all".into()),
            pids: Some("/c/both/all".into()),
            accounting: Some("/c/cpu".into()),
            weight: Some("/c/both/all".into()),
        };
        assert_eq!(place(&base, "all"), expected);
    }

    #[test]
    fn the_machine_is_known() {
        assert!(memory_of_machine().unwrap() > 64 << 20);
        assert!(pids_of_machine().unwrap() >= 300);
    }

    #[test]
    fn a_wish_counts_as_it_is() {
        let wished = Wished {
            memory_bytes: Some(1),
            pids_max: Some(2),
        };
        let bounds = Bounds::of_host(wished, &Directories::default(), Version::V2);
        assert_eq!((bounds.memory_bytes, bounds.pids_max), (1, 2));
    }
}
