//! What a warm start could carry from one guest to the next, or from the zygote to a guest: nothing but what is documented.

use std::{collections::BTreeSet, env, fs};

use executor_application::{Job, Sandbox};
use executor_domain::{Language, Start};

use crate::{
    alone,
    support::{self, Workspace},
    world::{assert_completed, assert_returned, block_on, run, sandbox},
};

/// What these many runs of a handler return, as text.
fn returned(code: &str, runs: usize) -> Vec<String> {
    (0..runs)
        .map(|_| {
            let workspace = Workspace::new();
            let outcome = run(support::job(Language::Python, code, &workspace));
            assert_completed(&outcome);
            match outcome.ending {
                executor_domain::Ending::Completed { return_value } => return_value.as_str().into(),
                other => panic!("{other:?}"),
            }
        })
        .collect()
}

#[test]
fn no_two_guests_draw_the_same_random_numbers() {
    // Control: whoever seeds gets what it asked for.
    let seeded = returned(
        "import random\ndef handler(event):\n    random.seed(1)\n    return random.random()",
        3,
    );
    assert_eq!(seeded.iter().collect::<BTreeSet<_>>().len(), 1);

    for code in [
        "import random\ndef handler(event): return random.random()",
        "import random\ndef handler(event): return random.SystemRandom().random()",
        "import uuid\ndef handler(event): return str(uuid.uuid4())",
        "import secrets\ndef handler(event): return secrets.token_hex()",
        "import tempfile\ndef handler(event): return tempfile.mktemp()",
        "import os\ndef handler(event): return os.urandom(16).hex()",
        "import ssl\ndef handler(event): return ssl.RAND_bytes(16).hex()",
    ] {
        let drawn = returned(code, 4);
        let different: BTreeSet<_> = drawn.iter().collect();
        assert_eq!(different.len(), drawn.len(), "{code} {drawn:?}");
    }
}

/// What a zygote has imported, all its guests have a copy of: generators too, which have to be seeded anew.
#[test]
fn no_two_guests_go_on_from_the_zygotes_random_state() {
    block_on(async {
        let sandbox = support::preloaded_bwrap(&["random", "uuid", "tempfile", "ssl"]).await;
        let mut drawn = BTreeSet::new();
        for _ in 0..3 {
            let workspace = Workspace::new();
            let code = "import random, ssl, tempfile, uuid\n\
                        def handler(event):\n    \
                            return [random.random(), str(uuid.uuid4()), tempfile.mktemp(), ssl.RAND_bytes(8).hex()]";
            let job = support::job(Language::Python, code, &workspace);
            let outcome = support::run(&sandbox, job).await;
            assert_ne!(outcome.start, Start::Cold);
            let executor_domain::Ending::Completed { return_value } = outcome.ending else {
                panic!("{outcome:?}");
            };
            let text = return_value.as_str().trim_matches(['[', ']']);
            drawn.extend(text.split(',').map(str::to_owned));
        }
        assert_eq!(drawn.len(), 3 * 4, "{drawn:?}");
    });
}

#[test]
fn a_package_that_cannot_be_imported_is_named_and_python_starts_cold() {
    block_on(async {
        let sandbox = support::preloaded_bwrap(&["json", "no_such_package"]).await;
        let pools = sandbox.warm_pools();
        let python = pools.iter().find(|pool| pool.language == Language::Python);
        let trouble = python.and_then(|pool| pool.trouble.as_deref()).unwrap();
        assert!(
            trouble.contains("no_such_package cannot be imported"),
            "{trouble}"
        );
        let workspace = Workspace::new();
        let job = support::job(Language::Python, "def handler(event): return 1", &workspace);
        let outcome = support::run(&sandbox, job).await;
        assert_eq!(outcome.start, Start::Cold);
        assert_returned(&outcome, "1");
    });
}

#[test]
fn what_a_guest_leaves_is_gone_with_it() {
    let leave = "\
import builtins, json, os, sys, threading
def handler(event):
    seen = [hasattr(builtins, 'left'), hasattr(json, 'left'), 'LEFT' in os.environ, 'left' in sys.modules,
            os.path.exists('/tmp/left'), os.path.exists('/dev/shm/left'), len(os.listdir('/tmp')) > 0]
    builtins.left = json.left = True
    os.environ['LEFT'] = '1'
    sys.modules['left'] = sys
    for path in ('/tmp/left', '/dev/shm/left'):
        open(path, 'w').close()
    # Control: it would see what it left.
    assert os.path.exists('/tmp/left') and os.environ['LEFT'] == '1'
    return any(seen)
";
    for value in returned(leave, 8) {
        assert_eq!(value, "false");
    }
}

/// A flag of an open file belongs to whoever shares the file, not to a process: standard input must be each guest's own.
#[test]
fn no_guest_shares_an_open_file_with_another() {
    let code = "\
import fcntl, os
def handler(event):
    flags = [fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK for fd in (0, 1, 2, 3)]
    for fd in (0, 1, 2):
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | fcntl.fcntl(fd, fcntl.F_GETFL))
    assert fcntl.fcntl(0, fcntl.F_GETFL) & os.O_NONBLOCK
    return any(flags)
";
    for value in returned(code, 8) {
        assert_eq!(value, "false");
    }
}

#[test]
fn a_guest_holds_no_descriptor_of_the_zygote() {
    let code = "\
import os
def handler(event):
    return sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:-1]
";
    for value in returned(code, 3) {
        assert_eq!(value, "[0,1,2,3]");
    }
}

/// Documented: siblings share the hash seed and the layout of memory until their zygote makes way for another.
#[test]
fn siblings_share_the_hash_seed() {
    let seen: BTreeSet<_> = returned("def handler(event): return hash('x')", 4)
        .into_iter()
        .collect();
    assert_eq!(seen.len(), 1);
}

/// A guest that was there when another one ran is not there for a third: each slot is used once.
#[test]
fn a_slot_is_used_once() {
    // The time when a slot's first process came has the kernel's coarse grain: two slots may share it. Those that are there
    // at the same time differ in their namespaces.
    let code = "import os\ndef handler(event): return [os.getpid(), os.getppid(), os.stat('/proc/1').st_ctime_ns, os.readlink('/proc/self/ns/pid')]";
    let seen = returned(code, 12);
    let different: BTreeSet<_> = seen.iter().collect();
    assert_eq!(different.len(), seen.len(), "{seen:?}");
    assert!(
        seen.iter().all(|line| line.starts_with("[2,1,")),
        "{seen:?}"
    );
}

/// Whoever needs something at the interpreter's start gets an interpreter that starts.
#[test]
fn variables_that_count_at_start_start_cold() {
    for (name, code, value) in [
        (
            "PYTHONHASHSEED",
            "def handler(event): return hash('x') == hash('x')",
            "true",
        ),
        (
            "PYTHONPATH",
            "import sys\ndef handler(event): return '/elsewhere' in sys.path",
            "true",
        ),
        (
            "TZ",
            "import time\ndef handler(event): return time.timezone != 0",
            "true",
        ),
    ] {
        let workspace = Workspace::new();
        let given = match name {
            "PYTHONPATH" => "/elsewhere",
            "TZ" => "EST5",
            _ => "7",
        };
        let variables = [(name.to_owned(), given.to_owned())].into();
        let job = Job {
            environment: executor_domain::GuestEnvironment::parse(variables).unwrap(),
            ..support::job(Language::Python, code, &workspace)
        };
        let outcome = block_on(support::run(sandbox(), job));
        assert_returned(&outcome, value);
        assert_eq!(outcome.start, Start::Cold, "{name}");
    }
}

/// More at once than there are slots: all of them succeed, none of them waits for ever.
#[test]
fn a_burst_is_served() {
    let workspace = Workspace::new();
    block_on(async {
        let runs = (0..60).map(|number| {
            let code = format!("def handler(event): return {number}");
            let job = support::job(Language::Python, &code, &workspace);
            tokio::spawn(async move { support::run(sandbox(), job).await })
        });
        let runs: Vec<_> = runs.collect();
        for (number, run) in runs.into_iter().enumerate() {
            let outcome = run.await.unwrap();
            assert_returned(&outcome, &number.to_string());
            assert_ne!(outcome.start, Start::Cold);
        }
    });
}

/// What a zygote holds: descriptors, resident KiB, and children that nobody has reaped.
#[derive(Debug)]
struct Zygote {
    descriptors: usize,
    resident_kib: u64,
    zombies: usize,
}

impl Zygote {
    /// The zygote of Python among the descendants of this process.
    fn of_python() -> Self {
        let field = |pid: u32, name: &str| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|line| line.trim().to_owned()).unwrap_or_default()
        };
        let all: Vec<u32> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
            .collect();
        let parent = |pid: u32| field(pid, "PPid:").parse::<u32>().unwrap_or(0);
        let is_ours = |pid: u32| {
            let own = std::process::id();
            std::iter::successors(Some(pid), |pid| Some(parent(*pid)).filter(|pid| *pid > 0))
                .any(|pid| pid == own)
        };
        let is_zygote = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // The second process of its namespace; slots are in namespaces below.
            String::from_utf8_lossy(&line).contains("PyOS_BeforeFork")
                && field(*pid, "NSpid:").split_whitespace().count() == 2
                && is_ours(*pid)
        };
        let pid = all.iter().copied().find(is_zygote).unwrap();
        let children = all.iter().filter(|child| parent(**child) == pid);
        Self {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            resident_kib: field(pid, "VmRSS:")
                .trim_end_matches(" kB")
                .parse()
                .unwrap(),
            zombies: children
                .filter(|child| field(**child, "State:").starts_with('Z'))
                .count(),
        }
    }
}

/// Waits until no slot is made: while one is, its zygote holds what the slot is to get.
fn refilled() {
    block_on(support::eventually("the pools are full", || {
        let pools = sandbox().warm_pools();
        pools.iter().all(|pool| pool.ready >= pool.target)
    }));
}

/// `SOAK_FORKS` says how many; by default as many as there is patience for.
#[test]
fn a_zygote_stays_as_it_is_however_often_it_forks() {
    // Where there is no other zygote to be taken for it.
    if !alone::is_alone() {
        alone::rerun(
            "residue::a_zygote_stays_as_it_is_however_often_it_forks",
            "",
        );
        return;
    }
    let forks = env::var("SOAK_FORKS").map_or(300, |text| text.parse().unwrap());
    let code = "def handler(event): return 7";
    returned(code, 20);
    refilled();
    let before = Zygote::of_python();
    let workspace = Workspace::new();
    for number in 0..forks {
        let outcome = run(support::job(Language::Python, code, &workspace));
        assert_returned(&outcome, "7");
        if number % 1000 == 999 {
            eprintln!("{} forks: {:?}", number + 1, Zygote::of_python());
        }
    }
    refilled();
    let after = Zygote::of_python();
    assert_eq!(after.descriptors, before.descriptors);
    assert_eq!(after.zombies, 0);
    let growth = after.resident_kib.saturating_sub(before.resident_kib);
    assert!(growth < 2048, "{before:?} {after:?}");
}
