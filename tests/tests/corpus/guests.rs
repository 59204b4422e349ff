//! Which guest is which program of the list, in which language, and what must come of it.

use super::{
    attempt::{Attempt, Proof},
    resources::RESOURCES,
};

macro_rules! guest {
    (python $name:literal) => {
        guest!("python", "python/attempts.py", "python/", $name, ".py")
    };
    (node $name:literal) => {
        guest!("javascript", "node/attempts.js", "node/", $name, ".js")
    };
    (shell $name:literal) => {
        guest!("shell", "shell/attempts.sh", "shell/", $name, ".sh")
    };
    ($language:literal, $helpers:literal, $directory:literal, $name:literal, $extension:literal) => {
        $crate::attempt::Guest {
            language: $language,
            name: $name,
            code: concat!(
                include_str!(concat!("../../fixtures/guests/", $helpers)),
                include_str!(concat!(
                    "../../fixtures/guests/",
                    $directory,
                    $name,
                    $extension
                )),
            ),
        }
    };
}

pub(crate) use guest;

/// The run as a whole is the proof.
pub(crate) const fn whole(program: &'static str) -> Proof {
    Proof {
        program,
        denied: &[],
        said: &[],
    }
}

/// The guest has tried these in vain.
pub(crate) const fn denied(program: &'static str, denied: &'static [&'static str]) -> Proof {
    Proof {
        denied,
        ..whole(program)
    }
}

/// The guest has said this.
pub(crate) const fn said(
    program: &'static str,
    said: &'static [(&'static str, &'static str)],
) -> Proof {
    Proof {
        said,
        ..whole(program)
    }
}

pub(crate) const SHORT: &str = r#"{"max_wall_time_ms": 700, "max_processes": 30}"#;

const OF_FILES: &[Proof] = &[
    denied(
        "/proc/self/root and /proc/1/root",
        &[
            "read a secret from one's own root",
            "read a secret from the init's root",
        ],
    ),
    denied(
        "links and climbing to the host",
        &[
            "read a secret",
            "read a secret by climbing",
            "read a secret by a link",
            "read a secret by a link to a directory",
        ],
    ),
    denied(
        "another session's workspace",
        &["list the neighbour", "write to the neighbour"],
    ),
    denied("hard link to the system", &["hard link to the system"]),
    denied(
        "writing to the system",
        &[
            "write /new",
            "write /usr/new",
            "write /usr/bin/env",
            "write /etc/passwd",
            "write /dev/new",
            "write /run/new",
        ],
    ),
];
const OF_THE_KERNELS_FILES: &[Proof] = &[NO_KNOBS, NO_GROUPS];
const NO_KNOBS: Proof = denied(
    "core_pattern, release_agent, sysrq",
    &[
        "write /proc/sys/kernel/core_pattern",
        "write /proc/sysrq-trigger",
        "write /sys/fs/cgroup/release_agent",
    ],
);
const NO_GROUPS: Proof = denied(
    "leaving the cgroup",
    &[
        "write /sys/fs/cgroup/cgroup.procs",
        "list the control groups",
    ],
);
const SHELL_FILES: &[Proof] = &[
    NO_KNOBS,
    NO_GROUPS,
    denied(
        "setuid copies and becoming root",
        &["a setuid copy runs as root", "own a file as root"],
    ),
];
const NEXT_ROOM: &str = r#"{"secret": "$secret", "neighbour": "$neighbour"}"#;
const WAYS_OUT: &str = r#"{"port": $port, "path": "$path", "abstract": "$abstract"}"#;
const OUTSIDE: &str = r#"{"daemon": $daemon}"#;
const RETURN: &str = r#"{"then": "return"}"#;
const GARBAGE: &str = r#"{"bytes": [103, 97, 114, 98, 97, 103, 101], "then": "return"}"#;
const CRASH: &str = r#"{"bytes": [1, 0, 0, 0, 82, 49], "then": "crash"}"#;
const OF_PROCESSES: &[Proof] = &[
    said(
        "scanning /proc",
        &[(
            "processes",
            "init, itself, its child|init,its child,itself,",
        )],
    ),
    denied(
        "scanning /proc",
        &[
            "read /proc/1/mem",
            "read /proc/1/environ",
            "read /proc/1/maps",
            "read /proc/1/fd/0",
            "follow /proc/1/exe",
            "follow /proc/1/root",
            "follow /proc/1/ns/user",
        ],
    ),
    Proof {
        denied: &["signal the daemon by its number outside"],
        ..said(
            "signals to the init and the daemon",
            &[("the init is", "S")],
        )
    },
    said("killing everything in sight", &[("the init is", "S")]),
];
const OF_ARTIFACTS: &[Proof] = &[denied(
    "links, FIFO, device, socket as artifacts",
    &["a hard link to the system", "a device"],
)];
const PLANTED: &[Proof] = &[said("planted start-up files", &[("ran before", "")])];
const OF_THE_NET: &[Proof] = &[
    denied(
        "the internet and cloud metadata",
        &["cloud metadata", "the internet", "a name"],
    ),
    denied("the daemon's port", &["a port of the host"]),
];

/// Every run of every guest.
pub(crate) fn attempts() -> impl Iterator<Item = &'static Attempt> {
    [RESOURCES, PROCESSES, FILES, KERNEL, NETWORK, PROTOCOL]
        .into_iter()
        .flatten()
}

pub(crate) const ENDLESS: &[&str] = &["wall_time"];

const PROCESSES: &[Attempt] = &[
    Attempt::script(guest!(python "stay"), &[whole("double fork and setsid")]).event(RETURN),
    Attempt::script(guest!(node "stay"), &[whole("double fork and setsid")]).event(RETURN),
    Attempt::script(guest!(shell "stay"), &[whole("double fork and setsid")]).event(RETURN),
    Attempt::handler(
        guest!(python "leave_a_child"),
        &[whole("a child left holding the pipes")],
    ),
    Attempt::handler(
        guest!(node "leave_a_child"),
        &[whole("a child left holding the pipes")],
    ),
    Attempt::script(
        guest!(shell "leave_a_child"),
        &[whole("a child left holding the pipes")],
    ),
    Attempt::script(guest!(python "processes"), OF_PROCESSES)
        .also(&[
            said(
                "scanning /proc",
                &[("session of", "init"), ("process group of", "itself")],
            ),
            denied(
                "scanning /proc",
                &[
                    "read /proc/1/syscall",
                    "read /proc/1/fdinfo/0",
                    "follow /proc/1/fd/0",
                    "list /proc/1/map_files",
                ],
            ),
        ])
        .event(OUTSIDE),
    Attempt::script(guest!(node "processes"), OF_PROCESSES)
        .also(&[denied("real-time scheduling", &["real-time scheduling"])])
        .event(OUTSIDE),
    Attempt::script(guest!(shell "processes"), OF_PROCESSES).event(OUTSIDE),
    Attempt::script(
        guest!(shell "kernel"),
        &[denied("real-time scheduling", &["real-time scheduling"])],
    ),
    // The init ends, and with it the run; or it does not.
    Attempt::script(
        guest!(python "harm_the_init"),
        &[whole("harm to the init's limits")],
    )
    .ends(&["completed", "signal", "memory"]),
];

const FILES: &[Attempt] = &[
    Attempt::script(guest!(python "artifacts"), OF_ARTIFACTS).leaves(&["regular"]),
    // It ends by a signal of its own, so that its socket stays.
    Attempt::script(guest!(node "artifacts"), OF_ARTIFACTS)
        .ends(&["signal"])
        .leaves(&["regular"]),
    Attempt::script(guest!(shell "artifacts"), OF_ARTIFACTS).leaves(&["regular"]),
    Attempt::script(guest!(python "files"), OF_FILES)
        .also(&[
            said(
                "setuid copies and becoming root",
                &[
                    ("a setuid copy runs as", "1000"),
                    ("mounts where setuid counts", ""),
                ],
            ),
            denied(
                "setuid copies and becoming root",
                &["give a file to root", "map oneself to root"],
            ),
            denied(
                "core_pattern, release_agent, sysrq",
                &[
                    "write /proc/sys/kernel/core_pattern",
                    "write /proc/sysrq-trigger",
                    "open /sys/fs/cgroup/release_agent",
                ],
            ),
            denied("leaving the cgroup", &["open /sys/fs/cgroup"]),
        ])
        .event(NEXT_ROOM),
    Attempt::script(guest!(node "files"), OF_FILES)
        .also(OF_THE_KERNELS_FILES)
        .event(NEXT_ROOM),
    Attempt::script(guest!(shell "files"), OF_FILES)
        .also(SHELL_FILES)
        .event(NEXT_ROOM),
    Attempt::script(guest!(python "harvest"), PLANTED).after(guest!(python "plant")),
    Attempt::script(guest!(node "harvest"), PLANTED).after(guest!(python "plant")),
    Attempt::script(guest!(shell "harvest"), PLANTED).after(guest!(python "plant")),
];

const KERNEL: &[Attempt] = &[
    Attempt::script(
        guest!(python "kernel"),
        &[
            denied(
                "user namespace",
                &[
                    "unshare user",
                    "clone user",
                    "clone3",
                    "clone with a flag and the upper half set",
                ],
            ),
            denied("joining namespaces", &["setns"]),
            denied(
                "remount, bind, pivot_root, umount",
                &[
                    "bind",
                    "remount writable",
                    "pivot_root",
                    "umount",
                    "chroot",
                    "open_tree",
                    "move_mount",
                    "fsmount",
                    "mount tmpfs",
                ],
            ),
            denied(
                "ptrace",
                &[
                    "ptrace init",
                    "ptrace a child",
                    "ptrace traceme",
                    "process_vm_readv init",
                    "pidfd_getfd",
                ],
            ),
            denied(
                "real-time scheduling",
                &["real-time scheduling", "be less nice"],
            ),
            denied("netlink and nftables", &["netlink", "nftables"]),
            denied(
                "io_uring",
                &["io_uring_setup", "io_uring_enter", "io_uring_register"],
            ),
            denied(
                "bpf, perf, userfaultfd",
                &["bpf", "perf_event_open", "userfaultfd"],
            ),
            denied("keyrings", &["add_key", "request_key", "keyctl"]),
            denied("leaving the cgroup", &["mount cgroup", "unshare cgroup"]),
            denied("32-bit and x32 entry", &["an x32 call"]),
            denied(
                "raw sockets and rare protocols",
                &[
                    "raw IPv4",
                    "raw IPv6",
                    "packet",
                    "vsock",
                    "sctp",
                    "the kernel's ciphers",
                ],
            ),
        ],
    ),
    Attempt::script(
        guest!(node "kernel"),
        &[
            denied("user namespace", &["unshare"]),
            denied("remount, bind, pivot_root, umount", &["mount"]),
            denied(
                "setuid copies and becoming root",
                &["become root", "become root of the group", "join groups"],
            ),
        ],
    ),
    Attempt::script(
        guest!(shell "kernel"),
        &[
            denied(
                "user namespace",
                &[
                    "unshare a user namespace",
                    "unshare a user and a mount namespace",
                ],
            ),
            denied("joining namespaces", &["join the init's namespaces"]),
            denied(
                "remount, bind, pivot_root, umount",
                &[
                    "remount /usr writable",
                    "bind",
                    "unmount /usr",
                    "change the root",
                    "mount a tmpfs",
                ],
            ),
        ],
    ),
    #[cfg(target_arch = "x86_64")]
    Attempt::script(
        guest!(python "foreign_entry"),
        &[denied("32-bit and x32 entry", &["the 32-bit entry"])],
    ),
];

const NETWORK: &[Attempt] = &[
    Attempt::script(guest!(python "network"), OF_THE_NET)
        .also(&[
            denied(
                "sockets of the host",
                &[
                    "an abstract socket of the host",
                    "a socket of the host by its path",
                ],
            ),
            said(
                "the internet and cloud metadata",
                &[("interfaces", "lo"), ("routes", "0")],
            ),
        ])
        .event(WAYS_OUT),
    Attempt::script(guest!(node "network"), OF_THE_NET)
        .also(&[denied(
            "sockets of the host",
            &[
                "an abstract socket of the host",
                "a socket of the host by its path",
            ],
        )])
        .event(WAYS_OUT),
    Attempt::script(guest!(shell "network"), OF_THE_NET).event(WAYS_OUT),
];

const PROTOCOL: &[Attempt] = &[
    Attempt::handler(guest!(python "protocol"), &[whole("frames that are none")])
        .event(GARBAGE)
        .ends(&["handler_error"]),
    Attempt::handler(guest!(node "protocol"), &[whole("frames that are none")])
        .event(GARBAGE)
        .ends(&["handler_error"]),
    Attempt::handler(
        guest!(python "protocol"),
        &[whole("a result and then a crash")],
    )
    .event(CRASH)
    .ends(&["signal"]),
    Attempt::handler(
        guest!(node "protocol"),
        &[whole("a result and then a crash")],
    )
    .event(CRASH)
    .ends(&["signal"]),
    Attempt::handler(
        guest!(python "close_everything"),
        &[whole("closing everything")],
    )
    .event(RETURN)
    .ends(&["handler_error"]),
    Attempt::handler(
        guest!(node "close_everything"),
        &[whole("closing everything")],
    )
    .limits(SHORT)
    .ends(&["handler_error", "signal", "exit_code", "wall_time"]),
    Attempt::script(
        guest!(shell "close_everything"),
        &[whole("closing everything")],
    )
    .limits(SHORT)
    .ends(ENDLESS)
    .hits(ENDLESS),
    Attempt::handler(
        guest!(python "hand_over"),
        &[whole("descriptors sent through the channel")],
    )
    .event(r#"{"bytes": [1, 0, 0, 0, 82, 49], "descriptors": [1, 2, 3], "times": 3}"#),
];
