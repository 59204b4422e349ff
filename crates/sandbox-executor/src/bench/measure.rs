//! The order of things: which daemons there are when, and who is asked what.

use std::{fs, net::SocketAddr, thread, time::Duration};

use executor_application::Capacity;
use executor_domain::Start;
use indicatif::ProgressBar;
use serde_json::Value;
use tokio::time::sleep;

use super::{
    Failure, apart,
    client::Client,
    daemon::Daemon,
    load::{self, Burst, Overload},
    memory::{self, Slots},
    neighbours::{self, Neighbour},
    plan::{Plan, STARTS, Subject, settings_of},
    reference::Reference,
    report::{Figures, Machine, Measured, Memory, Report, Row, Unavailable},
    stats::Samples,
};
use crate::{
    config::{self, Config, Sources},
    terminal,
};

/// How often, and how many times, a daemon is asked whether its pool is full.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const LOOKS: usize = 250;

/// Turns of the spinner.
const TICK: Duration = Duration::from_millis(100);

pub(super) struct Bench {
    plan: Plan,
    sources: Sources,
    progress: ProgressBar,
}

impl Bench {
    pub(super) fn new(plan: Plan, sources: Sources) -> Self {
        let progress = if terminal::stderr_is_terminal() {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        progress.enable_steady_tick(TICK);
        Self {
            plan,
            sources,
            progress,
        }
    }

    /// Measures everything. Takes minutes. Dropping the future leaves daemons to the end of the process.
    pub(super) async fn measure(self) -> Result<Report, Failure> {
        let load_before = load_average();
        // First, while there is nothing else in this process.
        self.say("memory");
        let warm = self.daemon(Start::Warm, None).await?;
        let info = info(warm.address()).await?;
        let first = settled(warm.address()).await?;
        let idle_kib = memory::resident_kib();

        let cold = self.daemon(Start::Cold, None).await?;
        let forked = self.daemon(Start::Forked, None).await?;
        let mut subjects = Vec::new();
        for subject in &self.plan.subjects {
            let Some(reference) = self.reference(subject, &info)? else {
                continue;
            };
            let slots = (!first.is_empty()).then_some(&first);
            let measured = match subject.preload {
                None => {
                    let daemons = [&cold, &forked, &warm].map(Daemon::address);
                    self.guest(subject, &reference, daemons, slots, &info)
                        .await?
                }
                Some(packages) => {
                    let before = memory::slots();
                    let warm = self.daemon(Start::Warm, Some(packages)).await?;
                    let mut own = settled(warm.address()).await?;
                    own.retain(|slot, _| !before.contains_key(slot));
                    let forked = self.daemon(Start::Forked, Some(packages)).await?;
                    let daemons = [&cold, &forked, &warm].map(Daemon::address);
                    let slots = (!own.is_empty()).then_some(&own);
                    let measured = self
                        .guest(subject, &reference, daemons, slots, &info)
                        .await?;
                    forked.stop().await?;
                    warm.stop().await?;
                    measured
                }
            };
            subjects.push(measured);
        }
        cold.stop().await?;
        forked.stop().await?;

        let neighbours = self.neighbours(&warm).await?;
        let burst = self.burst(&warm).await?;
        warm.stop().await?;
        let overload = self.overload().await?;
        self.progress.finish_and_clear();
        Ok(Report {
            machine: machine(&info, load_before.zip(load_average())),
            subjects,
            memory: Memory {
                idle_kib,
                after_kib: memory::resident_kib(),
            },
            burst,
            overload,
            neighbours,
        })
    }

    fn say(&self, what: &str) {
        self.progress.set_message(what.to_owned());
    }

    /// The configuration of a daemon whose runs start like this.
    fn config(&self, start: Start, preload: Option<&str>) -> Result<Config, Failure> {
        let mut sources = self.sources.clone();
        let languages = self.plan.languages();
        let settings = settings_of(start).iter().copied();
        let settings = settings.chain([("WARM_POOL_LANGUAGES", languages.as_str())]);
        let preload = preload.map(|packages| ("PYTHON_PRELOAD", packages));
        for (name, value) in settings.chain(preload) {
            sources.flags.remove(name.to_ascii_lowercase().as_str());
            sources.environment.insert(name.into(), value.into());
        }
        Ok(config::load(&sources)?.config)
    }

    async fn daemon(&self, start: Start, preload: Option<&str>) -> Result<Daemon, Failure> {
        Daemon::start(self.config(start, preload)?).await
    }

    /// What to compare with; `None` where this host has no interpreter, or none that can do this.
    fn reference(&self, subject: &Subject, info: &Value) -> Result<Option<Reference>, Failure> {
        let Some(interpreter) = interpreter_of(info, subject) else {
            return Ok(None);
        };
        let config = self.config(Start::Cold, None)?;
        let reference = Reference::new(&config, subject, &interpreter.path);
        // Packages may be missing. The interpreter itself is there, and an error of it is one.
        Ok((subject.preload.is_none() || reference.is_possible()).then_some(reference))
    }

    /// Everything about one guest. `daemons`: in the order of [`STARTS`].
    async fn guest(
        &self,
        subject: &Subject,
        reference: &Reference,
        daemons: [SocketAddr; STARTS.len()],
        slots: Option<&Slots>,
        info: &Value,
    ) -> Result<Measured, Failure> {
        self.say(&format!("{}: one client", subject.name));
        let mut available = Vec::new();
        let mut unavailable = Vec::new();
        for (start, address) in STARTS.into_iter().zip(daemons) {
            match why_not(address, subject, start).await? {
                None => available.push((start, address)),
                Some(why) => unavailable.push(Row {
                    start,
                    what: Err(Unavailable(why)),
                }),
            }
        }
        let addresses: Vec<_> = available.iter().map(|(_, address)| *address).collect();
        let (plan, of, bare) = (self.plan.clone(), *subject, reference.clone());
        let (times, runs) =
            apart(async move || load::in_turns(&plan, &of, &bare, &addresses).await).await?;
        let nothing = "no sample in the time that was given";
        let bare = Samples::new(times).ok_or(nothing)?.latency();

        self.say(&format!("{}: bwrap at full load", subject.name));
        let (seconds, of) = (self.plan.seconds, reference.clone());
        let saturated = apart(async move || of.saturate(cores(), seconds)).await?;

        let mut rows = unavailable;
        for ((start, address), runs) in available.into_iter().zip(runs) {
            let mut loads = Vec::new();
            for &clients in &self.plan.clients {
                self.say(&format!(
                    "{}: {} at {clients} clients",
                    subject.name,
                    start.as_str()
                ));
                let subject = *subject;
                let loaded =
                    apart(async move || load::steadily(address, &subject, clients, seconds).await);
                loads.push(loaded.await?);
            }
            rows.push(Row {
                start,
                what: Ok(Figures {
                    latency: Samples::new(runs.times).ok_or(nothing)?.latency(),
                    starts: runs.starts,
                    loads,
                }),
            });
        }
        rows.sort_by_key(|row| STARTS.iter().position(|start| *start == row.start));
        Ok(Measured {
            name: subject.name,
            interpreter: interpreter_of(info, subject).map_or_else(String::new, |it| it.shown()),
            reference: bare,
            saturated,
            rows,
            promise: subject.promise,
            slots: slots.and_then(|slots| median_of(slots, subject)),
        })
    }

    async fn neighbours(&self, warm: &Daemon) -> Result<Vec<Neighbour>, Failure> {
        let Some(&subject) = self.plan.subjects.first() else {
            return Ok(Vec::new());
        };
        self.say("a neighbour at its limits");
        let (address, plan) = (warm.address(), self.plan.clone());
        settled(address).await?;
        apart(async move || neighbours::neighbours(address, &subject, &plan).await).await
    }

    async fn burst(&self, warm: &Daemon) -> Result<Option<Burst>, Failure> {
        let Some(&subject) = self.plan.subjects.first() else {
            return Ok(None);
        };
        self.say("a burst");
        let (address, requests) = (warm.address(), self.plan.burst);
        settled(address).await?;
        let burst = apart(async move || load::burst(address, &subject, requests).await).await?;
        Ok(Some(burst))
    }

    /// On a daemon that lets two wait for each core and run for each core: who is told to come back later instead of waiting
    /// for long needs a daemon that is configured so.
    async fn overload(&self) -> Result<Option<Overload>, Failure> {
        let Some(&subject) = self.plan.subjects.first() else {
            return Ok(None);
        };
        self.say("overload");
        let mut config = self.config(Start::Warm, None)?;
        let at_once = 2 * cores();
        config.capacity = Capacity {
            running: at_once,
            queued: at_once,
            ..config.capacity
        };
        let daemon = Daemon::start(config).await?;
        let (address, plan) = (daemon.address(), self.plan.clone());
        settled(address).await?;
        let overload =
            apart(async move || load::overload(address, &subject, at_once, &plan).await).await?;
        daemon.stop().await?;
        Ok(Some(overload))
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// What `GET /info` says.
async fn info(address: SocketAddr) -> Result<Value, Failure> {
    Client::connect(address).await?.get("/info").await
}

/// Waits until every pool is as full as it should be, and looks at the slots then.
async fn settled(address: SocketAddr) -> Result<Slots, Failure> {
    let mut client = Client::connect(address).await?;
    for _ in 0..LOOKS {
        if is_full(&client.get("/info").await?) {
            break;
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(memory::slots())
}

fn is_full(info: &Value) -> bool {
    let pools = info["warm_pools"].as_array();
    pools.into_iter().flatten().all(|pool| {
        let number = |name: &str| pool[name].as_u64().unwrap_or(0);
        number("ready") >= number("target")
    })
}

/// Why runs of this guest do not start like this here; `None`: they do.
async fn why_not(
    address: SocketAddr,
    subject: &Subject,
    wanted: Start,
) -> Result<Option<String>, Failure> {
    settled(address).await?;
    let mut client = Client::connect(address).await?;
    let (start, _) = client.must_run(subject).await?;
    if start == wanted {
        return Ok(None);
    }
    let info = client.get("/info").await?;
    let trouble = info["warm_pools"].as_array().into_iter().flatten();
    let trouble = trouble
        .filter(|pool| pool["language"] == subject.language())
        .find_map(|pool| pool["trouble"].as_str());
    Ok(Some(match trouble {
        Some(trouble) => terminal::harmless(trouble),
        None => format!("starts {}", start.as_str()),
    }))
}

/// An interpreter that the daemon has found.
struct Interpreter {
    path: String,
    version: String,
}

impl Interpreter {
    fn shown(&self) -> String {
        format!("{} {}", self.path, self.version)
    }
}

fn interpreter_of(info: &Value, subject: &Subject) -> Option<Interpreter> {
    let languages = info["languages"].as_array()?;
    let found = languages
        .iter()
        .find(|found| found["language"] == subject.language())?;
    let text = |name: &str| found[name].as_str().map(str::to_owned);
    Some(Interpreter {
        path: text("interpreter")?,
        version: text("version").unwrap_or_default(),
    })
}

/// How many slots of this guest's interpreter there are, and what the median one takes.
fn median_of(slots: &Slots, subject: &Subject) -> Option<(usize, u64)> {
    let program = subject.interpreter();
    let mut sizes: Vec<_> = slots
        .iter()
        .filter(|((_, name), _)| name.starts_with(program))
        .map(|(_, slot)| slot.pss_kib)
        .collect();
    sizes.sort_unstable();
    let median = *sizes.get(sizes.len() / 2)?;
    Some((sizes.len(), median))
}

fn machine(info: &Value, load: Option<(f64, f64)>) -> Machine {
    let text = |name: &str| info[name].as_str().unwrap_or("?").to_owned();
    let system = rustix::system::uname();
    Machine {
        version: env!("CARGO_PKG_VERSION"),
        isolation: text("isolation_version"),
        cores: cores(),
        kernel: format!(
            "{} {}",
            system.sysname().to_string_lossy(),
            system.release().to_string_lossy()
        ),
        load,
    }
}

/// Over the last minute; `None` where the system does not tell.
fn load_average() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::{bench::memory::SlotMemory, cli::BenchArgs};

    fn subjects() -> Vec<Subject> {
        Plan::new(&BenchArgs::example()).subjects
    }

    #[test]
    fn a_pool_is_full_when_as_many_are_ready_as_should_be() {
        let info = |ready| json!({"warm_pools": [{"ready": 2, "target": 2}, {"ready": ready, "target": 4}]});
        assert!(!is_full(&info(3)));
        assert!(is_full(&info(4)));
        assert!(is_full(&json!({})), "nothing is kept warm");
    }

    #[test]
    fn the_median_is_of_this_guests_slots() {
        let slot = |namespace, name: &str, pss_kib| {
            let memory = SlotMemory {
                processes: 2,
                pss_kib,
            };
            ((namespace, name.to_owned()), memory)
        };
        let slots = BTreeMap::from([
            slot(1, "python3.11", 30),
            slot(2, "python3.11", 10),
            slot(3, "python3.11", 20),
            slot(4, "bash", 1),
        ]);
        let found: Vec<_> = subjects()
            .iter()
            .map(|subject| median_of(&slots, subject))
            .collect();
        assert_eq!(found, [Some((3, 20)), None, Some((1, 1)), Some((3, 20))]);
    }

    #[tokio::test]
    async fn settings_of_the_bench_count_more_than_those_of_the_operator() {
        let sources = Sources {
            flags: BTreeMap::from([("max_memory_mb", "77".into())]),
            ..Sources::default()
        };
        let bench = Bench::new(Plan::new(&BenchArgs::example()), sources);
        for start in STARTS {
            let config = bench.config(start, None).unwrap();
            assert_eq!(config.limits.ceilings().max_memory_mb, 77);
        }
    }
}
