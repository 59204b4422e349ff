//! What the control plane has not got yet outlives the daemon.

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    plane::{Manners, Plane},
    support::daemon::{Daemon, appears, request},
};

#[tokio::test]
async fn results_of_a_daemon_that_was_killed_are_delivered_by_the_next_one() {
    let plane = Plane::new(Manners::Good);
    let gone = plane.listen().await;
    let (address, url) = (gone.address, gone.url());
    drop(gone);
    let mut daemon = Daemon::with(&[("CONTROL_PLANE_URL", &url)]);
    let mut ids = Vec::new();
    for _ in 0..5 {
        let run = request("shell", "echo hi");
        daemon.execute(&run).await.completed();
        ids.push(id_of(&run));
    }
    let interrupted = request("shell", "touch begun; sleep 600");
    let accepted = daemon
        .post(&interrupted)
        .header("prefer", "respond-async")
        .send()
        .await
        .unwrap();
    assert_eq!(accepted.status(), 202);
    appears(&daemon.file("begun")).await;
    daemon.kill_and_start();
    let _back = plane.listen_at(address).await;

    for id in &ids {
        let result = plane.takes(&path_of(id), 1).await.remove(0);
        assert_eq!(result.body["status"], "success");
        assert_eq!(result.body["stdout"], "hi\n");
    }
    let lost = plane
        .takes(&path_of(&id_of(&interrupted)), 1)
        .await
        .remove(0);
    assert_eq!(lost.body["status"], "crashed");
    assert_eq!(lost.body["exit_code"], -1);
    assert_eq!(lost.body["return_value"], Value::Null);

    // What was delivered is not delivered again by the one after that.
    daemon.signal(Signal::SIGTERM);
    daemon.start_again();
    let last = request("shell", "echo hi");
    daemon.execute(&last).await.completed();
    plane.takes(&path_of(&id_of(&last)), 1).await;
    assert_eq!(plane.taken("/result").len(), ids.len() + 2);
}

fn id_of(request: &Value) -> String {
    request["execution_id"].as_str().unwrap().to_owned()
}

fn path_of(id: &str) -> String {
    format!("/executions/{id}/result")
}
