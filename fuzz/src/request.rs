//! The body of `POST /execute`.

use executor_application::ExecuteCommand;
use executor_domain::{
    ExecutionId, GuestEnvironment, JsonText, LimitPolicy, MAX_CODE_BYTES, RequestedLimits,
    SessionId,
};
use executor_interfaces_http::fuzzing::request;

/// Longest explanation of what is wrong: 20 problems, each with 64 characters of a name that the client made up.
const MAX_DETAIL_BYTES: usize = 16 << 10;

/// A body is refused in few words, or holds what it promises and means the same when it is written down again.
pub fn target(data: &[u8]) {
    let Ok(body) = str::from_utf8(data) else {
        return;
    };
    match request(body, &LimitPolicy::default()) {
        Err(detail) => {
            assert!(!detail.is_empty());
            assert!(detail.len() <= MAX_DETAIL_BYTES, "{}", detail.len());
        }
        Ok(command) => {
            JsonText::parse(body.to_owned()).expect("what was taken is JSON");
            hold_promises(&command);
            let canonical = written(&command);
            let again = request(&canonical, &LimitPolicy::default()).expect(&canonical);
            assert_eq!(written(&again), canonical);
        }
    }
}

fn hold_promises(command: &ExecuteCommand) {
    let id = command.execution_id.as_str();
    assert_eq!(ExecutionId::parse(id).as_ref(), Ok(&command.execution_id));
    let session = command.session_id.as_str();
    assert_eq!(SessionId::parse(session).as_ref(), Ok(&command.session_id));

    let source = &command.source;
    assert!(source.code().len() <= MAX_CODE_BYTES && !source.code().contains('\0'));
    assert!(source.language().supports(source.mode()));
    assert!(command.event.as_str().starts_with('{'));

    let mut bytes = 0;
    for (name, value) in command.environment.iter() {
        assert!(!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()));
        assert!(name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric()));
        assert!(!value.contains('\0'));
        bytes += name.len() + value.len() + 2;
    }
    assert!(bytes <= GuestEnvironment::MAX_BYTES);

    let granted = LimitPolicy::default().grant(&command.limits);
    granted.expect("what was taken can be granted");
}

/// The command as a body, in one spelling.
fn written(command: &ExecuteCommand) -> String {
    let text = |text: &str| serde_json::to_string(text).unwrap();
    let mut body = format!(
        r#"{{"execution_id":{},"session_id":{},"language":{},"mode":{},"code":{},"event":{}"#,
        text(command.execution_id.as_str()),
        text(command.session_id.as_str()),
        text(command.source.language().as_str()),
        text(command.source.mode().as_str()),
        text(command.source.code()),
        command.event.as_str(),
    );
    if let Some(stdin) = &command.stdin {
        body += &format!(r#","stdin":{}"#, text(stdin));
    }
    let variables: Vec<_> = command
        .environment
        .iter()
        .map(|(name, value)| format!("{}:{}", text(name), text(value)))
        .collect();
    body += &format!(r#","env_vars":{{{}}}"#, variables.join(","));
    if let Some(timeout) = command.limits.timeout {
        body += &format!(r#","timeout":{timeout}"#);
    }
    let limits: Vec<_> = wishes(&command.limits)
        .into_iter()
        .filter_map(|(name, wish)| Some(format!(r#""{name}":{}"#, wish?)))
        .collect();
    body + &format!(r#","limits":{{{}}}}}"#, limits.join(","))
}

fn wishes(limits: &RequestedLimits) -> [(&'static str, Option<u64>); 7] {
    [
        ("max_memory_mb", limits.max_memory_mb),
        ("max_cpu_time_ms", limits.max_cpu_time_ms),
        ("max_wall_time_ms", limits.max_wall_time_ms),
        ("max_processes", limits.max_processes),
        ("max_file_size_mb", limits.max_file_size_mb),
        ("max_output_bytes", limits.max_output_bytes),
        ("max_workspace_mb", limits.max_workspace_mb),
    ]
}
