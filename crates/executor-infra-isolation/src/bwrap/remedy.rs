//! What to do when a sandbox cannot be built: from what bubblewrap and the kernel say to what an operator does.

/// One known failure.
struct Known {
    /// A part of what bubblewrap or our stages say.
    says: &'static str,
    /// What it means.
    means: &'static str,
    /// What to do.
    remedy: &'static str,
}

/// How each kind of place is given our seccomp profile, which allows what a sandbox is built with.
macro_rules! with_our_profile {
    ($before:literal) => {
        concat!(
            $before,
            "Docker, Podman: `--security-opt seccomp=deploy/seccomp/sandbox-executor.json`; \
             Kubernetes: that profile on the node (deploy/seccomp) and `seccompProfile: {type: Localhost}`"
        )
    };
}

/// Where AppArmor gives a new user namespace no capabilities, as Ubuntu has it since 23.10.
const WHERE_APPARMOR_RESTRICTS: &str = "install bubblewrap from the distribution, whose AppArmor profile allows /usr/bin/bwrap, or `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`; in a container: deploy/apparmor";

/// In bubblewrap 0.8.0's words. Most specific first: "Operation not permitted" alone says nothing.
const KNOWN: [Known; 15] = [
    Known {
        says: "No permissions to create new namespace",
        means: "the kernel or a container runtime refuses user namespaces",
        remedy: with_our_profile!(
            "on a bare host: `sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000`; "
        ),
    },
    Known {
        says: "Creating new namespace failed: nesting depth",
        means: "no user namespaces are left or allowed",
        remedy: "`sysctl -w user.max_user_namespaces=15000` (and the same for the other user.max_*_namespaces)",
    },
    Known {
        says: "unshare user ns",
        means: "the seccomp profile of a container denies `unshare`",
        remedy: with_our_profile!(""),
    },
    Known {
        says: "Failed to make / slave",
        means: "the seccomp or AppArmor profile of a container denies `mount`",
        remedy: with_our_profile!(
            "where Docker has AppArmor: `--security-opt apparmor=sandbox-executor` (deploy/apparmor); Kubernetes: `appArmorProfile: {type: Unconfined}`; "
        ),
    },
    Known {
        says: "pivot_root",
        means: "the seccomp profile of a container denies `pivot_root`",
        remedy: with_our_profile!(""),
    },
    Known {
        says: "unmount old root",
        means: "the seccomp profile of a container denies `umount2`",
        remedy: with_our_profile!(""),
    },
    Known {
        says: "Can't set hostname",
        means: "the seccomp profile of a container denies `sethostname`",
        remedy: with_our_profile!(""),
    },
    Known {
        says: "Can't mount proc",
        means: "parts of /proc are masked, so the kernel refuses another one (user_namespaces(7))",
        remedy: "Docker: `--security-opt systempaths=unconfined`; Podman: `--security-opt unmask=ALL`; Kubernetes: `procMount: Unmasked` with `hostUsers: false`",
    },
    Known {
        says: "Unexpected capabilities but not setuid",
        means: "an unprivileged daemon was given capabilities, which bubblewrap refuses",
        remedy: "drop them: Docker, Podman: `--cap-drop ALL`; Kubernetes: `capabilities: {drop: [ALL]}`; systemd: `AmbientCapabilities=`",
    },
    Known {
        says: "setting up uid map: Permission denied",
        means: "Ubuntu's AppArmor restricts user namespaces",
        remedy: WHERE_APPARMOR_RESTRICTS,
    },
    Known {
        says: "loopback: Failed RTM_NEWADDR",
        means: "Ubuntu's AppArmor restricts user namespaces",
        remedy: WHERE_APPARMOR_RESTRICTS,
    },
    Known {
        says: "setting up uid map: Operation not permitted",
        means: "the daemon is root without the capability to map users",
        remedy: "run it as an unprivileged user, or give it CAP_SETUID and CAP_SETGID",
    },
    Known {
        says: "change user",
        means: "the daemon is root without the capability to become another user",
        remedy: "run it as an unprivileged user, or give it CAP_SETUID and CAP_SETGID",
    },
    Known {
        says: "Can't find source path",
        means: "the user whom guests are on the host cannot reach a directory",
        remedy: "let everybody pass through the directories above it: `chmod o+x`",
    },
    Known {
        says: "Function not implemented",
        means: "the kernel is too old, or a seccomp profile says that it is",
        remedy: with_our_profile!("on a bare host: Linux 5.12 or newer (`uname -r`); "),
    },
];

/// What a message means and what to do about it, in one sentence; the message alone where it is not known.
pub(crate) fn explain(message: &str) -> String {
    match KNOWN.iter().find(|known| message.contains(known.says)) {
        Some(known) => format!("{message} ({}). Remedy: {}", known.means, known.remedy),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_message_finds_its_own_remedy() {
        for known in &KNOWN {
            let said = format!("bwrap: {}: whatever", known.says);
            let explained = explain(&said);
            assert!(explained.starts_with(&said), "{explained}");
            assert!(explained.contains(known.remedy), "{explained}");
        }
    }

    /// What bubblewrap 0.8.0 really says in each place, and what of the remedy must be there for it.
    const SAID: [(&str, &[&str]); 14] = [
        (
            "bwrap: No permissions to create new namespace, likely because the kernel does not allow non-privileged user namespaces. On e.g. debian this can be enabled with 'sysctl kernel.unprivileged_userns_clone=1'.",
            &[
                "kernel.unprivileged_userns_clone=1",
                "--security-opt seccomp=",
                "type: Localhost",
            ],
        ),
        (
            "bwrap: unshare user ns: Operation not permitted",
            &["--security-opt seccomp=", "type: Localhost"],
        ),
        (
            "bwrap: Failed to make / slave: Operation not permitted",
            &["--security-opt seccomp=", "type: Localhost"],
        ),
        (
            "bwrap: Failed to make / slave: Permission denied",
            &["--security-opt apparmor=sandbox-executor"],
        ),
        (
            "bwrap: pivot_root: Operation not permitted",
            &["--security-opt seccomp=", "type: Localhost"],
        ),
        (
            "bwrap: unmount old root: Operation not permitted",
            &["--security-opt seccomp=", "type: Localhost"],
        ),
        (
            "bwrap: Can't set hostname to sandbox: Operation not permitted",
            &["--security-opt seccomp=", "type: Localhost"],
        ),
        (
            "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
            &[
                "systempaths=unconfined",
                "unmask=ALL",
                "procMount: Unmasked",
                "hostUsers: false",
            ],
        ),
        (
            "bwrap: Unexpected capabilities but not setuid, old file caps config?",
            &["--cap-drop ALL", "drop: [ALL]"],
        ),
        (
            "bwrap: setting up uid map: Operation not permitted",
            &["unprivileged user", "CAP_SETUID"],
        ),
        (
            "bwrap: Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces exceeded (ENOSPC)",
            &["user.max_user_namespaces=15000"],
        ),
        (
            "bwrap: setting up uid map: Permission denied",
            &[
                "kernel.apparmor_restrict_unprivileged_userns=0",
                "/usr/bin/bwrap",
            ],
        ),
        (
            "bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted",
            &[
                "kernel.apparmor_restrict_unprivileged_userns=0",
                "/usr/bin/bwrap",
            ],
        ),
        (
            "init: failed to open a directory: Function not implemented (os error 38)",
            &["Linux 5.12"],
        ),
    ];

    #[test]
    fn each_place_gets_its_own_remedy() {
        for (message, words) in SAID {
            let explained = explain(message);
            for word in words {
                assert!(explained.contains(word), "{word}: {explained}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_passed_on_as_it_is() {
        assert_eq!(explain("bwrap: the sky fell"), "bwrap: the sky fell");
    }
}
