//! Connections to the services that the daemon reports to: a control plane, a collector of traces. HTTP/1.1, plain, or with
//! TLS where that was built in.
//!
//! What is sent holds tokens and what guests printed: it goes where it is addressed to, or nowhere. So redirects are not
//! followed, and no proxy of the environment is asked. How long an exchange may take, and how much of an answer is read, is
//! for those to bound who know what they wait for.

#[cfg(feature = "tls")]
mod tls;

use std::{error::Error, fmt, fmt::Write as _, io, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response, Uri,
    body::{Bytes, Incoming},
};
use hyper_util::{
    client::legacy::{Builder, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

/// How long an idle connection is kept. Uvicorn, which the control planes that exist run on, closes its side after five
/// seconds, and a request that meets that moment fails.
const IDLE: Duration = Duration::from_secs(3);

type Body = Full<Bytes>;

/// Why nobody can be connected to at an address, whether or not somebody is there.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
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
    /// The host's certificates cannot be used.
    #[error("failed to read the certificates that this host trusts")]
    Certificates(#[source] io::Error),
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
#[error("failed to get an answer")]
pub struct ExchangeError(#[from] hyper_util::client::legacy::Error);

/// Carries requests, and keeps connections for a while. Cheap to clone: clones share the connections.
#[derive(Clone)]
pub struct Outbound(Transport);

#[derive(Clone)]
enum Transport {
    Plain(Client<HttpConnector, Body>),
    #[cfg(feature = "tls")]
    Tls(Client<tls::Connector, Body>),
}

impl Outbound {
    /// For addresses with the scheme of this one. Connects to nobody yet; for `https`, reads the certificates that the host
    /// trusts: `SSL_CERT_FILE`, and except on macOS `SSL_CERT_DIR`, name others.
    ///
    /// # Errors
    ///
    /// Where the scheme is `https` and this executable, processor or host cannot do that.
    pub fn to(address: &Uri, connect_timeout: Duration) -> Result<Self, OutboundError> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(connect_timeout));
        connector.set_nodelay(true);
        if address.scheme_str() == Some("https") {
            with_tls(connector).map(Self)
        } else {
            Ok(Self(Transport::Plain(builder().build(connector))))
        }
    }

    /// Sends a request and returns the head of the answer; its body is yet to be read. Must be called inside a tokio
    /// runtime. Dropping the future gives the exchange up; the other side may have got the request nevertheless.
    ///
    /// # Errors
    ///
    /// Where no connection comes about, or what comes back is no HTTP.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, ExchangeError> {
        match &self.0 {
            Transport::Plain(client) => Ok(client.request(request).await?),
            #[cfg(feature = "tls")]
            Transport::Tls(client) => Ok(client.request(request).await?),
        }
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Transport::Plain(_) => "Outbound(http)",
            #[cfg(feature = "tls")]
            Transport::Tls(_) => "Outbound(https)",
        })
    }
}

/// An error and all its sources in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string does not fail.
        let _ = write!(line, ": {cause}");
        source = cause.source();
    }
    line
}

#[cfg(feature = "tls")]
fn with_tls(connector: HttpConnector) -> Result<Transport, OutboundError> {
    Ok(Transport::Tls(builder().build(tls::over(connector)?)))
}

#[cfg(not(feature = "tls"))]
fn with_tls(_connector: HttpConnector) -> Result<Transport, OutboundError> {
    Err(OutboundError::NoTls)
}

fn builder() -> Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_idle_timeout(IDLE)
        .pool_timer(TokioTimer::new());
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_is_there_where_it_was_built_in_and_refused_by_name_elsewhere() {
        let secure = "https://collector:4318".parse().unwrap();
        let to = Outbound::to(&secure, Duration::from_secs(1));
        if cfg!(feature = "tls") {
            assert_eq!(format!("{:?}", to.unwrap()), "Outbound(https)");
        } else {
            assert!(matches!(to, Err(OutboundError::NoTls)));
        }
        let plain = "http://collector:4318".parse().unwrap();
        let to = Outbound::to(&plain, Duration::from_secs(1)).unwrap();
        assert_eq!(format!("{to:?}"), "Outbound(http)");
    }

    #[test]
    fn a_chain_names_every_cause() {
        let error = OutboundError::Certificates(io::Error::other("no such file"));
        assert_eq!(
            chain(&error),
            "failed to read the certificates that this host trusts: no such file"
        );
    }
}
