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

/// In bubblewrap 0.8.0's words. Most specific first: "Operation not permitted" alone says nothing.
const KNOWN: [Known; 14] = [
    Known {
        says: "No permissions to create new namespace",
        means: "the kernel or a container runtime refuses user namespaces",
        remedy: "on a bare host: `sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000`; \
                 in a container: allow `clone`, `unshare`, `mount`, `umount2`, `pivot_root` in the seccomp profile (deploy/seccomp has one), or `--privileged`",
    },
    Known {
        says: "Creating new namespace failed: nesting depth",
        means: "no user namespaces are left or allowed",
        remedy: "`sysctl -w user.max_user_namespaces=15000` (and the same for the other user.max_*_namespaces)",
    },
    Known {
        says: "unshare user ns",
        means: "the seccomp profile of a container denies `unshare`",
        remedy: "allow `unshare` in the container's seccomp profile, or run the container with `--privileged`",
    },
    Known {
        says: "Failed to make / slave",
        means: "the seccomp or AppArmor profile of a container denies `mount`",
        remedy: "allow `mount` in the container's seccomp profile; with Docker also `--security-opt apparmor=unconfined`",
    },
    Known {
        says: "pivot_root",
        means: "the seccomp profile of a container denies `pivot_root`",
        remedy: "allow `pivot_root` in the container's seccomp profile",
    },
    Known {
        says: "unmount old root",
        means: "the seccomp profile of a container denies `umount2`",
        remedy: "allow `umount2` in the container's seccomp profile",
    },
    Known {
        says: "Can't set hostname",
        means: "the seccomp profile of a container denies `sethostname`",
        remedy: "run the container with the seccomp profile in deploy/seccomp, or allow `sethostname` in its own",
    },
    Known {
        says: "Can't mount proc",
        means: "parts of /proc are masked, so the kernel refuses another one (user_namespaces(7))",
        remedy: "Docker: `--security-opt systempaths=unconfined`; Podman: `--security-opt unmask=ALL`; Kubernetes: `procMount: Unmasked` with `hostUsers: false`",
    },
    Known {
        says: "Unexpected capabilities but not setuid",
        means: "an unprivileged daemon was given capabilities, which bubblewrap refuses",
        remedy: "drop them: `--cap-drop ALL`",
    },
    Known {
        says: "setting up uid map: Permission denied",
        means: "Ubuntu's AppArmor restricts user namespaces",
        remedy: "install bubblewrap from the distribution, whose AppArmor profile allows /usr/bin/bwrap, or `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
    },
    Known {
        says: "loopback: Failed RTM_NEWADDR",
        means: "Ubuntu's AppArmor restricts user namespaces",
        remedy: "install bubblewrap from the distribution, whose AppArmor profile allows /usr/bin/bwrap, or `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
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

    #[test]
    fn what_is_not_known_is_passed_on_as_it_is() {
        assert_eq!(explain("bwrap: the sky fell"), "bwrap: the sky fell");
    }
}
