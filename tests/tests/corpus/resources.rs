//! Guests that take what there is: every resource has a bound, and whoever runs into it hears of it.

use super::{
    attempt::{Attempt, Proof},
    guests::{ENDLESS, SHORT, denied, guest, said, whole},
};

const FEW: &str = r#"{"max_processes": 30}"#;
const SMALL: &str = r#"{"max_memory_mb": 100}"#;
const TMP: &str = r#"{"directory": "/tmp"}"#;
const TMP_FULL: Proof = said(
    "filling /tmp, bytes and inodes",
    &[
        ("bytes end in", "ENOSPC|No space left"),
        ("files end in", "ENOSPC|No space left"),
        ("MiB", "32"),
    ],
);
const ONE_PROCESS: &[Proof] = &[
    Proof {
        denied: &["a larger file"],
        ..said("a file beyond its limit", &[("bytes in it", "1048576")])
    },
    denied("a sparse terabyte", &["a sparse terabyte"]),
    denied("all descriptors", &["too many open files"]),
    said(
        "core dump",
        &[("core dumped", "False|false"), ("files beside ours", "")],
    ),
];
const LINES: &str = r#"{"lines": true}"#;
const LARGE: &str = r#"{"bytes": 67108864}"#;

pub(crate) const RESOURCES: &[Attempt] = &[
    Attempt::script(
        guest!(python "many"),
        &[said("fork bomb", &[("ends in", "EAGAIN")])],
    )
    .event(r#"{"what": "processes"}"#)
    .limits(FEW)
    .hits(&["pids"])
    .without("cgroup_processes", "bombs"),
    Attempt::script(
        guest!(node "many"),
        &[said("fork bomb", &[("ends in", "EAGAIN")])],
    )
    .limits(FEW)
    .hits(&["pids"])
    .without("cgroup_processes", "bombs"),
    // It may be so short of processes that its own `sleep` does not start.
    Attempt::script(guest!(shell "fork_bomb"), &[whole("fork bomb")])
        .limits(SHORT)
        .ends(&["wall_time", "exit_code"])
        .hits(&["pids"])
        .without("cgroup_processes", "fork_bomb"),
    Attempt::script(
        guest!(python "many"),
        &[said("thread bomb", &[("ends in", "EAGAIN")])],
    )
    .event(r#"{"what": "threads"}"#)
    .limits(FEW)
    .hits(&["pids"])
    .without("cgroup_processes", "bombs"),
    // Where a worker's own helpers are refused, Node aborts.
    Attempt::script(guest!(node "threads"), &[whole("thread bomb")])
        .limits(FEW)
        .ends(&["completed", "handler_error", "signal", "exit_code"])
        .hits(&["pids"])
        .without("cgroup_processes", "bombs"),
    Attempt::script(guest!(python "memory"), &[whole("memory hog")])
        .event(r#"{"what": "alone"}"#)
        .limits(SMALL)
        .ends(&["memory"])
        .hits(&["memory"])
        .without("cgroup_memory", "hogs"),
    Attempt::script(guest!(node "memory"), &[whole("memory hog")])
        .limits(SMALL)
        .ends(&["memory"])
        .hits(&["memory"])
        .without("cgroup_memory", "hogs"),
    Attempt::script(guest!(shell "memory"), &[whole("memory hog")])
        .limits(SMALL)
        .ends(&["memory"])
        .hits(&["memory"])
        .without("cgroup_memory", "hogs"),
    // Whoever is killed need not be the one who answers.
    Attempt::script(
        guest!(python "memory"),
        &[whole("memory spread over children")],
    )
    .event(r#"{"what": "children"}"#)
    .limits(SMALL)
    .ends(&["completed", "memory"])
    .hits(&["memory"])
    .without("cgroup_memory", "hogs"),
    Attempt::script(
        guest!(node "memory_children"),
        &[whole("memory spread over children")],
    )
    .limits(SMALL)
    .ends(&["completed", "memory"])
    .hits(&["memory"])
    .without("cgroup_memory", "hogs"),
    Attempt::script(
        guest!(shell "memory_children"),
        &[whole("memory spread over children")],
    )
    .limits(SMALL)
    .ends(&["completed", "memory"])
    .hits(&["memory"])
    .without("cgroup_memory", "hogs"),
    Attempt::script(
        guest!(python "memory"),
        &[whole("memory in files that nobody can see")],
    )
    .event(r#"{"what": "memfd"}"#)
    .limits(SMALL)
    .ends(&["memory"])
    .hits(&["memory"])
    .without("cgroup_memory", "hogs"),
    Attempt::script(guest!(python "fill"), &[TMP_FULL])
        .event(TMP)
        .limits(r#"{"max_memory_mb": 64}"#),
    Attempt::script(guest!(node "fill"), &[TMP_FULL])
        .event(TMP)
        .limits(r#"{"max_memory_mb": 64}"#),
    Attempt::script(guest!(shell "fill"), &[TMP_FULL])
        .event(TMP)
        .limits(r#"{"max_memory_mb": 64}"#),
    Attempt::script(
        guest!(python "fill"),
        &[said(
            "filling /dev/shm, bytes and inodes",
            &[
                ("bytes end in", "ENOSPC"),
                ("files end in", "ENOSPC"),
                ("MiB", "32"),
            ],
        )],
    )
    .event(r#"{"directory": "/dev/shm"}"#)
    .limits(r#"{"max_memory_mb": 64}"#),
    Attempt::script(guest!(python "heap"), &[whole("filling the workspace")]).quota(),
    Attempt::script(guest!(node "heap"), &[whole("filling the workspace")]).quota(),
    Attempt::script(guest!(shell "heap"), &[whole("filling the workspace")]).quota(),
    Attempt::script(
        guest!(python "litter"),
        &[whole("filling the workspace with inodes")],
    )
    .quota(),
    Attempt::script(
        guest!(node "litter"),
        &[whole("filling the workspace with inodes")],
    )
    .quota(),
    Attempt::script(
        guest!(shell "litter"),
        &[whole("filling the workspace with inodes")],
    )
    .quota(),
    Attempt::script(guest!(python "limits"), ONE_PROCESS).limits(r#"{"max_file_size_mb": 1}"#),
    Attempt::script(guest!(node "limits"), ONE_PROCESS).limits(r#"{"max_file_size_mb": 1}"#),
    Attempt::script(guest!(shell "limits"), ONE_PROCESS).limits(r#"{"max_file_size_mb": 1}"#),
    Attempt::handler(guest!(python "flood"), &[whole("flood without a newline")]).hits(&["output"]),
    Attempt::handler(guest!(node "flood"), &[whole("flood without a newline")]).hits(&["output"]),
    Attempt::script(guest!(shell "flood"), &[whole("flood without a newline")]).hits(&["output"]),
    Attempt::handler(guest!(python "flood"), &[whole("flood of lines")])
        .event(LINES)
        .hits(&["output"]),
    Attempt::handler(guest!(node "flood"), &[whole("flood of lines")])
        .event(LINES)
        .hits(&["output"]),
    Attempt::script(guest!(shell "flood"), &[whole("flood of lines")])
        .event(LINES)
        .hits(&["output"]),
    Attempt::handler(
        guest!(python "large_result"),
        &[whole("a result that is too large")],
    )
    .event(LARGE)
    .ends(&["result_too_large"])
    .hits(&["result_size"]),
    Attempt::handler(
        guest!(node "large_result"),
        &[whole("a result that is too large")],
    )
    .event(LARGE)
    .ends(&["result_too_large"])
    .hits(&["result_size"]),
    // A process that is refused memory hears of it; a tree that takes it is ended.
    Attempt::handler(guest!(python "large_result"), &[whole("a result of 1 GiB")])
        .event(r#"{"bytes": 1073741824}"#)
        .ends(&["memory"])
        .hits(&["memory"]),
    Attempt::script(guest!(python "spin"), &[whole("spinning")])
        .event(r#"{"children": 0}"#)
        .limits(r#"{"max_cpu_time_ms": 300}"#)
        .ends(&["cpu_time"])
        .hits(&["cpu_time"]),
    Attempt::script(guest!(node "spin"), &[whole("spinning")])
        .limits(r#"{"max_cpu_time_ms": 300}"#)
        .ends(&["cpu_time"])
        .hits(&["cpu_time"]),
    Attempt::script(guest!(shell "spin"), &[whole("spinning")])
        .limits(r#"{"max_cpu_time_ms": 300}"#)
        .ends(&["cpu_time"])
        .hits(&["cpu_time"]),
    Attempt::script(
        guest!(python "spin"),
        &[whole("spinning in many processes")],
    )
    .event(r#"{"children": 4}"#)
    .limits(r#"{"max_cpu_time_ms": 500}"#)
    .ends(&["cpu_time"])
    .hits(&["cpu_time"])
    .without("cgroup_cpu_time", "tree"),
    Attempt::script(
        guest!(python "stay"),
        &[whole("eternal sleep, signals ignored")],
    )
    .event(r#"{"then": "sleep"}"#)
    .limits(SHORT)
    .ends(ENDLESS)
    .hits(ENDLESS),
    Attempt::script(
        guest!(node "stay"),
        &[whole("eternal sleep, signals ignored")],
    )
    .event(r#"{"then": "sleep"}"#)
    .limits(SHORT)
    .ends(ENDLESS)
    .hits(ENDLESS),
    Attempt::script(
        guest!(shell "stay"),
        &[whole("eternal sleep, signals ignored")],
    )
    .event(r#"{"then": "sleep"}"#)
    .limits(SHORT)
    .ends(ENDLESS)
    .hits(ENDLESS),
];
