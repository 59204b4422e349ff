//! bash loads this library as a builtin (`enable -f`), which forks and returns in guests that have their job.

use std::{
    ffi::{c_char, c_int, c_void},
    ptr,
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

/// Makes the shell a zygote; comes back in its guests, each with its job.
extern "C" fn executor_guest_builtin(_words: *mut c_void) -> c_int {
    if entry::become_guest() < 0 {
        return 1;
    }
    // What `$$` says. A shell without it would say the zygote's number, which is nobody's in here.
    let pid = std::process::id().cast_signed();
    if !system::set_symbol(c"dollar_dollar_pid", pid) {
        return 1;
    }
    entry::executor_guest_take()
}
