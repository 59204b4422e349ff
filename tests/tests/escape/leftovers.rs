//! After the worst that guests can do, the daemon's host is as it was: no process, cgroup, descriptor, mount or file more.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use executor_domain::Language;
use serde_json::json;

use crate::{
    alone,
    gaps::gap,
    support::{self, Workspace, eventually},
    world::{assert_works, guest, marked, run, run_while, with_event, with_limits},
};

/// What this process holds of its host.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: Vec<String>,
    children: BTreeSet<u32>,
    cgroups: usize,
    mounts: usize,
    temporary: BTreeSet<PathBuf>,
}

impl Holdings {
    fn now() -> Self {
        // The kind of each, not its number: a socket is as good as another.
        let mut descriptors: Vec<_> = fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .map(|target| target.display().to_string())
            .map(|target| target.split(":[").next().unwrap_or_default().to_owned())
            // A slot's cgroup has a number in its name.
            .map(|target| target.replace(|c: char| c.is_ascii_digit(), ""))
            .filter(|target| !target.starts_with("/proc/"))
            .collect();
        descriptors.sort();
        Self {
            descriptors,
            children: children(),
            cgroups: count_cgroups(Path::new("/sys/fs/cgroup")),
            mounts: fs::read_to_string("/proc/self/mounts")
                .unwrap()
                .lines()
                .count(),
            temporary: fs::read_dir(env::temp_dir())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect(),
        }
    }
}

/// Children of this process.
fn children() -> BTreeSet<u32> {
    support::children_of(std::process::id())
        .into_iter()
        .collect()
}

/// Cgroups of runs of this process, and of slots that wait for one; they carry its number in their names.
fn count_cgroups(directory: &Path) -> usize {
    let of_ours = format!("-{}-run-", std::process::id());
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| {
            let own = entry.file_name().to_string_lossy().contains(&of_ours);
            usize::from(own) + count_cgroups(&entry.path())
        })
        .sum()
}

#[test]
fn nothing_is_left_of_hostile_runs() {
    if !alone::is_alone() {
        let temporary = Workspace::new();
        let own = format!("export TMPDIR='{}'", temporary.path().display());
        alone::rerun("leftovers::nothing_is_left_of_hostile_runs", &own);
        return;
    }
    assert_works();
    let before = settled();
    assert_eq!(before.temporary, BTreeSet::new());
    // The watchdog, and the zygotes, where there are any.
    if crate::WARM {
        assert!(before.children.len() > 1, "{before:?}");
    } else {
        assert_eq!(before.children.len(), 1, "{before:?}");
    }

    // Control: while a guest runs, there is something to be seen of each kind.
    {
        let workspace = Workspace::new();
        let job = support::script(Language::Shell, "sleep 1000", &workspace);
        let (marker, job) = marked(job);
        run_while(job, async || {
            eventually("the guest runs", || !support::alive(&marker).is_empty()).await;
            let no_cgroups = gap("cgroup_processes", "leftovers");
            // A warm guest is no child of this process; and its slot is replaced in a moment.
            eventually("there is more of each kind", || {
                let during = Holdings::now();
                during.descriptors.len() > before.descriptors.len()
                    && (crate::WARM || during.children.len() > before.children.len())
                    && !during.temporary.is_empty()
                    && (no_cgroups || during.cgroups > before.cgroups)
            })
            .await;
        });
    }

    for (guest, event) in [
        (guest!(python "stay"), json!({"then": "sleep"})),
        (guest!(node "stay"), json!({"then": "return"})),
        (guest!(shell "fork_bomb"), json!({})),
        (guest!(python "many"), json!({"what": "processes"})),
        (guest!(python "many"), json!({"what": "threads"})),
        (guest!(python "memory"), json!({"what": "children"})),
        (guest!(python "memory"), json!({"what": "alone"})),
        (guest!(python "fill"), json!({"directory": "/tmp"})),
        (guest!(python "spin"), json!({"children": 4})),
        (guest!(python "harm_the_init"), json!({})),
        (guest!(python "kernel"), json!({})),
        (
            guest!(python "hand_over"),
            json!({"bytes": b"x", "descriptors": [1, 2, 3], "times": 100}),
        ),
        (
            guest!(python "protocol"),
            json!({"bytes": b"garbage", "then": "crash"}),
        ),
        (guest!(python "close_everything"), json!({"then": "sleep"})),
        (guest!(python "leave_a_child"), json!({})),
        (guest!(python "flood"), json!({})),
    ] {
        let workspace = Workspace::new();
        let job = with_limits(
            |wish| {
                wish.max_wall_time_ms = Some(700);
                wish.max_memory_mb = Some(64);
                wish.max_processes = Some(30);
            },
            with_event(&event, guest.handler(&workspace)),
        );
        run(job);
        // Not even for a moment: whoever has the answer may count.
        assert_eq!(children(), before.children, "{event}");
    }
    assert_works();
    assert_eq!(settled(), before);
}

/// What this process holds once as many slots wait as should, which somebody makes behind our back.
fn settled() -> Holdings {
    let mut last = Holdings::now();
    if crate::WARM {
        crate::world::block_on(async {
            let mut alike = 0;
            eventually("nothing changes", || {
                let now = Holdings::now();
                alike = if now == last { alike + 1 } else { 0 };
                last = now;
                alike > 40
            })
            .await;
        });
    }
    last
}
