//! One attempt to deliver one report.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use executor_application::{ControlPlane, Delivery, Report};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Uri,
    body::{Body, Bytes, Incoming},
    header::{
        AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, InvalidHeaderValue, USER_AGENT,
    },
};
use tokio::time::timeout;

use executor_outbound::{ExchangeError, Outbound, OutboundError, chain};

use crate::{answer::verdict, body::Message};

/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// <https://www.w3.org/TR/trace-context/#traceparent-header>
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// How much of an answer is read, only so that its connection can be used again.
const MAX_ANSWER_BYTES: usize = 16 << 10;

/// How long an answer's body is waited for, after its head has said everything.
const ANSWER_BODY_TIMEOUT: Duration = Duration::from_millis(500);

/// Who sends.
const OWN_NAME: HeaderValue =
    HeaderValue::from_static(concat!("sandbox-executor/", env!("CARGO_PKG_VERSION")));

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
    /// It cannot be connected to from here.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
}

/// A control plane that is told over HTTP/1.1.
pub struct HttpControlPlane {
    outbound: Outbound,
    base: String,
    token: Option<BearerToken>,
    identity: Identity,
    timeout: Duration,
    result_timeout: Duration,
}

/// Why an attempt came to nothing.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error("failed to make a request")]
    Request(#[from] hyper::http::Error),
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl HttpControlPlane {
    /// Makes a client. Connects to nobody yet; for `https`, reads the certificates that the host trusts.
    ///
    /// # Errors
    ///
    /// Where the address is none, or its scheme is not supported here.
    pub fn new(options: HttpControlPlaneOptions) -> Result<Self, OptionsError> {
        let (uri, base) = base(&options.url, &options.prefix)?;
        Ok(Self {
            outbound: Outbound::to(&uri, options.connect_timeout)?,
            base,
            token: options.token,
            identity: options.identity,
            timeout: options.timeout,
            result_timeout: options.result_timeout,
        })
    }

    async fn attempt(&self, message: Message) -> Result<Delivery, AttemptError> {
        let mut request = Request::post(format!("{}/{}", self.base, message.path))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(USER_AGENT, OWN_NAME);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.0.clone());
        }
        if let Some(key) = message.key {
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        if let Some(step) = message.trace_parent {
            request = request.header(TRACEPARENT, step);
        }
        let request = request.body(Full::new(Bytes::from(message.body)))?;
        let answer = self.outbound.send(request).await?;
        let verdict = verdict(answer.status(), answer.headers(), SystemTime::now());
        // Where that takes long or goes wrong, the connection is closed, and nothing is lost.
        let _ = timeout(ANSWER_BODY_TIMEOUT, read_away(answer.into_body())).await;
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
        timeout(allowed, self.attempt(message))
            .await
            .unwrap_or(Err(AttemptError::Timeout(allowed)))
            .unwrap_or_else(|error| Delivery::Retry {
                after: None,
                reason: chain(&error),
            })
    }
}

impl fmt::Debug for HttpControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpControlPlane")
            .field("base", &self.base)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// The address, and the text that the paths of reports are appended to, without a slash at its end.
fn base(url: &str, prefix: &str) -> Result<(Uri, String), OptionsError> {
    let wrong = || OptionsError::Url {
        url: url.to_owned(),
    };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority())
    else {
        return Err(wrong());
    };
    let mut base = format!("{scheme}://{authority}");
    for part in [uri.path(), prefix] {
        let part = part.trim_matches('/');
        if !part.is_empty() {
            base.push('/');
            base.push_str(part);
        }
    }
    // The prefix may hold what no path can.
    base.parse::<Uri>().map_err(|_| wrong())?;
    Ok((uri, base))
}

/// Reads what is left of an answer, up to a bound.
async fn read_away(mut body: Incoming) {
    let mut bytes = 0;
    while !body.is_end_stream()
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > MAX_ANSWER_BYTES {
            return;
        }
    }
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
            ("http://[::1]:1/?a=b", "/x", "http://[::1]:1/x"),
        ] {
            assert_eq!(base(url, prefix).unwrap().1, joined);
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
