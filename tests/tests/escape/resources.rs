//! Resources: every one has a bound, and whoever runs into it hears of it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use executor_domain::{Clock, Ending, Language, LimitHit, Reason};
use serde_json::json;

use crate::{
    gaps::gap,
    support::{self, Workspace, eventually},
    world::{
        Guest, INOTIFY, assert_completed, assert_dead, assert_works, compare, expect, guest, hit,
        marked, reason, run, run_while, sandbox, with_event, with_limits,
    },
};

#[test]
fn private_directories_are_bounded_and_empty_for_the_next_run() {
    let workspace = Workspace::new();
    for directory in ["/tmp", "/dev/shm"] {
        // Twice, because the first one fills it.
        for _ in 0..2 {
            let job = with_event(
                &json!({"directory": directory}),
                guest!(python "fill").script(&workspace),
            );
            let outcome = run(with_limits(|wish| wish.max_memory_mb = Some(64), job));
            expect(
                &outcome,
                &[
                    ("ENOSPC", &["bytes end in", "files end in"]),
                    // Half of the run's memory.
                    ("32", &["MiB"]),
                    // 16 Ki, of which the directory itself and the big file are two.
                    ("16382", &["files"]),
                ],
            );
        }
    }
}

#[test]
fn one_process_has_limits() {
    let workspace = Workspace::new();
    let job = guest!(python "limits").script(&workspace);
    let outcome = run(with_limits(|wish| wish.max_file_size_mb = Some(1), job));
    expect(
        &outcome,
        &[
            (
                "EFBIG",
                &[
                    "a larger file",
                    "a larger file in /tmp",
                    "a sparse terabyte",
                ],
            ),
            ("1048576", &["bytes in it"]),
            ("EMFILE", &["too many open files", "a message queue"]),
            ("False", &["core dumped"]),
            ("", &["files beside ours"]),
            ("16", &["pseudo-terminals"]),
            ("ENOSPC", &["one more pseudo-terminal"]),
            (
                "ValueError",
                &[
                    "raise RLIMIT_NOFILE",
                    "raise RLIMIT_FSIZE",
                    "raise RLIMIT_NPROC",
                    "raise RLIMIT_CPU",
                    "raise RLIMIT_STACK",
                ],
            ),
        ],
    );
}

#[test]
fn bombs_of_processes_and_threads_are_bounded_and_reported() {
    for (guest, what) in [
        (guest!(python "many"), "processes"),
        (guest!(python "many"), "threads"),
        (guest!(node "many"), ""),
    ] {
        let workspace = Workspace::new();
        let job = with_event(&json!({"what": what}), guest.script(&workspace));
        let outcome = run(with_limits(|wish| wish.max_processes = Some(30), job));
        assert_completed(&outcome);
        let mut seen = crate::world::seen(&outcome);
        // Node has a dozen threads of its own.
        let started: u64 = seen.remove("how many").unwrap().parse().unwrap();
        assert!((1..30).contains(&started), "{started}");
        compare(&seen, &[("EAGAIN", &["ends in"])]);
        assert!(
            hit(&outcome, LimitHit::Processes) || gap("cgroup_processes", "bombs"),
            "{outcome:?}"
        );
    }
    assert_works();
}

#[test]
fn the_classic_fork_bomb_ends_with_its_run() {
    let workspace = Workspace::new();
    let (marker, job) = marked(guest!(shell "fork_bomb").script(&workspace));
    let outcome = run(with_limits(
        |wish| {
            wish.max_processes = Some(30);
            wish.max_wall_time_ms = Some(1000);
        },
        job,
    ));
    assert_dead(&marker);
    // It may be so short of processes that its own `sleep` does not start.
    assert!(
        matches!(
            outcome.ending,
            Ending::TimedOut {
                clock: Clock::Wall,
                ..
            } | Ending::Failed { .. }
        ),
        "{outcome:?}"
    );
    assert!(
        hit(&outcome, LimitHit::Processes) || gap("cgroup_processes", "fork_bomb"),
        "{outcome:?}"
    );
    assert_works();
}

#[test]
fn memory_is_bounded_for_the_whole_tree() {
    /// How a hog uses 300 MiB, and whether its first process is the one to die of it.
    const HOGS: [(Guest, &str, bool); 5] = [
        (guest!(python "memory"), "alone", true),
        (guest!(python "memory"), "memfd", true),
        (guest!(python "memory"), "children", false),
        (guest!(node "memory"), "", true),
        (guest!(shell "memory"), "", true),
    ];
    for (guest, what, dies) in HOGS {
        let workspace = Workspace::new();
        let job = with_event(&json!({"what": what}), guest.script(&workspace));
        let outcome = run(with_limits(|wish| wish.max_memory_mb = Some(100), job));
        if gap("cgroup_memory", "hogs") {
            // Where only single processes have a limit (RLIMIT_DATA), one that is too large by itself does not get its way.
            let tree_of_small_ones = what == "children" || what == "memfd";
            assert_eq!(
                support::stdout(&outcome).contains("got: all"),
                tree_of_small_ones,
                "{what} {outcome:?}"
            );
            continue;
        }
        assert!(hit(&outcome, LimitHit::Memory), "{what} {outcome:?}");
        let peak = outcome.usage.peak_memory_bytes.unwrap();
        assert!(peak <= 100 << 20, "{peak}");
        if dies {
            assert_eq!(reason(&outcome), Some(Reason::Memory), "{what} {outcome:?}");
        }
    }
    assert_works();
}

#[test]
fn time_on_a_processor_is_bounded() {
    for (language, code) in [
        (Language::Python, "while True: pass"),
        (Language::JavaScript, "while (true);"),
        (Language::Shell, "while :; do :; done"),
    ] {
        let workspace = Workspace::new();
        let job = support::script(language, code, &workspace);
        let outcome = run(with_limits(|wish| wish.max_cpu_time_ms = Some(300), job));
        assert!(
            matches!(
                outcome.ending,
                Ending::TimedOut {
                    clock: Clock::Cpu,
                    ..
                }
            ),
            "{outcome:?}"
        );
        assert_eq!(outcome.limits_hit, [LimitHit::CpuTime]);
    }
}

#[test]
fn time_on_processors_is_bounded_for_the_whole_tree() {
    let workspace = Workspace::new();
    let job = with_event(
        &json!({"children": 4}),
        guest!(python "spin").script(&workspace),
    );
    let (marker, job) = marked(job);
    let outcome = run(with_limits(|wish| wish.max_cpu_time_ms = Some(500), job));
    assert_dead(&marker);
    if gap("cgroup_cpu_time", "tree") {
        // Each child had its own second, and was ended by the kernel.
        assert_completed(&outcome);
    } else {
        assert!(
            matches!(
                outcome.ending,
                Ending::TimedOut {
                    clock: Clock::Cpu,
                    ..
                }
            ),
            "{outcome:?}"
        );
    }
}

/// Some limits of the kernel are the user's, and all runs are one user to it.
#[test]
fn what_one_run_takes_another_does_not_miss() {
    let _watching = INOTIFY.lock();
    let (greedy, modest) = (Workspace::new(), Workspace::new());
    let job = |keep: bool, workspace: &Workspace| {
        let event = json!({"keep": keep});
        with_event(&event, guest!(python "take_all").script(workspace))
    };
    let outcome = run_while(job(true, &greedy), async || {
        let taken = greedy.path().join("taken");
        eventually("it has taken all", || taken.exists()).await;
        let outcome = support::run(sandbox(), job(false, &modest)).await;
        let first = if gap("nowhere", "neighbours") {
            "nothing left"
        } else {
            "ok"
        };
        expect(&outcome, &[(first, &["first"])]);
    });
    assert_eq!(outcome.ending, Ending::Cancelled);
}

/// What the bound does to those who go beyond it is tried in the isolation crate's suite of cgroups. Here: runs are below it.
#[test]
fn all_runs_are_below_one_bound() {
    if gap("cgroup_all_runs", "together") {
        return;
    }
    let workspace = Workspace::new();
    let job = support::script(Language::Shell, "sleep 1000", &workspace);
    run_while(job, async || {
        eventually("the run's cgroup is below a bound", || {
            let above = above_runs(Path::new("/sys/fs/cgroup"));
            let is_bounded = |directory: &PathBuf| {
                let limit = |file| fs::read_to_string(directory.join(file)).unwrap_or_default();
                ["pids.max", "memory.max", "memory.limit_in_bytes"]
                    .iter()
                    .any(|file| limit(file).trim().parse::<u64>().is_ok())
            };
            !above.is_empty() && above.iter().all(is_bounded)
        })
        .await;
    });
}

/// The cgroups that hold those of this process's runs, where they hold nothing else.
fn above_runs(directory: &Path) -> BTreeSet<PathBuf> {
    let own = std::process::id();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let is_run = entry
            .file_name()
            .to_string_lossy()
            .contains(&format!("-{own}-run-"));
        let holds_runs = directory
            .to_string_lossy()
            .contains(&format!("-{own}-runs-"));
        if is_run && holds_runs {
            found.insert(directory.to_owned());
        }
        found.extend(above_runs(&path));
    }
    found
}
