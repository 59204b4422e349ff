//! What interpreters call: three functions without arguments, for the smallest of foreign function interfaces.

use std::{
    io::Write,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    guest::{self, Guest},
    system,
    walls::Failure,
    zygote::{Served, Zygote},
};

/// Exit code of a zygote that failed; why is on its standard error.
const FAILED: i32 = 125;

/// What this process is.
enum Role {
    /// Just loaded.
    Interpreter,
    Zygote(Box<Zygote>),
    Guest(Guest),
    /// A guest that has its job: these functions are of no more use to it.
    Released,
}

static ROLE: Mutex<Role> = Mutex::new(Role::Interpreter);

/// Nobody but the interpreter's one thread comes here, so this never waits.
fn role() -> MutexGuard<'static, Role> {
    ROLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the interpreter a zygote: reads its orders from descriptor 3 and says that it is ready. Returns 0, or ends the
/// process.
// SAFETY: no other symbol of this name exists in any interpreter.
#[unsafe(no_mangle)]
pub extern "C" fn executor_guest_wait() -> i32 {
    if !matches!(*role(), Role::Interpreter) {
        return -1;
    }
    match Zygote::start() {
        Ok(Some(zygote)) => {
            *role() = Role::Zygote(Box::new(zygote));
            0
        }
        Ok(None) => system::exit(0),
        Err(failure) => fail(&failure),
    }
}

/// What [`executor_guest_fork`] returns in a guest that may prepare for its job,
const AHEAD: i32 = 1;
/// and in one whose run waits for it.
const AWAITED: i32 = 2;

/// In a zygote: waits for the daemon's next request and makes a slot. Returns 0 in the zygote. In the guest, which is then
/// between its walls, it returns 1, or 2 where a run waits for this very guest, which is to do nothing then but to take its
/// job. Or it ends the process, because nobody needs it any more or because it failed.
// SAFETY: no other symbol of this name exists in any interpreter.
#[unsafe(no_mangle)]
pub extern "C" fn executor_guest_fork() -> i32 {
    let taken = std::mem::replace(&mut *role(), Role::Released);
    let Role::Zygote(zygote) = taken else {
        return -1;
    };
    match zygote.serve() {
        Ok(Served::Zygote) => {
            *role() = Role::Zygote(zygote);
            0
        }
        Ok(Served::Guest(guest)) => {
            let made = if guest.is_awaited { AWAITED } else { AHEAD };
            *role() = Role::Guest(guest);
            made
        }
        Ok(Served::Dismissed) => system::exit(0),
        Err(failure) => fail(&failure),
    }
}

/// In a guest: says that it is ready, and waits for its job. Returns 0 when the guest may run it, or ends the process.
// SAFETY: no other symbol of this name exists in any interpreter.
#[unsafe(no_mangle)]
pub extern "C" fn executor_guest_take() -> i32 {
    let taken = std::mem::replace(&mut *role(), Role::Released);
    let Role::Guest(guest) = taken else {
        return -1;
    };
    match guest.take_job() {
        Ok(()) => 0,
        Err(failure) => guest::give_up(&failure),
    }
}

/// Makes the interpreter a zygote and serves the daemon; comes back in guests, with what [`executor_guest_fork`] says there,
/// for interpreters that have nothing to do
/// between one fork and the next.
pub(crate) fn become_guest() -> i32 {
    if executor_guest_wait() < 0 {
        return -1;
    }
    loop {
        match executor_guest_fork() {
            0 => {}
            other => return other,
        }
    }
}

pub(crate) fn fail(failure: &Failure) -> ! {
    // Nobody is left to tell if this fails too.
    let _ = writeln!(std::io::stderr(), "sandbox-executor: {failure}");
    system::exit(FAILED)
}
