//! Interpreters: where they are looked for, how one is started, and in which environment.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use executor_domain::Language;
use thiserror::Error;

/// Where interpreters are looked for, in this order: places that the guest sees as well, and never the daemon's own
/// `$PATH`, which may lead to version managers in somebody's home directory.
pub const SEARCH_DIRECTORIES: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// Where an interpreter may really be once links are followed: what a sandbox shows of the system.
const SYSTEM_ROOTS: [&str; 3] = ["/usr", "/opt", "/bin"];

/// Where a guest finds its workspace; its working directory and home.
pub const GUEST_WORKSPACE: &str = "/workspace";

/// Where a shell guest's script is, read-only.
pub const SHELL_SCRIPT: &str = "/run/sandbox/main.sh";

/// Where a warm shell finds its variables: assignments, read-only.
pub const SHELL_ENVIRONMENT: &str = "/run/sandbox/environment.sh";

const PYTHON_BOOTSTRAP: &str = include_str!("python/bootstrap.py");
const PYTHON_ZYGOTE: &str = include_str!("python/zygote.py");
const SHELL_ZYGOTE: &str = include_str!("shell/zygote.sh");
const NODE_ZYGOTE: &str = include_str!("node/zygote.js");
const NODE_BOOTSTRAP: &str = include_str!("node/bootstrap.js");

/// The guest's environment before the caller's variables are added, which may replace any of these. Nothing is inherited
/// from the daemon.
pub const GUEST_ENVIRONMENT: [(&str, &str); 8] = [
    ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ("HOME", GUEST_WORKSPACE),
    ("TMPDIR", "/tmp"),
    ("LANG", "C.UTF-8"),
    // A cached module is trusted when size and whole seconds of its time stamp match, and an agent rewrites its files
    // more often than that.
    ("PYTHONDONTWRITEBYTECODE", "1"),
    // Global packages of npm, and of Debian's node-* packages.
    (
        "NODE_PATH",
        "/usr/local/lib/node_modules:/usr/lib/node_modules:/usr/share/nodejs:/usr/lib/nodejs",
    ),
    // There is no display; without this matplotlib looks for one, and for a place to keep its font cache.
    ("MPLBACKEND", "Agg"),
    ("MPLCONFIGDIR", "/tmp/matplotlib"),
];

/// An interpreter of this host that guests can see as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    language: Language,
    path: PathBuf,
    target: PathBuf,
}

/// No interpreter of the language is where guests could see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no interpreter for {language} where guests could see it")]
pub struct NoInterpreter {
    /// The language.
    pub language: Language,
}

impl Interpreter {
    /// Looks for the interpreter of a language.
    ///
    /// `canonicalize` says where a path leads once all links are followed, and `None` for what does not exist or cannot be
    /// executed. A path that leads out of the system's directories is passed over: a sandbox does not show where it ends.
    pub fn find(
        language: Language,
        canonicalize: impl Fn(&Path) -> Option<PathBuf>,
    ) -> Result<Self, NoInterpreter> {
        Self::find_in(&SEARCH_DIRECTORIES, &SYSTEM_ROOTS, language, canonicalize)
    }

    /// The same on a host that keeps its interpreters elsewhere: looks for it in these directories, where it must lead to
    /// a file below one of these roots.
    pub fn find_in(
        directories: &[&str],
        roots: &[&str],
        language: Language,
        canonicalize: impl Fn(&Path) -> Option<PathBuf>,
    ) -> Result<Self, NoInterpreter> {
        candidates_in(directories, language)
            .find_map(|path| {
                let target = canonicalize(&path)?;
                let visible = roots.iter().any(|root| target.starts_with(root));
                visible.then_some(Self {
                    language,
                    path,
                    target,
                })
            })
            .ok_or(NoInterpreter { language })
    }

    /// The language that it interprets.
    pub const fn language(&self) -> Language {
        self.language
    }

    /// The path by which it is started. Interpreters find their libraries, and virtual environments, by this name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that it really is: what changes when the interpreter is replaced.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The words that start it for one guest, the interpreter's absolute path first. Python and Node expect the guest channel
    /// as descriptor 3, *blocking*, and the workspace as working directory.
    pub fn command(&self) -> Vec<OsString> {
        self.command_with(SHELL_SCRIPT)
    }

    /// The same, where a shell guest's script is somewhere else.
    pub fn command_with(&self, script: &str) -> Vec<OsString> {
        match self.language {
            // -s: HOME is the workspace, where an earlier run could have left a usercustomize.py.
            Language::Python => self.words(&["-s", "-c", PYTHON_BOOTSTRAP]),
            // Node has ES modules that are not files behind this flag only.
            Language::JavaScript => {
                self.words(&["--experimental-vm-modules", "-e", NODE_BOOTSTRAP])
            }
            Language::Shell => self.words(&[script]),
        }
    }

    /// The words that start it as a zygote: an interpreter that loads what it needs and forks guests that have it already.
    /// `None`: it cannot be one. It expects the daemon's socket as descriptor 3 and the guest library as descriptor 4.
    pub fn zygote_command(&self) -> Option<Vec<OsString>> {
        match self.language {
            Language::Python => Some(self.words(&["-s", "-c", PYTHON_ZYGOTE])),
            Language::Shell => Some(self.command()),
            Language::JavaScript => Some(self.words(&[
                // Threads of V8's would not be there after a fork. It starts one, whatever it is told, and leaves it idle.
                "--single-threaded",
                "--v8-pool-size=1",
                // What was compiled before the fork is not to be compiled after it.
                "--no-flush-bytecode",
                "--experimental-vm-modules",
                "-e",
                NODE_ZYGOTE,
            ])),
        }
    }

    /// What a zygote finds at [`SHELL_SCRIPT`], in place of a guest's script; `None`: nothing.
    pub fn zygote_script(&self) -> Option<String> {
        /// Most that bash reads of a script at once (`MAX_INPUT_BUFFER_SIZE` of its input.h), with room for the rest.
        const PADDED: usize = 7000;
        let padding = "#".repeat(PADDED);
        (self.language == Language::Shell).then(|| SHELL_ZYGOTE.replace("@PADDING@", &padding))
    }

    /// The words that make it print its version, for [`parse_version`].
    pub fn version_command(&self) -> Vec<OsString> {
        self.words(&["--version"])
    }

    fn words(&self, arguments: &[&str]) -> Vec<OsString> {
        let path = self.path.clone().into_os_string();
        std::iter::once(path)
            .chain(arguments.iter().map(OsString::from))
            .collect()
    }
}

/// Every path at which the interpreter of a language is looked for, best first.
pub fn candidates(language: Language) -> impl Iterator<Item = PathBuf> {
    candidates_in(&SEARCH_DIRECTORIES, language)
}

fn candidates_in(directories: &[&str], language: Language) -> impl Iterator<Item = PathBuf> {
    let names: &[&str] = match language {
        Language::Python => &["python3"],
        Language::JavaScript => &["node", "nodejs"],
        Language::Shell => &["bash"],
    };
    names.iter().flat_map(|name| {
        directories
            .iter()
            .map(move |directory| Path::new(directory).join(name))
    })
}

/// The version in what an interpreter prints of itself (`Python 3.11.2`, `v20.20.2`, `GNU bash, version 5.2.15(1)-release …`):
/// the first word that starts with a number, as far as it is numbers and dots.
pub fn parse_version(printed: &str) -> Option<&str> {
    printed.split_whitespace().find_map(|word| {
        let word = word.strip_prefix('v').unwrap_or(word);
        let end = word
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(word.len());
        let version = word[..end].trim_end_matches('.');
        version
            .starts_with(|c: char| c.is_ascii_digit())
            .then_some(version)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host of which only these links and files exist.
    fn host<'a>(files: &'a [(&str, &str)]) -> impl Fn(&Path) -> Option<PathBuf> + 'a {
        |path| {
            let (_, target) = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some(PathBuf::from(target))
        }
    }

    #[test]
    fn the_first_visible_interpreter_is_taken() {
        let files = [
            (
                "/usr/local/bin/python3",
                "/root/.pyenv/versions/3.13/bin/python3.13",
            ),
            ("/usr/bin/python3", "/usr/bin/python3.11"),
            ("/bin/python3", "/usr/bin/python3.11"),
            ("/usr/local/bin/node", "/opt/node/bin/node"),
        ];
        let python = Interpreter::find(Language::Python, host(&files)).unwrap();
        assert_eq!(python.path(), Path::new("/usr/bin/python3"));
        assert_eq!(python.target(), Path::new("/usr/bin/python3.11"));
        let node = Interpreter::find(Language::JavaScript, host(&files)).unwrap();
        assert_eq!(node.path(), Path::new("/usr/local/bin/node"));
        assert_eq!(
            Interpreter::find(Language::Shell, host(&files)),
            Err(NoInterpreter {
                language: Language::Shell
            })
        );
    }

    #[test]
    fn a_root_is_a_directory_and_no_prefix() {
        let files = [
            ("/usr/bin/bash", "/usrlocal/bash"),
            ("/bin/bash", "/bin/bash"),
        ];
        let bash = Interpreter::find(Language::Shell, host(&files)).unwrap();
        assert_eq!(bash.path(), Path::new("/bin/bash"));
        assert_eq!(bash.command(), ["/bin/bash", "/run/sandbox/main.sh"]);
    }

    #[test]
    fn a_warm_shell_reads_its_own_script_at_once_and_nothing_after_the_fork() {
        let bash = [("/usr/bin/bash", "/usr/bin/bash")];
        let bash = Interpreter::find(Language::Shell, host(&bash)).unwrap();
        let script = bash.zygote_script().unwrap();
        assert!((7000..8172).contains(&script.len()), "{}", script.len());
        assert!(script.trim_end().ends_with("|| exit") && script.ends_with('\n'));
        assert_eq!(
            script.lines().filter(|line| !line.starts_with('#')).count(),
            1
        );
    }

    #[test]
    fn versions_are_read_from_what_interpreters_print() {
        for (printed, version) in [
            ("Python 3.11.2\n", Some("3.11.2")),
            ("Python 3.13.0rc1\n", Some("3.13.0")),
            ("v20.20.2\n", Some("20.20.2")),
            (
                "GNU bash, version 5.2.15(1)-release (x86_64-pc-linux-gnu)\n",
                Some("5.2.15"),
            ),
            ("very odd\n", None),
            ("", None),
        ] {
            assert_eq!(parse_version(printed), version, "{printed}");
        }
    }

    #[test]
    fn no_word_of_a_command_is_too_long_for_the_kernel() {
        // Linux, execve(2): MAX_ARG_STRLEN, 32 pages, the closing NUL included.
        for bootstrap in [PYTHON_BOOTSTRAP, NODE_BOOTSTRAP, NODE_ZYGOTE] {
            assert!(bootstrap.len() < 128 * 1024 && !bootstrap.contains('\0'));
        }
    }
}
