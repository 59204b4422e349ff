//! A daemon that is killed while files change.

use std::{fs, path::Path, time::Duration};

use reqwest::Method;
use tokio::task::JoinSet;

use super::support::{
    daemon::{Daemon, passable_directory},
    eventually,
};

/// Kills of a daemon that is being asked for everything that changes files.
const KILLS: usize = PAUSES.len();

/// How long it is asked before, in microseconds.
const PAUSES: [u32; 12] = [
    100, 1_500, 4_000, 9_000, 15_000, 23_000, 34_000, 48_000, 65_000, 86_000, 112_000, 145_000,
];

/// A tar archive of 200 files, as `tar` makes it.
fn archive(letter: char) -> Vec<u8> {
    let place = tempfile::tempdir().unwrap();
    for file in 0..200 {
        fs::write(place.path().join(format!("f{file}")), letter.to_string()).unwrap();
    }
    let made = std::process::Command::new("tar")
        .args(["-cf", "-", "-C"])
        .arg(place.path())
        .arg(".")
        .output()
        .unwrap();
    assert!(made.status.success());
    made.stdout
}

fn names(directory: &Path) -> Vec<String> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_point_leaves_no_half_a_file_and_no_directory_of_nobody() {
    const LARGE: usize = 3 << 20;
    let root = passable_directory();
    let workspaces = root.path().join("ws");
    let mut daemon = Daemon::with(&[("WORKSPACE_PATH", workspaces.to_str().unwrap())]);
    let archives = ['a', 'b'].map(archive);
    let mut answered = 0;
    for kill in 0..KILLS {
        let letter = if kill % 2 == 0 { b'a' } else { b'b' };
        let mut sent = JoinSet::new();
        for round in 0..4 {
            let put = |path: &str, body: Vec<u8>| daemon.request(Method::PUT, path).body(body);
            let archive = archives[kill % 2].clone();
            let made = format!("/sessions/made-{kill}-{round}/files/f");
            let gone = format!("/sessions/made-{}-{round}", kill.saturating_sub(1));
            for request in [
                put("/sessions/kept/files/large", vec![letter; LARGE]),
                put("/sessions/kept/files/tree?archive=tar", archive),
                put(&made, b"x".to_vec()),
                daemon.request(Method::DELETE, &gone),
            ] {
                sent.spawn(async move { request.send().await.is_ok() });
            }
        }
        // At another point each time, from the first byte to the last.
        tokio::time::sleep(Duration::from_micros(u64::from(PAUSES[kill]))).await;
        daemon.kill_and_start();
        while let Some(done) = sent.join_next().await {
            answered += usize::from(done.unwrap());
        }

        // Whole, as it was or as it was to be.
        let kept = workspaces.join("kept");
        if let Ok(large) = fs::read(kept.join("large")) {
            assert_eq!(large.len(), LARGE, "kill {kill}");
            assert!(large.iter().all(|byte| *byte == large[0]), "kill {kill}");
        }
        for name in fs::read_dir(kept.join("tree")).into_iter().flatten() {
            let content = fs::read(name.unwrap().path()).unwrap();
            assert!(
                matches!(&content[..], b"a" | b"b"),
                "kill {kill}: {content:?}"
            );
        }
        let own = workspaces.join(".sandbox-executor");
        eventually("nothing is left of the one that was killed", || {
            names(&own.join("trash")).is_empty()
                && names(&own.join("staging"))
                    .iter()
                    .all(|process| names(&own.join("staging").join(process)).is_empty())
        })
        .await;
        let sessions = names(&own.join("sessions"));
        for name in names(&workspaces) {
            assert!(
                name.starts_with('.') || sessions.contains(&name),
                "kill {kill}: nobody's {name}"
            );
        }
    }
    assert!(answered > 0, "the daemon did nothing at all");
}
