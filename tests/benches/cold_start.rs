//! What a run costs over HTTP, cold and warm, beside the least that isolation by Bubblewrap can cost on the same machine: Bubblewrap
//! and the bare interpreter, without a daemon, limits, a filter or a program. `docs/performance.md` has the method.
//!
//! Criterion follows each figure by itself. The table at the end is what the project promises: ratios of medians, from
//! samples taken in turns, so that a busy moment of the machine hits both sides.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    reason = "a bench reports by printing, and gives up by panicking"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use criterion::Criterion;
use support::daemon::{Daemon, request};

/// Samples of each figure in the table.
const SAMPLES: usize = 300;
/// Samples before those, which find files and code not yet in caches.
const WARM_UP: usize = 20;
/// Who guests are where the daemon is root, by default.
const GUEST: u32 = 64064;
/// Most memory of an idle daemon, in KiB.
const MAX_IDLE_KIB: u64 = 30 << 10;

/// A language, and what is measured in it.
struct Subject {
    language: &'static str,
    /// The least program that does something for its caller.
    hello: &'static str,
    /// Arguments with which the interpreter starts and does nothing.
    nothing: &'static [&'static str],
    /// Most that a cold run may take, in medians of the bare one.
    promised: f64,
    /// The same of a warm one; `None`: it starts cold whatever is asked for.
    promised_warm: Option<f64>,
}

const SUBJECTS: [Subject; 3] = [
    Subject {
        language: "python",
        hello: "def handler(event):\n    return 'hello'",
        nothing: &["-I", "-c", "0"],
        promised: 1.5,
        promised_warm: Some(0.08),
    },
    Subject {
        language: "javascript",
        hello: "exports.handler = () => 'hello'",
        nothing: &["-e", "0"],
        promised: 1.3,
        promised_warm: Some(0.04),
    },
    Subject {
        language: "shell",
        hello: "echo hello",
        nothing: &["-c", ":"],
        promised: 2.0,
        promised_warm: Some(0.3),
    },
];

/// A caller with one connection that stays open.
struct Caller(BufReader<TcpStream>);

impl Caller {
    fn new(daemon: &Daemon) -> Self {
        let stream = TcpStream::connect(daemon.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    /// Runs a program, from the first byte of the request to the last of the answer.
    fn run(&mut self, subject: &Subject) -> Duration {
        let body = request(subject.language, subject.hello).to_string();
        let message = format!(
            "POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let begin = Instant::now();
        self.0.get_mut().write_all(message.as_bytes()).unwrap();
        let answer = self.answer();
        let took = begin.elapsed();
        assert!(answer.contains(r#""status":"completed""#), "{answer}");
        took
    }

    /// The body of the next answer.
    fn answer(&mut self) -> String {
        let mut length = 0;
        let mut line = String::new();
        while self.0.read_line(&mut line).unwrap() > 2 {
            let header = line.to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }
}

/// Bubblewrap and a bare interpreter, the same that the daemon starts.
struct Bare {
    command: Command,
}

impl Bare {
    fn new(interpreter: &str, subject: &Subject) -> Self {
        let mut command = Command::new("/usr/bin/bwrap");
        command
            .args(["--unshare-all", "--ro-bind", "/usr", "/usr"])
            .args(["--symlink", "usr/bin", "/bin"])
            .args(["--symlink", "usr/lib", "/lib"])
            .args(["--symlink", "usr/lib64", "/lib64"])
            .args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"])
            .args(["--die-with-parent", interpreter])
            .args(subject.nothing)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // As the user that guests are. The child changes its ids before it executes Bubblewrap, so that no program of ours
        // is in the measured time; as root, Bubblewrap would do less and start faster than it ever does for a guest.
        if nix::unistd::geteuid().is_root() {
            command.uid(GUEST).gid(GUEST);
        }
        Self { command }
    }

    /// Runs it, from before the fork until it is reaped.
    fn run(&mut self) -> Duration {
        let begin = Instant::now();
        let status = self.command.status().unwrap();
        let took = begin.elapsed();
        assert!(status.success(), "{:?}: {status}", self.command);
        took
    }
}

/// The interpreter that the daemon runs guests of this language with.
fn interpreter_of(info: &serde_json::Value, language: &str) -> String {
    let languages = info["languages"].as_array().unwrap();
    let found = languages.iter().find(|found| found["language"] == language);
    match found {
        Some(found) => found["interpreter"].as_str().unwrap().to_owned(),
        None => panic!("this host has no interpreter for {language}"),
    }
}

/// Memory of the daemon's process, in KiB.
fn resident_kib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.unwrap().split_whitespace().next();
    number.unwrap().parse().unwrap()
}

/// Samples in order.
struct Samples(Vec<Duration>);

impl Samples {
    fn new(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self(samples)
    }

    /// In milliseconds.
    fn percentile(&self, percent: usize) -> f64 {
        self.0[(self.0.len() - 1) * percent / 100].as_secs_f64() * 1e3
    }
}

/// Prints what runs take beside bare ones, taken in turns, with pauses in which slots can be made, as between the requests of
/// one client.
fn compare(
    start: &str,
    caller: &mut Caller,
    bares: &mut [Bare],
    promised: impl Fn(&Subject) -> Option<f64>,
) {
    println!("\n{start:12}over HTTP, ms    bare bwrap, ms");
    println!("language      p50     p95     p50     p95   ratio of p50   promised");
    for (subject, bare) in SUBJECTS.iter().zip(bares) {
        let Some(promised) = promised(subject) else {
            println!("{:10} starts cold", subject.language);
            continue;
        };
        for _ in 0..WARM_UP {
            caller.run(subject);
            bare.run();
        }
        let (ours, theirs): (Vec<_>, Vec<_>) = (0..SAMPLES)
            .map(|_| (caller.run(subject), bare.run()))
            .unzip();
        let (ours, theirs) = (Samples::new(ours), Samples::new(theirs));
        let ratio = ours.percentile(50) / theirs.percentile(50);
        println!(
            "{:10} {:7.2} {:7.2} {:7.2} {:7.2}   {ratio:12.2}   <= {:.2} {}",
            subject.language,
            ours.percentile(50),
            ours.percentile(95),
            theirs.percentile(50),
            theirs.percentile(95),
            promised,
            verdict(ratio <= promised),
        );
    }
}

const fn verdict(kept: bool) -> &'static str {
    if kept { "kept" } else { "NOT KEPT" }
}

fn main() {
    let daemon = Daemon::with(&[("WARM_POOL", "false")]);
    let idle = resident_kib(&daemon);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let info = runtime
        .block_on(support::daemon::Answer::to(daemon.get("/info")))
        .body;
    let mut caller = Caller::new(&daemon);
    let mut bares = SUBJECTS
        .each_ref()
        .map(|subject| Bare::new(&interpreter_of(&info, subject.language), subject));

    let mut criterion = Criterion::default().configure_from_args();
    for (subject, bare) in SUBJECTS.iter().zip(&mut bares) {
        let mut group = criterion.benchmark_group(subject.language);
        group.bench_function("over HTTP", |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| caller.run(subject)).sum());
        });
        group.bench_function("bare bwrap", |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| bare.run()).sum());
        });
    }
    criterion.final_summary();

    compare("cold", &mut caller, &mut bares, |subject| {
        Some(subject.promised)
    });
    let warm = Daemon::start();
    let mut warm_caller = Caller::new(&warm);
    compare("warm", &mut warm_caller, &mut bares, |subject| {
        subject.promised_warm
    });
    println!(
        "\nmemory of the daemon: idle {idle} KiB, promised <= {MAX_IDLE_KIB} KiB {}; after the runs {} KiB",
        verdict(idle <= MAX_IDLE_KIB),
        resident_kib(&daemon),
    );
}
