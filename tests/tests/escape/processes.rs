//! Other processes: a guest sees its own, and cannot look into the init or harm it.

use executor_domain::{CrashCause, Ending};
use serde_json::json;

use crate::{
    support::Workspace,
    world::{PROMPT, assert_dead, assert_works, expect, guest, marked, run, seen, with_event},
};

#[test]
fn a_guest_sees_its_own_processes_and_nothing_of_the_init() {
    let workspace = Workspace::new();
    let outcome = run(with_event(
        &json!({"daemon": std::process::id()}),
        guest!(python "processes").script(&workspace),
    ));
    expect(
        &outcome,
        &[
            ("init, itself, its child", &["processes"]),
            // No terminal of the daemon can be theirs, and `kill 0` means the guest alone.
            ("init", &["session of"]),
            ("itself", &["process group of"]),
            ("ESRCH", &["signal the daemon by its number outside"]),
            (
                "EACCES|EPERM",
                &[
                    "read /proc/1/mem",
                    "read /proc/1/environ",
                    "read /proc/1/maps",
                    "read /proc/1/pagemap",
                    "read /proc/1/syscall",
                    "read /proc/1/stack",
                    "read /proc/1/auxv",
                    "read /proc/1/io",
                    "read /proc/1/exe",
                    "read /proc/1/fd/0",
                    "read /proc/1/fd/1",
                    "read /proc/1/fd/2",
                    "read /proc/1/fdinfo/0",
                    "follow /proc/1/exe",
                    "follow /proc/1/root",
                    "follow /proc/1/cwd",
                    "follow /proc/1/fd/0",
                    "follow /proc/1/fd/1",
                    "follow /proc/1/fd/2",
                    "follow /proc/1/ns/mnt",
                    "follow /proc/1/ns/user",
                    "list /proc/1/map_files",
                ],
            ),
            // Sent, and not received: an init takes from its own namespace what it listens to, and that is SIGCHLD.
            (
                "ok",
                &[
                    "send SIGKILL to the init",
                    "send SIGTERM to the init",
                    "send SIGSTOP to the init",
                    "send SIGSEGV to the init",
                    "send SIGCHLD to the init",
                ],
            ),
            ("S", &["the init is"]),
            ("9", &["the child ended by signal"]),
        ],
    );
}

/// The init is the guest's user, so some of this goes through. It spoils the guest's own run at most.
#[test]
fn harm_to_the_init_is_harm_to_the_guest_alone() {
    let workspace = Workspace::new();
    let (marker, job) = marked(guest!(python "harm_the_init").script(&workspace));
    let outcome = run(job);
    assert_eq!(seen(&outcome)["control: limit oneself"], "ok");
    let ends = [CrashCause::Signal(9), CrashCause::Memory].map(Ending::Crashed);
    assert!(
        ends.contains(&outcome.ending) || matches!(outcome.ending, Ending::Completed { .. }),
        "{outcome:?}"
    );
    assert!(outcome.usage.wall_time < PROMPT);
    assert_dead(&marker);
    assert_works();
}

#[test]
fn what_a_guest_leaves_in_shared_memory_dies_with_it() {
    // Not zero, which would make it private; other suites may run at the same time.
    let key = std::process::id().cast_signed() | 0x4000_0000;
    for _ in 0..2 {
        let workspace = Workspace::new();
        let job = with_event(
            &json!({"key": key}),
            guest!(python "ipc").script(&workspace),
        );
        expect(
            &run(job),
            &[
                ("0", &["segments before", "queues before"]),
                ("ENOENT", &["somebody's segment", "somebody's queue"]),
            ],
        );
    }
}
