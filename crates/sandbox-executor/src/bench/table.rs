//! A report as people read it: aligned on a terminal, and in Markdown for the documentation.

use std::fmt::Write as _;

use executor_domain::Start;

use super::{
    load::Starts,
    report::{Bound, Measured, Report, Row, Unavailable, Verdict, mib},
    stats::{Latency, millis, ratio},
};
use crate::terminal::{BAD, GOOD, QUIET};

/// A table. The first column is text; the others are figures.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    title: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// For a terminal, with colours.
pub(super) fn text(report: &Report) -> String {
    let mut text = format!("{}\n", machine(report));
    for table in tables(report) {
        text.push('\n');
        text.push_str(&table.text());
    }
    text.push_str("\npromised\n");
    let verdicts = report.verdicts();
    let width = verdicts.iter().map(|it| it.what.len()).max().unwrap_or(0);
    for verdict in verdicts {
        let (style, word) = match verdict.kept() {
            Some(true) => (GOOD, "kept"),
            Some(false) => (BAD, "NOT KEPT"),
            None => (QUIET, "not measured"),
        };
        let _ = writeln!(
            text,
            "{:width$}  {:>7}  {:9}  {style}{word}{style:#}",
            verdict.what,
            found(&verdict),
            bound(&verdict)
        );
    }
    text.truncate(text.trim_end().len());
    text
}

/// For the documentation.
pub(super) fn markdown(report: &Report) -> String {
    let mut text = format!("{}.\n", machine(report));
    for table in tables(report) {
        let _ = write!(text, "\n{}:\n\n{}", table.title, table.markdown());
    }
    let promises = Table {
        title: "Promised".into(),
        head: ["", "Found", "Promised", ""].map(str::to_owned).into(),
        rows: report
            .verdicts()
            .iter()
            .map(|verdict| {
                let word = match verdict.kept() {
                    Some(true) => "kept",
                    Some(false) => "**not kept**",
                    None => "not measured",
                };
                vec![
                    verdict.what.clone(),
                    found(verdict),
                    bound(verdict),
                    word.into(),
                ]
            })
            .collect(),
    };
    let _ = write!(text, "\n{}:\n\n{}", promises.title, promises.markdown());
    text.truncate(text.trim_end().len());
    text
}

fn found(verdict: &Verdict) -> String {
    verdict
        .found
        .map_or("–".into(), |found| format!("{found:.3}"))
}

fn bound(verdict: &Verdict) -> String {
    match verdict.bound {
        Bound::AtMost(most) => format!("≤ {most}"),
        Bound::AtLeast(least) => format!("≥ {least}"),
    }
}

fn machine(report: &Report) -> String {
    let machine = &report.machine;
    let mut line = format!(
        "sandbox-executor {}, {}, {} cores, {}",
        machine.version, machine.isolation, machine.cores, machine.kernel
    );
    if let Some((before, after)) = machine.load {
        let _ = write!(line, ", load {before:.1} before and {after:.1} after");
    }
    line
}

fn tables(report: &Report) -> Vec<Table> {
    let mut tables: Vec<_> = report.subjects.iter().flat_map(of_subject).collect();
    tables.push(memory(report));
    if let Some(burst) = &report.burst {
        tables.push(Table {
            title: format!("{} requests at once on an idle daemon, ms", burst.requests),
            head: head(&["", "p50", "p95", "p99", "longest", "started"]),
            rows: vec![vec![
                "all ran".into(),
                ms(millis(burst.latency.p50)),
                ms(millis(burst.latency.p95)),
                ms(millis(burst.latency.p99)),
                ms(millis(burst.longest)),
                started(burst.starts),
            ]],
        });
    }
    tables.extend(overload(report));
    tables.extend(neighbours(report));
    tables
}

/// Latency at one client, then every number of clients.
fn of_subject(measured: &Measured) -> [Table; 2] {
    let mut latency = Table {
        title: format!(
            "{} ({}), one client, in turns with the reference, ms",
            measured.name, measured.interpreter
        ),
        head: head(&[
            "start",
            "p50",
            "p95",
            "p99",
            "p50 ratio",
            "p99 ratio",
            "started",
        ]),
        rows: vec![latency_row(
            "bwrap",
            &measured.reference,
            measured,
            String::new(),
        )],
    };
    let mut loads = Table {
        title: format!("{}, runs a second", measured.name),
        head: head(&[
            "start", "clients", "rate", "ratio", "p50 ms", "p95 ms", "p99 ms", "started",
        ]),
        rows: vec![vec![
            "bwrap".into(),
            measured.saturated.parallel.to_string(),
            format!("{:.0}", measured.saturated.rate),
            "1.00".into(),
        ]],
    };
    for Row { start, what } in &measured.rows {
        match what {
            Err(Unavailable(why)) => latency
                .rows
                .push(vec![format!("{}: {why}", start.as_str())]),
            Ok(figures) => {
                let started = started(figures.starts);
                latency.rows.push(latency_row(
                    start.as_str(),
                    &figures.latency,
                    measured,
                    started,
                ));
                loads.rows.extend(figures.loads.iter().map(|load| {
                    vec![
                        start.as_str().into(),
                        load.clients.to_string(),
                        format!("{:.0}", load.rate),
                        format!("{:.2}", load.rate / measured.saturated.rate),
                        ms(millis(load.latency.p50)),
                        ms(millis(load.latency.p95)),
                        ms(millis(load.latency.p99)),
                        self::started(load.starts),
                    ]
                }));
            }
        }
    }
    [latency, loads]
}

fn latency_row(name: &str, latency: &Latency, of: &Measured, started: String) -> Vec<String> {
    vec![
        name.into(),
        ms(millis(latency.p50)),
        ms(millis(latency.p95)),
        ms(millis(latency.p99)),
        format!("{:.3}", ratio(latency.p50, of.reference.p50)),
        format!("{:.3}", ratio(latency.p99, of.reference.p50)),
        started,
    ]
}

fn memory(report: &Report) -> Table {
    let shown = |kib: Option<u64>| kib.map_or("–".into(), |kib| format!("{:.1}", mib(kib)));
    let mut rows = vec![
        vec!["daemon, idle".into(), shown(report.memory.idle_kib)],
        vec![
            "all daemons of the bench and its clients, afterwards".into(),
            shown(report.memory.after_kib),
        ],
    ];
    rows.extend(
        report
            .subjects
            .iter()
            .filter(|subject| subject.figures(Start::Warm).is_some())
            .map(|subject| {
                let slots = subject.slots;
                let name = match slots {
                    Some((count, _)) => format!("slot of {}, median of {count}", subject.name),
                    None => format!("slot of {}", subject.name),
                };
                vec![name, shown(slots.map(|(_, kib)| kib))]
            }),
    );
    Table {
        title: "memory, MiB".into(),
        head: head(&["", "MiB"]),
        rows,
    }
}

fn overload(report: &Report) -> Option<Table> {
    let it = report.overload.as_ref()?;
    let row = |name: String, latency: Option<&Latency>| {
        let mut row = vec![name];
        if let Some(latency) = latency {
            row.push(latency.samples.to_string());
            row.extend([latency.p50, latency.p95, latency.p99].map(|time| ms(millis(time))));
        }
        row
    };
    let refused = if it.told_when {
        "refused, each with Retry-After"
    } else {
        "refused, NOT each with Retry-After"
    };
    Some(Table {
        title: format!(
            "{:.0} requests a second where {:.0} can be sustained ({} could not be sent), ms",
            it.offered, it.sustainable, it.unsent
        ),
        head: head(&["", "requests", "p50", "p95", "p99"]),
        rows: vec![
            row("unloaded".into(), Some(&it.unloaded)),
            row("accepted".into(), it.accepted.as_ref()),
            row(refused.into(), it.refused.as_ref()),
        ],
    })
}

fn neighbours(report: &Report) -> Option<Table> {
    let alone = report.neighbours.first()?.alone;
    let row = |name: String, latency: &Latency| {
        let mut row = vec![name, latency.samples.to_string()];
        row.extend([latency.p50, latency.p95, latency.p99].map(|time| ms(millis(time))));
        row.push(format!("{:.2}", ratio(latency.p50, alone.p50)));
        row
    };
    let mut rows = vec![row("alone".into(), &alone)];
    rows.extend(report.neighbours.iter().map(|it| {
        let seen = if it.at_limit {
            ""
        } else {
            ", not counted here"
        };
        row(format!("{}{seen}", it.limit), &it.beside)
    }));
    Some(Table {
        title: "beside a guest of somebody else that is at its limit, one client, in turns, ms"
            .into(),
        head: head(&["", "requests", "p50", "p95", "p99", "p50 ratio"]),
        rows,
    })
}

fn head(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.into()).collect()
}

/// Three digits that mean something.
fn ms(time: f64) -> String {
    match time {
        time if time < 10.0 => format!("{time:.2}"),
        time if time < 100.0 => format!("{time:.1}"),
        time => format!("{time:.0}"),
    }
}

/// How runs were started, the most frequent way first.
fn started(starts: Starts) -> String {
    let mut ways = [
        (starts.warm, "warm"),
        (starts.forked, "forked"),
        (starts.cold, "cold"),
    ];
    ways.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    let all: usize = ways.iter().map(|(count, _)| count).sum();
    let shares = ways.iter().filter(|(count, _)| *count > 0);
    let shares = shares.map(|(count, name)| format!("{} % {name}", (count * 100 + all / 2) / all));
    shares.collect::<Vec<_>>().join(", ")
}

impl Table {
    fn text(&self) -> String {
        let columns = self.head.len();
        let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |column| {
            let all = self.rows.iter().chain([&self.head]);
            // A row of one cell is a sentence, which makes no column wide.
            all.filter(|row| row.len() > 1 || columns == 1)
                .map(|row| cell(row, column).chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let line = |row: &[String]| {
            let mut line = String::new();
            for (column, width) in widths.iter().enumerate() {
                let cell = cell(row, column);
                let text = self.is_text(column);
                let _ = match (column, text) {
                    (0, _) => write!(line, "{cell:width$}"),
                    (_, true) => write!(line, "  {cell:width$}"),
                    (_, false) => write!(line, "  {cell:>width$}"),
                };
            }
            line.trim_end().to_owned()
        };
        let mut text = format!("{}\n{QUIET}{}{QUIET:#}\n", self.title, line(&self.head));
        for row in &self.rows {
            text.push_str(&line(row));
            text.push('\n');
        }
        text
    }

    fn markdown(&self) -> String {
        let columns = self.head.len();
        let line = |cells: &[String]| {
            let mut line = String::from("|");
            for column in 0..columns {
                let cell = cells.get(column).map_or("", String::as_str);
                let _ = write!(line, " {} |", cell.replace('|', "\\|"));
            }
            line.push('\n');
            line
        };
        let rules: Vec<_> = (0..columns)
            .map(|column| if self.is_text(column) { "---" } else { "---:" }.to_owned())
            .collect();
        let mut text = line(&self.head);
        text.push_str(&line(&rules));
        for row in &self.rows {
            text.push_str(&line(row));
        }
        text
    }

    fn is_text(&self, column: usize) -> bool {
        let name = self.head[column].as_str();
        column == 0 || name == "started" || name.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::example;

    #[test]
    fn on_a_terminal_columns_are_aligned() {
        let text = anstream::adapter::strip_str(&text(&example())).to_string();
        let expected = "\
python (/usr/bin/python3 3.0), one client, in turns with the reference, ms
start   p50   p95   p99  p50 ratio  p99 ratio  started
bwrap  10.0  12.0  12.0      1.000      1.200
cold: there is <none>
warm   0.80  4.00  4.00      0.080      0.400  100 % warm
";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("NOT KEPT") && text.contains("not measured"));
    }

    #[test]
    fn in_markdown_every_row_has_every_column() {
        let text = markdown(&example());
        let mut columns = None;
        for line in text.lines() {
            let found = line.starts_with('|').then(|| line.matches('|').count());
            assert!(
                columns.is_none() || found.is_none() || columns == found,
                "{line}"
            );
            columns = found;
        }
        assert!(
            text.contains("| warm | 0.80 | 4.00 | 4.00 | 0.080 | 0.400 | 100 % warm |"),
            "{text}"
        );
    }

    #[test]
    fn shares_are_of_all_runs() {
        let starts = Starts {
            cold: 0,
            forked: 1,
            warm: 3,
        };
        assert_eq!(started(starts), "75 % warm, 25 % forked");
        assert_eq!(started(Starts::default()), "");
    }

    #[test]
    fn times_have_three_digits() {
        assert_eq!(
            [0.123, 1.234, 12.34, 123.4].map(ms),
            ["0.12", "1.23", "12.3", "123"]
        );
    }
}
