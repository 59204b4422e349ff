//! What a service manager such as systemd is told (`sd_notify(3)`). Without one, nothing happens.

/// The daemon listens.
pub(crate) fn ready() {
    tell(&[state::READY]);
}

/// The daemon was told to stop, and does so.
pub(crate) fn stopping() {
    tell(&[state::STOPPING]);
}

#[cfg(target_os = "linux")]
mod state {
    use sd_notify::NotifyState;

    pub(super) const READY: NotifyState<'static> = NotifyState::Ready;
    pub(super) const STOPPING: NotifyState<'static> = NotifyState::Stopping;
}

#[cfg(target_os = "linux")]
fn tell(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told how we are");
    }
}

#[cfg(not(target_os = "linux"))]
mod state {
    pub(super) const READY: () = ();
    pub(super) const STOPPING: () = ();
}

#[cfg(not(target_os = "linux"))]
const fn tell(_states: &[()]) {}
