//! What is kept warm: which languages, proven how, and what each falls back to and why.

use std::{num::NonZero, sync::Arc, time::Duration};

use executor_application::{CancellationToken, Job, WarmPool, chain};
use executor_domain::{Language, Outcome, ResourceLimit, Start};
use executor_guest::protocol::Fork;
use futures_util::future::join_all;

use super::{
    engine::Engine,
    probe::own_namespaces,
    trial::{self, ANY_DIRECTORY, Jury, Trial},
    walls,
};
use crate::{
    guest::channel::frame,
    outcome::{Program, judge},
    runtime::{Runtime, Stage, Surroundings},
    warm::{
        WarmOptions,
        environment::needed_at_start,
        library,
        mounts::Mounts,
        pool::{Pool, Sizes},
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
        if options.languages.is_empty() {
            return warm;
        }
        let mounts = Mounts::start(engine)
            .await
            .map(Arc::new)
            .map_err(|error| chain(&error));
        let wanted = runtimes
            .iter()
            .filter(|runtime| options.languages.contains(&runtime.language()));
        // All at once, since each waits for processes of its own most of the time.
        let started = join_all(wanted.map(async |runtime| {
            let started = match &mounts {
                Ok(mounts) => pool(engine, mounts, runtime, limits, options).await,
                Err(why) => Err(why.clone()),
            };
            (runtime.language(), started)
        }));
        for (language, started) in started.await {
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
        // The size of V8's heap is decided when Node starts.
        let has_other_heap = job.limits.max_memory_mb() != pool.limits().max_memory_mb();
        if language == Language::JavaScript && has_other_heap {
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
    let argv = runtime
        .zygote_argv(limits.max_memory_mb())
        .ok_or("this interpreter cannot fork")?;
    let library = library::load(options.library.as_deref()).map_err(|error| error.to_string())?;
    let spec = Engine::zygote_spec(runtime.language(), limits).map_err(|error| chain(&error))?;
    let mut prologue = Vec::new();
    if let Some(bootstrap) = &runtime.bootstrap {
        let preload = match runtime.language() {
            Language::Python => options.python_preload.join(" "),
            Language::JavaScript => options.node_preload.join(" "),
            Language::Shell => String::new(),
        };
        for (kind, payload) in [(b'B', bootstrap.as_bytes()), (b'P', preload.as_bytes())] {
            prologue.extend(frame(kind, payload).map_err(|error| error.to_string())?);
        }
    }
    Ok(Recipe {
        language: runtime.language(),
        argv,
        environment: Surroundings::of_bubblewrap().environment,
        script: runtime.interpreter.zygote_script(),
        prologue,
        spec,
        limits: *limits,
        library: library.into(),
    })
}

/// How long a guest of ours may take in a slot, on a machine however busy: it has next to nothing to do.
const TRIAL_LIMIT: Duration = Duration::from_secs(30);

/// Looks at the walls of a slot from inside, and runs guests of ours: all of them in slots that had time to prepare, the first
/// in the one that was looked at; and the first once more in a slot that had none.
async fn prove(
    engine: &Engine,
    mounts: &Mounts,
    runtime: &Runtime,
    zygote: &Arc<Zygote>,
    limits: &ResourceLimit,
) -> Result<(), String> {
    let (slot, inspection) = zygote
        .fork(engine, limits, Fork::Shown)
        .await
        .map_err(|error| chain(&error))?;
    let seen = inspection.ok_or("nobody has looked at the walls of a slot")?;
    let breaches = walls::breaches(&seen, &own_namespaces(), walls::LIMITS_OF_SLOTS);
    if !breaches.is_empty() {
        return Err(format!("a slot does not hold: {}", breaches.join("; ")));
    }
    let trials = trial::of(runtime.language());
    let all = trials.iter().map(|trial| (Fork::Ahead, trial));
    let once_more = trials.first().map(|trial| (Fork::Awaited, trial));
    let mut first = Some(slot);
    // All at once: a guest of ours waits for its own threads and children most of the time.
    let held = all
        .chain(once_more)
        .map(|(fork, trial)| (fork, trial, first.take()))
        .map(async |(fork, trial, slot)| {
            let slot = if let Some(slot) = slot {
                slot
            } else {
                let forked = zygote.fork(engine, limits, fork).await;
                forked.map_err(|error| chain(&error))?.0
            };
            let outcome = hold(trial, slot, engine, mounts, runtime, limits).await?;
            Ok::<_, String>((trial, outcome))
        });
    let mut jury = Jury::default();
    for held in join_all(held).await {
        let (trial, outcome) = held?;
        jury.hear(trial, &outcome)?;
    }
    Ok(())
}

/// Runs a guest of ours in a slot.
async fn hold(
    trial: &Trial,
    slot: Slot,
    engine: &Engine,
    mounts: &Mounts,
    runtime: &Runtime,
    limits: &ResourceLimit,
) -> Result<Outcome, String> {
    let language = runtime.language();
    let prepared = runtime.prepare(
        trial.job(language, limits)?,
        &Surroundings::of_bubblewrap(),
        Stage::Waiting,
    );
    let program = Program {
        language,
        mode: trial.mode,
        limits: *limits,
    };
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
    Ok(judge(&program, run.finished, run.used.as_ref()))
}
