//! Session directories: who may enter them, and what happens to what was there before.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::{
    error::Error,
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    sync::Arc,
};

use executor_application::Workspaces;
use executor_infra_workspace::{Owner, SessionWorkspaces, WorkspaceOptions};
use support::{Place, guest, is_root, owner, session};

fn options() -> WorkspaceOptions {
    WorkspaceOptions {
        owner: owner(),
        ..WorkspaceOptions::default()
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// Everything that an error says, from what we were doing to why it failed.
fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// What is in a root beside the daemon's own directory.
fn visible(root: &Path) -> usize {
    fs::read_dir(root)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name() != ".sandbox-executor")
        .count()
}

#[tokio::test]
async fn a_missing_root_is_made_and_lets_guests_pass_through() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("a/b");
    let workspaces = SessionWorkspaces::open_root(&root, options()).unwrap();
    let expected = if is_root() { 0o711 } else { 0o700 };
    assert_eq!(mode(&root), expected);
    assert_eq!(mode(&place.path().join("a")), expected);
    assert_eq!(visible(&root), 0);
    assert_eq!(workspaces.root(), root.canonicalize().unwrap());
}

#[tokio::test]
async fn an_existing_root_keeps_its_permissions() {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let owned_by = fs::metadata(place.path()).unwrap().uid();
    SessionWorkspaces::open_root(place.path(), options()).unwrap();
    assert_eq!(mode(place.path()), 0o755);
    assert_eq!(fs::metadata(place.path()).unwrap().uid(), owned_by);
}

#[test]
fn a_root_that_cannot_be_is_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    fs::write(&file, "").unwrap();
    for root in [file.clone(), file.join("below")] {
        let error = SessionWorkspaces::open_root(&root, options()).unwrap_err();
        let text = chain(&error);
        assert!(text.contains(root.to_str().unwrap()), "{text}");
        assert!(text.contains("workspace root"), "{text}");
    }
}

#[test]
fn a_user_that_files_cannot_be_given_to_is_refused_at_the_start() {
    let place = tempfile::tempdir().unwrap();
    let stranger = WorkspaceOptions {
        owner: Some(Owner { uid: 3, gid: 3 }),
        ..options()
    };
    let opened = SessionWorkspaces::open_root(place.path(), stranger);
    assert_eq!(opened.is_ok(), is_root(), "{opened:?}");
    assert_eq!(visible(place.path()), 0);
}

#[tokio::test]
async fn a_session_belongs_to_the_guest_alone() {
    let place = Place::new();
    let run = place.workspaces.open(&session("new")).await.unwrap();
    assert_eq!(run.path(), place.workspaces.root().join("new"));
    let metadata = fs::symlink_metadata(run.path()).unwrap();
    assert!(metadata.is_dir());
    assert_eq!(metadata.uid(), guest());
    assert_eq!(mode(run.path()), 0o700);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_runs_may_begin_a_session_at_once() {
    let place = Place::new();
    let workspaces = Arc::new(place.workspaces);
    for round in 0..20 {
        let id = session(&format!("round-{round}"));
        let opening: Vec<_> = (0..16)
            .map(|_| {
                let (workspaces, id) = (Arc::clone(&workspaces), id.clone());
                tokio::spawn(async move { workspaces.open(&id).await.map(|_| ()) })
            })
            .collect();
        for opened in opening {
            opened.await.unwrap().unwrap();
        }
        let path = workspaces.root().join(id.as_str());
        assert_eq!(fs::metadata(&path).unwrap().uid(), guest());
        assert_eq!(mode(&path), 0o700);
    }
}

#[tokio::test]
async fn what_was_planted_in_the_place_of_a_session_is_refused_and_left_alone() {
    let place = Place::new();
    let victim = place.outside().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::set_permissions(&victim, Permissions::from_mode(0o755)).unwrap();
    let owned_by = fs::metadata(&victim).unwrap().uid();
    let root = place.workspaces.root();
    symlink(&victim, root.join("link")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    fs::write(root.join("file"), "kept").unwrap();

    for planted in ["link", "dangling", "file"] {
        let opened = place.workspaces.open(&session(planted)).await;
        assert!(opened.is_err(), "{planted}");
    }
    assert_eq!(mode(&victim), 0o755);
    assert_eq!(fs::metadata(&victim).unwrap().uid(), owned_by);
    assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "kept");
}

#[tokio::test]
async fn a_directory_of_a_stranger_is_refused() {
    let place = Place::new();
    let theirs = place.workspaces.root().join("theirs");
    fs::create_dir(&theirs).unwrap();
    // Who cannot make a directory of somebody else's cannot plant one either: then it stays his own and is fine.
    let given = std::os::unix::fs::chown(&theirs, Some(3), Some(3));
    assert_eq!(given.is_ok(), is_root());
    let opened = place.workspaces.open(&session("theirs")).await;
    if is_root() {
        let text = chain(&opened.map(|_| ()).unwrap_err());
        assert!(text.contains("belongs to uid 3"), "{text}");
        assert_eq!(fs::metadata(&theirs).unwrap().uid(), 3);
    } else {
        assert!(opened.is_ok());
    }
}

#[tokio::test]
async fn a_session_is_private_again_at_its_next_run() {
    let place = Place::new();
    let path = place.run().await.path().to_owned();
    fs::write(path.join("file"), "x").unwrap();
    for spoilt in [0o000, 0o777, 0o500] {
        fs::set_permissions(&path, Permissions::from_mode(spoilt)).unwrap();
        let run = place.run().await;
        assert_eq!(mode(&path), 0o700, "{spoilt:o}");
        fs::write(run.path().join("file"), "y").unwrap();
        assert_eq!(run.changes().await.unwrap().files.len(), 1);
    }
}

#[tokio::test]
async fn a_daemon_of_one_session_has_its_root_for_a_workspace() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("brought-along"), "x").unwrap();
    let single = WorkspaceOptions {
        single: true,
        ..options()
    };
    let workspaces = SessionWorkspaces::open_root(place.path(), single).unwrap();
    let run = workspaces.open(&session("s")).await.unwrap();
    assert_eq!(run.path(), workspaces.root());
    assert_eq!(fs::metadata(run.path()).unwrap().uid(), guest());
    assert!(!place.path().join("s").exists());
    fs::write(run.path().join("made"), "x").unwrap();
    let found = run.changes().await.unwrap();
    assert!(found.files.iter().any(|file| file.path == "made"));
    workspaces.check().await.unwrap();
}

#[tokio::test]
async fn the_check_writes_leaves_nothing_and_notices_a_lost_root() {
    let place = Place::new();
    let root = place.workspaces.root().to_owned();
    place.workspaces.check().await.unwrap();
    assert_eq!(visible(&root), 0);

    fs::remove_dir_all(&root).unwrap();
    let text = chain(&place.workspaces.check().await.unwrap_err());
    assert!(text.contains(root.to_str().unwrap()), "{text}");
    // Not made anew elsewhere, unseen: what runs there would write to a directory that nobody opened.
    assert!(!root.exists());
}

#[tokio::test]
async fn a_temporary_root_goes_with_its_last_user() {
    let workspaces = SessionWorkspaces::temporary(options()).unwrap();
    let root = workspaces.root().to_owned();
    assert_eq!(mode(&root), if is_root() { 0o711 } else { 0o700 });
    let run = workspaces.open(&session("s")).await.unwrap();
    let shut = run.path().join("a/b");
    fs::create_dir_all(&shut).unwrap();
    fs::write(shut.join("file"), "x").unwrap();
    symlink("/etc", shut.join("link")).unwrap();
    for directory in [shut.as_path(), &run.path().join("a"), run.path()] {
        if let Some(owner) = owner() {
            std::os::unix::fs::chown(directory, Some(owner.uid), Some(owner.gid)).unwrap();
        }
        fs::set_permissions(directory, Permissions::from_mode(0o000)).unwrap();
    }

    drop(workspaces);
    assert!(root.exists());
    drop(run);
    assert!(!root.exists());
    assert!(Path::new("/etc").exists());
}

#[tokio::test]
async fn temporary_roots_of_killed_processes_go_with_the_next_one() {
    use rustix::fs::{FlockOperation, flock};

    let place = Path::new("/tmp");
    let made = |suffix: &str| {
        let path = place.join(format!("sandbox-executor-run-{suffix}"));
        fs::create_dir_all(path.join("s/deep")).unwrap();
        path
    };
    let unique = format!("{:08x}", std::process::id());
    let abandoned = made(&format!("{unique}00000001"));
    let used = made(&format!("{unique}00000002"));
    let lock = fs::File::open(&used).unwrap();
    flock(&lock, FlockOperation::LockShared).unwrap();
    let somebodys = made(&format!("{unique}-notes"));

    let workspaces = SessionWorkspaces::temporary(options()).unwrap();
    let root = workspaces.root().to_owned();
    assert!(!abandoned.exists());
    assert!(used.join("s/deep").exists());
    assert!(somebodys.join("s/deep").exists());
    // One that is used by ourselves stays as well.
    drop(SessionWorkspaces::temporary(options()).unwrap());
    assert!(root.exists());
    drop(workspaces);
    for left in [used, somebodys] {
        fs::remove_dir_all(left).unwrap();
    }
}
