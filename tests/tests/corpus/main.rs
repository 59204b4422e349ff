//! The hostile corpus against the real daemon: each program of `programs.rs`, in each language in which it makes sense. It
//! comes to what stands there, and afterwards the daemon and its host are as they were.
//!
//! `escape.rs` looks at the same guests more closely, errno by errno, without a daemon around them. What this suite adds is
//! the daemon, and the list: no program of it may be without a guest or a reason (`table.rs`).
//!
//! `CORPUS_RESULTS` names a file to which results are added, one a line, for `scripts/corpus`, which makes
//! `docs/hostile-corpus.md` of them. `CORPUS_PLACE` is what it calls this host, and `SUITE_SETTINGS` what it is to lack.
//! `CORPUS_SLOWER` says that it is emulated.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod afterwards;
mod attempt;
mod guests;
mod programs;
mod resources;
#[path = "../support/mod.rs"]
mod support;
mod table;

use std::{env, fmt::Write as _, fs, io::Write as _};

use afterwards::Watch;
use attempt::{Found, Place, judge};
use serde_json::json;
use support::daemon::{ALL_WARM, Daemon, passable_directory, request_with};

/// Settings of the daemon that guests run into.
const SETTINGS: [(&str, &str); 8] = [
    ("MAX_MEMORY_MB", "512"),
    ("MAX_OUTPUT_BYTES", "1MiB"),
    ("MAX_WORKSPACE_MB", "64"),
    ("MAX_WORKSPACE_FILES", "2000"),
    ("MAX_STATE_BYTES", "64MiB"),
    // Always as many slots, so that what the daemon holds can be compared.
    ALL_WARM,
    ("WARM_POOL_MIN", "4"),
    ("WARM_POOL_MAX", "4"),
];

/// Every guest, one after the other, in one daemon: what one breaks, the next one meets.
#[tokio::test]
async fn every_program_is_contained_and_leaves_nothing_behind() {
    let temporary = passable_directory();
    let tmpdir = ("TMPDIR", temporary.path().to_str().unwrap());
    let daemon = Daemon::with(&[&SETTINGS[..], &[tmpdir]].concat());
    let place = Place::of(&daemon).await;
    let watch = Watch::of(&daemon, temporary.path()).await;

    let mut failures = String::new();
    let mut results = Vec::new();
    for attempt in guests::attempts() {
        Watch::ask(&daemon).await;
        let answer = attempt.run(&daemon, &place).await;
        let verdict = judge(attempt, &answer, &place);
        let afterwards = watch.complaints(&daemon, attempt.guest.language).await;
        for (program, found) in verdict {
            let found = match (&found, afterwards.is_empty()) {
                (_, false) => Found::Failed(afterwards.join("; ")),
                _ => found,
            };
            if let Found::Failed(why) = &found {
                let guest = attempt.guest.name;
                let _ = writeln!(failures, "{program} ({guest}): {why}\n{answer:#}\n");
            }
            results.push((program, attempt.guest.language, found));
        }
    }
    let matrix = table::matrix(&results);
    println!("{}\n{matrix}\n{}", place.name, watch.summary());
    report(&place, &results, &watch.summary());
    assert!(failures.is_empty(), "{failures}\n{matrix}");
}

/// Adds the results to the file that somebody has asked for.
fn report(place: &Place, results: &[(&'static str, &'static str, Found)], summary: &str) {
    let Some(path) = env::var_os("CORPUS_RESULTS") else {
        return;
    };
    let mut lines = json!({"place": place.name, "summary": summary}).to_string() + "\n";
    for (program, language, found) in results {
        let line = json!({"place": place.name, "program": program, "language": language, "found": found.word()});
        lines += &(line.to_string() + "\n");
    }
    let mut file = fs::File::options();
    let mut file = file.create(true).append(true).open(path).unwrap();
    file.write_all(lines.as_bytes()).unwrap();
}

/// Where a neighbour is at its limits, a run of somebody else still comes to its end, with its own result.
#[tokio::test]
async fn a_neighbour_at_its_limits_takes_nothing_from_another_session() {
    let daemon = Daemon::with(&[("MAX_OUTPUT_BYTES", "1MiB")]);
    let greedy = [
        (
            "python",
            "import os, signal, time\nwhile True:\n  try:\n    if os.fork() == 0: signal.pause()\n  except OSError: time.sleep(0.001)",
        ),
        ("shell", "while :; do head -c 100000 /dev/zero; done"),
        (
            "python",
            "import os\nwhile True:\n  child = os.fork()\n  if child == 0:\n    try: bytearray(b'x') * (200 << 20)\n    finally: os._exit(0)\n  os.waitpid(child, 0)",
        ),
    ]
    .map(|(language, code)| {
        let more = json!({
            "session_id": "greedy",
                        "timeout": 600,
            "limits": {"max_memory_mb": 64, "max_processes": 24},
        });
        let mut request = request_with(language, code, more);
        if language != "shell" {
            request["mode"] = "script".into();
        }
        let id = request["execution_id"].as_str().unwrap().to_owned();
        (id, daemon.spawn(&request))
    });
    for number in 0..10 {
        let code = format!("def handler(event): return {number}");
        let run = daemon
            .execute(&request_with(
                "python",
                &code,
                json!({"session_id": "modest"}),
            ))
            .await
            .completed();
        assert_eq!(run["return_value"], number);
    }
    for (id, running) in greedy {
        assert!(!running.is_finished(), "the neighbour has gone");
        daemon.delete(&id).send().await.unwrap();
        assert_eq!(running.await.unwrap().ran()["status"], "cancelled");
    }
}
