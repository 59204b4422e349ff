//! What was measured, and whether it is what was promised.

use std::time::Duration;

use executor_domain::Start;
use serde_json::{Value, json};

use super::{
    load::{Burst, Load, Overload, Starts},
    neighbours::Neighbour,
    plan::Promise,
    reference::Saturated,
    stats::{Latency, millis, ratio},
};

/// Everything that was measured.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub machine: Machine,
    pub subjects: Vec<Measured>,
    pub memory: Memory,
    pub burst: Option<Burst>,
    pub overload: Option<Overload>,
    /// What guests at their limits cost somebody else.
    pub neighbours: Vec<Neighbour>,
}

/// Where it was measured.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Machine {
    pub version: &'static str,
    pub isolation: String,
    pub cores: usize,
    pub kernel: String,
    /// Runnable processes on average over a minute, before and after; `None` where the system does not tell.
    pub load: Option<(f64, f64)>,
}

/// One guest, started in every way.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub name: &'static str,
    pub interpreter: String,
    pub reference: Latency,
    pub saturated: Saturated,
    pub rows: Vec<Row>,
    pub promise: Promise,
    /// Memory of its slots that wait: how many were found, and the median, in KiB.
    pub slots: Option<(usize, u64)>,
}

/// One way to start it.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub start: Start,
    pub what: Result<Figures, Unavailable>,
}

/// Why there is nothing to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unavailable(pub String);

#[derive(Debug, Clone)]
pub(super) struct Figures {
    /// At one client, in turns with the reference.
    pub latency: Latency,
    pub starts: Starts,
    pub loads: Vec<Load>,
}

/// Memory of the process that all of this is in, daemon and clients, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// With one daemon that has done nothing yet, and its warm slots.
    pub idle_kib: Option<u64>,
    /// After everything, with all daemons of the bench.
    pub after_kib: Option<u64>,
}

/// Something that is promised, and what was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    pub what: String,
    /// `None`: there was nothing to measure.
    pub found: Option<f64>,
    pub bound: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Verdict {
    /// `None`: there was nothing to measure.
    pub(super) fn kept(&self) -> Option<bool> {
        self.found.map(|found| match self.bound {
            Bound::AtMost(most) => found <= most,
            Bound::AtLeast(least) => found >= least,
        })
    }
}

/// The number of clients for which a rate is promised.
pub(super) const SUSTAINED_CLIENTS: usize = 16;
const MAX_DAEMON_KIB: u64 = 40 << 10;
const MAX_BURST_WAIT: Duration = Duration::from_secs(2);
const MAX_REFUSAL: Duration = Duration::from_millis(10);
const MAX_OVERLOAD_RATIO: f64 = 5.0;
const MAX_NEIGHBOUR_RATIO: f64 = 3.0;

impl Measured {
    pub(super) fn figures(&self, start: Start) -> Option<&Figures> {
        let row = self.rows.iter().find(|row| row.start == start)?;
        row.what.as_ref().ok()
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let warm = self.figures(Start::Warm);
        let cold = self.figures(Start::Cold);
        let against = |time: fn(&Latency) -> Duration| {
            warm.map(|warm| ratio(time(&warm.latency), self.reference.p50))
        };
        let sustained = warm.and_then(|warm| {
            let mut loads = warm.loads.iter();
            let load = loads.find(|load| load.clients == SUSTAINED_CLIENTS)?;
            Some(load.rate / self.saturated.rate)
        });
        let of = |what: &str, found, bound| Verdict {
            what: format!("{}, {what}", self.name),
            found,
            bound,
        };
        vec![
            of(
                "cold: p50, of the reference's",
                cold.map(|cold| ratio(cold.latency.p50, self.reference.p50)),
                Bound::AtMost(self.promise.cold),
            ),
            of(
                "warm: p50, of the reference's",
                against(|latency| latency.p50),
                Bound::AtMost(self.promise.p50),
            ),
            of(
                "warm: p99, of the reference's p50",
                against(|latency| latency.p99),
                Bound::AtMost(self.promise.p99),
            ),
            of(
                "warm: rate at 16 clients, of the reference's",
                sustained,
                Bound::AtLeast(self.promise.sustained),
            ),
            of(
                "memory of a waiting slot, MiB",
                self.slots.map(|(_, kib)| mib(kib)),
                Bound::AtMost(mib(self.promise.slot_kib)),
            ),
        ]
    }
}

impl Report {
    /// Everything that is promised, in the order of the report.
    pub(super) fn verdicts(&self) -> Vec<Verdict> {
        let mut verdicts: Vec<_> = self.subjects.iter().flat_map(Measured::verdicts).collect();
        let mut add = |what: &str, found, bound| {
            verdicts.push(Verdict {
                what: what.into(),
                found,
                bound,
            });
        };
        add(
            "memory of the idle daemon, MiB",
            self.memory.idle_kib.map(mib),
            Bound::AtMost(mib(MAX_DAEMON_KIB)),
        );
        add(
            "longest wait in the burst, s",
            self.burst.map(|burst| burst.longest.as_secs_f64()),
            Bound::AtMost(MAX_BURST_WAIT.as_secs_f64()),
        );
        let overload = self.overload;
        add(
            "overload: p99 of what is accepted, of the unloaded p99",
            overload.and_then(|it| Some(ratio(it.accepted?.p99, it.unloaded.p99))),
            Bound::AtMost(MAX_OVERLOAD_RATIO),
        );
        add(
            "overload: p99 of a refusal, ms",
            overload.and_then(|it| Some(millis(it.refused?.p99))),
            Bound::AtMost(millis(MAX_REFUSAL)),
        );
        for it in &self.neighbours {
            add(
                &format!("beside a guest at its limit of {}: p50, of alone", it.limit),
                it.at_limit.then(|| ratio(it.beside.p50, it.alone.p50)),
                Bound::AtMost(MAX_NEIGHBOUR_RATIO),
            );
        }
        verdicts
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "machine": {
                "version": self.machine.version,
                "isolation": self.machine.isolation,
                "cores": self.machine.cores,
                "kernel": self.machine.kernel,
                "load_before": self.machine.load.map(|(before, _)| before),
                "load_after": self.machine.load.map(|(_, after)| after),
            },
            "guests": self.subjects.iter().map(guest_json).collect::<Vec<_>>(),
            "memory": {
                "idle_kib": self.memory.idle_kib,
                "after_kib": self.memory.after_kib,
            },
            "burst": self.burst.map(|burst| json!({
                "requests": burst.requests,
                "latency_ms": latency_json(&burst.latency),
                "longest_ms": millis(burst.longest),
                "starts": starts_json(burst.starts),
            })),
            "overload": self.overload.map(|it| json!({
                "sustainable_per_second": it.sustainable,
                "offered_per_second": it.offered,
                "unloaded_ms": latency_json(&it.unloaded),
                "accepted_ms": it.accepted.as_ref().map(latency_json),
                "refused_ms": it.refused.as_ref().map(latency_json),
                "all_refusals_have_retry_after": it.told_when,
                "unsent": it.unsent,
            })),
            "neighbours": self.neighbours.iter().map(|it| json!({
                "limit": it.limit,
                "alone_ms": latency_json(&it.alone),
                "beside_ms": latency_json(&it.beside),
                "ratio_p50": ratio(it.beside.p50, it.alone.p50),
                "at_limit": it.at_limit,
            })).collect::<Vec<_>>(),
            "promises": self.verdicts().iter().map(verdict_json).collect::<Vec<_>>(),
        })
    }
}

fn guest_json(measured: &Measured) -> Value {
    let rows = measured.rows.iter().map(|row| match &row.what {
        Err(Unavailable(why)) => json!({"start": row.start.as_str(), "unavailable": why}),
        Ok(figures) => json!({
            "start": row.start.as_str(),
            "latency_ms": latency_json(&figures.latency),
            "ratio_p50": ratio(figures.latency.p50, measured.reference.p50),
            "ratio_p99": ratio(figures.latency.p99, measured.reference.p50),
            "starts": starts_json(figures.starts),
            "loads": figures.loads.iter().map(|load| json!({
                "clients": load.clients,
                "per_second": load.rate,
                "ratio": load.rate / measured.saturated.rate,
                "latency_ms": latency_json(&load.latency),
                "starts": starts_json(load.starts),
            })).collect::<Vec<_>>(),
        }),
    });
    json!({
        "guest": measured.name,
        "interpreter": measured.interpreter,
        "reference": {
            "latency_ms": latency_json(&measured.reference),
            "per_second": measured.saturated.rate,
            "at_once": measured.saturated.parallel,
        },
        "starts": rows.collect::<Vec<_>>(),
        "slots": measured.slots.map(|(count, kib)| json!({"count": count, "median_pss_kib": kib})),
    })
}

fn latency_json(latency: &Latency) -> Value {
    json!({
        "samples": latency.samples,
        "p50": millis(latency.p50),
        "p95": millis(latency.p95),
        "p99": millis(latency.p99),
    })
}

fn starts_json(starts: Starts) -> Value {
    json!({"cold": starts.cold, "forked": starts.forked, "warm": starts.warm})
}

fn verdict_json(verdict: &Verdict) -> Value {
    let (name, bound) = match verdict.bound {
        Bound::AtMost(most) => ("at_most", most),
        Bound::AtLeast(least) => ("at_least", least),
    };
    json!({"what": verdict.what, "found": verdict.found, name: bound, "kept": verdict.kept()})
}

pub(super) fn mib(kib: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "no memory has 2^52 KiB")]
    let kib = kib as f64;
    kib / 1024.0
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn latency(p50: u64, p99: u64) -> Latency {
        Latency {
            samples: 100,
            p50: Duration::from_micros(p50),
            p95: Duration::from_micros(p99 - 1),
            p99: Duration::from_micros(p99),
        }
    }

    fn figures(p50: u64, p99: u64, rate: f64) -> Row {
        let starts = Starts {
            warm: 100,
            ..Starts::default()
        };
        Row {
            start: Start::Warm,
            what: Ok(Figures {
                latency: latency(p50, p99),
                starts,
                loads: vec![Load {
                    clients: SUSTAINED_CLIENTS,
                    rate,
                    latency: latency(p50 * 10, p99 * 10),
                    starts,
                }],
            }),
        }
    }

    /// A report in which a promise is just kept, and another one just not.
    pub(in crate::bench) fn example() -> Report {
        Report {
            machine: Machine {
                version: "0.0.0",
                isolation: "bubblewrap 0.0".into(),
                cores: 2,
                kernel: "Linux 6.0".into(),
                load: Some((0.1, 1.9)),
            },
            subjects: vec![Measured {
                name: "python",
                interpreter: "/usr/bin/python3 3.0".into(),
                reference: latency(10_000, 12_000),
                saturated: Saturated {
                    parallel: 4,
                    rate: 100.0,
                },
                rows: vec![
                    Row {
                        start: Start::Cold,
                        what: Err(Unavailable("there is <none>".into())),
                    },
                    figures(800, 4_001, 350.0),
                ],
                promise: Promise {
                    cold: 1.5,
                    p50: 0.08,
                    p99: 0.4,
                    sustained: 3.5,
                    slot_kib: 4096,
                },
                slots: Some((4, 2048)),
            }],
            memory: Memory {
                idle_kib: Some(20 << 10),
                after_kib: None,
            },
            burst: Some(Burst {
                requests: 500,
                latency: latency(1_000, 2_000),
                longest: Duration::from_millis(2_001),
                starts: Starts::default(),
            }),
            overload: None,
            neighbours: vec![Neighbour {
                limit: "memory",
                alone: latency(800, 2_000),
                beside: latency(2_401, 9_000),
                at_limit: true,
            }],
        }
    }

    #[test]
    fn a_promise_is_kept_up_to_its_bound() {
        let verdicts = example().verdicts();
        let kept: Vec<_> = verdicts.iter().map(Verdict::kept).collect();
        assert_eq!(
            kept,
            [
                None,
                Some(true),
                Some(false),
                Some(true),
                Some(true),
                Some(true),
                Some(false),
                None,
                None,
                Some(false)
            ]
        );
    }

    #[test]
    fn what_was_not_measured_is_not_called_kept() {
        let mut report = example();
        report.subjects[0].rows.pop();
        report.subjects[0].slots = None;
        assert!(
            report.verdicts()[..5]
                .iter()
                .all(|verdict| verdict.kept().is_none())
        );
        let json = report.to_json();
        assert_eq!(json["promises"][1]["kept"], Value::Null);
        assert_eq!(
            json["guests"][0]["starts"][0]["unavailable"],
            "there is <none>"
        );
    }
}
