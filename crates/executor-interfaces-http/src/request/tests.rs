use super::*;

const MINIMAL: &str = r#"{"execution_id":"e","session_id":"s","code":"c","language":"python"}"#;

/// A request with the required fields and these members, in JSON.
fn with(members: &str) -> String {
    format!("{},{members}}}", MINIMAL.trim_end_matches('}'))
}

fn parse(body: &str) -> Result<ExecuteCommand, ApiError> {
    super::parse(body, &LimitPolicy::default())
}

/// What is said to be wrong with the fields of a body.
fn problems(body: &str) -> String {
    match parse(body) {
        Err(ApiError::InvalidFields(problems)) => problems.to_string(),
        other => panic!("{body} is {other:?}"),
    }
}

/// What is said to be wrong with a body that is no JSON object.
fn malformed(body: &str) -> String {
    match parse(body) {
        Err(ApiError::Malformed(detail)) => detail.into_owned(),
        other => panic!("{body} is {other:?}"),
    }
}

#[test]
fn the_required_fields_are_enough() {
    let command = parse(MINIMAL).unwrap();
    assert_eq!(command.execution_id.as_str(), "e");
    assert_eq!(command.session_id.as_str(), "s");
    assert_eq!(command.source.code(), "c");
    assert_eq!(command.source.mode(), Mode::Handler);
    assert_eq!(command.event.as_str(), "{}");
    assert_eq!(command.stdin, None);
    assert_eq!(command.limits, RequestedLimits::default());
}

#[test]
fn every_field_arrives() {
    let command = parse(&with(
        r#""timeout":7,"event": {"a":  [1]} ,"env_vars":{"A":"1","B":"é"},"mode":"script","stdin":"in\n",
           "limits":{"max_memory_mb":64,"max_cpu_time_ms":1,"max_wall_time_ms":2,"max_processes":3,
           "max_file_size_mb":4,"max_output_bytes":5,"max_workspace_mb":6}"#,
    ))
    .unwrap();
    assert_eq!(command.event.as_str(), r#"{"a":  [1]}"#);
    assert_eq!(command.source.mode(), Mode::Script);
    assert_eq!(command.stdin.as_deref(), Some("in\n"));
    let variables: Vec<_> = command.environment.iter().collect();
    assert_eq!(variables, [("A", "1"), ("B", "é")]);
    assert_eq!(
        command.limits,
        RequestedLimits {
            timeout: Some(7),
            max_memory_mb: Some(64),
            max_cpu_time_ms: Some(1),
            max_wall_time_ms: Some(2),
            max_processes: Some(3),
            max_file_size_mb: Some(4),
            max_output_bytes: Some(5),
            max_workspace_mb: Some(6),
        }
    );
}

#[test]
fn null_is_as_good_as_absent_for_optional_fields_only() {
    let command = parse(&with(
        r#""timeout":null,"event":null,"env_vars":null,"mode":null,"stdin":null,"limits":null"#,
    ))
    .unwrap();
    assert_eq!(command.event.as_str(), "{}");
    assert_eq!(
        problems(&MINIMAL.replace(r#""c""#, "null")),
        "code is required"
    );
}

#[test]
fn everything_that_is_wrong_is_named_at_once() {
    let found = problems(
        r#"{"session_id":"a/b","code":1,"language":"perl","timeout":"3","event":[],"env_vars":{"A":1,"B":null,"B":"b"},
            "mode":"main","stdin":{},"timout":1,"limits":{"max_memory_mb":1e9,"max_procs":1,"max_processes":100000}}"#,
    );
    assert_eq!(
        found.split("; ").collect::<Vec<_>>(),
        [
            "timout is not a field of this request",
            "execution_id is required",
            "session_id must consist of A-Z a-z 0-9 . _ - only, has '/'",
            "code must be a string, is a number",
            "language must be one of python, javascript, shell",
            "mode must be one of handler, script",
            "event must be an object, is an array",
            "env_vars.A must be a string, is a number",
            "env_vars.B must be a string, is null",
            "stdin must be a string, is an object",
            "timeout must be a whole number, is a string",
            "limits.max_procs is not a field of this request",
            "limits.max_memory_mb must be between 16 and 512, is 1000000000",
            "limits.max_processes must be between 1 and 128, is 100000",
        ]
    );
}

#[test]
fn a_repeated_field_is_refused_wherever_it_is() {
    for (members, problem) in [
        (r#""code":"d""#, "code is given more than once"),
        (r#""cod\u0065":"d""#, "code is given more than once"),
        (r#""mode":null,"mode":null"#, "mode is given more than once"),
        (
            r#""env_vars":{"A":"1","A":"1"}"#,
            "env_vars.A is given more than once",
        ),
        (
            r#""limits":{"max_processes":1,"max_processes":1}"#,
            "limits.max_processes is given more than once",
        ),
    ] {
        assert_eq!(problems(&with(members)), problem);
    }
}

#[test]
fn numbers_are_whole_and_bounded() {
    for (number, problem) in [
        ("0", "timeout must be between 1 and 3600, is 0"),
        ("3601", "timeout must be between 1 and 3600, is 3601"),
        ("-1", "timeout must be a positive whole number"),
        ("1.5", "timeout must be a positive whole number"),
        ("1e-3", "timeout must be a positive whole number"),
        ("-0.0", "timeout must be a positive whole number"),
        ("3.601e3", "timeout must be between 1 and 3600, is 3601"),
        ("1e400", "timeout must be a positive whole number"),
        (
            "9007199254740994.0",
            "timeout must be a positive whole number",
        ),
        ("99999999999999999999", "timeout is too large"),
        ("true", "timeout must be a whole number, is a boolean"),
        ("[[1]]", "timeout must be a whole number, is an array"),
    ] {
        assert_eq!(problems(&with(&format!("\"timeout\":{number}"))), problem);
    }
    for whole in ["3600", "3600.0", "3.6e3", "36E2", "36e+02"] {
        let command = parse(&with(&format!("\"timeout\":{whole}"))).unwrap();
        assert_eq!(command.limits.timeout, Some(3600), "{whole}");
    }
}

#[test]
fn no_mistake_about_the_program_hides_another_one() {
    let nul = MINIMAL.replace(r#""c""#, r#""a\u0000""#);
    assert_eq!(
        problems(&nul.replace("python", "perl")),
        "language must be one of python, javascript, shell; \
         code must not contain a NUL byte, has one at byte 1"
    );
    let shell =
        format!("{},\"mode\":\"handler\"}}", nul.trim_end_matches('}')).replace("python", "shell");
    assert_eq!(
        problems(&shell),
        "mode cannot be used: shell runs in mode \"script\" only; \
         code must not contain a NUL byte, has one at byte 1"
    );
    let unknown_mode = shell.replace("handler", "main");
    assert_eq!(
        problems(&unknown_mode),
        "mode must be one of handler, script; \
         code must not contain a NUL byte, has one at byte 1"
    );
}

#[test]
fn half_a_surrogate_pair_is_no_text() {
    for (body, field) in [
        (with(r#""stdin":"\ud800""#), "stdin"),
        (with(r#""env_vars":{"A":"\ud800"}"#), "env_vars.A"),
        (with(r#""env_vars":{"\ud800":"a"}"#), "env_vars"),
        (with(r#""limits":{"\ud800":1}"#), "limits"),
    ] {
        assert_eq!(problems(&body), format!("{field} {NOT_UNICODE}"));
    }
    // The event is carried, not understood.
    assert!(parse(&with(r#""event":{"a":"\ud800"}"#)).is_ok());
}

#[test]
fn what_is_no_json_object_is_said_in_a_sentence() {
    assert_eq!(malformed(""), "the body is empty");
    assert_eq!(malformed(" \r\n\t"), "the body is empty");
    for other in ["[]", "null", "\"{}\"", "1", "nonsense"] {
        assert_eq!(malformed(other), "the body is not a JSON object");
    }
    let marked = format!("\u{feff}{MINIMAL}");
    assert!(malformed(&marked).contains("byte order mark"));
    for broken in [
        "{",
        "{\"code\"",
        "{'code':1}",
        "{\"code\":}",
        "{\"code\":nul}",
        "{\"code\":\"\n\"}",
        "{\"\\ud800\":1}",
    ] {
        let detail = malformed(broken);
        assert!(
            detail.starts_with("the body is not valid JSON: "),
            "{detail}"
        );
    }
    assert!(malformed(&format!("{MINIMAL} x")).contains("trailing characters at line 1"));
    assert!(malformed(&with("\"event\":{},")).contains("line 1 column"));
}

#[test]
fn depth_costs_no_stack() {
    const LEVELS: usize = 100_000;
    let deep = format!("{}{}", "[".repeat(LEVELS), "]".repeat(LEVELS));
    assert!(parse(&with(&format!(r#""event":{{"a":{deep}}}"#))).is_ok());
    assert_eq!(
        problems(&with(&format!("\"limits\":{deep}"))),
        "limits must be an object, is an array"
    );
    assert_eq!(
        problems(&with(&format!("\"x\":{deep}"))),
        "x is not a field of this request"
    );
    assert_eq!(malformed(&deep), "the body is not a JSON object");
    let endless = "{\"a\":".repeat(LEVELS);
    assert!(malformed(&endless).contains("EOF"));
}
