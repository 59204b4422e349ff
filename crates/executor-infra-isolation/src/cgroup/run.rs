//! The cgroup of one run.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::supervisor::Meter;

use super::{
    CgroupError, CgroupLimits, Leftovers, Usage, Version, files, layout::Directories, parse,
};

/// How often, and at which interval, to look again whether killed processes are gone. A killed
/// process leaves its cgroup within microseconds of getting a processor; 200 ms allow for a busy
/// host.
const ROUNDS: u32 = 100;
const INTERVAL: Duration = Duration::from_millis(2);

/// The cgroup of one run, on v1 a directory per hierarchy.
///
/// Dropping it kills what is inside and removes the directories where that is possible at once;
/// what is still dying then is removed later, when further cgroups are created. Prefer
/// [`kill`](Self::kill) and [`remove`](Self::remove), which wait.
#[derive(Debug)]
pub struct RunCgroup {
    version: Version,
    directories: Directories,
    /// Those that exist, each once.
    made: Vec<PathBuf>,
    /// Kept open, so that the poll of the CPU deadline is one `pread`.
    cpu: Option<File>,
    /// Only on v2 kernels without `memory.peak`.
    current_memory: Option<File>,
    highest_seen: AtomicU64,
    /// CPU time that was used before it counted.
    before: Duration,
    leftovers: Leftovers,
}

/// Where there is a cgroup, it tells.
impl Meter for Option<RunCgroup> {
    fn cpu_time(&self) -> Option<Duration> {
        self.as_ref().and_then(RunCgroup::cpu_time)
    }
}

impl RunCgroup {
    /// Makes `directories`, whose parents exist, and sets the limits.
    pub(super) fn create(
        version: Version,
        directories: &Directories,
        limits: &CgroupLimits,
        leftovers: &Leftovers,
    ) -> Result<Self, CgroupError> {
        let mut run = Self {
            version,
            directories: directories.clone(),
            made: Vec::new(),
            cpu: None,
            current_memory: None,
            highest_seen: AtomicU64::new(0),
            before: Duration::ZERO,
            leftovers: leftovers.clone(),
        };
        for path in directories.distinct() {
            fs::create_dir(&path).map_err(|source| CgroupError::Create {
                path: path.clone(),
                source,
            })?;
            run.made.push(path);
        }
        run.configure(limits)?;
        let open = |directory: &Option<PathBuf>, name: &str| {
            let directory = directory.as_ref()?;
            File::open(directory.join(name)).ok()
        };
        let (cpu_file, without_peak) = match version {
            Version::V1 => ("cpuacct.usage", false),
            Version::V2 => {
                let memory = run.directories.memory.as_ref();
                let peak = memory.map(|memory| memory.join("memory.peak"));
                ("cpu.stat", peak.is_some_and(|peak| !peak.exists()))
            }
        };
        run.cpu = open(&run.directories.accounting, cpu_file);
        if without_peak {
            run.current_memory = open(&run.directories.memory, "memory.current");
        }
        Ok(run)
    }

    fn configure(&self, limits: &CgroupLimits) -> Result<(), CgroupError> {
        let set = |directory: &Path, name: &str, value: &str, needed: bool| {
            let path = directory.join(name);
            let result = if needed {
                files::write(&path, value)
            } else {
                files::write_if_present(&path, value)
            };
            result.map_err(|source| CgroupError::Configure {
                path,
                value: value.to_owned(),
                source,
            })
        };
        if let Some(memory) = &self.directories.memory {
            let bytes = limits.memory_bytes.to_string();
            match self.version {
                Version::V2 => {
                    set(memory, "memory.max", &bytes, true)?;
                    set(memory, "memory.swap.max", "0", false)?;
                    set(memory, "memory.zswap.max", "0", false)?;
                    // memory.oom.group stays 0: the sandbox's init must survive to report what
                    // happened.
                }
                Version::V1 => {
                    // In this order: memory and swap together may never be below memory alone.
                    set(memory, "memory.limit_in_bytes", &bytes, true)?;
                    if memory.join("memory.memsw.limit_in_bytes").exists() {
                        set(memory, "memory.memsw.limit_in_bytes", &bytes, true)?;
                    } else {
                        set(memory, "memory.swappiness", "0", false)?;
                    }
                }
            }
        }
        if let Some(pids) = &self.directories.pids {
            set(pids, "pids.max", &limits.pids_max.to_string(), true)?;
        }
        if let (Some(directory), Some(weight)) = (&self.directories.weight, limits.cpu_weight) {
            match self.version {
                Version::V2 => set(directory, "cpu.weight", &weight.to_string(), true)?,
                Version::V1 => {
                    // The defaults, 100 and 1024, mean the same; 2 is the kernel's smallest.
                    let shares = (u64::from(weight) * 1024 / 100).max(2);
                    set(directory, "cpu.shares", &shares.to_string(), true)?;
                }
            }
        }
        Ok(())
    }

    /// Sets other limits.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Configure`], as for a memory limit below what is in use already.
    pub fn set_limits(&self, limits: &CgroupLimits) -> Result<(), CgroupError> {
        // On v1, memory and swap together may never be below memory alone: a higher limit must be set the other way round.
        if let (Version::V1, Some(memory)) = (self.version, &self.directories.memory) {
            let both = memory.join("memory.memsw.limit_in_bytes");
            if files::read_number(&both).is_some_and(|now| now < limits.memory_bytes) {
                let value = limits.memory_bytes.to_string();
                files::write(&both, &value).map_err(|source| CgroupError::Configure {
                    path: both,
                    value,
                    source,
                })?;
            }
        }
        self.configure(limits)
    }

    /// From here on CPU time counts as the run's: what was used before was ours.
    pub fn start_counting(&mut self) {
        self.before = Duration::ZERO;
        self.before = self.cpu_time().unwrap_or_default();
    }

    /// The files into which a single-threaded process writes `0` to enter, all of them, before it
    /// starts anything. Whoever writes needs the daemon's rights, so the launcher enters before it
    /// lowers its own.
    pub fn entry_files(&self) -> Vec<PathBuf> {
        let file = match self.version {
            // A thread that moves itself alone needs not wait until no process of the machine
            // forks: that is a grace period of RCU, 9 ms where nobody has moved for a while
            // (`cgroup_procs_write_start`, kernel/cgroup/cgroup.c).
            Version::V1 => "tasks",
            // In v2 threads of one process stay together, so there is no such way.
            Version::V2 => "cgroup.procs",
        };
        self.made.iter().map(|path| path.join(file)).collect()
    }

    /// CPU time so far of all processes together, by one `pread`; `None` if it is not accounted.
    pub fn cpu_time(&self) -> Option<Duration> {
        self.note_current_memory();
        let text = read_again(self.cpu.as_ref()?)?;
        let used = match self.version {
            Version::V1 => text.trim().parse().ok().map(Duration::from_nanos),
            Version::V2 => parse::keyed(&text, "usage_usec").map(Duration::from_micros),
        };
        used.map(|used| used.saturating_sub(self.before))
    }

    /// Everything that is accounted. Ask before [`remove`](Self::remove); it stays true after the
    /// processes are dead.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage {
            cpu: self.cpu_time(),
            ..Usage::default()
        };
        if let Some(memory) = &self.directories.memory {
            let file = |name: &str| memory.join(name);
            let events = |name: &str, key: &str| {
                let text = files::read(&file(name)).unwrap_or_default();
                parse::keyed(&text, key).unwrap_or(0)
            };
            match self.version {
                Version::V1 => {
                    usage.peak_memory_bytes =
                        files::read_number(&file("memory.max_usage_in_bytes"));
                    // No failcnt: Linux 6.18 leaves it at 0 however often the limit is hit.
                    usage.oom_kills = events("memory.oom_control", "oom_kill");
                }
                Version::V2 => {
                    let seen = self.highest_seen.load(Ordering::Relaxed);
                    usage.peak_memory_bytes = files::read_number(&file("memory.peak"))
                        .or_else(|| self.current_memory.as_ref().map(|_| seen));
                    usage.oom_kills = events("memory.events", "oom_kill");
                    if let Ok(io) = files::read(&file("io.stat")) {
                        usage.io_read_bytes = Some(parse::summed(&io, "rbytes"));
                        usage.io_write_bytes = Some(parse::summed(&io, "wbytes"));
                    }
                }
            }
        }
        if let Some(pids) = &self.directories.pids {
            let events = files::read(&pids.join("pids.events")).unwrap_or_default();
            usage.pids_refused = parse::keyed(&events, "max").unwrap_or(0);
        }
        usage
    }

    /// Kills every process inside by SIGKILL and waits until the last has left the cgroup, at most
    /// 200 ms.
    ///
    /// # Errors
    ///
    /// [`CgroupError::StillAlive`] if one is left by then, [`CgroupError::Kill`] if they could not
    /// be listed or signalled.
    pub fn kill(&self) -> Result<(), CgroupError> {
        for _ in 0..ROUNDS {
            if self.signal_all()? == Inside::Nobody {
                return Ok(());
            }
            // v1 tells nobody when a cgroup becomes empty.
            thread::sleep(INTERVAL);
        }
        Err(CgroupError::StillAlive {
            path: self.made.first().cloned().unwrap_or_default(),
        })
    }

    /// Removes the cgroup if nobody is in it any more, without waiting; says whether it did. Who is told `false` goes on with
    /// [`remove`](Self::remove).
    pub fn try_remove(&mut self) -> bool {
        while let Some(path) = self.made.last() {
            if remove_directory(path).is_err() {
                return false;
            }
            self.made.pop();
        }
        true
    }

    /// Removes the cgroup. Blocks, at most 200 ms, for processes that are already dying (after
    /// [`kill`](Self::kill), or because the sandbox's init has ended) to leave it.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Remove`]; the directory is then removed later, when further cgroups are
    /// created.
    pub fn remove(mut self) -> Result<(), CgroupError> {
        let mut attempts = 0;
        while let Some(path) = self.made.last() {
            // On failure, what is in `made` goes to the leftovers when `self` is dropped.
            remove_when_empty(path, &mut attempts).map_err(|source| CgroupError::Remove {
                path: path.clone(),
                source,
            })?;
            self.made.pop();
        }
        Ok(())
    }

    /// Sends SIGKILL to everybody inside, once.
    fn signal_all(&self) -> Result<Inside, CgroupError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| CgroupError::Kill { path, source }
        };
        // More than one directory on v1: a process may be caught while it enters them.
        let mut inside = Inside::Nobody;
        for path in &self.made {
            if processes(path).map_err(failed(path))?.is_empty() {
                continue;
            }
            inside = Inside::Somebody;
            // cgroup.kill (Linux 5.14) is atomic; without it stop the forks, then kill one by one.
            let control = path.join("cgroup.kill");
            if self.version == Version::V2 && control.exists() {
                files::write(&control, "1").map_err(failed(path))?;
            } else {
                if let Some(pids) = &self.directories.pids {
                    files::write(&pids.join("pids.max"), "0").map_err(failed(path))?;
                }
                kill_one_by_one(path).map_err(failed(path))?;
            }
        }
        Ok(inside)
    }

    fn note_current_memory(&self) {
        let current = self.current_memory.as_ref().and_then(read_again);
        if let Some(bytes) = current.and_then(|text| text.trim().parse().ok()) {
            self.highest_seen.fetch_max(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for RunCgroup {
    fn drop(&mut self) {
        if self.made.is_empty() {
            return;
        }
        if let Err(error) = self.signal_all() {
            tracing::warn!(%error, "a dropped cgroup could not be emptied");
        }
        while let Some(path) = self.made.pop() {
            if remove_directory(&path).is_err() {
                self.leftovers.add(path);
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Inside {
    Nobody,
    Somebody,
}

/// The pids in a cgroup. Those of processes in a pid namespace that is not ours read 0.
fn processes(directory: &Path) -> io::Result<BTreeSet<i32>> {
    let text = files::read(&directory.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Kills what is in a cgroup without ever hitting a process outside: a pid from a list may by now
/// be another process. So each is first pinned by a descriptor, and signalled by it only if the pid
/// is in the cgroup *after* that.
fn kill_one_by_one(directory: &Path) -> io::Result<()> {
    let mut pinned = Vec::new();
    for raw in processes(directory)? {
        if let Some(pid) = Pid::from_raw(raw) {
            match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(descriptor) => pinned.push((raw, descriptor)),
                Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let still_inside = processes(directory)?;
    for (raw, descriptor) in pinned {
        if still_inside.contains(&raw) {
            match pidfd_send_signal(descriptor, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// `rmdir`, again while processes are still leaving, until `attempts` reaches [`ROUNDS`].
pub(super) fn remove_when_empty(path: &Path, attempts: &mut u32) -> io::Result<()> {
    loop {
        match remove_directory(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && *attempts < ROUNDS => {
                *attempts += 1;
                thread::sleep(INTERVAL);
            }
            result => return result,
        }
    }
}

/// `rmdir`, where a directory that is gone already is as good.
pub(super) fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Reads a control file from its start; the kernel then makes its content anew.
fn read_again(file: &File) -> Option<String> {
    // cpu.stat, the longest of them, has about 500 bytes.
    let mut buffer = [0; 4096];
    let length = file.read_at(&mut buffer, 0).ok()?;
    String::from_utf8(buffer[..length].to_vec()).ok()
}
