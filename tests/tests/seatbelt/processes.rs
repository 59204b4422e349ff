//! Who of a run is alive when it is over: nobody, where there is no namespace that would see to it.

use std::{fs, time::Duration};

use executor_application::{CancellationToken, Sandbox};
use executor_domain::{Ending, Language};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::support::{
    Workspace, alive,
    daemon::{alive_becomes, marker},
    eventually, job, run,
    seatbelt::{gap, seatbelt},
};

/// A guest that starts `sleep` in a session of its own, and then does this.
fn starts_a_session(marker: &str, then: &str) -> String {
    format!(
        "import subprocess, sys, time\ndef handler(event):\n    \
         subprocess.Popen(['sleep', '{marker}'], start_new_session=True)\n    {then}\n"
    )
}

#[tokio::test]
async fn a_child_in_the_background_dies_with_its_run() {
    let (_tool, sandbox) = seatbelt().await;
    let workspace = Workspace::new();
    let marker = marker();
    // An orphan, and one in a process group of its own.
    let code = format!("(sleep {marker} &) ; set -m; sleep {marker} & echo started");
    let outcome = run(&sandbox, job(Language::Shell, &code, &workspace)).await;
    assert!(
        matches!(outcome.ending, Ending::Completed { .. }),
        "{outcome:?}"
    );
    assert_eq!(alive(&marker), [0; 0]);
}

#[tokio::test]
async fn a_child_in_a_session_of_its_own_dies_when_its_run_is_ended() {
    let (_tool, sandbox) = seatbelt().await;
    let workspace = Workspace::new();
    let marker = marker();
    let code = starts_a_session(&marker, "time.sleep(100000)");
    let cancel = CancellationToken::new();
    let running = sandbox.run(job(Language::Python, &code, &workspace), cancel.clone());
    let (outcome, ()) = tokio::join!(running, async {
        alive_becomes(&marker, 1).await;
        cancel.cancel();
    });
    assert_eq!(outcome.unwrap().ending, Ending::Cancelled);
    assert_eq!(alive(&marker), [0; 0]);
}

#[tokio::test]
async fn a_child_that_was_seen_dies_though_nothing_ties_it_to_its_run_any_more() {
    let (_tool, sandbox) = seatbelt().await;
    let workspace = Workspace::new();
    let marker = marker();
    // Long enough for some looks.
    let code = starts_a_session(&marker, "time.sleep(2)");
    let outcome = run(&sandbox, job(Language::Python, &code, &workspace)).await;
    assert!(
        matches!(outcome.ending, Ending::Completed { .. }),
        "{outcome:?}"
    );
    assert_eq!(alive(&marker), [0; 0]);
}

/// The gap: should this fail because nobody is left alive, the gap is closed, and its line in the list goes.
#[tokio::test]
async fn a_child_that_leaves_at_once_outlives_its_run() {
    gap("pid_namespace", "escape");
    let (_tool, sandbox) = seatbelt().await;
    let workspace = Workspace::new();
    let marker = marker();
    // Ends in the moment in which the child has left.
    let code = format!(
        "import os\ndef handler(event):\n    started, tell = os.pipe()\n    if os.fork() == 0:\n        os.setsid()\n        \
         if os.fork() == 0:\n            os.write(tell, b'x')\n            for number in range(5): os.close(number)\n            \
         os.execv('/bin/sleep', ['sleep', '{marker}'])\n        os._exit(0)\n    os.read(started, 1)\n"
    );
    let outcome = run(&sandbox, job(Language::Python, &code, &workspace)).await;
    assert!(
        matches!(outcome.ending, Ending::Completed { .. }),
        "{outcome:?}"
    );
    alive_becomes(&marker, 1).await;
    for pid in alive(&marker) {
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
    }
    eventually("it is gone", || alive(&marker).is_empty()).await;
}

/// The parent of a process.
fn parent_of(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1;
    fields.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_guest_dies_with_its_keeper() {
    let (_tool, sandbox) = seatbelt().await;
    let workspace = Workspace::new();
    let marker = marker();
    let running = sandbox.run(
        job(Language::Shell, &format!("sleep {marker}"), &workspace),
        CancellationToken::new(),
    );
    let (outcome, ()) = tokio::join!(running, async {
        alive_becomes(&marker, 1).await;
        // sleep, its shell, the keeper.
        let keeper = parent_of(parent_of(alive(&marker)[0]));
        let words = fs::read_to_string(format!("/proc/{keeper}/cmdline")).unwrap();
        assert!(words.contains("sandbox-executor:keeper"), "{words}");
        kill(Pid::from_raw(keeper.cast_signed()), Signal::SIGKILL).unwrap();
    });
    assert!(matches!(outcome.unwrap().ending, Ending::Crashed(_)));
    assert_eq!(alive(&marker), [0; 0]);
}

#[tokio::test]
async fn a_guest_dies_when_nobody_waits_for_it() {
    let (_tool, sandbox) = seatbelt().await;
    let workspace = Workspace::new();
    let marker = marker();
    let code = format!("sleep {marker}");
    let running = sandbox.run(
        job(Language::Shell, &code, &workspace),
        CancellationToken::new(),
    );
    tokio::select! {
        _ = running => panic!("it ended"),
        () = alive_becomes(&marker, 1) => {}
    }
    eventually("the guest is gone", || alive(&marker).is_empty()).await;
}

/// All that a daemon leaves behind that is killed: sockets that the kernel closes.
#[test]
fn a_guest_dies_with_the_daemon() {
    let marker = marker();
    let workspace = Workspace::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_tool, sandbox) = runtime.block_on(seatbelt());
    let job = job(Language::Shell, &format!("sleep {marker}"), &workspace);
    let waited_for = marker.clone();
    let running = runtime.spawn(async move {
        let _ = sandbox.run(job, CancellationToken::new()).await;
    });
    runtime.block_on(alive_becomes(&waited_for, 1));
    // Nothing is polled any more, and nothing cancelled: what it held is dropped.
    runtime.shutdown_timeout(Duration::ZERO);
    drop(running);
    let another = tokio::runtime::Runtime::new().unwrap();
    another.block_on(eventually("the guest is gone", || {
        alive(&marker).is_empty()
    }));
}
