//! `doctor`: what stands between guests and this host, and what to do about what does not.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    config::Config,
    exit::Exit,
    terminal::{self, BAD, GOOD},
    wiring::{self, Finding},
};

/// Looks at everything and reports it on stdout.
pub(crate) async fn doctor(config: &Config, as_json: bool) -> Exit {
    let findings = wiring::examine(config).await;
    if as_json {
        terminal::out(to_json(&findings));
    } else {
        terminal::out(to_text(&findings));
    }
    exit_of(&findings)
}

/// A gap that weakens a sandbox is reported; one without which there is none fails.
fn exit_of(findings: &[Finding]) -> Exit {
    if is_fit(findings) {
        Exit::Success
    } else {
        Exit::Unfit
    }
}

fn is_fit(findings: &[Finding]) -> bool {
    findings
        .iter()
        .all(|finding| finding.passed || !finding.essential)
}

fn to_text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|f| f.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let (style, mark) = match (finding.passed, finding.essential) {
            (true, _) => (GOOD, "ok     "),
            (false, false) => (BAD, "missing"),
            (false, true) => (BAD, "FAILED "),
        };
        let _ = writeln!(
            text,
            "{style}{mark}{style:#}  {:width$}  {}",
            finding.name, finding.detail
        );
    }
    text.push_str(if is_fit(findings) {
        "guests can be run here"
    } else {
        "no guest can be run here"
    });
    text
}

fn to_json(findings: &[Finding]) -> Value {
    let checks: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "name": finding.name,
                "passed": finding.passed,
                "essential": finding.essential,
                "detail": finding.detail,
            })
        })
        .collect();
    json!({"fit": is_fit(findings), "checks": checks})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(name: &str, passed: bool, essential: bool) -> Finding {
        Finding {
            name: name.into(),
            passed,
            essential,
            detail: "seen".into(),
        }
    }

    #[test]
    fn only_a_essential_gap_fails() {
        let fit = [
            finding("sandbox", true, true),
            finding("cgroup", false, false),
        ];
        assert_eq!(exit_of(&fit).code(), 0);
        assert_eq!(to_json(&fit)["fit"], true);
        let text = anstream::adapter::strip_str(&to_text(&fit)).to_string();
        assert_eq!(
            text,
            "ok       sandbox  seen\n\
             missing  cgroup   seen\n\
             guests can be run here"
        );

        let unfit = [finding("sandbox", false, true)];
        assert_eq!(exit_of(&unfit).code(), 1);
        assert_eq!(to_json(&unfit)["fit"], false);
        assert!(to_text(&unfit).ends_with("no guest can be run here"));
    }
}
