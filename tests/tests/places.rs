//! Places that lack something: made here, by namespaces of our own, so that no other process of the host notices. In each, either
//! the daemon says what is weaker and runs, or it refuses, names the cause and tells what to do.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "this is how a test fails"
)]

mod support;

use std::process::{Command, Output};

use serde_json::Value;
use support::{daemon::passable_directory, executable};

/// Runs the executable as an ordinary user of a user namespace, in a mount namespace that these commands have prepared.
fn in_place(prepare: &str, arguments: &[&str]) -> Output {
    let directory = passable_directory();
    let become_somebody = "exec unshare --user --map-user=1000 --map-group=1000 -- \"$@\"";
    Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--", "sh", "-euc"])
        .arg(format!("{prepare}\n{become_somebody}"))
        .arg("sh")
        .arg(executable())
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .env("CONTROL_PLANE_URL", "none")
        .env("EXECUTOR_PORT", "0")
        .env("WARM_POOL", "false")
        .env("WORKSPACE_PATH", directory.path().join("workspaces"))
        .output()
        .unwrap()
}

/// What `doctor` says there: whether guests can be run, and everything that it tried.
fn doctor(prepare: &str) -> (bool, Vec<Value>) {
    let output = in_place(prepare, &["doctor", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let fit = said["fit"].as_bool().unwrap();
    assert_eq!(output.status.success(), fit, "{said:#}");
    (fit, said["checks"].as_array().unwrap().clone())
}

/// A daemon that is started there ends, before it listens, and says why: by these words.
#[track_caller]
fn refuses(prepare: &str, words: &[&str]) {
    let (fit, checks) = doctor(prepare);
    let said = serde_json::to_string(&checks).unwrap();
    assert!(!fit, "{said}");
    let output = in_place(prepare, &["serve"]);
    assert!(!output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty(), "it listened: {output:?}");
    let log = String::from_utf8_lossy(&output.stderr);
    for word in words {
        assert!(said.contains(word), "doctor does not say {word:?}: {said}");
        assert!(log.contains(word), "the log does not say {word:?}: {log}");
    }
}

/// The control of the others as well: a place made like theirs, in which guests can be run.
#[test]
fn without_control_groups_guests_run_and_each_weaker_wall_is_named() {
    let (fit, checks) = doctor("mount -t tmpfs none /sys/fs/cgroup");
    assert!(fit, "{checks:#?}");
    for (wall, says) in [
        ("cgroup_memory", "RLIMIT_DATA"),
        ("cgroup_processes", "RLIMIT_NPROC"),
        ("cgroup_cpu_time", "RLIMIT_CPU"),
        ("cgroup_all_runs", "no bound"),
        ("own_user", "like the daemon"),
    ] {
        let check = checks.iter().find(|check| check["name"] == wall).unwrap();
        assert_eq!(check["passed"], false, "{check}");
        assert_eq!(check["essential"], false, "{check}");
        assert!(check["detail"].as_str().unwrap().contains(says), "{check}");
    }
}

#[test]
fn where_proc_is_masked_nothing_starts() {
    refuses(
        "mount --bind /dev/null /proc/timer_list",
        &[
            "/proc are masked",
            "systempaths=unconfined",
            "procMount: Unmasked",
        ],
    );
}

#[test]
fn where_no_user_namespace_is_left_nothing_starts() {
    // One, for the user that the daemon is.
    refuses(
        "echo 1 >/proc/sys/user/max_user_namespaces",
        &[
            "no user namespaces are left",
            "user.max_user_namespaces=15000",
        ],
    );
}

#[test]
fn where_bubblewrap_is_missing_nothing_starts() {
    refuses("mount --bind /dev/null /usr/bin/bwrap", &["bubblewrap"]);
}
