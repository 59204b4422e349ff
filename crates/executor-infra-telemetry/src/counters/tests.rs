use executor_application::{OutboxLevels, Removals, Removed, RunFailure, UploadTotals, WarmSlots};
use executor_domain::{
    Artifacts, Clock, Ending, Execution, ExecutionId, JsonText, Outcome, SessionId, Timestamp,
    Usage,
};

use super::*;
use crate::catalogue::{ALL, Kind};

fn execution(outcome: Outcome) -> Execution {
    let time = Timestamp::from_unix_micros(0);
    let mut execution = Execution::accept(
        ExecutionId::parse("secret-id").unwrap(),
        SessionId::parse("secret-session").unwrap(),
        time,
    );
    execution.start(time).unwrap();
    execution
        .finish(time, outcome, Artifacts::default())
        .unwrap();
    execution
}

fn outcome(ending: Ending) -> Outcome {
    Outcome {
        ending,
        stdout: CapturedOutput::default(),
        stderr: CapturedOutput::default(),
        usage: Usage::default(),
        start: Start::Cold,
        limits_hit: Vec::new(),
    }
}

fn ended(execution: &Execution) -> EndedRun<'_> {
    EndedRun {
        execution,
        language: Language::Python,
        waited: Duration::from_secs(2),
        sandboxed: Some(Duration::from_millis(150)),
    }
}

fn requested(route: &'static str, status: Option<u16>) -> AnsweredRequest<'static> {
    AnsweredRequest {
        route,
        method: "GET",
        status,
        took: Duration::from_millis(3),
    }
}

/// Everything that can be counted has been, once.
fn busy() -> Counters {
    let counters = Counters::new("1.2.3");
    let completed = execution(Outcome {
        stdout: CapturedOutput {
            bytes: b"secret output".to_vec(),
            truncated_bytes: 7,
        },
        usage: Usage {
            wall_time: Duration::from_millis(100),
            ..Usage::default()
        },
        start: Start::Warm,
        limits_hit: vec![LimitHit::Output],
        ..outcome(Ending::Completed {
            return_value: JsonText::null(),
        })
    });
    counters.execution_ended(&ended(&completed));
    counters.execution_failed(Language::Shell, &RunFailure::Lost);
    counters.request_answered(&requested("/execute", Some(200)));
    counters.request_answered(&requested("unknown", None));
    counters
}

fn levels() -> Levels {
    Levels {
        running: 3,
        waiting: 4,
        max_running: 100,
        max_waiting: 1000,
        warm_slots: vec![WarmSlots {
            language: Language::JavaScript,
            ready: 5,
        }],
        outbox: Some(OutboxLevels {
            undelivered: 6,
            refused: 2,
            dropped: 1,
            unreadable: 3,
        }),
        uploads: Some(UploadTotals {
            stored: 7,
            bytes: 8,
            missed: 9,
        }),
        removals: Some(Removals {
            idle: Removed {
                sessions: 10,
                bytes: 11,
            },
            ..Removals::default()
        }),
    }
}

#[track_caller]
fn assert_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(
            text.lines().any(|found| found == *line),
            "no {line} in\n{text}"
        );
    }
}

#[test]
fn counts_what_it_is_told() {
    let text = busy().text(&levels(), TextFormat::Prometheus);
    assert_lines(
        &text,
        &[
            r#"sandbox_executions_total{language="python",status="completed"} 1"#,
            r#"sandbox_executions_total{language="python",status="crashed"} 0"#,
            r#"sandbox_execution_failures_total{language="shell",part="lost"} 1"#,
            r#"sandbox_execution_duration_seconds_sum{start="warm"} 0.1"#,
            r#"sandbox_execution_duration_seconds_bucket{le="0.1",start="warm"} 1"#,
            r#"sandbox_execution_duration_seconds_bucket{le="0.05",start="warm"} 0"#,
            r#"sandbox_execution_duration_seconds_count{start="cold"} 0"#,
            r#"sandbox_startup_seconds_sum{start="warm"} 0.05"#,
            "sandbox_queue_wait_seconds_sum 2.0",
            r#"sandbox_limits_hit_total{limit="output"} 1"#,
            r#"sandbox_limits_hit_total{limit="memory"} 0"#,
            r#"sandbox_output_bytes_total{stream="stdout"} 13"#,
            r#"sandbox_output_truncated_total{stream="stdout"} 1"#,
            r#"sandbox_output_truncated_total{stream="stderr"} 0"#,
            r#"sandbox_output_truncated_bytes_total{stream="stdout"} 7"#,
            r#"sandbox_output_truncated_bytes_total{stream="stderr"} 0"#,
            "sandbox_executions_active 3",
            "sandbox_executions_queued 4",
            "sandbox_executions_active_limit 100",
            "sandbox_executions_queued_limit 1000",
            r#"sandbox_warm_slots_ready{language="javascript"} 5"#,
            "sandbox_undelivered_reports 6",
            r#"sandbox_lost_reports_total{reason="refused"} 2"#,
            r#"sandbox_lost_reports_total{reason="dropped"} 1"#,
            r#"sandbox_lost_reports_total{reason="unreadable"} 3"#,
            "sandbox_artifacts_uploaded_total 7",
            "sandbox_artifacts_uploaded_bytes_total 8",
            "sandbox_artifacts_not_uploaded_total 9",
            r#"sandbox_sessions_removed_total{reason="idle"} 10"#,
            r#"sandbox_sessions_removed_total{reason="disk"} 0"#,
            r#"sandbox_sessions_removed_total{reason="requested"} 0"#,
            r#"sandbox_sessions_removed_bytes_total{reason="idle"} 11"#,
            r#"sandbox_http_requests_total{method="GET",route="/execute",status="200"} 1"#,
            r#"sandbox_http_requests_total{method="GET",route="unknown",status="abandoned"} 1"#,
            r#"sandbox_http_request_duration_seconds_count{route="/execute"} 1"#,
            r#"sandbox_build_info{version="1.2.3"} 1"#,
        ],
    );
}

#[test]
fn says_nothing_of_ids_and_output() {
    let text = busy().text(&levels(), TextFormat::OpenMetrics);
    assert!(!text.contains("secret"), "{text}");
}

/// What the text describes is what the catalogue lists, in both formats; nothing is there twice.
#[test]
fn the_text_is_the_catalogue() {
    for (format, suffix) in [
        (TextFormat::OpenMetrics, ""),
        (TextFormat::Prometheus, "_total"),
    ] {
        let text = busy().text(&levels(), format);
        let described: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .map(str::to_owned)
            .collect();
        let mut listed: Vec<_> = ALL
            .iter()
            .filter(|metric| cfg!(target_os = "linux") || !metric.help.ends_with("Linux only"))
            .map(|metric| match metric.kind {
                Kind::Counter => format!("{}{suffix} counter", metric.name),
                Kind::Gauge => format!("{} gauge", metric.name),
                Kind::Histogram => format!("{} histogram", metric.name),
            })
            .collect();
        let mut sorted = described.clone();
        sorted.sort();
        listed.sort();
        assert_eq!(sorted, listed);
        assert_eq!(text.ends_with("# EOF\n"), format == TextFormat::OpenMetrics);
    }
}

/// The labels that are written are those that the catalogue lists.
#[test]
fn the_labels_are_those_of_the_catalogue() {
    let text = busy().text(&levels(), TextFormat::OpenMetrics);
    for metric in ALL {
        let Some(line) = text
            .lines()
            .find(|line| !line.starts_with('#') && line.starts_with(metric.name))
        else {
            assert!(metric.help.ends_with("Linux only"), "{}", metric.name);
            continue;
        };
        let written: Vec<_> = line
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'))
            .map(|(labels, _)| {
                labels
                    .split(',')
                    .filter_map(|label| Some(label.split_once('=')?.0))
                    .filter(|label| *label != "le")
                    .collect()
            })
            .unwrap_or_default();
        assert_eq!(written, metric.labels, "{line}");
    }
}

#[test]
fn what_never_ran_has_no_duration() {
    let counters = Counters::new("1");
    let timeout = execution(outcome(Ending::TimedOut {
        clock: Clock::Wall,
        allowed: Duration::from_secs(1),
    }));
    counters.execution_ended(&EndedRun {
        sandboxed: None,
        ..ended(&timeout)
    });
    let text = counters.text(&Levels::default(), TextFormat::Prometheus);
    assert_lines(
        &text,
        &[
            r#"sandbox_executions_total{language="python",status="timeout"} 1"#,
            r#"sandbox_execution_duration_seconds_count{start="cold"} 0"#,
        ],
    );
    // No pool and no outbox: no figure, rather than a misleading 0.
    assert!(!text.contains("warm_slots") && !text.contains("undelivered"));
}
