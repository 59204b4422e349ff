//! A report as a picture: for every guest and every way to start it, how long a run takes, on a logarithmic scale, and how many
//! sixteen clients get in a second.

use std::fmt::Write as _;

use super::{
    report::{Measured, Report, SUSTAINED_CLIENTS},
    stats::{Latency, millis},
};

const WIDTH: f64 = 960.0;
/// Where the bars of each half begin, and how wide a half is.
const LATENCY: (f64, f64) = (170.0, 330.0);
const RATE: (f64, f64) = (660.0, 200.0);
const ROW: f64 = 22.0;
const BAR: f64 = 14.0;
/// Above the first row of a guest.
const HEADING: f64 = 30.0;
const TOP: f64 = 54.0;
const BOTTOM: f64 = 34.0;

/// One bar with its name.
struct Bar {
    name: &'static str,
    class: &'static str,
    latency: Option<Latency>,
    rate: Option<f64>,
}

/// The picture. Light and dark backgrounds suit it.
pub(super) fn svg(report: &Report) -> String {
    let guests: Vec<_> = report
        .subjects
        .iter()
        .map(|subject| (subject.name, bars(subject)))
        .collect();
    let all = || guests.iter().flat_map(|(_, bars)| bars);
    let scale = Scale::over(all().filter_map(|bar| bar.latency));
    let most = all().filter_map(|bar| bar.rate).fold(1.0, f64::max);
    let height = guests
        .iter()
        .map(|(_, bars)| HEADING + ROW * count(bars.len()))
        .sum::<f64>()
        + TOP
        + BOTTOM;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n\
         <title>Latency and throughput of sandboxed runs</title>\n\
         <style>text{{fill:#666}}.head{{font-weight:bold}}.num{{font-size:11px}}.line{{stroke:#888;stroke-width:1}}.grid{{stroke:#888;stroke-opacity:.25}}\
         .bwrap{{fill:#9a9a9a}}.cold{{fill:#5b8db8}}.forked{{fill:#e0a458}}.warm{{fill:#c8553d}}</style>\n"
    );
    text(
        &mut svg,
        (LATENCY.0, 20.0),
        "head",
        "milliseconds at one client: bar p50, line to p99",
    );
    text(
        &mut svg,
        (RATE.0, 20.0),
        "head",
        &format!("runs a second, {SUSTAINED_CLIENTS} clients"),
    );
    for tick in scale.ticks() {
        let x = scale.place(tick);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"30\" y2=\"{:.1}\"/>",
            height - BOTTOM
        );
        text(
            &mut svg,
            (x - 6.0, height - BOTTOM + 16.0),
            "num",
            &tick.to_string(),
        );
    }
    let mut y = TOP;
    for (name, bars) in &guests {
        text(&mut svg, (10.0, y), "head", name);
        y += HEADING - ROW;
        for bar in bars {
            draw(&mut svg, bar, y, &scale, most);
            y += ROW;
        }
        y += ROW;
    }
    svg.push_str("</svg>\n");
    svg
}

/// The reference, then every way to start that there is.
fn bars(subject: &Measured) -> Vec<Bar> {
    let mut bars = vec![Bar {
        name: "bwrap",
        class: "bwrap",
        latency: Some(subject.reference),
        rate: Some(subject.saturated.rate),
    }];
    for row in &subject.rows {
        let Ok(figures) = &row.what else {
            continue;
        };
        let mut loads = figures.loads.iter();
        let load = loads.find(|load| load.clients == SUSTAINED_CLIENTS);
        bars.push(Bar {
            name: row.start.as_str(),
            class: row.start.as_str(),
            latency: Some(figures.latency),
            rate: load.map(|load| load.rate),
        });
    }
    bars
}

fn draw(svg: &mut String, bar: &Bar, y: f64, scale: &Scale, most: f64) {
    let middle = y + BAR / 2.0;
    text(svg, (LATENCY.0 - 60.0, y + BAR - 3.0), "", bar.name);
    if let Some(latency) = bar.latency {
        let (p50, p99) = (millis(latency.p50), millis(latency.p99));
        let (end, far) = (scale.place(p50), scale.place(p99));
        rectangle(svg, bar.class, (LATENCY.0, y), end - LATENCY.0);
        let _ = writeln!(
            svg,
            "<line class=\"line\" x1=\"{end:.1}\" x2=\"{far:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>"
        );
        text(
            svg,
            (far + 6.0, y + BAR - 3.0),
            "num",
            &format!("{p50:.2} … {p99:.2}"),
        );
    }
    if let Some(rate) = bar.rate {
        let width = RATE.1 * rate / most;
        rectangle(svg, bar.class, (RATE.0, y), width);
        text(
            svg,
            (RATE.0 + width + 6.0, y + BAR - 3.0),
            "num",
            &format!("{rate:.0}"),
        );
    }
}

fn rectangle(svg: &mut String, class: &str, (x, y): (f64, f64), width: f64) {
    let width = width.max(1.0);
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\"/>"
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), class: &str, words: &str) {
    let words = escaped(words);
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>"
    );
}

fn escaped(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn count(rows: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a handful of rows")]
    let rows = rows as f64;
    rows
}

/// Powers of ten, from below the shortest time to above the longest.
struct Scale {
    from: i32,
    to: i32,
}

impl Scale {
    fn over(latencies: impl Iterator<Item = Latency>) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "logarithms of times are small"
        )]
        let (from, to) = latencies.fold((0, 1), |(from, to), latency| {
            // Nothing takes less than a microsecond.
            let log = |time| millis(time).max(1e-3).log10();
            (
                from.min(log(latency.p50).floor() as i32),
                to.max(log(latency.p99).ceil() as i32),
            )
        });
        Self { from, to }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        (self.from..=self.to).map(|power| 10.0_f64.powi(power))
    }

    fn place(&self, millis: f64) -> f64 {
        let (from, to) = (f64::from(self.from), f64::from(self.to));
        let share = (millis.max(1e-3).log10() - from) / (to - from);
        LATENCY.0 + LATENCY.1 * share.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::report::tests::example;

    #[test]
    fn a_decade_has_the_same_width_everywhere() {
        let scale = Scale { from: -1, to: 2 };
        let places: Vec<_> = [0.1, 1.0, 10.0, 100.0].map(|it| scale.place(it)).into();
        assert!((places[0] - LATENCY.0).abs() < 1e-9);
        assert!((places[3] - LATENCY.0 - LATENCY.1).abs() < 1e-9);
        for pair in places.windows(2) {
            assert!(
                (pair[1] - pair[0] - LATENCY.1 / 3.0).abs() < 1e-9,
                "{places:?}"
            );
        }
        // What does not belong there stays inside.
        assert!(scale.place(0.0) >= LATENCY.0 && scale.place(1e9) <= LATENCY.0 + LATENCY.1);
    }

    #[test]
    fn the_scale_holds_every_time() {
        let latency = |p50, p99| Latency {
            samples: 1,
            p50: Duration::from_micros(p50),
            p95: Duration::from_micros(p99),
            p99: Duration::from_micros(p99),
        };
        let scale = Scale::over([latency(90, 400), latency(9_000, 310_000)].into_iter());
        assert_eq!((scale.from, scale.to), (-2, 3));
        let nothing = Scale::over(std::iter::empty());
        assert!(nothing.from < nothing.to);
    }

    #[test]
    fn every_figure_is_a_bar_and_every_tag_is_closed() {
        let mut report = example();
        report.subjects[0].name = "a<b & c";
        let svg = svg(&report);
        // Bubblewrap and warm, twice each; what is not available has none.
        assert_eq!(svg.matches("<rect").count(), 4, "{svg}");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(svg.contains("a&lt;b &amp; c") && svg.contains("0.80 … 4.00"));
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
