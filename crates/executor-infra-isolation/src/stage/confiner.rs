//! The confiner: limits itself, and becomes the program that confines the guest, which becomes the guest.
//!
//! A program of its own because of two things that must not be mixed. Limits count for whoever sets them, and the keeper
//! must still be able to start a process when the guest has used up its share. And the guest's environment must not
//! reach any program outside of the sandbox: `DYLD_INSERT_LIBRARIES` in the environment of one of ours would be code of
//! the guest's that runs unconfined. So it arrives here through a descriptor, and is used for the last step alone:
//! `sandbox-exec` is protected by the system, and dyld(1) ignores such variables for it.

use std::{
    convert::Infallible,
    env,
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::unix::process::CommandExt,
    process::Command,
};

use rustix::process::{Resource, Rlimit};

use super::{
    StageError, Step,
    wire::{ConfineSpec, MAX_FRAME, Rlimits},
};

/// Becomes the guest. The argument is the number of the descriptor that says how.
pub(super) fn become_guest(
    mut arguments: impl Iterator<Item = OsString>,
) -> Result<Infallible, StageError> {
    let number: i32 = arguments
        .next()
        .and_then(|word| word.to_str()?.parse().ok())
        .ok_or_else(|| io::Error::other("no descriptor"))
        .step("find the order")?;
    let spec = read_spec(number).step("read the order")?;
    nix::unistd::close(number).step("close the order")?;

    env::set_current_dir(&spec.directory).step("enter the working directory")?;
    let (program, arguments) = spec
        .argv
        .split_first()
        .ok_or_else(|| io::Error::other("no program"))
        .step("start the guest")?;
    // The last step but one: a limit may be too low for anything else.
    limit(&spec.rlimits)?;
    let failed = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(spec.environment.iter().map(|(name, value)| (name, value)))
        .exec();
    Err(failed).step(format!("start {program}"))
}

/// Reads to the end of a pipe that the keeper fills and closes.
fn read_spec(number: i32) -> io::Result<ConfineSpec> {
    let mut text = Vec::new();
    // By its name (fd(4)): safe Rust makes no descriptor from a number.
    File::open(format!("/dev/fd/{number}"))?
        .take(MAX_FRAME as u64)
        .read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn limit(limits: &Rlimits) -> Result<(), StageError> {
    let fixed = |value| Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    // At the soft limit the kernel asks (SIGXCPU), at the hard one, where it has any, it kills (setrlimit(2)).
    let cpu = Rlimit {
        current: Some(limits.cpu_seconds),
        maximum: Some(limits.cpu_seconds + 1),
    };
    // No RLIMIT_DATA: what it counts on macOS is not what it counts on Linux, and V8 reserves more than it uses. The
    // keeper watches memory.
    let all = [
        (Resource::Core, fixed(0)),
        (Resource::Nofile, fixed(limits.open_files)),
        (Resource::Fsize, fixed(limits.file_size)),
        (Resource::Memlock, fixed(0)),
        (Resource::Cpu, cpu),
        (Resource::Nproc, fixed(limits.processes)),
    ];
    for (resource, value) in all {
        rustix::process::setrlimit(resource, value).step(format!("set the limit {resource:?}"))?;
    }
    Ok(())
}
