//! One attempt to deliver one report.

use std::{
    error::Error,
    fmt::{self, Write as _},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use executor_application::{ControlPlane, Delivery, Report};
use reqwest::{
    Client, Response, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue},
    redirect,
};
use tokio::time::timeout;

use crate::{answer::verdict, body::Message};

/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How much of an answer is read, only so that its connection can be used again.
const MAX_ANSWER_BYTES: usize = 16 << 10;

/// How long an answer's body is waited for, after its head has said everything.
const ANSWER_BODY_TIMEOUT: Duration = Duration::from_millis(500);

/// How long an idle connection is kept. Uvicorn, which the control planes that exist run on, closes its side after five
/// seconds, and a request that meets that moment fails.
const IDLE: Duration = Duration::from_secs(3);

/// The bearer token, as a header. Neither its `Debug` nor that of a request shows it.
#[derive(Clone)]
pub struct BearerToken(HeaderValue);

impl BearerToken {
    /// A token for the header `Authorization`.
    ///
    /// # Errors
    ///
    /// Where it has characters that no header can carry.
    pub fn new(token: &str) -> Result<Self, InvalidHeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(…)")
    }
}

/// The names under which this daemon reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `container_id`
    pub container_id: String,
    /// `pod_name`
    pub pod_name: Option<String>,
}

/// Where reports go, in whose name, and how long that may take.
#[derive(Debug, Clone)]
pub struct HttpControlPlaneOptions {
    /// Where the control plane is: `http` or `https`, host, port and possibly a path.
    pub url: String,
    /// What comes between that and the path of a report, such as `/api/v1/internal`.
    pub prefix: String,
    /// Sent with every report.
    pub token: Option<BearerToken>,
    /// Who reports.
    pub identity: Identity,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long an attempt may take in whole.
    pub timeout: Duration,
    /// The same for a result, which may have many megabytes.
    pub result_timeout: Duration,
}

impl HttpControlPlaneOptions {
    /// 5 s for a connection, 10 s for a small report and 30 s for a result.
    pub fn new(url: impl Into<String>, identity: Identity) -> Self {
        Self {
            url: url.into(),
            prefix: "/api/v1/internal".into(),
            token: None,
            identity,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
            result_timeout: Duration::from_secs(30),
        }
    }
}

/// Why no control plane can be talked to, whether or not it is there.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The address is none.
    #[error("{url:?} is no http or https URL")]
    Url {
        /// As it was written.
        url: String,
    },
    /// This executable was built without TLS.
    #[error(
        "https needs an executable that was built with the feature `tls`, and this one was not"
    )]
    NoTls,
    /// TLS needs a processor that this is not (`docs/adr/0008-tls-without-c.md`).
    #[error("https needs {what}, which this processor does not have")]
    Processor {
        /// What is missing.
        what: &'static str,
    },
    /// The client could not be made.
    #[error("failed to make an HTTP client")]
    Client(#[source] reqwest::Error),
}

/// A control plane that is told over HTTP/1.1.
pub struct HttpControlPlane {
    client: Client,
    base: Url,
    token: Option<BearerToken>,
    identity: Identity,
    timeout: Duration,
    result_timeout: Duration,
}

impl HttpControlPlane {
    /// Makes a client. Connects to nobody yet.
    ///
    /// # Errors
    ///
    /// Where the address is none, or its scheme is not supported here.
    pub fn new(options: HttpControlPlaneOptions) -> Result<Self, OptionsError> {
        let base = base(&options.url, &options.prefix)?;
        if base.scheme() == "https" {
            prepare_tls()?;
        }
        let client = Client::builder()
            // What is sent carries the token and what guests printed: it goes where it was addressed to, or nowhere.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .http1_only()
            .connect_timeout(options.connect_timeout)
            .pool_idle_timeout(IDLE)
            .user_agent(concat!("sandbox-executor/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(OptionsError::Client)?;
        Ok(Self {
            client,
            base,
            token: options.token,
            identity: options.identity,
            timeout: options.timeout,
            result_timeout: options.result_timeout,
        })
    }

    async fn attempt(
        &self,
        message: Message,
        allowed: Duration,
    ) -> Result<Delivery, reqwest::Error> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.0.clone());
        }
        // An id is safe in a header, so there is always a value.
        if let Some(key) = message.key.and_then(|key| HeaderValue::from_str(&key).ok()) {
            headers.insert(IDEMPOTENCY_KEY, key);
        }
        let mut url = self.base.clone();
        let base = self.base.path().trim_end_matches('/');
        url.set_path(&format!("{base}/{}", message.path));
        let response = self
            .client
            .post(url)
            .headers(headers)
            .body(message.body)
            .timeout(allowed)
            .send()
            .await?;
        let verdict = verdict(response.status(), response.headers(), SystemTime::now());
        // Where that takes long or goes wrong, the connection is closed, and nothing is lost.
        let _ = timeout(ANSWER_BODY_TIMEOUT, read_away(response)).await;
        Ok(verdict)
    }
}

#[async_trait]
impl ControlPlane for HttpControlPlane {
    async fn deliver(&self, report: &Report) -> Delivery {
        let message = match Message::of(report, &self.identity) {
            Ok(message) => message,
            Err(error) => {
                return Delivery::Refused {
                    reason: format!("it cannot be written down: {}", chain(&error)),
                };
            }
        };
        let allowed = match report {
            Report::Result(_) => self.result_timeout,
            _ => self.timeout,
        };
        self.attempt(message, allowed)
            .await
            .unwrap_or_else(|error| Delivery::Retry {
                after: None,
                reason: chain(&error.without_url()),
            })
    }
}

impl fmt::Debug for HttpControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpControlPlane")
            .field("base", &self.base.as_str())
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// The address that the paths of reports are appended to; without a slash at its end.
fn base(url: &str, prefix: &str) -> Result<Url, OptionsError> {
    let wrong = || OptionsError::Url {
        url: url.to_owned(),
    };
    let mut base = Url::parse(url).map_err(|_| wrong())?;
    if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
        return Err(wrong());
    }
    let path = [base.path(), prefix]
        .iter()
        .map(|part| part.trim_matches('/'))
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("/");
    base.set_path(&format!("/{path}"));
    base.set_query(None);
    base.set_fragment(None);
    Ok(base)
}

/// Reads what is left of an answer, up to a bound.
async fn read_away(mut response: Response) {
    let mut bytes = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes += chunk.len();
        if bytes > MAX_ANSWER_BYTES {
            return;
        }
    }
}

#[cfg(feature = "tls")]
fn prepare_tls() -> Result<(), OptionsError> {
    crate::tls::prepare()
}

#[cfg(not(feature = "tls"))]
const fn prepare_tls() -> Result<(), OptionsError> {
    Err(OptionsError::NoTls)
}

/// An error and all its sources in one line.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(line, ": {cause}");
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_and_path_are_joined_whatever_their_slashes() {
        for (url, prefix, joined) in [
            (
                "http://cp:8000",
                "/api/v1/internal",
                "http://cp:8000/api/v1/internal",
            ),
            (
                "http://cp:8000/",
                "api/v1/internal/",
                "http://cp:8000/api/v1/internal",
            ),
            ("http://cp/base/", "/x", "http://cp/base/x"),
            ("http://cp/base", "/", "http://cp/base"),
            ("http://[::1]:1/?a=b#c", "/x", "http://[::1]:1/x"),
        ] {
            assert_eq!(base(url, prefix).unwrap().as_str(), joined);
        }
        for bad in ["", "cp:8000", "ftp://cp", "/api", "http://", "unix:/run/cp"] {
            assert!(base(bad, "/x").is_err(), "{bad}");
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let mut options = HttpControlPlaneOptions::new(
            "http://localhost:8000",
            Identity {
                container_id: "c".into(),
                pod_name: None,
            },
        );
        options.token = Some(BearerToken::new("hunter2").unwrap());
        assert!(!format!("{options:?}").contains("hunter2"));
        let client = HttpControlPlane::new(options).unwrap();
        assert!(!format!("{client:?}").contains("hunter2"));
        assert!(BearerToken::new("a\nb").is_err());
    }
}
