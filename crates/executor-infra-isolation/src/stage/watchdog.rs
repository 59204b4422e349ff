//! The watchdog: outlives a daemon that was killed by a moment, and kills what that left half built.
//!
//! A sandbox dies with the daemon because each of its processes is tied to its parent's life. bubblewrap's inner process ties
//! itself only after it has heard from the outer one that its ids are mapped: where that one dies first, it would wait forever
//! (`docs/adr/0035-a-watchdog-for-what-is-half-built.md`).

use std::{collections::BTreeSet, env, io};

use nix::sys::signal::SigSet;
use rustix::process::{Pid, Signal};

use super::{
    StageError, Step, close_others,
    wire::{self, Group},
};

/// Serves the daemon until it is gone.
pub(super) fn serve() -> Result<(), StageError> {
    close_others(&[]).step("close inherited descriptors")?;
    env::set_current_dir("/").step("change to /")?;
    // Whoever asks all of the daemon's processes to end must not end this one before the daemon.
    SigSet::all().thread_block().step("block signals")?;

    let mut building = BTreeSet::new();
    let over = loop {
        match wire::receive(rustix::stdio::stdin()) {
            Ok(Group::Building(leader)) => building.insert(leader),
            Ok(Group::Settled(leader)) => building.remove(&leader),
            Err(error) => break error,
        };
    };
    // Numbers are handed out in turn: none of these means somebody else a moment after the daemon's end.
    for group in building.into_iter().filter_map(Pid::from_raw) {
        // Fails only where nobody is left.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    match over.kind() {
        io::ErrorKind::UnexpectedEof => Ok(()),
        _ => Err(over).step("hear the daemon"),
    }
}
