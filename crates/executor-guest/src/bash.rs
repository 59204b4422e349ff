//! bash loads this library as a builtin (`enable -f`), which forks and returns in guests that have their job.

use std::{
    ffi::{c_char, c_int, c_void},
    os::fd::OwnedFd,
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use crate::{entry, system};

/// `struct builtin` of bash's `builtins.h`.
#[repr(C)]
#[derive(Debug)]
pub struct Builtin {
    name: *const c_char,
    function: extern "C" fn(*mut c_void) -> c_int,
    flags: c_int,
    long_doc: *const *const c_char,
    short_doc: *const c_char,
    handle: *mut c_char,
}

/// Where the daemon has a slot's init put the guest's script.
const SCRIPT: &str = "/run/sandbox/main.sh";

/// `BUILTIN_ENABLED`
const ENABLED: c_int = 1;

/// `long_doc` ends with a null pointer.
#[repr(transparent)]
struct NoText([*const c_char; 1]);

// SAFETY: it holds a null pointer, which nobody can write or follow.
unsafe impl Sync for NoText {}

static NO_TEXT: NoText = NoText([ptr::null()]);

/// What `enable -f` looks for. bash writes its handle of the library into it, and nobody else touches it.
// SAFETY: no other symbol of this name exists in bash, which names a builtin's structure so.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "bash wants this name")]
pub static mut executor_guest_struct: Builtin = Builtin {
    name: c"executor_guest".as_ptr(),
    function: executor_guest_builtin,
    flags: ENABLED,
    long_doc: NO_TEXT.0.as_ptr(),
    short_doc: c"executor_guest".as_ptr(),
    handle: ptr::null_mut(),
};

/// `BASH_INPUT` of bash's `input.h`, as far as it matters.
#[repr(C)]
struct Input {
    kind: c_int,
    name: *const c_char,
    location: *mut c_void,
    /// What reads one byte.
    getter: extern "C" fn() -> c_int,
}

/// What read bash's script before [`first_byte`] was put in its place: the address of a function.
static GETTER: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Has bash count the lines of its script from 1 when it reads on. It puts its counter back after each command, so the place
/// to change it is where the next line is read.
fn count_lines_anew() -> bool {
    let Some(input) = system::find_symbol::<Input>(c"bash_input") else {
        return false;
    };
    // SAFETY: bash's variable of that type, in a process of one thread.
    let getter = unsafe { &mut (*input.as_ptr()).getter };
    GETTER.store(*getter as *mut c_void, Ordering::Relaxed);
    *getter = first_byte;
    true
}

/// Reads the first byte of the guest's script, and has bash read the others by itself.
extern "C" fn first_byte() -> c_int {
    let getter = GETTER.load(Ordering::Relaxed);
    // SAFETY: `count_lines_anew` has put this function in the place of that one, whose address this is.
    let getter: extern "C" fn() -> c_int = unsafe { std::mem::transmute(getter) };
    if let Some(input) = system::find_symbol::<Input>(c"bash_input") {
        // SAFETY: as in `count_lines_anew`.
        unsafe { (*input.as_ptr()).getter = getter };
    }
    // bash has counted this line already, as one of the zygote's script.
    system::set_symbol(c"line_number", 1);
    getter()
}

/// Makes the shell a zygote; comes back in its guests, each with its job, and has bash read on in the guest's script.
///
/// bash has read all of the zygote's script by then, of which this builtin is the last line; so it asks the descriptor of its
/// script for more, finds another file there, and goes on in it as in the script that it was started with.
extern "C" fn executor_guest_builtin(_words: *mut c_void) -> c_int {
    if entry::become_guest() < 0 {
        return 1;
    }
    let taken = entry::executor_guest_take();
    if taken != 0 {
        return taken;
    }
    let Some(script) = system::symbol(c"default_buffered_input") else {
        return 1;
    };
    // What `$$` says, which was the zygote's number.
    let pid = std::process::id().cast_signed();
    if !system::set_symbol(c"dollar_dollar_pid", pid) || !count_lines_anew() {
        return 1;
    }
    // `$0` is its name, whatever that was when bash was started.
    let opened = std::fs::File::open(SCRIPT).map(OwnedFd::from);
    match opened.and_then(|file| system::place(&file, script, false)) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}
