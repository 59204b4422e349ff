//! From policy to a Seatbelt profile: a pure function, tested whole.
//!
//! The text holds words of ours only: every path is a parameter, passed with `-D` and read by `(param "…")`, so that none
//! can be taken for a rule. Order matters: of the rules that fit, the last one decides.

use std::{collections::BTreeSet, path::Path};

/// The part that is the same on every host: processes, the system, devices, services.
const SYSTEM: &str = include_str!("system.sbpl");
/// Places that stay closed, before the run's own are opened, which may lie below them.
const HOMES: &str = include_str!("homes.sbpl");
/// What stays closed whatever was opened.
const CLOSING: &str = include_str!("closing.sbpl");

/// What one run may do, beyond what every run may.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    /// The session's directory: read and written.
    pub workspace: &'a str,
    /// The run's own directory, with its home and its temporary files: read and written.
    pub private: &'a str,
    /// A file that the run may read: a shell guest's script, if there is one.
    pub script: &'a str,
    /// Directories with interpreters and their libraries: read, and programs in them executed.
    pub software: &'a [String],
}

/// A profile and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// The text, in the language of sandbox-exec(1).
    pub text: String,
    /// What its parameters stand for.
    pub parameters: Vec<(String, String)>,
}

impl Profile {
    /// The arguments of sandbox-exec, up to the command.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["-p".to_owned(), self.text.clone()];
        for (name, value) in &self.parameters {
            arguments.push("-D".to_owned());
            arguments.push(format!("{name}={value}"));
        }
        // Whatever follows is the command.
        arguments.push("--".to_owned());
        arguments
    }
}

/// The profile of a policy. All paths must be absolute and free of links: the kernel compares with where a file really is
/// (`/tmp` is `/private/tmp`).
pub fn profile(policy: &Policy<'_>) -> Profile {
    let mut writer = Writer::default();
    writer.text.push_str(SYSTEM);

    writer.section("Interpreters and their libraries, read-only");
    for (index, directory) in policy.software.iter().enumerate() {
        let place = writer.parameter(&format!("SOFTWARE_{index}"), directory);
        writer.rule(
            "allow file-read* file-test-existence file-map-executable process-exec process-exec-interpreter",
            &format!("(subpath {place})"),
        );
    }

    writer.text.push_str(HOMES);

    writer.section("The run's own places");
    // Where they are is no secret to whoever works there, but what is beside them is: only the directories themselves.
    for (index, directory) in ancestors(policy).iter().enumerate() {
        let place = writer.parameter(&format!("ABOVE_{index}"), directory);
        writer.rule(
            "allow file-read-metadata file-test-existence",
            &format!("(literal {place})"),
        );
    }
    let script = writer.parameter("SCRIPT", policy.script);
    writer.rule(
        "allow file-read* file-test-existence",
        &format!("(literal {script})"),
    );
    for (name, directory) in [("PRIVATE", policy.private), ("WORKSPACE", policy.workspace)] {
        let place = writer.parameter(name, directory);
        writer.rule(
            "allow file-read* file-test-existence file-write*",
            &format!("(subpath {place})"),
        );
    }

    writer.text.push_str(CLOSING);
    Profile {
        text: writer.text,
        parameters: writer.parameters,
    }
}

/// Every directory above one of the policy's paths but the root, each once.
fn ancestors<'a>(policy: &Policy<'a>) -> BTreeSet<&'a str> {
    [policy.workspace, policy.private, policy.script]
        .into_iter()
        .chain(policy.software.iter().map(String::as_str))
        .flat_map(|path| Path::new(path).ancestors().skip(1))
        .filter_map(Path::to_str)
        .filter(|path| !matches!(*path, "/" | ""))
        .collect()
}

#[derive(Default)]
struct Writer {
    text: String,
    parameters: Vec<(String, String)>,
}

impl Writer {
    fn section(&mut self, title: &str) {
        self.text.push_str("\n; ---- ");
        self.text.push_str(title);
        self.text.push_str("\n\n");
    }

    /// Notes what a parameter stands for, and returns the expression that reads it.
    fn parameter(&mut self, name: &str, value: &str) -> String {
        self.parameters.push((name.to_owned(), value.to_owned()));
        format!("(param \"{name}\")")
    }

    /// One rule with one filter, both of ours: no word of them comes from outside.
    fn rule(&mut self, rule: &str, filter: &str) {
        self.text.push('(');
        self.text.push_str(rule);
        self.text.push(' ');
        self.text.push_str(filter);
        self.text.push_str(")\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(software: &[String]) -> Policy<'_> {
        Policy {
            workspace: "/Users/me/sessions/s1",
            private: "/private/var/folders/ab/T/sandbox-runs-1/7/private",
            script: "/private/var/folders/ab/T/sandbox-runs-1/7/main.sh",
            software,
        }
    }

    fn homebrew() -> [String; 2] {
        ["/opt/homebrew/Cellar".into(), "/opt/homebrew/opt".into()]
    }

    #[test]
    fn the_whole_profile() {
        let software = homebrew();
        let profile = profile(&policy(&software));
        let parameters: Vec<_> = profile
            .parameters
            .iter()
            .map(|(name, value)| format!("-D {name}={value}"))
            .collect();
        insta::assert_snapshot!(format!("{}\n{}", profile.text, parameters.join("\n")));
    }

    #[test]
    fn no_path_is_part_of_the_text() {
        let software = homebrew();
        let one = profile(&policy(&software));
        let other = profile(&Policy {
            workspace: "/Users/me/x\") (allow default) (literal \"/s1",
            ..policy(&software)
        });
        assert_eq!(one.text, other.text);
        assert!(!one.text.contains("s1") && !one.text.contains("homebrew"));
    }

    #[test]
    fn arguments_end_where_the_command_begins() {
        let profile = profile(&policy(&[]));
        let arguments = profile.arguments();
        assert_eq!(arguments[..2], ["-p".to_owned(), profile.text.clone()]);
        assert!(arguments.contains(&"WORKSPACE=/Users/me/sessions/s1".to_owned()));
        assert_eq!(arguments.last().unwrap(), "--");
    }

    #[test]
    fn the_directories_above_are_named_one_by_one() {
        let profile = profile(&policy(&[]));
        let above: Vec<_> = profile
            .parameters
            .iter()
            .filter(|(name, _)| name.starts_with("ABOVE_"))
            .map(|(_, value)| value.as_str())
            .collect();
        assert!(above.contains(&"/Users/me/sessions") && above.contains(&"/Users"));
        assert!(!above.contains(&"/") && !above.contains(&"/Users/me/sessions/s1"));
        let mut once = above.clone();
        once.dedup();
        assert_eq!(once, above);
    }
}
