//! The parent side of a run: starts it, feeds it, reads it, ends it in time, and knows when it is over.
//!
//! Everything that a run holds (processes, descriptors, buffers) belongs to one task, which ends only when every process
//! of the guest is dead.

pub(crate) mod capture;
pub(crate) mod socket;

use std::{io, os::fd::OwnedFd, pin::pin, sync::Arc, time::Duration};

use executor_application::{Listener, OutputStream};
use executor_domain::{CapturedOutput, Event, ExecutionId, SessionId, Source};
use rustix::fs::{Gid, Uid};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{UnixStream, unix::pipe},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::capture::{Hearer, capture};
use crate::{
    guest::{
        channel::{EncodeError, GuestFrames, GuestMessage, JobFrames, JobHeader},
        runner::Bootstrap,
    },
    stage::wire::{self, Ended, Inspection, Report},
};

/// How long the stages of a sandbox may take before the guest's first instruction. They take 5 ms on an idle
/// machine; on one that is overloaded a thousandfold something is wrong with it, not with the guest.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long the stage that holds the guest may take to kill and reap it when asked to, before it is killed itself.
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// How long the streams may take to end once every process of the guest is dead. They end at once, unless a guest has
/// sent one of its descriptors through its channel, where it stays open until the channel is closed.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
/// Most that the stages can say of what went wrong.
const MAX_COMPLAINT: usize = 8 << 10;
/// How much is read from a guest's channel at once.
const CHANNEL_BUFFER: usize = 16 << 10;
/// Shortest time between two looks at the CPU time.
const CPU_CHECK: Duration = Duration::from_millis(5);

/// How the processes of a sandbox come about: what differs from adapter to adapter.
pub(crate) trait Plan: Send + Sync {
    /// Those processes.
    type Processes: Processes;

    /// Whom the guest's pipes are to belong to, where that is not the daemon.
    fn pipe_owner(&self) -> Option<(u32, u32)> {
        None
    }

    /// Starts the first stage. It waits for its orders.
    fn start(
        &mut self,
        streams: Streams,
    ) -> impl Future<Output = Result<Self::Processes, SuperviseError>> + Send;

    /// Tells the stages what to do, and hands over the guest's descriptors. What comes next on the control socket is
    /// their report.
    fn instruct(
        &mut self,
        control: &mut UnixStream,
        processes: &mut Self::Processes,
        descriptors: Vec<OwnedFd>,
    ) -> impl Future<Output = io::Result<()>> + Send;
}

/// Tells what CPU time a guest's process tree has used so far; `None` where the daemon cannot tell.
pub(crate) trait Meter: Send + Sync {
    fn cpu_time(&self) -> Option<Duration>;
}

/// Nobody can tell.
impl Meter for () {
    fn cpu_time(&self) -> Option<Duration> {
        None
    }
}

/// The processes of one run. Dropping them brings their end about, without waiting for it.
pub(crate) trait Processes: Send + Sync {
    /// Kills all of them, as far as that is known without waiting.
    fn kill(&mut self);

    /// Waits until all of them are dead and reaped. Where they do not end by themselves, they are killed.
    fn bury(
        &mut self,
        ends_by_itself: bool,
    ) -> impl Future<Output = Result<(), SuperviseError>> + Send;
}

/// The first stage's ends of what connects it to the daemon.
pub(crate) struct Streams {
    /// Where it gets its orders and reports.
    pub control: OwnedFd,
    /// Where it complains.
    pub complaints: OwnedFd,
}

/// What a guest is connected to from its start, beside the daemon.
pub(crate) struct Connections {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Whether it has a channel.
    pub has_channel: bool,
    /// A file that it inherits behind its channel.
    pub file: Option<OwnedFd>,
}

/// What becomes of a guest, decided to the last detail.
pub(crate) struct Order {
    /// What the guest is told on its channel; `None`: it has none.
    pub job: Option<Job>,
    /// Wall time from the guest's first instruction.
    pub wall_time: Duration,
    /// CPU time of the process tree, where somebody can tell it.
    pub cpu_time: Duration,
    /// Bytes to keep of each of stdout and stderr.
    pub max_output: usize,
    /// Who hears them as they come.
    pub listener: Listener,
    /// Bytes that a result may have.
    pub max_result: usize,
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
    /// How its first process ended; `None`: nobody could say, because who could had to be killed.
    pub ended: Option<Ended>,
    /// What the guest said on its channel.
    pub message: Option<GuestMessage>,
    /// What it wrote to stdout.
    pub stdout: CapturedOutput,
    /// What it wrote to stderr.
    pub stderr: CapturedOutput,
    /// Time from its first instruction to its end.
    pub wall_time: Duration,
    /// What was seen of the walls from inside, where somebody was to look.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(
            dead_code,
            reason = "elsewhere it is a guest that looks, and says so on stdout"
        )
    )]
    pub inspection: Option<Inspection>,
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
pub(crate) trait Doing<T> {
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
    cpus: u32,
}

impl Supervisor {
    /// A supervisor for this machine.
    pub(crate) fn new() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        }
    }

    /// Builds a sandbox and starts its guest, which waits for its job if it has a channel.
    pub(crate) async fn start<P: Plan>(
        &self,
        plan: &mut P,
        connections: Connections,
    ) -> Result<Guest<P::Processes>, SuperviseError> {
        let (ours, theirs) = ends(connections, plan.pipe_owner())?;
        let built = tokio::time::timeout(START_LIMIT, build(plan, ours.sandbox, theirs));
        let (sandbox, inspection) = built.await.map_err(|_| SuperviseError::TooSlow)??;
        Ok(Guest {
            sandbox,
            inspection,
            stdout: ours.stdout,
            stderr: ours.stderr,
            channel: ours.channel,
        })
    }

    /// Sees a guest through to its end. Must be polled to its end as well; cancel with the token.
    ///
    /// When it returns, every process of the guest is dead. What is left are stages of ours on their way out: to be buried
    /// by the caller.
    pub(crate) async fn see_through<P: Processes>(
        &self,
        guest: Guest<P>,
        order: &Order,
        meter: &impl Meter,
        cancel: &CancellationToken,
    ) -> Result<(Finished, P), SuperviseError> {
        let started = Instant::now();
        let Guest {
            mut sandbox,
            inspection,
            stdout: their_stdout,
            stderr: their_stderr,
            channel,
        } = guest;

        let mut stdout = CapturedOutput::default();
        let mut stderr = CapturedOutput::default();
        let mut frames = GuestFrames::new(order.max_result);
        let mut message = None;
        let job = match &order.job {
            Some(job) => Some(
                job.frames(order)
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
                        their_stdout,
                        order.max_output,
                        &mut stdout,
                        hears(OutputStream::Stdout)
                    ),
                    capture(
                        their_stderr,
                        order.max_output,
                        &mut stderr,
                        hears(OutputStream::Stderr)
                    ),
                    converse(channel, job.as_ref(), &mut frames, &mut message),
                )
            });
            let mut over = pin!(self.until_over(&mut sandbox, order, meter, started, cancel));
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
        let finished = Finished {
            verdict,
            ended,
            message: message.or_else(|| frames.finish()),
            stdout,
            stderr,
            wall_time: started.elapsed(),
            inspection,
        };
        Ok((finished, sandbox.processes))
    }

    /// Waits for the guest's end, or brings it about. Returns when every process of the guest is dead: a stage that
    /// reports an end has killed and reaped them all, and where there is no report the whole sandbox is brought down.
    async fn until_over<P: Processes>(
        &self,
        sandbox: &mut Sandbox<P>,
        order: &Order,
        meter: &impl Meter,
        started: Instant,
        cancel: &CancellationToken,
    ) -> Result<(Verdict, Option<Ended>), SuperviseError> {
        let (mut reports, mut orders) = sandbox.control.split();
        let mut report = pin!(read_report(&mut reports));
        let verdict = tokio::select! {
            biased;
            report = &mut report => {
                if let Ok(Report::Failed(why)) = report {
                    // A sandbox that was made ahead could not be finished; no guest code has run in it.
                    sandbox.processes.bury(true).await?;
                    return Err(SuperviseError::Sandbox(why));
                }
                let ended = ended(&report);
                if ended.is_none() {
                    sandbox.processes.bury(false).await?;
                }
                return Ok((Verdict::Natural, ended));
            }
            () = cancel.cancelled() => Verdict::Cancelled,
            () = tokio::time::sleep_until(started + order.wall_time) => Verdict::WallTime,
            () = self.cpu_time_used_up(order, meter) => Verdict::CpuTime,
        };
        // Ask first: a stage that kills the guest itself can tell what it used. A failure to ask shows in the answer.
        let _ = orders.write_all(&[wire::STOP]).await;
        let answer = tokio::time::timeout(STOP_LIMIT, report).await;
        let ended = answer.ok().and_then(|report| ended(&report));
        if ended.is_none() {
            sandbox.processes.bury(false).await?;
        }
        Ok((verdict, ended))
    }

    /// Waits until the process tree has used up its CPU time: for ever where the daemon cannot tell, since the kernel
    /// then limits each process by itself (`RLIMIT_CPU`).
    async fn cpu_time_used_up(&self, order: &Order, meter: &impl Meter) {
        while let Some(used) = meter.cpu_time() {
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

/// Starts the stages of a sandbox, and waits until the walls stand and the guest runs.
async fn build<P: Plan>(
    plan: &mut P,
    ours: OurEnds,
    theirs: TheirEnds,
) -> Result<(Sandbox<P::Processes>, Option<Inspection>), SuperviseError> {
    let OurEnds {
        mut control,
        complaints,
    } = ours;
    let mut processes = plan.start(theirs.streams).await?;
    let report = async {
        plan.instruct(&mut control, &mut processes, theirs.descriptors)
            .await?;
        read_report(&mut control).await
    };
    match report.await {
        Ok(Report::Started(inspection)) => Ok((Sandbox { control, processes }, inspection)),
        Ok(Report::Failed(why)) => Err(SuperviseError::Sandbox(why)),
        Ok(Report::Ended(_)) => Err(SuperviseError::Sandbox("the stages are confused".into())),
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

/// A sandbox with a guest in it.
pub(crate) struct Sandbox<P> {
    /// Where its stages get their orders and report.
    pub control: UnixStream,
    /// All of its processes.
    pub processes: P,
}

/// A guest that has been started, and the daemon's ends of what connects them.
pub(crate) struct Guest<P> {
    pub sandbox: Sandbox<P>,
    /// What was seen of the walls from inside, where somebody was to look.
    pub inspection: Option<Inspection>,
    pub stdout: pipe::Receiver,
    pub stderr: pipe::Receiver,
    pub channel: Option<UnixStream>,
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
    complaints: pipe::Receiver,
}

/// The other ends.
struct TheirEnds {
    streams: Streams,
    /// What the guest is to have: its channel and its file, if any, stdin, stdout and stderr.
    descriptors: Vec<OwnedFd>,
}

/// A pipe that the daemon reads. Inherited by nobody.
pub(crate) fn pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (read, write) = io::pipe()?;
    Ok((pipe::Receiver::from_owned_fd(read.into())?, write.into()))
}

/// A pipe of which a guest writes one end.
pub(crate) fn pipe_of_guest(owner: Option<(u32, u32)>) -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (read, write) = pipe()?;
    if let Some((user, group)) = owner {
        // So that a guest may open /dev/stdout, which is its pipe by name and checks who owns it.
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        rustix::fs::fchown(&write, Some(user), Some(group))?;
    }
    Ok((read, write))
}

fn ends(
    connections: Connections,
    pipe_owner: Option<(u32, u32)>,
) -> Result<(Ours, TheirEnds), SuperviseError> {
    let step = "make the pipes and sockets of a run";
    let guests = || pipe_of_guest(pipe_owner);
    let (control, their_control) = socket::pair().doing(step)?;
    let (complaints, their_complaints) = pipe().doing(step)?;
    let (stdout, their_stdout) = guests().doing(step)?;
    let (stderr, their_stderr) = guests().doing(step)?;
    let (channel, their_channel) = if connections.has_channel {
        let (ours, theirs) = socket::pair().doing(step)?;
        (Some(ours), Some(theirs))
    } else {
        (None, None)
    };
    let descriptors = [their_channel, connections.file]
        .into_iter()
        .flatten()
        .chain([connections.stdin, their_stdout, their_stderr])
        .collect();
    let ours = Ours {
        sandbox: OurEnds {
            control,
            complaints,
        },
        stdout,
        stderr,
        channel,
    };
    let theirs = TheirEnds {
        streams: Streams {
            control: their_control,
            complaints: their_complaints,
        },
        descriptors,
    };
    Ok((ours, theirs))
}

/// Reads what a stage reports.
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

/// What the stages said on standard error.
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
