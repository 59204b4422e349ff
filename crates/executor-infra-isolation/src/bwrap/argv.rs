//! From policy to bubblewrap's arguments: a pure function, tested whole.
//!
//! Order matters in mounts: a later one covers an earlier one. So nothing else adds an argument, and one snapshot holds
//! them all.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A piece of the host's system, as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SystemPath {
    /// Shown read-only at the same place.
    Shown(PathBuf),
    /// A symlink with this target, as on hosts whose `/bin` is `usr/bin`.
    Link(PathBuf, PathBuf),
}

/// Directories that make up a Linux system's programs and libraries.
const SYSTEM: [&str; 7] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
];

/// Where some hosts keep interpreters that no package manager brought. Shown only where one of ours is in there.
const OPTIONAL: &str = "/opt";

/// What of `/etc` a guest may read: the links through which Debian's tools are reached, the dynamic loader's cache, and
/// the defaults without which Debian's matplotlib cannot be imported. Each entry that a host has costs every cold run half
/// a millisecond, and interpreters do without others.
const HARMLESS_ETC: [&str; 3] = ["/etc/alternatives", "/etc/ld.so.cache", "/etc/matplotlibrc"];

/// Finds out what the host's system is made of, given where its interpreters are. Reads the file system; everything
/// after that is pure.
pub(crate) fn system_paths(interpreters: &[&Path]) -> io::Result<Vec<SystemPath>> {
    let optional = interpreters.iter().any(|path| path.starts_with(OPTIONAL));
    let system = SYSTEM.into_iter().chain(optional.then_some(OPTIONAL));
    let mut paths = Vec::new();
    for path in system.chain(HARMLESS_ETC).map(Path::new) {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_symlink() => {
                paths.push(SystemPath::Link(path.into(), fs::read_link(path)?));
            }
            Ok(_) => paths.push(SystemPath::Shown(path.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(paths)
}

/// What the walls of one run depend on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walls<'a> {
    /// The host's system.
    pub system: &'a [SystemPath],
    /// The session's directory; `None`: an empty one that cannot be written to.
    pub workspace: Option<&'a str>,
    /// Bytes of `/tmp`.
    pub tmp_bytes: u64,
    /// Bytes of `/dev/shm`.
    pub shm_bytes: u64,
}

/// bubblewrap's arguments, up to the command.
pub(crate) fn arguments(walls: &Walls<'_>) -> Vec<String> {
    let mut argv = Argv::default();

    // Namespaces. No --share-net: see docs/threat-model.md, "Exfiltration".
    argv.add([
        "--unshare-user",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
    ]);
    argv.add(["--unshare-net", "--unshare-cgroup"]);
    // Root of this user namespace is an unprivileged user outside. The guest gets another namespace below this one,
    // in which it is an ordinary user: see stage/init.rs.
    argv.add(["--uid", "0", "--gid", "0", "--hostname", "sandbox"]);
    // Our init is pid 1, not bubblewrap's. It needs these to finish the mounts, to limit user namespaces, and to map the
    // root of this one into the guest's (user_namespaces(7), since Linux 5.12), and gives them up before the guest starts.
    argv.add(["--as-pid-1", "--cap-drop", "ALL"]);
    for capability in ["CAP_SYS_ADMIN", "CAP_SYS_RESOURCE", "CAP_SETFCAP"] {
        argv.add(["--cap-add", capability]);
    }
    // No controlling terminal to push characters into, and no life without the launcher's pid.
    argv.add(["--new-session", "--die-with-parent"]);
    // Standard output tells the daemon the pid of the init, and is closed in the sandbox.
    argv.add(["--info-fd", "1"]);

    // Mounts. Every mount point lies on the fresh root, none below a bind that a guest can write to: bubblewrap before
    // 0.12 follows a guest's symlink there (CVE-2026-87766).
    for path in walls.system {
        match path {
            SystemPath::Shown(path) => {
                let path = path.to_string_lossy();
                argv.add(["--ro-bind", &path, &path]);
            }
            SystemPath::Link(path, target) => {
                argv.add([
                    "--symlink",
                    &target.to_string_lossy(),
                    &path.to_string_lossy(),
                ]);
            }
        }
    }
    argv.add(["--dir", "/etc", "--dir", "/run/sandbox"]);
    argv.add(["--proc", "/proc", "--dev", "/dev"]);
    for (path, bytes) in [("/tmp", walls.tmp_bytes), ("/dev/shm", walls.shm_bytes)] {
        argv.add([
            "--perms",
            "1777",
            "--size",
            &bytes.to_string(),
            "--tmpfs",
            path,
        ]);
    }
    match walls.workspace {
        Some(directory) => argv.add(["--bind", directory, "/workspace"]),
        None => argv.add(["--dir", "/workspace"]),
    }
    argv.add(["--chdir", "/"]);
    argv.0
}

#[derive(Default)]
struct Argv(Vec<String>);

impl Argv {
    fn add<const N: usize>(&mut self, words: [&str; N]) {
        self.0.extend(words.map(str::to_owned));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian() -> Vec<SystemPath> {
        vec![
            SystemPath::Shown("/usr".into()),
            SystemPath::Link("/bin".into(), "usr/bin".into()),
            SystemPath::Shown("/etc/alternatives".into()),
        ]
    }

    #[test]
    fn the_whole_argv() {
        let system = debian();
        let argv = arguments(&Walls {
            system: &system,
            workspace: Some("/var/lib/sandbox/s1"),
            tmp_bytes: 1 << 20,
            shm_bytes: 1 << 19,
        });
        // An option and its values on one line.
        insta::assert_snapshot!(argv.join(" ").replace(" --", "\n--"));
    }

    #[test]
    fn without_a_workspace_nothing_of_the_host_is_writable() {
        let system = debian();
        let argv = arguments(&Walls {
            system: &system,
            workspace: None,
            tmp_bytes: 1,
            shm_bytes: 1,
        });
        assert!(!argv.iter().any(|word| word == "--bind"));
    }

    /// Mount points in the order of their making, and whether a guest can write to what is mounted from the host.
    fn mount_points(argv: &[String]) -> Vec<(&Path, bool)> {
        let mut words = argv.iter().map(String::as_str);
        let mut found = Vec::new();
        while let Some(option) = words.next() {
            let (values, mounts) = match option {
                "--bind" | "--ro-bind" | "--symlink" => (2, true),
                "--dir" | "--proc" | "--dev" | "--tmpfs" => (1, true),
                "--uid" | "--gid" | "--hostname" | "--cap-drop" | "--cap-add" | "--info-fd"
                | "--perms" | "--size" | "--chdir" => (1, false),
                flag if flag.starts_with("--unshare-") => (0, false),
                "--as-pid-1" | "--new-session" | "--die-with-parent" => (0, false),
                other => panic!("what does {other} mount?"),
            };
            let last = words.by_ref().take(values).last();
            if mounts {
                found.push((Path::new(last.unwrap()), option == "--bind"));
            }
        }
        found
    }

    /// Mount points below what a guest can write to, where it can have planted a link.
    fn planted(argv: &[String]) -> Vec<&Path> {
        let points = mount_points(argv);
        let writable: Vec<_> = points.iter().filter(|(_, writable)| *writable).collect();
        points
            .iter()
            .filter(|(point, _)| {
                let below = |(top, _): &&(&Path, bool)| point != top && point.starts_with(top);
                writable.iter().copied().any(|found| below(&found))
            })
            .map(|(point, _)| *point)
            .collect()
    }

    #[test]
    fn no_mount_point_lies_below_what_a_guest_can_write_to() {
        let system = debian();
        let mut argv = arguments(&Walls {
            system: &system,
            workspace: Some("/var/lib/sandbox/s1"),
            tmp_bytes: 1,
            shm_bytes: 1,
        });
        assert_eq!(planted(&argv), Vec::<&Path>::new());
        let writable = mount_points(&argv)
            .into_iter()
            .filter(|(_, writable)| *writable);
        assert_eq!(writable.count(), 1);
        // Control: the very mistake of CVE-2026-87766.
        argv.extend(["--dir", "/workspace/deps/x"].map(str::to_owned));
        assert_eq!(planted(&argv), [Path::new("/workspace/deps/x")]);
    }

    #[test]
    fn this_hosts_system_has_programs_and_no_secrets() {
        let paths = system_paths(&[Path::new("/usr/bin/python3.11")]).unwrap();
        assert!(paths.contains(&SystemPath::Shown("/usr".into())));
        for secret in ["/etc", "/etc/shadow", "/root", "/home", "/opt", "/var"] {
            assert!(
                !paths.contains(&SystemPath::Shown(secret.into())),
                "{secret}"
            );
        }
    }
}
