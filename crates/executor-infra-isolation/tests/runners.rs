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
    path::Path,
    process::{Command, Stdio},
    sync::LazyLock,
    thread,
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use executor_domain::{ExecutionId, Language, Mode, SessionId};
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

/// Runs handlers that return, and compares what they return with this JSON text.
fn check_returns(language: Language, cases: &[(&str, &str)]) {
    for (code, expected) in cases {
        let ended = Guest::handler(language, code).run();
        let Some(GuestMessage::Result(json)) = &ended.message else {
            panic!("no result for\n{code}\n{ended:#?}");
        };
        assert_eq!(json.as_str(), *expected, "\n{code}\n{ended:#?}");
        assert_eq!(ended.exit_code, Some(0), "\n{code}");
    }
}

/// A handler that fails: its code, the reason, the error's type, a part of the message, and a part of the stack trace
/// (entries joined by line feeds; empty: there must be no entry).
type Failure<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str);

fn check_failures(language: Language, cases: &[Failure<'_>]) {
    for (code, reason, error_type, message, trace) in cases {
        let ended = Guest::handler(language, code).run();
        let Some(GuestMessage::Failure(error)) = &ended.message else {
            panic!("no failure for\n{code}\n{ended:#?}");
        };
        let joined = error.stack_trace.join("\n");
        assert_eq!(error.reason.as_str(), *reason, "\n{code}\n{error:#?}");
        assert_eq!(error.error_type, *error_type, "\n{code}\n{error:#?}");
        assert!(error.message.contains(message), "\n{code}\n{error:#?}");
        assert!(joined.contains(trace), "\n{code}\n{error:#?}");
        assert_eq!(joined.is_empty(), trace.is_empty(), "\n{code}\n{error:#?}");
        for ours in ["runner", "<string>", "asyncio/", "node:internal"] {
            assert!(
                !joined.contains(ours),
                "our own frames show\n{code}\n{error:#?}"
            );
            assert!(
                !ended.stderr.contains(ours),
                "our own frames show\n{code}\n{}",
                ended.stderr
            );
        }
        assert_eq!(ended.exit_code, Some(1), "\n{code}\n{ended:#?}");
    }
}

#[test]
fn python_handlers_are_called_by_arity_and_awaited() {
    check_returns(
        Python,
        &[
            (
                "def handler(event): return {'hello': event['name']}",
                r#"{"hello":"Alice"}"#,
            ),
            (
                "def handler(event, context): return context.aws_request_id",
                r#""exec_1""#,
            ),
            (
                "def handler(event, context=None): return context.function_version",
                r#""$LATEST""#,
            ),
            ("def handler(*args): return len(args)", "2"),
            ("def handler(event, *rest): return len(rest)", "1"),
            ("def handler(event, *, flag=3): return flag", "3"),
            ("def handler(): return 'nothing'", r#""nothing""#),
            ("handler = lambda event: event", r#"{"name":"Alice"}"#),
            ("handler = dict", r#"{"name":"Alice"}"#),
            (
                "async def handler(event): return event['name']",
                r#""Alice""#,
            ),
            (
                "import asyncio\nasync def handler(event, context):\n  await asyncio.sleep(0)\n  return 1",
                "1",
            ),
            (
                "class H:\n  def __call__(self, event): return 4\nhandler = H()",
                "4",
            ),
            (
                "class H:\n  def go(self, event, context): return 5\nhandler = H().go",
                "5",
            ),
            (
                "class H:\n  async def __call__(self, event, context): return context.memory_limit_in_mb\nhandler = H()",
                "512",
            ),
            (
                "import functools\nhandler = functools.partial(lambda a, event: a, 6)",
                "6",
            ),
            (
                "import functools\ndef d(f):\n  @functools.wraps(f)\n  def w(*a): return f(*a)\n  return w\n@d\ndef handler(event): return 7",
                "7",
            ),
            ("\u{feff}def handler(event): return 8", "8"),
            ("def handler(event):\r\n  return 9\r\n", "9"),
        ],
    );
}

#[test]
fn python_guests_are_a_real_main_module() {
    check_returns(
        Python,
        &[
            (
                "def handler(event): return [__name__, __file__.rsplit('/', 1)[1]]",
                r#"["__main__","main.py"]"#,
            ),
            (
                "def handler(event): return sorted(k for k in globals() if k[0] != '_')",
                r#"["handler"]"#,
            ),
            (
                "import pickle\nclass A:\n  x = 1\ndef handler(event): return pickle.loads(pickle.dumps(A())).x",
                "1",
            ),
            (
                "import dataclasses, typing\n@dataclasses.dataclass\nclass A:\n  x: 'int' = 2\ndef handler(event): return str(typing.get_type_hints(A))",
                r#""{'x': <class 'int'>}""#,
            ),
            (
                "import inspect\ndef f():\n  return 'source'\ndef handler(event): return inspect.getsource(f)",
                r#""def f():\n  return 'source'\n""#,
            ),
            (
                "import multiprocessing as m\ndef f(x): return x * 2\ndef handler(event):\n  with m.get_context('fork').Pool(1) as p: return p.map(f, [21])",
                "[42]",
            ),
            (
                "import sys\ndef handler(event): return sys.argv",
                r#"["main.py"]"#,
            ),
            (
                "import subprocess\ndef handler(event): return subprocess.run('[ -e /proc/self/fd/3 ]', shell=True, close_fds=False).returncode",
                "1",
            ),
            // A forked child that comes out of the handler does not answer for it.
            (
                "import os\ndef handler(event):\n  if os.fork() == 0: return 'child'\n  os.wait()\n  return 'parent'",
                r#""parent""#,
            ),
        ],
    );
}

#[test]
fn python_contexts_have_what_lambda_documents() {
    let code = "def handler(event, c): return [c.aws_request_id, c.function_name, c.function_version, c.memory_limit_in_mb, \
        c.invoked_function_arn.split(':')[0], c.log_group_name.split('/')[-1], c.log_stream_name, c.client_context, \
        c.identity.cognito_identity_id, 0 < c.get_remaining_time_in_millis() <= 60000, type(c.get_remaining_time_in_millis()).__name__]";
    let expected =
        r#"["exec_1","handler","$LATEST",512,"arn","session_1","exec_1",null,null,true,"int"]"#;
    check_returns(Python, &[(code, expected)]);
}

#[test]
fn python_values_are_serialised_as_lambda_does() {
    check_returns(
        Python,
        &[
            ("def handler(event): pass", "null"),
            (
                "def handler(event): return (1, 2.5, True, None, 'é\\n')",
                r#"[1,2.5,true,null,"é\n"]"#,
            ),
            (
                "def handler(event): return {1: 'a', 2.5: 'b', True: 'c', None: 'd'}",
                r#"{"1":"c","2.5":"b","null":"d"}"#,
            ),
            (
                "def handler(event): return {False: float('inf'), 7: float('nan')}",
                r#"{"false":null,"7":null}"#,
            ),
            (
                "from decimal import Decimal\ndef handler(event): return [Decimal('1.10'), Decimal('1E+3'), Decimal('NaN')]",
                "[1.10,1E+3,null]",
            ),
            (
                "import enum\nclass E(enum.IntEnum):\n  A = 3\ndef handler(event): return [E.A]",
                "[3]",
            ),
            (
                "import collections\ndef handler(event): return collections.Counter('aab')",
                r#"{"a":2,"b":1}"#,
            ),
            (
                "def handler(event): return ['a\\ud800b', '\\ud83d\\ude00']",
                "[\"a\u{fffd}b\",\"\u{1f600}\"]",
            ),
            (
                "def handler(event): return 10 ** 40",
                "10000000000000000000000000000000000000000",
            ),
        ],
    );
    let ended = Guest::handler(Python, "def handler(event): return [float('nan')]").run();
    assert_eq!(
        ended.stderr,
        "note: NaN and infinities in the return value became null\n"
    );
}

#[test]
fn python_values_without_a_json_form_are_named() {
    let ns = "not_serializable";
    check_failures(
        Python,
        &[
            (
                "import datetime\ndef handler(event): return {'a': [0, datetime.date.today()]}",
                ns,
                "TypeError",
                "type date is not JSON serializable (at return_value['a'][1])",
                "",
            ),
            (
                "def handler(event): return b''",
                ns,
                "TypeError",
                "type bytes is",
                "",
            ),
            (
                "def handler(event): return {1}",
                ns,
                "TypeError",
                "type set is",
                "",
            ),
            (
                "def handler(event): return (i for i in 'a')",
                ns,
                "TypeError",
                "type generator is",
                "",
            ),
            (
                "def handler(event): return {(1, 2): 3}",
                ns,
                "TypeError",
                "not tuple",
                "",
            ),
            (
                "a = []; a.append(a)\ndef handler(event): return {'x': a}",
                ns,
                "ValueError",
                "Circular reference detected (at return_value['x'][0])",
                "",
            ),
            (
                "def handler(event):\n  x = []\n  for _ in range(5000): x = [x]\n  return x",
                ns,
                "RecursionError",
                "too deeply",
                "",
            ),
            (
                "class D(dict):\n  def items(self): raise KeyError('mine')\ndef handler(event): return D(a=1)",
                ns,
                "KeyError",
                "mine",
                "",
            ),
        ],
    );
}

#[test]
fn python_failures_show_the_guests_lines_and_none_of_ours() {
    let he = "handler_error";
    check_failures(
        Python,
        &[
            (
                "def handler(event):\n  return 1 / 0",
                he,
                "ZeroDivisionError",
                "division by zero",
                "File \"main.py\", line 2, in handler\n    return 1 / 0",
            ),
            (
                "1 / 0\n",
                he,
                "ZeroDivisionError",
                "division",
                "File \"main.py\", line 1, in <module>\n    1 / 0",
            ),
            (
                "async def handler(event): raise KeyError('a')",
                he,
                "KeyError",
                "'a'",
                "line 1, in handler",
            ),
            (
                "def handler(event):\n  try: {}['a']\n  except KeyError as e: raise ValueError('bad') from e",
                he,
                "ValueError",
                "bad",
                "KeyError: 'a'\nThe above exception was the direct cause",
            ),
            (
                "import json\ndef handler(event): json.loads('{')",
                he,
                "JSONDecodeError",
                "Expecting property name",
                "json/__init__.py",
            ),
            (
                "def handler(a, b, c): pass",
                he,
                "TypeError",
                "missing 1 required positional argument: 'c'",
                "",
            ),
            (
                "def handler(event): handler(event)",
                he,
                "RecursionError",
                "maximum recursion depth",
                "[Previous line repeated",
            ),
            (
                "import sys\ndef f(n): return f(n - 1) if n else 1 / 0\ndef handler(event):\n  sys.setrecursionlimit(10**6)\n  f(10_000)",
                he,
                "ZeroDivisionError",
                "division",
                "line 2, in f",
            ),
            (
                "def handler(event): raise KeyboardInterrupt",
                he,
                "KeyboardInterrupt",
                "",
                "line 1, in handler",
            ),
            (
                "class E(Exception):\n  def __str__(self): raise KeyError\ndef handler(event): raise E",
                he,
                "E",
                "<exception str() failed>",
                "line 3, in handler",
            ),
            (
                "import sys\nsys.stdout.close(); sys.stderr.close()\ndef handler(event): raise ValueError(1)",
                he,
                "ValueError",
                "1",
                "line 3, in handler",
            ),
            (
                "def handler(event): raise ValueError('a\\ud800b')",
                he,
                "ValueError",
                "a\u{fffd}b",
                "line 1, in handler",
            ),
            (
                "def handler(event): raise ValueError('x' * 1_000_000)",
                he,
                "ValueError",
                "xxx...",
                "line 1, in handler",
            ),
            (
                "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))\ndef handler(event): return 1 / 0",
                he,
                "ZeroDivisionError",
                "",
                "in handler\n    def handler(event): return 1 / 0",
            ),
            (
                "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))\ndef handler(event): return 'x' * (1 << 29)",
                he,
                "MemoryError",
                "",
                "line 3, in handler",
            ),
            (
                "raise BaseException('odd')",
                he,
                "BaseException",
                "odd",
                "line 1, in <module>",
            ),
        ],
    );
}

#[test]
fn python_exception_groups_are_shown_whole() {
    let code = "import builtins\nif hasattr(builtins, 'ExceptionGroup'):\n  raise ExceptionGroup('g', [ValueError('one'), KeyError('two')])\nraise ValueError('ValueError: one')";
    check_failures(
        Python,
        &[(
            code,
            "handler_error",
            "ExceptionGroup",
            "g (2 sub",
            "ValueError: one",
        )],
    );
}

#[test]
fn python_syntax_errors_show_their_place() {
    let se = "syntax_error";
    check_failures(
        Python,
        &[
            (
                "x = 1\ny = = 2",
                se,
                "SyntaxError",
                "invalid syntax (main.py, line 2)",
                "    y = = 2\n        ^",
            ),
            (
                "def f():\nreturn 1",
                se,
                "IndentationError",
                "expected an indented block",
                "return 1",
            ),
        ],
    );
    // Which exception this is depends on Python's version.
    let ended = Guest::handler(Python, "x = '\0'").run();
    let Some(GuestMessage::Failure(error)) = ended.message else {
        panic!("{ended:#?}");
    };
    assert_eq!(error.reason.as_str(), se);
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
    let code = "import json, helper\nasync def handler(event):\n  return 1 / (helper.VALUE - 5)";
    let ended = Guest::handler(Python, code).run_in(&workspace);
    let Some(GuestMessage::Failure(error)) = ended.message else {
        panic!("{ended:#?}");
    };
    assert_eq!(error.error_type, "ZeroDivisionError");
    assert!(
        error
            .stack_trace
            .join("\n")
            .contains("return 1 / (helper.VALUE - 5)"),
        "{error:#?}"
    );
    assert!(!ended.stderr.contains("planted"), "{}", ended.stderr);
}

#[test]
fn missing_handlers_lead_to_script_mode() {
    let (hnf, hint) = ("handler_not_found", "mode: \"script\"");
    for code in ["print(1)", "handler = 3"] {
        check_failures(Python, &[(code, hnf, "HandlerNotFound", hint, "")]);
    }
    for code in [
        "console.log(1)",
        "exports.handler = 3",
        "export const handler = 3;",
        "export const other = () => 1;",
    ] {
        check_failures(JavaScript, &[(code, hnf, "HandlerNotFound", hint, "")]);
    }
}

#[test]
fn results_may_be_as_long_as_the_cap_and_no_longer() {
    let fits = CAP - 2;
    for (language, code) in [
        (Python, "def handler(event): return 'x' * COUNT"),
        (JavaScript, "exports.handler = () => 'x'.repeat(COUNT)"),
    ] {
        let at = Guest::handler(language, &code.replace("COUNT", &fits.to_string())).run();
        assert!(
            matches!(at.message, Some(GuestMessage::Result(_))),
            "{language}"
        );
        let above = code.replace("COUNT", &(fits + 1).to_string());
        check_failures(
            language,
            &[(
                &above,
                "result_too_large",
                "ResultTooLarge",
                "65536 bytes",
                "",
            )],
        );
    }
    check_failures(
        Python,
        &[
            (
                "def handler(event): return [0] * 65536",
                "result_too_large",
                "ResultTooLarge",
                "",
                "",
            ),
            // Three bytes a character: the count of characters is not enough.
            (
                "def handler(event): return '\u{4e2d}' * 30000",
                "result_too_large",
                "ResultTooLarge",
                "",
                "",
            ),
        ],
    );
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
    let null = executor_domain::JsonText::null();
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
        assert_eq!(
            ended.message,
            Some(GuestMessage::Result(null.clone())),
            "\n{code}\n{ended:#?}"
        );
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
        let Some(GuestMessage::Failure(error)) = &ended.message else {
            panic!("{ended:#?}");
        };
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
fn nothing_that_a_handler_leaves_running_delays_its_answer() {
    // A test that is wrong about this hangs until the runner's time limit.
    check_returns(
        Python,
        &[(
            "import threading\ndef handler(event):\n  threading.Thread(target=threading.Event().wait).start()\n  return 1",
            "1",
        )],
    );
    check_returns(
        JavaScript,
        &[(
            "setInterval(() => {}, 1000); exports.handler = () => 1",
            "1",
        )],
    );
}

#[test]
fn output_before_an_exit_is_whole() {
    let length = 1 << 20;
    for (guest, what) in [
        (
            Guest::handler(
                Python,
                "import sys\ndef handler(event): sys.stdout.write('x' * (1 << 20))",
            ),
            "flushed",
        ),
        (
            Guest::handler(
                JavaScript,
                "exports.handler = () => { process.stdout.write('x'.repeat(1 << 20)); }",
            ),
            "blocking",
        ),
        (
            Guest::script(
                JavaScript,
                "process.stdout.write('x'.repeat(1 << 20)); process.exit(1)",
            ),
            "blocking",
        ),
    ] {
        assert_eq!(guest.run().stdout.len(), length, "{what}: {}", guest.code);
    }
}

#[test]
fn a_guest_that_prints_frames_prints_just_that() {
    let code = "import sys\ndef handler(event):\n  sys.stdout.write('\\x02\\0\\0\\0R42'); return 1";
    let ended = Guest::handler(Python, code).run();
    assert_eq!(ended.stdout, "\u{2}\0\0\0R42");
    assert!(matches!(ended.message, Some(GuestMessage::Result(json)) if json.as_str() == "1"));
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
        let ended = guest.run();
        let Some(GuestMessage::Result(json)) = &ended.message else {
            panic!("{ended:#?}");
        };
        assert_eq!(json.as_str(), expected);
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
        let ended = guest.run();
        assert!(
            matches!(&ended.message, Some(GuestMessage::Result(json)) if json.as_str().len() == 60002),
            "{language}: {}",
            ended.stderr
        );
    }
}

#[test]
fn the_python_runner_also_runs_from_source() {
    let bootstrap = Bootstrap::from_source(Python).unwrap();
    let workspace = TempDir::new().unwrap();
    let ended = Guest::handler(Python, "def handler(event): return 1")
        .run_with(&bootstrap, workspace.path());
    assert!(
        matches!(ended.message, Some(GuestMessage::Result(_))),
        "{ended:#?}"
    );
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
    check_returns(Python, &[(listing, &expected)]);
}

#[test]
fn javascript_handlers_of_every_form_are_called() {
    check_returns(
        JavaScript,
        &[
            (
                "module.exports.handler = (event) => event.name",
                r#""Alice""#,
            ),
            (
                "exports.handler = async (event, context) => context.awsRequestId",
                r#""exec_1""#,
            ),
            ("module.exports = (event) => event.name", r#""Alice""#),
            ("function handler(event) { return 1 }", "1"),
            ("const handler = async () => 2", "2"),
            (
                "'use strict'; let handler = () => { return this === undefined } // the end",
                "false",
            ),
            (
                "exports.handler = (event, context, callback) => { setTimeout(() => callback(null, 3), 1) }",
                "3",
            ),
            (
                "exports.handler = (event, context, callback) => { callback(undefined, 4) }",
                "4",
            ),
            (
                "export const handler = async (event) => event.name",
                r#""Alice""#,
            ),
            ("export function handler() { return 5 }", "5"),
            ("export default () => 6", "6"),
            ("export default { handler: () => 7 }", "7"),
            ("const f = () => 8; export { f as handler }", "8"),
            (
                "import fs from 'fs'; function handler() { return typeof fs.readFileSync }",
                r#""function""#,
            ),
            (
                "exports.handler = () => ({ then(resolve) { resolve(9) } })",
                "9",
            ),
            (
                "const x = await Promise.resolve(10); exports.handler = () => x",
                "10",
            ),
            (
                "console.log(await Promise.resolve(1)); export const handler = () => 11",
                "11",
            ),
        ],
    );
}

#[test]
fn javascript_module_systems_are_told_apart_by_syntax() {
    check_returns(
        JavaScript,
        &[
            (
                "// import x from 'y'\nconst s = `export default 1`;\n/* import 'z'; */ exports.handler = () => typeof require",
                r#""function""#,
            ),
            (
                "exports.handler = () => /import x from/.test('export') || typeof module",
                r#""object""#,
            ),
            (
                "import { createRequire } from 'module'; const require = createRequire(import.meta.url); export const handler = () => typeof require('fs')",
                r#""object""#,
            ),
            (
                "export const handler = () => typeof module",
                r#""undefined""#,
            ),
            (
                "export const handler = () => [typeof globalThis.require, typeof globalThis.fs]",
                r#"["undefined","undefined"]"#,
            ),
            (
                "exports.handler = () => [typeof globalThis.require, typeof globalThis.fs]",
                r#"["undefined","undefined"]"#,
            ),
            (
                "export const handler = () => import.meta.url.endsWith('/main.js')",
                "true",
            ),
            (
                "exports.handler = async () => (await import('node:path')).sep",
                r#""/""#,
            ),
            (
                "export const handler = async () => (await import('path')).default.sep",
                r#""/""#,
            ),
            (
                "for await (const x of [12]) exports.handler = () => x",
                "12",
            ),
        ],
    );
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
        let Some(GuestMessage::Result(json)) = &ended.message else {
            panic!("\n{code}\n{ended:#?}");
        };
        assert_eq!(json.as_str(), expected, "\n{code}");
        assert_eq!(ended.stderr, "", "\n{code}");
    }
}

#[test]
fn javascript_contexts_have_what_lambda_documents() {
    let code = "exports.handler = (e, c) => [c.awsRequestId, c.functionName, c.functionVersion, c.memoryLimitInMB, \
        c.invokedFunctionArn.slice(0, 3), c.logGroupName.split('/').pop(), c.logStreamName, c.identity, c.clientContext, \
        c.callbackWaitsForEmptyEventLoop, Number.isInteger(c.getRemainingTimeInMillis()), c.getRemainingTimeInMillis() <= 60000]";
    let expected = r#"["exec_1","handler","$LATEST","512","arn","session_1","exec_1",null,null,true,true,true]"#;
    check_returns(JavaScript, &[(code, expected)]);
}

#[test]
fn javascript_callbacks_wait_for_the_event_loop_unless_told_not_to() {
    let code = "exports.handler = (event, context, callback) => { WAIT; setTimeout(() => console.log('late'), 1); callback(null, 1) }";
    let waits = Guest::handler(JavaScript, &code.replace("WAIT", "")).run();
    assert_eq!(waits.stdout, "late\n");
    assert!(matches!(waits.message, Some(GuestMessage::Result(_))));
    let hasty = code.replace("WAIT", "context.callbackWaitsForEmptyEventLoop = false");
    let hasty = Guest::handler(JavaScript, &hasty).run();
    assert_eq!(hasty.stdout, "");
    assert!(matches!(hasty.message, Some(GuestMessage::Result(_))));
}

#[test]
fn javascript_values_are_serialised_as_json_stringify_does() {
    check_returns(
        JavaScript,
        &[
            ("exports.handler = () => {}", "null"),
            ("exports.handler = () => () => 1", "null"),
            (
                "exports.handler = () => ({ a: undefined, b: [undefined], c: new Map([[1, 2]]), d: new Set([1]) })",
                r#"{"b":[null],"c":{},"d":{}}"#,
            ),
            (
                "exports.handler = () => new Date(0)",
                r#""1970-01-01T00:00:00.000Z""#,
            ),
            (
                "exports.handler = () => [NaN, Infinity, 'null']",
                r#"[null,null,"null"]"#,
            ),
            (
                "exports.handler = () => ['a\\ud800b', '\\ud83d\\ude00', '\\\\ud800', 'é']",
                "[\"a\u{fffd}b\",\"\u{1f600}\",\"\\\\ud800\",\"é\"]",
            ),
        ],
    );
    let note = Guest::handler(JavaScript, "exports.handler = () => ({ a: NaN, b: null })")
        .run()
        .stderr;
    assert_eq!(
        note,
        "note: NaN and infinities in the return value became null\n"
    );
    let silent = Guest::handler(JavaScript, "exports.handler = () => ({ b: null })")
        .run()
        .stderr;
    assert_eq!(silent, "");
}

#[test]
fn javascript_failures_show_the_guests_lines_and_none_of_ours() {
    let (he, ns) = ("handler_error", "not_serializable");
    check_failures(
        JavaScript,
        &[
            (
                "exports.handler = () => {\n  throw new TypeError('bad');\n};",
                he,
                "TypeError",
                "bad",
                "at exports.handler (main.js:2:9)\n        throw new TypeError('bad');",
            ),
            (
                "throw new Error('early')",
                he,
                "Error",
                "early",
                "main.js:1:7",
            ),
            (
                "export const handler = async () => { throw new Error('a\\n    at fake') }",
                he,
                "Error",
                "a\n    at fake",
                "at handler (main.mjs:1:44)",
            ),
            (
                "class Mine extends Error {}\nexports.handler = async () => { await null; throw new Mine('m') }",
                he,
                "Mine",
                "m",
                "main.js:2:51",
            ),
            (
                "exports.handler = async () => { throw new Error('outer', { cause: new RangeError('inner') }) }",
                he,
                "Error",
                "outer",
                "caused by: RangeError: inner",
            ),
            (
                "exports.handler = () => Promise.any([Promise.reject(new Error('one'))])",
                he,
                "AggregateError",
                "All promises were rejected",
                "with: Error: one",
            ),
            (
                "exports.handler = (e, c, callback) => callback(new Error('called'))",
                he,
                "Error",
                "called",
                "main.js:1:48",
            ),
            (
                "exports.handler = (e, c, callback) => callback('text')",
                he,
                "string",
                "text",
                "",
            ),
            (
                "exports.handler = () => { throw null }",
                he,
                "null",
                "null",
                "",
            ),
            (
                "exports.handler = async () => { throw { code: 7 } }",
                he,
                "object",
                "{ code: 7 }",
                "",
            ),
            (
                "exports.handler = () => { throw Symbol('s') }",
                he,
                "symbol",
                "Symbol(s)",
                "",
            ),
            (
                "exports.handler = () => { throw new Proxy({}, { get() { throw 1 } }) }",
                he,
                "Error",
                "cannot be read",
                "",
            ),
            (
                "exports.handler = () => { const f = () => f(); f() }",
                he,
                "RangeError",
                "Maximum call stack",
                "at f (main.js:1:",
            ),
            (
                "exports.handler = async () => { setTimeout(() => { throw new Error('late') }, 1); await new Promise((r) => setTimeout(r, 60000)) }",
                he,
                "Error",
                "late",
                "main.js:1:58",
            ),
            (
                "exports.handler = async () => { Promise.reject(new Error('floating')); await new Promise((r) => setTimeout(r, 60000)) }",
                he,
                "Error",
                "floating",
                "main.js:1:48",
            ),
            (
                "exports.handler = () => new Promise(() => {})",
                he,
                "UnsettledPromise",
                "never settled",
                "",
            ),
            (
                "exports.handler = (event, context, callback) => {}",
                he,
                "UnsettledPromise",
                "never called its callback",
                "",
            ),
            (
                "await new Promise(() => {}); export const handler = () => 1",
                he,
                "UnsettledPromise",
                "top-level await",
                "",
            ),
            (
                "require('./missing'); exports.handler = () => 1",
                he,
                "Error",
                "Cannot find module './missing'",
                "main.js:1:1",
            ),
            (
                "exports.handler = () => JSON.parse('{')",
                he,
                "SyntaxError",
                "JSON",
                "main.js:1:30",
            ),
            (
                "exports.handler = () => ({ a: { count: 10n } })",
                ns,
                "TypeError",
                "BigInt (at \"count\")",
                "",
            ),
            (
                "const a = {}; a.a = a; exports.handler = () => a",
                ns,
                "TypeError",
                "circular structure",
                "",
            ),
            (
                "exports.handler = () => ({ toJSON() { throw new Error('mine') } })",
                ns,
                "Error",
                "mine",
                "main.js:1:45",
            ),
            (
                "exports.handler = () => { throw new Error('\\ud800') }",
                he,
                "Error",
                "\u{fffd}",
                "main.js:1:33",
            ),
        ],
    );
}

#[test]
fn javascript_syntax_errors_show_their_place() {
    let se = "syntax_error";
    check_failures(
        JavaScript,
        &[
            (
                "const x = 1;\nconst y = = 2;",
                se,
                "SyntaxError",
                "Unexpected token '='",
                "main.js:2\nconst y = = 2;\n          ^",
            ),
            (
                "import fs from 'fs';\nexport const handler = () => {\n  const y = = 2;\n};",
                se,
                "SyntaxError",
                "Unexpected token '='",
                "main.mjs:3\n  const y = = 2;\n            ^",
            ),
            (
                "function handler() { return 1",
                se,
                "SyntaxError",
                "Unexpected end of input",
                "main.js:1\nfunction handler() { return 1",
            ),
            (
                "const a = await 1;\nconst b = = 2;",
                se,
                "SyntaxError",
                "Unexpected token '='",
                "main.js:2\nconst b = = 2;",
            ),
            // Its missing body must not be completed by what the runner adds.
            (
                "if (true)",
                se,
                "SyntaxError",
                "Unexpected end of input",
                "main.js:1",
            ),
        ],
    );
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
    check_returns(JavaScript, &[(channel, "1")]);
    let workspace = TempDir::new().unwrap();
    std::fs::write(
        workspace.path().join("child.js"),
        "process.send(process.execArgv)",
    )
    .unwrap();
    let code = "exports.handler = () => new Promise((done) => require('child_process').fork('./child.js').on('message', done))";
    let ended = Guest::handler(JavaScript, code).run_in(&workspace);
    assert!(
        matches!(&ended.message, Some(GuestMessage::Result(json)) if json.as_str() == "[]"),
        "{ended:#?}"
    );
}
