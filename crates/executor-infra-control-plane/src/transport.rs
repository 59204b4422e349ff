//! Connections: plain, or with TLS where that was built in.

use std::time::Duration;

use http_body_util::Full;
use hyper::{
    Request, Response, Uri,
    body::{Bytes, Incoming},
};
use hyper_util::{
    client::legacy::{Builder, Client, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

use crate::OptionsError;

/// How long an idle connection is kept. Uvicorn, which the control planes that exist run on, closes its side after five
/// seconds, and a request that meets that moment fails.
const IDLE: Duration = Duration::from_secs(3);

type Body = Full<Bytes>;

/// What carries requests. Keeps connections for a while.
pub(crate) enum Transport {
    Plain(Client<HttpConnector, Body>),
    #[cfg(feature = "tls")]
    Tls(Client<crate::tls::Connector, Body>),
}

impl Transport {
    /// For addresses like this one.
    pub(crate) fn to(address: &Uri, connect_timeout: Duration) -> Result<Self, OptionsError> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(connect_timeout));
        connector.set_nodelay(true);
        if address.scheme_str() == Some("https") {
            Self::tls(connector)
        } else {
            Ok(Self::Plain(builder().build(connector)))
        }
    }

    #[cfg(feature = "tls")]
    fn tls(connector: HttpConnector) -> Result<Self, OptionsError> {
        Ok(Self::Tls(builder().build(crate::tls::over(connector)?)))
    }

    #[cfg(not(feature = "tls"))]
    fn tls(_connector: HttpConnector) -> Result<Self, OptionsError> {
        Err(OptionsError::NoTls)
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, Error> {
        match self {
            Self::Plain(client) => client.request(request).await,
            #[cfg(feature = "tls")]
            Self::Tls(client) => client.request(request).await,
        }
    }
}

fn builder() -> Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_idle_timeout(IDLE)
        .pool_timer(TokioTimer::new());
    builder
}
