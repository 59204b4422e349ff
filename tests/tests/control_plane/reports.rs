//! What is reported, when, and that it is exactly what the contract says.

use std::{fs, os::unix::net::UnixDatagram, time::Duration};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    plane::{Manners, Plane, Request},
    support::{
        daemon::{Daemon, appears, passable_directory, request, request_with},
        eventually,
        tls::fixture,
    },
};

const TOKEN: &str = "hunter2-hunter2";

#[tokio::test]
async fn the_daemons_life_is_told_in_full_and_nothing_else() {
    let plane = Plane::new(Manners::Good).listen().await;
    let mut daemon = Daemon::with(&[
        ("CONTROL_PLANE_URL", &plane.url()),
        ("INTERNAL_API_TOKEN", TOKEN),
        ("EXECUTOR_REQUIRE_AUTH", "false"),
        ("CONTAINER_ID", "container-1"),
        ("POD_NAME", "pod-1"),
    ]);
    let port: u16 = daemon
        .address()
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let ready = plane.plane.takes("/containers/ready", 1).await.remove(0);
    assert_eq!(ready.path, "/api/v1/internal/containers/ready");
    assert!(
        ready
            .head
            .contains(&format!("authorization: bearer {TOKEN}\r\n"))
    );
    assert_time(&ready.body["ready_at"]);
    assert_eq!(
        ready.body,
        json!({"event_type": "ready", "container_id": "container-1", "pod_name": "pod-1", "executor_port": port,
               "ready_at": ready.body["ready_at"]})
    );

    let code = "import sys\ndef handler(event):\n    open('out.txt', 'w').write('x')\n    print('hi')\n    \
                print('uh', file=sys.stderr)\n    return {'n': event['n'] + 1}";
    let run = request_with("python", code, json!({"event": {"n": 1}}));
    let id = run["execution_id"].as_str().unwrap().to_owned();
    let answer = daemon.execute(&run).await.completed();
    let result = plane.plane.takes("/result", 1).await.remove(0);
    assert_eq!(
        result.path,
        format!("/api/v1/internal/executions/{id}/result")
    );
    assert!(result.head.contains(&format!("idempotency-key: {id}\r\n")));
    assert!(
        result
            .head
            .contains(&format!("authorization: bearer {TOKEN}\r\n"))
    );
    let metrics = &answer["metrics"];
    let seconds = result.body["execution_time"].as_f64().unwrap();
    assert!((seconds * 1e3 - metrics["duration_ms"].as_f64().unwrap()).abs() < 1e-3);
    assert_eq!(
        result.body,
        json!({"status": "success", "stdout": "hi\n", "stderr": "uh\n", "exit_code": 0,
               "execution_time": seconds, "return_value": {"n": 2},
               "metrics": {"duration_ms": metrics["duration_ms"], "cpu_time_ms": metrics["cpu_time_ms"],
                           "peak_memory_mb": metrics["peak_memory_mb"], "io_read_bytes": metrics["io_read_bytes"],
                           "io_write_bytes": metrics["io_write_bytes"]},
               "artifacts": ["out.txt"]})
    );

    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.exit().await.code(), Some(143));
    let exited = plane.plane.taken("/containers/exited").remove(0);
    assert_time(&exited.body["exited_at"]);
    assert_eq!(
        exited.body,
        json!({"event_type": "exited", "container_id": "container-1", "pod_name": "pod-1", "executor_port": port,
               "exit_code": 143, "exit_reason": "sigterm", "exited_at": exited.body["exited_at"]})
    );
    assert_eq!(plane.plane.read("").len(), 3);
}

fn assert_time(value: &Value) {
    let text = value.as_str().unwrap();
    assert!(
        text.starts_with("20") && text.ends_with('Z') && text.contains('T'),
        "{text}"
    );
}

#[tokio::test]
async fn told_by_a_person_it_says_that_it_ended_normally_under_the_hosts_name() {
    let plane = Plane::new(Manners::Good).listen().await;
    let mut daemon = Daemon::with(&[
        ("CONTROL_PLANE_URL", &format!("{}/base", plane.url())),
        ("CONTROL_PLANE_PREFIX", "/reports"),
    ]);
    let ready = plane.plane.takes("/containers/ready", 1).await.remove(0);
    assert_eq!(ready.path, "/base/reports/containers/ready");
    assert!(!ready.head.contains("authorization"));
    let host = nix::unistd::gethostname().unwrap();
    assert_eq!(ready.body["container_id"], host.to_str().unwrap());
    assert_eq!(ready.body["pod_name"], Value::Null);

    daemon.signal(Signal::SIGINT);
    assert_eq!(daemon.exit().await.code(), Some(0));
    let exited = plane.plane.taken("/containers/exited").remove(0);
    assert_eq!(exited.body["exit_code"], 0);
    assert_eq!(exited.body["exit_reason"], "normal");
}

#[tokio::test]
async fn every_ending_of_a_guest_has_its_status() {
    let plane = Plane::new(Manners::Good).listen().await;
    let daemon = Daemon::with(&[("CONTROL_PLANE_URL", &plane.url())]);
    for (code, more, status, exit_code) in [
        ("true", json!({}), "success", 0),
        ("exit 3", json!({}), "failed", 3),
        ("sleep 60", json!({"timeout": 1}), "timeout", -1),
        ("kill -SEGV $$", json!({}), "crashed", -1),
    ] {
        let run = request_with("shell", code, more);
        daemon.execute(&run).await.ran();
        let path = format!("/{}/result", run["execution_id"].as_str().unwrap());
        let result = plane.plane.takes(&path, 1).await.remove(0);
        assert_eq!(result.body["status"], status, "{code}");
        assert_eq!(result.body["exit_code"], exit_code, "{code}");
    }
}

#[tokio::test]
async fn whoever_runs_has_a_heartbeat_and_nobody_else() {
    let plane = Plane::new(Manners::Good).listen().await;
    let daemon = Daemon::with(&[
        ("CONTROL_PLANE_URL", &plane.url()),
        ("HEARTBEAT_INTERVAL", "1"),
        ("MAX_CONCURRENT_EXECUTIONS", "5"),
    ]);
    let code = |n: usize| format!("touch begun-{n}; until [ -e release ]; do sleep 0.05; done");
    let runs: Vec<_> = (0..5).map(|n| request("shell", &code(n))).collect();
    let answers: Vec<_> = runs.iter().map(|run| daemon.spawn(run)).collect();
    for n in 0..5 {
        appears(&daemon.file(&format!("begun-{n}"))).await;
    }
    // Waits for a slot all the while.
    let waiting = request("shell", "true");
    let waiting_answer = daemon.spawn(&waiting);
    let beats = |run: &Value| {
        let id = run["execution_id"].as_str().unwrap();
        plane.plane.taken(&format!("/executions/{id}/heartbeat"))
    };
    eventually("four heartbeats", || {
        runs.iter().all(|run| beats(run).len() >= 4)
    })
    .await;
    fs::write(daemon.file("release"), "").unwrap();
    for answer in answers {
        answer.await.unwrap().completed();
    }
    waiting_answer.await.unwrap().completed();
    plane.plane.takes("/result", 6).await;

    for run in &runs {
        let beats = beats(run);
        for beat in &beats {
            assert_eq!(beat.body.as_object().unwrap().len(), 2, "{beat:?}");
            assert_eq!(beat.body["progress"], Value::Null);
        }
        let times: Vec<_> = beats.iter().map(Request::second_of_day).collect();
        // Not more often than asked for; a machine that is busy makes single ones late.
        let pauses = u32::try_from(times.len() - 1).unwrap();
        let pause = (times[times.len() - 1] - times[0]) / f64::from(pauses);
        assert!(pause > 0.5, "{times:?}");
    }
    assert_eq!(beats(&waiting).len(), 0);
    let before = plane.plane.read("/heartbeat").len();
    // Two intervals: whoever still had a heartbeat would show it.
    tokio::time::sleep(Duration::from_millis(2200)).await;
    assert_eq!(plane.plane.read("/heartbeat").len(), before);
}

#[tokio::test]
async fn heartbeats_and_result_are_steps_of_the_trace_that_the_request_belongs_to() {
    let plane = Plane::new(Manners::Good).listen().await;
    let daemon = Daemon::with(&[
        ("CONTROL_PLANE_URL", &plane.url()),
        ("HEARTBEAT_INTERVAL", "1"),
    ]);
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let run = request("shell", "until [ -e release ]; do sleep 0.05; done");
    let traced = daemon
        .post(&run)
        .header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
    let answer = tokio::spawn(traced.send());
    let heartbeat = plane.plane.takes("/heartbeat", 1).await.remove(0);
    fs::write(daemon.file("release"), "").unwrap();
    assert!(answer.await.unwrap().unwrap().status().is_success());
    let result = plane.plane.takes("/result", 1).await.remove(0);
    for report in [heartbeat, result] {
        let step = format!("traceparent: 00-{trace}-");
        assert!(report.head.contains(&step), "{}", report.head);
    }

    daemon.execute(&request("shell", "true")).await.completed();
    let results = plane.plane.takes("/result", 2).await;
    assert!(!results[1].head.contains(trace));
}

#[tokio::test]
async fn switched_off_it_says_nothing_to_nobody() {
    // Otherwise the log would say either that somebody is there or that nobody is: see the suite's other tests.
    let daemon = Daemon::with(&[("CONTROL_PLANE_URL", "none"), ("LOG_LEVEL", "debug")]);
    daemon.execute(&request("shell", "true")).await.completed();
    assert!(!daemon.log().contains("control plane"), "{}", daemon.log());
}

#[tokio::test]
async fn the_token_is_in_no_log_at_any_level() {
    let plane = Plane::new(Manners::Good).listen().await;
    let mut daemon = Daemon::with(&[
        ("CONTROL_PLANE_URL", &plane.url()),
        ("INTERNAL_API_TOKEN", TOKEN),
        ("EXECUTOR_REQUIRE_AUTH", "false"),
        ("LOG_LEVEL", "trace"),
    ]);
    daemon.execute(&request("shell", "true")).await.completed();
    plane.plane.takes("/result", 1).await;
    plane.plane.becomes(Manners::Status(500, String::new()));
    daemon.execute(&request("shell", "true")).await.completed();
    eventually("a failure", || plane.plane.read("/result").len() >= 2).await;
    daemon.signal(Signal::SIGTERM);
    daemon.exit().await;
    let log = daemon.log();
    assert!(!log.contains(TOKEN));
    // Positive control: it really logs what it sends.
    assert!(log.contains("TRACE") && log.contains("hyper"), "no trace");
}

#[tokio::test]
async fn over_tls_it_tells_only_whom_the_host_trusts() {
    let plane = Plane::new(Manners::Good).listen_with_tls().await;
    let url = format!("https://localhost:{}", plane.address.port());
    let stranger = Daemon::with(&[("CONTROL_PLANE_URL", &url)]);
    eventually("it says so", || stranger.log().contains("UnknownIssuer")).await;
    assert_eq!(plane.plane.read("").len(), 0);

    let authority = fixture("authority.pem");
    let trusting = |url: &str| {
        Daemon::with(&[
            ("CONTROL_PLANE_URL", url),
            ("SSL_CERT_FILE", authority.to_str().unwrap()),
        ])
    };
    // The certificate is not for this name.
    let elsewhere = trusting(&format!("https://127.0.0.1:{}", plane.address.port()));
    eventually("it says so", || {
        elsewhere.log().contains("not valid for name")
    })
    .await;
    assert_eq!(plane.plane.read("").len(), 0);

    let daemon = trusting(&url);
    daemon.execute(&request("shell", "true")).await.completed();
    plane.plane.takes("/containers/ready", 1).await;
    plane.plane.takes("/result", 1).await;
}

#[tokio::test]
async fn a_service_manager_hears_of_start_and_stop() {
    let directory = passable_directory();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut daemon = Daemon::with(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    let hears = || {
        let mut text = [0; 64];
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    };
    assert_eq!(hears().trim(), "READY=1");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(hears().trim(), "STOPPING=1");
    daemon.exit().await;
}
