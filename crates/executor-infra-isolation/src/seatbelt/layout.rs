//! Where a host keeps its interpreters, and what of it a guest has to read.

use std::path::{Path, PathBuf};

use crate::guest::interpreter::Interpreter;

/// A place where interpreters are installed, and the directories in it that make them work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Software {
    /// An interpreter whose file is below this directory needs what follows.
    pub root: &'static str,
    /// Directories, relative to it; one that is empty means all of it.
    pub parts: &'static [&'static str],
}

/// Where a kind of host keeps interpreters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Where interpreters are looked for, best first.
    pub search: &'static [&'static str],
    /// Where they may really be, once links are followed. Anywhere else, in somebody's home above all, they are passed
    /// over.
    pub software: &'static [Software],
    /// The environment of a guest before the caller's variables are added, without what differs from run to run.
    pub environment: &'static [(&'static str, &'static str)],
}

/// What of Homebrew's tree an interpreter needs: not `var`, where databases keep their data, and of `etc` only what
/// OpenSSL reads when it is loaded.
const HOMEBREW: &[&str] = &[
    "bin",
    "Cellar",
    "Frameworks",
    "lib",
    "opt",
    "share",
    "etc/openssl@3",
];

impl Layout {
    /// macOS. `/usr/bin/python3` is not among them: it is a stand-in that looks for Xcode.
    pub const MACOS: Self = Self {
        search: &[
            "/opt/homebrew/bin",
            "/usr/local/bin",
            "/opt/local/bin",
            "/Library/Frameworks/Python.framework/Versions/Current/bin",
            "/Library/Developer/CommandLineTools/usr/bin",
            "/Applications/Xcode.app/Contents/Developer/usr/bin",
            "/bin",
        ],
        software: &[
            Software {
                root: "/opt/homebrew",
                parts: HOMEBREW,
            },
            // Homebrew on Intel, and what installers of Node and others bring.
            Software {
                root: "/usr/local",
                parts: HOMEBREW,
            },
            // MacPorts.
            Software {
                root: "/opt/local",
                parts: &["bin", "lib", "libexec", "Library/Frameworks", "share"],
            },
            // The installer of python.org.
            Software {
                root: "/Library/Frameworks/Python.framework",
                parts: &[""],
            },
            Software {
                root: "/Library/Developer/CommandLineTools",
                parts: &["usr", "Library/Frameworks"],
            },
            Software {
                root: "/Applications/Xcode.app/Contents/Developer",
                parts: &["usr", "Library/Frameworks"],
            },
            // The system's bash, which the profile allows anyway.
            Software {
                root: "/bin",
                parts: &[],
            },
        ],
        environment: &[
            (
                "PATH",
                "/opt/homebrew/bin:/usr/local/bin:/opt/local/bin:/usr/bin:/bin",
            ),
            // C.UTF-8 came with macOS 15 only.
            ("LANG", "en_US.UTF-8"),
            ("USER", "sandbox"),
            ("LOGNAME", "sandbox"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            (
                "NODE_PATH",
                "/opt/homebrew/lib/node_modules:/usr/local/lib/node_modules",
            ),
            // Node ends where it may not read OpenSSL's configuration, and Seatbelt refuses even what is not there.
            ("OPENSSL_CONF", "/dev/null"),
            ("MPLBACKEND", "Agg"),
        ],
    };

    /// Linux, where this adapter isolates nothing: for the tests that run it there with a stand-in for sandbox-exec.
    pub const LINUX: Self = Self {
        search: &["/usr/local/bin", "/usr/bin", "/bin"],
        software: &[Software {
            root: "/usr",
            parts: &["bin", "lib", "lib64", "local/bin", "local/lib"],
        }],
        environment: &[
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
            ("LANG", "C.UTF-8"),
            ("USER", "sandbox"),
            ("LOGNAME", "sandbox"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            ("OPENSSL_CONF", "/dev/null"),
        ],
    };

    /// This host's.
    pub const HERE: Self = if cfg!(target_os = "linux") {
        Self::LINUX
    } else {
        Self::MACOS
    };

    /// Where interpreters may be, for [`Interpreter::find_in`].
    pub(super) fn roots(&self) -> Vec<&'static str> {
        self.software.iter().map(|software| software.root).collect()
    }

    /// The directories that these interpreters need, in the order of this layout.
    pub(super) fn needed(&self, interpreters: &[Interpreter]) -> Vec<PathBuf> {
        let mut needed = Vec::new();
        for software in self.software {
            let in_use = interpreters
                .iter()
                .any(|found| found.target().starts_with(software.root));
            if in_use {
                let root = Path::new(software.root);
                needed.extend(software.parts.iter().map(|part| match *part {
                    // Joined, it would leave a slash behind, which the kernel's paths have not.
                    "" => root.to_owned(),
                    part => root.join(part),
                }));
            }
        }
        needed
    }
}

#[cfg(test)]
mod tests {
    use executor_domain::Language;

    use super::*;

    /// The interpreter that is found on a Mac of which only these links and files exist.
    fn found(language: Language, files: &[(&str, &str)]) -> Option<Interpreter> {
        let layout = Layout::MACOS;
        Interpreter::find_in(layout.search, &layout.roots(), language, |path| {
            let (_, target) = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some(PathBuf::from(target))
        })
        .ok()
    }

    #[test]
    fn an_interpreter_in_somebodys_home_is_none() {
        let files = [
            ("/opt/homebrew/bin/python3", "/Users/me/.pyenv/bin/python3"),
            ("/usr/bin/python3", "/usr/bin/python3"),
            (
                "/Library/Developer/CommandLineTools/usr/bin/python3",
                "/Library/Developer/CommandLineTools/Library/Frameworks/Python3.framework/Versions/3.9/bin/python3.9",
            ),
        ];
        let python = found(Language::Python, &files).unwrap();
        assert!(python.path().starts_with("/Library/Developer"));
        assert_eq!(found(Language::Python, &files[..2]), None);
    }

    #[test]
    fn a_guest_reads_what_its_interpreter_needs_and_no_more() {
        let python = found(
            Language::Python,
            &[(
                "/opt/homebrew/bin/python3",
                "/opt/homebrew/Cellar/python@3.13/3.13.1/Frameworks/Python.framework/Versions/3.13/bin/python3.13",
            )],
        );
        let bash = found(Language::Shell, &[("/bin/bash", "/bin/bash")]);
        let needed = Layout::MACOS.needed(&[python.unwrap(), bash.unwrap()]);
        assert!(needed.contains(&PathBuf::from("/opt/homebrew/Cellar")));
        for other in [
            "/opt/homebrew",
            "/opt/homebrew/var",
            "/usr/local/bin",
            "/bin",
        ] {
            assert!(!needed.contains(&PathBuf::from(other)), "{other}");
        }
    }

    #[test]
    fn all_of_a_place_is_the_place_itself() {
        let python = found(
            Language::Python,
            &[(
                "/Library/Frameworks/Python.framework/Versions/Current/bin/python3",
                "/Library/Frameworks/Python.framework/Versions/3.13/bin/python3.13",
            )],
        );
        let needed = Layout::MACOS.needed(&[python.unwrap()]);
        // A comparison of paths sees no slash at their end.
        assert_eq!(
            needed,
            [PathBuf::from("/Library/Frameworks/Python.framework")]
        );
        assert!(!needed[0].to_str().unwrap().ends_with('/'), "{needed:?}");
    }
}
