//! What a guest finds around itself.

use std::{collections::BTreeSet, path::Path};

use executor_application::Job;
use executor_domain::{Clock, Ending, Language, LimitHit};

use super::support::{Workspace, job, limits, run, script, seatbelt::seatbelt, stderr, stdout};

fn shell(code: &str, workspace: &Workspace) -> Job {
    job(Language::Shell, code, workspace)
}

#[tokio::test]
async fn home_and_temporary_files_are_the_runs_own_and_gone_afterwards() {
    let (_tool, sandbox) = seatbelt().await;
    let workspace = Workspace::new();
    let code = r#"
        echo x >"$HOME/in-home"; echo x >"$TMPDIR/in-tmp"; mkdir -p "$TMPDIR/a/b"; chmod 0 "$TMPDIR/a"
        echo "$HOME"; echo "$TMPDIR"; cat "$HOME/in-home" "$TMPDIR/in-tmp""#;
    let mut places = BTreeSet::new();
    for _ in 0..2 {
        let outcome = run(&sandbox, shell(code, &workspace)).await;
        let printed = stdout(&outcome);
        let lines: Vec<_> = printed.lines().collect();
        assert_eq!(lines[2..], ["x", "x"], "{}", stderr(&outcome));
        for place in &lines[..2] {
            assert!(Path::new(place).is_absolute());
            assert!(!Path::new(place).exists(), "{place}");
            assert!(!place.starts_with(workspace.path().to_str().unwrap()));
            places.insert((*place).to_owned());
        }
    }
    assert_eq!(places.len(), 4, "two runs, each with two of its own");
}

#[tokio::test]
async fn nothing_of_the_daemons_environment_reaches_a_guest() {
    // Positive control: there is something to inherit.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let (_tool, sandbox) = seatbelt().await;
    let workspace = Workspace::new();
    let outcome = run(&sandbox, shell("env | cut -d = -f 1", &workspace)).await;
    let printed = stdout(&outcome);
    let found: BTreeSet<&str> = printed.lines().collect();
    let mut expected = BTreeSet::from([
        "EVENT_JSON",
        "HOME",
        "LANG",
        "LOGNAME",
        "MPLCONFIGDIR",
        "OPENSSL_CONF",
        "PATH",
        "PYTHONDONTWRITEBYTECODE",
        "TMPDIR",
        "USER",
        // bash's own.
        "PWD",
        "SHLVL",
        "_",
    ]);
    if cfg!(target_os = "macos") {
        expected.extend(["MPLBACKEND", "NODE_PATH", "__CF_USER_TEXT_ENCODING"]);
        assert!(found.is_subset(&expected), "{found:?}");
    } else {
        assert_eq!(found, expected, "{}", stderr(&outcome));
    }
}

/// The dynamic loader obeys a program's environment before the program is. Ours must not be asked.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_callers_variables_reach_no_program_outside_of_the_sandbox() {
    use std::collections::BTreeMap;

    use executor_domain::GuestEnvironment;

    let (_tool, sandbox) = seatbelt().await;
    let workspace = Workspace::new();
    let trace = workspace.path().join("trace");
    let variables = BTreeMap::from([
        ("LD_DEBUG".to_owned(), "files".to_owned()),
        (
            "LD_DEBUG_OUTPUT".to_owned(),
            trace.to_str().unwrap().to_owned(),
        ),
    ]);
    let outcome = run(
        &sandbox,
        Job {
            environment: GuestEnvironment::parse(variables).unwrap(),
            ..shell("echo ran", &workspace)
        },
    )
    .await;
    assert_eq!(stdout(&outcome), "ran\n");
    let traces: String = std::fs::read_dir(workspace.path())
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    // Control: the programs that the variables are meant for have been traced, the first of which is the tool itself.
    assert!(traces.contains("initialize program: ") && traces.contains("/sandbox-exec"));
    assert!(!traces.contains("/proc/self/exe"), "{traces}");
}

#[tokio::test]
async fn a_guest_holds_its_own_descriptors_and_no_others() {
    let (_tool, sandbox) = seatbelt().await;
    let workspace = Workspace::new();
    let code = "import os\ndef handler(event):\n    return sorted(map(int, os.listdir('/dev/fd')))";
    let outcome = run(&sandbox, job(Language::Python, code, &workspace)).await;
    // Standard streams, the channel, and the listing's own.
    assert!(
        matches!(&outcome.ending, Ending::Completed { return_value } if return_value.as_str() == "[0,1,2,3,4]"),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn limits_are_set_before_the_first_instruction() {
    let (_tool, sandbox) = seatbelt().await;
    let workspace = Workspace::new();
    let code = "for what in c n t; do echo $(ulimit -S$what) $(ulimit -H$what); done; umask; \
                head -c 3000000 /dev/zero >big; wc -c <big";
    let mut job = shell(code, &workspace);
    job.limits = limits(|wish| {
        wish.max_file_size_mb = Some(2);
        wish.max_cpu_time_ms = Some(9_000);
    });
    let outcome = run(&sandbox, job).await;
    let printed = stdout(&outcome);
    let lines: Vec<_> = printed.lines().map(str::trim).collect();
    assert_eq!(lines, ["0 0", "1024 1024", "9 10", "0022", "2097152"]);
}

#[tokio::test]
async fn a_guest_reads_and_writes_where_it_may_and_nowhere_else() {
    let (_tool, sandbox) = seatbelt().await;
    let (workspace, other) = (Workspace::new(), Workspace::new());
    // As far as the file system goes, everybody may.
    std::fs::write(other.path().join("secret"), "secret").unwrap();
    let code = format!(
        r#"
        try() {{ if "${{@:2}}" 2>/dev/null; then echo "$1 yes"; else echo "$1 no"; fi; }}
        write() {{ echo x >>"$1"; }}
        try own write "$PWD/file"
        try own cat "$PWD/file"
        try script grep -q try "$0"
        try script write "$0"
        try session cat '{other}/secret'
        try session write '{other}/secret'
        try session write '{other}/new'
        try link ln -s '{other}/secret' link
        try link cat link
        try home ls "{home}"
        "#,
        other = other.path().display(),
        home = if cfg!(target_os = "macos") {
            "/Users"
        } else {
            "/etc"
        },
    );
    let outcome = run(&sandbox, shell(&code, &workspace)).await;
    let printed = stdout(&outcome);
    let answers: Vec<_> = printed
        .lines()
        .filter(|line| line.ends_with(" yes") || line.ends_with(" no"))
        .collect();
    assert_eq!(
        answers,
        [
            "own yes",
            "own yes",
            "script yes",
            "script no",
            "session no",
            "session no",
            "session no",
            "link yes",
            "link no",
            "home no"
        ],
        "{}",
        stderr(&outcome)
    );
}

#[tokio::test]
async fn there_is_no_network_for_anybody() {
    let (_tool, sandbox) = seatbelt().await;
    let workspace = Workspace::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Positive control: out here it connects.
    drop(std::net::TcpStream::connect(("127.0.0.1", port)).unwrap());
    let python = format!(
        "import socket\ndef handler(event):\n    try:\n        socket.create_connection(('127.0.0.1', {port}), 5)\n        \
         return 'connected'\n    except PermissionError:\n        return 'denied'"
    );
    let node = format!(
        "exports.handler = () => new Promise((done) => {{\n  const socket = require('net').connect({port}, '127.0.0.1');\n  \
         socket.on('connect', () => done('connected'));\n  socket.on('error', (error) => done(error.code === 'EPERM' ? 'denied' : error.code));\n}})"
    );
    for (language, code) in [(Language::Python, python), (Language::JavaScript, node)] {
        let outcome = run(&sandbox, job(language, &code, &workspace)).await;
        assert!(
            matches!(&outcome.ending, Ending::Completed { return_value } if return_value.as_str() == "\"denied\""),
            "{language}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn the_cpu_time_of_a_whole_tree_counts() {
    let (_tool, sandbox) = seatbelt().await;
    let workspace = Workspace::new();
    // Each process by itself stays far below its limit for longer than anybody waits.
    let code = "for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; wait";
    let mut job = script(Language::Shell, code, &workspace);
    let allowed = std::time::Duration::from_millis(1500);
    job.limits = limits(|wish| {
        wish.timeout = Some(120);
        wish.max_cpu_time_ms = Some(1500);
    });
    let outcome = run(&sandbox, job).await;
    assert_eq!(
        outcome.ending,
        Ending::TimedOut {
            clock: Clock::Cpu,
            allowed
        }
    );
    assert_eq!(outcome.limits_hit, [LimitHit::CpuTime]);
    assert!(outcome.usage.cpu_time.unwrap() >= allowed);
}

#[tokio::test]
async fn memory_spread_over_children_counts() {
    let (_tool, sandbox) = seatbelt().await;
    let workspace = Workspace::new();
    let code = "import os, time\ndef handler(event):\n    for _ in range(4):\n        if os.fork() == 0:\n            \
                taken = bytearray(60 << 20)\n            time.sleep(100000)\n    time.sleep(100000)";
    let mut job = job(Language::Python, code, &workspace);
    job.limits = limits(|wish| {
        wish.timeout = Some(120);
        wish.max_memory_mb = Some(150);
    });
    let outcome = run(&sandbox, job).await;
    assert_eq!(outcome.limits_hit, [LimitHit::Memory], "{outcome:?}");
    assert!(outcome.usage.peak_memory_bytes.unwrap() > 150 << 20);
}
