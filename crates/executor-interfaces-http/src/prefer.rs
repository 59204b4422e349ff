//! How a caller wants to be answered.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, header};

/// RFC 7240, section 2.
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// Longest wait that a preference can ask for: what the longest run takes, and the queue before it.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

/// How a caller wants to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answering {
    /// With the result, once there is one.
    Result,
    /// At once, or with the result if it comes within this time.
    Later {
        /// How long to wait for the result.
        wait: Option<Duration>,
        /// Whether the caller asked for it, or it is how this daemon answers.
        asked: bool,
    },
    /// With what happens, as it happens.
    Stream,
}

impl Answering {
    /// What a request asks for. What cannot be understood is no preference (RFC 7240, section 2).
    pub(crate) fn of(headers: &HeaderMap, later_by_default: bool) -> Self {
        if prefers_events(headers) {
            return Self::Stream;
        }
        let preferences = Preferences::of(headers);
        if preferences.respond_async || later_by_default {
            Self::Later {
                wait: preferences.wait,
                asked: preferences.respond_async,
            }
        } else {
            Self::Result
        }
    }
}

#[derive(Default)]
struct Preferences {
    respond_async: bool,
    wait: Option<Duration>,
}

impl Preferences {
    fn of(headers: &HeaderMap) -> Self {
        let mut preferences = Self::default();
        for item in items(headers, &PREFER) {
            // Parameters of a preference change nothing that we know.
            let preference = item.split(';').next().unwrap_or_default();
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "respond-async" => preferences.respond_async = true,
                // Of several the first counts.
                "wait" if preferences.wait.is_none() => {
                    let seconds = value.parse().ok().map(Duration::from_secs);
                    preferences.wait = seconds.map(|wait| wait.min(MAX_WAIT));
                }
                _ => {}
            }
        }
        preferences
    }
}

/// Whether events are preferred to JSON. Of those that are equally welcome the first counts (RFC 9110, section 12.5.1,
/// leaves that to us).
fn prefers_events(headers: &HeaderMap) -> bool {
    let mut best = (0.0, false);
    for item in items(headers, &header::ACCEPT) {
        let mut parts = item.split(';').map(str::trim);
        let range = parts.next().unwrap_or_default().to_ascii_lowercase();
        let is_events = match range.as_str() {
            "text/event-stream" => true,
            "application/json" | "application/*" | "*/*" => false,
            _ => continue,
        };
        let quality = parts
            .find_map(|part| part.strip_prefix("q="))
            .map_or(1.0, |quality| quality.parse().unwrap_or(0.0));
        if quality > best.0 {
            best = (quality, is_events);
        }
    }
    best.1
}

/// The members of a list that may be spread over several headers.
fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&'static str, &'static str)]) -> Answering {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        Answering::of(&map, false)
    }

    const fn later(wait: Option<u64>) -> Answering {
        Answering::Later {
            wait: match wait {
                Some(seconds) => Some(Duration::from_secs(seconds)),
                None => None,
            },
            asked: true,
        }
    }

    #[test]
    fn preferences_come_in_every_spelling() {
        for prefer in [
            "respond-async",
            "Respond-Async",
            "return=minimal, respond-async",
            "respond-async; foo=bar",
            "wait=x, respond-async",
        ] {
            assert_eq!(of(&[("prefer", prefer)]), later(None), "{prefer}");
        }
        assert_eq!(of(&[("prefer", "respond-async, wait=5")]), later(Some(5)));
        assert_eq!(
            of(&[("prefer", "wait=\"5\""), ("prefer", "respond-async,wait=9")]),
            later(Some(5))
        );
        for prefer in ["", "wait=5", "respond-asynchronously", "handling=lenient"] {
            assert_eq!(of(&[("prefer", prefer)]), Answering::Result, "{prefer}");
        }
    }

    #[test]
    fn events_come_where_they_are_preferred() {
        for accept in [
            "text/event-stream",
            "TEXT/event-stream;q=0.5",
            "text/event-stream, */*",
            "application/json;q=0.1, text/event-stream",
        ] {
            assert_eq!(of(&[("accept", accept)]), Answering::Stream, "{accept}");
        }
        for accept in [
            "*/*",
            "application/json, text/event-stream",
            "text/event-stream;q=0",
            "text/event-stream;q=0.1, */*",
            "text/html",
        ] {
            assert_eq!(of(&[("accept", accept)]), Answering::Result, "{accept}");
        }
    }

    #[test]
    fn what_is_usual_here_can_wait_too() {
        let mut headers = HeaderMap::new();
        headers.append("prefer", "wait=3".parse().unwrap());
        assert_eq!(
            Answering::of(&headers, true),
            Answering::Later {
                wait: Some(Duration::from_secs(3)),
                asked: false
            }
        );
    }
}
