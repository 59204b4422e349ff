//! What is counted, and who is told of a request's place in a trace.

use std::sync::Mutex;

use executor_application::{
    AnsweredRequest, EndedRun, Instruments, Levels, MockTraces, RunFailure, Telemetry, TextFormat,
};
use executor_domain::{Language, TraceParent};

use super::*;
use crate::{Access, BearerToken};

/// Keeps what it is told, one line each.
#[derive(Default)]
struct Listener(Mutex<Vec<String>>);

impl Listener {
    fn heard(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Telemetry for Listener {
    fn execution_ended(&self, _: &EndedRun<'_>) {}

    fn execution_failed(&self, _: Language, _: &RunFailure) {}

    fn request_answered(&self, request: &AnsweredRequest<'_>) {
        let line = format!("{} {} {:?}", request.method, request.route, request.status);
        self.0.lock().unwrap().push(line);
    }

    fn text(&self, levels: &Levels, format: TextFormat) -> String {
        format!("{format:?} running {}\n", levels.running)
    }
}

fn listened(api: ApiOptions) -> (Api, Arc<Listener>) {
    let listener = Arc::new(Listener::default());
    let instruments = Instruments {
        telemetry: Arc::clone(&listener) as Arc<_>,
        ..Instruments::default()
    };
    let options = Options {
        instruments,
        ..Options::default()
    };
    (Api::new(options, api), listener)
}

fn with(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

#[tokio::test]
async fn counters_come_in_the_format_that_is_asked_for() {
    let (api, _) = listened(ApiOptions::default());
    let prometheus =
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
    for (accept, format, content_type) in [
        (
            "*/*",
            "Prometheus",
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        (
            prometheus,
            "OpenMetrics",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ] {
        let answer = api.send(with(get("/metrics"), "accept", accept)).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("content-type"), content_type);
        assert_eq!(answer.body, format!("{format} running 0\n").as_bytes());
    }
}

#[tokio::test]
async fn counters_want_the_token() {
    let (api, _) = listened(ApiOptions {
        access: Access::Bearer(BearerToken::new("s3cret")),
        ..ApiOptions::default()
    });
    let answer = api.send(get("/metrics")).await;
    answer.assert_error(401, "Executor.Unauthorized");
    let asking = with(get("/metrics"), "authorization", "Bearer s3cret");
    assert_eq!(api.send(asking).await.status, StatusCode::OK);
}

/// Neither paths nor methods that clients make up become labels.
#[tokio::test]
async fn requests_are_counted_by_route_and_status() {
    let (api, listener) = listened(ApiOptions::default());
    api.send(get("/livez?a=b")).await;
    api.send(get("/made/up")).await;
    let mut strange = get("/livez");
    *strange.method_mut() = "BREW".parse().unwrap();
    api.send(strange).await;
    api.send(post("{")).await;
    assert_eq!(
        listener.heard(),
        [
            "GET /livez Some(200)",
            "GET unknown Some(404)",
            "other /livez Some(405)",
            "POST /execute Some(400)",
        ]
    );
}

#[tokio::test]
async fn a_request_whose_client_leaves_is_counted_too() {
    let (api, listener) = listened(ApiOptions::default());
    let request = post(program("e", "sleep 3600000").to_string());
    let waiting = api.router.clone().oneshot(request);
    tokio::select! {
        _ = waiting => panic!("an answer"),
        () = until(|| api.sandbox.running() == 1) => {}
    }
    assert_eq!(listener.heard(), ["POST /execute None"]);
}

const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";

#[tokio::test]
async fn a_request_takes_its_place_in_its_callers_trace() {
    let mut links = MockTraces::new();
    links
        .expect_adopt()
        .withf(|_, parent| parent.to_string() == CALLER)
        .times(1)
        .return_const(());
    links.expect_name_of().return_const(None::<TraceParent>);
    let instruments = Instruments {
        traces: Arc::new(links),
        ..Instruments::default()
    };
    let api = Api::new(
        Options {
            instruments,
            ..Options::default()
        },
        ApiOptions::default(),
    );
    let traced = with(
        post(program("e", "sleep 1000").to_string()),
        "traceparent",
        CALLER,
    );
    let (answer, submission) = tokio::join!(api.send(traced), async {
        until(|| api.sandbox.running() == 1).await;
        // The same request again joins the run, and shows what became of it.
        let command = crate::request::parse(
            &program("e", "sleep 1000").to_string(),
            api.executor.policy(),
        );
        api.executor.submit(command.unwrap()).await.unwrap()
    });
    assert_eq!(answer.status, StatusCode::OK);
    let execution = submission.finished().await.unwrap();
    assert_eq!(execution.trace_parent().unwrap().to_string(), CALLER);

    // Malformed ones are nobody's children: the mock would panic.
    let malformed = with(get("/livez"), "traceparent", "00-1-2-3");
    assert_eq!(api.send(malformed).await.status, StatusCode::OK);
}
