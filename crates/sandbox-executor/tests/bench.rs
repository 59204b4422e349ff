//! `bench`, over a handful of runs: that it measures what it says, in a shape that programs can rely on. What it finds means
//! nothing here, and no test looks at a time.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests panic as tests do; Clippy knows those in test functions only"
)]

use std::{
    env,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

/// The executable, in an environment without settings.
fn command() -> Command {
    let path = env::var_os("SANDBOX_EXECUTOR_BIN_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_sandbox-executor")),
        |directory| PathBuf::from(directory).join("sandbox-executor"),
    );
    let mut command = Command::new(path);
    command.env_clear();
    command
}

/// A directory that guests can walk through, whoever they are on the host.
fn passable_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o711)).unwrap();
    directory
}

/// Measures a little; returns what it says, and what it leaves in its temporary directory.
fn bench(arguments: &[&str]) -> (Output, usize) {
    let temporary = passable_directory();
    let output = command()
        .args([
            "bench",
            "--quick",
            "--languages",
            "shell",
            "--clients",
            "2,1",
        ])
        .args(arguments)
        .env("TMPDIR", temporary.path())
        .output()
        .unwrap();
    let left = fs::read_dir(temporary.path()).unwrap().count();
    (output, left)
}

/// A number that says something.
fn is_positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number > 0.0)
}

/// Whether these are percentiles of so many samples.
fn are_percentiles(latency: &Value, samples: u64) -> bool {
    latency["samples"] == samples
        && ["p50", "p95", "p99"]
            .iter()
            .all(|name| is_positive(&latency[name]))
}

#[test]
fn every_start_is_measured_beside_the_reference() {
    let (output, left) = bench(&["--json"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert_eq!(left, 0, "workspaces and stores are gone with the daemons");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(is_positive(&report["machine"]["cores"]), "{report}");

    let guests = report["guests"].as_array().unwrap();
    assert_eq!(guests.len(), 1, "{report}");
    let shell = &guests[0];
    assert_eq!(shell["guest"], "shell");
    assert!(
        are_percentiles(&shell["reference"]["latency_ms"], 5),
        "{shell}"
    );
    assert!(is_positive(&shell["reference"]["per_second"]), "{shell}");
    let starts = shell["starts"].as_array().unwrap();
    let names: Vec<_> = starts
        .iter()
        .map(|row| row["start"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["cold", "forked", "warm"]);
    for row in starts {
        let name = row["start"].as_str().unwrap();
        assert!(are_percentiles(&row["latency_ms"], 5), "{row}");
        assert!(is_positive(&row["ratio_p50"]), "{row}");
        let all = &row["starts"];
        let sum: u64 = ["cold", "forked", "warm"]
            .iter()
            .map(|it| all[it].as_u64().unwrap())
            .sum();
        assert_eq!(sum, 5, "{row}");
        // A warm pool may be empty for a moment; the two others have no choice.
        assert!(name == "warm" || all[name] == 5, "{row}");
        let loads = row["loads"].as_array().unwrap();
        let clients: Vec<_> = loads
            .iter()
            .map(|load| load["clients"].as_u64().unwrap())
            .collect();
        assert_eq!(clients, [1, 2]);
        assert!(
            loads.iter().all(|load| is_positive(&load["per_second"])),
            "{row}"
        );
    }

    // As many as wait by default. Who is not root may not see what guests use.
    let slots = &shell["slots"];
    if rustix::process::geteuid().is_root() || !slots.is_null() {
        assert_eq!(slots["count"], 4, "{shell}");
        assert!(is_positive(&slots["median_pss_kib"]), "{shell}");
    }

    assert_eq!(report["burst"]["requests"], 20);
    assert!(
        are_percentiles(&report["burst"]["latency_ms"], 20),
        "{report}"
    );
    assert!(
        are_percentiles(&report["overload"]["unloaded_ms"], 5),
        "{report}"
    );
    assert_eq!(report["overload"]["all_refusals_have_retry_after"], true);
    let neighbours = report["neighbours"].as_array().unwrap();
    let limits: Vec<_> = neighbours
        .iter()
        .map(|it| it["limit"].as_str().unwrap())
        .collect();
    assert_eq!(limits, ["memory", "processes", "output"]);
    for neighbour in neighbours {
        for latency in ["alone_ms", "beside_ms"] {
            assert!(are_percentiles(&neighbour[latency], 5), "{neighbour}");
        }
    }
    let promises = report["promises"].as_array().unwrap();
    assert_eq!(promises.len(), 9 + neighbours.len(), "{report}");
    for promise in promises {
        assert_eq!(
            promise["found"].is_null(),
            promise["kept"].is_null(),
            "{promise}"
        );
    }
}

#[test]
fn people_get_tables_and_a_picture() {
    let directory = tempfile::tempdir().unwrap();
    let picture = directory.path().join("plot.svg");
    let (output, _) = bench(&["--markdown", "--svg", picture.to_str().unwrap()]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    let page = String::from_utf8(output.stdout).unwrap();
    for row in ["| bwrap |", "| cold |", "| forked |", "| warm |"] {
        assert!(page.contains(row), "{page}");
    }
    assert!(!page.contains('\x1b'), "colours are for terminals");
    let svg = fs::read_to_string(picture).unwrap();
    // Four bars on either side, but for the rates at sixteen clients that nobody has asked for.
    assert_eq!(svg.matches("<rect").count(), 5, "{svg}");
}
