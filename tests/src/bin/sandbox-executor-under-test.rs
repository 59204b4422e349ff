//! The daemon and command line, as an executable of this package: Cargo builds it with the tests, so that no test ever
//! meets a stale one. It is also the launcher and init of the suites that use the adapter directly.

use std::process::ExitCode;

fn main() -> ExitCode {
    sandbox_executor::main()
}
