//! The handler suite: what the runners promise (contract, "Handlers"), tried with the interpreters of this host over a real
//! channel. There is no sandbox around them here: what is tested is the runners, not the walls.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
    thread,
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use executor_domain::{ExecutionId, GuestError, Language, Mode, Reason, SessionId};
use executor_infra_isolation::guest::{
    channel::{GUEST_DESCRIPTOR, GuestFrames, GuestMessage, JobFrames, JobHeader},
    interpreter::{GUEST_ENVIRONMENT, Interpreter},
    runner::{Bootstrap, PYTHON_COMPILE_PROGRAM, python_source},
};
use tempfile::TempDir;

use Language::{JavaScript, Python};

/// Most bytes of a result in these tests.
const CAP: usize = 64 * 1024;

/// One guest, to be run.
struct Guest<'a> {
    language: Language,
    mode: Mode,
    code: &'a str,
    event: &'a str,
    environment: &'a [(&'a str, &'a str)],
}

impl<'a> Guest<'a> {
    fn handler(language: Language, code: &'a str) -> Self {
        Self {
            language,
            mode: Mode::Handler,
            code,
            event: r#"{"name": "Alice"}"#,
            environment: &[],
        }
    }

    fn script(language: Language, code: &'a str) -> Self {
        Self {
            mode: Mode::Script,
            ..Self::handler(language, code)
        }
    }

    fn run(&self) -> Ended {
        self.run_in(&TempDir::new().unwrap())
    }

    fn run_in(&self, workspace: &TempDir) -> Ended {
        let bootstrap = match self.language {
            Python => COMPILED_PYTHON.clone(),
            other => Bootstrap::from_source(other).unwrap(),
        };
        self.run_with(&bootstrap, workspace.path())
    }

    fn run_with(&self, bootstrap: &Bootstrap, workspace: &Path) -> Ended {
        let header = JobHeader {
            execution_id: &ExecutionId::parse("exec_1").unwrap(),
            session_id: &SessionId::parse("session_1").unwrap(),
            mode: self.mode,
            remaining: Duration::from_secs(60),
            memory_limit_mb: 512,
            max_result_bytes: CAP,
            environment: None,
        };
        let frames = JobFrames::new(Some(bootstrap), &header, self.code, self.event).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let words = interpreter(self.language).command();
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .current_dir(workspace)
            .env_clear()
            .envs(GUEST_ENVIRONMENT)
            .env("HOME", workspace)
            .envs(self.environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .fd_mappings(vec![FdMapping {
                parent_fd: theirs.into(),
                child_fd: GUEST_DESCRIPTOR,
            }])
            .unwrap();
        let child = command.spawn().unwrap();
        drop(command); // and with it our copy of the guest's end
        thread::scope(|scope| {
            scope.spawn(|| {
                for piece in frames.pieces() {
                    // A guest that dies early does not take its job.
                    if (&ours).write_all(piece).is_err() {
                        return;
                    }
                }
            });
            let message = scope.spawn(|| read_message(&ours));
            let output = child.wait_with_output().unwrap();
            Ended {
                message: message.join().unwrap(),
                exit_code: output.status.code(),
                stdout: String::from_utf8(output.stdout).unwrap(),
                stderr: String::from_utf8(output.stderr).unwrap(),
            }
        })
    }
}

/// What came of a guest.
#[derive(Debug)]
struct Ended {
    message: Option<GuestMessage>,
    exit_code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn read_message(mut channel: &UnixStream) -> Option<GuestMessage> {
    let mut frames = GuestFrames::new(CAP);
    let (mut message, mut buffer) = (None, [0; 4096]);
    loop {
        let count = match channel.read(&mut buffer) {
            Ok(count) => count,
            // The guest ended before it had read all that was sent.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("{error}"),
        };
        if count == 0 {
            return message.or_else(|| frames.finish());
        }
        let next = frames.push(&buffer[..count]);
        message = message.or(next);
    }
}

fn interpreter(language: Language) -> Interpreter {
    Interpreter::find(language, |path| path.canonicalize().ok()).unwrap()
}

static COMPILED_PYTHON: LazyLock<Bootstrap> = LazyLock::new(|| {
    let mut compiler = Command::new(interpreter(Python).path())
        .args(["-I", "-c", PYTHON_COMPILE_PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = compiler.stdin.take().unwrap();
    stdin.write_all(python_source().as_bytes()).unwrap();
    drop(stdin);
    Bootstrap::from_compiler_output(compiler.wait_with_output().unwrap().stdout).unwrap()
});

/// One entry of `runners/python.txt` or `runners/javascript.txt`, which say what they look like.
struct Case<'a> {
    group: &'a str,
    expected: &'a str,
    code: &'a str,
    message: &'a str,
    trace: &'a str,
}

fn read_cases(text: &str) -> Vec<Case<'_>> {
    let groups = text.split("\n## ").skip(1);
    groups
        .flat_map(|group| {
            let mut entries = group.split("\n=== ");
            let title = entries.next().unwrap().trim();
            entries.map(move |entry| read_case(title, entry))
        })
        .collect()
}

fn read_case<'a>(group: &'a str, entry: &'a str) -> Case<'a> {
    let (expected, rest) = entry.trim_end().split_once('\n').unwrap();
    let (rest, trace) = rest.split_once("\n--- trace\n").unwrap_or((rest, ""));
    let (code, message) = rest.split_once("\n--- message\n").unwrap_or((rest, ""));
    Case {
        group,
        expected,
        code,
        message,
        trace,
    }
}

impl Case<'_> {
    /// What is wrong with the end of this case's handler, if anything.
    fn complaint(&self, language: Language, ended: &Ended) -> Option<String> {
        match &ended.message {
            Some(GuestMessage::Result(json)) => {
                let end = format!("returns {}", json.as_str());
                (end != self.expected || ended.exit_code != Some(0)).then_some(end)
            }
            Some(GuestMessage::Failure(error)) => {
                let end = format!("fails {} {}", error.reason.as_str(), error.error_type);
                let trace = error.stack_trace.join("\n");
                let right = end == self.expected
                    && ended.exit_code == Some(1)
                    && error.message.contains(self.message)
                    && trace.contains(self.trace)
                    && trace.is_empty() == self.trace.is_empty()
                    && !shows_our_frames(language, &trace)
                    && !shows_our_frames(language, &ended.stderr);
                (!right)
                    .then(|| format!("{end}\n--- message\n{}\n--- trace\n{trace}", error.message))
            }
            other => Some(format!("{other:?}")),
        }
    }
}

/// Whether a stack shows the runner, its bootstrap, or what the runner uses to call and await a handler.
fn shows_our_frames(language: Language, stack: &str) -> bool {
    let ours: &[&str] = match language {
        Python => &["<runner>", "<string>", "/asyncio/"],
        _ => &["sandbox-executor-runner", "[eval]", "node:internal/"],
    };
    ours.iter().any(|file| stack.contains(file))
}

/// Runs every case of a file and panics with all that went wrong.
fn check_cases(language: Language, text: &str, at_least: usize) {
    let cases = read_cases(text);
    assert!(
        cases.len() >= at_least,
        "only {} cases were read",
        cases.len()
    );
    let complaints: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let ended = Guest::handler(language, case.code).run();
            let complaint = case.complaint(language, &ended)?;
            Some(format!(
                "## {}\n{}\n=== expected: {}\n=== happened: {complaint}\nstderr: {}",
                case.group, case.code, case.expected, ended.stderr
            ))
        })
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
}

#[test]
fn python_handlers_end_as_listed() {
    check_cases(Python, include_str!("runners/python.txt"), 60);
}

#[test]
fn javascript_handlers_end_as_listed() {
    check_cases(JavaScript, include_str!("runners/javascript.txt"), 60);
}

/// The JSON text that a handler returned.
fn returned(ended: &Ended) -> &str {
    match &ended.message {
        Some(GuestMessage::Result(json)) => json.as_str(),
        _ => panic!("no result: {ended:#?}"),
    }
}

/// The error that a run ended with.
fn failed(ended: &Ended) -> &GuestError {
    match &ended.message {
        Some(GuestMessage::Failure(error)) => error,
        _ => panic!("no failure: {ended:#?}"),
    }
}

#[test]
fn python_source_may_come_from_any_editor() {
    for code in [
        "\u{feff}def handler(event): return 8",
        "def handler(event):\r\n  return 8\r\n",
    ] {
        assert_eq!(returned(&Guest::handler(Python, code).run()), "8");
    }
    // Which exception a NUL is depends on Python's version.
    let ended = Guest::handler(Python, "x = '\0'").run();
    assert_eq!(failed(&ended).reason, Reason::SyntaxError);
}

#[test]
fn a_note_tells_of_numbers_that_json_lacks() {
    let note = "note: NaN and infinities in the return value became null\n";
    for (language, code, stderr) in [
        (Python, "def handler(event): return [float('nan')]", note),
        (Python, "def handler(event): return [None]", ""),
        (
            JavaScript,
            "exports.handler = () => ({ a: NaN, b: null })",
            note,
        ),
        (JavaScript, "exports.handler = () => ({ b: null })", ""),
    ] {
        assert_eq!(
            Guest::handler(language, code).run().stderr,
            stderr,
            "{code}"
        );
    }
}

#[test]
fn python_prints_the_traceback_that_python_prints() {
    let ended = Guest::handler(Python, "def handler(event):\n  raise ValueError('bad')").run();
    let expected = "Traceback (most recent call last):\n  File \"main.py\", line 2, in handler\n    raise ValueError('bad')\nValueError: bad\n";
    assert_eq!(ended.stderr, expected);
}

#[test]
fn a_file_in_the_workspace_is_neither_the_program_nor_the_standard_library() {
    let workspace = TempDir::new().unwrap();
    for name in [
        "main.py",
        "json.py",
        "traceback.py",
        "_json.py",
        "asyncio.py",
        "sitecustomize.py",
        "usercustomize.py",
    ] {
        std::fs::write(workspace.path().join(name), "raise SystemExit('planted')").unwrap();
    }
    std::fs::write(workspace.path().join("helper.py"), "VALUE = 5").unwrap();
    // HOME is the workspace: Python would run this file from there before anything of ours.
    let user_site = Command::new(interpreter(Python).path())
        .args([
            "-c",
            "import site; print(site.getusersitepackages(), end='')",
        ])
        .env_clear()
        .env("HOME", workspace.path())
        .output()
        .unwrap();
    let user_site = PathBuf::from(String::from_utf8(user_site.stdout).unwrap());
    assert!(user_site.starts_with(workspace.path()));
    std::fs::create_dir_all(&user_site).unwrap();
    std::fs::write(
        user_site.join("usercustomize.py"),
        "raise SystemExit('planted')",
    )
    .unwrap();
    let code = "import json, helper\nasync def handler(event):\n  return 1 / (helper.VALUE - 5)";
    let ended = Guest::handler(Python, code).run_in(&workspace);
    let error = failed(&ended);
    assert_eq!(error.error_type, "ZeroDivisionError");
    let quoted = "return 1 / (helper.VALUE - 5)";
    assert!(error.stack_trace.join("\n").contains(quoted), "{error:#?}");
    assert!(!ended.stderr.contains("planted"), "{}", ended.stderr);
}

#[test]
fn results_may_be_as_long_as_the_cap_and_no_longer() {
    let quotes = 2;
    for (language, code) in [
        (Python, "def handler(event): return 'x' * LENGTH"),
        // Three bytes a character: to count characters is not enough.
        (
            Python,
            "def handler(event): return '\u{4e2d}' * (LENGTH // 3) + 'x' * (LENGTH % 3)",
        ),
        (JavaScript, "exports.handler = () => 'x'.repeat(LENGTH)"),
        (
            JavaScript,
            "exports.handler = () => '\u{4e2d}'.repeat(LENGTH / 3) + 'x'.repeat(LENGTH % 3)",
        ),
    ] {
        let with = |length: usize| code.replace("LENGTH", &length.to_string());
        let at = Guest::handler(language, &with(CAP - quotes)).run();
        assert_eq!(returned(&at).len(), CAP, "{code}");
        let above = Guest::handler(language, &with(CAP - quotes + 1)).run();
        let error = failed(&above);
        assert_eq!(error.reason, Reason::ResultTooLarge, "{code}");
        assert!(error.message.contains("65536 bytes"), "{error:#?}");
    }
    // Many small values, whose text only their encoder knows.
    let many = Guest::handler(Python, "def handler(event): return [0] * 65536").run();
    assert_eq!(failed(&many).reason, Reason::ResultTooLarge);
}

#[test]
fn exit_codes_are_the_guests() {
    for (guest, code) in [
        (
            Guest::handler(Python, "import sys\ndef handler(event): sys.exit(3)"),
            3,
        ),
        (Guest::handler(Python, "raise SystemExit"), 0),
        (Guest::handler(Python, "import sys\nsys.exit(257)"), 1),
        (Guest::script(Python, "import sys\nsys.exit(4)"), 4),
        (Guest::script(Python, "exit(True)"), 1),
        (
            Guest::handler(JavaScript, "exports.handler = () => process.exit(3)"),
            3,
        ),
        (
            Guest::handler(JavaScript, "process.exitCode = 5; process.exit()"),
            5,
        ),
        (Guest::script(JavaScript, "process.exit(4)"), 4),
        (Guest::script(JavaScript, "process.exitCode = 6"), 6),
    ] {
        let ended = guest.run();
        assert_eq!(
            ended.message,
            Some(GuestMessage::Exit(code)),
            "{}",
            guest.code
        );
        assert_eq!(ended.exit_code, Some(code.into()), "{}", guest.code);
    }
    let ended = Guest::script(Python, "import sys\nsys.exit('bye')").run();
    assert_eq!((ended.exit_code, ended.stderr.as_str()), (Some(1), "bye\n"));
}

#[test]
fn scripts_run_to_their_natural_end() {
    for (language, code, stdout) in [
        (Python, "print(__name__)", "__main__\n"),
        (Python, "import sys\nprint('x', end='')", "x"),
        (
            Python,
            "import atexit, threading\nb = threading.Barrier(2)\ndef t():\n  b.wait()\n  threading.main_thread().join()\n  print('thread')\natexit.register(print, 'exit')\nthreading.Thread(target=t).start()\nb.wait()\nprint('main')",
            "main\nthread\nexit\n",
        ),
        (
            JavaScript,
            "console.log(require.main === module, __filename.endsWith('/main.js'))",
            "true true\n",
        ),
        (
            JavaScript,
            "setTimeout(() => console.log('late'), 1); process.on('exit', () => console.log('exit'))",
            "late\nexit\n",
        ),
        (
            JavaScript,
            "import os from 'node:os'; await null; console.log(typeof os.EOL)",
            "string\n",
        ),
        (
            JavaScript,
            "const fs = require('fs'); await null; console.log(typeof fs)",
            "object\n",
        ),
        (JavaScript, "#!/usr/bin/env node\nconsole.log(1)", "1\n"),
        (
            JavaScript,
            "process.on('uncaughtException', (e) => console.log(e.message)); setTimeout(() => console.log(2), 1); throw new Error('1')",
            "1\n2\n",
        ),
    ] {
        let ended = Guest::script(language, code).run();
        assert_eq!(ended.stdout, stdout, "\n{code}\n{ended:#?}");
        assert_eq!(returned(&ended), "null", "\n{code}");
        assert_eq!(ended.exit_code, Some(0), "\n{code}");
    }
}

#[test]
fn scripts_that_throw_fail() {
    for (language, code, trace) in [
        (
            Python,
            "import atexit\natexit.register(print, 'exit')\nraise ValueError('bad')",
            "line 3, in <module>",
        ),
        (
            JavaScript,
            "process.on('exit', () => console.log('exit'));\n\nthrow new Error('bad')",
            "main.js:3:7",
        ),
        (
            JavaScript,
            "import 'node:os';\nprocess.on('exit', () => console.log('exit'));\nthrow new Error('bad')",
            "main.mjs:3:7",
        ),
        (
            JavaScript,
            "process.on('exit', () => console.log('exit'));\n\nPromise.reject(new Error('bad'))",
            "main.js:3:16",
        ),
    ] {
        let ended = Guest::script(language, code).run();
        let error = failed(&ended);
        assert_eq!(error.message, "bad");
        assert!(error.stack_trace.join("\n").contains(trace), "{error:#?}");
        assert!(ended.stderr.contains("Error: bad"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("runner"), "{}", ended.stderr);
        assert_eq!(
            (ended.exit_code, ended.stdout.as_str()),
            (Some(1), "exit\n"),
            "{code}"
        );
    }
}

#[test]
fn files_that_were_left_open_are_written() {
    let code = "f = open('out.txt', 'w'); f.write('kept')\ndef handler(event): print('a', end='')";
    for guest in [Guest::handler(Python, code), Guest::script(Python, code)] {
        let workspace = TempDir::new().unwrap();
        guest.run_in(&workspace);
        let kept = std::fs::read_to_string(workspace.path().join("out.txt")).unwrap();
        assert_eq!(kept, "kept");
    }
}

#[test]
fn output_before_an_exit_is_whole() {
    // Far more than a pipe holds.
    let python = "import sys\ndef handler(event): sys.stdout.write('x' * (1 << 20))";
    let node = "exports.handler = () => { process.stdout.write('x'.repeat(1 << 20)) }";
    let exits = "process.stdout.write('x'.repeat(1 << 20)); process.exit(1)";
    for guest in [
        Guest::handler(Python, python),
        Guest::handler(JavaScript, node),
        Guest::script(JavaScript, exits),
    ] {
        assert_eq!(guest.run().stdout.len(), 1 << 20, "{}", guest.code);
    }
}

#[test]
fn a_guest_that_prints_frames_prints_just_that() {
    let code = "import sys\ndef handler(event):\n  sys.stdout.write('\\x02\\0\\0\\0R42'); return 1";
    let ended = Guest::handler(Python, code).run();
    assert_eq!(ended.stdout, "\u{2}\0\0\0R42");
    assert_eq!(returned(&ended), "1");
}

#[test]
fn a_guest_without_its_channel_ends() {
    for (language, code) in [
        (Python, "import os\ndef handler(event): os.close(3)"),
        (
            JavaScript,
            "exports.handler = () => require('fs').closeSync(3)",
        ),
    ] {
        let ended = Guest::handler(language, code).run();
        assert_eq!(ended.message, None, "{ended:#?}");
        assert_eq!(ended.exit_code, Some(0));
    }
}

#[test]
fn the_event_arrives_as_it_was_sent() {
    let event = r#" {"a": [1, 2.5, -3e2, true, null, "é\u00e9\n"], "__proto__": {"x": 1}} "#;
    for (language, code, expected) in [
        (
            Python,
            "def handler(event): return event",
            r#"{"a":[1,2.5,-300.0,true,null,"éé\n"],"__proto__":{"x":1}}"#,
        ),
        (
            JavaScript,
            "exports.handler = (event) => event",
            r#"{"a":[1,2.5,-300,true,null,"éé\n"],"__proto__":{"x":1}}"#,
        ),
    ] {
        let guest = Guest {
            event,
            ..Guest::handler(language, code)
        };
        assert_eq!(returned(&guest.run()), expected);
    }
}

#[test]
fn a_large_job_and_a_large_result_pass_through() {
    let event = format!(r#"{{"text": "{}"}}"#, "y".repeat(4 << 20));
    let padding = "x".repeat(1 << 19);
    for (language, code) in [
        (
            Python,
            format!("# {padding}\ndef handler(event): return event['text'][:60000]"),
        ),
        (
            JavaScript,
            format!("// {padding}\nexports.handler = (event) => event.text.slice(0, 60000)"),
        ),
    ] {
        let guest = Guest {
            event: &event,
            ..Guest::handler(language, &code)
        };
        assert_eq!(returned(&guest.run()).len(), 60_002, "{language}");
    }
}

#[test]
fn the_python_runner_also_runs_from_source() {
    let bootstrap = Bootstrap::from_source(Python).unwrap();
    let workspace = TempDir::new().unwrap();
    let ended = Guest::handler(Python, "def handler(event): return 1")
        .run_with(&bootstrap, workspace.path());
    assert_eq!(returned(&ended), "1");
}

#[test]
fn a_python_run_imports_nothing_expensive() {
    let listing = "import sys\ndef handler(event):\n  expensive = {'json', 're', 'traceback', 'inspect', 'asyncio', 'typing', 'linecache', 'enum'}\n  return sorted(expensive & set(sys.modules))";
    // What this host's site packages load at every start is not the runner's doing.
    let bare = Command::new(interpreter(Python).path())
        .args([
            "-s",
            "-c",
            &format!("{listing}\nprint(*handler(None), sep='\",\"')"),
        ])
        .env_clear()
        .output()
        .unwrap();
    let expected = match String::from_utf8(bare.stdout).unwrap().trim() {
        "" => "[]".to_owned(),
        names => format!("[\"{names}\"]"),
    };
    assert_eq!(returned(&Guest::handler(Python, listing).run()), expected);
}

#[test]
fn javascript_guests_find_their_modules() {
    let workspace = TempDir::new().unwrap();
    let global = TempDir::new().unwrap();
    let write = |directory: &TempDir, name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(&workspace, "cjs.js", "exports.value = 1");
    write(
        &workspace,
        "esm.mjs",
        "export const value = 2; export default 3",
    );
    write(&workspace, "data.json", "{\"value\": 4}");
    write(
        &workspace,
        "node_modules/local/index.js",
        "exports.value = 5",
    );
    write(&global, "shared/index.js", "exports.value = 6");
    let path = global.path().to_str().unwrap();
    for (code, expected) in [
        (
            "exports.handler = () => require('./cjs').value + require('./data.json').value",
            "5",
        ),
        (
            "exports.handler = () => [require('local').value, require('shared').value]",
            "[5,6]",
        ),
        (
            "exports.handler = async () => { const m = await import('./esm.mjs'); return [m.value, m.default] }",
            "[2,3]",
        ),
        (
            "import three, { value } from './esm.mjs'; import * as all from './esm.mjs'; export const handler = () => [value, three, all.value]",
            "[2,3,2]",
        ),
        (
            "import { value } from './cjs.js'; import local from 'local'; import shared from 'shared'; export const handler = () => [value, local.value, shared.value]",
            "[1,5,6]",
        ),
        (
            "exports.handler = async () => (await import('shared')).default.value",
            "6",
        ),
    ] {
        let guest = Guest {
            environment: &[("NODE_PATH", path)],
            ..Guest::handler(JavaScript, code)
        };
        let ended = guest.run_in(&workspace);
        assert_eq!(returned(&ended), expected, "\n{code}");
        assert_eq!(ended.stderr, "", "\n{code}");
    }
}

#[test]
fn javascript_callbacks_wait_for_the_event_loop_unless_told_not_to() {
    let code = "exports.handler = (event, context, callback) => { WAIT; setTimeout(() => console.log('late'), 1); callback(null, 1) }";
    let waits = Guest::handler(JavaScript, &code.replace("WAIT", "")).run();
    assert_eq!(waits.stdout, "late\n");
    assert_eq!(returned(&waits), "1");
    let hasty = code.replace("WAIT", "context.callbackWaitsForEmptyEventLoop = false");
    let hasty = Guest::handler(JavaScript, &hasty).run();
    assert_eq!(hasty.stdout, "");
    assert_eq!(returned(&hasty), "1");
}

#[test]
fn javascript_guests_keep_their_own_warnings_and_see_none_of_ours() {
    let quiet = Guest::handler(JavaScript, "import 'fs'; export const handler = () => 1").run();
    assert_eq!(quiet.stderr, "");
    let code = "exports.handler = async () => { process.emitWarning('mine', 'ExperimentalWarning'); await new Promise(setImmediate) }";
    let warned = Guest::handler(JavaScript, code).run();
    assert!(
        warned.stderr.contains("ExperimentalWarning: mine"),
        "{}",
        warned.stderr
    );
}

#[test]
fn children_of_a_javascript_guest_inherit_neither_channel_nor_bootstrap() {
    let channel = "exports.handler = () => require('child_process').spawnSync('test', ['-S', '/proc/self/fd/3']).status";
    assert_eq!(returned(&Guest::handler(JavaScript, channel).run()), "1");
    let workspace = TempDir::new().unwrap();
    std::fs::write(
        workspace.path().join("child.js"),
        "process.send(process.execArgv)",
    )
    .unwrap();
    let code = "exports.handler = () => new Promise((done) => require('child_process').fork('./child.js').on('message', done))";
    let ended = Guest::handler(JavaScript, code).run_in(&workspace);
    assert_eq!(returned(&ended), "[]");
}

/// Finds the stand-in before the real one, where the host has that.
const IMPORT: &str =
    "import os, sys; sys.path.insert(0, os.getcwd()); import matplotlib.pyplot as plt\n";

/// Stands for matplotlib, which hosts need not have: figures that write their number, or cannot.
const FIGURES: &str = r#"
class Figure:
    def __init__(self, number): self.number = number
    def savefig(self, path, format):
        if self.number == 2: raise ValueError("no picture")
        open(path, "x").write(format + str(self.number))
FIGURES = {}
def figure(number):
    return FIGURES.setdefault(number, Figure(number))
def get_fignums(): return sorted(FIGURES)
def close(number): del FIGURES[number]
import atexit
atexit.register(FIGURES.clear)
"#;

#[test]
fn figures_that_are_left_open_become_pictures() {
    let workspace = TempDir::new().unwrap();
    let at = |name: &str| workspace.path().join(name);
    std::fs::create_dir(at("matplotlib")).unwrap();
    std::fs::write(at("matplotlib/__init__.py"), "").unwrap();
    std::fs::write(at("matplotlib/pyplot.py"), FIGURES).unwrap();
    let pictures = || {
        let mut names: Vec<_> = std::fs::read_dir(workspace.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("figure-"))
            .collect();
        names.sort();
        names
    };

    let handler = "def handler(event):\n    \
        plt.figure(1); plt.figure(2); plt.figure(3); plt.figure(4); plt.close(3)\n    \
        os.chdir('/tmp')\n    return 'drawn'";
    let handler = format!("{IMPORT}{handler}");
    let ended = Guest::handler(Python, &handler).run_in(&workspace);
    assert_eq!(ended.exit_code, Some(0), "{ended:?}");
    assert_eq!(pictures(), ["figure-1.png", "figure-4.png"]);
    assert_eq!(std::fs::read_to_string(at("figure-4.png")).unwrap(), "png4");
    assert!(
        ended
            .stderr
            .contains("figure 2 could not be saved: no picture"),
        "{ended:?}"
    );

    // A run that fails has drawn all the same, and spoils no picture of an earlier one.
    let script = format!("{IMPORT}plt.figure(1)\nraise ValueError('late')");
    let ended = Guest::script(Python, &script).run_in(&workspace);
    assert_eq!(ended.exit_code, Some(1), "{ended:?}");
    assert_eq!(
        pictures(),
        ["figure-1-2.png", "figure-1.png", "figure-4.png"]
    );

    let many = format!("{IMPORT}for n in range(100, 125): plt.figure(n)");
    let ended = Guest::script(Python, &many).run_in(&workspace);
    assert_eq!(pictures().len(), 3 + 20);
    assert!(ended.stderr.contains("5 more figures"), "{ended:?}");
}
