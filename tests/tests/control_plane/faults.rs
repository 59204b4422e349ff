//! Control planes that break every promise. Whatever they do: runs are answered as ever, no result is lost that can be
//! delivered, and the daemon ends in its time.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::{
    plane::{Manners, Plane},
    support::{
        daemon::{Daemon, request},
        eventually,
    },
};

/// Longer than any run here takes on a machine that is busy, shorter than any time-out of the control plane's client.
const AS_EVER: Duration = Duration::from_secs(8);

/// Runs so many guests one after the other, each answered as ever, and returns their ids.
async fn runs(daemon: &Daemon, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let run = request("shell", "echo hi");
        // Where this fails, the control plane has held up a run.
        let answer = timeout(AS_EVER, daemon.execute(&run)).await.unwrap();
        let answer = answer.completed();
        assert_eq!(answer["stdout"], "hi\n");
        ids.push(run["execution_id"].as_str().unwrap().to_owned());
    }
    ids
}

/// Each of these results was taken in the end.
async fn all_arrive(plane: &Plane, ids: &[String]) {
    for id in ids {
        let result = plane
            .takes(&format!("/executions/{id}/result"), 1)
            .await
            .remove(0);
        assert_eq!(result.body["stdout"], "hi\n");
    }
}

fn status(code: u16) -> Manners {
    Manners::Status(code, String::new())
}

#[tokio::test]
async fn one_that_was_away_gets_everything_when_it_is_back() {
    let plane = Plane::new(Manners::Good);
    let gone = plane.listen().await;
    let (address, url) = (gone.address, gone.url());
    drop(gone);
    let daemon = Daemon::with(&[("CONTROL_PLANE_URL", &url)]);
    let ids = runs(&daemon, 6).await;
    assert_eq!(plane.read("").len(), 0);
    let _back = plane.listen_at(address).await;
    all_arrive(&plane, &ids).await;
    plane.takes("/containers/ready", 1).await;
    let log = daemon.log();
    let said = |text: &str| log.matches(text).count();
    // Once, with what a person who has no control plane can do about it.
    assert_eq!(said("does not take reports"), 1, "{log}");
    assert_eq!(said("CONTROL_PLANE_URL=none switches reports off"), 1);
    assert_eq!(said(&url), 1, "{log}");
    eventually("it says so", || {
        daemon.log().contains("takes reports again")
    })
    .await;
}

#[tokio::test]
async fn whatever_passes_is_tried_again_until_it_has_passed() {
    for manners in [
        status(401),
        status(408),
        status(429),
        status(500),
        status(502),
        status(503),
        Manners::Status(503, "Retry-After: 1\r\n".into()),
        Manners::Says("SSH-2.0-OpenSSH_9.2\r\n"),
        Manners::Says("HTTP/1.1 200 O"),
        Manners::Says(""),
        Manners::Leaves,
    ] {
        let plane = Plane::new(manners.clone()).listen().await;
        let daemon = Daemon::with(&[("CONTROL_PLANE_URL", &plane.url())]);
        let ids = runs(&daemon, 2).await;
        if manners != Manners::Leaves {
            eventually("an attempt", || !plane.plane.read("/result").is_empty()).await;
        }
        assert_eq!(plane.plane.taken("").len(), 0, "{manners:?}");
        plane.plane.becomes(Manners::Good);
        all_arrive(&plane.plane, &ids).await;
        plane.plane.takes("/containers/ready", 1).await;
    }
}

#[tokio::test]
async fn whatever_is_final_is_said_once_and_not_tried_again() {
    let elsewhere = Plane::new(Manners::Good).listen().await;
    let location = format!("Location: {}/stolen\r\n", elsewhere.url());
    for manners in [
        status(400),
        status(403),
        status(404),
        status(409),
        status(422),
        Manners::Status(301, location.clone()),
        Manners::Status(302, location.clone()),
        Manners::Status(307, location.clone()),
        Manners::Status(308, location.clone()),
    ] {
        let plane = Plane::new(manners.clone()).listen().await;
        let daemon = Daemon::with(&[("CONTROL_PLANE_URL", &plane.url())]);
        let id = runs(&daemon, 1).await.remove(0);
        let refusal = || {
            let log = daemon.log();
            log.matches("refused a result").count()
        };
        eventually("it is refused", || refusal() == 1).await;
        plane.plane.becomes(Manners::Good);
        // One that comes later is not held up by it, and it is not tried again meanwhile.
        let next = runs(&daemon, 1).await;
        all_arrive(&plane.plane, &next).await;
        assert_eq!(
            plane.plane.read(&format!("/{id}/result")).len(),
            1,
            "{manners:?}"
        );
        assert_eq!(refusal(), 1, "{manners:?}");
    }
    assert_eq!(elsewhere.plane.read("").len(), 0, "a redirect was followed");
}

#[tokio::test]
async fn one_that_hangs_or_is_slow_or_never_ends_holds_up_nobody() {
    let hanging = Plane::new(Manners::Hangs).listen().await;
    let daemon = Daemon::with(&[
        ("CONTROL_PLANE_URL", &hanging.url()),
        ("HEARTBEAT_INTERVAL", "1"),
    ]);
    // More than are delivered at the same time.
    runs(&daemon, 20).await;
    assert_eq!(hanging.plane.taken("").len(), 0);

    let slow = Plane::new(Manners::Slow(Duration::from_secs(1)))
        .listen()
        .await;
    let daemon = Daemon::with(&[("CONTROL_PLANE_URL", &slow.url())]);
    let ids = runs(&daemon, 8).await;
    all_arrive(&slow.plane, &ids).await;
    assert_eq!(
        slow.plane.read("/result").len(),
        ids.len(),
        "delivered twice"
    );

    let endless = Plane::new(Manners::Endless).listen().await;
    let daemon = Daemon::with(&[("CONTROL_PLANE_URL", &endless.url())]);
    let ids = runs(&daemon, 8).await;
    all_arrive(&endless.plane, &ids).await;
    assert_eq!(
        endless.plane.read("/result").len(),
        ids.len(),
        "delivered twice"
    );
}

#[tokio::test]
async fn one_that_hangs_does_not_keep_the_daemon_from_ending() {
    let plane = Plane::new(Manners::Hangs).listen().await;
    let mut daemon = Daemon::with(&[("CONTROL_PLANE_URL", &plane.url()), ("SHUTDOWN_GRACE", "1")]);
    runs(&daemon, 6).await;
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.exit().await.code(), Some(143));
    // Two seconds for results, one for the farewell.
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        daemon.log().contains("results are left"),
        "{}",
        daemon.log()
    );
}

#[tokio::test]
async fn what_ended_at_the_last_moment_is_delivered_before_the_end() {
    let plane = Plane::new(Manners::Good).listen().await;
    let mut daemon = Daemon::with(&[("CONTROL_PLANE_URL", &plane.url())]);
    let last = request(
        "shell",
        "touch begun; until [ -e release ]; do sleep 0.05; done; echo hi",
    );
    let answer = daemon.spawn(&last);
    super::support::daemon::appears(&daemon.file("begun")).await;
    daemon.signal(Signal::SIGTERM);
    daemon.health_becomes(503, &Value::from("draining")).await;
    std::fs::write(daemon.file("release"), "").unwrap();
    answer.await.unwrap().completed();
    assert_eq!(daemon.exit().await.code(), Some(143));
    let paths: Vec<_> = plane
        .plane
        .taken("")
        .into_iter()
        .map(|request| request.path)
        .collect();
    let id = last["execution_id"].as_str().unwrap();
    let index_of = |end: &str| paths.iter().position(|path| path.ends_with(end)).unwrap();
    assert!(
        index_of(&format!("/{id}/result")) < index_of("/containers/exited"),
        "{paths:?}"
    );
}
