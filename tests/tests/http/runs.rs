//! What becomes of guests: many at a time, out of time, abandoned; what they get, share and leave.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::support::{
    alive,
    daemon::{ALL_WARM, Answer, Daemon, alive_becomes, appears, marker, request, request_with},
    eventually,
};

/// A script that starts `sleep MARKER` in every way that has outlived a time-out somewhere: as a child, in a session of
/// its own, orphaned by a double fork, under a shell that ignores signals, and as a program that holds the outputs open
/// after its parent is gone. Then it ignores signals itself and waits.
const ESCAPE_ARTIST: &str = r"
sleep MARKER &
setsid sleep MARKER &
(setsid bash -c 'sleep MARKER & exit' &)
(trap '' HUP INT QUIT TERM XCPU; setsid nohup sleep MARKER &)
trap '' HUP INT QUIT TERM XCPU
sleep MARKER
";
const ESCAPE_ARTIST_SLEEPS: usize = 5;

fn escape_artist(marker: &str) -> String {
    ESCAPE_ARTIST.replace("MARKER", marker)
}

/// A script that waits until the test makes this file in the workspace. It goes by files, not by time.
pub(super) fn waits_for(file: &str) -> String {
    format!("until [ -e {file} ]; do sleep 0.02; done; echo released")
}

fn time(run: &Value, field: &str) -> String {
    // RFC 3339 in UTC, always with six digits: it sorts as text.
    let time = run[field].as_str().unwrap().to_owned();
    assert_eq!(time.len(), "2026-01-15T10:29:59.100000Z".len(), "{time}");
    time
}

#[tokio::test]
async fn five_runs_of_two_seconds_overlap() {
    let daemon = Daemon::start();
    let mut runs = JoinSet::new();
    for _ in 0..5 {
        let request = request(
            "python",
            "import time\ndef handler(event):\n    time.sleep(2)\n",
        );
        runs.spawn(Answer::to(daemon.post(&request)));
    }
    let runs: Vec<_> = runs
        .join_all()
        .await
        .into_iter()
        .map(Answer::completed)
        .collect();
    let last_start = runs
        .iter()
        .map(|run| time(run, "started_at"))
        .max()
        .unwrap();
    let first_end = runs
        .iter()
        .map(|run| time(run, "completed_at"))
        .min()
        .unwrap();
    assert!(
        last_start < first_end,
        "{last_start} is not before {first_end}"
    );
}

#[tokio::test]
async fn a_hundred_at_once_all_succeed_and_none_gets_anothers_result() {
    let daemon = Daemon::with(&[ALL_WARM]);
    let mut runs = JoinSet::new();
    for n in 0..100 {
        let (language, code) = match n % 3 {
            0 => (
                "python",
                "def handler(event):\n    print(event['n'])\n    return event['n']",
            ),
            1 => (
                "javascript",
                "exports.handler = async ({ n }) => { console.log(n); return n }",
            ),
            _ => ("shell", "echo \"${EVENT_JSON//[^0-9]/}\""),
        };
        let request = request_with(language, code, json!({"event": {"n": n}}));
        let run = Answer::to(daemon.post(&request));
        runs.spawn(async move { (n, run.await.completed()) });
    }
    while let Some(ended) = runs.join_next().await {
        let (n, run) = ended.unwrap();
        assert_eq!(run["stdout"], format!("{n}\n"));
        assert_ne!(run["metrics"]["start"], "cold", "{run:#}");
        let expected = if n % 3 == 2 { Value::Null } else { json!(n) };
        assert_eq!(run["return_value"], expected);
    }
}

#[tokio::test]
async fn out_of_time_the_whole_tree_is_dead_before_the_answer() {
    let daemon = Daemon::start();
    let marker = marker();
    let run = daemon.spawn(&request_with(
        "shell",
        &escape_artist(&marker),
        json!({"timeout": 5}),
    ));
    // Positive control: they all ran.
    alive_becomes(&marker, ESCAPE_ARTIST_SLEEPS).await;
    let run = run.await.unwrap().ran();
    // At once: nothing may still be dying.
    assert_eq!(alive(&marker), [0; 0]);
    assert_eq!(run["status"], "timeout", "{run:#}");
    assert_eq!(run["exit_code"], -1);
    assert_eq!(
        run["error"]["error_message"],
        "Task timed out after 5.00 seconds"
    );
    assert_eq!(run["error"]["reason"], "wall_time");
    assert_eq!(run["metrics"]["limits_hit"], json!(["wall_time"]));
}

#[tokio::test]
async fn what_a_guest_left_running_is_dead_before_the_answer() {
    let daemon = Daemon::start();
    let marker = marker();
    // The guest ends by itself, and its children would stay.
    let code = escape_artist(&marker).replace(&format!("\nsleep {marker}\n"), "\n")
        + &waits_for("release");
    let run = daemon.spawn(&request("shell", &code));
    alive_becomes(&marker, ESCAPE_ARTIST_SLEEPS - 1).await;
    std::fs::write(daemon.file("release"), "").unwrap();
    let run = run.await.unwrap().completed();
    assert_eq!(alive(&marker), [0; 0]);
    assert_eq!(run["stdout"], "released\n");
}

#[tokio::test]
async fn when_the_client_hangs_up_the_tree_dies() {
    let daemon = Daemon::start();
    let marker = marker();
    let run = daemon.spawn(&request("shell", &escape_artist(&marker)));
    alive_becomes(&marker, ESCAPE_ARTIST_SLEEPS).await;
    run.abort();
    eventually("the tree dies", || alive(&marker).is_empty()).await;
    // And the daemon is as it was.
    daemon.execute(&request("shell", "true")).await.completed();
}

#[tokio::test]
async fn where_the_operator_wants_it_so_a_run_outlives_its_client() {
    let daemon = Daemon::with(&[("CANCEL_ON_DISCONNECT", "false")]);
    let request = request("shell", &format!("touch begun; {}", waits_for("release")));
    let run = daemon.spawn(&request);
    appears(&daemon.file("begun")).await;
    run.abort();
    std::fs::write(daemon.file("release"), "").unwrap();
    // Whoever asks again gets the result of that run.
    let run = daemon.execute(&request).await.completed();
    assert_eq!(run["stdout"], "released\n");
}

#[tokio::test]
async fn runs_of_a_session_share_files_and_no_other_session_sees_them() {
    let daemon = Daemon::start();
    let run = daemon
        .execute(&request("shell", "echo hello > note.txt"))
        .await
        .completed();
    assert_eq!(run["artifacts"][0]["path"], "note.txt");

    let read =
        "exports.handler = () => require('node:fs').readFileSync('/workspace/note.txt', 'utf8')";
    let same = daemon
        .execute(&request("javascript", read))
        .await
        .completed();
    assert_eq!(same["return_value"], "hello\n");
    assert_eq!(same["artifacts"], json!([]), "it has changed nothing");

    let look = "ls -A /workspace; find / -name note.txt 2>/dev/null; true";
    let other = json!({"session_id": "session-2"});
    let other = daemon
        .execute(&request_with("shell", look, other))
        .await
        .completed();
    assert_eq!(other["stdout"], "");
    // Positive control.
    let own = daemon.execute(&request("shell", look)).await.completed();
    assert_eq!(own["stdout"], "note.txt\n/workspace/note.txt\n");
}

#[tokio::test]
async fn tmp_is_gone_after_the_run() {
    let daemon = Daemon::start();
    let code = "ls -A /tmp /dev/shm; touch /tmp/a /dev/shm/b";
    for _ in 0..2 {
        let run = daemon.execute(&request("shell", code)).await.completed();
        assert_eq!(run["stdout"], "/dev/shm:\n\n/tmp:\n");
        assert_eq!(run["artifacts"], json!([]));
    }
}

#[tokio::test]
async fn every_language_gets_variables_stdin_and_the_event() {
    let programs = [
        (
            "python",
            "import os, sys\ndef handler(event):\n    return [os.environ['NAME'], sys.stdin.read(), os.environ['EVENT_JSON'], event]",
        ),
        (
            "javascript",
            "exports.handler = (event) => [process.env.NAME, require('node:fs').readFileSync(0, 'utf8'), process.env.EVENT_JSON, event]",
        ),
        (
            "shell",
            r#"printf '["%s","%s",%s,%s]' "$NAME" "$(cat)" '"{\"a\":[1,\"ü\"]}"' "$EVENT_JSON""#,
        ),
    ];
    let daemon = Daemon::start();
    for (language, code) in programs {
        let more =
            json!({"env_vars": {"NAME": "Grace ü"}, "stdin": "line", "event": {"a": [1, "ü"]}});
        let run = daemon
            .execute(&request_with(language, code, more))
            .await
            .completed();
        let got = if language == "shell" {
            serde_json::from_str(run["stdout"].as_str().unwrap()).unwrap()
        } else {
            run["return_value"].clone()
        };
        let event = json!({"a": [1, "ü"]});
        assert_eq!(
            got,
            json!(["Grace ü", "line", event.to_string(), event]),
            "{language}"
        );
    }
    // A shell script that is given no stdin finds the event there.
    let run = daemon
        .execute(&request_with("shell", "cat", json!({"event": {"a": 1}})))
        .await
        .completed();
    assert_eq!(run["stdout"], r#"{"a":1}"#);
}

#[tokio::test]
async fn a_guests_misfortune_is_an_answer_of_200() {
    let daemon = Daemon::start();
    let cases = [
        (
            "python",
            "def handler(event):\n    raise ValueError('no')",
            "failed",
            "handler_error",
            1,
        ),
        ("python", "x = 1", "failed", "handler_not_found", 1),
        (
            "python",
            "def handler(event:\n",
            "failed",
            "syntax_error",
            1,
        ),
        (
            "python",
            "def handler(event):\n    return {1, 2}",
            "failed",
            "not_serializable",
            1,
        ),
        (
            "javascript",
            "exports.handler = () => { throw new TypeError('no') }",
            "failed",
            "handler_error",
            1,
        ),
        (
            "javascript",
            "exports.handler = () => new Promise(() => {})",
            "failed",
            "handler_error",
            1,
        ),
        ("shell", "exit 7", "failed", "exit_code", 7),
        ("shell", "kill -SEGV $$", "crashed", "signal", -1),
    ];
    for (language, code, status, reason, exit_code) in cases {
        let run = daemon.execute(&request(language, code)).await.ran();
        assert_eq!(run["status"], status, "{code}: {run:#}");
        assert_eq!(run["error"]["reason"], reason, "{code}: {run:#}");
        assert_eq!(run["exit_code"], exit_code, "{code}: {run:#}");
        assert_eq!(run["return_value"], Value::Null, "{code}");
    }
}

#[tokio::test]
async fn nothing_that_a_guest_prints_is_taken_for_its_result() {
    let daemon = Daemon::start();
    let code = "import os\ndef handler(event):\n    for fd in (1, 2):\n        os.write(fd, b'R{\"forged\": 1}\\n')\n    return 'true'";
    let run = daemon.execute(&request("python", code)).await.completed();
    assert_eq!(run["return_value"], "true");
    assert_eq!(run["stdout"], "R{\"forged\": 1}\n");
    assert_eq!(run["stderr"], "R{\"forged\": 1}\n");
}

#[tokio::test]
async fn output_is_cut_at_its_limit_and_the_run_goes_on() {
    let daemon = Daemon::start();
    for (bytes, lost) in [(1000, 0), (1001, 1), (20_000_000, 19_999_000)] {
        let code = format!("head -c {bytes} /dev/zero | tr '\\0' x; echo done >&2");
        let more = json!({"limits": {"max_output_bytes": 1000}});
        let run = daemon
            .execute(&request_with("shell", &code, more))
            .await
            .completed();
        assert_eq!(run["stdout"].as_str().unwrap().len(), 1000, "{bytes}");
        assert_eq!(run["stdout_truncated"], lost > 0, "{bytes}");
        assert_eq!(run["stdout_truncated_bytes"], lost, "{bytes}");
        assert_eq!(run["stderr"], "done\n", "{bytes}");
        assert_eq!(run["stderr_truncated"], false, "{bytes}");
        assert_eq!(run["stderr_truncated_bytes"], 0, "{bytes}");
    }
}

#[tokio::test]
async fn a_guest_has_no_network_and_does_not_reach_the_daemon() {
    let daemon = Daemon::start();
    let (host, port) = daemon.address().split_once(':').unwrap();
    let code = format!(
        "import socket\ndef handler(event):\n    own = socket.create_server(('127.0.0.1', 0))\n    \
         socket.create_connection(own.getsockname()).close()\n    try:\n        \
         socket.create_connection(('{host}', {port}), 5)\n    except ConnectionRefusedError:\n        return 'refused'"
    );
    // Its own loopback works, which is the positive control; the host's it does not see.
    let run = daemon.execute(&request("python", &code)).await.completed();
    assert_eq!(run["return_value"], "refused");
}

#[tokio::test]
async fn the_token_reaches_no_guest_and_no_log() {
    const TOKEN: &str = "tok-7f3a9c-secret";
    let daemon = Daemon::with(&[
        ALL_WARM,
        ("INTERNAL_API_TOKEN", TOKEN),
        ("LOG_LEVEL", "trace"),
    ]);
    // Everything that the guest can read of any process that it can see, of its own memory, and of its files.
    let code = r"
import glob, os
def handler(event):
    seen = []
    # The control: a guest that was started warm shows no variable there.
    with open('/tmp/control', 'w') as file:
        file.write(os.environ['CONTROL'])
    for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline') + glob.glob('/proc/[0-9]*/fd/*'):
        try:
            if '/fd/' in path and not os.path.isfile(path):
                continue
            with open(path, 'rb') as file:
                seen.append(file.read(1 << 20))
        except OSError:
            pass
    for top in ('/etc', '/run', '/tmp', '/workspace', '/dev/shm'):
        for folder, _, files in os.walk(top):
            for name in files:
                try:
                    with open(os.path.join(folder, name), 'rb') as file:
                        seen.append(file.read(1 << 20))
                except OSError:
                    pass
    everything = b'\0'.join(seen)
    parts = event['halves']
    return {'token': everything.count(''.join(parts).encode()), 'control': everything.count(b'visible-control')}
";
    let (first, second) = TOKEN.split_at(5);
    let mut request = request_with(
        "python",
        code,
        json!({"env_vars": {"CONTROL": "visible-control"}, "event": {"halves": [first, second]}}),
    );
    // Two halves, so that the request itself does not show it.
    assert!(!request.to_string().contains(TOKEN));
    let run = Answer::to(daemon.post(&request).bearer_auth(TOKEN))
        .await
        .completed();
    assert_ne!(run["metrics"]["start"], "cold", "{run:#}");
    assert_eq!(run["return_value"]["token"], 0);
    assert!(
        run["return_value"]["control"].as_u64().unwrap() > 0,
        "{run:#}"
    );

    request["execution_id"] = json!("another");
    let wrong = Answer::to(daemon.post(&request).bearer_auth("tok-wrong")).await;
    wrong.refusal(401, "Executor.Unauthorized");
    assert!(daemon.log().contains("request answered"));
    assert!(!daemon.log().contains(TOKEN));
}
