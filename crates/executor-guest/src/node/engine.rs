//! What Node, V8, libuv and OpenSSL have to be told in a fork, by functions that Node's executable exports. A Node that lacks
//! one cannot be a zygote; whether one that has them all can is for the trials to find out (`bwrap/trial.rs` in
//! executor-infra-isolation).

use std::{
    ffi::{c_int, c_void},
    io::Read,
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicI32, Ordering},
    },
};

use super::{Handle, function};
use crate::{
    system,
    walls::{Failure, Step},
};

/// The code of a guest that ends by itself.
static EXIT_CODE: AtomicI32 = AtomicI32::new(0);

pub(super) fn note_exit_code(code: i32) {
    EXIT_CODE.store(code, Ordering::Relaxed);
}

/// `std::function<void (node::Environment*, int)>` of libstdc++: what it holds, what copies and destroys that, and what calls
/// it. The mangled names below say that it is libstdc++'s: libc++ has its own in a namespace that would show in them.
#[repr(C)]
struct ExitHandler {
    held: [usize; 2],
    manager: extern "C" fn(*mut c_void, *const c_void, c_int) -> bool,
    invoker: extern "C" fn(*const c_void, *const Handle, *const c_int),
}

/// Copies and destroys an [`ExitHandler`]'s function, which holds nothing.
extern "C" fn manage(_to: *mut c_void, _from: *const c_void, _operation: c_int) -> bool {
    false
}

/// What Node calls in the place of its own teardown, with an exit code that it has decided on, when everything has been
/// printed and every listener called.
extern "C" fn end_with(_held: *const c_void, _environment: *const Handle, code: *const c_int) {
    // SAFETY: `ExitHandler` is called with references to its arguments, which live until it returns.
    end(unsafe { code.read() })
}

/// What Node calls when nothing is left to run and it is about to free everything.
pub(super) extern "C" fn end_by_itself(_data: *mut c_void) {
    end(EXIT_CODE.load(Ordering::Relaxed))
}

/// Ends this process, when what libuv's threads have begun is done. Node does the same, and then waits for threads that a fork
/// does not have.
fn end(code: i32) -> ! {
    // It waits for threads that this process has started: a zygote has none of these.
    if let Some(shutdown) = SHUTDOWN.get() {
        shutdown();
    }
    // SAFETY: a null pointer stands for all open streams.
    unsafe { libc::fflush(ptr::null_mut()) };
    system::exit(code)
}

/// `void uv_library_shutdown(void)`, where this libuv has it. Found before the fork, as all of [`Engine`].
static SHUTDOWN: OnceLock<extern "C" fn()> = OnceLock::new();

/// The functions by which a fork of Node becomes a Node of its own.
pub(super) struct Engine {
    default_loop: extern "C" fn() -> Handle,
    fork_loop: extern "C" fn(Handle) -> c_int,
    poll_entropy: extern "C" fn() -> c_int,
    current_isolate: extern "C" fn() -> Handle,
    current_context: extern "C" fn(Handle) -> Handle,
    current_environment: extern "C" fn(Handle) -> Handle,
    random_generator: extern "C" fn(Handle) -> Handle,
    seed: extern "C" fn(Handle, i64),
    reset_random: extern "C" fn(usize),
    set_exit_handler: extern "C" fn(Handle, *mut ExitHandler),
}

impl Engine {
    /// Finds them all. Their C++ names hold the types of their arguments: one with other arguments has another name.
    pub(super) fn find() -> Result<Self, Failure> {
        // SAFETY: a function of libuv without arguments and result.
        if let Ok(shutdown) = unsafe { function::<extern "C" fn()>(c"uv_library_shutdown") } {
            SHUTDOWN.get_or_init(|| shutdown);
        }
        Ok(Self {
            // SAFETY: `uv_loop_t* uv_default_loop(void)`, in every version of libuv 1.
            default_loop: unsafe { function(c"uv_default_loop") }?,
            // SAFETY: `int uv_loop_fork(uv_loop_t*)`, as above.
            fork_loop: unsafe { function(c"uv_loop_fork") }?,
            // SAFETY: `int RAND_poll(void)`, in every version of OpenSSL.
            poll_entropy: unsafe { function(c"RAND_poll") }?,
            // SAFETY: `static v8::Isolate* v8::Isolate::GetCurrent()`
            current_isolate: unsafe { function(c"_ZN2v87Isolate10GetCurrentEv") }?,
            // SAFETY: `v8::Local<v8::Context> v8::Isolate::GetCurrentContext()`; a `Local` is a pointer, and passed as one.
            current_context: unsafe { function(c"_ZN2v87Isolate17GetCurrentContextEv") }?,
            // SAFETY: `node::Environment* node::GetCurrentEnvironment(v8::Local<v8::Context>)`
            current_environment: unsafe {
                function(c"_ZN4node21GetCurrentEnvironmentEN2v85LocalINS0_7ContextEEE")
            }?,
            // SAFETY: `v8::base::RandomNumberGenerator* v8::internal::Isolate::random_number_generator()`; V8's internal
            // isolate is the public one by another name.
            random_generator: unsafe {
                function(c"_ZN2v88internal7Isolate23random_number_generatorEv")
            }?,
            // SAFETY: `void v8::base::RandomNumberGenerator::SetSeed(int64_t)`
            seed: unsafe { function(c"_ZN2v84base21RandomNumberGenerator7SetSeedEl") }?,
            // SAFETY: `static void v8::internal::MathRandom::ResetContext(v8::internal::Context)`, whose argument is an
            // address, tagged, in an object of that size.
            reset_random: unsafe {
                function(c"_ZN2v88internal10MathRandom12ResetContextENS0_7ContextE")
            }?,
            // SAFETY: `void node::SetProcessExitHandler(node::Environment*, std::function<void (node::Environment*, int)>&&)`
            set_exit_handler: unsafe {
                function(c"_ZN4node21SetProcessExitHandlerEPNS_11EnvironmentEOSt8functionIFvS1_iEE")
            }?,
        })
    }

    /// The isolate that is running.
    pub(super) fn isolate(&self) -> Handle {
        (self.current_isolate)()
    }

    /// Has Node end in [`end_with`].
    pub(super) fn end_without_teardown(&self) -> Result<(), Failure> {
        let context = (self.current_context)((self.current_isolate)());
        let environment = (self.current_environment)(context);
        if environment.is_null() {
            return Err(std::io::Error::from(std::io::ErrorKind::NotFound))
                .step("find Node's environment");
        }
        let mut handler = ExitHandler {
            held: [0; 2],
            manager: manage,
            invoker: end_with,
        };
        (self.set_exit_handler)(environment, &raw mut handler);
        Ok(())
    }

    /// Gives a guest an event loop with descriptors of its own, and random numbers of its own.
    pub(super) fn renew(&self) -> Result<(), Failure> {
        if (self.fork_loop)((self.default_loop)()) != 0 {
            return Err(std::io::Error::last_os_error()).step("renew the event loop");
        }
        // OpenSSL tells a fork by its process id, and that may be the same in another namespace.
        if (self.poll_entropy)() != 1 {
            return Err(std::io::Error::other("no entropy")).step("seed OpenSSL anew");
        }
        let mut seed = [0; 8];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut seed))
            .step("seed V8 anew")?;
        let isolate = (self.current_isolate)();
        (self.seed)((self.random_generator)(isolate), i64::from_ne_bytes(seed));
        let context: *const usize = (self.current_context)(isolate).cast();
        // SAFETY: a `Local` points to a slot that holds the object's tagged address, and this one lives in the scope of the
        // function that JavaScript has called.
        (self.reset_random)(unsafe { context.read() });
        Ok(())
    }
}
