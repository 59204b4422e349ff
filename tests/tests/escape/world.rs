//! Guests, the one sandbox that they all meet, and what they say they saw.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{LazyLock, Mutex},
    time::Duration,
};

use executor_application::{CancellationToken, Job, Sandbox};
use executor_domain::{
    Ending, GuestEnvironment, JsonText, Language, LimitHit, Outcome, Reason, RequestedLimits, Start,
};
use executor_infra_isolation::{BwrapSandbox, WarmOptions};
use tokio::runtime::Runtime;

use crate::support::{self, Workspace, stderr, stdout};

/// What no run that ends of itself takes, on a machine however busy; and far less than a guest's own timeout, so that a
/// run that somebody held up does not pass for a prompt one.
pub(crate) const PROMPT: Duration = Duration::from_secs(60);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
});

/// One for the whole suite: what a hostile guest breaks, the next test meets.
static SANDBOX: LazyLock<BwrapSandbox> = LazyLock::new(|| {
    RUNTIME.block_on(async {
        if crate::WARM {
            support::warm_bwrap().await
        } else {
            support::bwrap().await
        }
    })
});

pub(crate) fn sandbox() -> &'static BwrapSandbox {
    &SANDBOX
}

/// Held by tests whose guests count on watching files, or leave nothing to watch with.
pub(crate) static INOTIFY: Mutex<()> = Mutex::new(());

/// Drives a future where the sandbox lives.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    LazyLock::force(&SANDBOX);
    RUNTIME.block_on(future)
}

/// Runs a job that nobody cancels.
pub(crate) fn run(job: Job) -> Outcome {
    let warm = can_be_warm(&job);
    let outcome = block_on(support::run(sandbox(), job));
    assert_eq!(outcome.start != Start::Cold, warm);
    outcome
}

/// A suite over warm starts that ran cold would prove nothing.
fn can_be_warm(job: &Job) -> bool {
    let language = job.source.language();
    // Node decides how large its heap may be when it starts.
    let has_other_heap = job.limits.max_memory_mb() != support::limits(|_| {}).max_memory_mb();
    crate::WARM
        && WarmOptions::SUPPORTED.contains(&language)
        && !(language == Language::JavaScript && has_other_heap)
}

/// Runs a job until somebody outside has seen what there is to see.
pub(crate) fn run_while(job: Job, see: impl AsyncFnOnce()) -> Outcome {
    let warm = can_be_warm(&job);
    let outcome = block_on(async {
        let cancel = CancellationToken::new();
        let running = sandbox().run(job, cancel.clone());
        let (outcome, ()) = tokio::join!(running, async {
            see().await;
            cancel.cancel();
        });
        outcome.unwrap()
    });
    assert_eq!(outcome.start != Start::Cold, warm);
    outcome
}

/// A program of `tests/fixtures/guests`.
#[derive(Clone, Copy)]
pub(crate) struct Guest {
    pub(crate) language: Language,
    pub(crate) code: &'static str,
}

/// A guest by its language and the name of its file, with the helpers of its language in front.
macro_rules! guest {
    (python $name:literal) => {
        guest!(Python, "python/attempts.py", "python/", $name, ".py")
    };
    (node $name:literal) => {
        guest!(JavaScript, "node/attempts.js", "node/", $name, ".js")
    };
    (shell $name:literal) => {
        guest!(Shell, "shell/attempts.sh", "shell/", $name, ".sh")
    };
    ($language:ident, $helpers:literal, $directory:literal, $name:literal, $extension:literal) => {
        $crate::world::Guest {
            language: executor_domain::Language::$language,
            // The programs are compiled in: the suite may run far from its checkout.
            code: concat!(
                include_str!(concat!("../../fixtures/guests/", $helpers)),
                include_str!(concat!(
                    "../../fixtures/guests/",
                    $directory,
                    $name,
                    $extension
                )),
            ),
        }
    };
}
pub(crate) use guest;

impl Guest {
    /// A run of it from top to bottom.
    pub(crate) fn script(self, workspace: &Workspace) -> Job {
        support::script(self.language, self.code, workspace)
    }

    /// A run of its handler.
    pub(crate) fn handler(self, workspace: &Workspace) -> Job {
        support::job(self.language, self.code, workspace)
    }
}

/// The job with this event.
pub(crate) fn with_event(event: &serde_json::Value, job: Job) -> Job {
    let event = support::event(&event.to_string());
    Job { event, ..job }
}

/// The job with these limits.
pub(crate) fn with_limits(wish: impl FnOnce(&mut RequestedLimits), job: Job) -> Job {
    let limits = support::limits(|wishes| {
        wishes.timeout = Some(120);
        wish(wishes);
    });
    Job { limits, ..job }
}

/// The variable by which all processes of a run can be found from outside. No two workspaces have the same name.
pub(crate) fn marker(workspace: &Path) -> String {
    format!("MARKER={}", workspace.display())
}

/// The job with its marker.
pub(crate) fn marked(job: Job) -> (String, Job) {
    let marker = marker(&job.workspace);
    let (name, value) = marker.split_once('=').unwrap();
    let variables = BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let environment = GuestEnvironment::parse(variables).unwrap();
    (marker, Job { environment, ..job })
}

/// What a guest said: its lines `what: answer`.
pub(crate) fn seen(outcome: &Outcome) -> BTreeMap<String, String> {
    stdout(outcome)
        .lines()
        .filter_map(|line| {
            // Names may have colons, answers have none that is followed by a space.
            let (name, answer) = line
                .rsplit_once(": ")
                .or(line.strip_suffix(':').map(|name| (name, "")))?;
            Some((name.to_owned(), answer.to_owned()))
        })
        .collect()
}

/// What the guest said, of which it must have completed, with every control `ok` and at least one of them. Without the
/// controls.
#[track_caller]
pub(crate) fn findings(outcome: &Outcome) -> BTreeMap<String, String> {
    assert_completed(outcome);
    let (controls, findings): (BTreeMap<_, _>, BTreeMap<_, _>) = seen(outcome)
        .into_iter()
        .partition(|(name, _)| name.starts_with("control: "));
    assert!(
        !controls.is_empty(),
        "a guest without a control proves nothing"
    );
    for (name, answer) in controls {
        assert_eq!(answer, "ok", "{name}; {}", stderr(outcome));
    }
    findings
}

/// Answers, and what got each.
pub(crate) type Answers<'a> = &'a [(&'a str, &'a [&'a str])];

/// Checks that a guest found these answers and nothing else. `A|B` stands for either.
#[track_caller]
pub(crate) fn expect(outcome: &Outcome, answers: Answers<'_>) {
    compare(&findings(outcome), answers);
}

/// Checks that these findings are these answers and nothing else.
#[track_caller]
pub(crate) fn compare(findings: &BTreeMap<String, String>, answers: Answers<'_>) {
    let expected: BTreeMap<&str, &str> = answers
        .iter()
        .flat_map(|(answer, names)| names.iter().map(|name| (*name, *answer)))
        .collect();
    let names: BTreeSet<&str> = findings
        .keys()
        .map(String::as_str)
        .chain(expected.keys().copied())
        .collect();
    let differences: Vec<String> = names
        .into_iter()
        .filter_map(|name| {
            let found = findings.get(name).map(String::as_str);
            let wanted = expected.get(name).copied();
            let same = match (found, wanted) {
                (Some(found), Some(wanted)) => wanted.split('|').any(|one| one == found),
                _ => false,
            };
            (!same).then(|| format!("{name}: {found:?}, not {wanted:?}"))
        })
        .collect();
    assert!(differences.is_empty(), "{differences:#?}");
}

#[track_caller]
pub(crate) fn assert_completed(outcome: &Outcome) {
    assert!(
        matches!(outcome.ending, Ending::Completed { .. }),
        "{:?}\n{}\n{}",
        outcome.ending,
        stdout(outcome),
        stderr(outcome)
    );
}

/// Checks that a handler returned this.
#[track_caller]
pub(crate) fn assert_returned(outcome: &Outcome, json: &str) {
    let expected = JsonText::parse(json.to_owned()).unwrap();
    assert_eq!(
        outcome.ending,
        Ending::Completed {
            return_value: expected
        },
        "{}",
        stderr(outcome)
    );
}

pub(crate) fn reason(outcome: &Outcome) -> Option<Reason> {
    outcome.ending.error().map(|error| error.reason)
}

pub(crate) fn hit(outcome: &Outcome, limit: LimitHit) -> bool {
    outcome.limits_hit.contains(&limit)
}

/// Checks that no process has this marker.
#[track_caller]
pub(crate) fn assert_dead(marker: &str) {
    let alive = support::alive(marker);
    assert!(alive.is_empty(), "{alive:?}");
}

/// Checks that the sandbox still takes guests, after whatever was done to it.
#[track_caller]
pub(crate) fn assert_works() {
    let workspace = Workspace::new();
    let job = support::job(Language::Python, "def handler(event): return 7", &workspace);
    assert_returned(&run(job), "7");
}
