//! What the executable says and how it ends where nothing is to be run: no sandbox is needed here.

use std::{
    borrow::Cow,
    env,
    path::PathBuf,
    process::{Command, Output},
};

/// The executable, in an environment without settings.
fn executor(arguments: &[&str]) -> Command {
    let path = env::var_os("SANDBOX_EXECUTOR_BIN_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_sandbox-executor")),
        |directory| PathBuf::from(directory).join("sandbox-executor"),
    );
    let mut command = Command::new(path);
    command.args(arguments).env_clear();
    command
}

fn stdout(output: &Output) -> Cow<'_, str> {
    String::from_utf8_lossy(&output.stdout)
}

fn stderr(output: &Output) -> Cow<'_, str> {
    String::from_utf8_lossy(&output.stderr)
}

#[test]
fn every_mistake_is_reported_at_once_and_the_exit_code_is_64() {
    for command in ["serve", "run", "doctor", "config"] {
        let arguments: &[&str] = if command == "run" {
            &["run", "program.py", "--host", "0.0.0.0"]
        } else {
            &[command, "--host", "0.0.0.0"]
        };
        let output = executor(arguments)
            .env("EXECUTOR_PORT", "http")
            .env("MAX_MEMORY_MB", "1")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(64), "{command}");
        assert_eq!(stdout(&output), "", "{command}");
        for mistake in [
            "executor_host (flag --executor-host)",
            "executor_port (environment variable EXECUTOR_PORT)",
            "max_memory_mb (environment variable MAX_MEMORY_MB)",
        ] {
            assert!(stderr(&output).contains(mistake), "{}", stderr(&output));
        }
    }
}

#[test]
fn a_wrong_command_line_ends_with_64_and_help_with_0() {
    let wrong = executor(&["run", "--bogus"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(64));
    assert!(stderr(&wrong).contains("--bogus"));

    let help = executor(&["--help"]).output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    assert!(stdout(&help).contains("--executor-port"));
    assert!(stdout(&help).contains("143"));
}

#[test]
fn wrong_inputs_of_run_end_with_64() {
    let output = executor(&["run", "/nonexistent.py"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("/nonexistent.py"));
}

#[test]
fn config_shows_what_counts_and_masks_the_token() {
    let output = executor(&["config", "--json", "--port=0"])
        .env("INTERNAL_API_TOKEN", "hunter2")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["executor_port"]["value"], "0");
    assert_eq!(shown["executor_port"]["origin"]["name"], "--executor-port");
    assert_eq!(shown["internal_api_token"]["value"], "****");
    assert!(!stdout(&output).contains("hunter2"));

    let warned = executor(&["config"])
        .env("EXECUTOR_PROT", "1")
        .output()
        .unwrap();
    assert_eq!(warned.status.code(), Some(0));
    assert!(stderr(&warned).contains("did you mean EXECUTOR_PORT?"));
}

#[test]
fn completions_are_a_script_for_the_shell() {
    let output = executor(&["completions", "bash"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("complete -F"));
}
