//! The daemon and the reference control plane, over the wire.

use std::{fs, time::Duration};

use nix::sys::signal::Signal;
use reqwest::Client;
use sandbox_control_plane::{Access, ControlPlane, ControlPlaneOptions, Store, serve};
use serde_json::Value;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use super::support::{
    daemon::{Daemon, appears, request},
    eventually,
};

const TOKEN: &str = "hunter2-hunter2";

struct Reference {
    url: String,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Reference {
    async fn start(lost_after: Duration) -> Self {
        let options = ControlPlaneOptions {
            access: Access::token(TOKEN),
            lost_after,
            ..ControlPlaneOptions::default()
        };
        let plane = ControlPlane::new(Store::in_memory().unwrap(), options);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve(listener, plane, async {
            let _ = stopped.await;
        }));
        Self { url, stop, served }
    }

    async fn text(&self, path: &str) -> String {
        let client = Client::builder().no_proxy().build().unwrap();
        let get = client.get(format!("{}{path}", self.url)).bearer_auth(TOKEN);
        let response = get.send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {response:?}");
        response.text().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.text(path).await).unwrap()
    }

    /// Waits until the newest execution has this status.
    async fn shows(&self, status: &str) -> Value {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let list = self.json("/api/v1/executions").await;
            if list["items"][0]["status"] == status {
                return list["items"][0].clone();
            }
            assert!(tokio::time::Instant::now() < deadline, "{list:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stop(self) {
        drop(self.stop);
        self.served.await.unwrap();
    }
}

fn daemon(reference: &Reference) -> Daemon {
    Daemon::with(&[
        ("CONTROL_PLANE_URL", &reference.url),
        ("INTERNAL_API_TOKEN", TOKEN),
        ("EXECUTOR_REQUIRE_AUTH", "false"),
        ("CONTAINER_ID", "container-1"),
        ("HEARTBEAT_INTERVAL", "1"),
    ])
}

#[tokio::test]
async fn it_shows_what_runs_and_what_it_came_to() {
    let reference = Reference::start(Duration::from_secs(15)).await;
    let mut daemon = daemon(&reference);
    let run = request(
        "shell",
        "touch begun; until [ -e release ]; do sleep 0.05; done; echo '<script>alert(1)</script>'",
    );
    let answer = daemon.spawn(&run);
    appears(&daemon.file("begun")).await;
    reference.shows("running").await;
    fs::write(daemon.file("release"), "").unwrap();
    answer.await.unwrap().completed();
    let shown = reference.shows("success").await;
    assert_eq!(shown["execution_id"], run["execution_id"]);
    assert!(shown["heartbeats"].as_i64().unwrap() >= 1);
    let path = format!(
        "/api/v1/executions/{}",
        run["execution_id"].as_str().unwrap()
    );
    let whole = reference.json(&path).await;
    assert_eq!(whole["result"]["stdout"], "<script>alert(1)</script>\n");
    let page = reference.text("/").await;
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && !page.contains("<script"));

    let containers = reference.json("/api/v1/containers").await;
    assert_eq!(containers["items"][0]["container_id"], "container-1");
    assert_eq!(containers["items"][0]["state"], "ready");
    daemon.signal(Signal::SIGTERM);
    daemon.exit().await;
    let containers = reference.json("/api/v1/containers").await;
    assert_eq!(containers["items"][0]["state"], "exited");
    assert_eq!(containers["items"][0]["exit_code"], 143);
    assert_eq!(containers["items"][0]["exit_reason"], "sigterm");
    reference.stop().await;
}

#[tokio::test]
async fn a_run_whose_daemon_died_is_lost_after_a_while() {
    let reference = Reference::start(Duration::from_secs(6)).await;
    let mut daemon = daemon(&reference);
    let run = request("shell", "touch begun; sleep 60");
    let answer = tokio::spawn(daemon.post(&run).send());
    appears(&daemon.file("begun")).await;
    let seen = reference.shows("running").await;
    // With heartbeats it stays what it is for longer than it would take to be lost.
    let beats = seen["heartbeats"].as_i64().unwrap() + 8;
    let mut now = seen;
    while now["heartbeats"].as_i64().unwrap() < beats {
        now = reference.shows("running").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    daemon.signal(Signal::SIGKILL);
    daemon.exit().await;
    reference.shows("lost").await;
    assert!(answer.await.unwrap().is_err());
    reference.stop().await;
}

#[tokio::test]
async fn a_wrong_token_is_no_reason_to_lose_a_result() {
    let reference = Reference::start(Duration::from_secs(15)).await;
    let daemon = Daemon::with(&[
        ("CONTROL_PLANE_URL", &reference.url),
        ("INTERNAL_API_TOKEN", "another"),
        ("EXECUTOR_REQUIRE_AUTH", "false"),
    ]);
    daemon.execute(&request("shell", "true")).await.completed();
    eventually("it says so", || daemon.log().contains("401")).await;
    // Tried again, and not given up as something that will never be taken.
    assert!(
        !daemon.log().contains("refused a result for good"),
        "{}",
        daemon.log()
    );
    let list = reference.json("/api/v1/executions").await;
    assert_eq!(list["items"], serde_json::json!([]));
    reference.stop().await;
}
