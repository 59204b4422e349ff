//! A zygote as the daemon holds it.

use std::{
    fs::OpenOptions,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use executor_application::{Listener, OutputStream};
use executor_domain::{CapturedOutput, Language, ResourceLimit};
use executor_guest::protocol::{self, Fork, ZygoteSpec};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::Mutex,
    task::JoinHandle,
    time::Instant,
};

use super::slot::Slot;
use crate::{
    bwrap::{engine::Engine, process::BwrapProcesses},
    cgroup::RunCgroup,
    stage::wire::{Inspection, Report},
    supervisor::{
        self, Guest, Hearer, Processes, Sandbox, SuperviseError, capture, read_report,
        socket::{self, receive_with, send_with},
    },
};

/// How long a zygote may take to load what it preloads.
const LOAD_LIMIT: Duration = Duration::from_secs(120);
/// How long a slot may take. It takes 2 ms on an idle machine.
const FORK_LIMIT: Duration = Duration::from_secs(30);
/// Most that is kept of what a zygote says.
const MAX_COMPLAINT: usize = 8 << 10;

/// How a zygote is made.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// Its language.
    pub language: Language,
    /// The interpreter and its arguments.
    pub argv: Vec<String>,
    /// Its environment, which its guests inherit.
    pub environment: Vec<(String, String)>,
    /// A script of ours, where it finds that of a guest.
    pub script: Option<String>,
    /// What it reads first on its channel: its program.
    pub prologue: Vec<u8>,
    /// What its slots have in common.
    pub spec: ZygoteSpec,
    /// What its slots may use until a job says otherwise.
    pub limits: ResourceLimit,
    /// The guest library.
    pub library: OwnedFd,
}

/// Why there is no zygote, or no slot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ZygoteError {
    /// Its sandbox could not be built.
    #[error("the sandbox of the zygote could not be built")]
    Sandbox(#[from] SuperviseError),
    /// It did not come up.
    #[error("the zygote did not come up: {said}")]
    Start {
        /// What it said.
        said: String,
        #[source]
        source: io::Error,
    },
    /// It did not fork.
    #[error("the zygote did not fork")]
    Fork(#[source] io::Error),
    /// A wall of a slot could not be built.
    #[error("a slot could not be built: {0}")]
    Slot(String),
}

/// An interpreter that forks slots. Dies, with all its slots, when it is dropped.
pub(crate) struct Zygote {
    _sandbox: Sandbox<BwrapProcesses>,
    _cgroup: Option<RunCgroup>,
    channel: Mutex<UnixStream>,
    /// Whether a request was left without its answer: then nobody knows whose the next answer is.
    confused: AtomicBool,
    forks: AtomicU64,
    since: Instant,
    chatter: JoinHandle<CapturedOutput>,
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.chatter.abort();
    }
}

impl std::fmt::Debug for Zygote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Zygote")
            .field("forks", &self.forks)
            .finish_non_exhaustive()
    }
}

impl Zygote {
    /// Starts one, and waits until it can fork. Takes as long as the interpreter and what it preloads take to start.
    pub(crate) async fn start(engine: &Engine, recipe: &Recipe) -> Result<Self, ZygoteError> {
        let library = recipe.library.try_clone().map_err(ZygoteError::Fork)?;
        let (guest, cgroup) = engine.start_zygote(recipe, library).await?;
        let Guest {
            mut sandbox,
            stdout,
            stderr,
            channel,
            ..
        } = guest;
        let mut chatter = tokio::spawn(async move {
            let listener = Listener::none();
            let nobody = |stream| Hearer {
                listener: &listener,
                stream,
            };
            let (mut out, mut err) = (CapturedOutput::default(), CapturedOutput::default());
            tokio::join!(
                capture(
                    stdout,
                    MAX_COMPLAINT,
                    &mut out,
                    nobody(OutputStream::Stdout)
                ),
                capture(
                    stderr,
                    MAX_COMPLAINT,
                    &mut err,
                    nobody(OutputStream::Stderr)
                ),
            );
            err
        });
        let mut channel = channel.ok_or_else(|| {
            ZygoteError::Fork(io::Error::other("the zygote was started without a channel"))
        })?;
        let loaded = tokio::time::timeout(LOAD_LIMIT, introduce(&mut channel, recipe)).await;
        if let Err(source) = loaded.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            sandbox.processes.kill();
            let said = match tokio::time::timeout(Duration::from_secs(1), &mut chatter).await {
                Ok(Ok(said)) => String::from_utf8_lossy(said.bytes.trim_ascii()).into_owned(),
                _ => String::new(),
            };
            chatter.abort();
            return Err(ZygoteError::Start { said, source });
        }
        Ok(Self {
            _sandbox: sandbox,
            _cgroup: cgroup,
            channel: Mutex::new(channel),
            confused: AtomicBool::new(false),
            forks: AtomicU64::new(0),
            since: Instant::now(),
            chatter,
        })
    }

    /// Slots so far.
    pub(crate) fn forks(&self) -> u64 {
        self.forks.load(Ordering::Relaxed)
    }

    /// How long it has lived.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Makes a slot with these limits, and waits until its guest waits for its job.
    pub(crate) async fn fork(
        self: &Arc<Self>,
        engine: &Engine,
        limits: &ResourceLimit,
        fork: Fork,
    ) -> Result<(Slot, Option<Inspection>), ZygoteError> {
        let made = tokio::time::timeout(FORK_LIMIT, self.make(engine, limits, fork));
        made.await
            .unwrap_or_else(|_| Err(ZygoteError::Fork(io::ErrorKind::TimedOut.into())))
    }

    async fn make(
        self: &Arc<Self>,
        engine: &Engine,
        limits: &ResourceLimit,
        fork: Fork,
    ) -> Result<(Slot, Option<Inspection>), ZygoteError> {
        let failed = ZygoteError::Fork;
        let cgroup = engine.slot_cgroup(limits)?;
        let entrances = cgroup.as_ref().map(open_entrances).transpose();
        let entrances = entrances.map_err(failed)?.unwrap_or_default();
        let (mut control, their_control) = socket::pair().map_err(failed)?;
        let (channel, their_channel) = socket::pair().map_err(failed)?;
        let (stdout, their_stdout) = supervisor::pipe_of_guest(engine.run_as).map_err(failed)?;
        let (stderr, their_stderr) = supervisor::pipe_of_guest(engine.run_as).map_err(failed)?;
        let theirs: Vec<_> = [their_control, their_channel, their_stdout, their_stderr]
            .into_iter()
            .chain(entrances)
            .collect();
        let init = self.request(fork, &theirs).await.map_err(failed)?;
        drop(theirs);
        let processes = BwrapProcesses::of_slot(init).map_err(failed)?;
        self.forks.fetch_add(1, Ordering::Relaxed);

        let report = read_report(&mut control).await.map_err(failed)?;
        let inspection = match report {
            Report::Started(inspection) => inspection,
            Report::Failed(why) => return Err(ZygoteError::Slot(why)),
            Report::Ended(_) => return Err(ZygoteError::Slot("its guest has ended".into())),
        };
        let slot = Slot {
            sandbox: Sandbox { control, processes },
            stdout,
            stderr,
            channel,
            cgroup,
            limits: *limits,
            zygote: Arc::clone(self),
            replacement: None,
        };
        Ok((slot, inspection))
    }

    /// Asks for a slot, whose descriptors these are, and gets a descriptor of its init's process.
    async fn request(&self, fork: Fork, descriptors: &[OwnedFd]) -> io::Result<OwnedFd> {
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let mut channel = self.channel.lock().await;
        if self.confused.swap(true, Ordering::Relaxed) {
            return Err(io::Error::other("an earlier request has no answer"));
        }
        send_with(&channel, &[fork.byte()], &borrowed).await?;
        let mut answer = [0];
        let init = receive_with(&channel, &mut answer).await?;
        let result = match (answer, init) {
            ([protocol::FORKED], Some(init)) => Ok(init),
            ([protocol::NOT_FORKED], _) => {
                let number = channel.read_i32_le().await?;
                Err(io::Error::from_raw_os_error(number))
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        self.confused.store(false, Ordering::Relaxed);
        result
    }
}

/// Tells a zygote its program and its orders, and waits until it is ready.
async fn introduce(channel: &mut UnixStream, recipe: &Recipe) -> io::Result<()> {
    channel.write_all(&recipe.prologue).await?;
    channel.write_all(&protocol::encode(&recipe.spec)?).await?;
    match channel.read_u8().await? {
        protocol::READY => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Opens the files by which a process enters the cgroups. The kernel asks whether whoever *opened* them may (cgroups(7)), so
/// a slot can enter by them and has no other right.
fn open_entrances(cgroup: &RunCgroup) -> io::Result<Vec<OwnedFd>> {
    cgroup
        .entry_files()
        .iter()
        .map(|path| Ok(OpenOptions::new().write(true).open(path)?.into()))
        .collect()
}
