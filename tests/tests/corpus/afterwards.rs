//! What must be as it was after every guest, whatever it did: the daemon's health and memory, and what it holds of its host.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    attempt::slower,
    support::{
        PATIENCE,
        daemon::{Daemon, request_with},
    },
};

/// How long `/health` may take, which is as long as a probe waits by default; more on a machine that is [`slower`].
const MAX_HEALTH_MICROS: u64 = 1_000_000;

/// By how much the daemon's memory may grow over the whole corpus.
const MAX_GROWTH_KIB: u64 = 50 << 10;

/// What a process holds of its host. Of each kind the number: a socket is as good as another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    descriptors: BTreeMap<String, usize>,
    descendants: usize,
    cgroups: usize,
    mounts: usize,
    temporary: Vec<PathBuf>,
}

impl Held {
    fn by(pid: u32, temporary: &Path) -> Self {
        let mut descriptors = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            let Ok(target) = fs::read_link(entry.path()) else {
                continue;
            };
            let target = target.display().to_string();
            let kind = target.split(":[").next().unwrap_or_default();
            let kind = kind.replace(|letter: char| letter.is_ascii_digit(), "");
            *descriptors.entry(kind).or_default() += 1;
        }
        let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
        // Others mount things on this host as well. A sandbox's have to do with these.
        let marks = [
            temporary.to_str().unwrap(),
            "/workspace",
            "sandbox",
            "newroot",
        ];
        let of_sandboxes = |line: &&str| marks.iter().any(|mark| line.contains(mark));
        Self {
            descriptors,
            descendants: descendants(pid).len(),
            cgroups: cgroups(Path::new("/sys/fs/cgroup"), &format!("-{pid}-run-")),
            mounts: mounts.lines().filter(of_sandboxes).count(),
            temporary: fs::read_dir(temporary)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect(),
        }
    }
}

/// Children of every thread, and theirs.
fn descendants(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let children: Vec<u32> = tasks
        .into_iter()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|list| {
            let pids: Vec<u32> = list.split_whitespace().flat_map(str::parse).collect();
            pids
        })
        .collect();
    let below: Vec<u32> = children.iter().flat_map(|pid| descendants(*pid)).collect();
    [children, below].concat()
}

/// Cgroups of runs of the daemon, which carries its number in their names.
fn cgroups(directory: &Path, of_ours: &str) -> usize {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| {
            let ours = entry.file_name().to_string_lossy().contains(of_ours);
            usize::from(ours) + cgroups(&entry.path(), of_ours)
        })
        .sum()
}

/// Resident memory of a process, in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

/// A daemon as it was before the first guest, and the worst that was seen of it since.
pub(crate) struct Watch {
    temporary: PathBuf,
    before: Mutex<Held>,
    resident_kib: u64,
    most_kib: AtomicU64,
    slowest_health_micros: AtomicU64,
}

impl Watch {
    pub(crate) async fn of(daemon: &Daemon, temporary: &Path) -> Self {
        // What it opens or allocates once is no leak.
        for language in ["python", "javascript", "shell"] {
            works(daemon, language).await.unwrap();
        }
        daemon.health().await;
        let mut before = Held::by(daemon.pid(), temporary);
        let mut alike = Instant::now();
        while alike.elapsed() < Duration::from_millis(500) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = Held::by(daemon.pid(), temporary);
            if now != before {
                (before, alike) = (now, Instant::now());
            }
        }
        Self {
            temporary: temporary.to_owned(),
            before: Mutex::new(before),
            resident_kib: resident_kib(daemon.pid()),
            most_kib: AtomicU64::new(0),
            slowest_health_micros: AtomicU64::new(0),
        }
    }

    /// Before a guest: somebody asks for the daemon's health every few seconds, as a probe does.
    pub(crate) async fn ask(daemon: &Daemon) {
        daemon.health().await;
    }

    /// What is not as it was; nothing, where all is.
    pub(crate) async fn complaints(&self, daemon: &Daemon, language: &str) -> Vec<String> {
        let mut complaints = Vec::new();
        let asked = Instant::now();
        let health = daemon.health().await;
        let took = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.slowest_health_micros
            .fetch_max(took, Ordering::Relaxed);
        if health.status != 200 {
            complaints.push(format!("/health says {health:?}"));
        }
        if took > MAX_HEALTH_MICROS * slower() {
            complaints.push(format!("/health took {} ms", took / 1000));
        }
        if let Err(why) = works(daemon, language).await {
            complaints.push(why);
        }
        let growth = resident_kib(daemon.pid()).saturating_sub(self.resident_kib);
        self.most_kib.fetch_max(growth, Ordering::Relaxed);
        if growth > MAX_GROWTH_KIB {
            complaints.push(format!("the daemon has grown by {growth} KiB"));
        }
        // The kernel takes a killed tree apart behind our back, and connections close when they do.
        let deadline = Instant::now() + PATIENCE;
        let before = self.before.lock().unwrap().clone();
        loop {
            let now = Held::by(daemon.pid(), &self.temporary);
            if now == before {
                return complaints;
            }
            if Instant::now() > deadline {
                complaints.push(format!("the daemon held {before:?}, and holds {now:?}"));
                // The next guest has not done it.
                *self.before.lock().unwrap() = now;
                return complaints;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The worst that was seen, for the record.
    pub(crate) fn summary(&self) -> String {
        format!(
            "`/health` took at most {} ms, the daemon grew by at most {} KiB",
            self.slowest_health_micros.load(Ordering::Relaxed) / 1000,
            self.most_kib.load(Ordering::Relaxed)
        )
    }
}

/// Runs something harmless.
async fn works(daemon: &Daemon, language: &str) -> Result<(), String> {
    let (code, expected) = match language {
        "python" => ("def handler(event): return 7", json!(7)),
        "javascript" => ("exports.handler = () => 7", json!(7)),
        _ => ("true", json!(null)),
    };
    let request = request_with(language, code, json!({"session_id": "harmless"}));
    let answer = daemon.execute(&request).await;
    if answer.status == 200
        && answer.body["status"] == "completed"
        && answer.body["return_value"] == expected
    {
        Ok(())
    } else {
        Err(format!("a harmless run comes to {answer:?}"))
    }
}
