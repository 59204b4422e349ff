//! The seccomp filter every guest runs under.
//!
//! [`policy`] is the list, with a reason for each group; [`program`] compiles it for this machine;
//! [`apply`] loads it. What it forbids fails with an error the caller can handle; no call kills the
//! process, because a silent death is indistinguishable from a bug of the guest.
//!
//! The filter binds the calling thread and all its descendants, across `execve`, for good. It
//! leaves alone what the sandbox's init needs after loading it: `fork`, `vfork` and `posix_spawn`
//! (`clone` without namespace flags), waiting, signals, pipes.

#[cfg(test)]
mod agreement;
mod compile;
mod policy;
#[cfg(test)]
mod simulation;
mod syscalls;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use seccompiler::{BackendError, BpfProgram, BpfProgramRef};

pub use policy::{Condition, Group, Rule, Verdict};
pub use syscalls::{Arch, Syscall};

/// Why there is no filter. Each of these must stop the sandbox from starting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeccompError {
    /// There is no table of system calls for the processor.
    #[error("no seccomp policy for the architecture {0:?}")]
    UnsupportedArch(&'static str),
    /// A rule could not be translated: a mistake in the policy.
    #[error("cannot compile the seccomp policy")]
    Compile(#[source] BackendError),
    /// The kernel takes at most 4096 instructions: a mistake in the policy.
    #[error("the seccomp policy is too long for the kernel")]
    TooLong,
    /// The kernel refused the program (no `CONFIG_SECCOMP_FILTER`, or an outer filter forbids it).
    #[error("cannot load the seccomp filter")]
    Load(#[source] seccompiler::Error),
}

/// The policy, to show or to document it. [`Rule`] has a readable `Display`.
pub fn policy() -> &'static [Group] {
    policy::GROUPS
}

/// The policy compiled for the architecture of this program, once per process.
///
/// # Errors
///
/// [`SeccompError::UnsupportedArch`] where no table exists; the other variants mean a mistake in
/// the policy and are excluded by tests on the supported architectures.
pub fn program() -> Result<BpfProgramRef<'static>, SeccompError> {
    static PROGRAM: OnceLock<BpfProgram> = OnceLock::new();

    if let Some(program) = PROGRAM.get() {
        return Ok(program);
    }
    let arch = Arch::current().ok_or(SeccompError::UnsupportedArch(std::env::consts::ARCH))?;
    let program = compile::compile(policy(), arch)?;
    Ok(PROGRAM.get_or_init(|| program))
}

/// What makes a slot of a zygote, and a guest of a slot.
const FORKING: [Syscall; 3] = [syscalls::UNSHARE, syscalls::CLONE, syscalls::CLONE3];
/// What furnishes a slot and attaches its workspace. Its init loses the capability for that before its guest runs.
const FURNISHING: [Syscall; 3] = [
    syscalls::MOUNT,
    syscalls::MOVE_MOUNT,
    syscalls::MOUNT_SETATTR,
];

/// The policy in parts. A zygote's children inherit its filter, and what they add is short: most of what it costs to load a
/// filter is its translation, and it grows with the program (`docs/adr/0033-filters-in-parts.md`).
pub(crate) struct SlotPrograms {
    /// A zygote's: all but what it takes to make guests.
    pub zygote: BpfProgram,
    /// What the init of a slot adds: the policy, but for what attaching a workspace takes.
    pub init: BpfProgram,
    /// What a guest adds: with its zygote's, the policy.
    pub guest: BpfProgram,
}

/// The programs of zygotes and their slots.
///
/// # Errors
///
/// As [`program`].
pub(crate) fn programs_of_slots() -> Result<SlotPrograms, SeccompError> {
    let arch = Arch::current().ok_or(SeccompError::UnsupportedArch(std::env::consts::ARCH))?;
    programs_for(arch)
}

fn programs_for(arch: Arch) -> Result<SlotPrograms, SeccompError> {
    let forks = |syscall| FORKING.contains(&syscall);
    let furnishes = |syscall| FURNISHING.contains(&syscall);
    let compile =
        |is_judged: &dyn Fn(Syscall) -> bool| compile::compile_where(policy(), arch, is_judged);
    Ok(SlotPrograms {
        zygote: compile(&|syscall| !forks(syscall) && !furnishes(syscall))?,
        init: compile(&forks)?,
        guest: compile(&|syscall| forks(syscall) || furnishes(syscall))?,
    })
}

/// A program as the numbers that travel to a zygote.
pub(crate) fn instructions(program: BpfProgramRef<'_>) -> Vec<u64> {
    program
        .iter()
        .map(|one| executor_guest::protocol::instruction(one.code, one.jt, one.jf, one.k))
        .collect()
}

/// Puts the calling thread, and all it will start, under the filter. There is no way back, so in a
/// program with several threads this belongs into a thread of its own. Sets `no_new_privs`, without
/// which the kernel takes a filter only from the privileged. Costs 0.1 to 0.2 ms, mostly the
/// kernel's translation of the program.
///
/// # Errors
///
/// As [`program`], and [`SeccompError::Load`] if the kernel refuses. The thread is then *not*
/// confined and must not go on to run a guest.
pub fn apply() -> Result<(), SeccompError> {
    seccompiler::apply_filter(program()?).map_err(SeccompError::Load)
}
