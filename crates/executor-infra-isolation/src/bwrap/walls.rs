//! Which walls stand: judged from what the init saw inside, what the cgroups can do, and who the daemon is.
//!
//! Pure functions. A wall that every run must have and that is missing is a refusal to start; one that this host cannot
//! give is named, in `/info`, in the log and by `doctor`.

use std::collections::BTreeMap;

use executor_application::Wall;

use crate::{
    cgroup::{Bounds, Support},
    stage::wire::Inspection,
};

/// Who guests are on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuestIdentity {
    /// A user of their own, because the daemon is root and can choose.
    Own(u32),
    /// The daemon's own user, because an unprivileged daemon has no other.
    Daemons(u32),
}

/// Mounts that a guest may write to. All else is read-only.
const WRITABLE: [&str; 3] = ["/tmp", "/dev/shm", "/workspace"];

/// Mounts that are not read-only and where a guest can still make no file: kernel interfaces, and device nodes that
/// anybody may use.
fn has_no_files(target: &str, file_system: &str) -> bool {
    matches!(file_system, "proc" | "devpts" | "devtmpfs")
        || (target.starts_with("/dev/") && target != "/dev/shm")
}

/// Namespaces that no guest shares with the daemon, as `/proc/self/ns` calls them.
const PRIVATE: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// Limits that stand before a job is known, and how `/proc/self/limits` calls them.
pub(crate) const LIMITS_OF_SLOTS: &[&str] = &[
    "Max core file size",
    "Max open files",
    "Max processes",
    "Max stack size",
];

/// The same for a guest that is about to start: a slot gets the two more with its job.
pub(crate) const LIMITS_OF_RUNS: &[&str] = &[
    "Max core file size",
    "Max cpu time",
    "Max file size",
    "Max open files",
    "Max processes",
    "Max stack size",
];

/// What is wrong with the walls that every run must have, as seen from inside. Empty: they all stand. `host` are the
/// namespaces of the daemon, `bounded` the limits that must stand, whatever they are.
pub(crate) fn breaches(
    seen: &Inspection,
    host: &BTreeMap<String, String>,
    bounded: &[&str],
) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut require = |holds: bool, what: String| {
        if !holds {
            breaches.push(what);
        }
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let value = field(&seen.status, set);
        require(
            u64::from_str_radix(value, 16) == Ok(0),
            format!("capabilities are left: {set} is {value}"),
        );
    }
    for (name, expected) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        let value = field(&seen.status, name);
        require(
            value == expected,
            format!("{name} is {value:?}, not {expected}"),
        );
    }
    let inside = seen.uid_map.split_whitespace().next().unwrap_or_default();
    require(
        inside.parse().is_ok_and(|uid: u32| uid != 0),
        format!(
            "the guest is root of its user namespace: {:?}",
            seen.uid_map.trim()
        ),
    );
    require(
        seen.user_namespace_refused.is_some(),
        "a guest can make another user namespace".into(),
    );
    require(
        seen.interfaces == ["lo"],
        format!(
            "a guest sees these network interfaces: {:?}",
            seen.interfaces
        ),
    );
    require(
        seen.processes == [1],
        format!("a guest sees these processes: {:?}", seen.processes),
    );

    require(seen.opaque, "a guest can look into the init".into());
    for kind in PRIVATE {
        let inside = seen.namespaces.get(kind);
        require(
            inside.is_some() && host.get(kind).is_some() && inside != host.get(kind),
            format!("a guest shares the daemon's {kind} namespace"),
        );
    }
    for name in bounded {
        let soft = seen
            .limits
            .lines()
            .find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
        require(
            soft.is_some_and(|soft| soft != "unlimited"),
            format!("{name} is {soft:?}"),
        );
    }

    let mounts: Vec<_> = seen.mounts.lines().filter_map(Mount::parse).collect();
    require(
        mounts.iter().any(|mount| mount.target == "/"),
        "the mounts cannot be read".into(),
    );
    for mount in &mounts {
        let Mount { target, .. } = mount;
        let writable = WRITABLE.contains(target);
        require(
            writable || mount.has("ro") || has_no_files(target, mount.file_system),
            format!("{target} is writable"),
        );
        require(
            mount.has("nosuid"),
            format!("setuid programs count in {target}"),
        );
        if writable {
            require(
                mount.has("nodev"),
                format!("device nodes count in {target}"),
            );
        }
        if mount.file_system == "tmpfs" && writable {
            for bound in ["size=", "nr_inodes="] {
                require(
                    mount
                        .options
                        .split(',')
                        .any(|option| option.starts_with(bound)),
                    format!("{target} has no bound {bound}"),
                );
            }
        }
    }
    breaches
}

/// One line of `/proc/self/mounts` (fstab(5)).
struct Mount<'a> {
    target: &'a str,
    file_system: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split(' ').skip(1);
        Some(Self {
            target: words.next()?,
            file_system: words.next()?,
            options: words.next()?,
        })
    }

    fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|has| has == option)
    }
}

/// The value of a field of `/proc/self/status` (proc(5)).
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_default()
        .trim()
}

/// Every wall by name. `breaches` must have found nothing.
pub(crate) fn describe(identity: GuestIdentity, cgroups: &Support) -> Vec<Wall> {
    let mut walls = vec![
        Wall::on(
            "user_namespace",
            "no capability inside, no further user namespace",
        ),
        Wall::on(
            "mount_namespace",
            "read-only system; private /tmp, /dev, /dev/shm with bounds; the session's workspace",
        ),
        Wall::on(
            "pid_namespace",
            "sees and signals its own processes only; all die with the run",
        ),
        Wall::on("ipc_uts_cgroup_namespaces", "private"),
        Wall::on("network_namespace", "a loopback of its own and no route"),
        Wall::on(
            "seccomp",
            "system calls that no guest needs answer EPERM or ENOSYS",
        ),
        Wall::on("no_new_privs", "no program gives more rights"),
        Wall::on(
            "rlimits",
            "core dumps off; open files, file size, processes, CPU time",
        ),
        Wall::on("wall_time", "the whole tree is killed"),
        Wall::on("output_cap", "stdout, stderr and result are cut"),
    ];
    walls.push(match identity {
        GuestIdentity::Own(uid) => Wall::on("own_user", format!("guests are user {uid} on the host")),
        GuestIdentity::Daemons(uid) => Wall::off(
            "own_user",
            format!("guests are user {uid} on the host, like the daemon: run it as root, or in a container of its own, for another"),
        ),
    });
    let via_cgroup = |name, on: bool, how: &str, without: &str| {
        if on {
            Wall::on(name, how)
        } else {
            let why = cgroups.why.as_deref().unwrap_or("no reason is known");
            Wall::off(name, format!("{without}: {why}"))
        }
    };
    walls.push(via_cgroup(
        "cgroup_memory",
        cgroups.memory,
        "memory of the whole tree, swap included",
        "memory is limited for each process by itself (RLIMIT_DATA), not for the tree",
    ));
    walls.push(via_cgroup(
        "cgroup_processes",
        cgroups.pids,
        "processes and threads of the whole tree",
        "processes are limited by user namespace (RLIMIT_NPROC); a refused one is not reported",
    ));
    walls.push(via_cgroup(
        "cgroup_cpu_time",
        cgroups.cpu_accounting,
        "CPU time of the whole tree",
        "CPU time is limited for each process by itself (RLIMIT_CPU), not for the tree",
    ));
    let why = cgroups.why.as_deref().unwrap_or("no reason is known");
    walls.push(cgroups.together.map_or_else(
        || {
            Wall::off(
                "cgroup_all_runs",
                format!(
                    "all runs together have no bound but their number times that of one: {why}"
                ),
            )
        },
        |Bounds {
             memory_bytes,
             pids_max,
         }| {
            Wall::on(
                "cgroup_all_runs",
                format!(
                    "all runs together: {} MiB of memory, {pids_max} processes and threads",
                    memory_bytes >> 20
                ),
            )
        },
    ));
    walls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Inspection {
        Inspection {
            status: "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
                     CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n"
                .into(),
            uid_map: "      1000          0          1\n".into(),
            mounts: "tmpfs / tmpfs ro,nosuid,nodev,relatime 0 0\n\
                     /dev/vda /usr ext4 ro,nosuid,nodev,relatime 0 0\n\
                     proc /proc proc rw,nosuid,nodev,noexec 0 0\n\
                     tmpfs /dev tmpfs ro,nosuid,nodev,size=64k,nr_inodes=64 0 0\n\
                     devtmpfs /dev/null devtmpfs rw,nosuid 0 0\n\
                     tmpfs /dev/shm tmpfs rw,nosuid,nodev,size=1k,nr_inodes=9 0 0\n\
                     tmpfs /tmp tmpfs rw,nosuid,nodev,size=1k,nr_inodes=9 0 0\n\
                     /dev/vda /workspace ext4 rw,nosuid,nodev 0 0\n"
                .into(),
            interfaces: vec!["lo".into()],
            processes: vec![1],
            user_namespace_refused: Some("EPERM".into()),
            namespaces: namespaces(1),
            limits: LIMITS_OF_RUNS
                .iter()
                .fold(String::new(), |text, name| text + name + "   0   0   bytes\n"),
            opaque: true,
        }
    }

    fn namespaces(number: u32) -> BTreeMap<String, String> {
        PRIVATE
            .map(|kind| (kind.to_owned(), format!("{kind}:[{number}]")))
            .into()
    }

    #[test]
    fn standing_walls_have_no_breach() {
        assert_eq!(
            breaches(&good(), &namespaces(2), LIMITS_OF_RUNS),
            Vec::<String>::new()
        );
    }

    /// One change that takes one wall away, and what must then be said.
    type Breach = (fn(&mut Inspection), &'static str);

    fn edit(text: &mut String, from: &str, to: &str) {
        assert!(text.contains(from), "{from}");
        *text = text.replace(from, to);
    }

    #[test]
    fn each_missing_wall_is_named() {
        let cases: [Breach; 20] = [
            (|i| i.opaque = false, "into the init"),
            (
                |i| i.namespaces.extend([("ipc".into(), "ipc:[2]".into())]),
                "ipc",
            ),
            (|i| i.namespaces.clear(), "net namespace"),
            (
                |i| {
                    edit(
                        &mut i.limits,
                        "core file size   0",
                        "core file size   unlimited",
                    );
                },
                "core",
            ),
            (|i| i.limits.clear(), "Max open files"),
            (
                |i| edit(&mut i.status, "CapEff:\t00", "CapEff:\t02"),
                "CapEff",
            ),
            (
                |i| edit(&mut i.status, "CapBnd:\t0", "CapBnd:\t1"),
                "CapBnd",
            ),
            (
                |i| edit(&mut i.status, "NoNewPrivs:\t1", "NoNewPrivs:\t0"),
                "NoNewPrivs",
            ),
            (
                |i| edit(&mut i.status, "Seccomp:\t2", "Seccomp:\t0"),
                "Seccomp",
            ),
            (|i| i.status.clear(), "CapEff"),
            (
                |i| i.uid_map = "0 1000 1".into(),
                "root of its user namespace",
            ),
            (
                |i| i.user_namespace_refused = None,
                "another user namespace",
            ),
            (|i| i.interfaces.push("eth0".into()), "eth0"),
            (|i| i.processes.push(4711), "4711"),
            (
                |i| edit(&mut i.mounts, "/usr ext4 ro", "/usr ext4 rw"),
                "/usr is writable",
            ),
            (
                |i| edit(&mut i.mounts, "/dev tmpfs ro", "/dev tmpfs rw"),
                "/dev is writable",
            ),
            (
                |i| i.mounts += "/dev/vda /home ext4 rw,nosuid,nodev 0 0\n",
                "/home is writable",
            ),
            (
                |i| edit(&mut i.mounts, "ext4 rw,nosuid", "ext4 rw"),
                "setuid",
            ),
            (|i| edit(&mut i.mounts, ",nr_inodes=9", ""), "nr_inodes"),
            (|i| i.mounts.clear(), "cannot be read"),
        ];
        for (take_away, named) in cases {
            let mut seen = good();
            take_away(&mut seen);
            let found = breaches(&seen, &namespaces(2), LIMITS_OF_RUNS);
            assert!(
                found.iter().any(|breach| breach.contains(named)),
                "{named}: {found:?}"
            );
        }
    }

    #[test]
    fn a_host_without_cgroups_has_its_gaps_named() {
        let none = Support {
            version: None,
            memory: false,
            pids: false,
            cpu_accounting: false,
            together: None,
            why: Some("no write access".into()),
        };
        let walls = describe(GuestIdentity::Daemons(1000), &none);
        let off: Vec<_> = walls
            .iter()
            .filter(|wall| !wall.is_on())
            .map(|wall| wall.name)
            .collect();
        assert_eq!(
            off,
            [
                "own_user",
                "cgroup_memory",
                "cgroup_processes",
                "cgroup_cpu_time",
                "cgroup_all_runs"
            ]
        );
    }
}
