//! Which walls stand: tried from inside by a guest of our own, and named.

use std::{fmt::Write as _, io, net::TcpListener};

use executor_application::Wall;

use super::area::{Area, write_readable};

/// What a guest of ours tries, and what must come of it.
///
/// The words are paths and numbers that the guest is told in its environment. Every line must come back with this answer,
/// and no other: one that is missing has not been tried.
const ATTEMPTS: [(&str, &str); 7] = [
    // Controls: a guest that can do nothing at all would prove nothing.
    ("write to the workspace", "can"),
    ("write to the temporary directory", "can"),
    ("read a file outside", "cannot"),
    ("write to a file outside", "cannot"),
    ("make a file outside", "cannot"),
    ("connect to a port of this host", "cannot"),
    ("signal its keeper", "cannot"),
];

/// Tries it. All of it is built into the shell: nothing has to be installed.
const PROBE: &str = r#"
try() {
    if "${@:2}" 2>/dev/null; then echo "$1: can"; else echo "$1: cannot"; fi
}
write() { echo x >"$1"; }
append() { echo x >>"$1"; }
read_one() { read -r line <"$1"; }
connect() { : <>"/dev/tcp/127.0.0.1/$1"; }
try 'write to the workspace' write "$PWD/probe"
try 'write to the temporary directory' write "$TMPDIR/probe"
try 'read a file outside' read_one "$PROBE_OUTSIDE/secret"
try 'write to a file outside' append "$PROBE_OUTSIDE/secret"
try 'make a file outside' write "$PROBE_OUTSIDE/new"
try 'connect to a port of this host' connect "$PROBE_PORT"
try 'signal its keeper' kill -0 "$PPID"
"#;

/// A place outside of the sandbox that the probe aims at: what it could reach were there no walls.
pub(super) struct Target {
    area: Area,
    listener: TcpListener,
}

impl Target {
    /// Makes one. `area` is that of another run: the guest's user may write there as far as the file system goes.
    pub(super) fn new(area: Area) -> io::Result<Self> {
        write_readable(area.tmp().join("secret"), "secret\n")?;
        if let Some((user, group)) = area.owner() {
            std::os::unix::fs::chown(area.tmp().join("secret"), Some(user), Some(group))?;
        }
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        Ok(Self { area, listener })
    }

    /// What the probe has to be told.
    pub(super) fn environment(&self) -> io::Result<[(String, String); 2]> {
        let port = self.listener.local_addr()?.port();
        Ok([
            (
                "PROBE_OUTSIDE".to_owned(),
                self.area.tmp().to_string_lossy().into_owned(),
            ),
            ("PROBE_PORT".to_owned(), port.to_string()),
        ])
    }
}

/// The program that tries every wall, for bash.
pub(super) const fn probe() -> &'static str {
    PROBE
}

/// What is wrong with the walls, by what the probe printed. Empty: they all stand.
pub(super) fn breaches(printed: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    for (attempt, expected) in ATTEMPTS {
        let answers: Vec<_> = printed
            .lines()
            .filter_map(|line| line.strip_prefix(attempt)?.strip_prefix(": "))
            .collect();
        match answers[..] {
            [answer] if answer == expected => {}
            [] => breaches.push(format!("nobody has tried whether a guest can {attempt}")),
            _ => {
                let mut breach = String::new();
                let _ = match expected {
                    "can" => write!(breach, "a guest cannot {attempt}"),
                    _ => write!(breach, "a guest can {attempt}"),
                };
                breaches.push(breach);
            }
        }
    }
    breaches
}

/// Every wall by name. `breaches` must have found nothing.
pub(super) fn describe(own_user: Option<u32>, daemon: u32) -> Vec<Wall> {
    vec![
        Wall::on(
            "seatbelt_profile",
            "closed by default: reads the system, interpreters and its workspace; writes to its workspace and its own temporary directory",
        ),
        Wall::on(
            "network",
            "no socket leaves the sandbox, not even to this host",
        ),
        Wall::on(
            "services",
            "no Apple events, no launch services, no services of other processes but those that the profile lists",
        ),
        Wall::on(
            "rlimits",
            "core dumps off; open files, file size, processes of the user, CPU time",
        ),
        Wall::on("wall_time", "the whole tree is killed"),
        Wall::on("output_cap", "stdout, stderr and result are cut"),
        match own_user {
            Some(user) => Wall::on("own_user", format!("guests are user {user} on the host")),
            None => Wall::off(
                "own_user",
                format!("guests are user {daemon} on the host, like the daemon"),
            ),
        },
        Wall::off(
            "pid_namespace",
            "there is none on macOS: a process that leaves its parent, its group and its session within a quarter of a second outlives the run, inside the sandbox",
        ),
        Wall::off(
            "ipc_namespace",
            "there is none on macOS: POSIX semaphores are shared by all processes of the host",
        ),
        Wall::off(
            "memory_limit",
            "memory is looked at four times a second: a guest may use more for so long",
        ),
        Wall::off(
            "process_limit",
            "processes are limited by user (RLIMIT_NPROC), all runs and the daemon's own together; a refused one is not reported",
        ),
        Wall::off(
            "tmp_bounds",
            "the bytes of temporary files are limited file by file (RLIMIT_FSIZE), not in all",
        ),
        Wall::off(
            "supported_tool",
            "Apple calls sandbox-exec deprecated, and documents its language nowhere: a release of macOS may change either",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing() -> String {
        ATTEMPTS
            .map(|(attempt, expected)| format!("{attempt}: {expected}\n"))
            .concat()
    }

    #[test]
    fn standing_walls_have_no_breach() {
        assert_eq!(breaches(&standing()), [""; 0]);
    }

    #[test]
    fn each_answer_counts() {
        for (attempt, expected) in ATTEMPTS {
            let other = if expected == "can" { "cannot" } else { "can" };
            let wrong = standing().replace(
                &format!("{attempt}: {expected}"),
                &format!("{attempt}: {other}"),
            );
            let found = breaches(&wrong);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(attempt), "{found:?}");

            let missing = standing().replace(&format!("{attempt}: {expected}\n"), "");
            assert_eq!(
                breaches(&missing),
                [format!("nobody has tried whether a guest can {attempt}")]
            );
            // A guest's word against itself.
            let twice = format!("{}{attempt}: {other}\n", standing());
            assert_eq!(breaches(&twice).len(), 1);
        }
    }

    #[test]
    fn the_probe_tries_all_of_it() {
        for (attempt, _) in ATTEMPTS {
            assert!(PROBE.contains(&format!("try '{attempt}'")), "{attempt}");
        }
        assert_eq!(PROBE.matches("\ntry '").count(), ATTEMPTS.len());
    }
}
