//! Finding out what works here, by trying it.

use std::{
    error::Error,
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
};

use super::{
    CgroupError, CgroupLimits, Leftovers, RunCgroup, Support, Version, files,
    layout::{Directories, Place},
    names, parse,
};

/// The first interface that holds both walls (memory, processes), else v1 with what it has, else v2
/// with what it has: some kernels have v2 without the memory controller.
pub(super) fn detect(parent: Option<&Path>) -> (Support, Directories) {
    let (cgroup, mountinfo) = match (
        fs::read("/proc/self/cgroup"),
        fs::read("/proc/self/mountinfo"),
    ) {
        (Ok(cgroup), Ok(mountinfo)) => (cgroup, mountinfo),
        (Err(error), _) | (_, Err(error)) => {
            return unsupported(&[format!("/proc cannot be read: {error}")]);
        }
    };
    let memberships = parse::memberships(&cgroup);
    let mounts = parse::mounts(&mountinfo);
    let place = Place {
        memberships: &memberships,
        mounts: &mounts,
        parent,
    };

    let v2 = UnifiedHierarchy::find(&place);
    let order = match &v2 {
        Ok(v2) if v2.has("memory") && v2.has("pids") => [Version::V2, Version::V1],
        _ => [Version::V1, Version::V2],
    };
    let mut refusals = Vec::new();
    for version in order {
        let offer = match version {
            Version::V1 => try_v1(&place),
            Version::V2 => v2
                .as_ref()
                .map_err(String::clone)
                .and_then(UnifiedHierarchy::take)
                .or_else(|why| take_at_root(&place).map_err(|_| why)),
        };
        match offer {
            Ok(offer) => return accepted(offer),
            Err(why) => refusals.push(why),
        }
    }
    unsupported(&refusals)
}

/// What one interface offers, after a successful trial.
#[derive(Debug)]
struct Offer {
    version: Version,
    base: Directories,
    /// What it does not offer, and why.
    gaps: Vec<String>,
}

fn accepted(offer: Offer) -> (Support, Directories) {
    let Offer {
        version,
        base,
        gaps,
    } = offer;
    for directory in base.distinct() {
        names::remove_stale(&directory);
    }
    let support = Support {
        version: Some(version),
        memory: base.memory.is_some(),
        pids: base.pids.is_some(),
        cpu_accounting: base.accounting.is_some(),
        together: None,
        why: (!gaps.is_empty()).then(|| gaps.join("; ")),
    };
    (support, base)
}

fn unsupported(refusals: &[String]) -> (Support, Directories) {
    let support = Support {
        version: None,
        memory: false,
        pids: false,
        cpu_accounting: false,
        together: None,
        why: Some(refusals.join("; ")),
    };
    (support, Directories::default())
}

/// The second choice on v2, for a daemon that root starts from a shell: the shell's own cgroup holds the shell, and so can
/// hand on nothing ("no internal processes"). The hierarchy's root is exempt from that rule, and only root may write there.
fn take_at_root(place: &Place<'_>) -> Result<Offer, String> {
    if place.parent.is_some() {
        return Err("another place is configured".to_owned());
    }
    let base = place.v2_root()?;
    if base.join("cgroup.type").exists() {
        return Err(format!("{} is not the hierarchy's root", base.display()));
    }
    UnifiedHierarchy::at(base, false)?.take()
}

/// Each controller stands for itself.
fn try_v1(place: &Place<'_>) -> Result<Offer, String> {
    let mut gaps = Vec::new();
    let mut works = |controller: &str, only: fn(PathBuf) -> Directories| {
        let directory = place.v1(controller).map_err(|why| gaps.push(why)).ok()?;
        trial(Version::V1, &only(directory.clone()))
            .map_err(|error| gaps.push(format!("cgroup v1 {controller}: {}", chain(&error))))
            .ok()?;
        Some(directory)
    };
    let base = Directories {
        memory: works("memory", |directory| Directories {
            memory: Some(directory),
            ..Directories::default()
        }),
        pids: works("pids", |directory| Directories {
            pids: Some(directory),
            ..Directories::default()
        }),
        accounting: works("cpuacct", |directory| Directories {
            accounting: Some(directory),
            ..Directories::default()
        }),
        weight: works("cpu", |directory| Directories {
            weight: Some(directory),
            ..Directories::default()
        }),
    };
    if base.memory.is_none() && base.pids.is_none() {
        return Err(gaps.join("; "));
    }
    Ok(Offer {
        version: Version::V1,
        base,
        gaps,
    })
}

/// A directory of the v2 hierarchy to make run cgroups in.
#[derive(Debug)]
struct UnifiedHierarchy {
    base: PathBuf,
    /// Whether `base` is our own cgroup, out of which we may move.
    is_own: bool,
    /// Of the controllers of interest, those that `base` may hand on.
    controllers: Vec<&'static str>,
}

impl UnifiedHierarchy {
    /// Looks without changing anything.
    fn find(place: &Place<'_>) -> Result<Self, String> {
        let own = place.v2()?;
        let base = match own.parent() {
            Some(above) if names::is_daemon(&own) => above.to_owned(),
            _ => own,
        };
        Self::at(base, place.parent.is_none())
    }

    /// Looks at one directory without changing anything.
    fn at(base: PathBuf, is_own: bool) -> Result<Self, String> {
        let path = base.join("cgroup.controllers");
        let listed = files::read(&path)
            .map_err(|error| format!("cgroup v2: cannot read {}: {error}", path.display()))?;
        let controllers: Vec<_> = ["memory", "pids", "cpu"]
            .into_iter()
            .filter(|wanted| listed.split_whitespace().any(|name| name == *wanted))
            .collect();
        if !controllers.contains(&"memory") && !controllers.contains(&"pids") {
            return Err(format!(
                "cgroup v2: neither memory nor pids is delegated to {}",
                base.display()
            ));
        }
        Ok(Self {
            base,
            is_own,
            controllers,
        })
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.contains(&controller)
    }

    /// Switches the controllers on and makes a trial. Puts everything back if that fails.
    fn take(&self) -> Result<Offer, String> {
        let mut changes = Changes::new(&self.base);
        let result = self.try_to_take(&mut changes);
        if result.is_err() {
            changes.undo();
        }
        result
    }

    fn try_to_take(&self, changes: &mut Changes<'_>) -> Result<Offer, String> {
        let control = self.base.join("cgroup.subtree_control");
        let enabled = files::read(&control).unwrap_or_default();
        let is_on = |controller: &str| enabled.split_whitespace().any(|name| name == controller);
        if !self.controllers.iter().all(|controller| is_on(controller)) {
            self.make_room(changes)?;
        }

        let mut gaps = Vec::new();
        let mut works = |controller: &'static str| {
            let result = if !self.has(controller) {
                Err("it is not delegated".to_owned())
            } else if is_on(controller) {
                Ok(())
            } else {
                changes
                    .enable(controller)
                    .map_err(|error| format!("cannot be switched on for children: {error}"))
            };
            result
                .map_err(|why| {
                    let base = self.base.display();
                    gaps.push(format!("cgroup v2 {controller} in {base}: {why}"));
                })
                .ok()
                .map(|()| self.base.clone())
        };
        let base = Directories {
            memory: works("memory"),
            pids: works("pids"),
            weight: works("cpu"),
            // cpu.stat has the time in every cgroup, whatever controllers are on.
            accounting: Some(self.base.clone()),
        };
        if base.memory.is_none() && base.pids.is_none() {
            return Err(gaps.join("; "));
        }
        if let Err(error) = trial(Version::V2, &base) {
            gaps.push(format!("cgroup v2: {}", chain(&error)));
            return Err(gaps.join("; "));
        }
        Ok(Offer {
            version: Version::V2,
            base,
            gaps,
        })
    }

    /// A cgroup that hands on controllers may hold no processes ("no internal processes" in the
    /// kernel's cgroup-v2.rst): moves ourselves out of the way, if we are all there is. The root of
    /// the hierarchy, which alone has no `cgroup.type`, is exempt.
    fn make_room(&self, changes: &mut Changes<'_>) -> Result<(), String> {
        let own = process::id().to_string();
        let inside = files::read(&self.base.join("cgroup.procs")).unwrap_or_default();
        if inside.is_empty() || !self.base.join("cgroup.type").exists() {
            return Ok(());
        }
        let base = self.base.display();
        if !self.is_own || inside.lines().any(|pid| pid != own) {
            return Err(format!(
                "cgroup v2: other processes are in {base}; the daemon needs a cgroup of its own"
            ));
        }
        changes
            .move_into_leaf()
            .map_err(|error| format!("cgroup v2: cannot move into a leaf of {base}: {error}"))
    }
}

/// What was changed in our own cgroup, to be able to undo it.
struct Changes<'a> {
    base: &'a Path,
    leaf: Option<PathBuf>,
    enabled: Vec<&'static str>,
}

impl<'a> Changes<'a> {
    fn new(base: &'a Path) -> Self {
        Self {
            base,
            leaf: None,
            enabled: Vec::new(),
        }
    }

    /// Switches one controller on for children.
    fn enable(&mut self, controller: &'static str) -> io::Result<()> {
        let control = self.base.join("cgroup.subtree_control");
        files::write(&control, &format!("+{controller}"))?;
        self.enabled.push(controller);
        Ok(())
    }

    fn move_into_leaf(&mut self) -> io::Result<()> {
        let leaf = self.base.join(names::daemon());
        fs::create_dir(&leaf)?;
        let procs = leaf.join("cgroup.procs");
        self.leaf = Some(leaf);
        files::write(&procs, &process::id().to_string())
    }

    /// In this order: a cgroup takes processes only while it hands on no controllers.
    fn undo(self) {
        let undone = || {
            for controller in &self.enabled {
                files::write(
                    &self.base.join("cgroup.subtree_control"),
                    &format!("-{controller}"),
                )?;
            }
            if let Some(leaf) = &self.leaf {
                files::write(&self.base.join("cgroup.procs"), &process::id().to_string())?;
                fs::remove_dir(leaf)?;
            }
            io::Result::Ok(())
        };
        if let Err(error) = undone() {
            tracing::warn!(base = %self.base.display(), %error, "changes to our own cgroup stay");
        }
    }
}

/// Does for real, with a process that waits, all that a run will need.
fn trial(version: Version, base: &Directories) -> Result<(), CgroupError> {
    let limits = CgroupLimits {
        memory_bytes: 64 * 1024 * 1024,
        pids_max: 16,
        cpu_weight: Some(100),
    };
    let directories = base.join(&names::run("trial"));
    let run = RunCgroup::create(version, &directories, &limits, &Leftovers::default())?;
    let patient = Patient::start().map_err(CgroupError::Trial)?;
    let pid = patient.0.id().to_string();
    for path in run.entry_files() {
        files::write(&path, &pid).map_err(|source| CgroupError::Enter { path, source })?;
    }
    run.kill()?;
    drop(patient);
    run.remove()
}

/// A process that does nothing until it is dropped.
struct Patient(Child);

impl Patient {
    fn start() -> io::Result<Self> {
        Command::new("/bin/sh")
            .args(["-c", "read -r _"])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        // Both fail only for a process that is gone, and this one has not been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An error with its causes in one line, for [`Support::why`].
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
