//! Puts load on daemons: in turns with the reference, steadily, all at once, and too much.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use executor_domain::Start;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{interval, sleep},
};

use super::{
    Failure,
    client::{Answered, Client},
    plan::{Plan, Subject},
    reference::Reference,
    stats::{Latency, Samples, rate},
};

/// Between samples that are taken in turns: what the last one leaves behind is tidied up by then, and a slot is made in
/// the place of the one that it used. So neither is in the time of the next one, whosever turn it is.
const PAUSE: Duration = Duration::from_millis(5);

/// How runs were started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Starts {
    pub cold: usize,
    pub forked: usize,
    pub warm: usize,
}

impl Starts {
    fn note(&mut self, start: Start) {
        *match start {
            Start::Cold => &mut self.cold,
            Start::Forked => &mut self.forked,
            Start::Warm => &mut self.warm,
        } += 1;
    }

    fn add(&mut self, other: Self) {
        self.cold += other.cold;
        self.forked += other.forked;
        self.warm += other.warm;
    }
}

/// Runs of one daemon.
#[derive(Debug, Clone, Default)]
pub(super) struct Runs {
    pub times: Vec<Duration>,
    pub starts: Starts,
}

impl Runs {
    fn note(&mut self, start: Start, took: Duration) {
        self.times.push(took);
        self.starts.note(start);
    }
}

/// Samples of the reference and of each daemon, in turns, so that a busy moment of the machine hits all of them. Ends early
/// when the plan's patience does.
pub(super) async fn in_turns(
    plan: &Plan,
    subject: &Subject,
    reference: &Reference,
    daemons: &[SocketAddr],
) -> Result<(Vec<Duration>, Vec<Runs>), Failure> {
    let mut clients = Vec::new();
    for &address in daemons {
        clients.push((Client::connect(address).await?, Runs::default()));
    }
    let mut bare = Vec::new();
    let begin = Instant::now();
    for round in 0..plan.warm_up + plan.samples {
        let counts = round >= plan.warm_up;
        // Nothing else is to be done meanwhile: blocking is no harm.
        let took = reference.run()?;
        if counts {
            bare.push(took);
        }
        sleep(PAUSE).await;
        for (client, runs) in &mut clients {
            let (start, took) = client.must_run(subject).await?;
            if counts {
                runs.note(start, took);
            }
            sleep(PAUSE).await;
        }
        if counts && begin.elapsed() > plan.patience {
            break;
        }
    }
    Ok((bare, clients.into_iter().map(|(_, runs)| runs).collect()))
}

/// What so many clients got.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Load {
    pub clients: usize,
    /// Runs a second.
    pub rate: f64,
    pub latency: Latency,
    pub starts: Starts,
}

/// Clients that each send the next request as soon as they have the answer to the last one. A quarter of the time is spent
/// before it counts, so that a pool is as large as the load makes it.
pub(super) async fn steadily(
    address: SocketAddr,
    subject: &Subject,
    clients: usize,
    time: Duration,
) -> Result<Load, Failure> {
    let mut connected = Vec::new();
    for _ in 0..clients {
        connected.push(Client::connect(address).await?);
    }
    let from = Instant::now() + time / 4;
    let until = from + time;
    let mut working = JoinSet::new();
    for mut client in connected {
        let subject = *subject;
        working.spawn(async move {
            let mut runs = Runs::default();
            // At least one that counts, however slow it all is.
            while Instant::now() < until || runs.times.is_empty() {
                let (start, took) = client.must_run(&subject).await?;
                if Instant::now() >= from {
                    runs.note(start, took);
                }
            }
            Ok::<Runs, Failure>(runs)
        });
    }
    let mut all = Runs::default();
    while let Some(ended) = working.join_next().await {
        let runs = ended??;
        all.times.extend(runs.times);
        all.starts.add(runs.starts);
    }
    // Up to the last one's end: what is begun counts, and so does the time that it takes.
    let served = rate(all.times.len(), from.elapsed());
    let samples = Samples::new(all.times).ok_or("there are no clients")?;
    Ok(Load {
        clients,
        rate: served,
        latency: samples.latency(),
        starts: all.starts,
    })
}

/// What became of requests that came all at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Burst {
    pub requests: usize,
    pub latency: Latency,
    pub longest: Duration,
    pub starts: Starts,
}

/// So many requests at the same moment, each on a connection that is there already. All must run.
pub(super) async fn burst(
    address: SocketAddr,
    subject: &Subject,
    requests: usize,
) -> Result<Burst, Failure> {
    let (go, gone) = watch::channel(());
    let mut working = JoinSet::new();
    for _ in 0..requests {
        let mut client = Client::connect(address).await?;
        let mut gone = gone.clone();
        let subject = *subject;
        working.spawn(async move {
            // The sender is dropped at the moment.
            let _ = gone.changed().await;
            client.must_run(&subject).await
        });
    }
    drop((go, gone));
    let mut runs = Runs::default();
    while let Some(ended) = working.join_next().await {
        let (start, took) = ended??;
        runs.note(start, took);
    }
    let samples = Samples::new(runs.times).ok_or("a burst of nothing")?;
    Ok(Burst {
        requests,
        latency: samples.latency(),
        longest: samples.longest(),
        starts: runs.starts,
    })
}

/// What became of requests that came faster than they can be served.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Overload {
    /// Runs a second that the daemon can sustain.
    pub sustainable: f64,
    /// Requests a second that came.
    pub offered: f64,
    /// One client, nobody else.
    pub unloaded: Latency,
    /// Runs that were accepted; `None`: not one.
    pub accepted: Option<Latency>,
    /// Requests that were sent away; `None`: not one.
    pub refused: Option<Latency>,
    /// Whether each of those was told when to come back.
    pub told_when: bool,
    /// Requests that could not be sent in time, because all connections were in use.
    pub unsent: usize,
}

/// Connections for requests that nobody has answered yet.
const CONNECTIONS: usize = 64;

/// Twice as many requests as a daemon can serve, whether or not it answers. `at_once`: how many it runs at the same time.
pub(super) async fn overload(
    address: SocketAddr,
    subject: &Subject,
    at_once: usize,
    plan: &Plan,
) -> Result<Overload, Failure> {
    let mut alone = Client::connect(address).await?;
    let mut times = Vec::new();
    for _ in 0..plan.samples {
        times.push(alone.must_run(subject).await?.1);
        sleep(PAUSE).await;
    }
    let unloaded = Samples::new(times).ok_or("no sample of an idle daemon")?;
    let sustainable = steadily(address, subject, at_once, plan.seconds)
        .await?
        .rate;

    let mut idle = VecDeque::new();
    for _ in 0..CONNECTIONS {
        idle.push_back(Client::connect(address).await?);
    }
    let mut working = JoinSet::new();
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    let (mut sent, mut unsent, mut told_when) = (0, 0, true);
    let mut note = |answered, took| match answered {
        Answered::Ran(_) => accepted.push(took),
        Answered::Refused { retry_after } => {
            told_when &= retry_after;
            refused.push(took);
        }
    };
    let begin = Instant::now();
    let mut ticks = interval(Duration::from_millis(1));
    while begin.elapsed() < plan.seconds {
        ticks.tick().await;
        while let Some(ended) = working.try_join_next() {
            let (client, (answered, took)) = ended??;
            idle.push_back(client);
            note(answered, took);
        }
        while rate(sent + unsent, begin.elapsed()) < 2.0 * sustainable {
            let Some(mut client) = idle.pop_front() else {
                unsent += 1;
                continue;
            };
            sent += 1;
            let subject = *subject;
            working.spawn(async move {
                let answered = client.run(&subject).await?;
                Ok::<_, Failure>((client, answered))
            });
        }
    }
    let offered = rate(sent + unsent, begin.elapsed());
    while let Some(ended) = working.join_next().await {
        let (_, (answered, took)) = ended??;
        note(answered, took);
    }
    Ok(Overload {
        sustainable,
        offered,
        unloaded: unloaded.latency(),
        accepted: Samples::new(accepted).map(|samples| samples.latency()),
        refused: Samples::new(refused).map(|samples| samples.latency()),
        told_when,
        unsent,
    })
}
