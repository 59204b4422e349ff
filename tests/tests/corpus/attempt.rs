//! One guest, and what must come of it.

use std::{
    collections::BTreeMap, fmt::Write as _, fs, net::TcpListener, os::unix::net::UnixListener,
};

use serde_json::{Value, json};

use super::support::daemon::{Answer, Daemon, passable_directory, request, request_with};

/// A program of `tests/fixtures/guests`, with the helpers of its language in front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guest {
    /// As the API calls it.
    pub(crate) language: &'static str,
    /// Its file, without the extension.
    pub(crate) name: &'static str,
    /// Compiled in: the suite may run far from its checkout.
    pub(crate) code: &'static str,
}

/// What a program of the list comes down to in one guest's words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proof {
    /// The program, as the list calls it.
    pub(crate) program: &'static str,
    /// What the guest must have tried in vain: anything but `ok`, and nothing that would be missing without a wall.
    pub(crate) denied: &'static [&'static str],
    /// What it must have said, to the letter; `A|B` stands for either.
    pub(crate) said: &'static [(&'static str, &'static str)],
}

/// How a run must end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// It completes.
    Completed,
    /// By one of these reasons, or not at all for one: `completed`.
    OneOf(&'static [&'static str]),
}

/// A wall without which a run is asked for less, and the line of `known-gaps.txt` that says so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gap {
    pub(crate) wall: &'static str,
    pub(crate) test: &'static str,
}

/// One run of one guest.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) guest: Guest,
    proofs: &'static [Proof],
    also: &'static [Proof],
    handler: bool,
    event: &'static str,
    limits: &'static str,
    timeout: u32,
    before: Option<Guest>,
    end: End,
    hits: &'static [&'static str],
    artifacts: Option<&'static [&'static str]>,
    gap: Option<Gap>,
}

impl Attempt {
    /// A run from top to bottom that completes.
    pub(crate) const fn script(guest: Guest, proofs: &'static [Proof]) -> Self {
        Self {
            guest,
            proofs,
            also: &[],
            handler: false,
            event: "{}",
            limits: "{}",
            timeout: 300,
            before: None,
            end: End::Completed,
            hits: &[],
            artifacts: None,
            gap: None,
        }
    }

    /// A run of the guest's handler that completes.
    pub(crate) const fn handler(guest: Guest, proofs: &'static [Proof]) -> Self {
        Self {
            handler: true,
            ..Self::script(guest, proofs)
        }
    }

    /// That proves this as well.
    pub(crate) const fn also(mut self, proofs: &'static [Proof]) -> Self {
        self.also = proofs;
        self
    }

    /// With this event. `$daemon`, `$port`, `$abstract`, `$path`, `$secret` and `$neighbour` stand for what is on the host.
    pub(crate) const fn event(mut self, event: &'static str) -> Self {
        self.event = event;
        self
    }

    /// With these limits.
    pub(crate) const fn limits(mut self, limits: &'static str) -> Self {
        self.limits = limits;
        self
    }

    /// In a workspace in which somebody else has been.
    pub(crate) const fn after(mut self, guest: Guest) -> Self {
        self.before = Some(guest);
        self
    }

    /// That ends by this reason.
    pub(crate) const fn ends(mut self, reasons: &'static [&'static str]) -> Self {
        self.end = End::OneOf(reasons);
        self
    }

    /// That hits these limits.
    pub(crate) const fn hits(mut self, limits: &'static [&'static str]) -> Self {
        self.hits = limits;
        self
    }

    /// That is ended because the workspace is full.
    pub(crate) const fn quota(self) -> Self {
        self.ends(&["workspace_quota"]).hits(&["workspace"])
    }

    /// That leaves these artifacts and no others.
    pub(crate) const fn leaves(mut self, artifacts: &'static [&'static str]) -> Self {
        self.artifacts = Some(artifacts);
        self
    }

    /// Of which less is asked where a wall is missing.
    pub(crate) const fn without(mut self, wall: &'static str, test: &'static str) -> Self {
        self.gap = Some(Gap { wall, test });
        self
    }

    /// Everything that it is to prove.
    pub(crate) fn proofs(&self) -> impl Iterator<Item = &'static Proof> + use<> {
        self.proofs.iter().chain(self.also)
    }

    pub(crate) fn gap(&self) -> Option<Gap> {
        self.gap
    }

    /// Runs it in a session of its own, which is removed afterwards.
    pub(crate) async fn run(&self, daemon: &Daemon, place: &Place) -> Value {
        let session = format!("{}-{}", self.guest.language, self.guest.name);
        if let Some(guest) = self.before {
            let more = json!({"session_id": session, "mode": "script"});
            daemon
                .execute(&request_with(guest.language, guest.code, more))
                .await
                .completed();
        }
        let event: Value = serde_json::from_str(&place.fill_in(self.event)).unwrap();
        let mut limits: Value = serde_json::from_str(self.limits).unwrap();
        if let Some(time) = limits.get_mut("max_wall_time_ms") {
            *time = (time.as_u64().unwrap() * slower()).into();
        }
        let mut more = json!({
            "session_id": session,
            "event": event,
            "limits": limits,
            "timeout": self.timeout,
        });
        if self.guest.language != "shell" {
            more["mode"] = if self.handler { "handler" } else { "script" }.into();
        }
        let code = self.code(&event);
        let request = request_with(self.guest.language, &code, more);
        let answer = daemon.execute(&request).await.ran();
        let path = format!("/sessions/{session}");
        let removed = daemon.request(reqwest::Method::DELETE, &path).send().await;
        assert_eq!(removed.unwrap().status(), 204);
        answer
    }

    /// Bash has no JSON: what the event says is put in front, as variables in capitals.
    fn code(&self, event: &Value) -> String {
        if self.guest.language != "shell" {
            return self.guest.code.to_owned();
        }
        let mut code = String::new();
        for (name, value) in event.as_object().unwrap() {
            let value = value.as_str().map_or(value.to_string(), str::to_owned);
            let _ = writeln!(code, "{}='{value}'", name.to_uppercase());
        }
        code + self.guest.code
    }
}

/// How many times slower than a machine of its own this one is: `CORPUS_SLOWER`, for one that is emulated. Guests that are ended
/// for their time have so many times more of it, and `/health` as well.
pub(crate) fn slower() -> u64 {
    std::env::var("CORPUS_SLOWER").map_or(1, |times| times.parse().unwrap())
}

/// What became of a program in one language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// It came to what it should.
    Held,
    /// It came to less, by this known gap.
    Gap(&'static str),
    /// It did not.
    Failed(String),
}

impl Found {
    pub(crate) fn word(&self) -> String {
        match self {
            Self::Held => "held".into(),
            Self::Gap(wall) => format!("gap: {wall}"),
            Self::Failed(_) => "FAILED".into(),
        }
    }
}

/// The host around the daemon: what listens and lies there for guests to look for, and which walls it lacks.
pub(crate) struct Place {
    pub(crate) name: String,
    missing: Vec<String>,
    names: BTreeMap<&'static str, String>,
    _listeners: (TcpListener, UnixListener),
    _directories: [tempfile::TempDir; 2],
}

impl Place {
    pub(crate) async fn of(daemon: &Daemon) -> Self {
        let directories = [passable_directory(), passable_directory()];
        let secret = directories[0].path().join("secret");
        fs::write(&secret, "x").unwrap();
        let socket = directories[0].path().join("socket");
        let listeners = (
            TcpListener::bind(("127.0.0.1", 0)).unwrap(),
            UnixListener::bind(&socket).unwrap(),
        );
        let info = Answer::to(daemon.get("/info")).await.body;
        let missing: Vec<String> = info["walls"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|wall| wall["on"] == false)
            .map(|wall| wall["name"].as_str().unwrap().to_owned())
            .collect();
        let user = if nix::unistd::geteuid().is_root() {
            "root"
        } else {
            "unprivileged"
        };
        let of_host = std::env::var("CORPUS_PLACE").unwrap_or_else(|_| {
            let cgroups = !missing.iter().any(|wall| wall == "cgroup_memory");
            if cgroups { "cgroups" } else { "no cgroups" }.into()
        });
        // Every run of the corpus starts as this one does.
        let hello = request("python", "def handler(event): return 1");
        let start = daemon.execute(&hello).await.completed()["metrics"]["start"].clone();
        // Another session's workspace, as another session leaves it.
        let plant = request_with(
            "shell",
            "echo x > theirs",
            json!({"session_id": "neighbour"}),
        );
        daemon.execute(&plant).await.completed();
        Self {
            name: format!("{user}, {of_host}, {}", start.as_str().unwrap()),
            missing,
            names: BTreeMap::from([
                ("$daemon", daemon.pid().to_string()),
                (
                    "$port",
                    daemon.address().rsplit_once(':').unwrap().1.to_owned(),
                ),
                ("$path", socket.display().to_string()),
                ("$abstract", "nobody listens here".into()),
                ("$secret", secret.display().to_string()),
                (
                    "$neighbour",
                    daemon.workspaces().join("neighbour").display().to_string(),
                ),
            ]),
            _listeners: listeners,
            _directories: directories,
        }
    }

    fn fill_in(&self, event: &str) -> String {
        self.names
            .iter()
            .fold(event.to_owned(), |event, (name, value)| {
                event.replace(name, value)
            })
    }

    fn lacks(&self, gap: Gap) -> bool {
        gap.wall == "nowhere" || self.missing.iter().any(|wall| wall == gap.wall)
    }
}

/// What came of each program that this run is a proof of.
pub(crate) fn judge(
    attempt: &Attempt,
    answer: &Value,
    place: &Place,
) -> Vec<(&'static str, Found)> {
    let lines = lines(answer["stdout"].as_str().unwrap_or_default());
    let of_run = ending(attempt, answer)
        .and_then(|()| controls(attempt, &lines))
        .and_then(|()| artifacts(attempt, answer));
    let known = attempt.gap.filter(|gap| place.lacks(*gap));
    attempt
        .proofs()
        .map(|proof| {
            let found = match (&of_run, of_proof(proof, &lines), known) {
                (Ok(()), Ok(()), _) => Found::Held,
                // Less is asked of the run as a whole; it stays contained, which `afterwards` sees to.
                (_, _, Some(gap)) => Found::Gap(gap.wall),
                (Err(why), _, None) => Found::Failed(why.clone()),
                (Ok(()), Err(why), None) => Found::Failed(why),
            };
            (proof.program, found)
        })
        .collect()
}

/// What a guest said: its lines `what: answer`.
fn lines(stdout: &str) -> BTreeMap<&str, &str> {
    stdout
        .lines()
        .filter_map(|line| {
            line.rsplit_once(": ")
                .or(line.strip_suffix(':').map(|name| (name, "")))
        })
        .collect()
}

fn ending(attempt: &Attempt, answer: &Value) -> Result<(), String> {
    let reason = answer["error"]["reason"].as_str().unwrap_or("completed");
    let allowed = match attempt.end {
        End::Completed => &["completed"],
        End::OneOf(reasons) => reasons,
    };
    if !allowed.contains(&reason) {
        return Err(format!("it ended by {reason:?} and not {allowed:?}"));
    }
    for limit in attempt.hits {
        let hit = answer["metrics"]["limits_hit"].as_array().unwrap();
        if !hit.iter().any(|hit| hit == limit) {
            return Err(format!("limits_hit lacks {limit}: {hit:?}"));
        }
    }
    Ok(())
}

/// A guest that says what it tries in vain must also say what it may do.
fn controls(attempt: &Attempt, lines: &BTreeMap<&str, &str>) -> Result<(), String> {
    let mut controls = lines
        .iter()
        .filter(|(name, _)| name.starts_with("control: "))
        .peekable();
    let proves_by_words = attempt.proofs().any(|proof| !proof.denied.is_empty());
    if proves_by_words && controls.peek().is_none() {
        return Err("a guest without a control proves nothing".into());
    }
    match controls.find(|(_, answer)| **answer != "ok") {
        Some((name, answer)) => Err(format!("{name}: {answer}")),
        None => Ok(()),
    }
}

fn artifacts(attempt: &Attempt, answer: &Value) -> Result<(), String> {
    let Some(expected) = attempt.artifacts else {
        return Ok(());
    };
    let found: Vec<_> = answer["artifacts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|artifact| artifact["path"].as_str().unwrap())
        .collect();
    if found == expected {
        Ok(())
    } else {
        Err(format!("its artifacts are {found:?} and not {expected:?}"))
    }
}

fn of_proof(proof: &Proof, lines: &BTreeMap<&str, &str>) -> Result<(), String> {
    for name in proof.denied {
        match lines.get(name) {
            Some(&("ok" | "missing")) | None => {
                return Err(format!("{name}: {:?}, and no denial", lines.get(name)));
            }
            Some(_) => {}
        }
    }
    for (name, expected) in proof.said {
        let said = lines.get(name).copied();
        if !said.is_some_and(|said| expected.split('|').any(|one| one == said)) {
            return Err(format!("{name}: {said:?}, not {expected:?}"));
        }
    }
    Ok(())
}
