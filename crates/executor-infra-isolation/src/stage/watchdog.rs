//! The watchdog: outlives, by a moment, a daemon that was killed, and kills what that one has left half built. It has nothing to do
//! with systemd's, which is for daemons that hang.
//!
//! A sandbox dies with the daemon because each of its processes is tied to its parent's life. bubblewrap's inner process ties
//! itself only after it has heard from the outer one that its ids are mapped: where that one dies first, it would wait for ever
//! (`docs/adr/0035-a-watchdog-for-what-is-half-built.md`).

use std::{collections::BTreeSet, env, io};

use nix::sys::signal::SigSet;
use rustix::process::{Pid, Signal};

use super::{
    StageError, Step, close_others,
    wire::{self, Group},
};

/// Serves the daemon until that is gone.
pub(super) fn serve() -> Result<(), StageError> {
    let control = rustix::stdio::stdin();
    close_others(&[]).step("close inherited descriptors")?;
    env::set_current_dir("/").step("change to /")?;
    // Whoever asks all of the daemon's processes to end must not end this one before the daemon.
    SigSet::all().thread_block().step("block signals")?;
    rustix::net::send(control, &[wire::READY], wire::NO_SIGNAL).step("say that it watches")?;

    let mut groups = BTreeSet::new();
    loop {
        match wire::receive(control) {
            Ok(Group::Watch(group)) => groups.insert(group),
            Ok(Group::Forget(group)) => groups.remove(&group),
            // The daemon is gone.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            // The daemon is there, and finds out that this is not.
            Err(error) => return Err(error).step("hear the daemon"),
        };
    }
    // Numbers are handed out in turn: none of these means somebody else a moment after the daemon's end.
    for group in groups.into_iter().filter_map(Pid::from_raw) {
        // Fails only where nobody is left.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    Ok(())
}
