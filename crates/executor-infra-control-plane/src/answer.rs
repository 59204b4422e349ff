//! What an answer means: a pure function of its status and of `Retry-After`.

use std::time::{Duration, SystemTime};

use executor_application::Delivery;
use hyper::{HeaderMap, StatusCode, header::RETRY_AFTER};

/// What became of a report that was answered like this.
pub(crate) fn verdict(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Delivery {
    // The answer's body may repeat what was sent, so it is never part of the reason.
    let code = status.as_u16();
    match code {
        200..=299 => Delivery::Delivered,
        // 401: a token that is being replaced. The rest says of itself that it passes (RFC 9110, section 15; RFC 6585).
        401 | 408 | 429 | 500.. => Delivery::Retry {
            after: retry_after(headers, now),
            reason: format!("it answered {code}"),
        },
        300..=399 => Delivery::Refused {
            reason: format!("it answered {code}, and redirects are not followed"),
        },
        _ => Delivery::Refused {
            reason: format!("it answered {code}"),
        },
    }
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date. What is neither does not count.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        return value.parse().ok().map(Duration::from_secs);
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One hour before the date in the examples of RFC 9110.
    fn before_the_example() -> SystemTime {
        httpdate::parse_http_date("Fri, 31 Dec 1999 22:59:59 GMT").unwrap()
    }

    fn kind(code: u16) -> &'static str {
        let status = StatusCode::from_u16(code).unwrap();
        match verdict(status, &HeaderMap::new(), SystemTime::UNIX_EPOCH) {
            Delivery::Delivered => "delivered",
            Delivery::Retry { .. } => "retry",
            Delivery::Refused { .. } => "refused",
        }
    }

    #[test]
    fn every_status_means_what_the_contract_says() {
        for code in 100..=999 {
            let expected = match code {
                200..=299 => "delivered",
                401 | 408 | 429 | 500..=999 => "retry",
                _ => "refused",
            };
            assert_eq!(kind(code), expected, "{code}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_or_nothing() {
        let hour = Some(Duration::from_secs(3600));
        for (value, expected) in [
            ("120", Some(Duration::from_secs(120))),
            (" 7 ", Some(Duration::from_secs(7))),
            ("0", Some(Duration::ZERO)),
            ("Fri, 31 Dec 1999 23:59:59 GMT", hour),
            ("Friday, 31-Dec-99 23:59:59 GMT", hour),
            ("Thu, 31 Dec 1998 23:59:59 GMT", Some(Duration::ZERO)),
            ("99999999999999999999999", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            assert_eq!(
                retry_after(&headers, before_the_example()),
                expected,
                "{value:?}"
            );
        }
        let mut headers = HeaderMap::new();
        headers.insert(
            RETRY_AFTER,
            hyper::header::HeaderValue::from_bytes(b"\xff").unwrap(),
        );
        assert_eq!(retry_after(&headers, before_the_example()), None);
    }
}
