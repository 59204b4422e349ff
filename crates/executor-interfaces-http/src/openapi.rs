//! The description of the API: one document, made from the descriptions that stand at the handlers.
//!
//! A handler says with `#[utoipa::path]` what it takes and answers; its refusals it names by one of the sets in
//! [`refusals`], so that their wording stays in the error table. What is the same for every operation is added here.

mod refusals;
pub(crate) mod words;

use executor_domain::LimitCeilings;
use serde_json::{Map, Value, json};
use utoipa::PartialSchema;

use crate::{error::ErrorDto, request, routes};

pub(crate) use refusals::{Fails, Finds, Guarded, Lists, Sessions, Submits, Uploads};

/// What the API is, for its readers.
const ABOUT: &str = "Runs untrusted Python, JavaScript and shell code in sandboxes.\n\n\
    A 2xx answer speaks of the guest, whatever it did; 4xx and 5xx speak of the request and of the executor, always in \
    the form of the schema `Error`. Every answer carries `X-Request-Id`, which the log shows as well; a request may bring \
    its own. A `traceparent` (W3C Trace Context) in a request is taken up.";

/// The description of the API as `OpenAPI` 3.1, with these limits in it: pretty-printed JSON with a line end.
pub fn openapi_json(ceilings: &LimitCeilings) -> String {
    // The alternate form of `Display` is the pretty one, and cannot fail.
    format!("{:#}\n", document(ceilings))
}

/// The description of the API as `OpenAPI` 3.1, with these limits in it.
pub(crate) fn document(ceilings: &LimitCeilings) -> Value {
    let described = serde_json::to_value(routes::descriptions()).unwrap_or_default();
    let paths = member(&described, "paths");
    let mut schemas = member(member_of(&described, "components"), "schemas");
    schemas.insert(request::SCHEMA.into(), request::schema(ceilings));
    schemas.insert(
        refusals::SCHEMA.into(),
        serde_json::to_value(ErrorDto::schema()).unwrap_or_default(),
    );
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sandbox Executor",
            "description": ABOUT,
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE")},
        },
        "tags": [
            {"name": "executions", "description": "Running code"},
            {"name": "sessions", "description": "The workspaces that runs share, and their files"},
            {"name": "operation", "description": "How the daemon is, and what it is made of"},
            {"name": "description", "description": "What this is"},
        ],
        "paths": paths.into_iter().map(completed).collect::<Map<_, _>>(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "INTERNAL_API_TOKEN. A daemon without a token asks for none.",
                },
            },
        },
    })
}

/// A path with its operations, with what is the same for all of them.
fn completed((path, mut item): (String, Value)) -> (String, Value) {
    let operations = item.as_object_mut().into_iter().flatten();
    for (_, operation) in operations {
        // JSON is never empty, a file may be.
        if let Some(body) = operation.get_mut("requestBody") {
            let is_json = body["content"].get("application/json").is_some();
            body["required"] = is_json.into();
        }
        // A parameter is there or not; that it is null cannot be said in a URL or a header.
        let parameters = operation
            .get_mut("parameters")
            .and_then(Value::as_array_mut);
        for parameter in parameters.into_iter().flatten() {
            let types = parameter["schema"]["type"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            if let [only] = types
                .iter()
                .filter(|word| **word != "null")
                .collect::<Vec<_>>()[..]
            {
                parameter["schema"]["type"] = only.clone();
            }
        }
        let responses = operation
            .get_mut("responses")
            .and_then(Value::as_object_mut);
        for (_, response) in responses.into_iter().flatten() {
            response["headers"]["X-Request-Id"] = json!({
                "description": "The name of the request, as the log shows it",
                "schema": {"type": "string"},
            });
        }
    }
    // The router marks a parameter that takes the rest of the path, and OpenAPI has no word for it.
    (path.replace("{*", "{"), item)
}

fn member_of<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or(&Value::Null)
}

/// A member that is an object; empty where it is not there.
fn member(value: &Value, name: &str) -> Map<String, Value> {
    match value.get(name) {
        Some(Value::Object(members)) => members.clone(),
        _ => Map::new(),
    }
}
