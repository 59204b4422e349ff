//! The parent side of a run: starts it, feeds it, reads it, ends it in time, and knows when it is over.
//!
//! Everything that a run holds (processes, descriptors, buffers) belongs to one task, which ends only when every process
//! of the guest is dead.

mod capture;
mod process;
mod spawner;

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use executor_application::{Listener, OutputStream};
use executor_domain::{CapturedOutput, Event, ExecutionId, SessionId, Source};
use rustix::{
    fs::{Gid, Uid},
    io::{IoSlice, IoSliceMut},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags,
    },
    pipe::PipeFlags,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, Interest},
    net::{UnixStream, unix::pipe},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{
    capture::capture,
    spawner::{Spawner, Streams},
};
pub(crate) use self::{
    capture::{Hearer, capture as capture_stream},
    process::Processes,
    spawner::sealed_copy,
};
use crate::{
    cgroup::RunCgroup,
    guest::{
        channel::{EncodeError, GuestFrames, GuestMessage, JobFrames, JobHeader},
        runner::Bootstrap,
    },
    stage::{
        self,
        init::MAX_DESCRIPTORS,
        wire::{self, Ended, InitSpec, Inspection, LaunchSpec, Report},
    },
    warm::{
        slot::{Release, Slot},
        zygote::Zygote,
    },
};

/// How long launcher, bubblewrap and init may take before the guest's first instruction. They take 5 ms on an idle
/// machine; on one that is overloaded a thousandfold something is wrong with it, not with the guest.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long the init may take to kill and reap the guest when asked to, before it is killed itself.
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// How long the streams may take to end once every process of the guest is dead. They end at once, unless a guest has
/// sent one of its descriptors through its channel, where it stays open until the channel is closed.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
/// Most that bubblewrap and launcher can say of what went wrong.
const MAX_COMPLAINT: usize = 8 << 10;
/// How much is read from a guest's channel at once.
const CHANNEL_BUFFER: usize = 16 << 10;
/// Shortest time between two looks at the CPU time.
const CPU_CHECK: Duration = Duration::from_millis(5);

/// A run, decided to the last detail.
pub(crate) struct Order {
    /// Where the guest's sandbox comes from.
    pub start: Start,
    /// What the guest is told on its channel; `None`: it has none.
    pub job: Option<Job>,
    /// Wall time from the guest's first instruction.
    pub wall_time: Duration,
    /// CPU time of the process tree, where there is a cgroup to ask for it.
    pub cpu_time: Duration,
    /// The run's cgroup.
    pub cgroup: Option<RunCgroup>,
    /// Bytes to keep of each of stdout and stderr.
    pub max_output: usize,
    /// Who hears them as they come.
    pub listener: Listener,
    /// Bytes that a result may have.
    pub max_result: usize,
}

/// Where a guest's sandbox comes from.
pub(crate) enum Start {
    /// It is built for this run.
    Cold(Box<ColdStart>),
    /// It was built before, and waits for its job.
    Warm(Box<Slot>, Release),
    /// Somebody has taken it to start the run.
    Taken,
}

/// A sandbox to build.
pub(crate) struct ColdStart {
    /// What the launcher is to do.
    pub launch: LaunchSpec,
    /// What the init is to do.
    pub init: InitSpec,
    /// The guest's standard input.
    pub stdin: OwnedFd,
}

/// What a guest is told on its channel.
#[derive(Debug)]
pub(crate) struct Job {
    /// The runner, for an interpreter that does not have it yet.
    pub bootstrap: Option<Arc<Bootstrap>>,
    /// Variables, for an interpreter that was started without them.
    pub environment: Option<Vec<(String, String)>>,
    /// The execution's name.
    pub execution_id: ExecutionId,
    /// The session's name.
    pub session_id: SessionId,
    /// The program.
    pub source: Source,
    /// Its input.
    pub event: Event,
    /// Memory that it may use, in MiB.
    pub memory_limit_mb: u64,
}

impl Job {
    fn frames(&self, order: &Order) -> Result<JobFrames<'_>, EncodeError> {
        let header = JobHeader {
            execution_id: &self.execution_id,
            session_id: &self.session_id,
            mode: self.source.mode(),
            remaining: order.wall_time,
            memory_limit_mb: self.memory_limit_mb,
            max_result_bytes: order.max_result,
            environment: self.environment.as_deref(),
        };
        JobFrames::new(
            self.bootstrap.as_deref(),
            &header,
            self.source.code(),
            self.event.as_str(),
        )
    }
}

/// Why a run is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The guest ended of itself.
    Natural,
    /// Its wall time ran out.
    WallTime,
    /// Its CPU time ran out.
    CpuTime,
    /// Somebody cancelled it.
    Cancelled,
}

/// What is known of a run that is over.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Why it is over.
    pub verdict: Verdict,
    /// How its first process ended; `None`: the init could not say, because it had to be killed.
    pub ended: Option<Ended>,
    /// What the guest said on its channel.
    pub message: Option<GuestMessage>,
    /// What it wrote to stdout.
    pub stdout: CapturedOutput,
    /// What it wrote to stderr.
    pub stderr: CapturedOutput,
    /// Time from its first instruction to its end.
    pub wall_time: Duration,
    /// What the init saw of the walls, where it was to look.
    pub inspection: Option<Inspection>,
    /// The run's cgroup, still there, with nobody in it.
    pub cgroup: Option<RunCgroup>,
}

/// Why a run did not take place. No guest code has run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SuperviseError {
    /// Something of ours failed.
    #[error("{step}")]
    System {
        /// What we were doing.
        step: &'static str,
        #[source]
        source: io::Error,
    },
    /// The sandbox could not be built; in the words of whoever tried.
    #[error("{0}")]
    Sandbox(String),
    /// It was not built in time.
    #[error("the sandbox was not ready within {} s", START_LIMIT.as_secs())]
    TooSlow,
    /// Processes of the guest survive SIGKILL: they hang in the kernel.
    #[error("a process of the guest cannot be killed")]
    Unkillable,
}

/// Names the step that failed.
trait Doing<T> {
    fn doing(self, step: &'static str) -> Result<T, SuperviseError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, step: &'static str) -> Result<T, SuperviseError> {
        self.map_err(|error| SuperviseError::System {
            step,
            source: error.into(),
        })
    }
}

/// Runs guests, one task each.
#[derive(Debug)]
pub(crate) struct Supervisor {
    spawner: Spawner,
    cpus: u32,
}

impl Supervisor {
    /// A supervisor whose launcher is this program.
    pub(crate) fn new(program: &Path) -> io::Result<Self> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            spawner: Spawner::new(program)?,
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        })
    }

    /// Runs one guest to its end. Must be polled to its end as well; cancel with the token.
    pub(crate) async fn run(
        &self,
        mut order: Order,
        cancel: &CancellationToken,
    ) -> Result<Finished, SuperviseError> {
        let mut ours = match std::mem::replace(&mut order.start, Start::Taken) {
            Start::Cold(cold) => self.start(*cold, order.job.is_some()).await?,
            Start::Warm(slot, release) => {
                slot.release(release).await.doing("hand a slot its job")?
            }
            Start::Taken => {
                return Err(SuperviseError::Sandbox("the run was started twice".into()));
            }
        };
        let started = Instant::now();

        let mut stdout = CapturedOutput::default();
        let mut stderr = CapturedOutput::default();
        let mut frames = GuestFrames::new(order.max_result);
        let mut message = None;
        let job = match &order.job {
            Some(job) => Some(
                job.frames(&order)
                    .map_err(io::Error::other)
                    .doing("encode the job")?,
            ),
            None => None,
        };
        let hears = |stream| Hearer {
            listener: &order.listener,
            stream,
        };
        let (verdict, ended) = {
            let mut traffic = pin!(async {
                tokio::join!(
                    capture(
                        ours.stdout,
                        order.max_output,
                        &mut stdout,
                        hears(OutputStream::Stdout)
                    ),
                    capture(
                        ours.stderr,
                        order.max_output,
                        &mut stderr,
                        hears(OutputStream::Stderr)
                    ),
                    converse(ours.channel, job.as_ref(), &mut frames, &mut message),
                )
            });
            let mut over = pin!(self.until_over(&mut ours.sandbox, &order, started, cancel));
            let mut silent = false;
            let over = loop {
                tokio::select! {
                    over = &mut over => break over?,
                    // The guest has closed all its streams, and may live on.
                    _ = &mut traffic, if !silent => silent = true,
                }
            };
            if !silent && tokio::time::timeout(DRAIN_LIMIT, traffic).await.is_err() {
                tracing::debug!("a guest's streams stayed open after its death");
            }
            over
        };
        Ok(Finished {
            verdict,
            ended,
            message: message.or_else(|| frames.finish()),
            stdout,
            stderr,
            wall_time: started.elapsed(),
            inspection: ours.inspection,
            cgroup: order.cgroup,
        })
    }

    /// Builds a sandbox and starts its guest, which waits for its job if it has a channel.
    async fn start(&self, cold: ColdStart, has_channel: bool) -> Result<Guest, SuperviseError> {
        let ColdStart {
            launch,
            init,
            stdin,
        } = cold;
        let (ours, theirs) = ends(launch.run_as, stdin, has_channel)?;
        self.start_with(launch, &init, ours, theirs).await
    }

    /// Builds a sandbox and starts a zygote in it: an interpreter that has our end of its channel, and the guest library.
    pub(crate) async fn start_zygote(
        &self,
        cold: ColdStart,
        library: OwnedFd,
    ) -> Result<Guest, SuperviseError> {
        let ColdStart {
            launch,
            init,
            stdin,
        } = cold;
        let (ours, mut theirs) = ends(launch.run_as, stdin, true)?;
        theirs.descriptors.insert(1, library);
        self.start_with(launch, &init, ours, theirs).await
    }

    async fn start_with(
        &self,
        launch: LaunchSpec,
        init: &InitSpec,
        ours: Ours,
        theirs: TheirEnds,
    ) -> Result<Guest, SuperviseError> {
        let built =
            tokio::time::timeout(START_LIMIT, self.build(launch, init, ours.sandbox, theirs));
        let (sandbox, inspection) = built.await.map_err(|_| SuperviseError::TooSlow)??;
        Ok(Guest {
            sandbox,
            inspection,
            stdout: ours.stdout,
            stderr: ours.stderr,
            channel: ours.channel,
            _zygote: None,
        })
    }

    /// Starts a stage that is neither launcher nor init, and tells it who we are.
    pub(crate) async fn start_helper(
        &self,
        stage: &'static str,
    ) -> Result<(Processes, UnixStream), SuperviseError> {
        let step = "start a helper";
        let (mut ours, control) = socket().doing(step)?;
        let (_info, info) = pipe(None).doing(step)?;
        let (_complaints, complaints) = pipe(None).doing(step)?;
        let streams = Streams {
            control,
            info,
            complaints,
        };
        let child = self.spawner.spawn(stage, streams).await.doing(step)?;
        let processes = Processes::new(child).doing(step)?;
        let order = wire::encode(&std::process::id()).doing(step)?;
        ours.write_all(&order).await.doing(step)?;
        Ok((processes, ours))
    }

    /// Starts launcher, bubblewrap and init, and waits until the walls stand and the guest runs.
    async fn build(
        &self,
        mut launch: LaunchSpec,
        init: &InitSpec,
        ours: OurEnds,
        theirs: TheirEnds,
    ) -> Result<(Sandbox, Option<Inspection>), SuperviseError> {
        let OurEnds {
            mut control,
            info,
            complaints,
        } = ours;
        launch.parent = std::process::id();
        let launcher = self.spawner.spawn(stage::LAUNCHER, theirs.streams).await;
        let mut processes =
            Processes::new(launcher.doing("start the launcher")?).doing("watch the launcher")?;

        let launch = wire::encode(&launch).doing("encode the launch order")?;
        let init = wire::encode(init).doing("encode the order for the init")?;
        let report = async {
            control.write_all(&launch).await?;
            let pid = pid_of_init(info).await?;
            processes.watch_init(pid)?;
            // Only now does the init get an order, so it cannot have ended before it was being watched.
            send_descriptors(&control, &theirs.descriptors).await?;
            drop(theirs.descriptors);
            control.write_all(&init).await?;
            read_report(&mut control).await
        };
        match report.await {
            Ok(Report::Started(inspection)) => Ok((Sandbox { control, processes }, inspection)),
            Ok(Report::Failed(why)) => Err(SuperviseError::Sandbox(why)),
            Ok(Report::Ended(_)) => Err(SuperviseError::Sandbox("the init is confused".into())),
            Err(error) => {
                // Whoever hung up has said why on standard error, if it could.
                processes.kill();
                let said = complaint(complaints).await;
                Err(if said.is_empty() {
                    SuperviseError::System {
                        step: "talk to the sandbox",
                        source: error,
                    }
                } else {
                    SuperviseError::Sandbox(said)
                })
            }
        }
    }

    /// Waits for the guest's end, or brings it about. Returns when every process of the guest is dead.
    async fn until_over(
        &self,
        sandbox: &mut Sandbox,
        order: &Order,
        started: Instant,
        cancel: &CancellationToken,
    ) -> Result<(Verdict, Option<Ended>), SuperviseError> {
        let (mut reports, mut orders) = sandbox.control.split();
        let mut report = pin!(read_report(&mut reports));
        let verdict = tokio::select! {
            biased;
            report = &mut report => {
                if let Ok(Report::Failed(why)) = report {
                    // A slot could not be finished; no guest code has run in it.
                    sandbox.processes.bury(true).await?;
                    return Err(SuperviseError::Sandbox(why));
                }
                let ended = ended(&report);
                return sandbox.processes.bury(ended.is_some()).await.map(|()| (Verdict::Natural, ended));
            }
            () = cancel.cancelled() => Verdict::Cancelled,
            () = tokio::time::sleep_until(started + order.wall_time) => Verdict::WallTime,
            () = self.cpu_time_used_up(order) => Verdict::CpuTime,
        };
        // Ask first: an init that kills the guest itself can tell what it used. A failure to ask shows in the answer.
        let _ = orders.write_all(&[wire::STOP]).await;
        let answer = tokio::time::timeout(STOP_LIMIT, report).await;
        let ended = answer.ok().and_then(|report| ended(&report));
        sandbox.processes.bury(ended.is_some()).await?;
        Ok((verdict, ended))
    }

    /// Waits until the process tree has used up its CPU time: for ever where no cgroup can tell, since the kernel then
    /// limits each process by itself (`RLIMIT_CPU`).
    async fn cpu_time_used_up(&self, order: &Order) {
        while let Some(used) = order.cgroup.as_ref().and_then(RunCgroup::cpu_time) {
            let Some(left) = order
                .cpu_time
                .checked_sub(used)
                .filter(|left| !left.is_zero())
            else {
                return;
            };
            // With every processor at work, this is the earliest time at which there can be nothing left.
            tokio::time::sleep((left / self.cpus).max(CPU_CHECK)).await;
        }
        std::future::pending::<()>().await;
    }
}

/// A sandbox with a guest in it.
pub(crate) struct Sandbox {
    pub(crate) control: UnixStream,
    pub(crate) processes: Processes,
}

/// A guest that has been started, and our ends of what connects us to it.
pub(crate) struct Guest {
    pub(crate) sandbox: Sandbox,
    /// What the init saw of the walls, where it was to look.
    pub(crate) inspection: Option<Inspection>,
    pub(crate) stdout: pipe::Receiver,
    pub(crate) stderr: pipe::Receiver,
    pub(crate) channel: Option<UnixStream>,
    /// Where it was forked from a zygote: held, because a slot dies with that one.
    pub(crate) _zygote: Option<Arc<Zygote>>,
}

/// The daemon's ends of everything that connects it to a run.
struct Ours {
    sandbox: OurEnds,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    channel: Option<UnixStream>,
}

struct OurEnds {
    control: UnixStream,
    info: pipe::Receiver,
    complaints: pipe::Receiver,
}

/// The other ends.
struct TheirEnds {
    streams: Streams,
    /// What the init receives for the guest: its channel, if any, stdin, stdout and stderr.
    descriptors: Vec<OwnedFd>,
}

/// A pipe of which the guest writes one end.
pub(crate) fn pipe(guest: Option<(u32, u32)>) -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    if let Some((user, group)) = guest {
        // So that a guest may open /dev/stdout, which is its pipe by name and checks who owns it.
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        rustix::fs::fchown(&write, Some(user), Some(group))?;
    }
    Ok((pipe::Receiver::from_owned_fd(read)?, write))
}

/// A pair of sockets, of which the other end blocks.
pub(crate) fn socket() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

fn ends(
    guest: Option<(u32, u32)>,
    stdin: OwnedFd,
    has_channel: bool,
) -> Result<(Ours, TheirEnds), SuperviseError> {
    let step = "make the pipes and sockets of a run";
    let (control, their_control) = socket().doing(step)?;
    let (info, their_info) = pipe(guest).doing(step)?;
    let (complaints, their_complaints) = pipe(guest).doing(step)?;
    let (stdout, their_stdout) = pipe(guest).doing(step)?;
    let (stderr, their_stderr) = pipe(guest).doing(step)?;
    let mut descriptors = Vec::with_capacity(MAX_DESCRIPTORS);
    let channel = if has_channel {
        let (ours, theirs) = socket().doing(step)?;
        descriptors.push(theirs);
        Some(ours)
    } else {
        None
    };
    descriptors.push(stdin);
    descriptors.push(their_stdout);
    descriptors.push(their_stderr);
    let ours = Ours {
        sandbox: OurEnds {
            control,
            info,
            complaints,
        },
        stdout,
        stderr,
        channel,
    };
    let theirs = TheirEnds {
        streams: Streams {
            control: their_control,
            info: their_info,
            complaints: their_complaints,
        },
        descriptors,
    };
    Ok((ours, theirs))
}

/// Reads from bubblewrap which process the init is.
async fn pid_of_init(info: pipe::Receiver) -> io::Result<i32> {
    #[derive(serde::Deserialize)]
    struct Info {
        #[serde(rename = "child-pid")]
        child_pid: i32,
    }
    let mut text = Vec::new();
    let mut info = info.take(MAX_COMPLAINT as u64);
    while !text.ends_with(b"}") && !text.ends_with(b"}\n") {
        if info.read_buf(&mut text).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(serde_json::from_slice::<Info>(&text)?.child_pid)
}

/// Hands the guest's descriptors to the init, with one byte to carry them.
async fn send_descriptors(control: &UnixStream, descriptors: &[OwnedFd]) -> io::Result<()> {
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    send_with(control, &[wire::DESCRIPTORS], &borrowed).await
}

/// Most descriptors that [`send_with`] takes.
const MOST_DESCRIPTORS: usize = 12;

/// Sends bytes, and descriptors with the first of them (unix(7), `SCM_RIGHTS`).
pub(crate) async fn send_with(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut sent = socket
        .async_io(Interest::WRITABLE, || {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty()
                && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors))
            {
                return Err(io::Error::other("too many descriptors"));
            }
            let pieces = [IoSlice::new(bytes)];
            let sent = rustix::net::sendmsg(socket, &pieces, &mut ancillary, SendFlags::NOSIGNAL)?;
            Ok(sent)
        })
        .await?;
    while sent < bytes.len() {
        sent += socket
            .async_io(Interest::WRITABLE, || {
                let rest = &bytes[sent..];
                Ok(rustix::net::send(socket, rest, SendFlags::NOSIGNAL)?)
            })
            .await?;
    }
    Ok(())
}

/// Receives exactly these many bytes, and at most one descriptor with the first of them.
pub(crate) async fn receive_with(
    socket: &UnixStream,
    bytes: &mut [u8],
) -> io::Result<Option<OwnedFd>> {
    let mut descriptor = None;
    let mut have = 0;
    while have < bytes.len() {
        let (read, received) = socket
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut ancillary = RecvAncillaryBuffer::new(&mut space);
                let mut pieces = [IoSliceMut::new(&mut bytes[have..])];
                let flags = RecvFlags::CMSG_CLOEXEC;
                let received = rustix::net::recvmsg(socket, &mut pieces, &mut ancillary, flags)?;
                let descriptor = ancillary.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                    _ => None,
                });
                Ok((received.bytes, descriptor))
            })
            .await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        have += read;
        descriptor = descriptor.or(received);
    }
    Ok(descriptor)
}

pub(crate) async fn read_report(control: &mut (impl AsyncRead + Unpin)) -> io::Result<Report> {
    let length = control.read_u32_le().await? as usize;
    if length > wire::MAX_FRAME {
        return Err(io::Error::other("report too long"));
    }
    let mut frame = vec![0; length];
    control.read_exact(&mut frame).await?;
    Ok(serde_json::from_slice(&frame)?)
}

/// What a report says of the end; `None` for whatever is no report of an end.
fn ended(report: &io::Result<Report>) -> Option<Ended> {
    match report {
        Ok(Report::Ended(ended)) => Some(*ended),
        Ok(Report::Started(_) | Report::Failed(_)) | Err(_) => None,
    }
}

/// What launcher and bubblewrap said on standard error.
async fn complaint(complaints: pipe::Receiver) -> String {
    let mut text = Vec::new();
    let mut bounded = complaints.take(MAX_COMPLAINT as u64);
    let read = bounded.read_to_end(&mut text);
    // They are dead by now, so this ends at once; should something else hold the pipe, what was read is what counts.
    let _ = tokio::time::timeout(DRAIN_LIMIT, read).await;
    String::from_utf8_lossy(text.trim_ascii()).into_owned()
}

/// Tells the guest its job and reads what it says, until it hangs up. Both at once: a guest that talks before it has
/// listened blocks nobody.
async fn converse(
    channel: Option<UnixStream>,
    job: Option<&JobFrames<'_>>,
    frames: &mut GuestFrames,
    message: &mut Option<GuestMessage>,
) {
    let (Some(mut channel), Some(job)) = (channel, job) else {
        return;
    };
    let (mut from_guest, mut to_guest) = channel.split();
    let tell = async {
        for piece in job.pieces() {
            if to_guest.write_all(piece).await.is_err() {
                // It does not listen; what it came to shows elsewhere.
                break;
            }
        }
    };
    let listen = async {
        let mut buffer = vec![0; CHANNEL_BUFFER];
        while let Ok(read @ 1..) = from_guest.read(&mut buffer).await {
            if let Some(said) = frames.push(&buffer[..read]) {
                *message = Some(said);
            }
        }
    };
    tokio::join!(tell, listen);
}
