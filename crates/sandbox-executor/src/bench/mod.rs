//! `bench`: what runs cost over HTTP on this machine, beside the least that isolation by Bubblewrap can cost, and whether that is
//! what the project promises. `docs/performance.md` has the method.
//!
//! [`plan`] says what is measured and [`report`] what came of it; [`stats`], [`table`] and [`svg`] only compute. The clients have
//! a thread of their own, so that daemon and client are as far apart as over any loopback connection.

mod client;
mod daemon;
mod load;
mod measure;
mod memory;
mod neighbours;
mod plan;
mod reference;
mod report;
mod stats;
mod svg;
mod table;

use std::{error::Error, fs, thread};

use tokio::{runtime, sync::oneshot};

use crate::{cli::BenchArgs, config::Sources, exit::Exit, signals, terminal};
use measure::Bench;
use plan::Plan;

/// Why there is no report. A wrong answer of a guest is among it: figures of wrong answers are worth nothing.
type Failure = Box<dyn Error + Send + Sync>;

/// Measures, and reports on stdout. Promises that are not kept fail nothing: whether a machine is quiet enough to tell, its
/// operator knows.
pub(crate) async fn bench(args: BenchArgs, sources: Sources) -> Exit {
    let mut stops = match signals::stops() {
        Ok(stops) => stops,
        Err(error) => {
            terminal::failure(&error);
            return Exit::Internal;
        }
    };
    let bench = Bench::new(Plan::new(&args), sources);
    let report = tokio::select! {
        report = bench.measure() => report,
        stop = signals::next(&mut stops) => return stop.exit_of_run(),
    };
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            terminal::failure(&*error);
            return Exit::Internal;
        }
    };
    if let Some(path) = &args.svg
        && let Err(error) = fs::write(path, svg::svg(&report))
    {
        terminal::err(format_args!("error: {}: {error}", path.display()));
        return Exit::Usage;
    }
    if args.json {
        terminal::out(report.to_json());
    } else if args.markdown {
        terminal::out(table::markdown(&report));
    } else {
        terminal::out(table::text(&report));
    }
    Exit::Success
}

/// Does something on a thread of its own that waits for nothing else. Dropping the future does not end it.
async fn apart<T: Send + 'static, F: Future<Output = Result<T, Failure>>>(
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<T, Failure> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (done, result) = oneshot::channel();
    thread::Builder::new()
        .name("bench-clients".into())
        .spawn(move || {
            // Whoever has gone is not told.
            let _ = done.send(runtime.block_on(work()));
        })?;
    result.await?
}
