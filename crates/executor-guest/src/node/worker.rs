//! V8's worker thread, for guests. What V8 gives to other threads, Node queues for one that only the zygote has; and Node waits
//! until that queue is empty before it ends. So V8's platform is given two functions of ours: one takes tasks for a thread
//! that the guest starts when it needs one, the other waits for them as well.

use std::{
    collections::VecDeque,
    ffi::c_void,
    io,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use super::{Handle, function};
use crate::walls::{Failure, Step};

/// Stack of the thread, in bytes: what Node gives to its own. V8 compiles WebAssembly on it.
const STACK_BYTES: usize = 8 << 20;

/// A `v8::Task*` that is ours.
struct Task(Handle);

// SAFETY: V8 gives a task to whichever thread runs it.
unsafe impl Send for Task {}

/// The functions of a `v8::Task`: two destructors, the second of which frees it as well, and `Run`.
type TaskTable = [extern "C" fn(Handle); 3];

impl Task {
    fn run(self) {
        // SAFETY: an object with virtual functions starts with the address of their table.
        let table = unsafe { self.0.cast::<*const TaskTable>().read() };
        // SAFETY: the table of every task starts so, since V8 has tasks.
        let [_, free, run] = unsafe { table.read() };
        run(self.0);
        free(self.0);
    }
}

struct Work {
    tasks: VecDeque<Task>,
    /// Those above, and the one that is being run.
    outstanding: usize,
    has_thread: bool,
}

static WORK: Mutex<Work> = Mutex::new(Work {
    tasks: VecDeque::new(),
    outstanding: 0,
    has_thread: false,
});
static CHANGED: Condvar = Condvar::new();

fn work() -> MutexGuard<'static, Work> {
    WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait(guard: MutexGuard<'static, Work>) -> MutexGuard<'static, Work> {
    CHANGED.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Takes the place of `void NodePlatform::CallOnWorkerThread(std::unique_ptr<v8::Task>)`.
extern "C" fn call_on_worker_thread(_platform: Handle, task: *mut Handle) {
    // SAFETY: a `unique_ptr` is passed by the address of one that the caller destroys: it has the task's address in it, or
    // null once the task is somebody else's.
    let task = Task(unsafe { task.replace(std::ptr::null_mut()) });
    queue(task, || {
        let builder = thread::Builder::new().stack_size(STACK_BYTES);
        builder.spawn(run_tasks).is_ok()
    });
}

/// Queues a task for a thread that is started when there is none; or runs it, where none can be had.
fn queue(task: Task, start_thread: impl FnOnce() -> bool) {
    let mut work = work();
    work.outstanding += 1;
    work.has_thread = work.has_thread || start_thread();
    if work.has_thread {
        work.tasks.push_back(task);
        CHANGED.notify_all();
    } else {
        // The guest has as many threads as it may have. V8 holds no lock of its own here.
        drop(work);
        task.run();
        drop(complete());
    }
}

fn run_tasks() {
    let mut work = work();
    loop {
        match work.tasks.pop_front() {
            Some(task) => {
                drop(work);
                task.run();
                work = complete();
            }
            None => work = wait(work),
        }
    }
}

fn complete() -> MutexGuard<'static, Work> {
    let mut work = work();
    work.outstanding -= 1;
    CHANGED.notify_all();
    work
}

/// `void NodePlatform::DrainTasks(v8::Isolate*)`
type Drain = extern "C" fn(Handle, Handle);

fn original_drain() -> Result<Drain, Failure> {
    // SAFETY: the name holds the types of the arguments.
    unsafe { function(c"_ZN4node12NodePlatform10DrainTasksEPN2v87IsolateE") }
}

/// Takes its place: waits until nothing is left to be run, by our thread or by this one.
extern "C" fn drain_tasks(platform: Handle, isolate: Handle) {
    loop {
        let mut guard = work();
        while guard.outstanding > 0 {
            guard = wait(guard);
        }
        drop(guard);
        if let Ok(drain) = original_drain() {
            drain(platform, isolate);
        }
        if work().outstanding == 0 {
            return;
        }
    }
}

/// Words before the address of a table of virtual functions that belong to it: an offset and the type's description.
const BEFORE: usize = 2;
/// Functions to look at and copy; a platform of V8 has some thirty.
const FUNCTIONS: usize = 48;

/// Waits until Node's own worker has nothing left to do, and has V8's platform take our functions from here on.
pub(super) fn take_over(isolate: Handle) -> Result<(), Failure> {
    let drain = original_drain()?;
    // SAFETY: `static v8::Platform* v8::internal::V8::GetCurrentPlatform()`
    let current: extern "C" fn() -> Handle =
        unsafe { function(c"_ZN2v88internal2V818GetCurrentPlatformEv") }?;
    // SAFETY: the name holds the types of the arguments.
    let call: extern "C" fn(Handle, *mut Handle) = unsafe {
        function(c"_ZN4node12NodePlatform18CallOnWorkerThreadESt10unique_ptrIN2v84TaskESt14default_deleteIS3_EE")
    }?;
    let platform = current();
    drain(platform, isolate);

    let place = platform.cast::<*const *const c_void>();
    // SAFETY: an object with virtual functions starts with the address of their table.
    let table = unsafe { place.read() };
    // SAFETY: what belongs to the table before its address.
    let start = unsafe { table.sub(BEFORE) };
    // SAFETY: the table, and where it is shorter some of the constants that the linker has put behind it.
    let mut copy = unsafe { start.cast::<[*const c_void; BEFORE + FUNCTIONS]>().read() };
    let mut replace = |old: *const c_void, new: *const c_void| {
        let found = copy[BEFORE..].iter_mut().find(|entry| **entry == old);
        found.map(|entry| *entry = new).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "another platform than Node's own")
        })
    };
    replace(
        call as *const c_void,
        call_on_worker_thread as *const c_void,
    )
    .step("take over V8's tasks")?;
    replace(drain as *const c_void, drain_tasks as *const c_void).step("take over V8's tasks")?;
    let copy: &'static [*const c_void] = Box::leak(Box::new(copy));
    // SAFETY: as above; the copy stays for ever, and nobody else looks at the platform now: this is the only thread that runs.
    unsafe { place.write(copy[BEFORE..].as_ptr()) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        ptr,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    static RAN: AtomicUsize = AtomicUsize::new(0);
    static FREED: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn never(_task: Handle) {
        unreachable!("the destructor that does not free");
    }
    extern "C" fn free(_task: Handle) {
        FREED.fetch_add(1, Ordering::SeqCst);
    }
    extern "C" fn run(_task: Handle) {
        RAN.fetch_add(1, Ordering::SeqCst);
    }

    static TABLE: TaskTable = [never, free, run];

    /// What is shared by all of the process, in one test.
    #[test]
    fn tasks_are_run_and_freed_once_by_whoever_can() {
        // An object with virtual functions and nothing else.
        let mut object = ptr::from_ref(&TABLE);
        let task: Handle = ptr::from_mut(&mut object).cast();
        queue(Task(task), || false);
        assert_eq!((RAN.load(Ordering::SeqCst), work().outstanding), (1, 0));

        for _ in 0..3 {
            let mut owner = task;
            call_on_worker_thread(ptr::null_mut(), &raw mut owner);
            assert!(owner.is_null(), "the task is ours");
        }
        // Nothing here has Node's own function, which is called where there is one.
        drain_tasks(ptr::null_mut(), ptr::null_mut());
        assert_eq!(RAN.load(Ordering::SeqCst), 4);
        assert_eq!(FREED.load(Ordering::SeqCst), 4);
    }
}
