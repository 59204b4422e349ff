//! Stands in for macOS's sandbox-exec on Linux: takes the same arguments, notes them, holds the command to the profile as
//! far as Linux can, and becomes it.
//!
//! Files are held by Landlock to what the profile allows; the network and signals to its parent by a seccomp filter, as
//! far as the profile denies them. What it cannot do (everything of Mach, and a file that is denied within a directory
//! that is allowed) is shown by the suite that reads the profile.
//!
//! Called by another name, it leaves a wall out, so that a test can see who notices: `sandbox-exec-without-files`,
//! `-without-network`, `-without-signals`.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        collections::BTreeMap,
        env,
        error::Error,
        fs::{self, OpenOptions},
        io::Write,
        os::unix::{fs::FileTypeExt, process::CommandExt},
        path::Path,
        process::{Command, ExitCode},
    };

    use landlock::{
        ABI, Access, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
        RulesetCreatedAttr,
    };
    use nix::libc;
    use sandbox_executor_tests::sbpl::{Filter, Profile, Target};
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule,
    };

    type Failure = Box<dyn Error>;

    /// What sandbox-exec answers to a profile that it cannot read (`EX_DATAERR`, sysexits(3)).
    const BAD_PROFILE: u8 = 65;

    pub(crate) fn main() -> ExitCode {
        match confine() {
            Ok(never) => match never {},
            Err(error) => {
                let line = format!("sandbox-exec: {error}\n");
                // Nobody is left to tell if this fails too.
                let _ = std::io::stderr().write_all(line.as_bytes());
                ExitCode::from(BAD_PROFILE)
            }
        }
    }

    fn confine() -> Result<std::convert::Infallible, Failure> {
        let words: Vec<String> = env::args().collect();
        note(&words)?;
        let order = Order::parse(&words[1..])?;
        let profile = Profile::parse(&order.profile, &order.parameters)?;
        let without = |wall: &str| words[0].ends_with(&format!("-without-{wall}"));
        if !without("files") {
            hold_files(&profile)?;
        }
        hold_the_rest(&profile, without("network"), without("signals"))?;
        let (program, arguments) = order.command.split_first().ok_or("no command")?;
        Err(Command::new(program).args(arguments).exec().into())
    }

    struct Order {
        profile: String,
        parameters: Vec<(String, String)>,
        command: Vec<String>,
    }

    impl Order {
        fn parse(words: &[String]) -> Result<Self, Failure> {
            let mut words = words.iter();
            let (mut profile, mut parameters) = (None, Vec::new());
            loop {
                match words.next().map(String::as_str) {
                    Some("-p") => profile = words.next().cloned(),
                    Some("-D") => {
                        let definition = words.next().ok_or("-D lacks its value")?;
                        let (name, value) =
                            definition.split_once('=').ok_or("-D wants KEY=VALUE")?;
                        parameters.push((name.to_owned(), value.to_owned()));
                    }
                    Some("--") => break,
                    other => return Err(format!("unexpected: {other:?}").into()),
                }
            }
            Ok(Self {
                profile: profile.ok_or("no profile")?,
                parameters,
                command: words.cloned().collect(),
            })
        }
    }

    /// Adds what it was called with, a line of JSON, to a file beside the name that it was called by. A test that wants it
    /// makes that file.
    fn note(words: &[String]) -> Result<(), Failure> {
        let place = Path::new(&words[0]).with_file_name("calls");
        if let Ok(mut calls) = OpenOptions::new().append(true).open(place) {
            let mut line = serde_json::to_vec(words)?;
            line.push(b'\n');
            calls.write_all(&line)?;
        }
        Ok(())
    }

    /// Denies every access to files that the profile does not allow. Landlock knows no file by its name, and nothing that
    /// is denied within what is allowed.
    fn hold_files(profile: &Profile) -> Result<(), Failure> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let all = AccessFs::from_all(ABI::V1);
        let write = all & !read & !AccessFs::Execute;
        let mut ruleset = Ruleset::default().handle_access(all)?.create()?;
        for (operation, rights) in [
            ("file-read-data", read),
            ("process-exec", AccessFs::Execute.into()),
            ("file-write-create", write),
            ("file-write-data", AccessFs::WriteFile.into()),
        ] {
            for (path, is_tree) in paths(profile, operation) {
                let Ok(metadata) = fs::metadata(&path) else {
                    continue;
                };
                let kind = metadata.file_type();
                // Landlock is silent about pipes and sockets, which /dev/stdout may lead to.
                if kind.is_fifo() || kind.is_socket() {
                    continue;
                }
                // A directory by itself cannot be said.
                if kind.is_dir() != is_tree {
                    continue;
                }
                let rights: BitFlags<AccessFs> = if is_tree {
                    rights
                } else {
                    rights & AccessFs::from_file(ABI::V1)
                };
                ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(&path)?, rights))?;
            }
        }
        ruleset.restrict_self()?;
        Ok(())
    }

    /// Paths that the profile allows, and whether with all that is below.
    fn paths(profile: &Profile, operation: &str) -> Vec<(String, bool)> {
        let rules = profile
            .rules
            .iter()
            .filter(|rule| rule.allows && rule.names(operation));
        rules
            .flat_map(|rule| &rule.filters)
            .filter_map(|filter| match filter {
                Filter::Subpath(path) => Some((path.clone(), true)),
                Filter::Literal(path) => Some((path.clone(), false)),
                _ => None,
            })
            .filter(|(path, _)| profile.allows(operation, Target::Path(path)))
            .collect()
    }

    /// Denies what has no path.
    fn hold_the_rest(
        profile: &Profile,
        without_network: bool,
        without_signals: bool,
    ) -> Result<(), Failure> {
        let equals = |argument, value| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
        };
        let mut rules = BTreeMap::new();
        if !without_network && !profile.allows("network-outbound", Target::Nothing) {
            let families = [libc::AF_INET, libc::AF_INET6];
            let families = families.map(|family| -> Result<_, Failure> {
                let family = u64::try_from(family)?;
                Ok(SeccompRule::new(vec![equals(0, family)?])?)
            });
            let families: Result<Vec<_>, _> = families.into_iter().collect();
            rules.insert(libc::SYS_socket, families?);
        }
        if !without_signals && !profile.allows("signal", Target::Process { own: false }) {
            let parent = u64::from(std::os::unix::process::parent_id());
            let rule = SeccompRule::new(vec![equals(0, parent)?])?;
            rules.insert(libc::SYS_kill, vec![rule]);
        }
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::Allow,
            SeccompAction::Errno(libc::EPERM.unsigned_abs()),
            env::consts::ARCH.try_into()?,
        )?;
        let program: BpfProgram = filter.try_into()?;
        seccompiler::apply_filter(&program)?;
        Ok(())
    }
}
