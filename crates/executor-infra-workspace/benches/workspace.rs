//! What a workspace costs a run: the scan for artifacts where nothing has changed, beside the least that looking at every
//! file can cost; and how far beyond its size a fast writer gets. `docs/performance.md` has the figures.
//!
//! Run it with `cargo bench -p executor-infra-workspace`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench reports by printing, and gives up by panicking"
)]

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use executor_application::Workspaces as _;
use executor_domain::SessionId;
use executor_infra_workspace::{SessionWorkspaces, WorkspaceOptions};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, statat};

const FILES: usize = 10_000;
const SAMPLES: usize = 40;
const ROUNDS: usize = 12;
const MIB: u64 = 1 << 20;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    println!("{FILES} unchanged files, of {SAMPLES} scans: least and median, in ms");
    for directories in [1, 100, 1000] {
        unchanged(directories).await;
    }
    println!("\nbeyond a workspace of 256 MiB, in MiB, {ROUNDS} writers");
    overshoot().await;
}

async fn unchanged(directories: usize) {
    let root = tempfile::tempdir().unwrap();
    let workspaces =
        SessionWorkspaces::open_root(root.path(), WorkspaceOptions::default()).unwrap();
    let session = SessionId::parse("s").unwrap();
    let place = workspaces.open(&session).await.unwrap().path().to_owned();
    for directory in 0..directories {
        let directory = place.join(directory.to_string());
        fs::create_dir(&directory).unwrap();
        for file in 0..FILES / directories {
            fs::write(directory.join(format!("file-{file}")), "").unwrap();
        }
    }
    // What was changed within a tick before a run is looked at more closely.
    thread::sleep(Duration::from_millis(50));
    let (mut scans, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        let run = workspaces.open(&session).await.unwrap();
        let begun = Instant::now();
        let found = run.changes().await.unwrap();
        scans.push(begun.elapsed());
        assert!(
            found.files.is_empty() && found.skipped.is_empty(),
            "{found:?}"
        );
        let begun = Instant::now();
        assert!(look(&place) >= FILES);
        floors.push(begun.elapsed());
    }
    let (least, median) = least_and_median(scans);
    let (floor, floor_median) = least_and_median(floors);
    println!(
        "in {directories:4} directories: scan {least:5.1} {median:5.1}, system calls alone {floor:5.1} {floor_median:5.1}"
    );
}

/// Asks for every name and every file's attributes, and for nothing else.
fn look(directory: &Path) -> usize {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(rustix::fs::CWD, directory, flags, Mode::empty()).unwrap();
    let mut seen = 0;
    for entry in Dir::read_from(&opened).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type().is_dir() {
            seen += look(&directory.join(name.to_str().unwrap()));
        } else {
            statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            seen += 1;
        }
    }
    seen
}

fn least_and_median(mut samples: Vec<Duration>) -> (f64, f64) {
    samples.sort_unstable();
    let millis = |sample: Duration| sample.as_secs_f64() * 1e3;
    (millis(samples[0]), millis(samples[samples.len() / 2]))
}

/// A writer that makes files of 16 MiB as fast as it can, until the overflow is noticed.
async fn overshoot() {
    let allowed = 256 * MIB;
    let mut beyond = Vec::new();
    for _ in 0..ROUNDS {
        let root = tempfile::tempdir().unwrap();
        let options = WorkspaceOptions::default();
        let workspaces = SessionWorkspaces::open_root(root.path(), options).unwrap();
        let session = SessionId::parse("s").unwrap();
        let run = workspaces.open(&session).await.unwrap();
        let place = run.path().to_owned();
        let (stop, written) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&written));
        let writer = thread::spawn(move || {
            let chunk = vec![1; 1 << 20];
            for file in 0.. {
                let mut file = File::create(place.join(file.to_string())).unwrap();
                for _ in 0..16 {
                    // Bounded, should nobody notice.
                    if stopped.load(Ordering::Relaxed) || count.load(Ordering::Relaxed) > 2 << 30 {
                        return;
                    }
                    file.write_all(&chunk).unwrap();
                    count.fetch_add(MIB, Ordering::Relaxed);
                }
            }
        });
        run.overflows(allowed).await.unwrap();
        let at_once = written.load(Ordering::Relaxed);
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        beyond.push(at_once.saturating_sub(allowed) / MIB);
    }
    beyond.sort_unstable();
    println!("{beyond:?}");
}
