//! Which directory of which hierarchy may hold the run cgroups: decided from text, without touching
//! the file system.

use std::path::{Path, PathBuf};

use super::parse::{Hierarchy, Membership, Mount};

/// The directories that matter, one per concern. On v2 they are all the same one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Directories {
    pub(super) memory: Option<PathBuf>,
    pub(super) pids: Option<PathBuf>,
    /// CPU time used.
    pub(super) accounting: Option<PathBuf>,
    /// CPU share.
    pub(super) weight: Option<PathBuf>,
}

impl Directories {
    /// The same directory `name` below each.
    pub(super) fn join(&self, name: &str) -> Self {
        let below = |base: &Option<PathBuf>| base.as_ref().map(|base| base.join(name));
        Self {
            memory: below(&self.memory),
            pids: below(&self.pids),
            accounting: below(&self.accounting),
            weight: below(&self.weight),
        }
    }

    /// Each directory once: v1 controllers may share a hierarchy, v2 controllers always do.
    pub(super) fn distinct(&self) -> Vec<PathBuf> {
        let mut distinct = Vec::new();
        for directory in [&self.memory, &self.pids, &self.accounting, &self.weight] {
            if let Some(directory) = directory
                && !distinct.contains(directory)
            {
                distinct.push(directory.clone());
            }
        }
        distinct
    }
}

/// Where we are, or where the configuration says we should put run cgroups.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) memberships: &'a [Membership],
    pub(super) mounts: &'a [Mount],
    /// Configured: a directory below a cgroup mount point, or a path as `/proc/self/cgroup` has it.
    pub(super) parent: Option<&'a Path>,
}

impl Place<'_> {
    /// The v2 directory to work in; the text says why there is none.
    pub(super) fn v2(&self) -> Result<PathBuf, String> {
        let own = self
            .memberships
            .iter()
            .find(|membership| membership.controllers.is_empty());
        self.directory(own, |hierarchy| *hierarchy == Hierarchy::V2)
            .map_err(|why| format!("cgroup v2: {why}"))
    }

    /// The root of the v2 hierarchy, as far as it is visible from here.
    pub(super) fn v2_root(&self) -> Result<PathBuf, String> {
        self.mounts
            .iter()
            .find(|mount| mount.hierarchy == Hierarchy::V2 && mount.root == Path::new("/"))
            .map(|mount| mount.point.clone())
            .ok_or_else(|| "cgroup v2: its root is not visible from here".to_owned())
    }

    /// The directory to work in of the v1 hierarchy that has `controller`.
    pub(super) fn v1(&self, controller: &str) -> Result<PathBuf, String> {
        let has = |controllers: &[String]| controllers.iter().any(|name| name == controller);
        let own = self
            .memberships
            .iter()
            .find(|membership| has(&membership.controllers));
        self.directory(own, |hierarchy| match hierarchy {
            Hierarchy::V1 { controllers } => has(controllers),
            Hierarchy::V2 => false,
        })
        .map_err(|why| format!("cgroup v1 {controller}: {why}"))
    }

    fn directory(
        &self,
        own: Option<&Membership>,
        wanted: impl Fn(&Hierarchy) -> bool,
    ) -> Result<PathBuf, String> {
        let mut mounts = self
            .mounts
            .iter()
            .filter(|mount| wanted(&mount.hierarchy))
            .peekable();
        if mounts.peek().is_none() {
            return Err("not mounted".to_owned());
        }
        let path = match (self.parent, own) {
            (Some(parent), _) => self.within_hierarchy(parent),
            (None, Some(own)) => own.path.as_path(),
            (None, None) => return Err("this process belongs to no such hierarchy".to_owned()),
        };
        mounts
            .find_map(|mount| resolve(mount, path))
            .ok_or_else(|| format!("the cgroup {} is not visible from here", path.display()))
    }

    /// A configured directory as a path within its hierarchy; any other path is one already.
    fn within_hierarchy<'p>(&self, parent: &'p Path) -> &'p Path {
        self.mounts
            .iter()
            .filter_map(|mount| parent.strip_prefix(&mount.point).ok())
            .min_by_key(|rest| rest.components().count())
            .unwrap_or(parent)
    }
}

/// The directory that shows the cgroup `path` under this mount. A mount may show only a part of the
/// hierarchy (containers without a cgroup namespace); a path that leads out of the cgroup namespace
/// starts with `..` and is never followed.
fn resolve(mount: &Mount, path: &Path) -> Option<PathBuf> {
    let climbs = |path: &Path| {
        path.components()
            .any(|part| part == std::path::Component::ParentDir)
    };
    if climbs(path) || climbs(&mount.root) {
        return None;
    }
    // A relative path comes from the configuration and is relative to the mount point already.
    let rest = if path.is_relative() {
        path
    } else {
        path.strip_prefix(&mount.root).ok()?
    };
    Some(if rest.as_os_str().is_empty() {
        mount.point.clone()
    } else {
        mount.point.join(rest)
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::parse::{memberships, mounts},
        *,
    };

    const V2_MOUNT: &str = "25 1 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1_MOUNTS: &str = "\
        33 1 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        35 1 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        40 1 0:37 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
    const HYBRID_MOUNT: &str = "41 1 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    struct Host {
        memberships: Vec<Membership>,
        mounts: Vec<Mount>,
    }

    impl Host {
        fn new(cgroup: &str, mountinfo: &str) -> Self {
            Self {
                memberships: memberships(cgroup.as_bytes()),
                mounts: mounts(mountinfo.as_bytes()),
            }
        }

        fn place<'a>(&'a self, parent: Option<&'a str>) -> Place<'a> {
            Place {
                memberships: &self.memberships,
                mounts: &self.mounts,
                parent: parent.map(Path::new),
            }
        }
    }

    #[test]
    fn a_v2_host() {
        let host = Host::new("0::/system.slice/sandbox.service\n", V2_MOUNT);
        let place = host.place(None);
        let expected = "/sys/fs/cgroup/system.slice/sandbox.service";
        assert_eq!(place.v2(), Ok(expected.into()));
        let why = place.v1("memory").unwrap_err();
        assert_eq!(why, "cgroup v1 memory: not mounted");
    }

    #[test]
    fn a_v2_container_with_its_own_cgroup_namespace() {
        let host = Host::new("0::/\n", V2_MOUNT);
        assert_eq!(host.place(None).v2(), Ok("/sys/fs/cgroup".into()));
    }

    #[test]
    fn a_v1_host_with_shared_hierarchies() {
        let cgroup = "4:memory:/a\n3:cpu,cpuacct:/b\n2:pids:/\n";
        let host = Host::new(cgroup, V1_MOUNTS);
        let place = host.place(None);
        assert_eq!(place.v1("memory"), Ok("/sys/fs/cgroup/memory/a".into()));
        assert_eq!(place.v1("pids"), Ok("/sys/fs/cgroup/pids".into()));
        let shared = PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/b");
        assert_eq!(place.v1("cpu"), Ok(shared.clone()));
        assert_eq!(place.v1("cpuacct"), Ok(shared));
        assert_eq!(place.v2().unwrap_err(), "cgroup v2: not mounted");
    }

    #[test]
    fn a_hybrid_host_shows_both() {
        let cgroup = "4:memory:/a\n2:pids:/a\n0::/\n";
        let host = Host::new(cgroup, &format!("{V1_MOUNTS}{HYBRID_MOUNT}"));
        let place = host.place(None);
        assert_eq!(place.v2(), Ok("/sys/fs/cgroup/unified".into()));
        assert_eq!(place.v1("memory"), Ok("/sys/fs/cgroup/memory/a".into()));
    }

    #[test]
    fn a_v1_container_without_a_cgroup_namespace_sees_its_part_mounted() {
        let mountinfo =
            "35 1 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let inside = Host::new("4:memory:/docker/abc/x\n", mountinfo);
        let expected = PathBuf::from("/sys/fs/cgroup/memory/x");
        assert_eq!(inside.place(None).v1("memory"), Ok(expected));
        let elsewhere = Host::new("4:memory:/docker/abcdef\n", mountinfo);
        let why = elsewhere.place(None).v1("memory").unwrap_err();
        assert!(why.contains("/docker/abcdef is not visible"), "{why}");
    }

    #[test]
    fn a_path_out_of_the_namespace_is_not_followed() {
        let host = Host::new("0::/../../other\n", V2_MOUNT);
        let why = host.place(None).v2().unwrap_err();
        assert!(why.contains("not visible"), "{why}");
    }

    #[test]
    fn a_configured_parent_is_a_directory_or_a_cgroup_path() {
        let host = Host::new("4:memory:/a\n2:pids:/a\n", V1_MOUNTS);
        for parent in ["/sys/fs/cgroup/pids/boxes", "/boxes"] {
            let place = host.place(Some(parent));
            assert_eq!(place.v1("memory"), Ok("/sys/fs/cgroup/memory/boxes".into()));
            assert_eq!(place.v1("pids"), Ok("/sys/fs/cgroup/pids/boxes".into()));
        }
        let climbing = host.place(Some("/sys/fs/cgroup/pids/../memory"));
        assert!(climbing.v1("pids").is_err());
    }

    #[test]
    fn shared_directories_count_once() {
        let both = Some(PathBuf::from("/c/cpu,cpuacct"));
        let base = Directories {
            memory: Some("/c/memory".into()),
            pids: None,
            accounting: both.clone(),
            weight: both,
        };
        let expected = ["/c/memory/run", "/c/cpu,cpuacct/run"].map(PathBuf::from);
        assert_eq!(base.join("run").distinct(), expected);
    }
}
