//! Who a guest is, and what it was given: nothing that was not meant for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
};

use executor_application::Job;
use executor_domain::{Ending, Language, Outcome};
use nix::sys::signal::{SigSet, Signal};

use crate::{
    alone,
    gaps::gap,
    support::{Workspace, alive, event, eventually},
    world::{Answers, assert_completed, compare, findings, guest, marked, run, run_while, seen},
};

/// The whole environment of a guest, as documented, where its caller adds nothing.
const ENVIRONMENT: Answers<'_> = &[
    ("/usr/local/bin:/usr/bin:/bin", &["variable PATH"]),
    ("/workspace", &["variable HOME"]),
    ("/tmp", &["variable TMPDIR"]),
    ("C.UTF-8", &["variable LANG"]),
    ("1", &["variable PYTHONDONTWRITEBYTECODE"]),
    (
        "/usr/local/lib/node_modules:/usr/lib/node_modules:/usr/share/nodejs:/usr/lib/nodejs",
        &["variable NODE_PATH"],
    ),
    ("Agg", &["variable MPLBACKEND"]),
    ("/tmp/matplotlib", &["variable MPLCONFIGDIR"]),
    ("{}", &["variable EVENT_JSON"]),
];

/// What Python and Node ignore by themselves: SIGPIPE and SIGXFSZ.
const PYTHON_AND_NODE_IGNORE: &str = "1001000";
const BASH_IGNORES: &str = "0";

/// What every guest has, and each by its language.
fn with_environment(others: Answers<'_>) -> Vec<(&'_ str, &'_ [&'_ str])> {
    ENVIRONMENT.iter().chain(others).copied().collect()
}

/// What a Python guest sees of itself, namespaces and groups apart.
fn assert_python_is_nobody(outcome: &Outcome) {
    let mut findings = findings(outcome);
    let groups = findings.remove("Groups").unwrap();
    // A user without privileges can leave no group. They show as the group that everybody unknown is in; and the daemon's
    // own group, where it is listed once more (as container runtimes do), as the guest's own.
    let harmless = |group| matches!(group, "65534" | "1000");
    let stayed = gap("own_user", "groups") && groups.split(' ').all(harmless);
    assert!(groups.is_empty() || stayed, "{groups}");
    findings.retain(|name, _| !name.starts_with("namespace"));
    // Never before others; behind them, if the daemon itself stands there.
    let niceness: i32 = findings.remove("niceness").unwrap().parse().unwrap();
    assert!(niceness >= 0, "{niceness}");
    let expected = with_environment(&[
        ("1000\t1000\t1000\t1000", &["Uid", "Gid"]),
        (
            "0000000000000000",
            &[
                "CapInh",
                "CapPrm",
                "CapEff",
                "CapBnd",
                "CapAmb",
                "blocked signals",
            ],
        ),
        ("1", &["NoNewPrivs"]),
        ("2", &["Seccomp"]),
        ("1000 1", &["user ids"]),
        ("deny", &["setgroups"]),
        ("/workspace", &["directory"]),
        ("0o22", &["umask"]),
        (PYTHON_AND_NODE_IGNORE, &["ignored signals"]),
        ("sandbox", &["host name"]),
        ("True", &["first to go"]),
        (
            "EACCES|EPERM",
            &[
                "become a favourite of the scheduler",
                "become the last to go",
            ],
        ),
        ("/", &["control groups"]),
        ("/dev/null", &["descriptor 0"]),
        ("pipe", &["descriptor 1", "descriptor 2"]),
        ("socket", &["descriptor 3"]),
        ("EINVAL", &["become root", "become another user"]),
        ("EPERM", &["join a group", "lock memory"]),
    ]);
    compare(&findings, &expected);
}

#[test]
fn python_is_nobody_and_holds_nothing() {
    let workspace = Workspace::new();
    let outcome = run(guest!(python "identity").script(&workspace));
    assert_python_is_nobody(&outcome);

    // Not one namespace is the daemon's.
    let seen = seen(&outcome);
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let ours = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        let theirs = &seen[&format!("namespace {kind}")];
        assert!(theirs.starts_with(&format!("{kind}:[")), "{theirs}");
        assert_ne!(ours.to_str().unwrap(), theirs, "{kind}");
    }
}

#[test]
fn node_holds_nothing() {
    let workspace = Workspace::new();
    let outcome = run(guest!(node "identity").script(&workspace));
    let expected = with_environment(&[
        ("/workspace", &["directory"]),
        ("22", &["umask"]),
        (PYTHON_AND_NODE_IGNORE, &["ignored signals"]),
        ("0", &["blocked signals"]),
        ("/dev/null", &["descriptor 0"]),
        ("pipe", &["descriptor 1", "descriptor 2"]),
        ("socket", &["descriptor 3"]),
        ("EINVAL", &["become root"]),
    ]);
    compare(&findings(&outcome), &expected);
}

#[test]
fn bash_holds_nothing() {
    let workspace = Workspace::new();
    let outcome = run(guest!(shell "identity").script(&workspace));
    let expected = with_environment(&[
        ("/workspace", &["directory"]),
        ("0022", &["umask"]),
        (BASH_IGNORES, &["ignored signals"]),
        ("0", &["blocked signals"]),
        // The event, sealed; and where bash keeps its own script open.
        ("/memfd:stdin (deleted)", &["descriptor 0"]),
        ("pipe", &["descriptor 1", "descriptor 2"]),
        ("/run/sandbox/main.sh", &["descriptor 255"]),
        ("refused", &["write its own script"]),
    ]);
    compare(&findings(&outcome), &expected);
}

/// A daemon that was started by somebody careless: with a secret in its environment, descriptors that are not
/// close-on-exec, in another directory, with an open umask and core dumps on, deaf to two signals and with another one
/// blocked; and, where it is root, before all others on the processor.
#[test]
fn a_careless_parent_reaches_no_guest() {
    if !alone::is_alone() {
        alone::rerun(
            "identity::a_careless_parent_reaches_no_guest",
            "umask 000; ulimit -c unlimited; cd /usr; exec 7</etc/passwd 9</; \
             trap '' USR1 40; if [ \"$(id -u)\" = 0 ]; then renice -n -5 -p $$ >/dev/null; fi",
        );
        return;
    }
    // Controls: it is as careless as it sounds.
    assert_eq!(
        fs::read_link("/proc/self/fd/7").unwrap().to_str(),
        Some("/etc/passwd")
    );
    assert_eq!(env::current_dir().unwrap().to_str(), Some("/usr"));
    let status = fs::read_to_string("/proc/self/status").unwrap();
    assert!(status.contains("Umask:\t0000"), "{status}");
    let deaf_to = set(Signal::SIGUSR1 as u32) | set(40);
    assert_eq!(signals(&status, "SigIgn") & deaf_to, deaf_to);
    // What starts the sandbox starts from this thread.
    SigSet::from(Signal::SIGUSR2).thread_block().unwrap();
    let thread = fs::read_to_string("/proc/thread-self/status").unwrap();
    assert_eq!(signals(&thread, "SigBlk"), set(Signal::SIGUSR2 as u32));
    if nix::unistd::geteuid().is_root() {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        // The seventeenth field after the name in parentheses (proc(5)).
        let fields = stat.rsplit_once(')').unwrap().1;
        assert_eq!(fields.split_whitespace().nth(16), Some("-5"));
    }

    let workspace = Workspace::new();
    assert_python_is_nobody(&run(guest!(python "identity").script(&workspace)));
    for (guest, ignores) in [
        (guest!(node "identity"), PYTHON_AND_NODE_IGNORE),
        (guest!(shell "identity"), BASH_IGNORES),
    ] {
        let outcome = run(guest.script(&workspace));
        assert_completed(&outcome);
        let seen = seen(&outcome);
        assert_eq!(seen["umask"].trim_start_matches('0'), "22");
        assert_eq!(seen["ignored signals"], ignores);
        assert_eq!(seen["blocked signals"], "0");
        assert!(!seen.contains_key("descriptor 7") && !seen.contains_key("descriptor 9"));
        assert!(!seen.contains_key(&format!("variable {}", alone::SECRET_VARIABLE)));
    }
}

/// The signal of this number, in a set of `/proc`.
const fn set(number: u32) -> u64 {
    1 << (number - 1)
}

/// A set of signals in a `status` of `/proc`.
fn signals(status: &str, name: &str) -> u64 {
    let mut lines = status.lines().filter_map(|line| line.split_once(":\t"));
    let (_, set) = lines.find(|(found, _)| *found == name).unwrap();
    u64::from_str_radix(set, 16).unwrap()
}

#[test]
fn the_host_sees_a_guest_without_power_and_no_word_of_its_job() {
    let workspace = Workspace::new();
    let secret = format!("secret-{}", workspace.path().file_name().unwrap().display());
    let code = format!("import time\n# {secret}\ndef handler(event): time.sleep(1000)");
    let job = Job {
        event: event(&format!(r#"{{"secret": "{secret}"}}"#)),
        stdin: Some(secret.clone()),
        ..crate::support::job(Language::Python, &code, &workspace)
    };
    let (marker, job) = marked(job);
    let outcome = run_while(job, async || {
        eventually("the guest runs", || !alive(&marker).is_empty()).await;
        for pid in alive(&marker) {
            let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
                continue;
            };
            let fields: BTreeMap<&str, &str> = status
                .lines()
                .filter_map(|line| line.split_once(":\t"))
                .collect();
            let daemon = nix::unistd::geteuid().to_string();
            let uids: BTreeSet<&str> = fields["Uid"].split('\t').collect();
            assert!(!uids.contains("0"), "{status}");
            assert!(
                gap("own_user", "uid") || !uids.contains(daemon.as_str()),
                "{status}"
            );
            assert_eq!(fields["CapPrm"], "0000000000000000");
        }
        // Any user of the host can read command lines.
        for entry in fs::read_dir("/proc").unwrap() {
            let path = entry.unwrap().path().join("cmdline");
            let line = fs::read(path).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            assert!(!line.contains(&secret) && !line.contains(&marker), "{line}");
        }
    });
    assert_eq!(outcome.ending, Ending::Cancelled);
}
