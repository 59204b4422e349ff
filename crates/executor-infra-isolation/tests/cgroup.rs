//! Real cgroups, by the public interface.
//!
//! As root these tests need a host whose cgroups can be written, and fail without one: v1, or v2
//! with this process alone in its cgroup (`systemd-run --scope -p Delegate=yes` arranges that). As
//! another user they run in full in a delegated v2 cgroup, and otherwise check that the absence is
//! reported.
//!
//! They are a program of their own because on v2 the process must be alone when it looks for
//! cgroups: unit tests that start children at the same moment would be in its way.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::{
    fs,
    io::{self, BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
};

use executor_infra_isolation::cgroup::{CgroupError, CgroupLimits, Cgroups, RunCgroup, Wished};

const MEMORY: u64 = 32 * 1024 * 1024;
const LIMITS: CgroupLimits = CgroupLimits {
    memory_bytes: MEMORY,
    pids_max: 32,
    cpu_weight: Some(50),
};
/// Less than one run may have, for all of them.
const TOGETHER: u64 = 24 * 1024 * 1024;
const SIGKILL: i32 = 9;

/// The cgroups of this process: one instance, made before any child is started.
fn detected() -> &'static Cgroups {
    static CGROUPS: OnceLock<Cgroups> = OnceLock::new();

    let cgroups = CGROUPS.get_or_init(|| Cgroups::detect(None, Wished::default()));
    let support = cgroups.support();
    if nix::unistd::geteuid().is_root() {
        assert!(
            support.memory && support.pids && support.cpu_accounting,
            "as root these tests need writable cgroups (see the top of this file): {support:?}"
        );
    }
    cgroups
}

/// As [`detected`], but `None` where there are none.
fn cgroups() -> Option<&'static Cgroups> {
    Some(detected()).filter(|cgroups| cgroups.support().version.is_some())
}

/// A shell that enters the cgroup as the launcher does, then becomes this script.
fn start(run: &RunCgroup, script: &str) -> Child {
    let enter_then_run = format!("for f do echo 0 > \"$f\" || exit 99; done; {script}");
    Command::new("/bin/sh")
        .args(["-c", &enter_then_run, "sh"])
        .args(run.entry_files())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn finish(run: &RunCgroup, script: &str) -> ExitStatus {
    let status = start(run, script).wait().unwrap();
    assert_ne!(status.code(), Some(99), "could not enter the cgroup");
    status
}

/// Waits until the script has printed a line: then it is inside and has done what it was to do
/// before.
fn wait_for_line(child: &mut Child) {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
}

fn directories(run: &RunCgroup) -> Vec<PathBuf> {
    let parent = |file: PathBuf| file.parent().unwrap().to_owned();
    run.entry_files().into_iter().map(parent).collect()
}

#[test]
fn support_is_consistent_and_says_why() {
    let cgroups = detected();
    let support = cgroups.support();
    let complete = support.memory && support.pids && support.cpu_accounting;
    assert!(complete || support.why.is_some(), "{support:?}");
    if support.version.is_none() {
        assert!(!support.memory && !support.pids, "{support:?}");
        let refused = cgroups.create("x", &LIMITS).unwrap_err();
        assert!(
            matches!(&refused, CgroupError::Unavailable(why) if Some(why) == support.why.as_ref()),
            "{refused:?}"
        );
    }
}

#[test]
fn a_parent_that_does_not_exist_is_refused_by_name() {
    let nowhere = Cgroups::detect(Some(Path::new("/no-such-cgroup")), Wished::default());
    let support = nowhere.support();
    assert_eq!(support.version, None);
    let why = support.why.as_deref().unwrap();
    // Without any cgroup mount the reason is another one.
    if cgroups().is_some() {
        assert!(why.contains("no-such-cgroup"), "{why}");
    }
    assert!(nowhere.create("x", &LIMITS).is_err());
}

#[test]
fn a_run_is_accounted_and_leaves_nothing_behind() {
    let Some(cgroups) = cgroups() else { return };
    let run = cgroups.create("accounted", &LIMITS).unwrap();
    let made = directories(&run);
    assert!(made.iter().all(|path| path.is_dir()));
    assert_eq!(run.usage().oom_kills, 0);
    let before = run.cpu_time().expect("CPU time is accounted");

    let status = finish(&run, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done");

    assert!(status.success(), "{status}");
    let usage = run.usage();
    assert!(usage.cpu.unwrap() > before, "{usage:?}");
    if cgroups.support().memory {
        let peak = usage.peak_memory_bytes.expect("memory is accounted");
        assert!((1..=MEMORY).contains(&peak), "{usage:?}");
    }
    assert_eq!((usage.oom_kills, usage.pids_refused), (0, 0));
    run.remove().unwrap();
    assert!(made.iter().all(|path| !path.exists()));
}

#[test]
fn memory_is_limited() {
    let Some(cgroups) = cgroups().filter(|cgroups| cgroups.support().memory) else {
        return;
    };
    // tail keeps what might be the last line, and /dev/zero has no line end.
    let script = |bytes: u64| format!("head -c {bytes} /dev/zero | tail | wc -c");
    let run = cgroups.create("memory", &LIMITS).unwrap();
    assert!(finish(&run, &script(MEMORY / 4)).success());
    assert_eq!(run.usage().oom_kills, 0, "positive control");

    let _ = finish(&run, &script(MEMORY * 4));

    let usage = run.usage();
    assert!(usage.oom_kills >= 1, "{usage:?}");
    let peak = usage.peak_memory_bytes.unwrap();
    assert!((MEMORY * 3 / 4..=MEMORY).contains(&peak), "{usage:?}");
    run.remove().unwrap();
}

#[test]
fn processes_are_limited() {
    let Some(cgroups) = cgroups().filter(|cgroups| cgroups.support().pids) else {
        return;
    };
    let run = cgroups
        .create(
            "pids",
            &CgroupLimits {
                pids_max: 1,
                ..LIMITS
            },
        )
        .unwrap();
    assert!(finish(&run, "exec true").success(), "positive control");
    assert_eq!(run.usage().pids_refused, 0);

    let status = finish(&run, "/bin/true; :");

    assert!(!status.success(), "the shell could fork");
    assert!(run.usage().pids_refused >= 1);
    run.remove().unwrap();
}

#[test]
fn kill_takes_the_whole_tree() {
    let Some(cgroups) = cgroups() else { return };
    let run = cgroups.create("kill", &LIMITS).unwrap();
    // Children in a session of their own, deaf to SIGTERM, holding no pipe.
    let script = "trap '' TERM; for i in 1 2 3; do setsid sleep 1000 >/dev/null & done; \
                  echo ready; read -r _";
    let mut child = start(&run, script);
    wait_for_line(&mut child);
    let inside = || {
        let mut pids = Vec::new();
        for path in run.entry_files() {
            pids.extend(
                fs::read_to_string(&path)
                    .unwrap()
                    .lines()
                    .map(str::to_owned),
            );
        }
        pids
    };
    assert!(inside().len() >= 4, "{:?}", inside());

    run.kill().unwrap();

    assert_eq!(inside(), Vec::<String>::new());
    assert_eq!(child.wait().unwrap().signal(), Some(SIGKILL));
    run.remove().unwrap();
}

#[test]
fn a_cgroup_in_use_cannot_be_removed_but_is_not_forgotten() {
    let Some(cgroups) = cgroups() else { return };
    let run = cgroups.create("busy", &LIMITS).unwrap();
    let made = directories(&run);
    let mut child = start(&run, "echo ready; read -r _");
    wait_for_line(&mut child);

    // Gives up after its bound; being dropped then, it kills.
    let refused = run.remove().unwrap_err();

    assert!(
        matches!(&refused, CgroupError::Remove { source, .. }
            if source.kind() == io::ErrorKind::ResourceBusy),
        "{refused:?}"
    );
    assert_eq!(child.wait().unwrap().signal(), Some(SIGKILL));
    // The process has been reaped, so nothing keeps the directories from going now.
    cgroups.create("next", &LIMITS).unwrap().remove().unwrap();
    assert!(made.iter().all(|path| !path.exists()));
}

#[test]
fn dropping_kills_and_removes() {
    let Some(cgroups) = cgroups() else { return };
    let run = cgroups.create("dropped", &LIMITS).unwrap();
    let made = directories(&run);
    let mut child = start(&run, "echo ready; read -r _");
    wait_for_line(&mut child);

    drop(run);

    assert_eq!(child.wait().unwrap().signal(), Some(SIGKILL));
    cgroups.create("next", &LIMITS).unwrap().remove().unwrap();
    assert!(made.iter().all(|path| !path.exists()));
}

#[test]
fn a_cgroup_that_cannot_be_configured_is_removed_again() {
    let Some(cgroups) = cgroups().filter(|cgroups| cgroups.support().pids) else {
        return;
    };
    let made = directories(&cgroups.create("model", &LIMITS).unwrap());
    let left = || {
        made.iter()
            .flat_map(|path| fs::read_dir(path.parent().unwrap()).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .any(|name| name.ends_with("-impossible"))
    };
    let beyond = CgroupLimits {
        pids_max: u64::MAX,
        ..LIMITS
    };
    let refused = cgroups.create("impossible", &beyond).unwrap_err();
    assert!(
        matches!(refused, CgroupError::Configure { .. }),
        "{refused:?}"
    );
    assert!(!left());
}

/// Runs within their own limits, which together go beyond what all may have.
#[test]
fn all_runs_together_have_a_bound() {
    if cgroups().is_none() {
        return;
    }
    let few = Cgroups::detect(
        None,
        Wished {
            pids_max: Some(3),
            ..Wished::default()
        },
    );
    assert_eq!(few.support().together.unwrap().pids_max, 3);

    // Processes: two runs with a shell and a sleeper each are one too many, though each may have 32.
    let (one, other) = (
        few.create("one", &LIMITS).unwrap(),
        few.create("other", &LIMITS).unwrap(),
    );
    let mut first = start(&one, "sleep 1000 & echo ready; read -r _");
    wait_for_line(&mut first);
    let refused = finish(&other, "sleep 0 & wait $!");
    assert!(!refused.success(), "{refused:?}");
    one.kill().unwrap();
    first.wait().unwrap();

    // Memory: less than one may have, and more than all may.
    let hog = "head -c 28000000 /dev/zero | tail -c 28000000 | wc -c >&2; echo";
    let alone = cgroups().unwrap().create("alone", &LIMITS).unwrap();
    assert!(finish(&alone, hog).success(), "control");
    assert_eq!(alone.usage().oom_kills, 0, "control");
    let little = Cgroups::detect(
        None,
        Wished {
            memory_bytes: Some(TOGETHER),
            ..Wished::default()
        },
    );
    let greedy = little.create("greedy", &LIMITS).unwrap();
    finish(&greedy, hog);
    assert!(greedy.usage().oom_kills > 0, "{:?}", greedy.usage());
    for run in [one, other, alone, greedy] {
        run.kill().unwrap();
        run.remove().unwrap();
    }

    // The directory that held them goes with the last of its owners.
    let held = few.create("held", &LIMITS).unwrap();
    let above: Vec<_> = directories(&held)
        .iter()
        .map(|path| path.parent().unwrap().to_owned())
        .filter(|path| path.to_string_lossy().contains("-runs-"))
        .collect();
    assert!(!above.is_empty() && above.iter().all(|path| path.is_dir()));
    held.remove().unwrap();
    drop(few);
    assert!(above.iter().all(|path| !path.exists()), "{above:?}");
}
