use axum::{
    body::{HttpBody as _, to_bytes},
    http::{Method, Request as HttpRequest},
};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;

const RESULT: &str = r#"{"status":"success","stdout":"hi\n","stderr":"","exit_code":0,"execution_time":0.25,
    "return_value":{"a":[1]},"metrics":{"duration_ms":250.0,"cpu_time_ms":null,"peak_memory_mb":9.8,
    "io_read_bytes":0,"io_write_bytes":0},"artifacts":["a.txt"]}"#;

fn plane(options: ControlPlaneOptions) -> ControlPlane {
    ControlPlane::new(Store::in_memory().unwrap(), options)
}

fn open() -> ControlPlane {
    plane(ControlPlaneOptions::default())
}

fn post(path: &str, body: impl Into<String>) -> HttpRequest<Body> {
    HttpRequest::post(path)
        .header("content-type", "application/json")
        .body(Body::from(body.into()))
        .unwrap()
}

fn get(path: &str) -> HttpRequest<Body> {
    HttpRequest::get(path).body(Body::empty()).unwrap()
}

async fn text(plane: &ControlPlane, request: HttpRequest<Body>) -> (u16, String) {
    let response = plane.router().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 1 << 24).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn ask(plane: &ControlPlane, request: HttpRequest<Body>) -> (u16, Value) {
    let (status, body) = text(plane, request).await;
    (status, serde_json::from_str(&body).unwrap())
}

async fn send(plane: &ControlPlane, path: &str, body: &str) -> u16 {
    ask(plane, post(&format!("/api/v1/internal/{path}"), body))
        .await
        .0
}

#[tokio::test]
async fn what_is_reported_is_shown() {
    let plane = open();
    let ready = r#"{"event_type":"ready","container_id":"c-1","pod_name":null,"executor_port":8080,"ready_at":"t"}"#;
    assert_eq!(send(&plane, "containers/ready", ready).await, 200);
    let beat = r#"{"timestamp":"2026-01-01T00:00:00Z","progress":null}"#;
    assert_eq!(send(&plane, "executions/e/heartbeat", beat).await, 200);
    let (_, running) = ask(&plane, get("/api/v1/executions")).await;
    assert_eq!(running["items"][0]["status"], "running");
    assert_eq!(running["items"][0]["heartbeats"], 1);
    assert_eq!(running["next_cursor"], Value::Null);

    assert_eq!(send(&plane, "executions/e/result", RESULT).await, 200);
    let (status, shown) = ask(&plane, get("/api/v1/executions/e")).await;
    assert_eq!((status, &shown["status"]), (200, &json!("success")));
    assert_eq!(shown["exit_code"], 0);
    assert_eq!(shown["artifacts"], 1);
    assert_eq!(
        shown["result"],
        serde_json::from_str::<Value>(RESULT).unwrap()
    );

    let exited = r#"{"event_type":"exited","container_id":"c-1","pod_name":null,"executor_port":8080,
        "exit_code":143,"exit_reason":"sigterm","exited_at":"t2"}"#;
    assert_eq!(send(&plane, "containers/exited", exited).await, 200);
    let (_, containers) = ask(&plane, get("/api/v1/containers")).await;
    assert_eq!(
        containers["items"][0],
        json!({"container_id": "c-1", "pod_name": null, "executor_port": 8080, "state": "exited", "ready_at": "t",
               "exited_at": "t2", "exit_code": 143, "exit_reason": "sigterm"})
    );
    assert_eq!(ask(&plane, get("/health")).await.0, 200);
    assert_eq!(ask(&plane, get("/api/v1/executions/other")).await.0, 404);
    assert_eq!(ask(&plane, get("/nowhere")).await.0, 404);
    assert_eq!(
        ask(&plane, get("/api/v1/internal/containers/ready"))
            .await
            .0,
        405
    );
}

#[tokio::test]
async fn a_second_delivery_is_welcome_and_changes_nothing() {
    let plane = open();
    assert_eq!(send(&plane, "executions/e/result", RESULT).await, 200);
    let other = RESULT.replace("success", "crashed");
    assert_eq!(send(&plane, "executions/e/result", &other).await, 200);
    let (_, shown) = ask(&plane, get("/api/v1/executions/e")).await;
    assert_eq!(shown["status"], "success");

    let mut keyed = post("/api/v1/internal/executions/e/result", RESULT);
    let key = HeaderValue::from_static("another");
    keyed.headers_mut().insert(IDEMPOTENCY_KEY, key);
    assert_eq!(ask(&plane, keyed).await.0, 400);
}

#[tokio::test]
async fn what_is_no_report_is_refused() {
    let plane = open();
    for (path, body) in [
        ("containers/ready", "{}"),
        ("containers/ready", "not json"),
        (
            "containers/ready",
            r#"{"container_id":"","executor_port":1}"#,
        ),
        (
            "containers/ready",
            r#"{"container_id":"c","executor_port":65536}"#,
        ),
        (
            "containers/exited",
            r#"{"container_id":"c","executor_port":1,"exit_code":0,"exit_reason":"bored"}"#,
        ),
        ("executions/e/heartbeat", r#"{"progress":null}"#),
        ("executions/.e/heartbeat", r#"{"timestamp":"t"}"#),
        ("executions/a%2fb/heartbeat", r#"{"timestamp":"t"}"#),
        ("executions/e/result", r#"{"status":"success"}"#),
        (
            "executions/e/result",
            &RESULT.replace("success", "completed"),
        ),
    ] {
        assert_eq!(send(&plane, path, body).await, 400, "{path} {body}");
    }
    let (_, list) = ask(&plane, get("/api/v1/executions")).await;
    assert_eq!(list["items"], json!([]));

    let mut form = post("/api/v1/internal/executions/e/result", RESULT);
    let plain = HeaderValue::from_static("text/plain");
    form.headers_mut().insert(header::CONTENT_TYPE, plain);
    assert_eq!(ask(&plane, form).await.0, 415);
}

#[tokio::test]
async fn a_body_stands_at_the_cap_and_falls_above() {
    let plane = plane(ControlPlaneOptions {
        max_body_bytes: RESULT.len(),
        ..ControlPlaneOptions::default()
    });
    assert_eq!(send(&plane, "executions/a/result", RESULT).await, 200);
    let larger = format!("{RESULT} ");
    assert_eq!(send(&plane, "executions/b/result", &larger).await, 413);
    // The same where no length is announced.
    for (id, text, expected) in [("c", RESULT, 200), ("d", &larger, 413)] {
        let whole = http_body_util::Full::new(axum::body::Bytes::from(text.to_owned()));
        let body = Body::new(whole.map_frame(|frame| frame));
        assert_eq!(body.size_hint().exact(), None);
        let mut request = post(&format!("/api/v1/internal/executions/{id}/result"), "");
        *request.body_mut() = body;
        assert_eq!(ask(&plane, request).await.0, expected);
    }
    let beat = format!(r#"{{"timestamp":"{}"}}"#, "x".repeat(MAX_SMALL_BODY));
    assert_eq!(send(&plane, "executions/c/heartbeat", &beat).await, 413);
}

#[tokio::test]
async fn a_deep_return_value_costs_no_stack() {
    let plane = open();
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    let body = RESULT.replace(r#"{"a":[1]}"#, &deep);
    assert_eq!(send(&plane, "executions/e/result", &body).await, 200);
    let (status, shown) = text(&plane, get("/api/v1/executions/e")).await;
    assert_eq!(status, 200);
    assert!(shown.contains(&deep));
}

#[tokio::test]
async fn everything_but_health_and_style_wants_the_token() {
    let plane = plane(ControlPlaneOptions {
        access: Access::token("s3cret"),
        ..ControlPlaneOptions::default()
    });
    let guarded = [
        (Method::POST, "/api/v1/internal/containers/ready"),
        (Method::POST, "/api/v1/internal/containers/exited"),
        (Method::POST, "/api/v1/internal/executions/e/heartbeat"),
        (Method::POST, "/api/v1/internal/executions/e/result"),
        (Method::GET, "/api/v1/executions"),
        (Method::GET, "/api/v1/executions/e"),
        (Method::GET, "/api/v1/containers"),
        (Method::GET, "/"),
    ];
    for (method, path) in guarded {
        for token in [None, Some("Bearer wrong"), Some("Bearer s3cret")] {
            let mut request = post(path, "{}");
            *request.method_mut() = method.clone();
            if let Some(token) = token {
                let token = HeaderValue::from_static(token);
                request.headers_mut().insert(header::AUTHORIZATION, token);
            }
            let (status, _) = text(&plane, request).await;
            assert_eq!(
                status != 401,
                token == Some("Bearer s3cret"),
                "{method} {path} {token:?}"
            );
        }
    }
    for path in ["/health", "/style.css"] {
        assert_eq!(text(&plane, get(path)).await.0, 200);
    }
}

#[tokio::test]
async fn lists_come_in_pages() {
    let plane = open();
    for n in 0..5 {
        let path = format!("executions/e{n}/heartbeat");
        assert_eq!(send(&plane, &path, r#"{"timestamp":"t"}"#).await, 200);
    }
    let mut path = "/api/v1/executions?limit=2".to_owned();
    let mut seen = Vec::new();
    loop {
        let (status, page) = ask(&plane, get(&path)).await;
        assert_eq!(status, 200);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        seen.extend(
            items
                .iter()
                .map(|item| item["execution_id"].as_str().unwrap().to_owned()),
        );
        let Some(cursor) = page["next_cursor"].as_i64() else {
            break;
        };
        path = format!("/api/v1/executions?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ["e4", "e3", "e2", "e1", "e0"]);
    for bad in ["limit=-1", "limit=x", "cursor=x", "offset=3"] {
        let (status, _) = ask(&plane, get(&format!("/api/v1/executions?{bad}"))).await;
        assert_eq!(status, 400, "{bad}");
    }
}

#[tokio::test]
async fn nothing_that_a_guest_or_reporter_wrote_is_markup() {
    let plane = open();
    let attack = "</pre></td></table><script>alert(1)</script><img src=x onerror=alert(1)> \\\" onload='x' &lt;";
    let result = RESULT
        .replace("hi\\n", attack)
        .replace(r#""stderr":"""#, &format!(r#""stderr":"{attack}""#));
    assert_eq!(send(&plane, "executions/e/result", &result).await, 200);
    let ready =
        json!({"container_id": attack, "pod_name": attack, "executor_port": 1, "ready_at": attack});
    assert_eq!(
        send(&plane, "containers/ready", &ready.to_string()).await,
        200
    );
    let exited = json!({"container_id": "c2", "pod_name": null, "executor_port": 1, "exit_code": 0,
        "exit_reason": "normal", "exited_at": attack});
    assert_eq!(
        send(&plane, "containers/exited", &exited.to_string()).await,
        200
    );

    let response = plane.router().oneshot(get("/")).await.unwrap();
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'self'"),
        "{policy}"
    );
    assert_eq!(
        response.headers()[header::X_CONTENT_TYPE_OPTIONS],
        "nosniff"
    );
    let page = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let page = String::from_utf8(page.to_vec()).unwrap();
    // Positive control: it is shown, six times.
    assert_eq!(
        page.matches("&lt;script&gt;alert(1)&lt;/script&gt;")
            .count(),
        6,
        "{page}"
    );
    // All tags are those of the page itself, and no attribute of theirs is anybody else's.
    for tag in page.split('<').skip(1) {
        let name = tag.split(['>', ' ']).next().unwrap();
        let ours = [
            "!doctype", "html", "head", "meta", "title", "/title", "link", "/head", "body", "h1",
            "/h1", "p", "/p", "code", "/code", "h2", "/h2", "table", "/table", "tr", "/tr", "th",
            "/th", "td", "/td", "pre", "/pre", "/body", "/html",
        ];
        assert!(ours.contains(&name), "<{tag}");
        let inside = tag.split('>').next().unwrap();
        assert!(
            !inside.contains("onerror") && !inside.contains("onload"),
            "<{tag}"
        );
    }
}
