//! What a run costs beside its guest, piece by piece. Guests here are fakes that end at once: what is left is what HTTP, admission,
//! workspace, store and JSON add, each measured by itself and all of them together over a socket.

use std::{
    hint::black_box,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use criterion::Criterion;
use executor_application::{
    CheckHealth, Clock as _, ExecuteCode, ExecutionStore, Fingerprint, MemoryStore, Options,
    Retention, Workspaces,
    fake::{FakeSandbox, NoWorkspaces},
};
use executor_domain::{
    Artifacts, CapturedOutput, Ending, Execution, ExecutionId, JsonText, LimitPolicy, Mode,
    Outcome, SessionId, Start, Usage,
};
use executor_infra_isolation::{
    guest::channel::{GuestFrames, JobFrames, JobHeader},
    pieces,
};
use executor_infra_store::{SqliteStore, StoreOptions};
use executor_infra_workspace::{SessionWorkspaces, WorkspaceOptions};
use executor_interfaces_http::{ApiOptions, ApiState, ServerOptions, execution_json, router};
use sandbox_executor::wiring::SystemClock;
use tokio::{net::TcpListener, runtime::Runtime};

/// Numbers executions, so that no two are alike.
static NUMBER: AtomicU64 = AtomicU64::new(0);

fn next_id() -> ExecutionId {
    ExecutionId::parse(&format!("e{}", NUMBER.fetch_add(1, Ordering::Relaxed))).unwrap()
}

fn session() -> SessionId {
    SessionId::parse("session_001").unwrap()
}

/// As many threads as the daemon has on the smallest host.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// An execution that was accepted.
fn accepted() -> Execution {
    Execution::accept(next_id(), session(), SystemClock.now())
}

/// One that has ended, with so much output.
fn ended(accepted: &Execution, output: usize) -> Execution {
    let mut execution = accepted.clone();
    execution.start(SystemClock.now()).unwrap();
    let outcome = Outcome {
        ending: Ending::Completed {
            return_value: JsonText::parse("\"hello\"".to_owned()).unwrap(),
        },
        stdout: CapturedOutput {
            bytes: b"a line of output\n"
                .iter()
                .copied()
                .cycle()
                .take(output)
                .collect(),
            truncated_bytes: 0,
        },
        stderr: CapturedOutput::default(),
        usage: Usage::default(),
        start: Start::Warm,
        limits_hit: Vec::new(),
    };
    execution
        .finish(SystemClock.now(), outcome, Artifacts::default())
        .unwrap();
    execution
}

/// The body of a request that the fake answers at once.
fn body() -> String {
    format!(
        r#"{{"execution_id":"{}","session_id":"session_001","language":"python","code":"return \"hello\"","event":{{"name":"Alice"}},"timeout":30}}"#,
        next_id()
    )
}

fn without_io(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compute");
    let policy = LimitPolicy::default();
    let request = body();
    group.bench_function("parse and validate a request", |bencher| {
        bencher
            .iter(|| executor_interfaces_http::command_of(black_box(&request), &policy).unwrap());
    });
    let small = ended(&accepted(), 0);
    let large = ended(&accepted(), 1 << 20);
    group.bench_function("write an answer", |bencher| {
        bencher.iter(|| execution_json(black_box(&small)).unwrap());
    });
    group.bench_function("write an answer with 1 MiB of output", |bencher| {
        bencher.iter(|| execution_json(black_box(&large)).unwrap());
    });
    let system = pieces::System::of_this_host().unwrap();
    group.bench_function("build the arguments of a cold run", |bencher| {
        bencher.iter(|| black_box(&system).arguments());
    });
    group.bench_function("compile the seccomp filters of slots", |bencher| {
        bencher.iter(|| pieces::compile_filters().unwrap());
    });
    let (execution_id, session_id) = (next_id(), session());
    let header = JobHeader {
        execution_id: &execution_id,
        session_id: &session_id,
        mode: Mode::Handler,
        remaining: Duration::from_secs(30),
        memory_limit_mb: 512,
        max_result_bytes: 6 << 20,
        environment: None,
    };
    group.bench_function("put a job into frames", |bencher| {
        bencher.iter(|| {
            JobFrames::new(None, black_box(&header), "return 1", "{}")
                .unwrap()
                .pieces()
                .concat()
        });
    });
    let payload = b"{\"greeting\":\"hello\"}";
    let mut frame = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
    frame.push(b'R');
    frame.extend(payload);
    group.bench_function("read a result from its frame", |bencher| {
        bencher.iter(|| GuestFrames::new(6 << 20).push(black_box(&frame)).unwrap());
    });
    group.finish();
}

fn capture(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut group = criterion.benchmark_group("capture");
    for (name, bytes) in [("a line", 17), ("1 MiB", 1 << 20)] {
        let written = vec![b'x'; bytes];
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(pieces::captured(black_box(&written), 1 << 20)));
        });
    }
    group.finish();
}

/// A run's part of its workspace: from its beginning to the list of what it changed, which is nothing.
fn workspace(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("workspace");
    for (name, files) in [("empty", 0), ("10,000 files", 10_000)] {
        let workspaces = SessionWorkspaces::temporary(WorkspaceOptions::default()).unwrap();
        let session = session();
        let open = || runtime.block_on(workspaces.open(&session)).unwrap();
        let path = open().path().to_owned();
        for file in 0..files {
            std::fs::write(path.join(format!("{file}.txt")), "x").unwrap();
        }
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let workspace = open();
                runtime.block_on(workspace.changes()).unwrap()
            });
        });
    }
    group.finish();
}

fn store(criterion: &mut Criterion) {
    let runtime = runtime();
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path(), StoreOptions::default()).unwrap();
    let store = Arc::new(store);
    let mut group = criterion.benchmark_group("store");
    let put = |store: Arc<SqliteStore>| async move {
        let execution = accepted();
        let fingerprint = Fingerprint::new([0; 32]);
        store.accept(&execution, fingerprint).await.unwrap();
        store.finish(&ended(&execution, 100)).await.unwrap();
        execution.id().clone()
    };
    group.bench_function("accept and finish", |bencher| {
        bencher.iter(|| runtime.block_on(put(Arc::clone(&store))));
    });
    group.bench_function("accept and finish, 64 at once", |bencher| {
        bencher.iter(|| {
            let all: Vec<_> = (0..64)
                .map(|_| runtime.spawn(put(Arc::clone(&store))))
                .collect();
            for one in all {
                runtime.block_on(one).unwrap();
            }
        });
    });
    let kept = runtime.block_on(put(Arc::clone(&store)));
    group.bench_function("find", |bencher| {
        bencher.iter(|| runtime.block_on(store.find(&kept)).unwrap().unwrap());
    });
    group.finish();
    runtime.block_on(store.close());
}

/// A client with a connection that stays open.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    /// From the first byte of the request to the last of the answer.
    fn ask(&mut self, head: &str, body: &str) -> Duration {
        let message = format!(
            "{head} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let begin = Instant::now();
        self.0.get_mut().write_all(message.as_bytes()).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        let mut length = 0;
        line.clear();
        while self.0.read_line(&mut line).unwrap() > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer).unwrap();
        begin.elapsed()
    }
}

/// Serves a use case on loopback; the address.
fn serve(
    runtime: &Runtime,
    workspaces: Arc<dyn Workspaces>,
    store: Arc<dyn ExecutionStore>,
) -> SocketAddr {
    runtime.block_on(async {
        let sandbox = Arc::new(FakeSandbox::default());
        let executor = ExecuteCode::with_store(
            Arc::clone(&sandbox) as Arc<_>,
            Arc::clone(&workspaces),
            Arc::new(SystemClock),
            store,
            Options::default(),
        );
        let health = CheckHealth::new(executor.clone(), sandbox, workspaces);
        let api = ApiState::new(executor, Arc::new(health), ApiOptions::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = executor_interfaces_http::serve(
            listener,
            router(api),
            ServerOptions::default(),
            std::future::pending(),
        );
        tokio::spawn(server);
        address
    })
}

/// A request from end to end, without a sandbox.
fn over_http(criterion: &mut Criterion) {
    let runtime = runtime();
    let memory = || Arc::new(MemoryStore::new(Retention::default()));
    let nowhere = || Arc::new(NoWorkspaces) as Arc<dyn Workspaces>;
    let temporary = || {
        let workspaces = SessionWorkspaces::temporary(WorkspaceOptions::default());
        Arc::new(workspaces.unwrap()) as Arc<dyn Workspaces>
    };
    let directory = tempfile::tempdir().unwrap();
    let on_disk = |name: &str| {
        let path = directory.path().join(name);
        Arc::new(SqliteStore::open(&path, StoreOptions::default()).unwrap())
    };
    let servers = [
        ("memory, no workspace", serve(&runtime, nowhere(), memory())),
        ("memory, workspace", serve(&runtime, temporary(), memory())),
        (
            "store, no workspace",
            serve(&runtime, nowhere(), on_disk("a")),
        ),
        (
            "store, workspace",
            serve(&runtime, temporary(), on_disk("b")),
        ),
    ];
    let mut group = criterion.benchmark_group("http");
    let mut client = Client::connect(servers[0].1);
    group.bench_function("a liveness check", |bencher| {
        bencher.iter_custom(|times| (0..times).map(|_| client.ask("GET /livez", "")).sum());
    });
    for (name, address) in servers {
        let mut client = Client::connect(address);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                (0..times)
                    .map(|_| client.ask("POST /execute", &body()))
                    .sum()
            });
        });
    }
    group.finish();
    runtime.shutdown_background();
}

/// Measures every piece.
pub(crate) fn measure() {
    let mut criterion = Criterion::default().configure_from_args();
    for piece in [without_io, capture, workspace, store, over_http] {
        piece(&mut criterion);
    }
    criterion.final_summary();
}
