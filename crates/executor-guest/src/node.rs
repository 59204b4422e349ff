//! Node loads this library as an addon (`process.dlopen`), with two functions: one that forks and returns in guests, one that
//! waits for the job.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    fs, ptr,
};

use crate::{entry, system};

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
    create_int32: extern "C" fn(Handle, i32, *mut Handle) -> c_int,
}

impl NodeApi {
    fn find() -> Option<Self> {
        let find = |name: &CStr| system::find_symbol::<c_void>(name);
        let create_function = find(c"napi_create_function")?;
        let set_named_property = find(c"napi_set_named_property")?;
        let get_cb_info = find(c"napi_get_cb_info")?;
        let get_value_int32 = find(c"napi_get_value_int32")?;
        let create_int32 = find(c"napi_create_int32")?;
        Some(Self {
            // SAFETY: the function of this name has this signature in every version of Node-API.
            create_function: unsafe {
                std::mem::transmute::<*mut c_void, _>(create_function.as_ptr())
            },
            // SAFETY: as above.
            set_named_property: unsafe {
                std::mem::transmute::<*mut c_void, _>(set_named_property.as_ptr())
            },
            // SAFETY: as above.
            get_cb_info: unsafe { std::mem::transmute::<*mut c_void, _>(get_cb_info.as_ptr()) },
            // SAFETY: as above.
            get_value_int32: unsafe {
                std::mem::transmute::<*mut c_void, _>(get_value_int32.as_ptr())
            },
            // SAFETY: as above.
            create_int32: unsafe { std::mem::transmute::<*mut c_void, _>(create_int32.as_ptr()) },
        })
    }
}

/// What Node calls when it has loaded an addon.
// SAFETY: no other symbol of this name exists in Node, which looks for it in each addon by itself.
#[unsafe(no_mangle)]
pub extern "C" fn napi_register_module_v1(env: Handle, exports: Handle) -> Handle {
    if let Some(node) = NodeApi::find() {
        let functions: [(&CStr, Callback); 3] = 
            [(c"serve", serve), (c"take", take), (c"exit", exit)];
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
    }
    exports
}

/// Makes Node a zygote; comes back in guests, with 1, or with a number below 0 where that cannot be.
extern "C" fn serve(env: Handle, _call: Handle) -> Handle {
    let served = if inherit_memory() {
        entry::become_guest_of_a_loop()
    } else {
        -1
    };
    let renewed = served == 1 && renew_loop() && system::replace_inherited().is_ok();
    number(env, if renewed { 1 } else { -2 })
}

/// Waits for the job.
extern "C" fn take(env: Handle, _call: Handle) -> Handle {
    number(env, entry::executor_guest_take())
}

/// Takes the place of the C library's where Node is started with this library preloaded (ld.so(8)). That one waits until nobody
/// waits for the condition variable any more, and at Node's end that would be for ever: the threads that did were the
/// zygote's. There is nothing else to be done: a condition variable of glibc or musl holds no resource.
// SAFETY: it has the signature of pthread_cond_destroy(3p). Nothing but a preloading Node binds to it, because interpreters
// that load this library later have found the C library's.
#[unsafe(no_mangle)]
pub extern "C" fn pthread_cond_destroy(_condition: *mut c_void) -> c_int {
    0
}

/// Ends the process with a code. Node's own way waits for threads of the zygote's, which a guest does not have.
extern "C" fn exit(env: Handle, call: Handle) -> Handle {
    let mut code = 0;
    if let Some(node) = NodeApi::find() {
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
    system::exit(code)
}

fn number(env: Handle, number: i32) -> Handle {
    let mut value = ptr::null_mut();
    if let Some(node) = NodeApi::find() {
        (node.create_int32)(env, number, &raw mut value);
    }
    value
}

/// Has children inherit all memory: V8 keeps its heap from them (`MADV_DONTFORK`), and nothing of it works without.
fn inherit_memory() -> bool {
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else {
        return false;
    };
    // The kernel's own mappings ([vdso] and its like) cannot be changed and need not be. Nor can anything that is gone by now.
    maps.lines()
        .filter(|line| !line.contains("[v"))
        .filter_map(range)
        .for_each(|(start, end)| system::inherit_memory(start, end));
    true
}

/// The addresses at the start of a line of `/proc/self/maps`.
fn range(line: &str) -> Option<(usize, usize)> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some((address(start)?, address(end)?))
}

/// Gives the guest's event loop descriptors of its own.
fn renew_loop() -> bool {
    let default = system::find_symbol::<c_void>(c"uv_default_loop");
    let fork = system::find_symbol::<c_void>(c"uv_loop_fork");
    let (Some(default), Some(fork)) = (default, fork) else {
        return false;
    };
    // SAFETY: the function of this name has this signature in every version of libuv 1.
    let default: extern "C" fn() -> Handle =
        unsafe { std::mem::transmute::<*mut c_void, _>(default.as_ptr()) };
    // SAFETY: as above.
    let fork: extern "C" fn(Handle) -> c_int =
        unsafe { std::mem::transmute::<*mut c_void, _>(fork.as_ptr()) };
    fork(default()) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_starts_with_a_range() {
        let line = "7f1200000000-7f1200021000 rw-p 00000000 00:00 0 ";
        assert_eq!(range(line), Some((0x7f12_0000_0000, 0x7f12_0002_1000)));
        assert_eq!(range("x-y rw-p"), None);
        assert_eq!(range(""), None);
    }
}
