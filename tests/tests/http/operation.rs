//! The daemon's own life: how it starts, says how it is, and ends.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt, symlink},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{
    runs::waits_for,
    support::{
        alive, children_of,
        daemon::{
            Answer, Daemon, alive_becomes, appears, command, marker, passable_directory, request,
        },
        eventually,
    },
};

#[tokio::test]
async fn health_says_who_it_is() {
    let daemon = Daemon::start();
    let health = daemon.health().await;
    assert_eq!(health.status, 200);
    assert!(health.body["uptime_seconds"].is_u64());
    let expected = json!({"status": "healthy", "version": env!("CARGO_PKG_VERSION"), "isolation": "bubblewrap",
        "platform": "Linux", "active_executions": 0, "uptime_seconds": health.body["uptime_seconds"]});
    assert_eq!(health.body, expected);
}

#[tokio::test]
async fn info_says_what_it_is_made_of() {
    let daemon = Daemon::with(&[("MAX_MEMORY_MB", "256")]);
    let marker = marker();
    let _run = daemon.spawn(&request("shell", &format!("sleep {marker}")));
    alive_becomes(&marker, 1).await;
    let info = Answer::to(daemon.get("/info")).await;
    assert_eq!(info.status, 200);
    let info = info.body;
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (&info["platform"], &info["isolation"]),
        (&json!("Linux"), &json!("bubblewrap"))
    );
    assert!(
        info["isolation_version"]
            .as_str()
            .unwrap()
            .contains("bubblewrap")
    );
    assert_eq!(info["active_executions"], 1);
    assert_eq!(info["limits"]["ceilings"]["max_memory_mb"], 256);
    assert_eq!(info["limits"]["defaults"]["timeout"], 300);
    assert_eq!(info["capacity"], json!({"running": 100, "queued": 1000}));
    let root = daemon.workspaces().canonicalize().unwrap();
    assert_eq!(info["workspace_path"], root.to_str().unwrap());

    // Without these the daemon does not start.
    let certain = [
        "user_namespace",
        "mount_namespace",
        "pid_namespace",
        "ipc_uts_cgroup_namespaces",
        "network_namespace",
        "seccomp",
        "no_new_privs",
        "rlimits",
        "wall_time",
        "output_cap",
        "workspace_quota",
    ];
    // These depend on the host and on who the daemon is.
    let possible = [
        "own_user",
        "cgroup_memory",
        "cgroup_processes",
        "cgroup_cpu_time",
        "cgroup_all_runs",
    ];
    let walls = info["walls"].as_array().unwrap();
    let names: Vec<_> = walls
        .iter()
        .map(|wall| wall["name"].as_str().unwrap())
        .collect();
    let (quota, others) = certain.split_last().unwrap();
    assert_eq!(names, [others, &possible, &[*quota]].concat());
    for wall in walls {
        assert!(!wall["detail"].as_str().unwrap().is_empty(), "{wall}");
        match wall["name"].as_str().unwrap() {
            "own_user" => assert_eq!(wall["on"], nix::unistd::geteuid().is_root(), "{wall}"),
            name if certain.contains(&name) => assert_eq!(wall["on"], true, "{wall}"),
            _ => assert!(wall["on"].is_boolean(), "{wall}"),
        }
    }

    let languages = info["languages"].as_array().unwrap();
    for language in ["python", "javascript", "shell"] {
        let found = languages.iter().find(|found| found["language"] == language);
        let version = found.expect(language)["version"].as_str().unwrap();
        assert!(
            version.starts_with(|c: char| c.is_ascii_digit()),
            "{language}: {version}"
        );
    }
}

#[tokio::test]
async fn without_its_workspaces_it_is_unhealthy() {
    let daemon = Daemon::start();
    daemon.health_becomes(200, &Value::Null).await;
    fs::remove_dir_all(daemon.workspaces()).unwrap();
    daemon
        .health_becomes(503, &json!("the workspace cannot be written to"))
        .await;
    assert_eq!(Answer::to(daemon.get("/livez")).await.status, 200);
}

#[tokio::test]
async fn while_no_sandbox_can_be_started_it_is_unhealthy_and_runs_nothing() {
    // A link: profiles of AppArmor go by the path that it leads to.
    let directory = passable_directory();
    let bwrap = directory.path().join("bwrap");
    symlink("/usr/bin/bwrap", &bwrap).unwrap();
    // A run that finds a slot needs no bubblewrap.
    let daemon = Daemon::with(&[
        ("BWRAP_PATH", bwrap.to_str().unwrap()),
        ("WARM_POOL", "false"),
    ]);
    let retry = request("shell", "echo ran");

    fs::remove_file(&bwrap).unwrap();
    daemon
        .health_becomes(503, &json!("a sandbox cannot be started"))
        .await;
    let refused = daemon.execute(&retry).await;
    refused.refusal(503, "Executor.Unavailable");
    assert!(refused.headers.contains_key("retry-after"));
    assert!(
        !refused.body.to_string().contains(bwrap.to_str().unwrap()),
        "{refused:?}"
    );
    assert!(
        daemon.log().contains(bwrap.to_str().unwrap()),
        "{}",
        daemon.log()
    );

    // It comes back by itself, and what was refused under an id can be tried again under it.
    symlink("/usr/bin/bwrap", &bwrap).unwrap();
    daemon.health_becomes(200, &Value::Null).await;
    let run = daemon.execute(&retry).await.completed();
    assert_eq!(run["stdout"], "ran\n");
}

#[tokio::test]
async fn a_daemon_that_is_killed_leaves_nothing_half_built() {
    // As bubblewrap does where it dies at the wrong moment: what it has started waits for a word that never comes.
    let directory = passable_directory();
    let hangs = directory.path().join("hangs");
    let bwrap = directory.path().join("bwrap");
    let marker = marker();
    let script = format!(
        "#!/bin/sh\n[ -e '{}' ] || exec /usr/bin/bwrap \"$@\"\nsleep {marker} & wait\n",
        hangs.display()
    );
    fs::write(&bwrap, script).unwrap();
    fs::set_permissions(&bwrap, fs::Permissions::from_mode(0o755)).unwrap();
    let mut daemon = Daemon::with(&[
        ("BWRAP_PATH", bwrap.to_str().unwrap()),
        ("WARM_POOL", "false"),
    ]);
    assert_eq!(
        daemon
            .execute(&request("shell", "echo ran"))
            .await
            .completed()["stdout"],
        "ran\n"
    );

    fs::write(&hangs, "").unwrap();
    let _run = daemon.spawn(&request("shell", "true"));
    alive_becomes(&marker, 1).await;
    // What asks all of the daemon's processes to end does not end the watchdog.
    let watchdog = watchdog_of(&daemon).unwrap();
    kill(watchdog, Signal::SIGTERM).unwrap();
    // Nobody is tied to what it has started: killed alone, it would stay.
    daemon.signal(Signal::SIGKILL);
    daemon.exit().await;
    eventually("nobody is left", || alive(&marker).is_empty()).await;
    // What is dead and not reaped has no command line.
    eventually("not the watchdog either", || {
        fs::read(format!("/proc/{watchdog}/cmdline")).map_or(true, |line| line.is_empty())
    })
    .await;
}

#[tokio::test]
async fn a_watchdog_that_is_killed_or_stopped_makes_way_for_another() {
    let mut daemon = Daemon::with(&[("WARM_POOL", "false")]);
    for (times, signal) in [(1, Signal::SIGKILL), (2, Signal::SIGSTOP)] {
        let first = watchdog_of(&daemon).unwrap();
        kill(first, signal).unwrap();
        eventually("it has ended or is stopped", || {
            let status = fs::read_to_string(format!("/proc/{first}/status")).unwrap();
            status.contains("State:\tZ") || status.contains("State:\tT")
        })
        .await;
        daemon.execute(&request("shell", "true")).await.completed();
        assert_ne!(watchdog_of(&daemon).unwrap(), first);
        let said = daemon.log().matches("another one takes its place").count();
        assert_eq!(said, times, "{}", daemon.log());
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.exit().await.code(), Some(143));
}

/// The process that sees to it that nothing half built outlives a daemon; `None`: it is dead, and has no successor yet.
fn watchdog_of(daemon: &Daemon) -> Option<Pid> {
    let is_watchdog = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.contains("sandbox-executor:watchdog"))
    };
    let mut found = children_of(daemon.pid()).into_iter().filter(is_watchdog);
    let pid = found.next()?;
    assert!(found.next().is_none());
    Some(Pid::from_raw(pid.cast_signed()))
}

#[tokio::test]
async fn sigterm_drains_and_ends_with_143() {
    let mut daemon = Daemon::start();
    let run = daemon.spawn(&request(
        "shell",
        &format!("touch begun; {}", waits_for("release")),
    ));
    appears(&daemon.file("begun")).await;
    daemon.signal(Signal::SIGTERM);
    daemon.health_becomes(503, &json!("draining")).await;
    let refused = daemon.execute(&request("shell", "true")).await;
    assert_eq!(
        refused.refusal(503, "Executor.Unavailable"),
        "the executor is shutting down"
    );

    fs::write(daemon.file("release"), "").unwrap();
    let run = run.await.unwrap().completed();
    assert_eq!(run["stdout"], "released\n");
    assert_eq!(daemon.exit().await.code(), Some(143));
}

#[tokio::test]
async fn what_runs_beyond_the_grace_period_is_killed_and_answered() {
    let mut daemon = Daemon::with(&[("SHUTDOWN_GRACE", "1")]);
    let marker = marker();
    let run = daemon.spawn(&request("shell", &format!("echo begun; sleep {marker}")));
    alive_becomes(&marker, 1).await;
    daemon.signal(Signal::SIGTERM);
    let run = run.await.unwrap().ran();
    assert_eq!(alive(&marker), [0; 0]);
    // Nobody has cancelled it: its executor was lost.
    assert_eq!(run["status"], "crashed", "{run:#}");
    assert_eq!(run["error"]["reason"], "executor_lost", "{run:#}");
    assert_eq!(run["stdout"], "begun\n");
    assert_eq!(daemon.exit().await.code(), Some(143));
    // And so it stays.
    daemon.start_again();
    let id = run["execution_id"].as_str().unwrap();
    assert_eq!(daemon.ended(id).await, run);
}

#[tokio::test]
async fn sigint_ends_it_with_0() {
    let mut daemon = Daemon::start();
    daemon.signal(Signal::SIGINT);
    assert_eq!(daemon.exit().await.code(), Some(0));
}

#[tokio::test]
async fn told_twice_it_ends_at_once_and_its_guests_with_it() {
    let mut daemon = Daemon::with(&[("SHUTDOWN_GRACE", "1h")]);
    let marker = marker();
    let stubborn = request("shell", &format!("trap '' TERM INT HUP; sleep {marker}"));
    let run = tokio::spawn(daemon.post(&stubborn).send());
    alive_becomes(&marker, 1).await;
    daemon.signal(Signal::SIGTERM);
    // Draining: the first one has arrived, and two do not become one.
    daemon.health_becomes(503, &json!("draining")).await;
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.exit().await.code(), Some(143));
    eventually("the guest dies", || alive(&marker).is_empty()).await;
    // Nobody is there to answer.
    assert!(run.await.unwrap().is_err());
}

#[tokio::test]
async fn kill_9_leaves_no_guest_alive() {
    let mut daemon = Daemon::start();
    let marker = marker();
    let code =
        format!("(setsid bash -c 'sleep {marker} & exit' &)\ntrap '' HUP TERM\nsleep {marker}");
    let run = tokio::spawn(daemon.post(&request("shell", &code)).send());
    alive_becomes(&marker, 2).await;
    daemon.signal(Signal::SIGKILL);
    assert_eq!(daemon.exit().await.code(), None);
    eventually("the guests die", || alive(&marker).is_empty()).await;
    // Nobody is there to answer.
    assert!(run.await.unwrap().is_err());
}

/// How a daemon ends that must not start: exit code and what it says.
fn refuses(settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let directory = passable_directory();
    let output = command()
        .env("WORKSPACE_PATH", directory.path().join("workspaces"))
        .envs(settings.iter().copied())
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"", "it says that it listens");
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn without_bubblewrap_it_refuses_to_start_and_binds_no_port() {
    // The port is taken: had the daemon tried to bind it before it looked at its isolation, it would say so.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, said) = refuses(&[
        ("BWRAP_PATH", "/nonexistent/bwrap"),
        ("EXECUTOR_PORT", &port),
    ]);
    assert_eq!(code, Some(69), "{said}");
    for part in ["/nonexistent/bwrap", "Remedy", "BWRAP_PATH"] {
        assert!(said.contains(part), "{said}");
    }
    // Positive control: with bubblewrap it comes to the port.
    let (code, said) = refuses(&[("EXECUTOR_PORT", &port)]);
    assert_eq!(code, Some(64), "{said}");
    assert!(
        said.contains(&port) && said.contains("EXECUTOR_PORT"),
        "{said}"
    );
}

#[test]
fn a_bubblewrap_that_isolates_nothing_is_refused() {
    // What it stands for: a wrapper, a wrong build, a host that silently grants less.
    use std::os::unix::fs::PermissionsExt;
    let directory = passable_directory();
    let fake = directory.path().join("bwrap");
    fs::write(
        &fake,
        "#!/bin/sh\n[ \"$1\" != --version ] || echo bubblewrap 9.9.9\n",
    )
    .unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let (code, said) = refuses(&[
        ("BWRAP_PATH", fake.to_str().unwrap()),
        ("EXECUTOR_PORT", "0"),
    ]);
    assert_eq!(code, Some(69), "{said}");
}

#[test]
fn every_configuration_mistake_is_reported_at_once() {
    let (code, said) = refuses(&[
        ("EXECUTOR_PORT", "http"),
        ("MAX_MEMORY_MB", "lots"),
        ("GUEST_UID", "0"),
        ("EXECUTOR_HOST", "0.0.0.0"),
        ("BWRAP_PATH", "/nonexistent/bwrap"),
    ]);
    assert_eq!(code, Some(64), "{said}");
    for name in [
        "EXECUTOR_PORT",
        "MAX_MEMORY_MB",
        "GUEST_UID",
        "EXECUTOR_HOST",
    ] {
        assert!(said.contains(name), "{name}: {said}");
    }
    // It has not come to that.
    assert!(!said.contains("/nonexistent/bwrap"), "{said}");
}

#[test]
fn a_workspace_that_cannot_be_made_is_a_clear_error() {
    let (code, said) = refuses(&[("WORKSPACE_PATH", "/proc/nowhere"), ("EXECUTOR_PORT", "0")]);
    assert_eq!(code, Some(64), "{said}");
    assert!(
        said.contains("WORKSPACE_PATH") && said.contains("/proc/nowhere"),
        "{said}"
    );
}

#[tokio::test]
async fn two_daemons_do_not_share_one_state() {
    let first = Daemon::start();
    let state = first.state();
    let (code, said) = refuses(&[
        ("STATE_PATH", state.to_str().unwrap()),
        ("EXECUTOR_PORT", "0"),
    ]);
    assert_eq!(code, Some(64), "{said}");
    assert!(
        said.contains("STATE_PATH") && said.contains("in use"),
        "{said}"
    );
}

#[tokio::test]
async fn a_damaged_state_is_refused_with_what_to_do() {
    let mut daemon = Daemon::start();
    daemon.execute(&request("shell", "true")).await.completed();
    daemon.signal(Signal::SIGTERM);
    daemon.exit().await;
    let state = daemon.state();
    fs::write(
        state.join("executions.db"),
        "this is no database".repeat(500),
    )
    .unwrap();
    let settings = [
        ("STATE_PATH", state.to_str().unwrap()),
        ("EXECUTOR_PORT", "0"),
    ];
    let (code, said) = refuses(&settings);
    assert_eq!(code, Some(64), "{said}");
    assert!(
        said.contains("damaged") && said.contains("move it"),
        "{said}"
    );
}

#[test]
fn a_state_that_guests_could_see_is_refused() {
    let directory = passable_directory();
    let workspaces = directory.path().join("ws");
    fs::create_dir(&workspaces).unwrap();
    let link = directory.path().join("state");
    symlink(workspaces.join("session-1"), &link).unwrap();
    fs::create_dir(workspaces.join("session-1")).unwrap();
    for state in [workspaces.join("session-1/state"), link] {
        let (code, said) = refuses(&[
            ("WORKSPACE_PATH", workspaces.to_str().unwrap()),
            ("STATE_PATH", state.to_str().unwrap()),
            ("EXECUTOR_PORT", "0"),
        ]);
        assert_eq!(code, Some(64), "{said}");
        assert!(
            said.to_uppercase().contains("STATE_PATH") && said.contains("session-1"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn no_guest_sees_the_state() {
    for bound in [None, Some(("SESSION_ID", "session-1"))] {
        let daemon = Daemon::with(bound.as_slice());
        let everywhere = "find / -xdev \\( -name executions.db -o -name '*.state' -o -name .state \\) 2>/dev/null; \
                          ls -A /workspace | grep -vx .sandbox-executor";
        let run = daemon.execute(&request("shell", everywhere)).await.ran();
        assert_eq!(run["stdout"], "", "{run:#}");
        // Positive control: it is there.
        let state = match bound {
            None => daemon.state(),
            Some(_) => daemon.workspaces().with_file_name("workspaces.state"),
        };
        assert!(state.join("executions.db").exists());
    }
}

#[tokio::test]
async fn bound_to_a_session_the_root_is_its_workspace() {
    let daemon = Daemon::with(&[("SESSION_ID", "session-1")]);
    daemon
        .execute(&request("shell", "echo x > made"))
        .await
        .completed();
    assert_eq!(
        fs::read_to_string(daemon.workspaces().join("made")).unwrap(),
        "x\n"
    );
}
