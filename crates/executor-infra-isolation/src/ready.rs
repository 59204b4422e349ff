//! Makes interpreters ready for guests, by real runs of our own, whatever the sandbox is made of.

use std::{path::Path, sync::Arc};

use executor_domain::Language;

use crate::{
    guest::{
        interpreter::{Interpreter, parse_version},
        runner::{self, Bootstrap},
    },
    runtime::{Runtime, words},
    stage::wire::Exit,
    supervisor::Finished,
};

/// Runs programs of ours in a sandbox, and has the walls looked at while it does.
pub(crate) trait Trial: Sync {
    /// Why there is no sandbox.
    type Error: From<Refusal>;

    /// Runs a program to its end. Fails where a wall is missing.
    fn run(
        &self,
        argv: Vec<String>,
        stdin: String,
    ) -> impl Future<Output = Result<Finished, Self::Error>> + Send;
}

/// An interpreter does not do what we ask.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Which.
    pub interpreter: String,
    /// What it said.
    pub said: String,
}

impl Refusal {
    fn new(interpreter: &Interpreter, said: impl Into<String>) -> Self {
        Self {
            interpreter: interpreter.path().display().to_string(),
            said: said.into(),
        }
    }
}

/// An option of Node that saves a sixth of its start: V8 then keeps the hash seed of its snapshot. A caller's data could
/// be made to collide in a guest's tables, at the cost of that guest's own CPU time, which is limited.
const FASTER_NODE: &str = "--no-rehash-snapshot";

/// Makes an interpreter ready.
pub(crate) async fn ready<T: Trial>(
    trial: &T,
    interpreter: Interpreter,
) -> Result<Runtime, T::Error> {
    let version = version(trial, &interpreter).await?;
    let mut options = Vec::new();
    if interpreter.language() == Language::JavaScript {
        let mut argv = words(interpreter.version_command());
        argv.insert(1, FASTER_NODE.into());
        let tried = trial.run(argv, String::new()).await?;
        // V8's options come and go with its versions, and Node refuses to start with one that it does not know.
        if succeeded(&interpreter, tried).is_ok() {
            options.push(FASTER_NODE.into());
        }
    }
    let bootstrap = match interpreter.language() {
        Language::Python => Some(compiled(trial, &interpreter).await?),
        language => Bootstrap::from_source(language),
    };
    Ok(Runtime {
        interpreter,
        version,
        options,
        bootstrap: bootstrap.map(Arc::new),
    })
}

/// Asks an interpreter for its version.
pub(crate) async fn version<T: Trial>(
    trial: &T,
    interpreter: &Interpreter,
) -> Result<String, T::Error> {
    let run = trial
        .run(words(interpreter.version_command()), String::new())
        .await?;
    let printed = succeeded(interpreter, run)?;
    Ok(parse_version(&String::from_utf8_lossy(&printed))
        .unwrap_or("unknown")
        .to_owned())
}

/// Has Python compile its runner, so that no run has to.
async fn compiled<T: Trial>(trial: &T, interpreter: &Interpreter) -> Result<Bootstrap, T::Error> {
    let argv = [
        &interpreter.path().to_string_lossy(),
        "-I",
        "-c",
        runner::PYTHON_COMPILE_PROGRAM,
    ]
    .map(str::to_owned);
    let run = trial
        .run(argv.into(), runner::python_source().to_owned())
        .await?;
    let output = succeeded(interpreter, run)?;
    Ok(Bootstrap::from_compiler_output(output)
        .map_err(|error| Refusal::new(interpreter, error.to_string()))?)
}

/// What a program of ours wrote, where it ended well.
fn succeeded(interpreter: &Interpreter, run: Finished) -> Result<Vec<u8>, Refusal> {
    match run.ended {
        Some(ended) if ended.how == Exit::Code(0) => Ok(run.stdout.bytes),
        ended => Err(Refusal::new(
            interpreter,
            format!(
                "{:?}: {}",
                ended.map(|ended| ended.how),
                String::from_utf8_lossy(&run.stderr.bytes).trim()
            ),
        )),
    }
}

/// Where a path leads, if it is something that can be executed.
pub(crate) fn executable(path: &Path) -> Option<std::path::PathBuf> {
    let target = path.canonicalize().ok()?;
    rustix::fs::access(&target, rustix::fs::Access::EXEC_OK).ok()?;
    Some(target)
}
