//! Runs code that nobody trusts inside this program: three languages, files between runs, limits, honest endings.
//!
//! ```sh
//! cargo run --example embed
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::{error::Error, time::Duration};

use sandbox_executor::embed::{
    self, Ending, Executor, LimitCeilings, LimitPolicy, Request, RequestedLimits,
};

fn main() -> Result<(), Box<dyn Error>> {
    // First of all: this program is also started as a stage of its own sandboxes.
    embed::dispatch();
    tokio::runtime::Runtime::new()?.block_on(guests())
}

async fn guests() -> Result<(), Box<dyn Error>> {
    // What a guest gets, and the most that a request may ask for. A mistake in here is reported, all of them at once.
    let policy = LimitPolicy::new(LimitCeilings {
        default_timeout: 5,
        max_timeout: 30,
        max_memory_mb: 256,
        ..LimitCeilings::default()
    });
    let policy = policy.map_err(|mistakes| format!("{mistakes:?}"))?;
    // Fails where no sandbox can be started: there is no executor without isolation.
    let executor = Executor::builder().limits(policy).start().await?;

    let double =
        Request::python("def handler(event):\n    return event['n'] * 2").event(r#"{"n": 21}"#);
    show(
        "python",
        executor
            .run(double)
            .await?
            .outcome()
            .map(|outcome| &outcome.ending),
    );

    // Runs of one session share a workspace; what a run has changed is listed.
    let write = Request::shell("echo 'from the shell' > note.txt").session("shared");
    let written = executor.run(write).await?;
    let read = Request::javascript(
        "const fs = require('node:fs');\n\
         exports.handler = () => fs.readFileSync('note.txt', 'utf8').trim();",
    );
    let read = executor.run(read.session("shared")).await?;
    if let embed::State::Finished { artifacts, .. } = written.state() {
        for artifact in &artifacts.files {
            println!("artifact: {}", artifact.path);
        }
    }
    show("javascript", read.outcome().map(|outcome| &outcome.ending));

    // What a guest does wrong is a value, not an error.
    let endless = Request::python("while True: pass").as_script();
    let endless = endless.limits(RequestedLimits {
        max_wall_time_ms: Some(500),
        ..RequestedLimits::default()
    });
    show(
        "endless",
        executor
            .run(endless)
            .await?
            .outcome()
            .map(|outcome| &outcome.ending),
    );

    executor.stop(Duration::from_secs(5)).await;
    Ok(())
}

fn show(what: &str, ending: Option<&Ending>) {
    match ending {
        Some(Ending::Completed { return_value }) => println!("{what}: {}", return_value.as_str()),
        Some(other) => println!(
            "{what}: {}",
            other.error().map(|error| error.message).unwrap_or_default()
        ),
        None => println!("{what}: has not ended"),
    }
}
