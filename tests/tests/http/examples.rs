//! The requests of `docs/examples`: what the documentation shows is what the daemon does.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::{Value, json};

use super::support::daemon::{ALL_WARM, Answer, Daemon};

fn directory() -> PathBuf {
    // At run time: the suites also run away from the checkout, from a copy of it.
    let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
    package.join("../docs/examples")
}

fn example(name: &str) -> Value {
    let text = fs::read_to_string(directory().join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn every_example_does_what_it_shows() {
    let hash_of_hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let expected = [
        (
            "hello-world.json",
            json!({"return_value": {"message": "Hello World!"}}),
        ),
        (
            "python.json",
            json!({"return_value": {"greeting": "Hello, Alice!", "request": "exec_002"}, "stdout": "remaining: True\n"}),
        ),
        (
            "javascript-commonjs.json",
            json!({"return_value": {"greeting": "Hello, Bob!"}}),
        ),
        (
            "javascript-es-module.json",
            json!({"return_value": hash_of_hello}),
        ),
        (
            "shell.json",
            json!({"return_value": null, "stdout": "event: {\"name\":\"Carol\"}\n"}),
        ),
        (
            "python-script.json",
            json!({"return_value": null, "stdout": "Hello, Dave\n"}),
        ),
        ("artifacts.json", json!({"return_value": null})),
        (
            "limits.json",
            json!({"status": "timeout", "message": "Execution timed out", "exit_code": -1}),
        ),
    ];
    let daemon = Daemon::with(&[ALL_WARM]);
    for (name, fields) in &expected {
        let request = example(name);
        let run = daemon.execute(&request).await.ran();
        let mut all = json!({"status": "completed", "message": "Execution completed", "exit_code": 0, "stdout": "",
            "stderr": "", "execution_id": request["execution_id"], "session_id": "session_001"});
        all.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        for (field, value) in all.as_object().unwrap() {
            assert_eq!(run[field], *value, "{field} of {name}: {run:#}");
        }
    }

    let shown: BTreeSet<_> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let tested: BTreeSet<_> = expected
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(shown, tested, "every example is tested");
}

/// The request that the whole project began with, byte for byte.
#[tokio::test]
async fn hello_world() {
    let daemon = Daemon::with(&[ALL_WARM]);
    let body = r#"{"execution_id":"exec_001","session_id":"session_001","language":"python","code":"def handler(event):\n    return {\"message\": \"Hello World!\"}"}"#;
    let answer = Answer::to(daemon.post_text("application/json", body)).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    let run = answer.completed();
    assert_eq!(run["message"], "Execution completed");
    assert_eq!(run["return_value"], json!({"message": "Hello World!"}));
}

/// An answer has these fields, always all of them, and no other.
#[tokio::test]
async fn the_answer_has_the_documented_shape() {
    let daemon = Daemon::with(&[ALL_WARM]);
    let run = daemon.execute(&example("artifacts.json")).await.completed();
    let names = |value: &Value| -> Vec<String> {
        let fields: BTreeSet<_> = value.as_object().unwrap().keys().cloned().collect();
        fields.into_iter().collect()
    };
    assert_eq!(
        names(&run),
        [
            "artifacts",
            "completed_at",
            "error",
            "execution_id",
            "exit_code",
            "message",
            "metrics",
            "return_value",
            "session_id",
            "signal",
            "started_at",
            "status",
            "stderr",
            "stderr_truncated",
            "stderr_truncated_bytes",
            "stdout",
            "stdout_truncated",
            "stdout_truncated_bytes",
        ]
    );
    assert_eq!(
        names(&run["metrics"]),
        [
            "cpu_time_ms",
            "duration_ms",
            "io_read_bytes",
            "io_write_bytes",
            "limits_hit",
            "peak_memory_mb",
            "start",
        ]
    );
    for measured in ["duration_ms", "cpu_time_ms", "peak_memory_mb"] {
        assert!(run["metrics"][measured].as_f64().unwrap() > 0.0, "{run:#}");
    }
    let start = run["metrics"]["start"].as_str().unwrap();
    assert!(["warm", "forked"].contains(&start), "{run:#}");

    let [artifact] = run["artifacts"].as_array().unwrap().as_slice() else {
        panic!("{run:#}");
    };
    assert_eq!(
        names(artifact),
        [
            "checksum",
            "created_at",
            "mime_type",
            "path",
            "size",
            "type"
        ]
    );
    assert_eq!(artifact["path"], "output/squares.csv");
    assert_eq!(artifact["type"], "output");
    assert_eq!(artifact["mime_type"], "text/csv");
    assert_eq!(artifact["size"], "0,0\n1,1\n2,4\n".len());
    // printf '0,0\n1,1\n2,4\n' | sha256sum
    assert_eq!(
        artifact["checksum"],
        "sha256:8f51e20e8043e4ffe00c81ab50f2a7205ad6323124e38f0d5ab2243048063559"
    );
    assert_eq!(
        fs::read_to_string(daemon.workspaces().join("session_001/output/squares.csv")).unwrap(),
        "0,0\n1,1\n2,4\n"
    );
}
