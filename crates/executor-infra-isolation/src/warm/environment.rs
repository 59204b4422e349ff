//! Which runs an interpreter that has started already can serve: a pure function.

use executor_domain::{GuestEnvironment, Language};

/// Variables that programs read when they start: the dynamic loader, the C library, its locales and time zones. Names that
/// end with `*` stand for all that begin so.
const READ_AT_START: [&str; 10] = [
    "LD_*",
    "GLIBC_*",
    "GCONV_PATH",
    "LOCPATH",
    "MALLOC_*",
    "LANG*",
    "LC_*",
    "TZ*",
    "GCOV*",
    "ASAN_*",
];

/// Variables that the interpreter of a language reads when it starts.
const fn of(language: Language) -> &'static [&'static str] {
    match language {
        Language::Python => &["PYTHON*"],
        Language::JavaScript => &["NODE_*", "UV_*", "OPENSSL_*", "SSL_*", "ICU_*"],
        // Besides what it reads, what it treats differently when it is assigned: bash(1), "Shell Variables".
        Language::Shell => &[
            "BASH*",
            "SHELL*",
            "ENV",
            "POSIX*",
            "PS*",
            "IFS",
            "UID",
            "EUID",
            "PPID",
            "RANDOM",
            "SRANDOM",
            "SECONDS",
            "LINENO",
            "EPOCH*",
            "HIST*",
            "hist*",
            "DIRSTACK",
            "GROUPS",
            "FUNC*",
            "COMP*",
            "OPT*",
            "TIMEFORMAT",
            "TMOUT",
            "GLOB*",
            "IGNOREEOF",
            "MAIL*",
            "SHLVL",
            "PWD",
            "OLDPWD",
            "CDPATH",
            "PROMPT*",
            "FIGNORE",
            "HOST*",
            "INPUTRC",
            "auto_resume",
            "EXECIGNORE",
            "CHILD_MAX",
            "PIPESTATUS",
            "MAPFILE",
            "READLINE*",
            "_",
        ],
    }
}

/// The first of the caller's variables that has to be there when the interpreter starts; `None`: a warm one will do.
pub(crate) fn needed_at_start(language: Language, environment: &GuestEnvironment) -> Option<&str> {
    let matches = |name: &str, pattern: &str| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    environment.iter().map(|(name, _)| name).find(|name| {
        READ_AT_START
            .iter()
            .chain(of(language))
            .any(|pattern| matches(name, pattern))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn needed(language: Language, names: &[&str]) -> Option<String> {
        let variables: BTreeMap<_, _> = names
            .iter()
            .map(|name| ((*name).to_owned(), "x".to_owned()))
            .collect();
        let environment = GuestEnvironment::parse(variables).unwrap();
        needed_at_start(language, &environment).map(str::to_owned)
    }

    #[test]
    fn what_is_read_at_start_is_told_from_what_is_read_later() {
        use Language::{JavaScript, Python, Shell};
        for (language, name, early) in [
            (Python, "PYTHONPATH", true),
            (Python, "PYTHONHASHSEED", true),
            (Python, "LD_PRELOAD", true),
            (Python, "LC_ALL", true),
            (Python, "TZ", true),
            (Python, "NODE_OPTIONS", false),
            (JavaScript, "NODE_OPTIONS", true),
            (JavaScript, "PYTHONPATH", false),
            (Shell, "BASH_ENV", true),
            (Shell, "ENVIRONMENT", false),
            (Python, "API_KEY", false),
            (Python, "PATH", false),
        ] {
            assert_eq!(needed(language, &[name]).is_some(), early, "{name}");
        }
        assert_eq!(needed(Python, &[]), None);
        assert_eq!(needed(Python, &["A", "TZ"]), Some("TZ".into()));
    }
}
