//! Every way out of a run: when the answer is there, nobody of the guest is.

use std::{fs, process::Stdio};

use executor_application::{CancellationToken, Job, Sandbox};
use executor_domain::{Clock, CrashCause, Ending, Language, LimitHit};
use serde_json::json;

use crate::{
    alone,
    support::{Workspace, alive, eventually},
    world::{
        Guest, PROMPT, assert_completed, assert_dead, assert_returned, assert_works, block_on,
        guest, hit, marked, marker, run, run_while, sandbox, with_event, with_limits,
    },
};

/// They ignore signals, change their session, and leave children behind that lose their parents.
const STAYERS: [Guest; 3] = [
    guest!(python "stay"),
    guest!(node "stay"),
    guest!(shell "stay"),
];

/// A stayer that sleeps, or returns and leaves the rest to its children.
fn stayer(guest: Guest, then: &str, workspace: &Workspace) -> (String, Job) {
    marked(with_event(&json!({"then": then}), guest.script(workspace)))
}

#[test]
fn nobody_outlives_a_return() {
    for guest in STAYERS {
        let workspace = Workspace::new();
        let (marker, job) = stayer(guest, "return", &workspace);
        let outcome = run(job);
        assert_dead(&marker);
        assert_completed(&outcome);
    }
}

/// It takes a while to kill many, and nobody is told before it is over.
#[test]
fn nobody_of_many_outlives_a_return() {
    for _ in 0..5 {
        let workspace = Workspace::new();
        let (marker, job) = marked(guest!(shell "leave_many").script(&workspace));
        let outcome = run(job);
        assert_dead(&marker);
        assert_completed(&outcome);
    }
}

#[test]
fn nobody_outlives_a_timeout() {
    for guest in STAYERS {
        let workspace = Workspace::new();
        let (marker, job) = stayer(guest, "sleep", &workspace);
        let outcome = run(with_limits(|wish| wish.max_wall_time_ms = Some(500), job));
        assert_dead(&marker);
        assert!(
            matches!(
                outcome.ending,
                Ending::TimedOut {
                    clock: Clock::Wall,
                    ..
                }
            ),
            "{outcome:?}"
        );
        assert!(hit(&outcome, LimitHit::WallTime));
        assert!(outcome.usage.wall_time < PROMPT);
    }
}

#[test]
fn nobody_outlives_a_cancellation() {
    for guest in STAYERS {
        let workspace = Workspace::new();
        let (marker, job) = stayer(guest, "sleep", &workspace);
        let outcome = run_while(job, async || {
            // The guest, and at least one who means to stay.
            eventually("they are up", || alive(&marker).len() >= 2).await;
        });
        assert_dead(&marker);
        assert_eq!(outcome.ending, Ending::Cancelled);
    }
}

#[test]
fn nobody_outlives_a_caller_who_has_gone() {
    for guest in STAYERS {
        let workspace = Workspace::new();
        let (marker, job) = stayer(guest, "sleep", &workspace);
        block_on(async {
            {
                let running = sandbox().run(job, CancellationToken::new());
                tokio::select! {
                    outcome = running => panic!("{outcome:?}"),
                    () = eventually("they are up", || alive(&marker).len() >= 2) => {}
                }
            }
            eventually("they are dead", || alive(&marker).is_empty()).await;
        });
    }
    assert_works();
}

/// Not even time to say goodbye.
#[test]
fn nobody_outlives_a_killed_daemon() {
    if alone::is_alone() {
        let workspace = Workspace::new();
        let (_, job) = stayer(guest!(python "stay"), "sleep", &workspace);
        run(job);
        return;
    }
    let temporary = Workspace::new();
    let mut daemon = alone::command("ends::nobody_outlives_a_killed_daemon", "")
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // Where it keeps its only workspace, after which its guest is called.
    let workspace = || {
        let mut entries = fs::read_dir(temporary.path()).unwrap();
        entries.next().map(|entry| entry.unwrap().path())
    };
    let everybody = || workspace().map_or(vec![], |path| alive(&marker(&path)));
    block_on(eventually("they are up", || everybody().len() >= 2));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    block_on(eventually("they are dead", || everybody().is_empty()));
}

#[test]
fn a_child_that_holds_the_pipes_holds_no_answer() {
    for (guest, answer) in [
        (guest!(python "leave_a_child"), r#""done""#),
        (guest!(node "leave_a_child"), r#""done""#),
        (guest!(shell "leave_a_child"), "null"),
    ] {
        let workspace = Workspace::new();
        let (marker, job) = marked(guest.handler(&workspace));
        let outcome = run(job);
        assert_dead(&marker);
        assert_returned(&outcome, answer);
        assert!(outcome.usage.wall_time < PROMPT);
    }
}

/// Whoever closes all streams is not dead, and is not forgotten.
#[test]
fn silence_is_no_end() {
    for guest in [
        guest!(python "close_everything"),
        guest!(shell "close_everything"),
    ] {
        let workspace = Workspace::new();
        let event = json!({"then": "sleep"});
        let (marker, job) = marked(with_event(&event, guest.handler(&workspace)));
        let outcome = run(with_limits(|wish| wish.max_wall_time_ms = Some(500), job));
        assert_dead(&marker);
        assert!(
            matches!(
                outcome.ending,
                Ending::TimedOut {
                    clock: Clock::Wall,
                    ..
                }
            ),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_guest_that_sends_itself_the_signal_of_a_limit_has_not_hit_it() {
    let workspace = Workspace::new();
    let outcome = run(crate::support::job(
        Language::Shell,
        "kill -XCPU $$",
        &workspace,
    ));
    assert!(
        matches!(outcome.ending, Ending::Crashed(CrashCause::Signal(_))),
        "{outcome:?}"
    );
    assert!(!hit(&outcome, LimitHit::CpuTime));
}
