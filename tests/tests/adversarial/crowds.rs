//! More requests than there are places.

use serde_json::json;
use tokio::task::JoinSet;

use super::{
    support::{
        daemon::{appears, request, request_with},
        raw::Raw,
    },
    watched::{Watched, posted},
};

const REQUESTS: usize = 10_000;
const CONNECTIONS: usize = 50;

#[tokio::test]
async fn ten_thousand_requests_against_a_full_queue_are_told_to_come_back() {
    let watched = Watched::with(&[
        ("MAX_CONCURRENT_EXECUTIONS", "1"),
        ("MAX_QUEUED_EXECUTIONS", "2"),
    ])
    .await;
    let daemon = &watched.daemon;
    let held = "touch begun; until [ -e release ]; do sleep 0.02; done";
    let mut places = Vec::new();
    for _ in 0..3 {
        let later = json!({"timeout": 600});
        let body = request_with("shell", held, later);
        let mut connection = Raw::to(daemon).await;
        connection.send(&posted(&body.to_string())).await;
        places.push(connection);
    }
    appears(&daemon.file("begun")).await;
    // The other two wait by the time that somebody else is refused.
    loop {
        let answer = watched.execute(&request("shell", "true")).await;
        if answer.status == 429 {
            break;
        }
    }

    let mut crowd = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let address = daemon.address().to_owned();
        crowd.spawn(async move {
            let mut connection = Raw::connect(&address).await;
            for _ in 0..REQUESTS / CONNECTIONS {
                let body = request("shell", "true").to_string();
                connection.send(&posted(&body)).await;
                let answer = connection.answer().await.unwrap();
                assert_eq!(answer.status, 429, "{}", answer.head);
                let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
                assert!(after >= 1);
            }
        });
    }
    crowd.join_all().await;

    std::fs::write(daemon.file("release"), "").unwrap();
    for mut place in places {
        assert_eq!(place.answer().await.unwrap().status, 200);
    }
    watched.is_as_before().await;
}
