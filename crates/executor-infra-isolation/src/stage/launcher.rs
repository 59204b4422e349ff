//! The launcher: outside of the sandbox, from the daemon's privileges down to none.

use std::{
    convert::Infallible,
    env,
    fs::{self, File},
    io::{self, Write},
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::Command,
};

use nix::unistd::{Gid, Uid};
use rustix::{
    fs::{MemfdFlags, Mode, OFlags},
    process::{Resource, Rlimit, Signal},
};

use super::{INIT, StageError, Step, close_others, wire};

/// How readily the kernel kills this process, and who starts from it, for want of memory (proc(5)).
const OOM_SCORE: &str = "/proc/self/oom_score_adj";
/// Well before the daemon and everything else of the host, which have 0.
const FIRST_TO_GO: i32 = 500;

/// Does what the daemon asks and becomes bubblewrap. Comes back only where it failed.
pub(super) fn become_bubblewrap() -> StageError {
    match prepare_and_exec() {
        Err(failure) => failure,
    }
}

fn prepare_and_exec() -> Result<Infallible, StageError> {
    let spec: wire::LaunchSpec =
        wire::receive(rustix::stdio::stdin()).step("read the launch order")?;
    close_others(&[]).step("close inherited descriptors")?;

    // 1. Enter the run's cgroups, while we may.
    for file in &spec.cgroup_files {
        // "0" is the writing process itself (cgroups(7)).
        fs::write(file, "0").step(format!("enter the cgroup {}", file.display()))?;
    }

    // 2. Hear every signal, whatever the daemon's own parent has ignored or blocked.
    executor_guest::reset_signals().step("reset signals")?;

    // 3. Never dump core: it would hold the guest's memory, and the path is the host's.
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(Resource::Core, none).step("switch core dumps off")?;

    // 4. First to go when the host runs out of memory, and no favourite of the scheduler, whatever the daemon is: both are
    //    inherited. The first may be raised by anybody (proc(5), oom_score_adj); a host that hides it keeps its own.
    let score = fs::read_to_string(OOM_SCORE).unwrap_or_default();
    if score
        .trim()
        .parse()
        .is_ok_and(|score: i32| score < FIRST_TO_GO)
    {
        fs::write(OOM_SCORE, FIRST_TO_GO.to_string()).step("become first to go")?;
    }
    if rustix::process::getpriority_process(None).is_ok_and(|nice| nice < 0) {
        rustix::process::setpriority_process(None, 0).step("become ordinary")?;
    }

    // 5. Become nobody in particular. The kernel checks the *global* uid of whoever opens /proc/sys/kernel/core_pattern
    //    and the like, so a guest whose uid maps to the host's root could write there (docs/threat-model.md).
    if let Some((user, group)) = spec.run_as {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        nix::unistd::setgroups(&[]).step("drop supplementary groups")?;
        nix::unistd::setresgid(group, group, group).step("change group")?;
        nix::unistd::setresuid(user, user, user).step("change user")?;
    }

    // 6. Die with the daemon. After the change of user, which would reset it (prctl(2)); and a daemon that died before
    //    this line has left us another parent.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .step("tie to the daemon")?;
    if nix::unistd::getppid().as_raw().unsigned_abs() != spec.parent {
        return Err(io::Error::other("the daemon is gone")).step("tie to the daemon");
    }

    // 7. No program that we start gains privileges, not even a setuid bubblewrap.
    rustix::thread::set_no_new_privs(true).step("give up new privileges")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    env::set_current_dir("/").step("change to /")?;

    // 8. Arguments go through a descriptor: any user of the host can read a command line.
    let arguments = inheritable_memory(&spec.arguments).step("pass the arguments")?;
    // The init is this very executable, by descriptor: the sandbox has no path to it, and needs none.
    let this = rustix::fs::open("/proc/self/exe", OFlags::RDONLY, Mode::empty())
        .step("open this executable")?;
    let failed = Command::new(&spec.bwrap)
        .env_clear()
        .arg("--args")
        .arg(arguments.as_raw_fd().to_string())
        .arg("--")
        .arg(format!("/proc/self/fd/{}", this.as_raw_fd()))
        .arg(INIT)
        .exec();
    Err(failed).step(format!("start {}", spec.bwrap.display()))
}

/// NUL-separated words in memory that a program started by us can read by its descriptor.
fn inheritable_memory(words: &[String]) -> io::Result<File> {
    // Without CLOEXEC, on purpose.
    let mut file = File::from(rustix::fs::memfd_create("arguments", MemfdFlags::empty())?);
    for word in words {
        if word.contains('\0') {
            return Err(io::Error::other("an argument has a NUL byte"));
        }
        file.write_all(word.as_bytes())?;
        file.write_all(b"\0")?;
    }
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file)
}
