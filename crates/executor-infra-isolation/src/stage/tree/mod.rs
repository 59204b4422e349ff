//! The processes of a run, where no namespace holds them together: found by kinship, again and again.
//!
//! A process belongs to the run if it is a child of one that does, or shares its session or process group, or was seen to
//! belong before, under the same number *and* with the same start. What leaves its parent, its group and its session
//! between two looks is lost (`docs/macos.md`, "What does not hold").

mod list;

use std::{
    collections::{HashMap, HashSet},
    io,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

pub(crate) use self::list::{Entry, list};

/// Longest time to spend on killing. Killed processes are gone in a moment, but one that hangs in the kernel is not.
const SWEEP_LIMIT: Duration = Duration::from_secs(5);
/// How long to leave killed processes alone before looking again.
const SWEEP_PAUSE: Duration = Duration::from_millis(2);

/// What a look at the tree has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Resident memory of all processes that are alive, in bytes. What they share is counted once for each.
    pub memory: u64,
    /// CPU time of all processes that were ever seen, as last seen.
    pub cpu: Duration,
}

/// The processes of one run, as far as they were seen.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The session in which the run began; nobody enters a session from outside (setsid(2)).
    session: i32,
    /// Never touched, though it is in the session: whoever holds this.
    keeper: i32,
    /// Start and CPU time of every process that was ever seen to belong, by number.
    seen: HashMap<i32, Seen>,
    /// CPU time of processes whose number now belongs to another one.
    forgotten: Duration,
}

#[derive(Debug)]
struct Seen {
    started: String,
    cpu: Duration,
}

impl Tree {
    /// The tree that began in a session led by `keeper`, who is not part of it.
    pub(crate) fn led_by(keeper: i32) -> Self {
        Self {
            session: keeper,
            keeper,
            seen: HashMap::new(),
            forgotten: Duration::ZERO,
        }
    }

    /// Takes note of who belongs to the tree, and returns what they use.
    pub(crate) fn look(&mut self, processes: &[Entry]) -> Found {
        let members = self.members(processes);
        let mut memory = 0;
        for entry in &members {
            memory += entry.memory;
            let seen = Seen {
                started: entry.started.clone(),
                cpu: entry.cpu,
            };
            if let Some(before) = self.seen.insert(entry.pid, seen)
                && before.started != entry.started
            {
                self.forgotten += before.cpu;
            }
        }
        let seen: Duration = self.seen.values().map(|seen| seen.cpu).sum();
        Found {
            memory,
            cpu: self.forgotten + seen,
        }
    }

    /// Everybody who belongs to the tree and is alive.
    fn members<'a>(&self, processes: &'a [Entry]) -> Vec<&'a Entry> {
        let candidates: Vec<&Entry> = processes
            .iter()
            .filter(|entry| entry.pid != self.keeper && entry.pid > 1)
            .collect();
        let mut members: HashSet<i32> = HashSet::new();
        let mut groups: HashSet<i32> = HashSet::new();
        let mut sessions = HashSet::from([self.session]);
        // Kinship is closed under itself: repeat until nobody is added.
        loop {
            let before = members.len();
            for entry in &candidates {
                let known = self
                    .seen
                    .get(&entry.pid)
                    .is_some_and(|seen| seen.started == entry.started);
                if known
                    || members.contains(&entry.parent)
                    || entry.session.is_some_and(|id| sessions.contains(&id))
                    || entry.group.is_some_and(|id| groups.contains(&id))
                {
                    members.insert(entry.pid);
                    groups.extend(entry.group);
                    sessions.extend(entry.session);
                }
            }
            if members.len() == before {
                break;
            }
        }
        candidates
            .into_iter()
            .filter(|entry| members.contains(&entry.pid) && !entry.is_zombie)
            .collect()
    }

    /// Kills everybody who belongs to the tree, and looks again until nobody is left. Blocks, five seconds at most.
    ///
    /// # Errors
    ///
    /// Where processes cannot be listed, or do not die.
    pub(crate) fn sweep(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + SWEEP_LIMIT;
        loop {
            let processes = list()?;
            self.look(&processes);
            let members = self.members(&processes);
            if members.is_empty() {
                return Ok(());
            }
            for entry in members {
                if let Some(pid) = Pid::from_raw(entry.pid) {
                    // Dead since we looked, or not ours to kill: the next look tells.
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            }
            if Instant::now() > deadline {
                return Err(io::Error::other("processes of the guest do not die"));
            }
            std::thread::sleep(SWEEP_PAUSE);
        }
    }
}

/// How many processes a user has.
pub(crate) fn count_of(user: u32, processes: &[Entry]) -> u64 {
    processes.iter().filter(|entry| entry.user == user).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEPER: i32 = 100;

    fn entry(pid: i32, parent: i32, group: i32, session: i32) -> Entry {
        Entry {
            pid,
            parent,
            group: Some(group),
            session: Some(session),
            user: 501,
            memory: 10,
            cpu: Duration::from_secs(1),
            started: "then".into(),
            is_zombie: false,
        }
    }

    fn found(tree: &Tree, processes: &[Entry]) -> Vec<i32> {
        let mut pids: Vec<_> = tree.members(processes).iter().map(|e| e.pid).collect();
        pids.sort_unstable();
        pids
    }

    /// The keeper, somebody else's shell, and launchd.
    fn others() -> Vec<Entry> {
        vec![
            entry(1, 0, 1, 1),
            entry(50, 1, 50, 50),
            entry(KEEPER, 50, KEEPER, KEEPER),
        ]
    }

    #[test]
    fn kin_by_session_parent_and_group_is_found_and_nobody_else() {
        let mut processes = others();
        processes.extend([
            // The guest, and a child that has moved into a group of its own.
            entry(101, KEEPER, 101, KEEPER),
            entry(102, 101, 102, KEEPER),
            // An orphan in the guest's session.
            entry(103, 1, 103, KEEPER),
            // A child in a session of its own, its child, and an orphan in that session.
            entry(104, 101, 104, 104),
            entry(105, 104, 105, 104),
            entry(106, 1, 107, 104),
            // Somebody else's, with the same start.
            entry(200, 50, 200, 50),
            entry(201, 1, 201, 201),
        ]);
        // The order of a listing means nothing.
        processes.reverse();
        let tree = Tree::led_by(KEEPER);
        assert_eq!(found(&tree, &processes), [101, 102, 103, 104, 105, 106]);
    }

    #[test]
    fn who_was_seen_is_known_again_by_its_start_and_not_by_its_number() {
        let mut tree = Tree::led_by(KEEPER);
        let mut processes = others();
        processes.push(entry(101, KEEPER, 101, KEEPER));
        processes.push(entry(104, 101, 104, 104));
        tree.look(&processes);

        // Everything that tied it to the run is gone.
        let mut alone = others();
        alone.push(entry(104, 1, 104, 104));
        assert_eq!(found(&tree, &alone), [104]);

        // Another process has got its number.
        alone[3].started = "later".into();
        assert_eq!(found(&tree, &alone), [0; 0]);
    }

    #[test]
    fn memory_is_that_of_the_living_and_cpu_time_that_of_all() {
        let mut tree = Tree::led_by(KEEPER);
        let mut processes = others();
        processes.push(entry(101, KEEPER, 101, KEEPER));
        processes.push(entry(102, 101, 101, KEEPER));
        let both = tree.look(&processes);
        assert_eq!((both.memory, both.cpu), (20, Duration::from_secs(2)));

        processes.pop();
        let one = tree.look(&processes);
        assert_eq!((one.memory, one.cpu), (10, Duration::from_secs(2)));

        // A number that is used again within the run.
        processes.push(Entry {
            started: "later".into(),
            ..entry(102, 101, 101, KEEPER)
        });
        assert_eq!(tree.look(&processes).cpu, Duration::from_secs(3));
    }

    #[test]
    fn the_dead_use_nothing_and_still_tell_their_kin() {
        let tree = Tree::led_by(KEEPER);
        let mut processes = others();
        processes.push(Entry {
            is_zombie: true,
            ..entry(101, KEEPER, 101, KEEPER)
        });
        processes.push(entry(104, 101, 104, 104));
        assert_eq!(found(&tree, &processes), [104]);
    }

    /// Where a container looks at processes that were started from outside of it.
    #[test]
    fn those_without_a_group_and_a_session_are_not_kin_of_each_other() {
        let outsider = |pid, parent| Entry {
            group: None,
            session: None,
            ..entry(pid, parent, 0, 0)
        };
        let mut processes = others();
        processes.extend([outsider(101, KEEPER), outsider(102, 101), outsider(200, 0)]);
        let mut tree = Tree::led_by(KEEPER);
        assert_eq!(found(&tree, &processes), [0; 0]);

        // One that is a member by descent draws its children in, and nobody else.
        processes.push(entry(103, KEEPER, 103, KEEPER));
        processes.push(outsider(104, 103));
        tree.look(&processes);
        assert_eq!(found(&tree, &processes), [103, 104]);
    }
}
