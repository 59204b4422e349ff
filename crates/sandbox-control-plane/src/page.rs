//! The page for people. It has no script; it reloads itself. Whatever it shows was written by guests or by whoever reports,
//! so every value passes [`Text`].

use std::fmt::{self, Write as _};

use crate::{
    store::{ContainerRow, ExecutionRow, Millis},
    views::rfc3339,
};

/// The style sheet, which is a file of its own so that no policy has to allow styles within the page.
pub(crate) const STYLE: &str = include_str!("style.css");

/// A value within a page: no character of it can end a text or an attribute.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // Would let a text pretend to be in another order than it is (CVE-2021-42574).
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_char('\u{fffd}')?,
                '\n' | '\t' => f.write_char(c)?,
                c if c.is_control() => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The newest executions and containers.
pub(crate) fn overview(
    executions: &[ExecutionRow],
    containers: &[ContainerRow],
    now: Millis,
) -> String {
    let mut html = String::from(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"2\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Control plane</title>\
         <link rel=\"stylesheet\" href=\"/style.css\"></head><body><h1>Control plane</h1>",
    );
    // Writing to a string does not fail.
    let _ = write!(
        html,
        "<p>As of {}, reloaded every two seconds. The same as JSON: <code>/api/v1/executions</code>, \
         <code>/api/v1/containers</code>.</p>",
        rfc3339(now).unwrap_or_default()
    );
    html.push_str(
        "<h2>Executions</h2><table><tr><th>Execution</th><th>Status</th><th>Exit code</th><th>Seconds</th>\
         <th>Heartbeats</th><th>First seen</th><th>Ended</th><th>Output</th></tr>",
    );
    for row in executions {
        execution(&mut html, row);
    }
    html.push_str(
        "</table><h2>Containers</h2><table><tr><th>Container</th><th>Pod</th><th>Port</th><th>State</th>\
         <th>Ready</th><th>Exited</th><th>Exit code</th><th>Reason</th></tr>",
    );
    for row in containers {
        container(&mut html, row);
    }
    html.push_str("</table></body></html>");
    html
}

fn execution(html: &mut String, row: &ExecutionRow) {
    let status = Text(&row.status);
    let _ = write!(
        html,
        "<tr><td>{}</td><td class=\"{status}\">{status}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>",
        Text(&row.id),
        shown(row.exit_code),
        row.execution_time
            .map(|seconds| format!("{seconds:.3}"))
            .unwrap_or_default(),
        row.heartbeats,
        rfc3339(row.first_seen).unwrap_or_default(),
        row.ended.and_then(rfc3339).unwrap_or_default(),
    );
    for (name, head) in [("stdout", &row.stdout_head), ("stderr", &row.stderr_head)] {
        if let Some(head) = head.as_deref().filter(|head| !head.is_empty()) {
            let _ = write!(html, "<pre class=\"{name}\">{}</pre>", Text(head));
        }
    }
    html.push_str("</td></tr>");
}

fn container(html: &mut String, row: &ContainerRow) {
    let text = |value: &Option<String>| Text(value.as_deref().unwrap_or_default()).to_string();
    let state = Text(&row.state);
    let _ = write!(
        html,
        "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"{state}\">{state}</td><td>{}</td><td>{}</td><td>{}</td>\
         <td>{}</td></tr>",
        Text(&row.id),
        text(&row.pod_name),
        row.executor_port,
        text(&row.ready_at),
        text(&row.exited_at),
        shown(row.exit_code),
        text(&row.exit_reason),
    );
}

fn shown(number: Option<i64>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_ends_a_text_or_an_attribute() {
        let hostile = "<script>alert(1)</script>\"'>&amp;\u{202e}\0\x1b[2J";
        assert_eq!(
            Text(hostile).to_string(),
            "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&gt;&amp;amp;\u{fffd}\u{fffd}\u{fffd}[2J"
        );
    }
}
