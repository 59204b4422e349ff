//! The commands that start real guests, and those that say what would count. What needs no sandbox at all is tested with
//! the crate `sandbox-executor`.

#![allow(clippy::unwrap_used, reason = "this is how a test fails")]

mod support;

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use support::{
    alive,
    daemon::{alive_becomes, command, marker, passable_directory},
};

fn executor(arguments: &[&str]) -> Command {
    let mut command = command();
    command.args(arguments);
    command
}

fn code_of(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> &str {
    str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}

/// A directory with these files in it.
fn files(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

/// `run` with a file and these arguments.
fn run(file: &Path, arguments: &[&str]) -> Output {
    executor(&["run", file.to_str().unwrap()])
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn run_goes_by_the_files_extension() {
    let programs = [
        (
            "a.py",
            "def handler(event):\n    print('out')\n    return [1, event]",
        ),
        (
            "a.js",
            "exports.handler = (event) => { console.log('out'); return [1, event] }",
        ),
        (
            "a.mjs",
            "export const handler = (event) => { console.log('out'); return [1, event] }",
        ),
        ("a.sh", "echo out"),
    ];
    let directory = files(&programs);
    for (name, _) in programs {
        let output = run(&directory.path().join(name), &["--event", r#"{"a":1}"#]);
        assert_eq!(code_of(&output), 0, "{name}: {}", stderr(&output));
        assert_eq!(stdout(&output), "out\n", "{name}");
        assert!(
            stderr(&output).starts_with("completed in "),
            "{}",
            stderr(&output)
        );
        if name != "a.sh" {
            let compact = stderr(&output).replace(' ', "");
            assert!(
                compact.contains(r#"returned[1,{"a":1}]"#),
                "{}",
                stderr(&output)
            );
        }
    }
}

#[test]
fn run_takes_program_event_and_stdin_from_where_it_is_told() {
    let directory = files(&[
        ("event.json", r#"{"from": "file"}"#),
        (
            "echo.py",
            "import sys\ndef handler(event):\n    return [event, sys.stdin.read()]",
        ),
        ("input.txt", "input"),
    ]);
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let output = executor(&["run", &path("echo.py"), "--json"])
        .args([
            "--event",
            &format!("@{}", path("event.json")),
            "--stdin",
            &path("input.txt"),
        ])
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["return_value"], json!([{"from": "file"}, "input"]));

    let mut child = executor(&["run", "-", "--language", "shell", "--env", "NAME=a=b"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"echo $NAME; exit 3").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (code_of(&output), stdout(&output)),
        (3, "a=b\n"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn run_answers_in_json_what_the_api_would() {
    let directory = files(&[(
        "a.py",
        "def handler(event):\n    print('hi')\n    raise ValueError('no')",
    )]);
    let output = run(&directory.path().join("a.py"), &["--json"]);
    assert_eq!(code_of(&output), 1);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["status"], "failed");
    assert_eq!(answer["stdout"], "hi\n");
    assert_eq!(answer["error"]["error_type"], "ValueError");
    assert_eq!(answer["error"]["reason"], "handler_error");
    assert!(answer["metrics"]["duration_ms"].is_f64(), "{answer:#}");
}

#[test]
fn run_ends_as_its_guest_did() {
    let programs = [
        ("exit.sh", "exit 7", 7),
        ("signal.sh", "kill -TERM $$", 143),
        ("fails.py", "def handler(event):\n    1 / 0", 1),
        ("sleeps.sh", "trap '' TERM; sleep 86400", 124),
        (
            "spins.py",
            "def handler(event):\n    while True:\n        pass",
            124,
        ),
    ];
    let directory = files(&programs.map(|(name, code, _)| (name, code)));
    for (name, _, code) in programs {
        let output = run(&directory.path().join(name), &["--timeout", "2"]);
        assert_eq!(code_of(&output), code, "{name}: {}", stderr(&output));
    }
}

#[tokio::test]
async fn interrupted_run_kills_its_guest_first() {
    let marker = marker();
    let directory = files(&[(
        "a.sh",
        &format!("trap '' INT TERM; echo begun; sleep {marker}"),
    )]);
    let child = executor(&["run"])
        .arg(directory.path().join("a.sh"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    alive_becomes(&marker, 1).await;
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(alive(&marker), [0; 0]);
    assert_eq!((code_of(&output), stdout(&output)), (130, "begun\n"));
}

#[test]
fn run_keeps_files_of_a_session_and_no_others() {
    let workspaces = passable_directory();
    let temporary = passable_directory();
    let directory = files(&[("a.sh", "cat old 2>/dev/null; echo kept > old")]);
    let run = |arguments: &[&str]| {
        executor(&["run"])
            .arg(directory.path().join("a.sh"))
            .args(arguments)
            .env("WORKSPACE_PATH", workspaces.path())
            .env("TMPDIR", temporary.path())
            .output()
            .unwrap()
    };
    for _ in 0..2 {
        assert_eq!(stdout(&run(&[])), "", "without a session nothing stays");
    }
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    for said in ["", "kept\n"] {
        let output = run(&["--session", "s_1"]);
        assert_eq!(stdout(&output), said, "{}", stderr(&output));
    }
    let kept = workspaces.path().join("s_1/old");
    assert_eq!(fs::read_to_string(kept).unwrap(), "kept\n");
}

#[test]
fn run_refuses_what_cannot_be_run() {
    let directory = files(&[("a.rb", "puts 1"), ("a.py", "def handler(event): pass")]);
    let unknown = run(&directory.path().join("a.rb"), &[]);
    assert_eq!(code_of(&unknown), 64);
    assert!(
        stderr(&unknown).contains("--language"),
        "{}",
        stderr(&unknown)
    );
    for arguments in [
        &["--event", "[]"][..],
        &["--event", "{"],
        &["--timeout", "2h"],
        &["--env", "A B=1"],
    ] {
        let output = run(&directory.path().join("a.py"), arguments);
        assert_eq!(code_of(&output), 64, "{arguments:?}: {}", stderr(&output));
    }
    let no_sandbox = run(
        &directory.path().join("a.py"),
        &["--bwrap-path", "/nonexistent"],
    );
    assert_eq!(code_of(&no_sandbox), 69);
    assert!(
        stderr(&no_sandbox).contains("Remedy"),
        "{}",
        stderr(&no_sandbox)
    );
}

#[test]
fn doctor_finds_this_host_fit_and_names_every_wall() {
    let output = executor(&["doctor", "--json"]).output().unwrap();
    assert_eq!(code_of(&output), 0, "{}", stdout(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["fit"], true);
    let checks = report["checks"].as_array().unwrap();
    let names: Vec<_> = checks
        .iter()
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    for name in [
        "bubblewrap",
        "python",
        "javascript",
        "shell",
        "user_namespace",
        "network_namespace",
        "seccomp",
    ] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }

    let output = executor(&["doctor"]).output().unwrap();
    assert_eq!(code_of(&output), 0);
    for name in names {
        assert!(
            stdout(&output).contains(name),
            "{name}: {}",
            stdout(&output)
        );
    }
    assert!(
        stdout(&output).ends_with("guests can be run here\n"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn doctor_says_what_to_do_where_no_sandbox_can_be_started() {
    let output = executor(&["doctor", "--bwrap-path", "/nonexistent"])
        .output()
        .unwrap();
    assert_eq!(code_of(&output), 1);
    for part in [
        "FAILED",
        "/nonexistent",
        "Remedy",
        "no guest can be run here",
    ] {
        assert!(stdout(&output).contains(part), "{}", stdout(&output));
    }
}

#[test]
fn config_shows_values_with_their_origin_and_masks_the_token() {
    let directory = files(&[(
        "executor.toml",
        "executor_port = 9001\nmax_memory_mb = 64\n",
    )]);
    let output = executor(&["config", "--json", "--max-memory-mb", "32"])
        .arg("--config")
        .arg(directory.path().join("executor.toml"))
        .env("INTERNAL_API_TOKEN", "hunter2-hunter2")
        .env("MAX_MEMORY_MB", "48")
        .output()
        .unwrap();
    assert_eq!(code_of(&output), 0, "{}", stderr(&output));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let value = |name: &str| shown[name]["value"].clone();
    // Flags beat variables beat the file beats defaults.
    assert_eq!(
        (value("max_memory_mb"), value("executor_port")),
        (json!("32"), json!("9001"))
    );
    assert_eq!(value("max_processes"), json!("128"));
    assert_eq!(value("internal_api_token"), json!("****"));
    assert!(!stdout(&output).contains("hunter2"));

    let text = executor(&["config"])
        .env("INTERNAL_API_TOKEN", "hunter2-hunter2")
        .output()
        .unwrap();
    assert!(
        stdout(&text).contains("internal_api_token"),
        "{}",
        stdout(&text)
    );
    assert!(!stdout(&text).contains("hunter2"));
}

#[test]
fn mistakes_of_every_source_are_reported_together() {
    let directory = files(&[("executor.yaml", "max_memory_mb: lots\nmax_memroy: 1\n")]);
    let output = executor(&["config", "--executor-port", "http"])
        .arg("--config")
        .arg(directory.path().join("executor.yaml"))
        .env("DEFAULT_TIMEOUT", "soon")
        .output()
        .unwrap();
    assert_eq!(code_of(&output), 64);
    for mistake in [
        "max_memory_mb",
        "max_memroy",
        "--executor-port",
        "DEFAULT_TIMEOUT",
    ] {
        assert!(
            stderr(&output).contains(mistake),
            "{mistake}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn help_version_and_completions() {
    let version = executor(&["--version"]).output().unwrap();
    assert_eq!(
        (code_of(&version), stdout(&version)),
        (
            0,
            concat!("sandbox-executor ", env!("CARGO_PKG_VERSION"), "\n")
        )
    );
    let help = executor(&["--help"]).output().unwrap();
    for command in [
        "serve",
        "run",
        "doctor",
        "config",
        "completions",
        "Exit codes",
    ] {
        assert!(stdout(&help).contains(command), "{command}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = executor(&["completions", shell]).output().unwrap();
        assert_eq!(code_of(&output), 0);
        assert!(stdout(&output).contains("doctor"), "{shell}");
    }
    // What bash itself makes of it.
    let script = executor(&["completions", "bash"]).output().unwrap().stdout;
    let directory = files(&[]);
    fs::write(directory.path().join("completions"), script).unwrap();
    let checked = Command::new("bash")
        .arg("-n")
        .arg(directory.path().join("completions"))
        .output()
        .unwrap();
    assert_eq!(code_of(&checked), 0, "{}", stderr(&checked));
}
