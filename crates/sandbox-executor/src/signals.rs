//! How the process is told to stop.

use std::io;

use executor_application::ExitReason;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::exit::Exit;

/// Told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// By SIGTERM: whoever started us wants us gone.
    Terminate,
    /// By SIGINT: a person pressed Ctrl-C.
    Interrupt,
}

impl Stop {
    /// How a daemon ends that was told so. A person who stops a daemon gets what they wanted: 0.
    pub(crate) const fn exit_of_daemon(self) -> Exit {
        match self {
            Self::Terminate => Exit::Terminated,
            Self::Interrupt => Exit::Success,
        }
    }

    /// Why the daemon stops, for the control plane.
    pub(crate) const fn reason(self) -> ExitReason {
        match self {
            Self::Terminate => ExitReason::Terminated,
            Self::Interrupt => ExitReason::Normal,
        }
    }

    /// How `run` ends that was told so: the convention of shells, 128 and the signal's number.
    pub(crate) const fn exit_of_run(self) -> Exit {
        match self {
            Self::Terminate => Exit::Terminated,
            Self::Interrupt => Exit::Interrupted,
        }
    }
}

/// Every SIGTERM and SIGINT from now on, in order. They no longer end the process by themselves, and not even as the
/// first process of a container, which the kernel spares signals that it has no handler for (`pid_namespaces(7)`), are
/// they lost.
pub(crate) fn stops() -> io::Result<mpsc::Receiver<Stop>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // The first one matters, and the second. Whoever sends more need not be remembered.
    let (told, stops) = mpsc::channel(2);
    tokio::spawn(async move {
        loop {
            let stop = tokio::select! {
                Some(()) = terminate.recv() => Stop::Terminate,
                Some(()) = interrupt.recv() => Stop::Interrupt,
                () = told.closed() => return,
            };
            // Full: it has been told often enough.
            let _ = told.try_send(stop);
        }
    });
    Ok(stops)
}

/// Waits for the next one; for ever when there will be none.
pub(crate) async fn next(stops: &mut mpsc::Receiver<Stop>) -> Stop {
    match stops.recv().await {
        Some(stop) => stop,
        None => std::future::pending().await,
    }
}
