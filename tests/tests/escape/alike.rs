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

/// Programs that are run from top to bottom by Node.
const NODE: &[&str] = &[
    "console.log('hello')",
    "process.exit(3)",
    "process.exitCode = 4",
    "throw new Error('bad')",
    "Promise.reject(new Error('bad'))",
    "setTimeout(() => { throw new TypeError('late') }, 5)",
    "process.kill(process.pid, 'SIGTERM')",
    "process.on('SIGTERM', () => { console.log('caught'); process.exit(5) }); process.kill(process.pid, 'SIGTERM'); setTimeout(() => {}, 1000)",
    "process.abort()",
    "process.on('exit', (code) => console.log('bye', code))",
    "process.on('beforeExit', () => console.log('before'))",
    "process.on('uncaughtException', (error) => console.log('caught', error.message)); throw new Error('x')",
    "process.on('exit', () => { process.exitCode = 9 })",
    "setTimeout(() => console.log('timer'), 10)",
    "setImmediate(() => console.log('immediate')); process.nextTick(() => console.log('tick'))",
    "require('fs').promises.readFile('/etc/hostname').catch((e) => console.log(e.code))",
    "require('fs').writeFileSync('a.txt', 'x'); console.log(require('fs').readFileSync('a.txt', 'utf8'))",
    "console.log(require('child_process').execSync('echo child').toString())",
    "require('child_process').spawn('sh', ['-c', 'exit 3']).on('exit', (code) => console.log('child', code))",
    "require('child_process').exec('kill -9 $$', (error) => console.log(error.signal))",
    "const { Worker } = require('worker_threads'); new Worker('require(\"worker_threads\").parentPort.postMessage(1)', { eval: true }).on('message', console.log)",
    "console.log(require('crypto').createHash('sha256').update('x').digest('hex'))",
    "require('crypto').pbkdf2('a', 'b', 1000, 16, 'sha1', (e, k) => console.log(k.toString('hex')))",
    "require('zlib').gzip('x', (e, d) => console.log(d.length > 0))",
    "const s = require('net').createServer((c) => c.end('hi')); s.listen(0, '127.0.0.1', () => require('net').connect(s.address().port).on('data', (d) => { console.log(String(d)); s.close() }))",
    "require('dns').lookup('localhost', (e, a) => console.log(e, a))",
    "fetch('http://127.0.0.1:9').catch((e) => console.log(e.cause.code))",
    "console.log(process.argv, process.execArgv, process.title, process.ppid, process.cwd())",
    "console.log(process.pid, process.getuid(), process.umask(), process.version, process.release.name)",
    "console.log(Object.entries(process.env).sort())",
    "console.log(Object.getOwnPropertyNames(globalThis).sort().join())",
    "console.log(require.main === module, __filename, __dirname, module.paths[0])",
    "console.error('to stderr'); console.log(process.stdout.isTTY, process.stdin.isTTY)",
    "process.stdin.on('data', () => {}).on('end', () => console.log('end'))",
    "process.stdout.write('x'.repeat(1e6)); process.exit(0)",
    "import fs from 'node:fs'; console.log(typeof fs.readFileSync, import.meta.url)",
    "console.log(await Promise.resolve(7))",
    "console.log(new Intl.NumberFormat('de').format(1234.5), new Date(0).toString())",
    "new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0])); console.log('wasm')",
    "let a = 0; for (let i = 0; i < 5e6; i++) a = (a + i * 3) % 1000003; console.log(a)",
    "const a = []; for (let i = 0; i < 3e5; i++) a.push({ i, s: String(i) }); console.log(a.length)",
    "console.log(process.memoryUsage().heapUsed > 0, require('v8').getHeapStatistics().heap_size_limit)",
    "process.emitWarning('careful')",
    "function f() { f() } f()",
    "require('fs').watch('.', () => {}).close(); console.log('watched')",
    "console.log(Math.random.name, Math.random.length, Math.random() < 1, Object.getOwnPropertyDescriptor(Math, 'random').enumerable)",
    "console.log(require('os').cpus().length > 0, require('os').hostname(), require('os').tmpdir())",
    "const { performance } = require('perf_hooks'); console.log(performance.now() > 0)",
    "console.log(structuredClone({ a: new Map([[1, 2]]) }).a.get(1), queueMicrotask.name, new AbortController().signal.aborted)",
    "require('fs').openSync('/dev/null'); console.log('opened')",
    "const r = require('readline').createInterface({ input: process.stdin }); r.on('close', () => console.log('closed'))",
    "process.reallyExit(6)",
    "nosuch()",
    "syntax error here",
    "process.on('exit', () => { throw new Error('in exit') })",
    "process.on('exit', () => process.exit(8))",
    "process.exitCode = 3; process.on('exit', (code) => console.log('at exit', code))",
    "process.on('exit', () => console.log(process._exiting))",
    "process.emit('exit', 5); console.log('still here', process.emit.name, Object.keys(process).includes('emit'))",
    "const was = process.emit; process.emit = function (name, ...words) { const heard = was.call(this, name, ...words); if (name === 'exit') process.exitCode = 6; return heard }",
    "process.removeAllListeners(); process.exitCode = 4",
    "process.removeAllListeners(); process.emit = () => false; process.exitCode = 0",
    "process.on('uncaughtException', () => { throw new Error('again') }); throw new Error('once')",
    "process.setUncaughtExceptionCaptureCallback((error) => console.log('captured', error.message)); throw new Error('x')",
    "process.on('unhandledRejection', (why) => console.log('rejected', why)); Promise.reject(7)",
    "require('fs').readFile('/etc/hostname', () => { throw new TypeError('after threads') })",
    "require('fs').readFile('/etc/hostname', () => process.exit(9))",
    "require('fs').readFile('/etc/hostname', () => { process.exitCode = 10 })",
    "require('crypto').randomBytes(8, () => Promise.reject(new RangeError('late')))",
    "require('fs').writeFile('late.txt', 'x', () => {}); process.on('exit', () => {}); process.exit(0)",
    "const { Worker } = require('worker_threads'); new Worker('process.exit(4)', { eval: true }).on('exit', (code) => console.log('worker', code))",
    "const { Worker } = require('worker_threads'); new Worker('throw new Error(\"w\")', { eval: true }).on('error', (error) => console.log(error.message))",
    "const { Worker } = require('worker_threads'); new Worker('setInterval(() => {}, 1000)', { eval: true }).on('online', () => process.exit(2))",
    "const { Worker } = require('worker_threads'); new Worker('setInterval(() => {}, 1000)', { eval: true }).unref()",
    "require('child_process').fork('/dev/null').on('exit', (code) => console.log('forked', code))",
    "console.log(String(require('child_process').spawnSync(process.execPath, ['-p', '1 + 1']).stdout))",
    "require('fs').writeFileSync('package.json', '{\"type\":\"module\"}'); require('fs').writeFileSync('m.js', 'export default 5'); import('./m.js').then((m) => console.log(m.default))",
    "require('fs').mkdirSync('node_modules/x', { recursive: true }); require('fs').writeFileSync('node_modules/x/index.js', 'module.exports = 6'); console.log(require('x'))",
    "Promise.resolve().then(() => console.log('micro')); process.nextTick(() => console.log('tick')); queueMicrotask(() => console.log('micro 2'))",
    "const http = require('http'); const s = http.createServer((q, r) => r.end('served')); s.listen(0, '127.0.0.1', () => http.get({ port: s.address().port, host: '127.0.0.1', agent: false }, (r) => r.on('data', (d) => console.log(String(d))).on('end', () => s.close())))",
    "const s = require('http').createServer((q, r) => r.end('fetched')); s.listen(0, '127.0.0.1', async () => { console.log(await (await fetch('http://127.0.0.1:' + s.address().port)).text()); process.exit(0) })",
    "console.log((await WebAssembly.instantiate(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 127, 3, 2, 1, 0, 7, 5, 1, 1, 102, 0, 0, 10, 6, 1, 4, 0, 65, 42, 11]))).instance.exports.f())",
    "const m = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 127, 3, 2, 1, 0, 7, 5, 1, 1, 102, 0, 0, 10, 6, 1, 4, 0, 65, 42, 11]); const { f } = new WebAssembly.Instance(new WebAssembly.Module(m)).exports; let n = 0; for (let i = 0; i < 2e6; i++) n += f(); console.log(n)",
    "let s = ''; for (let i = 0; i < 40; i++) s += 'y'.repeat(50000) + '\\n'; console.log(s); process.exit(0)",
    "console.log('x'.repeat(300000)); throw new Error('after much')",
    "await new Promise(() => {})",
    "process.kill(process.pid, 'SIGKILL')",
    "process.kill(process.pid, 'SIGSEGV')",
    "process.stdout.write('no newline'); process.stdout.end(); process.stdout.on('finish', () => console.error('finished'))",
    "console.log(process.stdout.writable, process.stdout.constructor.name, process.stdout._handle.constructor.name, process.stderr.fd)",
    "console.table([{ a: 1 }]); console.dir({ b: { c: { d: {} } } }); console.trace('here')",
    "console.log(typeof gc, typeof require('v8').getHeapStatistics, process.config.variables.v8_enable_i18n_support)",
    "console.log(Math.random.toString(), Object.getOwnPropertyNames(process).length, process.listenerCount('exit'), process.eventNames())",
    "console.log(Object.keys(require.cache), require.main.children.length, module.parent)",
    "setTimeout(() => console.log('first'), 1); setTimeout(() => console.log('second'), 30); const t = Date.now(); setTimeout(() => console.log(Date.now() - t >= 49), 50)",
    "const t = process.hrtime.bigint(); setTimeout(() => console.log(process.hrtime.bigint() - t > 19000000n), 20)",
    "require('cluster').isPrimary && console.log('primary'); const { performance, PerformanceObserver } = require('perf_hooks'); performance.mark('a'); console.log(performance.getEntriesByName('a').length)",
    "const { AsyncLocalStorage } = require('async_hooks'); const s = new AsyncLocalStorage(); s.run(3, () => setImmediate(() => console.log(s.getStore())))",
    "new FinalizationRegistry(() => {}); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5); console.log('waited')",
    "require('fs').createReadStream('/etc/passwd').on('data', () => {}).on('close', () => console.log('read'))",
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
fn warm_node_does_as_cold_node() {
    let cases =
        include_str!("../../../crates/executor-infra-isolation/tests/runners/javascript.txt");
    let cases = handlers(cases);
    assert!(cases.len() >= 60, "only {} cases were read", cases.len());
    compare(Language::JavaScript, &cases, NODE);
}

#[test]
fn warm_python_does_as_cold_python() {
    let cases = include_str!("../../../crates/executor-infra-isolation/tests/runners/python.txt");
    let cases = handlers(cases);
    assert!(cases.len() >= 60, "only {} cases were read", cases.len());
    compare(Language::Python, &cases, PYTHON);
}
