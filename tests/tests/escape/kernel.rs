//! The kernel's surface: what no guest needs is not there, what programs need is.

use crate::{
    support::Workspace,
    world::{Answers, expect, guest, run},
};

/// What the kernel answers to raw system calls.
const DIRECTLY: Answers<'_> = &[
    (
        "EPERM",
        &[
            // Namespaces
            "unshare time",
            "unshare mount",
            "unshare cgroup",
            "unshare uts",
            "unshare ipc",
            "unshare user",
            "unshare pid",
            "unshare net",
            "clone mount",
            "clone cgroup",
            "clone uts",
            "clone ipc",
            "clone user",
            "clone pid",
            "clone net",
            "clone with a flag and the upper half set",
            "setns",
            // Mounts
            "mount tmpfs",
            "mount proc",
            "mount cgroup",
            "bind",
            "remount writable",
            "make shared",
            "umount",
            "pivot_root",
            "chroot",
            "open_tree",
            "open_tree_attr",
            "move_mount",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
            "mount_setattr",
            "swapon",
            "swapoff",
            // Other processes
            "ptrace a child",
            "ptrace init",
            "ptrace traceme",
            "process_vm_readv a child",
            "process_vm_readv init",
            "process_vm_writev a child",
            "process_vm_writev init",
            "kcmp",
            "pidfd_getfd",
            // The kernel itself, and the whole machine
            "bpf",
            "perf_event_open",
            "userfaultfd",
            "add_key",
            "request_key",
            "keyctl",
            "init_module",
            "finit_module",
            "delete_module",
            "kexec_load",
            "kexec_file_load",
            "reboot",
            "syslog",
            "acct",
            "quotactl",
            "quotactl_fd",
            "vhangup",
            "fanotify_init",
            "clock_settime",
            "settimeofday",
            "adjtimex",
            "clock_adjtime",
            "open_by_handle_at",
            "personality",
            "personality with the upper half set",
            "mbind",
            "set_mempolicy",
            "set_mempolicy_home_node",
            "migrate_pages",
            "move_pages",
            "real-time scheduling",
            // Devices, terminals, raw sockets
            "character device",
            "block device",
            "TIOCSTI",
            "TIOCSTI with the upper half set",
            "TIOCLINUX",
            "TIOCSETD",
            "raw IPv4",
            "raw IPv6",
        ],
    ),
    ("EACCES", &["be less nice"]),
    // As on a kernel that does not have them, so that programs take another way.
    (
        "ENOSYS",
        &[
            "clone3",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "a call that nobody has judged",
            "an x32 call",
        ],
    ),
    ("ENOTSUP", &["name_to_handle_at"]),
    (
        "EAFNOSUPPORT",
        &[
            "netlink",
            "nftables",
            "packet",
            "vsock",
            "the kernel's ciphers",
            "bluetooth",
            "a family with the upper half set",
        ],
    ),
    ("EPROTONOSUPPORT", &["sctp", "multipath tcp"]),
];

#[test]
fn python_asks_the_kernel_directly() {
    let workspace = Workspace::new();
    let outcome = run(guest!(python "kernel").script(&workspace));
    expect(&outcome, DIRECTLY);
}

/// The filter judges calls by their 64-bit numbers; the 32-bit entry has others.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_entry_of_32_bit_programs_is_closed() {
    let workspace = Workspace::new();
    let outcome = run(guest!(python "foreign_entry").script(&workspace));
    expect(&outcome, &[("ENOSYS", &["the 32-bit entry"])]);
}

#[test]
fn an_administrators_tools_are_refused() {
    let workspace = Workspace::new();
    let outcome = run(guest!(shell "kernel").script(&workspace));
    expect(
        &outcome,
        &[(
            "refused",
            &[
                "unshare a user namespace",
                "unshare a user and a mount namespace",
                "unshare a mount namespace",
                "join the init's namespaces",
                "mount a tmpfs",
                "remount /usr writable",
                "bind",
                "unmount /usr",
                "unmount /proc lazily",
                "change the root",
                "set the clock",
                "set the host name",
                "read the kernel's log",
                "make a device",
                "real-time scheduling",
                "core_pattern",
                "raise a limit",
            ],
        )],
    );
}

#[test]
fn nodes_own_ways_are_closed() {
    let workspace = Workspace::new();
    let outcome = run(guest!(node "kernel").script(&workspace));
    expect(
        &outcome,
        &[
            ("refused", &["unshare", "mount"]),
            ("EINVAL", &["become root", "become root of the group"]),
            ("EPERM", &["join groups"]),
            ("ERR_SYSTEM_ERROR", &["priority"]),
            ("EROFS", &["write to /usr", "write to /etc"]),
            ("ENOENT", &["read /etc/shadow"]),
            (
                "EACCES",
                &[
                    "core_pattern",
                    "read the init's environment",
                    "list the init's root",
                ],
            ),
        ],
    );
}
