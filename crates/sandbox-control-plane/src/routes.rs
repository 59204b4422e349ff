//! The routes: reports in, lists out.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, FromRequestParts, Path, Query, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use executor_domain::ExecutionId;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::{
    Access, Store, StoreError,
    body::{self, MAX_SMALL_BODY, ROOM_UNIT},
    error::ApiError,
    page,
    report::{self, Exited, Heartbeat, Outcome, Ready},
    store::{Millis, Page},
    views::{ContainersView, ExecutionView, ExecutionsView},
};

/// Items of a list where nobody says how many, and at most.
const PAGE: (u32, u32) = (50, 200);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What is configurable.
#[derive(Debug, Clone)]
pub struct ControlPlaneOptions {
    /// Who may call; `/health` and the style sheet are for everybody.
    pub access: Access,
    /// What the paths of reports begin with.
    pub prefix: String,
    /// How long an execution may run without a heartbeat until it counts as lost.
    pub lost_after: Duration,
    /// Largest result, in bytes of its JSON. A larger one is refused.
    pub max_body_bytes: usize,
    /// Bytes of all bodies that are read at the same time.
    pub max_bodies_bytes: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
}

impl Default for ControlPlaneOptions {
    /// Anyone may call; 15 s, three heartbeats; results of 128 MiB, which is what the default 10 MiB of stdout and of stderr
    /// can become in JSON at worst, within a minute.
    fn default() -> Self {
        Self {
            access: Access::Anyone,
            prefix: "/api/v1/internal".into(),
            lost_after: Duration::from_secs(15),
            max_body_bytes: 128 << 20,
            max_bodies_bytes: 256 << 20,
            body_timeout: Duration::from_secs(60),
        }
    }
}

/// The control plane. Cheap to clone: clones share everything.
#[derive(Clone)]
pub struct ControlPlane {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    options: ControlPlaneOptions,
    /// Room for bodies, in units of [`ROOM_UNIT`].
    room: Semaphore,
}

impl ControlPlane {
    /// A control plane that keeps what it is told in this store.
    pub fn new(store: Store, options: ControlPlaneOptions) -> Self {
        let units = options
            .max_bodies_bytes
            .div_ceil(ROOM_UNIT)
            .min(Semaphore::MAX_PERMITS);
        Self {
            shared: Arc::new(Shared {
                store,
                room: Semaphore::new(units),
                options,
            }),
        }
    }

    /// Its routes.
    pub fn router(&self) -> Router {
        let prefix = format!("/{}", self.shared.options.prefix.trim_matches('/'));
        let prefix = prefix.trim_end_matches('/');
        Router::new()
            .route(&format!("{prefix}/containers/ready"), post(ready))
            .route(&format!("{prefix}/containers/exited"), post(exited))
            .route(
                &format!("{prefix}/executions/{{id}}/heartbeat"),
                post(heartbeat),
            )
            .route(&format!("{prefix}/executions/{{id}}/result"), post(result))
            .route("/api/v1/executions", get(executions))
            .route("/api/v1/executions/{id}", get(execution))
            .route("/api/v1/containers", get(containers))
            .route("/", get(overview))
            .route("/style.css", get(style))
            .route("/health", get(health))
            .fallback(async || ApiError::NotFound)
            .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
            // Bodies are read by `body::read`, which has bounds of its own.
            .layer(DefaultBodyLimit::disable())
            .layer(middleware::from_fn(attend))
            .with_state(self.clone())
    }

    /// Marks executions lost that have had no heartbeat for too long. To be called now and then.
    pub async fn lose(&self) -> Result<(), StoreError> {
        let longest = i64::try_from(self.shared.options.lost_after.as_millis()).unwrap_or(i64::MAX);
        let since = now().saturating_sub(longest);
        let lost = self.with_store(move |store| store.lose(since)).await;
        match lost {
            Ok(0) | Err(ApiError::Lost) => Ok(()),
            Ok(lost) => {
                tracing::warn!(lost, "executions are lost: no heartbeat");
                Ok(())
            }
            Err(ApiError::Store(error)) => Err(error),
            Err(_) => Ok(()),
        }
    }

    /// Does something with the store on a thread that may block.
    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let store = self.shared.store.clone();
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .map_err(|_| ApiError::Lost)?
            .map_err(ApiError::Store)
    }

    async fn read(
        &self,
        headers: &HeaderMap,
        body: Body,
        max_bytes: usize,
    ) -> Result<Vec<u8>, ApiError> {
        let Shared { room, options, .. } = &*self.shared;
        body::read(headers, body, max_bytes, room, options).await
    }
}

/// The time of this side: milliseconds since 1970.
pub(crate) fn now() -> Millis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The proof that a caller may call. Guarded handlers take it as their first argument.
struct Authorized;

impl FromRequestParts<ControlPlane> for Authorized {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, plane: &ControlPlane) -> Result<Self, ApiError> {
        if plane.shared.options.access.allows(&parts.headers) {
            Ok(Self)
        } else {
            Err(ApiError::Unauthorized)
        }
    }
}

/// Adds to every answer what keeps a browser from making anything of it that it is not.
async fn attend(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let mut response = next.run(request).await;
    tracing::debug!(%method, status = response.status().as_u16(), "request answered");
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn known() -> Response {
    Json(json!({"message": "ok"})).into_response()
}

async fn ready(
    _: Authorized,
    State(plane): State<ControlPlane>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let bytes = plane.read(&headers, body, MAX_SMALL_BODY).await?;
    let ready: Ready = body::parse(&bytes)?;
    report::check_names(&ready.container_id, ready.pod_name.as_deref())?;
    tracing::info!(container_id = ?ready.container_id, port = ready.executor_port, "container ready");
    plane.with_store(move |store| store.ready(&ready)).await?;
    Ok(known())
}

async fn exited(
    _: Authorized,
    State(plane): State<ControlPlane>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let bytes = plane.read(&headers, body, MAX_SMALL_BODY).await?;
    let exited: Exited = body::parse(&bytes)?;
    report::check_names(&exited.container_id, exited.pod_name.as_deref())?;
    tracing::info!(container_id = ?exited.container_id, reason = exited.exit_reason.as_str(), "container exited");
    plane.with_store(move |store| store.exited(&exited)).await?;
    Ok(known())
}

async fn heartbeat(
    _: Authorized,
    State(plane): State<ControlPlane>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let id = parse_id(&id)?;
    let bytes = plane.read(&headers, body, MAX_SMALL_BODY).await?;
    let _: Heartbeat = body::parse(&bytes)?;
    plane
        .with_store(move |store| store.heartbeat(&id, now()))
        .await?;
    Ok(known())
}

async fn result(
    _: Authorized,
    State(plane): State<ControlPlane>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let id = parse_id(&id)?;
    if let Some(key) = headers.get(IDEMPOTENCY_KEY)
        && key.as_bytes() != id.as_str().as_bytes()
    {
        return Err(ApiError::Invalid(
            "Idempotency-Key must be the execution's id".into(),
        ));
    }
    let bytes = plane
        .read(&headers, body, plane.shared.options.max_body_bytes)
        .await?;
    let outcome: Outcome = body::parse(&bytes)?;
    let text =
        String::from_utf8(bytes).map_err(|_| ApiError::Invalid("the body is not UTF-8".into()))?;
    let status = outcome.status.as_str();
    let named = id.clone();
    let news = plane
        .with_store(move |store| store.result(&named, &outcome, &text, now()))
        .await?;
    // Delivered a second time: the first result stays, and the sender need not care.
    tracing::info!(execution_id = %id, status, news, "result");
    Ok(known())
}

fn parse_id(text: &str) -> Result<ExecutionId, ApiError> {
    ExecutionId::parse(text)
        .map_err(|error| ApiError::Invalid(format!("the execution's id {error}")))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Window {
    limit: Option<u32>,
    cursor: Option<i64>,
}

impl Window {
    fn page(&self) -> Page {
        Page {
            limit: self.limit.unwrap_or(PAGE.0).clamp(1, PAGE.1),
            before: self.cursor,
        }
    }
}

type Asked = Result<Query<Window>, axum::extract::rejection::QueryRejection>;

fn window(asked: Asked) -> Result<Page, ApiError> {
    match asked {
        Ok(Query(window)) => Ok(window.page()),
        Err(rejection) => Err(ApiError::Invalid(rejection.body_text())),
    }
}

async fn executions(
    _: Authorized,
    State(plane): State<ControlPlane>,
    asked: Asked,
) -> Result<Response, ApiError> {
    let page = window(asked)?;
    let rows = plane
        .with_store(move |store| store.executions(page))
        .await?;
    Ok(Json(ExecutionsView::new(&rows, page.limit)).into_response())
}

async fn execution(
    _: Authorized,
    State(plane): State<ControlPlane>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let id = parse_id(&id)?;
    let found = plane.with_store(move |store| store.execution(&id)).await?;
    let (row, result) = found.ok_or(ApiError::NotFound)?;
    // A result is kept as the JSON that it came as, so it needs no second parser.
    let mut body = serde_json::to_string(&ExecutionView::from(&row)).map_err(|_| ApiError::Lost)?;
    body.pop();
    body.push_str(",\"result\":");
    body.push_str(result.as_deref().unwrap_or("null"));
    body.push('}');
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

async fn containers(
    _: Authorized,
    State(plane): State<ControlPlane>,
    asked: Asked,
) -> Result<Response, ApiError> {
    let page = window(asked)?;
    let rows = plane
        .with_store(move |store| store.containers(page))
        .await?;
    Ok(Json(ContainersView::new(&rows, page.limit)).into_response())
}

async fn overview(_: Authorized, State(plane): State<ControlPlane>) -> Result<Response, ApiError> {
    let page = Page {
        limit: PAGE.0,
        before: None,
    };
    let (executions, containers) = plane
        .with_store(move |store| Ok((store.executions(page)?, store.containers(page)?)))
        .await?;
    let html = page::overview(&executions, &containers, now());
    Ok(([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response())
}

async fn style() -> Response {
    (
        [(header::CONTENT_TYPE, "text/css; charset=utf-8")],
        page::STYLE,
    )
        .into_response()
}

async fn health(State(plane): State<ControlPlane>) -> Response {
    let version = env!("CARGO_PKG_VERSION");
    match plane.with_store(Store::check).await {
        Ok(()) => Json(json!({"status": "healthy", "version": version})).into_response(),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "unhealthy");
            let body = json!({"status": "unhealthy", "version": version, "reason": "the database cannot be written to"});
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

#[cfg(test)]
mod tests;
