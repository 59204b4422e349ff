//! A warm start comes to what a cold one comes to: the same programs over both, compared to the last byte.

use std::sync::LazyLock;

use executor_application::Job;
use executor_domain::{Ending, Language, Start};
use executor_infra_isolation::{BwrapSandbox, WarmOptions};

use crate::{
    support::{self, Workspace},
    world::{block_on, sandbox},
};

/// The sandbox that starts everything cold.
static COLD: LazyLock<BwrapSandbox> = LazyLock::new(|| block_on(support::bwrap()));

/// Programs for a shell, where `source` and a script could differ.
const SCRIPTS: &[&str] = &[
    "echo hello; exit 3",
    "exit",
    "false",
    "set -e; false; echo not here",
    "set -u; echo $nothing; echo not here",
    "echo before\nif then\necho after",
    "echo 'no end",
    "echo $0 $# \"$@\" $$ $PPID $BASH_SUBSHELL $SHLVL",
    "[[ ${BASH_SOURCE[0]} == \"$0\" ]] && echo main",
    "nosuchcommand; echo $?",
    "trap 'echo bye' EXIT; echo hi",
    "trap 'echo bye' EXIT; kill -TERM $$",
    "kill -SEGV $$",
    "kill -9 $$",
    "cd /tmp; pwd; echo \"$OLDPWD\"",
    "echo line $LINENO",
    "f() { echo \"${FUNCNAME[0]} $1\"; return 4; }; f x; echo $?",
    "(exit 5); echo $?",
    "sleep 0 & wait $!; echo $?",
    "sleep 0 & wait -n; echo $?",
    "cat; echo end",
    "read -r line; echo \"read $line\"",
    "exec echo replaced",
    "printf '%s\\n' a b | while read -r x; do echo \"got $x\"; done",
    "x=$(echo sub); echo $x",
    "cat <<END\nhere $((1 + 2))\nEND",
    "diff <(echo a) <(echo b); echo $?",
    "ulimit -n; ulimit -c; umask",
    "set -o pipefail; false | true; echo $?",
    "declare -A m=([a]=1); echo ${m[a]}",
    "echo $BASH_EXECUTION_STRING; type executor_guest",
    "bash -c 'echo child $SHLVL'",
    "env | sort | grep -v '^_='",
    "set -x; echo traced",
    "echo > /run/sandbox/main.sh",
    "head -c 100000 /dev/zero | tr '\\0' x",
    "echo $SECONDS",
    "eval 'echo )'",
    "times > /dev/null; echo ok",
    "kill -USR1 $$; echo not here",
    "\n\necho line $LINENO\nnosuchcommand\n",
    "return 3; echo after",
    "(return 0 2>/dev/null) && echo sourced || echo run",
    "echo $- ${FUNCNAME[*]} ${#BASH_SOURCE[@]} ${BASH_LINENO[*]}; f() { echo ${FUNCNAME[*]}; caller; }; f",
    "trap 'echo child' CHLD; sleep 0.01 & wait",
    "echo unterminated \\",
    "echo no newline at the end",
    "",
    "# only a comment",
    "read -r x < /run/sandbox/main.sh; echo \"$x\"",
    "bash -c 'exit 7'; echo $?; (echo sub $BASHPID) | wc -l",
    "for i in 1 2 3; do /bin/echo $i; done",
    "alias x='echo aliased'; x",
    "exec 255>&-; echo still",
];

/// Programs that are run from top to bottom by Python.
const PYTHON: &[&str] = &[
    "print('hello')",
    "import sys; sys.exit(3)",
    "import sys; sys.exit('said')",
    "raise ValueError('bad')",
    "import os; os._exit(4)",
    "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    "import os; os.abort()",
    "import atexit; atexit.register(print, 'bye')",
    "import threading; threading.Thread(target=lambda: print('thread')).start()",
    "import sys; print(sys.argv, sys.flags, sys.stdin.read(), sys.path)",
    "import sys; print(sys.stdout.seekable(), sys.stdin.seekable(), sys.stdout.encoding, sys.stdout.line_buffering)",
    "import os; print(os.getpid(), os.getppid(), os.getuid(), os.getcwd(), os.getsid(0), os.getpgid(0))",
    "import os; print(sorted(os.environ.items()))",
    "import subprocess; print(subprocess.run(['env'], capture_output=True, text=True).stdout.count('='))",
    "import signal; print([signal.getsignal(n) for n in (2, 13, 15, 17)], signal.pthread_sigmask(0, []))",
    "import resource as r; print([r.getrlimit(getattr(r, n)) for n in dir(r) if n.startswith('RLIMIT') and n != 'RLIMIT_NPROC'])",
    "import multiprocessing as m; p = m.get_context('fork').Process(target=print, args=('child',)); p.start(); p.join()",
    "import asyncio; asyncio.run(asyncio.sleep(0)); print('slept')",
    "import logging; logging.warning('careful')",
    "import sys; print(__name__, __file__, sys.modules['__main__'].__dict__.keys())",
    "import locale, time; print(locale.getlocale(), time.tzname)",
    "import os; [print(n, os.readlink('/proc/self/fd/' + n).split(':')[0]) for n in ('0', '1', '2')]",
    "import os; print(os.sched_getaffinity(0) != set(), os.nice(0), os.umask(0))",
    "import gc; print(gc.isenabled(), gc.get_threshold())",
    "import sys; print(sys.gettrace(), sys.getrecursionlimit(), sys.getswitchinterval())",
    "def f(): f()\nf()",
    "print(open('/proc/self/mounts').read().count('/workspace'))",
    "import warnings; warnings.warn('careful')",
    "input()",
    "import faulthandler; print(faulthandler.is_enabled())",
    "import os\nif os.fork() == 0: os._exit(0)\nprint(os.wait()[1])",
    "import os; print([n for n in os.listdir('/tmp')], os.listdir('/dev/shm'), sorted(os.listdir('/dev')))",
    "import time; print(time.process_time() < 5)",
];

/// The handlers of the runners' own suite.
fn handlers(text: &str) -> Vec<&str> {
    text.split("\n=== ")
        .skip(1)
        .filter_map(|entry| {
            let (_, rest) = entry.split_once('\n')?;
            let code = rest.split("\n--- ").next()?;
            Some(code.split("\n## ").next()?.trim_end())
        })
        .collect()
}

/// What a run came to, but for what no two runs have in common.
async fn outcome(sandbox: &BwrapSandbox, job: Job, start: &[Start]) -> (Ending, String, String) {
    let outcome = support::run(sandbox, job).await;
    assert!(start.contains(&outcome.start), "{:?}", outcome.start);
    // Addresses of objects.
    let without_addresses = |text: String| {
        let mut parts = text.split("0x");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| {
            text + "0x…" + part.trim_start_matches(|c: char| c.is_ascii_hexdigit())
        })
    };
    let (stdout, stderr) = (support::stdout(&outcome), support::stderr(&outcome));
    (
        outcome.ending,
        without_addresses(stdout),
        without_addresses(stderr),
    )
}

/// Runs each over both, and complains of every difference.
fn compare(language: Language, handlers: &[&str], scripts: &[&str]) {
    assert!(WarmOptions::SUPPORTED.contains(&language));
    LazyLock::force(&COLD);
    let mut differences = Vec::new();
    for (codes, make) in [
        (handlers, support::job as fn(_, &str, &Workspace) -> Job),
        (scripts, support::script),
    ] {
        for code in codes {
            let (one, other) = (Workspace::new(), Workspace::new());
            let cold = make(language, code, &one);
            let warm = make(language, code, &other);
            let (cold, warm) = block_on(async {
                tokio::join!(
                    outcome(&COLD, cold, &[Start::Cold]),
                    outcome(sandbox(), warm, &[Start::Warm, Start::Forked]),
                )
            });
            if cold != warm {
                differences.push(format!("{code}\n  cold: {cold:?}\n  warm: {warm:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

#[test]
fn warm_shells_do_as_cold_ones() {
    compare(Language::Shell, &[], SCRIPTS);
}

#[test]
fn warm_python_does_as_cold_python() {
    let cases = include_str!("../../../crates/executor-infra-isolation/tests/runners/python.txt");
    let cases = handlers(cases);
    assert!(cases.len() >= 60, "only {} cases were read", cases.len());
    compare(Language::Python, &cases, PYTHON);
}
