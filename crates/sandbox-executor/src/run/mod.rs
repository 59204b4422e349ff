//! `run`: one program, without a server and without a socket.

mod input;
mod report;

use std::{io, path::Path, time::Duration};

use executor_application::{ExecuteCode, ExecuteCommand, ExecuteError, RunFailure, SandboxError};
use executor_domain::Execution;
use executor_interfaces_http::execution_json;
use indicatif::ProgressBar;
use tokio::sync::mpsc;

use crate::{
    cli::{Input, RunArgs},
    config::Config,
    exit::Exit,
    signals::{self, Stop},
    terminal,
    wiring::{Adapters, WorkspacePlace},
};

/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(100);

/// Runs one program and ends as it did.
pub(crate) async fn run(args: RunArgs, config: &Config) -> Exit {
    // For a single run nothing can be made ahead.
    let mut config = config.clone();
    config.warm.on = false;
    let config = &config;
    let command = match input::command(&args, io::stdin().lock(), config.max_body_bytes) {
        Ok(command) => command,
        Err(error) => {
            terminal::failure(&error);
            return Exit::Usage;
        }
    };
    let place = if args.session.is_some() {
        WorkspacePlace::Configured
    } else {
        WorkspacePlace::Temporary
    };
    let mut stops = match signals::stops() {
        Ok(stops) => stops,
        Err(error) => {
            terminal::failure(&error);
            return Exit::Internal;
        }
    };
    let adapters = tokio::select! {
        started = Adapters::start(config, place) => started,
        stop = signals::next(&mut stops) => return stop.exit_of_run(),
    };
    let adapters = match adapters {
        Ok(adapters) => adapters,
        Err(error) => {
            terminal::failure(&error);
            return error.exit();
        }
    };
    let kept = args
        .session
        .as_ref()
        .map(|session| adapters.directory_of(session));

    let executor = adapters.execute_code(config);
    let spinner = spinner(&args.program);
    let ended = carry_out(&executor, command, &mut stops).await;
    spinner.finish_and_clear();
    match ended {
        Ok((execution, stop)) => {
            show(&execution, kept.as_deref(), args.json);
            stop.map_or_else(|| exit_of(&execution), Stop::exit_of_run)
        }
        Err(error) => {
            complain(&error);
            exit_of_error(&error)
        }
    }
}

/// Carries a command to its end. Told to stop, it cancels the run and still returns what came of it, once the guest is
/// dead. On every way out the run has let go of the adapters, so that whoever drops them removes a temporary workspace.
async fn carry_out(
    executor: &ExecuteCode,
    command: ExecuteCommand,
    stops: &mut mpsc::Receiver<Stop>,
) -> Result<(Execution, Option<Stop>), ExecuteError> {
    let id = command.execution_id.clone();
    let finished = executor.submit(command).await?.finished();
    tokio::pin!(finished);
    let stop = tokio::select! {
        ended = &mut finished => {
            // A run says that it has ended a moment before its task has.
            executor.drain(Duration::ZERO).await;
            return Ok((ended?, None));
        }
        stop = signals::next(stops) => stop,
    };
    let (cancelled, finished) = tokio::join!(executor.cancel(&id), finished);
    executor.drain(Duration::ZERO).await;
    cancelled?;
    Ok((finished?, Some(stop)))
}

/// Something to look at, where somebody looks.
fn spinner(program: &Input) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(match program {
        Input::File(path) => format!("running {}", path.display()),
        Input::Stdin => "running".to_owned(),
    });
    if !spinner.is_hidden() {
        spinner.enable_steady_tick(TICK);
    }
    spinner
}

fn show(execution: &Execution, kept: Option<&Path>, json: bool) {
    if json {
        match execution_json(execution) {
            Ok(text) => terminal::out(text),
            Err(error) => terminal::failure(&error),
        }
        return;
    }
    if let Some(outcome) = execution.outcome() {
        terminal::guest_out(&outcome.stdout.bytes);
        terminal::guest_err(&outcome.stderr.bytes);
    }
    terminal::err(report::summary(execution, kept));
}

fn exit_of(execution: &Execution) -> Exit {
    execution
        .outcome()
        .map_or(Exit::Internal, |outcome| report::exit_of(&outcome.ending))
}

fn complain(error: &ExecuteError) {
    terminal::failure(error);
    if let ExecuteError::Limits(refused) = error {
        for limit in refused {
            terminal::err(format_args!("  {} {limit}", limit.limit));
        }
    }
}

fn exit_of_error(error: &ExecuteError) -> Exit {
    match error {
        ExecuteError::Limits(_) | ExecuteError::OtherSession { .. } => Exit::Usage,
        ExecuteError::LanguageUnavailable(_) => Exit::Unavailable,
        ExecuteError::Failed(failure)
            if matches!(
                **failure,
                RunFailure::Sandbox(SandboxError::Unavailable { .. })
            ) =>
        {
            Exit::Unavailable
        }
        ExecuteError::Failed(_)
        | ExecuteError::Conflict
        | ExecuteError::Busy { .. }
        | ExecuteError::Draining => Exit::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use executor_application::{
        Options,
        fake::{FakeSandbox, NoWorkspaces, StoppedClock},
    };
    use executor_domain::{
        Event, ExecutionId, GuestEnvironment, Language, RequestedLimits, SessionId, Source, Status,
    };

    use super::*;

    fn command(code: &str) -> ExecuteCommand {
        ExecuteCommand {
            execution_id: ExecutionId::parse("e").unwrap(),
            session_id: SessionId::parse("s").unwrap(),
            source: Source::parse(Language::Shell, None, code).unwrap(),
            event: Event::default(),
            environment: GuestEnvironment::default(),
            stdin: None,
            limits: RequestedLimits::default(),
            trace_parent: None,
        }
    }

    fn executor() -> (Arc<FakeSandbox>, ExecuteCode) {
        let sandbox = Arc::new(FakeSandbox::default());
        let executor = ExecuteCode::new(
            Arc::clone(&sandbox) as Arc<_>,
            Arc::new(NoWorkspaces),
            Arc::new(StoppedClock),
            Options::default(),
        );
        (sandbox, executor)
    }

    #[tokio::test]
    async fn a_run_ends_by_itself() {
        let (_sandbox, executor) = executor();
        let (_told, mut stops) = mpsc::channel(2);
        let (execution, stop) = carry_out(&executor, command("exit 3"), &mut stops)
            .await
            .unwrap();
        assert_eq!(stop, None);
        assert_eq!(exit_of(&execution).code(), 3);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_has_run_holds_no_adapter_any_more() {
        // A task that outlives its run does so for microseconds, hence more than one try.
        for _ in 0..200 {
            let (sandbox, executor) = executor();
            let (_told, mut stops) = mpsc::channel(2);
            carry_out(&executor, command("echo"), &mut stops)
                .await
                .unwrap();
            drop(executor);
            assert_eq!(Arc::strong_count(&sandbox), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ctrl_c_kills_the_guest_and_says_130() {
        let (sandbox, executor) = executor();
        let (told, mut stops) = mpsc::channel(2);
        told.try_send(Stop::Interrupt).unwrap();
        let (execution, stop) = carry_out(&executor, command("sleep 60000"), &mut stops)
            .await
            .unwrap();
        assert_eq!(execution.status(), Status::Cancelled);
        assert_eq!(stop.map(|stop| stop.exit_of_run().code()), Some(130));
        assert_eq!(sandbox.running(), 0);
    }

    #[tokio::test]
    async fn a_wish_beyond_the_ceiling_is_a_usage_error() {
        let (_sandbox, executor) = executor();
        let (_told, mut stops) = mpsc::channel(2);
        let mut command = command("echo");
        command.limits.timeout = Some(3601);
        let error = carry_out(&executor, command, &mut stops).await.unwrap_err();
        assert_eq!(exit_of_error(&error), Exit::Usage);
    }
}
