//! Node loads this library as an addon (`process.dlopen`), with functions that fork and return in guests, say the guest's
//! own process id, wait for the job, and note the exit code of a guest that is about to end by itself.
//!
//! A forked Node lacks the threads of its zygote, and its own teardown waits for them. So a guest never comes there: whichever
//! way Node ends, it ends in [`engine`], with the code that it was to end with. `docs/adr/0031-node-forks.md` has the reasons.

mod engine;
mod inherit;
mod worker;

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    ptr,
    sync::OnceLock,
};

use engine::Engine;
pub(crate) use inherit::{mark_descriptors, replace_descriptors};

use crate::{
    entry, guest, system,
    walls::{Failure, Step},
};

/// `napi_env`, `napi_value` and `napi_callback_info`: pointers that only Node looks behind.
type Handle = *mut c_void;
/// `napi_callback`
type Callback = extern "C" fn(Handle, Handle) -> Handle;

/// The functions of Node-API that are used here, by their documented signatures. Looked up by name: the library is loaded by
/// interpreters that have none of them.
struct NodeApi {
    create_function:
        extern "C" fn(Handle, *const c_char, usize, Callback, *mut c_void, *mut Handle) -> c_int,
    set_named_property: extern "C" fn(Handle, Handle, *const c_char, Handle) -> c_int,
    get_cb_info: extern "C" fn(
        Handle,
        Handle,
        *mut usize,
        *mut Handle,
        *mut Handle,
        *mut *mut c_void,
    ) -> c_int,
    get_value_int32: extern "C" fn(Handle, Handle, *mut i32) -> c_int,
    add_env_cleanup_hook: extern "C" fn(Handle, extern "C" fn(*mut c_void), *mut c_void) -> c_int,
}

impl NodeApi {
    fn find() -> Result<Self, Failure> {
        // Signatures: https://nodejs.org/api/n-api.html, stable since version 3 of Node-API.
        Ok(Self {
            // SAFETY: a function of Node-API, whose signature is the field's.
            create_function: unsafe { function(c"napi_create_function") }?,
            // SAFETY: as above.
            set_named_property: unsafe { function(c"napi_set_named_property") }?,
            // SAFETY: as above.
            get_cb_info: unsafe { function(c"napi_get_cb_info") }?,
            // SAFETY: as above.
            get_value_int32: unsafe { function(c"napi_get_value_int32") }?,
            // SAFETY: as above.
            add_env_cleanup_hook: unsafe { function(c"napi_add_env_cleanup_hook") }?,
        })
    }
}

/// A function of the interpreter's own executable, by its name.
///
/// # Safety
///
/// `F` must be the type of a pointer to a function, and that of this name must have its signature.
unsafe fn function<F: Copy>(name: &CStr) -> Result<F, Failure> {
    const { assert!(size_of::<F>() == size_of::<*const c_void>()) };
    let address = system::find_symbol::<c_void>(name)
        .ok_or(std::io::ErrorKind::NotFound)
        .map_err(std::io::Error::from)
        .step(format!("find {}", name.to_string_lossy()))?
        .as_ptr();
    // SAFETY: it is as large as a pointer, and the caller sees to it that it is a pointer to a function of that type.
    Ok(unsafe { std::mem::transmute_copy(&address) })
}

/// What Node calls when it has loaded an addon.
// SAFETY: no other symbol of this name exists in Node, which looks for it in each addon by itself.
#[unsafe(no_mangle)]
pub extern "C" fn napi_register_module_v1(env: Handle, exports: Handle) -> Handle {
    let Ok(node) = NodeApi::find() else {
        return exports;
    };
    // SAFETY: as in `NodeApi::find`.
    if let Ok(create) = unsafe { function::<CreateNumber>(c"napi_create_int32") } {
        CREATE_NUMBER.get_or_init(|| create);
    }
    let functions: [(&CStr, Callback); 4] = [
        (c"serve", serve),
        (c"pid", pid),
        (c"take", take),
        (c"leave", leave),
    ];
    for (name, callback) in functions {
        let mut function = ptr::null_mut();
        let made = (node.create_function)(
            env,
            name.as_ptr(),
            name.count_bytes(),
            callback,
            ptr::null_mut(),
            &raw mut function,
        );
        if made == 0 {
            (node.set_named_property)(env, exports, name.as_ptr(), function);
        }
    }
    exports
}

/// Makes Node a zygote. Comes back in guests, with what [`entry::executor_guest_fork`] says there.
extern "C" fn serve(env: Handle, _call: Handle) -> Handle {
    let engine = prepare(env).unwrap_or_else(|failure| entry::fail(&failure));
    let made = entry::become_guest();
    if made > 0
        && let Err(failure) = engine.renew()
    {
        guest::give_up(&failure);
    }
    number(env, made)
}

/// The process's id, which Node remembers wrongly in a guest.
extern "C" fn pid(env: Handle, _call: Handle) -> Handle {
    number(env, std::process::id().cast_signed())
}

/// What every guest is to find done, once for all of them.
fn prepare(env: Handle) -> Result<Engine, Failure> {
    let engine = Engine::find()?;
    engine.end_without_teardown()?;
    let node = NodeApi::find()?;
    let hooked = (node.add_env_cleanup_hook)(env, engine::end_by_itself, ptr::null_mut());
    if hooked != 0 {
        return Err(std::io::Error::from(std::io::ErrorKind::Unsupported))
            .step("watch for the end of Node");
    }
    worker::take_over(engine.isolate())?;
    inherit::wait_for_threads().step("wait for Node's threads")?;
    inherit::share_memory().step("share memory with guests")?;
    Ok(engine)
}

/// Waits for the job.
extern "C" fn take(env: Handle, _call: Handle) -> Handle {
    number(env, entry::executor_guest_take())
}

/// Notes the exit code of a guest that is about to end by itself.
extern "C" fn leave(env: Handle, call: Handle) -> Handle {
    let mut code = 0;
    if let Ok(node) = NodeApi::find() {
        let mut count = 1;
        let mut argument = ptr::null_mut();
        (node.get_cb_info)(
            env,
            call,
            &raw mut count,
            &raw mut argument,
            ptr::null_mut(),
            ptr::null_mut(),
        );
        (node.get_value_int32)(env, argument, &raw mut code);
    }
    engine::note_exit_code(code);
    ptr::null_mut()
}

/// `napi_create_int32`
type CreateNumber = extern "C" fn(Handle, i32, *mut Handle) -> c_int;

/// Found when the addon is loaded: this is on the way of every job, and a search goes through much memory.
static CREATE_NUMBER: OnceLock<CreateNumber> = OnceLock::new();

fn number(env: Handle, number: i32) -> Handle {
    let mut value = ptr::null_mut();
    if let Some(create) = CREATE_NUMBER.get() {
        create(env, number, &raw mut value);
    }
    value
}
