//! Reading along: every stage and every byte once, in order, from wherever a reader begins.

use super::*;
use crate::{ExecutionEvent, OutputStream};

/// Reads on to the end: the words of the events, and how far the reader had come before each.
async fn read(mut events: Events) -> Vec<(String, Position)> {
    let mut read = Vec::new();
    loop {
        let position = events.position();
        let Some(event) = events.next().await else {
            return read;
        };
        let words = match event {
            ExecutionEvent::Status(status) => status.as_str().to_owned(),
            ExecutionEvent::Output { stream, bytes } => {
                format!("{stream:?} {}", String::from_utf8_lossy(&bytes).trim_end())
            }
            ExecutionEvent::Truncated { stream } => format!("{stream:?} cut"),
            ExecutionEvent::Ended(execution) => format!("ended {}", execution.status().as_str()),
        };
        read.push((words, position));
    }
}

fn words(read: &[(String, Position)]) -> Vec<&str> {
    read.iter().map(|(words, _)| words.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn events_come_while_the_guest_writes_and_can_be_read_again_from_anywhere() {
    const CODE: &str = "echo one\nsleep 1000\nwarn two\nsleep 1000\necho three";
    let (executor, _) = executor(Options::default());
    let submission = executor.submit(command("e", CODE)).await.unwrap();
    let mut live = submission.events(Position::default());
    assert_eq!(
        live.next().await,
        Some(ExecutionEvent::Status(Status::Pending))
    );
    assert_eq!(
        live.next().await,
        Some(ExecutionEvent::Status(Status::Running))
    );
    assert_eq!(
        live.next().await,
        Some(ExecutionEvent::Output {
            stream: OutputStream::Stdout,
            bytes: b"one\n".to_vec()
        })
    );
    assert!(live.execution().outcome().is_none(), "it still runs");
    assert_eq!(
        live.next().await,
        Some(ExecutionEvent::Output {
            stream: OutputStream::Stderr,
            bytes: b"two\n".to_vec()
        })
    );
    assert!(live.execution().outcome().is_none(), "it still runs");
    let live = read(live).await;
    assert_eq!(words(&live), ["Stdout three", "ended completed"]);
    drop(submission);
    comes_again(&executor, &live).await;
    assert!(
        executor
            .events(&id("other"), Position::default())
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_holds_nobody_up() {
    let (executor, _) = executor(Options::default());
    let submission = executor
        .submit(command("e", "flood 1000000\nreturn 1"))
        .await
        .unwrap();
    let sleeper = submission.events(Position::default());
    assert_eq!(
        submission.finished().await.unwrap().status(),
        Status::Completed
    );
    let mut read = 0;
    let mut events = sleeper;
    while let Some(event) = events.next().await {
        if let ExecutionEvent::Output { bytes, .. } = event {
            read += bytes.len();
        }
    }
    assert_eq!(read, 1_000_000);
}

/// From any place that a reader had come to, the rest comes again: also once it has ended.
async fn comes_again(executor: &ExecuteCode, live: &[(String, Position)]) {
    for (skip, (_, position)) in live.iter().enumerate() {
        let events = executor.events(&id("e"), *position).await.unwrap().unwrap();
        let mut again = read(events).await;
        let mut expected = live[skip..].to_vec();
        // The order between the streams is not part of a result.
        again.sort_by(|a, b| a.0.cmp(&b.0));
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(words(&again), words(&expected), "from {position:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_stage_is_told_however_short_it_was_and_whenever_it_is_read() {
    let (executor, _) = executor(capacity(1, 10));
    let submission = executor.submit(command("e", "return 1")).await.unwrap();
    let live = submission.events(Position::default());
    // Nobody reads before it is over.
    submission.finished().await.unwrap();
    let again = executor.events(&id("e"), Position::default()).await;
    for events in [live, again.unwrap().unwrap()] {
        let read = read(events).await;
        assert_eq!(words(&read), ["pending", "running", "ended completed"]);
    }

    // What never ran is never said to run.
    let _busy = executor.submit(command("busy", "sleep 1000")).await;
    let waiting = executor.submit(command("w", "return 1")).await.unwrap();
    let live = waiting.events(Position::default());
    executor.cancel(&id("w")).await.unwrap();
    assert_eq!(words(&read(live).await), ["pending", "ended cancelled"]);
}

#[tokio::test(start_paused = true)]
async fn that_a_stream_was_cut_is_told_once_in_its_place_and_not_to_whoever_knows() {
    let policy = LimitPolicy::new(LimitCeilings {
        max_output_bytes: 1024,
        ..LimitCeilings::default()
    });
    let (executor, _) = executor(Options {
        policy: policy.unwrap(),
        ..Options::default()
    });
    let code = "echo a\nflood 1021\nwarn x\nsleep 1\nflood 1\nflood 5\necho z\nreturn 1";
    let submission = executor.submit(command("e", code)).await.unwrap();
    let live = read(submission.events(Position::default())).await;
    let flood = format!("Stdout a\n{}", "x".repeat(1021));
    let expected = [
        "pending",
        "running",
        &flood,
        "Stderr x",
        "Stdout x",
        "Stdout cut",
        "ended completed",
    ];
    assert_eq!(words(&live), expected);
    let outcome = submission.finished().await.unwrap();
    let outcome = outcome.outcome().unwrap();
    assert_eq!(outcome.stdout.truncated_bytes, 5 + 2);
    assert_eq!(outcome.stderr.truncated_bytes, 0);
    // Stages have no place of their own: they come again until there was output.
    comes_again(&executor, &live[3..]).await;
}
