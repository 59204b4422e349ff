//! What is kept warm: which languages, proven how, and what each falls back to and why.

use std::{num::NonZero, sync::Arc, time::Duration};

use executor_application::{CancellationToken, Job, Listener, WarmPool};
use executor_domain::{
    Ending, Event, ExecutionId, Language, Mode, ResourceLimit, SessionId, Source, Start,
};

use super::{engine::Engine, probe::own_namespaces, walls};
use crate::{
    guest::channel::frame,
    outcome::{Program, judge},
    runtime::{Runtime, Stage, Surroundings, words},
    warm::{
        WarmOptions,
        environment::needed_at_start,
        library,
        mounts::Mounts,
        pool::{Pool, Sizes, chain},
        slot::Slot,
        zygote::{Recipe, Zygote},
    },
};

/// Everything that is kept warm.
#[derive(Debug, Default)]
pub(crate) struct Warm {
    mounts: Option<Arc<Mounts>>,
    pools: Vec<Pool>,
    /// Languages that should be warm and are not, and why.
    cold: Vec<(Language, String)>,
}

impl Warm {
    /// Starts what can be kept warm here, and proves each language by a real run. What does not work is named and runs cold.
    pub(super) async fn start(
        engine: &Arc<Engine>,
        runtimes: &[Runtime],
        limits: &ResourceLimit,
        options: &WarmOptions,
    ) -> Self {
        let mut warm = Self::default();
        if options.languages.is_empty() || options.max_slots == 0 {
            return warm;
        }
        let mounts = Mounts::start(engine)
            .await
            .map(Arc::new)
            .map_err(|error| chain(&error));
        for runtime in runtimes {
            let language = runtime.language();
            if !options.languages.contains(&language) {
                continue;
            }
            let started = match &mounts {
                Ok(mounts) => pool(engine, mounts, runtime, limits, options).await,
                Err(why) => Err(why.clone()),
            };
            match started {
                Ok(pool) => warm.pools.push(pool),
                Err(why) => {
                    tracing::info!(%language, %why, "this language starts cold");
                    warm.cold.push((language, why));
                }
            }
        }
        warm.mounts = mounts.ok();
        warm
    }

    /// What slots get their workspaces by.
    pub(super) fn mounts(&self) -> Option<Arc<Mounts>> {
        self.mounts.clone()
    }

    /// A slot for this job; `None`: it has to start cold.
    pub(super) async fn slot_for(&self, job: &Job) -> Option<(Slot, Start)> {
        let language = job.source.language();
        let pool = self.pools.iter().find(|pool| pool.language() == language)?;
        if needed_at_start(language, &job.environment).is_some() {
            return None;
        }
        pool.take().await
    }

    /// Everything that is warm or should be, as it is now.
    pub(super) fn pools(&self) -> Vec<WarmPool> {
        let cold = self.cold.iter().map(|(language, why)| WarmPool {
            language: *language,
            ready: 0,
            target: 0,
            max: 0,
            warm: 0,
            forked: 0,
            cold: 0,
            trouble: Some(why.clone()),
        });
        self.pools.iter().map(Pool::state).chain(cold).collect()
    }
}

/// Starts a zygote, proves that its slots have all walls and run a guest, and keeps a pool of them.
async fn pool(
    engine: &Arc<Engine>,
    mounts: &Mounts,
    runtime: &Runtime,
    limits: &ResourceLimit,
    options: &WarmOptions,
) -> Result<Pool, String> {
    let recipe = recipe(runtime, limits, options)?;
    let zygote = Zygote::start(engine, &recipe)
        .await
        .map_err(|error| chain(&error))?;
    let zygote = Arc::new(zygote);
    prove(engine, mounts, runtime, &zygote, limits).await?;
    let sizes = Sizes {
        min: options.min_slots.min(options.max_slots),
        max: options.max_slots,
    };
    let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
    Ok(Pool::start(Arc::clone(engine), recipe, zygote, sizes, cpus))
}

fn recipe(
    runtime: &Runtime,
    limits: &ResourceLimit,
    options: &WarmOptions,
) -> Result<Recipe, String> {
    let command = runtime
        .interpreter
        .zygote_command()
        .ok_or("this interpreter does not always end after a fork; see docs/warm-starts.md")?;
    let library = library::load(options.library.as_deref()).map_err(|error| error.to_string())?;
    let spec = Engine::zygote_spec(runtime.language(), limits).map_err(|error| chain(&error))?;
    let mut prologue = Vec::new();
    if let Some(bootstrap) = &runtime.bootstrap {
        let preload = options.python_preload.join(" ");
        for (kind, payload) in [(b'B', bootstrap.as_bytes()), (b'P', preload.as_bytes())] {
            prologue.extend(frame(kind, payload).map_err(|error| error.to_string())?);
        }
    }
    Ok(Recipe {
        language: runtime.language(),
        argv: words(command),
        environment: Surroundings::of_bubblewrap().environment,
        script: runtime.interpreter.zygote_script(),
        prologue,
        spec,
        limits: *limits,
        library: library.into(),
    })
}

/// How long a guest of ours may take in a slot: it has nothing to do.
const TRIAL_LIMIT: Duration = Duration::from_secs(10);
/// A directory that every host has, to prove with that a slot gets its workspace. The guest is ours and touches nothing.
const ANY_DIRECTORY: &str = "/usr";

/// Looks at the walls of a slot from inside, and runs a guest of ours in it.
async fn prove(
    engine: &Engine,
    mounts: &Mounts,
    runtime: &Runtime,
    zygote: &Arc<Zygote>,
    limits: &ResourceLimit,
) -> Result<(), String> {
    let (slot, inspection) = zygote
        .fork(engine, limits, true)
        .await
        .map_err(|error| chain(&error))?;
    let seen = inspection.ok_or("nobody has looked at the walls of a slot")?;
    let breaches = walls::breaches(&seen, &own_namespaces(), walls::LIMITS_OF_SLOTS);
    if !breaches.is_empty() {
        return Err(format!("a slot does not hold: {}", breaches.join("; ")));
    }
    let job = trial(runtime.language(), limits)?;
    let program = Program {
        language: job.source.language(),
        mode: job.source.mode(),
        limits: *limits,
    };
    let prepared = runtime.prepare(job, &Surroundings::of_bubblewrap(), Stage::Waiting);
    let cancel = CancellationToken::new();
    let run = engine.run_in(
        slot,
        mounts,
        prepared.program,
        limits,
        Some(ANY_DIRECTORY),
        &cancel,
    );
    let run = tokio::time::timeout(TRIAL_LIMIT, run)
        .await
        .map_err(|_| "a guest of ours did not end in a slot")?
        .map_err(|error| chain(&error))?;
    let outcome = judge(&program, run.finished, run.used.as_ref());
    match outcome.ending {
        Ending::Completed { .. } => Ok(()),
        other => Err(format!(
            "a guest of ours did not run in a slot: {other:?} {}",
            String::from_utf8_lossy(&outcome.stderr.bytes)
        )),
    }
}

/// The job of a guest of ours.
fn trial(language: Language, limits: &ResourceLimit) -> Result<Job, String> {
    let code = match language {
        Language::Python => "def handler(event):\n    return event",
        Language::JavaScript => "exports.handler = (event) => event",
        // A warm shell that counted lines wrong would not be one that was started for its script.
        Language::Shell => "exit $((LINENO - 1))",
    };
    let said = |error: &dyn std::error::Error| error.to_string();
    let mode = match language {
        Language::Shell => Mode::Script,
        Language::Python | Language::JavaScript => Mode::Handler,
    };
    Ok(Job {
        execution_id: ExecutionId::parse("trial").map_err(|error| said(&error))?,
        session_id: SessionId::parse("trial").map_err(|error| said(&error))?,
        source: Source::parse(language, Some(mode), code).map_err(|error| said(&error))?,
        event: Event::default(),
        environment: executor_domain::GuestEnvironment::default(),
        stdin: None,
        limits: *limits,
        workspace: ANY_DIRECTORY.into(),
        listener: Listener::none(),
    })
}
