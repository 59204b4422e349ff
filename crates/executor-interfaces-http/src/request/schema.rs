//! The body of `POST /execute` as JSON Schema. The parser next door is written by hand, so that it can name every mistake
//! at once; tests hold the two together, and a fuzzer compares them (`scripts/ci/schemathesis`).

use executor_domain::{Language, LimitCeilings, MAX_CODE_BYTES, Mode};
use serde_json::{Map, Value, json};

/// The name of the schema.
pub(crate) const SCHEMA: &str = "ExecuteRequest";

/// What ids look like: the domain's grammar as a regular expression.
const ID: &str = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$";

/// A request within these ceilings.
pub(crate) fn schema(ceilings: &LimitCeilings) -> Value {
    let identifier = |meaning: &str| json!({"type": "string", "minLength": 1, "maxLength": 128, "pattern": ID, "description": meaning});
    json!({
        "type": "object",
        "description": "A program and what it gets. Unknown fields are refused; `null` counts as absent.",
        "required": ["execution_id", "session_id", "code", "language"],
        "additionalProperties": false,
        "properties": {
            "execution_id": identifier("Names the execution. Also the idempotency key: the same id with the same request \
                returns the first run's result and runs nothing; with another request, 409"),
            "session_id": identifier("Names the workspace that runs share"),
            "code": {
                "type": "string",
                "maxLength": MAX_CODE_BYTES,
                "pattern": "^[^\\u0000]*$",
                "description": "The program: at most 1 MiB of UTF-8, without NUL bytes",
            },
            "language": {
                "type": "string",
                "enum": Language::ALL.map(Language::as_str),
                "description": "What the program is written in",
            },
            "timeout": wish(1, ceilings.max_timeout,
                &format!("Wall time in seconds; default {}", ceilings.default_timeout)),
            "event": {"type": ["object", "null"], "description": "Input of the handler; default `{}`"},
            "env_vars": {
                "type": ["object", "null"],
                "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
                "additionalProperties": {"type": "string", "pattern": "^[^\\u0000]*$"},
                "description": "Extra environment of the guest: each variable at most 128 KiB, 1 MiB in all",
            },
            "mode": {
                "type": ["string", "null"],
                "enum": [Mode::Handler.as_str(), Mode::Script.as_str(), Value::Null],
                "description": "`handler` calls the program's `handler` with the event (default for python and \
                    javascript); `script` runs it from top to bottom (default, and only mode, for shell)",
            },
            "stdin": {"type": ["string", "null"], "description": "Standard input of the guest"},
            "limits": limits(ceilings),
        },
        // A shell script has no function to call.
        "not": {
            "required": ["language", "mode"],
            "properties": {
                "language": {"const": Language::Shell.as_str()},
                "mode": {"const": Mode::Handler.as_str()},
            },
        },
        "examples": [{
            "execution_id": "exec_001",
            "session_id": "session_001",
            "language": "python",
            "code": "def handler(event):\n    return {\"greeting\": f\"Hello, {event['name']}!\"}\n",
            "event": {"name": "Alice"},
            "timeout": 10,
        }],
    })
}

/// A whole number that may be wished for.
fn wish(floor: u64, ceiling: u64, meaning: &str) -> Value {
    json!({"type": ["integer", "null"], "minimum": floor, "maximum": ceiling, "description": meaning})
}

fn limits(ceilings: &LimitCeilings) -> Value {
    let max_wall_ms = ceilings.max_timeout * 1000;
    let wishes = [
        (
            "max_memory_mb",
            LimitCeilings::FLOOR_MEMORY_MB,
            ceilings.max_memory_mb,
            "Memory of the whole process tree, swap included, in MiB",
        ),
        (
            "max_cpu_time_ms",
            1,
            ceilings.max_cpu_time_ms.unwrap_or(max_wall_ms),
            "CPU time of the whole process tree, in milliseconds",
        ),
        (
            "max_wall_time_ms",
            1,
            max_wall_ms,
            "Wall time in milliseconds; with `timeout` as well, the shorter one counts",
        ),
        (
            "max_processes",
            1,
            ceilings.max_processes,
            "Processes and threads at the same time",
        ),
        (
            "max_file_size_mb",
            1,
            ceilings.max_file_size_mb,
            "The largest file, in MiB",
        ),
        (
            "max_output_bytes",
            1,
            ceilings.max_output_bytes,
            "Bytes kept of stdout, and of stderr as much again",
        ),
        (
            "max_workspace_mb",
            1,
            ceilings.max_workspace_mb,
            "Size of the session's workspace, in MiB",
        ),
    ];
    let properties: Map<_, _> = wishes
        .into_iter()
        .map(|(name, floor, ceiling, meaning)| (name.to_owned(), wish(floor, ceiling, meaning)))
        .collect();
    json!({
        "type": ["object", "null"],
        "additionalProperties": false,
        "properties": properties,
        "description": "Wishes below the ceilings of this daemon; more is refused, not clipped",
    })
}

#[cfg(test)]
mod tests {
    use executor_domain::LimitPolicy;

    use super::*;
    use crate::request::{FIELDS, LIMIT_FIELDS, parse};

    fn names(properties: &Value) -> Vec<&str> {
        properties
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect()
    }

    fn sorted(fields: &[&'static str]) -> Vec<&'static str> {
        let mut sorted = fields.to_vec();
        sorted.sort_unstable();
        sorted
    }

    #[test]
    fn has_the_fields_that_the_parser_knows() {
        let schema = schema(&LimitCeilings::default());
        assert_eq!(names(&schema["properties"]), sorted(FIELDS));
        assert_eq!(
            names(&schema["properties"]["limits"]["properties"]),
            sorted(LIMIT_FIELDS)
        );
    }

    #[test]
    fn the_example_is_a_request() {
        let schema = schema(&LimitCeilings::default());
        parse(&schema["examples"][0].to_string(), &LimitPolicy::default()).unwrap();
    }

    /// At each bound of the schema the parser says yes, and one beyond it no.
    #[test]
    fn the_bounds_are_the_policys() {
        let ceilings = LimitCeilings {
            max_cpu_time_ms: Some(777),
            ..LimitCeilings::default()
        };
        let policy = LimitPolicy::new(ceilings).unwrap();
        let schema = schema(&ceilings);
        let accepted = |field: &str, within_limits: bool, value: &Value, by: i64| {
            let value = value.as_i64().unwrap() + by;
            let mut request = schema["examples"][0].clone();
            if within_limits {
                request["limits"] = json!({field: value});
            } else {
                request[field] = json!(value);
            }
            parse(&request.to_string(), &policy).is_ok()
        };
        let mut bounded: Vec<_> = LIMIT_FIELDS.iter().map(|field| (*field, true)).collect();
        bounded.push(("timeout", false));
        for (field, within) in bounded {
            let properties = if within {
                &schema["properties"]["limits"]["properties"]
            } else {
                &schema["properties"]
            };
            let bounds = &properties[field];
            assert!(accepted(field, within, &bounds["minimum"], 0), "{field}");
            assert!(!accepted(field, within, &bounds["minimum"], -1), "{field}");
            assert!(accepted(field, within, &bounds["maximum"], 0), "{field}");
            assert!(!accepted(field, within, &bounds["maximum"], 1), "{field}");
        }
    }
}
