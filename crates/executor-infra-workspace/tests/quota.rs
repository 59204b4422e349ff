//! A workspace that becomes too large is noticed while somebody writes to it; what a killed process left behind goes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use executor_application::{Condition, Overflow, SessionFiles, Workspace, Workspaces};
use executor_domain::WorkspacePath;
use executor_infra_workspace::{SessionWorkspaces, WorkspaceOptions};
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use support::{Place, eventually, owner, session};

const MIB: u64 = 1 << 20;

/// Takes so many bytes on the disk.
fn fill(run: &dyn Workspace, name: &str, bytes: u64) {
    let file = File::create(run.path().join(name)).unwrap();
    fallocate(&file, FallocateFlags::empty(), 0, bytes).unwrap();
}

/// What overflows within a time that no machine needs, if anything does.
async fn overflow(run: &dyn Workspace, max_bytes: u64) -> Overflow {
    tokio::time::timeout(Duration::from_secs(60), run.overflows(max_bytes))
        .await
        .expect("an overflow is noticed")
        .unwrap()
}

/// Watches for a while that nothing is noticed.
async fn no_overflow(run: &dyn Workspace, max_bytes: u64) {
    let noticed = tokio::time::timeout(Duration::from_millis(700), run.overflows(max_bytes)).await;
    assert!(noticed.is_err(), "{noticed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_too_much_is_noticed_while_it_is_written() {
    let place = Place::new();
    let run = place.run().await;
    fill(&*run, "half", 5 * MIB);
    no_overflow(&*run, 10 * MIB).await;
    let path = run.path().to_owned();
    let writer = std::thread::spawn(move || {
        let mut file = File::create(path.join("more")).unwrap();
        let mut written = 0;
        // Bounded, should nobody notice.
        while written < 200 * MIB && !path.join("stop").exists() {
            file.write_all(&vec![1; 1 << 20]).unwrap();
            std::thread::sleep(Duration::from_millis(2));
            written += MIB;
        }
        written
    });
    let noticed = overflow(&*run, 10 * MIB).await;
    fs::write(run.path().join("stop"), "").unwrap();
    assert!(
        matches!(noticed, Overflow::Bytes { used, .. } if used > 10 * MIB),
        "{noticed:?}"
    );
    let written = writer.join().unwrap();
    assert!(written < 200 * MIB, "{written} bytes were written");
}

#[tokio::test]
async fn too_many_files_are_noticed_links_and_directories_included() {
    let place = Place::within_files(100);
    let run = place.run().await;
    for number in 0..50 {
        fs::create_dir(run.path().join(format!(".d{number}"))).unwrap();
        std::os::unix::fs::symlink("x", run.path().join(format!("l{number}"))).unwrap();
    }
    // One watch, as a run has it: what is there when another one begins, that one would put up with.
    let mut watch = std::pin::pin!(run.overflows(MIB));
    let noticed = tokio::time::timeout(Duration::from_secs(2), &mut watch).await;
    assert!(noticed.is_err(), "{noticed:?}");
    fs::write(run.path().join("one more"), "").unwrap();
    let noticed = tokio::time::timeout(Duration::from_secs(60), watch).await;
    assert_eq!(
        noticed.expect("an overflow is noticed").unwrap(),
        Overflow::Files {
            used: 101,
            allowed: 100
        }
    );
}

#[tokio::test]
async fn a_tree_that_nobody_could_count_is_an_overflow() {
    let place = Place::new();
    let run = place.run().await;
    let mut directory = std::os::fd::OwnedFd::from(File::open(run.path()).unwrap());
    for _ in 0..200 {
        rustix::fs::mkdirat(&directory, "d", rustix::fs::Mode::RWXU).unwrap();
        directory = rustix::fs::openat(
            directory.as_fd(),
            "d",
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
    }
    let noticed = overflow(&*run, MIB).await;
    assert!(matches!(noticed, Overflow::Depth { .. }), "{noticed:?}");
}

#[tokio::test]
async fn who_filled_a_workspace_can_clean_up_and_not_go_on() {
    let place = Place::new();
    let run = place.run().await;
    let (noticed, ()) = tokio::join!(overflow(&*run, 10 * MIB), async {
        tokio::task::yield_now().await;
        fill(&*run, "full", 20 * MIB);
    });
    assert!(matches!(noticed, Overflow::Bytes { .. }), "{noticed:?}");
    drop(run);

    let run = place.run().await;
    no_overflow(&*run, 10 * MIB).await;
    let path = run.path().to_owned();
    let enough = Arc::new(AtomicBool::new(false));
    let is_enough = Arc::clone(&enough);
    // More than once: what is there before the first look counts as having been there.
    let growing = tokio::task::spawn_blocking(move || {
        for number in 0..10 {
            std::thread::sleep(Duration::from_millis(50));
            if is_enough.load(Ordering::Relaxed) {
                break;
            }
            fs::write(path.join(format!("more{number}")), vec![1; 4 << 20]).unwrap();
        }
    });
    overflow(&*run, 10 * MIB).await;
    enough.store(true, Ordering::Relaxed);
    growing.await.unwrap();
    drop(run);

    // Much too full: nothing is started in there any more.
    let run = place.run().await;
    tokio::join!(overflow(&*run, 10 * MIB), async {
        tokio::task::yield_now().await;
        fill(&*run, "much", 200 * MIB);
    });
    drop(run);
    let run = place.run().await;
    let noticed = overflow(&*run, 10 * MIB).await;
    assert!(
        matches!(noticed, Overflow::Bytes { used, .. } if used > 200 * MIB),
        "{noticed:?}"
    );
    drop(run);
    place
        .workspaces
        .remove(
            &session("s"),
            &WorkspacePath::parse("much").unwrap(),
            Condition::Always,
            false,
        )
        .await
        .unwrap();
    no_overflow(&*place.run().await, 80 * MIB).await;
}

#[tokio::test]
async fn many_short_runs_do_not_add_up_unnoticed() {
    let place = Place::new();
    let mut ended = None;
    for number in 0..60 {
        let run = place.run().await;
        let watched = tokio::time::timeout(Duration::from_millis(1), async {
            let overflow = run.overflows(10 * MIB).await;
            overflow.unwrap()
        });
        let noticed = watched.await;
        if noticed.is_ok() {
            ended = Some(number);
            break;
        }
        // Faster than anybody looks.
        fill(&*run, &format!("f{number}"), 5 * MIB);
    }
    let ended = ended.expect("the growth is noticed");
    assert!(ended < 40, "after {ended} runs");
}

/// How a process that was killed leaves a root: its locks are gone, its files are not.
fn leave_behind(root: &Path) {
    let own = root.join(".sandbox-executor");
    let theirs = own.join("staging/of-killed");
    fs::create_dir_all(theirs.join("tree-1/deep")).unwrap();
    fs::write(theirs.join("file-1"), "half").unwrap();
    fs::create_dir_all(own.join("trash/session/deep")).unwrap();
    fs::write(own.join("trash/session/deep/file"), "x").unwrap();
    fs::write(own.join("trash/file"), "x").unwrap();
}

#[tokio::test]
async fn what_a_killed_process_left_behind_is_gone_after_the_next_start() {
    let place = tempfile::tempdir().unwrap();
    let options = WorkspaceOptions {
        owner: owner(),
        ..WorkspaceOptions::default()
    };
    leave_behind(place.path());
    let own = place.path().join(".sandbox-executor");
    // Somebody who is alive keeps what is his.
    let alive = own.join("staging/of-alive");
    fs::create_dir(&alive).unwrap();
    fs::write(alive.join("file-2"), "coming").unwrap();
    let locked = File::open(&alive).unwrap();
    flock(&locked, FlockOperation::LockShared).unwrap();

    let workspaces = SessionWorkspaces::open_root(place.path(), options).unwrap();
    eventually("the trash is empty", || {
        fs::read_dir(own.join("trash")).unwrap().count() == 0
    })
    .await;
    assert!(!own.join("staging/of-killed").exists());
    assert!(alive.join("file-2").exists());
    drop(workspaces);
    drop(locked);
    drop(SessionWorkspaces::open_root(place.path(), options).unwrap());
    eventually("nothing is left", || {
        fs::read_dir(own.join("staging")).unwrap().count() == 0
            && fs::read_dir(own.join("trash")).unwrap().count() == 0
    })
    .await;
}

#[tokio::test]
async fn two_processes_share_a_root_and_respect_each_other() {
    let place = tempfile::tempdir().unwrap();
    let options = WorkspaceOptions {
        owner: owner(),
        ..WorkspaceOptions::default()
    };
    let open = || SessionWorkspaces::open_root(place.path(), options).unwrap();
    let (one, other) = (open(), open());
    let run = one.open(&session("s")).await.unwrap();
    let removed = other.remove_session(&session("s"), None).await;
    assert!(removed.is_err(), "the other one uses it");
    drop(run);
    other.remove_session(&session("s"), None).await.unwrap();
    assert!(one.sessions().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_was_planted_in_the_place_of_our_own_directory_leads_nowhere() {
    let place = tempfile::tempdir().unwrap();
    let victim = tempfile::tempdir().unwrap();
    fs::create_dir(victim.path().join("trash")).unwrap();
    fs::write(victim.path().join("trash/kept"), "k").unwrap();
    let options = WorkspaceOptions {
        owner: owner(),
        single: true,
        ..WorkspaceOptions::default()
    };
    let own = place.path().join(".sandbox-executor");
    std::os::unix::fs::symlink(victim.path(), &own).unwrap();
    drop(SessionWorkspaces::open_root(place.path(), options).unwrap());
    assert!(!fs::symlink_metadata(&own).unwrap().is_symlink());

    fs::remove_dir_all(own.join("trash")).unwrap();
    std::os::unix::fs::symlink(victim.path().join("trash"), own.join("trash")).unwrap();
    drop(SessionWorkspaces::open_root(place.path(), options).unwrap());
    assert!(victim.path().join("trash/kept").exists());
}

/// Where the root is the one workspace and the daemon the guest's own user, our directory is the guest's to remove.
#[tokio::test]
async fn what_a_guest_removes_of_ours_is_made_again() {
    let place = tempfile::tempdir().unwrap();
    let options = WorkspaceOptions {
        owner: owner(),
        single: true,
        ..WorkspaceOptions::default()
    };
    let workspaces = SessionWorkspaces::open_root(place.path(), options).unwrap();
    let s = session("s");
    let own = place.path().join(".sandbox-executor");
    for removed in ["", "staging", "trash"] {
        // Made again only by those who need it.
        let gone = || {
            let removed = own.join(removed);
            if removed.exists() {
                fs::remove_dir_all(removed).unwrap();
            }
        };
        gone();
        workspaces.check().await.unwrap();
        gone();
        let path = WorkspacePath::parse("d/f").unwrap();
        let upload = workspaces.create(&s, &path, Condition::Always, MIB).await;
        let mut upload = upload.unwrap();
        upload.write(b"hello").await.unwrap();
        upload.commit().await.unwrap();
        assert_eq!(fs::read(place.path().join("d/f")).unwrap(), b"hello");
        gone();
        let directory = WorkspacePath::parse("d").unwrap();
        workspaces
            .remove(&s, &directory, Condition::Always, true)
            .await
            .unwrap();
        assert!(!place.path().join("d").exists());
    }
}

#[tokio::test]
async fn the_only_session_is_emptied_and_stays() {
    let place = tempfile::tempdir().unwrap();
    let options = WorkspaceOptions {
        owner: owner(),
        single: true,
        ..WorkspaceOptions::default()
    };
    let workspaces = SessionWorkspaces::open_root(place.path(), options).unwrap();
    fs::create_dir_all(place.path().join("a/b")).unwrap();
    fs::write(place.path().join(".hidden"), "x").unwrap();
    assert!(workspaces.sessions().await.unwrap().is_empty());
    workspaces
        .remove_session(&session("s"), None)
        .await
        .unwrap();
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    let run = workspaces.open(&session("s")).await.unwrap();
    fs::write(run.path().join("f"), "x").unwrap();
    assert!(workspaces.describe(&session("s")).await.unwrap().bytes > 0);
}
