//! What is measured: which guests, started how, by how many clients, and for how long.

use std::time::Duration;

use executor_domain::{Language, Start};

use crate::cli::BenchArgs;

/// How a sandbox can come to its run, the slowest first.
pub(super) const STARTS: [Start; 3] = [Start::Cold, Start::Forked, Start::Warm];

/// The start that `metrics.start` calls so.
pub(super) fn start_of(name: &str) -> Option<Start> {
    STARTS.into_iter().find(|start| start.as_str() == name)
}

/// What a daemon is told, as its operator would tell it, so that its runs start like this. How many slots wait stays as the
/// operator has it.
pub(super) const fn settings_of(start: Start) -> &'static [(&'static str, &'static str)] {
    match start {
        Start::Cold => &[("WARM_POOL", "false")],
        Start::Forked => &[
            ("WARM_POOL", "true"),
            ("WARM_POOL_MIN", "0"),
            ("WARM_POOL_MAX", "0"),
        ],
        Start::Warm => &[("WARM_POOL", "true")],
    }
}

/// A guest: its language, and what it does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject {
    /// For people and programs.
    pub name: &'static str,
    pub language: Language,
    /// Packages that it imports.
    pub preload: Option<&'static str>,
    /// Arguments with which the bare interpreter does the same and nothing else.
    pub bare: &'static [&'static str],
    program: fn(u64) -> String,
    pub promise: Promise,
}

/// What is promised against the bare interpreter in bare Bubblewrap: most that a warm run may take at one client, in medians of
/// the reference, and least that sixteen clients get, in rates of the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Promise {
    /// The same of a cold one's p50.
    pub cold: f64,
    pub p50: f64,
    pub p99: f64,
    pub sustained: f64,
    /// Most memory of a slot that waits, in KiB.
    pub slot_kib: u64,
}

impl Subject {
    /// A program that nobody has run before, and the answer that only it can give.
    pub(super) fn program(&self, number: u64) -> (String, Expected) {
        let code = (self.program)(number);
        let expected = match self.language {
            Language::Python | Language::JavaScript => {
                Expected::ReturnValue(format!("hello {number}"))
            }
            Language::Shell => Expected::Stdout(format!("hello {number}\n")),
        };
        (code, expected)
    }

    pub(super) const fn language(&self) -> &'static str {
        self.language.as_str()
    }

    /// What the file name of its interpreter begins with.
    pub(super) const fn interpreter(&self) -> &'static str {
        match self.language {
            Language::Python => "python",
            Language::JavaScript => "node",
            Language::Shell => "bash",
        }
    }
}

/// What a guest must answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    ReturnValue(String),
    Stdout(String),
}

const PYTHON: Subject = Subject {
    name: "python",
    language: Language::Python,
    preload: None,
    bare: &["-I", "-c", "0"],
    program: |number| format!("def handler(event):\n    return 'hello {number}'"),
    promise: Promise {
        cold: 1.5,
        p50: 0.08,
        p99: 0.4,
        sustained: 3.5,
        slot_kib: 4 << 10,
    },
};

const JAVASCRIPT: Subject = Subject {
    name: "javascript",
    language: Language::JavaScript,
    preload: None,
    bare: &["-e", "0"],
    program: |number| format!("exports.handler = () => 'hello {number}'"),
    promise: Promise {
        cold: 1.3,
        p50: 0.04,
        p99: 0.2,
        sustained: 6.0,
        slot_kib: 8 << 10,
    },
};

const SHELL: Subject = Subject {
    name: "shell",
    language: Language::Shell,
    preload: None,
    bare: &["-c", ":"],
    program: |number| format!("echo hello {number}"),
    promise: Promise {
        cold: 2.0,
        p50: 0.3,
        p99: 1.0,
        sustained: 2.5,
        slot_kib: 1 << 10,
    },
};

/// Python that needs its packages, imported in advance. Only where the guest's interpreter has them.
const PRELOADED: Subject = Subject {
    name: "python, numpy and pandas",
    preload: Some("numpy,pandas"),
    bare: &["-I", "-c", "import numpy, pandas"],
    program: |number| {
        format!(
            "import numpy, pandas\n\
             def handler(event):\n    \
                 return f'hello {{pandas.Series(numpy.array([{number}])).sum()}}'"
        )
    },
    promise: Promise {
        cold: 1.5,
        p50: 0.015,
        p99: 0.05,
        sustained: 40.0,
        // That of Python itself: packages are shared.
        slot_kib: 4 << 10,
    },
    ..PYTHON
};

/// How much of everything.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub subjects: Vec<Subject>,
    /// Numbers of clients, each with a connection of its own, in order.
    pub clients: Vec<usize>,
    /// Samples of each kind of start, taken in turns.
    pub samples: usize,
    /// Samples before those, which find files and code not yet in caches.
    pub warm_up: usize,
    /// Longest that the samples of one guest may take.
    pub patience: Duration,
    /// How long each number of clients is served.
    pub seconds: Duration,
    /// Requests at once.
    pub burst: usize,
}

impl Plan {
    pub(super) fn new(args: &BenchArgs) -> Self {
        let subjects = [PYTHON, JAVASCRIPT, SHELL, PRELOADED];
        let subjects = subjects
            .into_iter()
            .filter(|subject| args.languages.contains(&subject.language));
        let mut clients = args.clients.clone();
        clients.sort_unstable();
        clients.dedup();
        if args.quick {
            Self {
                // An import of numpy and pandas is not quick.
                subjects: subjects
                    .filter(|subject| subject.preload.is_none())
                    .collect(),
                clients,
                samples: 5,
                warm_up: 1,
                patience: Duration::from_secs(10),
                seconds: Duration::from_millis(200),
                burst: 20,
            }
        } else {
            Self {
                subjects: subjects.collect(),
                clients,
                samples: 300,
                warm_up: 20,
                patience: Duration::from_secs(60),
                seconds: Duration::from_secs(args.seconds),
                burst: 500,
            }
        }
    }

    /// Languages that have to be warm: those that are measured, and that of bad neighbours.
    pub(super) fn languages(&self) -> String {
        let measured = self.subjects.iter().map(Subject::language);
        measured
            .chain([Language::Shell.as_str()])
            .collect::<Vec<_>>()
            .join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_what_was_asked_for() {
        let args = BenchArgs {
            clients: vec![16, 1, 16, 4],
            languages: vec![Language::Python],
            seconds: 7,
            ..BenchArgs::example()
        };
        let plan = Plan::new(&args);
        assert_eq!(plan.clients, [1, 4, 16]);
        assert_eq!(plan.seconds, Duration::from_secs(7));
        let names: Vec<_> = plan.subjects.iter().map(|subject| subject.name).collect();
        assert_eq!(names, ["python", "python, numpy and pandas"]);
        let quick = Plan::new(&BenchArgs {
            quick: true,
            ..args
        });
        assert_eq!(quick.subjects.len(), 1);
        assert!(quick.samples < plan.samples && quick.burst < plan.burst);
    }

    #[test]
    fn no_two_programs_are_alike() {
        for subject in [PYTHON, JAVASCRIPT, SHELL, PRELOADED] {
            let (first, second) = (subject.program(1), subject.program(2));
            assert_ne!(first.0, second.0, "{}", subject.name);
            assert_ne!(first.1, second.1, "{}", subject.name);
        }
    }

    #[test]
    fn a_start_is_known_by_the_name_that_the_api_gives_it() {
        for start in STARTS {
            assert_eq!(start_of(start.as_str()), Some(start));
        }
        assert_eq!(start_of("tepid"), None);
    }
}
