//! What the control plane has not got yet outlives the daemon.

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    plane::{Manners, Plane},
    support::daemon::{Answer, Daemon, appears, request},
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
    let crashed = plane
        .takes(&path_of(&id_of(&interrupted)), 1)
        .await
        .remove(0);
    assert_eq!(crashed.body["status"], "crashed");
    assert_eq!(crashed.body["exit_code"], -1);
    assert_eq!(crashed.body["return_value"], Value::Null);

    // What was delivered is not delivered again by the one after that.
    daemon.signal(Signal::SIGTERM);
    daemon.start_again();
    let last = request("shell", "echo hi");
    daemon.execute(&last).await.completed();
    plane.takes(&path_of(&id_of(&last)), 1).await;
    assert_eq!(plane.taken("/result").len(), ids.len() + 2);
}

#[tokio::test]
async fn a_damaged_result_is_an_error_of_its_own_and_the_others_are_delivered() {
    let plane = Plane::new(Manners::Good);
    let gone = plane.listen().await;
    let (address, url) = (gone.address, gone.url());
    drop(gone);
    let mut daemon = Daemon::with(&[("CONTROL_PLANE_URL", &url)]);
    let runs: Vec<Value> = (0..3).map(|_| request("shell", "echo hi")).collect();
    for run in &runs {
        daemon.execute(run).await.completed();
    }
    daemon.signal(Signal::SIGTERM);
    daemon.exit().await;
    let damaged = id_of(&runs[0]);
    let database = rusqlite::Connection::open(daemon.state().join("executions.db")).unwrap();
    let changed = database
        .execute(
            "UPDATE results SET facts = '{' WHERE number = (SELECT number FROM executions WHERE id = ?1)",
            [&damaged],
        )
        .unwrap();
    assert_eq!(changed, 1);
    drop(database);
    daemon.start_again();
    let _back = plane.listen_at(address).await;

    for run in &runs[1..] {
        plane.takes(&path_of(&id_of(run)), 1).await;
    }
    let last = request("shell", "echo hi");
    daemon.execute(&last).await.completed();
    plane.takes(&path_of(&id_of(&last)), 1).await;
    assert_eq!(plane.taken("/result").len(), runs.len());

    // Whoever asks for it is told, and everything else is as ever.
    let path = format!("/executions/{damaged}");
    for question in [daemon.get(&path), daemon.post(&runs[0])] {
        let answer = Answer::to(question).await;
        let detail = answer.refusal(500, "Executor.InternalError").to_owned();
        assert!(detail.contains("this execution is damaged"), "{detail}");
    }
    daemon.ended(&id_of(&runs[1])).await;
    let listed = Answer::to(daemon.get("/executions")).await;
    assert_eq!(
        listed.body["executions"].as_array().unwrap().len(),
        4,
        "{:#}",
        listed.body
    );
    assert_eq!(daemon.health().await.status, 200);
    daemon
        .counts(&[
            r#"sandbox_lost_reports_total{reason="unreadable"} 1"#,
            "sandbox_undelivered_reports 0",
        ])
        .await;
    let log = daemon.log();
    let said = log
        .matches("what is kept of an execution cannot be read")
        .count();
    assert_eq!(said, 1, "{log}");
    assert!(log.contains("docs/troubleshooting.md"), "{log}");
}

fn id_of(request: &Value) -> String {
    request["execution_id"].as_str().unwrap().to_owned()
}

fn path_of(id: &str) -> String {
    format!("/executions/{id}/result")
}
