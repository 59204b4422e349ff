//! Telling the control plane: ready, running, ended, gone. None of it is on the way of a request.

mod backoff;
mod deliver;
mod heartbeats;
mod reachable;

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use deliver::DeliveryBounds;
#[cfg(any(test, feature = "mocks"))]
pub(crate) use deliver::size_of;

use crate::{Clock, ControlPlane, Delivery, ExitReason, Outbox, Report, Running};
use deliver::Deliverer;
use heartbeats::Heartbeats;
use reachable::Reachable;

/// How long the report of the daemon's own end may take at least, whatever the reports before it took.
const FAREWELL: Duration = Duration::from_secs(1);

/// What is configurable about reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportOptions {
    /// How often an execution that runs is reported.
    pub heartbeat_interval: Duration,
    /// What an operator can do where the control plane takes no reports: said once, in the log.
    pub remedy: String,
    /// What the delivery of results may take.
    pub bounds: DeliveryBounds,
}

impl Default for ReportOptions {
    /// A heartbeat every 5 s.
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_secs(5),
            remedy: String::new(),
            bounds: DeliveryBounds::default(),
        }
    }
}

/// What reports are made of and where they go.
#[derive(Clone)]
pub struct ReportPorts {
    /// Takes them.
    pub control_plane: Arc<dyn ControlPlane>,
    /// Keeps the results until they are delivered.
    pub outbox: Arc<dyn Outbox>,
    /// Tells the time of day.
    pub clock: Arc<dyn Clock>,
}

/// Tells the control plane what happens here, in tasks of its own. Dropping it ends them at once; nothing that the outbox
/// keeps is lost by that.
pub struct Reports {
    ports: ReportPorts,
    reachable: Arc<Reachable>,
    /// Ends the announcement and the heartbeats.
    going_on: DropGuard,
    stop: CancellationToken,
    /// Ends the deliverer, once it has delivered what it can.
    last_orders: CancellationToken,
    deliverer: AbortOnDrop,
    /// The port that was announced.
    port: Option<u16>,
}

impl Reports {
    /// Starts to deliver what the outbox keeps, and to report what runs. Must be called inside a tokio runtime.
    pub fn start(ports: ReportPorts, running: Running, options: ReportOptions) -> Self {
        let reachable = Arc::new(Reachable::new(options.remedy));
        let stop = CancellationToken::new();
        let last_orders = CancellationToken::new();
        let heartbeats = Heartbeats::new(
            Arc::clone(&ports.control_plane),
            Arc::clone(&ports.clock),
            running,
            options.heartbeat_interval,
        );
        tokio::spawn(stop.clone().run_until_cancelled_owned(heartbeats.run()));
        let deliverer = Deliverer::new(
            Arc::clone(&ports.control_plane),
            Arc::clone(&ports.outbox),
            Arc::clone(&reachable),
            options.bounds,
        );
        let deliverer = tokio::spawn(deliverer.run(last_orders.clone()));
        Self {
            ports,
            reachable,
            going_on: stop.clone().drop_guard(),
            stop,
            last_orders,
            deliverer: AbortOnDrop(deliverer),
            port: None,
        }
    }

    /// Tells the control plane that the daemon listens on this port, as often as it takes to be heard.
    pub fn announce(&mut self, port: u16) {
        self.port = Some(port);
        let report = Report::Ready {
            port,
            at: self.ports.clock.now(),
        };
        let control_plane = Arc::clone(&self.ports.control_plane);
        let reachable = Arc::clone(&self.reachable);
        let announced = self.stop.clone().run_until_cancelled_owned(async move {
            insist(&*control_plane, &report, &reachable).await;
        });
        tokio::spawn(announced);
    }

    /// Delivers what can be delivered in the time left, and says at last that the daemon stops. To be called when nothing
    /// runs any more. Returns at the deadline, or a second later where the results took all of the time. What could not
    /// be delivered stays in the outbox.
    pub async fn finish(mut self, exit_code: i32, reason: ExitReason, deadline: Instant) {
        drop(self.going_on);
        self.last_orders.cancel();
        if timeout_at(deadline, &mut self.deliverer.0).await.is_err() {
            tracing::warn!("no time left to deliver reports");
        }
        drop(self.deliverer);
        let backlog = self.ports.outbox.levels().undelivered;
        if backlog > 0 {
            tracing::warn!(
                backlog,
                "results are left that the control plane has not got"
            );
        }
        let Some(port) = self.port else {
            return;
        };
        let report = Report::Exited {
            port,
            exit_code,
            reason,
            at: self.ports.clock.now(),
        };
        let deadline = deadline.max(Instant::now() + FAREWELL);
        let control_plane = &*self.ports.control_plane;
        let said = async {
            // One that was away just now is asked once and not waited for.
            if self.reachable.is_away() {
                control_plane.deliver(&report).await
            } else {
                say_once_more(control_plane, &report).await
            }
        };
        let said = timeout_at(deadline, said).await;
        if said != Ok(Delivery::Delivered) {
            tracing::warn!("the control plane has not heard that this daemon stops");
        }
    }
}

/// Attempts until the control plane has it, or never will.
async fn insist(control_plane: &dyn ControlPlane, report: &Report, reachable: &Reachable) {
    for failures in 1.. {
        match control_plane.deliver(report).await {
            Delivery::Delivered => {
                reachable.took();
                tracing::info!("the control plane knows that this daemon is ready");
                return;
            }
            Delivery::Refused { reason } => {
                tracing::error!(
                    reason,
                    "the control plane refused the report that this daemon is ready"
                );
                return;
            }
            Delivery::Retry { after, reason } => {
                reachable.failed(&reason);
                sleep(backoff::pause(failures, after)).await;
            }
        }
    }
}

/// Attempts, and once more if that may help: a daemon that stops has no time for a control plane that is away.
async fn say_once_more(control_plane: &dyn ControlPlane, report: &Report) -> Delivery {
    match control_plane.deliver(report).await {
        Delivery::Retry { after, .. } => {
            sleep(backoff::pause(1, after)).await;
            control_plane.deliver(report).await
        }
        final_word => final_word,
    }
}

/// A task that ends with its owner.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
pub(crate) mod tests;
