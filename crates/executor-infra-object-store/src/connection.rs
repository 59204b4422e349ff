//! How requests travel: over our own connections, within bounds of time and bytes.

use std::{error::Error, fmt, time::Duration};

use async_trait::async_trait;
use executor_outbound::{ExchangeError, Outbound};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response,
    body::Bytes,
    header::{HeaderValue, USER_AGENT},
};
use object_store::{
    ClientOptions, Result,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
        HttpResponseBody, HttpService,
    },
};
use tokio::time::timeout;

/// Largest answer. What S3 says to an upload is some hundred bytes.
const MAX_ANSWER_BYTES: usize = 256 << 10;

/// Who sends.
const OWN_NAME: HeaderValue =
    HeaderValue::from_static(concat!("sandbox-executor/", env!("CARGO_PKG_VERSION")));

/// Connections to one store.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    pub(crate) outbound: Outbound,
    /// How long one request may take with its answer.
    pub(crate) attempt: Duration,
}

impl HttpConnector for Connections {
    fn connect(&self, _options: &ClientOptions) -> Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connections {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        request.headers_mut().insert(USER_AGENT, OWN_NAME);
        timeout(self.attempt, self.exchange(request))
            .await
            .unwrap_or_else(|_| Err(HttpError::new(HttpErrorKind::Timeout, Late(self.attempt))))
    }
}

impl Connections {
    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (head, body) = request.into_parts();
        // It is in memory already, and in one piece: nothing is copied.
        let body = Full::new(body.collect().await?.to_bytes());
        let request = Request::from_parts(head, body);
        let answer = self.outbound.send(request).await.map_err(unsent)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| HttpError::new(unread(&*error), Broken(error)))?
            .to_bytes();
        let body = Full::<Bytes>::new(body).map_err(|never| match never {});
        Ok(Response::from_parts(head, HttpResponseBody::new(body)))
    }
}

/// No connection, or one that was cut off: everything that is sent here may be sent twice.
fn unsent(error: ExchangeError) -> HttpError {
    HttpError::new(HttpErrorKind::Request, error)
}

/// Whether another attempt may end better, where an answer has begun.
fn unread(error: &(dyn Error + 'static)) -> HttpErrorKind {
    if error.is::<LengthLimitError>() {
        HttpErrorKind::Decode
    } else {
        HttpErrorKind::Interrupted
    }
}

/// An attempt took too long.
#[derive(Debug)]
struct Late(Duration);

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer within {:?}", self.0)
    }
}

impl Error for Late {}

/// An answer that is not whole, or too long.
#[derive(Debug)]
struct Broken(Box<dyn Error + Send + Sync>);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer could not be read")
    }
}

impl Error for Broken {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}
