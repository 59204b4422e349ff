//! The `sandbox-executor` executable.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Every sandbox is built by this executable, started again under another name: it must come first, while the
    // process has one thread and nothing of its own.
    #[cfg(unix)]
    executor_infra_isolation::stage::dispatch();
    sandbox_executor::main()
}
