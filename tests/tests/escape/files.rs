//! Files: the guest's own, a harmless part of the system, and nothing else.

use std::{collections::BTreeSet, fs};

use serde_json::json;

use crate::{
    support::Workspace,
    world::{Answers, compare, findings, guest, run, with_event},
};

/// What came of each attempt.
const FINDINGS: Answers<'_> = &[
    ("sandbox", &["run"]),
    ("/proc /tmp /workspace", &["mounts that are writable"]),
    (
        "",
        &[
            "homes of others",
            "mounts where setuid counts",
            "directories where devices count",
        ],
    ),
    (
        "ENOENT",
        &[
            "read /etc/shadow",
            "read /etc/ssh",
            "read /etc/machine-id",
            "read /root/.bashrc",
            "read /var/log",
            "read /sys/kernel",
            "read /dev/vda",
            "read /dev/kvm",
            "read /dev/mem",
            "read /dev/vsock",
            "read /run/docker.sock",
            "read a secret",
            "read a secret from one's own root",
            "read a secret by climbing",
            "read a secret by a link",
            "read a secret by a link to a directory",
            "list the neighbour",
            "write to the neighbour",
            "open /sys/fs/cgroup",
            "open /sys/fs/cgroup/release_agent",
            "open /sys/kernel/uevent_helper",
        ],
    ),
    (
        "EACCES",
        &[
            "read a secret from the init's root",
            "read a secret from the init's directory",
            "write /proc/sys/kernel/core_pattern",
            "write /proc/sys/kernel/hostname",
            "write /proc/sys/vm/drop_caches",
            "write /proc/sys/vm/overcommit_memory",
            "write /proc/sys/net/ipv4/ip_forward",
            "write /proc/sys/user/max_user_namespaces",
            "lower one's own badness",
        ],
    ),
    // Not every kernel has these.
    (
        "EACCES|ENOENT",
        &[
            "write /proc/sys/kernel/modprobe",
            "write /proc/sysrq-trigger",
            "open /proc/sys/fs/binfmt_misc/register",
            "open /proc/kcore",
            "open /proc/kmsg",
        ],
    ),
    (
        "EROFS",
        &[
            "write /new",
            "write /usr/new",
            "write /usr/bin/env",
            "write /usr/bin/python3",
            "write /bin/new",
            "write /etc/new",
            "write /etc/passwd",
            "write /etc/ld.so.preload",
            "write /dev/new",
            "write /run/new",
            "write /run/sandbox/new",
            "remove a program",
            "open up /usr",
        ],
    ),
    (
        "EXDEV",
        &["replace the workspace", "hard link to the system"],
    ),
    ("EINVAL", &["give a file to root"]),
    ("EPERM", &["map oneself to root"]),
    ("1000", &["a setuid copy runs as"]),
];

/// Checks that a list of words holds some of these, and nothing else.
#[track_caller]
fn assert_only(words: &str, allowed: &str) {
    let allowed: BTreeSet<_> = allowed.split(' ').collect();
    let strangers: Vec<_> = words
        .split(' ')
        .filter(|word| !allowed.contains(word))
        .collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}

#[test]
fn nothing_of_the_host_is_there_to_read_or_write() {
    let workspace = Workspace::new();
    fs::write(workspace.path().join("mine"), "x").unwrap();
    // Everybody on the host may read these: only the sandbox keeps guests from them.
    let host = Workspace::new();
    let secret = host.path().join("secret");
    fs::write(&secret, "x").unwrap();
    let neighbour = Workspace::new();
    fs::write(neighbour.path().join("theirs"), "x").unwrap();

    let outcome = run(with_event(
        &json!({"secret": secret, "neighbour": neighbour.path()}),
        guest!(python "files").script(&workspace),
    ));
    let mut found = findings(&outcome);
    let mut take = |name: &str| found.remove(name).unwrap();
    assert_only(
        &take("root"),
        "bin dev etc lib lib32 lib64 libx32 opt proc run sbin tmp usr workspace",
    );
    assert_only(
        &take("etc"),
        "alternatives group hostname hosts ld.so.cache matplotlibrc nsswitch.conf passwd",
    );
    assert_only(
        &take("dev"),
        "core fd full null ptmx pts random shm stderr stdin stdout tty urandom zero",
    );
    compare(&found, FINDINGS);

    // The host's side of it.
    assert!(workspace.path().join("new").exists(), "control");
    assert!(!neighbour.path().join("planted").exists());
    assert_eq!(fs::read_to_string(&secret).unwrap(), "x");
}
