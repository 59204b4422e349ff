//! From `OpenMetrics` to the older Prometheus text format, for whoever asks for that one.

use std::{collections::BTreeSet, fmt::Write as _};

/// Writes an `OpenMetrics` text in Prometheus text format 0.0.4
/// (<https://prometheus.io/docs/instrumenting/exposition_formats/>). The two differ in three places: a counter's
/// descriptive lines carry the whole name, `_total` included; units are not declared; and there is no end mark.
pub(crate) fn to_prometheus(open_metrics: &str) -> String {
    let counters: BTreeSet<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    for line in open_metrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let described = ["# HELP ", "# TYPE "].into_iter().find_map(|keyword| {
            let (name, rest) = line.strip_prefix(keyword)?.split_once(' ')?;
            counters.contains(name).then_some((keyword, name, rest))
        });
        // Writing to a string does not fail.
        let _ = match described {
            Some((keyword, name, rest)) => writeln!(text, "{keyword}{name}_total {rest}"),
            None => writeln!(text, "{line}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_under_their_whole_name() {
        let open_metrics = "\
# HELP runs Runs.
# TYPE runs counter
# UNIT runs seconds
runs_total{language=\"python\"} 3
# HELP active Guests.
# TYPE active gauge
active 1
# EOF
";
        assert_eq!(
            to_prometheus(open_metrics),
            "\
# HELP runs_total Runs.
# TYPE runs_total counter
runs_total{language=\"python\"} 3
# HELP active Guests.
# TYPE active gauge
active 1
"
        );
    }
}
