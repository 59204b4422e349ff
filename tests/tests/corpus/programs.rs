//! The list: what hostile programs there are, in which language they make no sense, and which are no guest's. `guests.rs` has
//! those that are.

/// What hostile programs do, grouped by what they are after.
pub(crate) const PROGRAMS: &[(&str, &[&str])] = &[
    (
        "Resources",
        &[
            "fork bomb",
            "thread bomb",
            "memory hog",
            "memory spread over children",
            "memory in files that nobody can see",
            "filling /tmp, bytes and inodes",
            "filling /dev/shm, bytes and inodes",
            "filling the workspace",
            "filling the workspace with inodes",
            "a file beyond its limit",
            "a sparse terabyte",
            "flood without a newline",
            "flood of lines",
            "a result that is too large",
            "a result of 1 GiB",
            "spinning",
            "spinning in many processes",
            "eternal sleep, signals ignored",
            "all descriptors",
            "core dump",
        ],
    ),
    (
        "Processes",
        &[
            "double fork and setsid",
            "a child left holding the pipes",
            "ptrace",
            "scanning /proc",
            "signals to the init and the daemon",
            "killing everything in sight",
            "real-time scheduling",
            "harm to the init's limits",
        ],
    ),
    (
        "Files",
        &[
            "links, FIFO, device, socket as artifacts",
            "hard link to the system",
            "/proc/self/root and /proc/1/root",
            "links and climbing to the host",
            "writing to the system",
            "another session's workspace",
            "planted start-up files",
            "remount, bind, pivot_root, umount",
        ],
    ),
    (
        "Kernel",
        &[
            "user namespace",
            "joining namespaces",
            "netlink and nftables",
            "io_uring",
            "bpf, perf, userfaultfd",
            "keyrings",
            "core_pattern, release_agent, sysrq",
            "leaving the cgroup",
            "32-bit and x32 entry",
            "setuid copies and becoming root",
        ],
    ),
    (
        "Network",
        &[
            "the internet and cloud metadata",
            "the daemon's port",
            "sockets of the host",
            "raw sockets and rare protocols",
        ],
    ),
    (
        "Protocol",
        &[
            "frames that are none",
            "a result and then a crash",
            "closing everything",
            "descriptors sent through the channel",
        ],
    ),
];

/// Programs that make no sense in a language, or that are no other there than in a further one, and why.
pub(crate) const NOT_IN: &[(&str, &str, &str)] = &[
    ("shell", "thread bomb", "bash has no threads"),
    (
        "javascript",
        "memory in files that nobody can see",
        "Node cannot call memfd_create",
    ),
    (
        "shell",
        "memory in files that nobody can see",
        "bash cannot call memfd_create",
    ),
    (
        "javascript",
        "filling /dev/shm, bytes and inodes",
        "as /tmp, which it fills",
    ),
    (
        "shell",
        "filling /dev/shm, bytes and inodes",
        "as /tmp, which it fills",
    ),
    (
        "shell",
        "a result that is too large",
        "shell runs have no result",
    ),
    ("shell", "a result of 1 GiB", "shell runs have no result"),
    (
        "javascript",
        "a result of 1 GiB",
        "V8 has no string of that length",
    ),
    (
        "javascript",
        "spinning in many processes",
        "as Python, whose children they would be",
    ),
    (
        "shell",
        "spinning in many processes",
        "as Python, whose children they would be",
    ),
    ("javascript", "ptrace", "Node cannot call it"),
    ("shell", "ptrace", "bash cannot call it"),
    (
        "javascript",
        "harm to the init's limits",
        "Node cannot call prlimit",
    ),
    (
        "shell",
        "harm to the init's limits",
        "bash cannot call prlimit",
    ),
    ("javascript", "joining namespaces", "Node cannot call setns"),
    (
        "javascript",
        "netlink and nftables",
        "Node has no such sockets",
    ),
    ("shell", "netlink and nftables", "bash has no such sockets"),
    (
        "javascript",
        "io_uring",
        "Node cannot call it, and libuv does without",
    ),
    ("shell", "io_uring", "bash cannot call it"),
    (
        "javascript",
        "bpf, perf, userfaultfd",
        "Node cannot call them",
    ),
    ("shell", "bpf, perf, userfaultfd", "bash cannot call them"),
    ("javascript", "keyrings", "Node cannot call them"),
    ("shell", "keyrings", "bash cannot call them"),
    (
        "javascript",
        "32-bit and x32 entry",
        "machine code is the same from any language",
    ),
    (
        "shell",
        "32-bit and x32 entry",
        "machine code is the same from any language",
    ),
    ("shell", "sockets of the host", "bash has no Unix sockets"),
    (
        "javascript",
        "raw sockets and rare protocols",
        "Node has no such sockets",
    ),
    (
        "shell",
        "raw sockets and rare protocols",
        "bash has no such sockets",
    ),
    (
        "shell",
        "frames that are none",
        "shell runs have no channel",
    ),
    (
        "shell",
        "a result and then a crash",
        "shell runs have no channel",
    ),
    (
        "javascript",
        "descriptors sent through the channel",
        "Node cannot send descriptors of its choice",
    ),
    (
        "shell",
        "descriptors sent through the channel",
        "shell runs have no channel",
    ),
];

/// What the list has as well, and what is no guest's: the test that holds it.
pub(crate) const ELSEWHERE: &[(&str, &str)] = &[
    (
        "file and link swapped during the scan",
        "files::swapping_files_and_links_ten_thousand_times_gives_away_nothing",
    ),
    (
        "links planted where the next sandbox writes",
        "planted::no_planted_link_is_followed_by_the_next_sandbox",
    ),
    (
        "archives with `..`",
        "files::hostile_archives_change_nothing",
    ),
    (
        "descriptors, environment, umask, signals of a careless parent",
        "identity::a_careless_parent_reaches_no_guest",
    ),
    (
        "other runs' loopback and abstract sockets",
        "network::runs_do_not_meet",
    ),
    (
        "result markers in the streams",
        "protocol::nothing_is_parsed_from_the_streams",
    ),
    (
        "every system call that the filter denies",
        "syscalls::every_line_of_the_filter_is_what_a_guest_meets",
    ),
    (
        "segments and queues left in memory",
        "processes::what_a_guest_leaves_in_shared_memory_dies_with_it",
    ),
    (
        "a killed daemon's guests",
        "ends::nobody_outlives_a_killed_daemon",
    ),
];
