//! What the profile of a run says, by reading it: on any platform, since nothing is run.

use executor_infra_isolation::seatbelt::{
    Layout,
    profile::{Policy, profile},
};
use sandbox_executor_tests::sbpl::{Expression, OPERATIONS, Profile, Target, read};

const WORKSPACE: &str = "/Users/me/executor/sessions/s1";
const PRIVATE: &str = "/private/var/folders/ab/T/sandbox-runs-7/3/private";
const SCRIPT: &str = "/private/var/folders/ab/T/sandbox-runs-7/3/main.sh";

/// Everything that a Mac may have installed.
fn software() -> Vec<String> {
    Layout::MACOS
        .software
        .iter()
        .flat_map(|software| {
            let parts = software.parts.iter();
            parts.map(|part| {
                format!("{}/{part}", software.root)
                    .trim_end_matches('/')
                    .to_owned()
            })
        })
        .collect()
}

fn text_and_parameters() -> (String, Vec<(String, String)>) {
    let made = profile(&Policy {
        workspace: WORKSPACE,
        private: PRIVATE,
        script: SCRIPT,
        software: &software(),
    });
    (made.text, made.parameters)
}

fn parsed() -> Profile {
    let (text, parameters) = text_and_parameters();
    Profile::parse(&text, &parameters).unwrap()
}

/// Checks what becomes of an operation on each of these files.
#[track_caller]
fn files(allowed: bool, operations: &[&str], paths: &[&str]) {
    let profile = parsed();
    for operation in operations {
        for path in paths {
            assert_eq!(
                profile.allows(operation, Target::Path(path)),
                allowed,
                "{operation} {path}"
            );
        }
    }
}

const READING: [&str; 2] = ["file-read-data", "file-read-metadata"];
const WRITING: [&str; 5] = [
    "file-write-data",
    "file-write-create",
    "file-write-unlink",
    "file-write-mode",
    "file-write-flags",
];

/// Every word of these expressions.
fn symbols(forms: &[Expression], found: &mut Vec<String>) {
    for form in forms {
        match form {
            Expression::Symbol(symbol) => found.push(symbol.clone()),
            Expression::List(list) => symbols(list, found),
            Expression::Text(_) => {}
        }
    }
}

#[test]
fn it_is_well_formed_and_names_only_operations_that_are_known() {
    // The reader refuses everything else; this counts that there was something to refuse.
    let profile = parsed();
    assert!(profile.rules.len() > 20);
    // Whatever is known is used: a name nobody uses would hide a typing error.
    let (text, _) = text_and_parameters();
    let mut found = Vec::new();
    symbols(&read(&text).unwrap(), &mut found);
    // Ways to name a part of what a rule with a star is about; no rule needs them at present.
    let spare = ["file-read-data", "file-write-create"];
    for operation in OPERATIONS.iter().filter(|name| !spare.contains(name)) {
        assert!(
            found.iter().any(|symbol| symbol == operation),
            "{operation}"
        );
    }
}

#[test]
fn what_a_guest_needs_is_open() {
    files(
        true,
        &READING,
        &[
            "/",
            "/usr/lib/libSystem.B.dylib",
            "/System/Library/Frameworks/Python.framework/x",
            "/System/Volumes/Preboot/Cryptexes/OS/System/Library/dyld/dyld_shared_cache_arm64e",
            "/bin/bash",
            "/usr/bin/sed",
            "/opt/homebrew/Cellar/python@3.13/3.13.1/bin/python3.13",
            "/opt/homebrew/lib/python3.13/site-packages/numpy/__init__.py",
            "/Library/Frameworks/Python.framework/Versions/3.13/lib/libpython3.13.dylib",
            "/dev/null",
            "/dev/urandom",
            WORKSPACE,
            SCRIPT,
        ],
    );
    let inside = [
        &format!("{WORKSPACE}/data/x.csv")[..],
        &format!("{PRIVATE}/tmp/x"),
        &format!("{PRIVATE}/home/.config"),
    ];
    files(true, &READING, &inside);
    files(true, &WRITING, &inside);
    files(
        true,
        &["process-exec", "file-map-executable"],
        &["/opt/homebrew/Cellar/python@3.13/3.13.1/bin/python3.13"],
    );
    files(true, &["process-exec"], &["/bin/ls", "/usr/bin/awk"]);
    let profile = parsed();
    assert!(profile.allows("process-fork", Target::Nothing));
    assert!(profile.allows("signal", Target::Process { own: true }));
    assert!(profile.allows("sysctl-read", Target::Name("hw.ncpu")));
}

#[test]
fn homes_and_other_sessions_are_closed_to_readers() {
    files(
        false,
        &["file-read-data", "file-map-executable"],
        &[
            "/Users/me/.ssh/id_ed25519",
            "/Users/me/Library/Keychains/login.keychain-db",
            "/Users/me/executor/sessions/s2/secret",
            "/Users/me/executor/sessions",
            "/Users/me",
            "/Users",
            "/Users/me/executor/sessions/s11/x",
            "/private/var/root/.profile",
            "/private/var/folders/ab/T/other",
            "/private/var/folders/ab/T/sandbox-runs-7/4/private/tmp/x",
            "/private/var/folders/ab/T/sandbox-runs-7/3/stdin",
            "/private/tmp/x",
            "/Volumes/Backup/Users/me/x",
            // The same files by the names that the file system has for them besides.
            "/System/Volumes/Data/Users/me/.ssh/id_ed25519",
            "/System/Volumes/Data/private/etc/master.passwd",
            "/private/etc/master.passwd",
            "/private/etc/passwd",
            "/private/var/db/dslocal/nodes/Default/users/me.plist",
            "/Library/Keychains/System.keychain",
            "/Library/Application Support/x",
            "/Applications/Mail.app/x",
            "/opt/homebrew/var/postgresql@16/x",
            "/opt/homebrew/etc/my.cnf",
            "/usr/local/etc/x",
            "/dev/disk0",
            "/dev/tty",
            "/dev/ttys001",
        ],
    );
    // Not even whether they are there, but for the directories on the way to the workspace.
    files(
        false,
        &["file-read-metadata", "file-test-existence"],
        &[
            "/Users/me/.ssh",
            "/Users/you",
            "/Users/me/executor/sessions/s2",
            "/private/tmp/x",
        ],
    );
    files(
        true,
        &["file-read-metadata"],
        &["/Users", "/Users/me", "/Users/me/executor/sessions"],
    );
}

#[test]
fn everything_outside_is_closed_to_writers() {
    files(
        false,
        &WRITING,
        &[
            "/Users/me/.zshrc",
            "/Users/me/Library/LaunchAgents/x.plist",
            "/Users/me/executor/sessions/s2/x",
            "/Users/me/executor/sessions/x",
            "/Users/me/executor/sessions/s11/x",
            SCRIPT,
            "/private/var/folders/ab/T/sandbox-runs-7/3/x",
            "/private/var/folders/ab/T/x",
            "/private/tmp/x",
            "/private/etc/hosts",
            "/usr/local/bin/x",
            "/opt/homebrew/bin/python3",
            "/opt/homebrew/lib/python3.13/site-packages/x.pth",
            "/Applications/x",
            "/Library/LaunchDaemons/x.plist",
            "/Volumes/x",
            "/System/Volumes/Data/Users/me/.zshrc",
            "/dev/disk0",
            "/dev/tty",
            "/",
        ],
    );
    // No setuid files, in the workspace neither.
    files(false, &["file-write-setugid"], &[&format!("{WORKSPACE}/x")]);
}

#[test]
fn the_network_is_closed() {
    let profile = parsed();
    for operation in [
        "network-outbound",
        "network-inbound",
        "network-bind",
        "system-socket",
    ] {
        for target in [
            Target::Nothing,
            Target::Name("*:443"),
            Target::Path("/private/var/run/mDNSResponder"),
            Target::Path("/private/var/run/docker.sock"),
        ] {
            assert!(!profile.allows(operation, target), "{operation} {target:?}");
        }
    }
}

#[test]
fn nobody_else_does_a_guests_work() {
    let profile = parsed();
    for operation in [
        "appleevent-send",
        "lsopen",
        "job-creation",
        "mach-register",
        "mach-priv-task-port",
        "iokit-open",
        "user-preference-write",
        "distributed-notification-post",
        "nvram-set",
        "system-privilege",
        "pseudo-tty",
        "ipc-posix-shm-write-create",
    ] {
        assert!(!profile.allows(operation, Target::Nothing), "{operation}");
    }
    for service in [
        "com.apple.coreservices.appleevents",
        "com.apple.coreservices.launchservicesd",
        "com.apple.lsd.open",
        "com.apple.pasteboard.1",
        "com.apple.securityd.xpc",
        "com.apple.SecurityServer",
        "com.apple.trustd",
        "com.apple.mDNSResponder",
        "com.apple.nsurlsessiond",
        "com.apple.windowserver.active",
        "com.apple.logd",
    ] {
        assert!(
            !profile.allows("mach-lookup", Target::Name(service)),
            "{service}"
        );
    }
    // The list of doors, whole.
    let services: Vec<_> = profile
        .rules
        .iter()
        .filter(|rule| rule.allows && rule.names("mach-lookup"))
        .map(|rule| format!("{:?}", rule.filters))
        .collect();
    assert_eq!(
        services,
        [
            r#"[Name("com.apple.system.opendirectoryd.libinfo"), Name("com.apple.system.notification_center")]"#
        ]
    );
}

#[test]
fn other_processes_are_out_of_reach() {
    let profile = parsed();
    for operation in ["signal", "process-info-pidinfo", "process-info-listpids"] {
        assert!(
            !profile.allows(operation, Target::Process { own: false }),
            "{operation}"
        );
        assert!(!profile.allows(operation, Target::Nothing), "{operation}");
    }
    // The arguments and environments of other processes are kernel variables too.
    for name in ["kern.procargs2", "kern.proc.all", "net.inet.tcp.pcblist"] {
        assert!(!profile.allows("sysctl-read", Target::Name(name)), "{name}");
    }
    files(
        false,
        &["process-exec", "process-exec-interpreter"],
        &[
            "/usr/bin/osascript",
            "/usr/bin/open",
            "/bin/launchctl",
            "/usr/bin/sudo",
            "/usr/sbin/screencapture",
            "/Applications/Mail.app/Contents/MacOS/Mail",
            "/Users/me/bin/x",
            // What a guest has written is read by interpreters, and not started as a program.
            "/Users/me/executor/sessions/s1/x",
            "/private/var/folders/ab/T/sandbox-runs-7/3/private/tmp/x",
        ],
    );
}

/// Each closing rule closes something: without it the profile would still be shut by default, and a rule that somebody
/// adds above would open it.
#[test]
fn what_is_opened_by_mistake_stays_closed() {
    let (text, parameters) = text_and_parameters();
    let opened = text.replacen(
        "(deny default)",
        "(deny default)\n(allow file-read* file-write* network* appleevent-send lsopen job-creation mach-register \
         iokit-open system-socket process-exec)",
        1,
    );
    let opened = Profile::parse(&opened, &parameters).unwrap();
    // It really is open where no later rule closes.
    assert!(opened.allows("file-read-data", Target::Path("/Library/Preferences/x")));
    for (operation, target) in [
        ("file-read-data", Target::Path("/Users/me/.ssh/id_ed25519")),
        ("file-write-data", Target::Path("/Users/me/.zshrc")),
        (
            "file-read-data",
            Target::Path("/System/Volumes/Data/Users/me/x"),
        ),
        ("file-read-data", Target::Path("/private/tmp/x")),
        ("process-exec", Target::Path("/usr/bin/osascript")),
        ("network-outbound", Target::Nothing),
        ("appleevent-send", Target::Nothing),
        ("lsopen", Target::Nothing),
        ("job-creation", Target::Nothing),
        ("mach-register", Target::Nothing),
        ("iokit-open", Target::Nothing),
        ("system-socket", Target::Nothing),
    ] {
        assert!(!opened.allows(operation, target), "{operation} {target:?}");
    }
}
