//! The description of the API: that it is true, whole and published.

use std::collections::BTreeSet;

use executor_domain::{LimitCeilings, LimitPolicy};

use super::*;
use crate::{Access, BearerToken, openapi, openapi_json};

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "patch", "head", "options"];

fn document() -> Value {
    openapi::document(&LimitCeilings::default())
}

/// Paths of the router itself. It has no list of them to hand out but what it shows for debugging: the map from its
/// inner ids to paths.
fn routed() -> BTreeSet<String> {
    let shown = format!("{:?}", Api::default().router);
    let paths: BTreeSet<_> = shown
        .split('"')
        .filter(|text| text.starts_with('/'))
        .map(|path| path.replace("{*", "{"))
        // The fallback's own, which no client can name.
        .filter(|path| !path.contains("__private__"))
        // Another spelling of the same path without its last slash.
        .filter(|path| path == "/" || !path.ends_with('/'))
        .collect();
    assert!(
        paths.contains("/execute"),
        "axum shows its routes otherwise: {shown}"
    );
    paths
}

fn described() -> BTreeSet<String> {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    paths.keys().cloned().collect()
}

#[test]
fn every_route_is_described_and_every_description_has_a_route() {
    assert_eq!(
        described(),
        routed().into_iter().filter(|path| path != "/").collect()
    );
}

/// Each described method is there, and no other one: `HEAD` comes with `GET`.
#[tokio::test]
async fn the_methods_are_those_of_the_description() {
    let api = Api::default();
    let document = document();
    for (path, item) in document["paths"].as_object().unwrap() {
        let concrete: String = path
            .split('/')
            .map(|part| if part.starts_with('{') { "x" } else { part })
            .collect::<Vec<_>>()
            .join("/");
        let request = Request::builder()
            .method("BREW")
            .uri(&concrete)
            .body(Body::empty())
            .unwrap();
        let refused = api.send(request).await;
        refused.assert_error(405, "Executor.MethodNotAllowed");
        let allowed: BTreeSet<_> = refused
            .header("allow")
            .split(',')
            .map(str::to_ascii_lowercase)
            .filter(|method| method != "head")
            .collect();
        let described: BTreeSet<_> = METHODS
            .iter()
            .filter(|method| item.get(**method).is_some())
            .map(|method| (*method).to_owned())
            .filter(|method| method != "head")
            .collect();
        assert_eq!(allowed, described, "{path}");
    }
}

/// What a reader sees first is there: a summary, a group that exists, an answer that is no refusal, and who may call.
#[test]
fn every_operation_says_what_it_is() {
    let document = document();
    let tags: Vec<_> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| &tag["name"])
        .collect();
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let which = format!("{method} {path}");
            assert!(
                operation["summary"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{which}"
            );
            assert!(tags.contains(&&operation["tags"][0]), "{which}");
            assert!(
                names.insert(operation["operationId"].to_string()),
                "{which}"
            );
            let responses = operation["responses"].as_object().unwrap();
            assert!(
                responses.keys().any(|status| status.starts_with('2')),
                "{which}"
            );
            for (status, response) in responses {
                assert!(
                    response["headers"]["X-Request-Id"].is_object(),
                    "{which} {status}"
                );
            }
            let open = ["/health", "/livez"].contains(&path.as_str());
            let wants_token = operation["security"] == json!([{"bearer": []}]);
            assert_eq!(wants_token, !open, "{which}: {}", operation["security"]);
            assert_eq!(responses.contains_key("401"), !open, "{which}");
        }
    }
}

#[test]
fn nothing_refers_to_what_is_not_there() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                found.extend(
                    members
                        .get("$ref")
                        .and_then(Value::as_str)
                        .map(str::to_owned),
                );
                members
                    .values()
                    .for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 10, "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn the_document_in_the_repository_is_this_one() {
    assert!(
        include_str!("../../../../docs/openapi.json") == openapi_json(&LimitCeilings::default()),
        "docs/openapi.json is not what the code says: cargo run -- openapi > docs/openapi.json"
    );
}

#[tokio::test]
async fn the_limits_are_those_of_this_daemon() {
    let ceilings = LimitCeilings {
        max_memory_mb: 77,
        ..LimitCeilings::default()
    };
    let options = Options {
        policy: LimitPolicy::new(ceilings).unwrap(),
        ..Options::default()
    };
    let api = Api::new(options, ApiOptions::default());
    let document = api.send(get("/openapi.json")).await.json();
    let request = &document["components"]["schemas"]["ExecuteRequest"];
    let memory = &request["properties"]["limits"]["properties"]["max_memory_mb"];
    assert_eq!(memory["maximum"], 77);
}

fn guarded() -> Api {
    let options = ApiOptions {
        access: Access::Bearer(BearerToken::new("s3cret")),
        ..ApiOptions::default()
    };
    Api::new(Options::default(), options)
}

fn browse(path: &str) -> Request<Body> {
    let mut request = get(path);
    let accept = "text/html,application/xhtml+xml,*/*;q=0.8".parse().unwrap();
    request.headers_mut().insert(header::ACCEPT, accept);
    request
}

/// The page is there for browsers even without a token, which they cannot send at first; what it shows is not.
#[tokio::test]
async fn a_browser_gets_the_page_and_nothing_else_without_a_token() {
    let api = guarded();
    for path in ["/docs", "/openapi.json"] {
        let answer = api.send(get(path)).await;
        answer.assert_error(401, "Executor.Unauthorized");
    }
    let answer = api.send(browse("/openapi.json")).await;
    answer.assert_error(401, "Executor.Unauthorized");
    let page = api.send(browse("/docs")).await;
    assert_eq!(page.status, StatusCode::UNAUTHORIZED);
    assert_eq!(page.header("www-authenticate"), "Bearer");
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.body.starts_with(b"<!doctype html>"));
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let page = Api::default().send(browse("/docs")).await;
    assert_eq!(page.status, StatusCode::OK);
    let text = String::from_utf8(page.body.clone()).unwrap();
    for stranger in [
        "http://",
        "https://",
        "src=",
        "@import",
        "url(",
        "innerHTML",
        "{{",
    ] {
        assert!(!text.contains(stranger), "{stranger}");
    }
    // Script and style carry the number that the policy allows, a new one each time.
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    let nonce = policy
        .split("'nonce-")
        .nth(1)
        .unwrap()
        .split('\'')
        .next()
        .unwrap();
    assert_eq!(nonce.len(), 32);
    assert_eq!(text.matches(nonce).count(), 2);
    let again = Api::default().send(browse("/docs")).await;
    assert!(!again.header("content-security-policy").contains(nonce));
}
