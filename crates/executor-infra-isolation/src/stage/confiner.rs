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
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    process::Command,
};

use rustix::{
    io::FdFlags,
    process::{Resource, Rlimit},
};

use super::{
    StageError, Step,
    wire::{ConfineSpec, MAX_FRAME, Rlimits},
};

/// Becomes the guest. The arguments are the numbers of two descriptors: one that says how, and one to say why not.
pub(super) fn become_guest(
    mut arguments: impl Iterator<Item = OsString>,
) -> Result<Infallible, StageError> {
    let mut number = || -> Result<i32, StageError> {
        let word = arguments.next();
        word.and_then(|word| word.to_str()?.parse().ok())
            .ok_or_else(|| io::Error::other("no number"))
            .step("find the order")
    };
    let (order, complaints) = (number()?, number()?);
    // Closed by itself when this has become the guest: that is how the keeper knows.
    let mut complaints =
        take_over(complaints, OpenOptions::new().write(true)).step("take over a descriptor")?;
    let Err(failure) = prepare_and_exec(order);
    // Nobody else is there to be told if this fails.
    let _ = complaints.write_all(failure.to_string().as_bytes());
    Err(failure)
}

fn prepare_and_exec(order: i32) -> Result<Infallible, StageError> {
    let order = take_over(order, OpenOptions::new().read(true)).step("take over a descriptor")?;
    let spec = read_spec(order).step("read the order")?;
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

/// Makes an inherited descriptor ours, which nobody inherits from us. By its name (fd(4)): safe Rust makes no descriptor
/// from a number.
fn take_over(number: i32, how: &OpenOptions) -> io::Result<File> {
    let own = how.open(format!("/dev/fd/{number}"))?;
    // On macOS the name leads to a duplicate that is inherited like the original.
    rustix::io::fcntl_setfd(&own, FdFlags::CLOEXEC)?;
    nix::unistd::close(number)?;
    Ok(own)
}

/// Reads to the end of a pipe that the keeper fills and closes.
fn read_spec(order: File) -> io::Result<ConfineSpec> {
    let mut text = Vec::new();
    order.take(MAX_FRAME as u64).read_to_end(&mut text)?;
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
        // What is lower already cannot be raised, and need not be.
        let most = rustix::process::getrlimit(resource).maximum;
        let value = Rlimit {
            current: lower(value.current, most),
            maximum: lower(value.maximum, most),
        };
        rustix::process::setrlimit(resource, value).step(format!("set the limit {resource:?}"))?;
    }
    Ok(())
}

/// The lower of two limits; `None` is none at all.
fn lower(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
