//! An own adapter: a sandbox around the usual one, which gives every session a budget of CPU time.
//!
//! ```sh
//! cargo run --example own_adapter
//! ```
//!
//! An adapter implements a port, and the doc comments of the port say what it must keep. This one keeps the contract by
//! handing every run on, and adds a decision of its own before it and a note after it.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::{
    collections::HashMap,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use sandbox_executor::embed::{
    self, CancellationToken, Executor, Job, Outcome, Request, Sandbox, SandboxDescription,
    SandboxError, SessionId,
};

/// Refuses sessions that have used up their CPU time.
struct Budgeted {
    inner: Arc<dyn Sandbox>,
    budget: Duration,
    used: Mutex<HashMap<SessionId, Duration>>,
}

impl Budgeted {
    fn new(inner: Arc<dyn Sandbox>, budget: Duration) -> Self {
        Self {
            inner,
            budget,
            used: Mutex::default(),
        }
    }

    fn used(&self, session: &SessionId) -> Duration {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.get(session).copied().unwrap_or_default()
    }

    fn charge(&self, session: SessionId, time: Duration) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        *used.entry(session).or_default() += time;
    }
}

#[async_trait]
impl Sandbox for Budgeted {
    async fn run(&self, job: Job, cancel: CancellationToken) -> Result<Outcome, SandboxError> {
        let session = job.session_id.clone();
        let used = self.used(&session);
        if used >= self.budget {
            return Err(SandboxError::Unavailable {
                reason: format!("session {session} has used {used:?} of {:?}", self.budget),
            });
        }
        // Dropping this future drops that of the inner sandbox: the guest dies, as the port demands.
        let outcome = self.inner.run(job, cancel).await?;
        self.charge(session, outcome.usage.cpu_time.unwrap_or_default());
        Ok(outcome)
    }

    async fn check(&self) -> Result<(), SandboxError> {
        self.inner.check().await
    }

    fn description(&self) -> &SandboxDescription {
        self.inner.description()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    embed::dispatch();
    tokio::runtime::Runtime::new()?.block_on(budgets())
}

async fn budgets() -> Result<(), Box<dyn Error>> {
    let executor = Executor::builder()
        .wrap_sandbox(|usual| Arc::new(Budgeted::new(usual, Duration::from_millis(300))))
        .start()
        .await?;
    // Half a second of CPU time: the first run may start, the second one may not.
    let work = "import time\nwhile time.process_time() < 0.5: pass";
    for (session, attempt) in [("eager", 1), ("eager", 2), ("patient", 1)] {
        let request = Request::python(work).as_script().session(session);
        match executor.run(request).await {
            Ok(execution) => println!("{session} {attempt}: {}", execution.status().as_str()),
            Err(error) => println!("{session} {attempt}: refused ({error})"),
        }
    }
    executor.stop(Duration::ZERO).await;
    Ok(())
}
