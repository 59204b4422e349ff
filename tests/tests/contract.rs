//! What the isolation port promises, stated once, for whoever implements it. A fake that breaks the contract lies to every
//! test that uses it.

#![allow(clippy::unwrap_used, reason = "this is how a test fails")]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use executor_application::{
    CancellationToken, Job, Listener, OutputListener, OutputStream, Sandbox, fake::FakeSandbox,
};
#[cfg(target_os = "linux")]
use executor_domain::Start;
use executor_domain::{Clock, CrashCause, Ending, Language, LimitHit, Outcome, Reason};
#[cfg(target_os = "linux")]
use executor_infra_isolation::WarmOptions;
use support::{Workspace, limits, run, seatbelt::gap};

/// What a guest does, told without saying in which language.
#[derive(Clone, Copy)]
enum Does {
    Return(&'static str),
    Write {
        stdout: &'static str,
        stderr: &'static str,
    },
    WriteAndSleep(&'static str),
    Flood(usize),
    Exit(i32),
    DieOf(i32),
    SleepForever,
    UseAllMemory,
    BreakSyntax,
}

/// An implementation of the port, and how its guests are written.
trait Subject {
    fn sandbox(&self) -> &dyn Sandbox;
    fn write(&self, does: Does) -> (Language, String);
}

struct Fake(FakeSandbox);

impl Subject for Fake {
    fn sandbox(&self) -> &dyn Sandbox {
        &self.0
    }

    fn write(&self, does: Does) -> (Language, String) {
        let code = match does {
            Does::Return(json) => format!("return {json}"),
            Does::Write { stdout, stderr } => format!("echo {stdout}\nwarn {stderr}"),
            Does::WriteAndSleep(text) => format!("echo {text}\nsleep 100000000"),
            Does::Flood(bytes) => format!("flood {bytes}"),
            Does::Exit(code) => format!("exit {code}"),
            Does::DieOf(signal) => format!("kill {signal}"),
            Does::SleepForever => "sleep 100000000".into(),
            Does::UseAllMemory => "hog".into(),
            Does::BreakSyntax => "gibberish".into(),
        };
        (Language::Python, code)
    }
}

struct Real<S>(S);

impl<S: Sandbox> Subject for Real<S> {
    fn sandbox(&self) -> &dyn Sandbox {
        &self.0
    }

    fn write(&self, does: Does) -> (Language, String) {
        let handler =
            |body: String| format!("import os, sys, time\ndef handler(event):\n    {body}\n");
        let code = match does {
            Does::Return(json) => {
                return (
                    Language::JavaScript,
                    format!("exports.handler = () => ({json})"),
                );
            }
            Does::Write { stdout, stderr } => {
                return (Language::Shell, format!("echo {stdout}\necho {stderr} >&2"));
            }
            Does::WriteAndSleep(text) => {
                handler(format!("print({text:?}, flush=True); time.sleep(100000)"))
            }
            Does::Flood(bytes) => return (Language::Shell, format!("head -c {bytes} /dev/zero")),
            Does::Exit(code) => return (Language::Shell, format!("exit {code}")),
            Does::DieOf(signal) => handler(format!("os.kill(os.getpid(), {signal})")),
            Does::SleepForever => handler("time.sleep(100000)".into()),
            Does::UseAllMemory => handler("return len(bytearray(1 << 30))".into()),
            Does::BreakSyntax => "def handler(event:\n".into(),
        };
        (Language::Python, code)
    }
}

/// Written as for any real one, but where `known-gaps-seatbelt.txt` says that it cannot keep as much.
struct Seatbelt<S>(Real<S>);

impl<S: Sandbox> Subject for Seatbelt<S> {
    fn sandbox(&self) -> &dyn Sandbox {
        self.0.sandbox()
    }

    fn write(&self, does: Does) -> (Language, String) {
        match does {
            Does::UseAllMemory => {
                // What has been taken must stay long enough for somebody to look.
                gap("memory_limit", "contract");
                let code = "import time\ndef handler(event):\n    taken = bytearray(1 << 28)\n    time.sleep(100000)\n";
                (Language::Python, code.into())
            }
            other => self.0.write(other),
        }
    }
}

/// Remembers what it hears.
#[derive(Default)]
struct Ear {
    heard: Mutex<Vec<(OutputStream, Vec<u8>)>>,
    cuts: Mutex<Vec<OutputStream>>,
    more: tokio::sync::Notify,
}

impl OutputListener for Ear {
    fn wrote(&self, stream: OutputStream, bytes: &[u8]) {
        self.heard.lock().unwrap().push((stream, bytes.to_vec()));
        self.more.notify_one();
    }

    fn truncated(&self, stream: OutputStream) {
        self.cuts.lock().unwrap().push(stream);
    }
}

impl Ear {
    fn cuts(&self) -> Vec<OutputStream> {
        self.cuts.lock().unwrap().clone()
    }

    fn heard(&self, stream: OutputStream) -> Vec<u8> {
        let heard = self.heard.lock().unwrap();
        let of_stream = heard.iter().filter(|(heard, _)| *heard == stream);
        of_stream.flat_map(|(_, bytes)| bytes.clone()).collect()
    }

    async fn hears(&self, stream: OutputStream, bytes: &[u8]) {
        while self.heard(stream) != bytes {
            self.more.notified().await;
        }
    }
}

/// What a guest writes is heard while it runs, and up to the cap.
async fn is_heard(subject: &dyn Subject, workspace: &Workspace) {
    let sandbox = subject.sandbox();
    let job = |does| -> Job {
        let (language, code) = subject.write(does);
        support::job(language, &code, workspace)
    };
    let ear = Arc::new(Ear::default());
    let mut talker = job(Does::WriteAndSleep("soon"));
    talker.listener = Listener::new(Arc::clone(&ear) as _);
    let cancel = CancellationToken::new();
    let (outcome, ()) = tokio::join!(sandbox.run(talker, cancel.clone()), async {
        ear.hears(OutputStream::Stdout, b"soon\n").await;
        cancel.cancel();
    });
    assert_eq!(outcome.unwrap().stdout.bytes, b"soon\n");
    let ear = Arc::new(Ear::default());
    let mut flood = job(Does::Flood(1_000_000));
    flood.limits = limits(|wish| wish.max_output_bytes = Some(1000));
    flood.listener = Listener::new(Arc::clone(&ear) as _);
    let outcome = run(sandbox, flood).await;
    assert_eq!(ear.heard(OutputStream::Stdout), outcome.stdout.bytes);
    assert_eq!(ear.heard(OutputStream::Stdout).len(), 1000);
    assert_eq!(ear.cuts(), [OutputStream::Stdout]);
}

async fn states(subject: &dyn Subject) {
    let workspace = Workspace::new();
    let job = |does| -> Job {
        let (language, code) = subject.write(does);
        support::job(language, &code, &workspace)
    };
    let sandbox = subject.sandbox();

    // A return value comes back.
    let outcome = run(sandbox, job(Does::Return(r#"{"a":[1,2.5,"x"]}"#))).await;
    assert!(
        matches!(&outcome.ending, Ending::Completed { return_value } if return_value.as_str() == r#"{"a":[1,2.5,"x"]}"#),
        "{outcome:?}"
    );
    assert!(outcome.limits_hit.is_empty());

    // Streams come back, each by itself.
    let outcome = run(
        sandbox,
        job(Does::Write {
            stdout: "one",
            stderr: "two",
        }),
    )
    .await;
    assert_eq!(
        (
            outcome.stdout.bytes.as_slice(),
            outcome.stderr.bytes.as_slice()
        ),
        (&b"one\n"[..], &b"two\n"[..])
    );

    is_heard(subject, &workspace).await;

    // A guest's misfortune is a value.
    let outcome = run(sandbox, job(Does::Exit(3))).await;
    assert_eq!(
        (outcome.ending.exit_code(), reason(&outcome)),
        (3, Some(Reason::ExitCode))
    );
    let outcome = run(sandbox, job(Does::DieOf(11))).await;
    assert_eq!(outcome.ending, Ending::Crashed(CrashCause::Signal(11)));
    let outcome = run(sandbox, job(Does::BreakSyntax)).await;
    assert_eq!(reason(&outcome), Some(Reason::SyntaxError));

    // Output stands at its cap and is cut above, and the run goes on.
    for (bytes, truncated) in [(1000, false), (1001, true), (1_000_000, true)] {
        let mut flood = job(Does::Flood(bytes));
        flood.limits = limits(|wish| wish.max_output_bytes = Some(1000));
        let outcome = run(sandbox, flood).await;
        assert_eq!(
            (outcome.stdout.bytes.len(), outcome.stdout.truncated_bytes),
            (1000, bytes as u64 - 1000)
        );
        assert_eq!(outcome.limits_hit.contains(&LimitHit::Output), truncated);
        assert!(matches!(outcome.ending, Ending::Completed { .. }));
    }

    // Want of memory has a name.
    let mut hog = job(Does::UseAllMemory);
    hog.limits = limits(|wish| wish.max_memory_mb = Some(64));
    let outcome = run(sandbox, hog).await;
    assert_eq!(reason(&outcome), Some(Reason::Memory), "{outcome:?}");
    assert_eq!(outcome.limits_hit, [LimitHit::Memory]);

    // Wall time ends a run, and says how much there was.
    let mut slow = job(Does::SleepForever);
    slow.limits = limits(|wish| {
        wish.max_wall_time_ms = Some(300);
        // On a slow machine the interpreter alone takes longer than that to start.
        wish.max_cpu_time_ms = Some(60_000);
    });
    let outcome = run(sandbox, slow).await;
    let allowed = Duration::from_millis(300);
    assert_eq!(
        outcome.ending,
        Ending::TimedOut {
            clock: Clock::Wall,
            allowed
        }
    );
    assert_eq!(outcome.limits_hit, [LimitHit::WallTime]);
    assert!(outcome.usage.wall_time >= allowed);

    // A run can be cancelled, before and while it runs.
    let cancel = CancellationToken::new();
    cancel.cancel();
    let outcome = sandbox.run(job(Does::SleepForever), cancel).await.unwrap();
    assert_eq!(outcome.ending, Ending::Cancelled);
    let cancel = CancellationToken::new();
    let running = sandbox.run(job(Does::SleepForever), cancel.clone());
    let (outcome, ()) = tokio::join!(running, async { cancel.cancel() });
    assert_eq!(outcome.unwrap().ending, Ending::Cancelled);

    // Cancelling what has ended changes nothing.
    let cancel = CancellationToken::new();
    let outcome = sandbox
        .run(job(Does::Return("1")), cancel.clone())
        .await
        .unwrap();
    cancel.cancel();
    assert!(matches!(outcome.ending, Ending::Completed { .. }));

    // Many at once do not meet.
    let many = (0..8).map(|_| run(sandbox, job(Does::Return("7"))));
    let mut ended = 0;
    for outcome in futures(many).await {
        assert!(
            matches!(outcome.ending, Ending::Completed { .. }),
            "{outcome:?}"
        );
        ended += 1;
    }
    assert_eq!(ended, 8);

    // It says of itself what it can do, and can do it.
    sandbox.check().await.unwrap();
    for language in Language::ALL {
        assert!(sandbox.description().supports(language), "{language}");
    }
}

/// Runs futures at the same time on this task.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = all.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        pending.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(value) => {
                done.push(value);
                false
            }
            std::task::Poll::Pending => true,
        });
        if pending.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done
}

fn reason(outcome: &Outcome) -> Option<Reason> {
    outcome.ending.error().map(|error| error.reason)
}

#[tokio::test(start_paused = true)]
async fn the_fake_keeps_the_contract() {
    states(&Fake(FakeSandbox::default())).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn cold_bubblewrap_keeps_the_contract() {
    states(&Real(support::bwrap().await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seatbelt_keeps_the_contract() {
    let (_tool, sandbox) = support::seatbelt::seatbelt().await;
    states(&Seatbelt(Real(sandbox))).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn warm_bubblewrap_keeps_the_contract() {
    let sandbox = support::warm_bwrap().await;
    let workspace = Workspace::new();
    for language in WarmOptions::SUPPORTED {
        let code = match language {
            Language::Python => "def handler(event): return 1",
            Language::JavaScript => "exports.handler = () => 1",
            Language::Shell => "true",
        };
        let outcome = run(&sandbox, support::job(language, code, &workspace)).await;
        assert_ne!(outcome.start, Start::Cold, "{language}");
    }
    states(&Real(sandbox)).await;
}
