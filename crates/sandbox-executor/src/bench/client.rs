//! A client as others are: one connection that stays open, one request at a time, and a look at every answer.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use executor_domain::Start;
use http::{
    Request, StatusCode,
    header::{CONTENT_TYPE, HOST, RETRY_AFTER},
};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Bytes,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{
    Failure,
    plan::{Expected, Subject, start_of},
};

/// Numbers programs, executions and sessions, so that no two are alike.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A client with a session of its own.
pub(super) struct Client {
    requests: SendRequest<Full<Bytes>>,
    host: String,
    session: String,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answered {
    /// It ran, and its guest answered what only it can answer.
    Ran(Start),
    /// There was no place for it; whether it was told when to come back.
    Refused { retry_after: bool },
}

impl Client {
    /// Connects. The connection is carried by a task of the runtime that this is called in, and ends with the client.
    pub(super) async fn connect(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Whoever sends the next request hears why there is no connection any more.
        tokio::spawn(connection);
        Ok(Self {
            requests,
            host: address.to_string(),
            session: format!("bench-{}", NUMBER.fetch_add(1, Ordering::Relaxed)),
        })
    }

    /// Asks for something, and reads the whole answer.
    pub(super) async fn get(&mut self, path: &str) -> Result<Value, Failure> {
        let request = Request::get(path)
            .header(HOST, &self.host)
            .body(Full::default())?;
        let answer = self.requests.send_request(request).await?;
        let body = answer.into_body().collect().await?.to_bytes();
        Ok(serde_json::from_slice(&body)?)
    }

    /// Runs whatever it is, and returns the answer.
    pub(super) async fn post(&mut self, body: &Value) -> Result<Value, Failure> {
        let answer = self.requests.send_request(self.execute(body)?).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status != StatusCode::OK {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into());
        }
        self.requests.ready().await?;
        Ok(serde_json::from_slice(&body)?)
    }

    fn execute(&self, body: &Value) -> Result<Request<Full<Bytes>>, Failure> {
        let request = Request::post("/execute")
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body.to_string()))?;
        Ok(request)
    }

    /// Runs a program that nobody has run before. The time is from before the request is sent to the last byte of the
    /// answer, and does not include looking at it.
    pub(super) async fn run(&mut self, subject: &Subject) -> Result<(Answered, Duration), Failure> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (code, expected) = subject.program(number);
        let body = json!({
            "execution_id": format!("bench-{number}"),
            "session_id": self.session,
            "language": subject.language(),
            "code": code,
        });
        let request = self.execute(&body)?;
        let begin = Instant::now();
        let answer = self.requests.send_request(request).await?;
        let status = answer.status();
        let retry_after = answer.headers().contains_key(RETRY_AFTER);
        let body = answer.into_body().collect().await?.to_bytes();
        let took = begin.elapsed();
        let answered = match status {
            StatusCode::OK => Answered::Ran(judge(&body, &expected)?),
            StatusCode::TOO_MANY_REQUESTS => Answered::Refused { retry_after },
            other => return Err(format!("{other}: {}", String::from_utf8_lossy(&body)).into()),
        };
        // The sender is ready again only once the connection's task has seen the end of the body.
        self.requests.ready().await?;
        Ok((answered, took))
    }

    /// The same where it must run.
    pub(super) async fn must_run(
        &mut self,
        subject: &Subject,
    ) -> Result<(Start, Duration), Failure> {
        match self.run(subject).await? {
            (Answered::Ran(start), took) => Ok((start, took)),
            (Answered::Refused { .. }, _) => Err("a run was refused that had a place".into()),
        }
    }
}

/// How the guest was started, if it ended as it should and answered what only it can answer.
fn judge(body: &[u8], expected: &Expected) -> Result<Start, Failure> {
    let answer: Value = serde_json::from_slice(body)?;
    let right = match expected {
        Expected::ReturnValue(value) => answer["return_value"] == value.as_str(),
        Expected::Stdout(text) => answer["stdout"] == text.as_str(),
    };
    if !right || answer["status"] != "completed" {
        return Err(format!("a wrong answer: expected {expected:?}, got {answer}").into());
    }
    answer["metrics"]["start"]
        .as_str()
        .and_then(start_of)
        .ok_or_else(|| format!("an answer does not say how its run started: {answer}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(answer: &Value, expected: &Expected) -> Option<Start> {
        judge(answer.to_string().as_bytes(), expected).ok()
    }

    #[test]
    fn only_the_right_answer_of_a_run_that_ended_well_counts() {
        let right = json!({"status": "completed", "return_value": "hello 7", "stdout": "", "metrics": {"start": "warm"}});
        let expected = Expected::ReturnValue("hello 7".into());
        assert_eq!(judged(&right, &expected), Some(Start::Warm));
        for (field, wrong) in [
            ("status", json!("failed")),
            ("return_value", json!("hello 8")),
            ("return_value", Value::Null),
            ("metrics", json!({"start": "tepid"})),
            ("metrics", Value::Null),
        ] {
            let mut answer = right.clone();
            answer[field] = wrong;
            assert_eq!(judged(&answer, &expected), None, "{answer}");
        }
        let printed =
            json!({"status": "completed", "stdout": "hello 7\n", "metrics": {"start": "cold"}});
        let expected = Expected::Stdout("hello 7\n".into());
        assert_eq!(judged(&printed, &expected), Some(Start::Cold));
        assert_eq!(judged(&right, &expected), None);
        assert!(judge(b"", &expected).is_err());
    }
}
