//! Conditional requests (RFC 9110, section 13) and parts of files (section 14).

use axum::http::{HeaderMap, HeaderName, header};
use executor_application::Condition;

use crate::{error::ApiError, problems::Problems};

/// Entity tags of one request. A client has no use for more, and each is compared.
const MAX_TAGS: usize = 100;

/// A tag as it stands in a header.
pub(super) fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

/// What `If-Match`, `If-None-Match` and the like say.
#[derive(Debug, PartialEq, Eq)]
enum Tags {
    /// `*`
    Any,
    /// These, and whether each is a weak one.
    These(Vec<(bool, String)>),
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, ApiError> {
    let wrong = || {
        ApiError::InvalidFields(Problems::one(
            name,
            "must be `*` or a list of entity tags in quotes",
        ))
    };
    let mut these = Vec::new();
    let mut seen = false;
    for value in headers.get_all(name) {
        seen = true;
        let mut rest = value.to_str().map_err(|_| wrong())?.trim();
        if rest == "*" {
            return Ok(Some(Tags::Any));
        }
        while !rest.is_empty() {
            let (weak, tag) = match rest.strip_prefix("W/") {
                Some(tag) => (true, tag),
                None => (false, rest),
            };
            let (tag, behind) = tag
                .strip_prefix('"')
                .and_then(|tag| tag.split_once('"'))
                .ok_or_else(wrong)?;
            these.push((weak, tag.to_owned()));
            if these.len() > MAX_TAGS {
                return Err(wrong());
            }
            let behind = behind.trim_start();
            rest = match behind.strip_prefix(',') {
                Some(more) => more.trim_start(),
                None if behind.is_empty() => "",
                None => return Err(wrong()),
            };
        }
    }
    Ok(seen.then_some(Tags::These(these)))
}

/// What has to be so for a file to be changed.
pub(crate) fn for_change(headers: &HeaderMap) -> Result<Condition, ApiError> {
    let wanted = tags(headers, &header::IF_MATCH)?;
    let unwanted = tags(headers, &header::IF_NONE_MATCH)?;
    match (wanted, unwanted) {
        (None, None) => Ok(Condition::Always),
        (None, Some(Tags::Any)) => Ok(Condition::Absent),
        (Some(Tags::Any), None) => Ok(Condition::Present),
        // A weak tag never matches where strong ones are compared (section 8.8.3.2).
        (Some(Tags::These(these)), None) => Ok(Condition::Etag(
            these
                .into_iter()
                .filter_map(|(weak, tag)| (!weak).then_some(tag))
                .collect(),
        )),
        (_, Some(_)) => Err(ApiError::InvalidFields(Problems::one(
            "If-None-Match",
            "must be `*` and alone where a file is changed",
        ))),
    }
}

/// What becomes of a request for a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All of it.
    Whole,
    /// From this byte on, so many.
    Part { start: u64, length: u64 },
    /// Whoever asks has it already.
    NotModified,
    /// It is not as whoever asks wants it.
    Failed,
    /// It has no such part.
    OutOfRange,
}

/// What a request for a file with this tag and size is to be answered with.
pub(crate) fn judge(headers: &HeaderMap, etag: &str, size: u64) -> Result<Verdict, ApiError> {
    if let Some(wanted) = tags(headers, &header::IF_MATCH)? {
        let holds = match wanted {
            Tags::Any => true,
            Tags::These(these) => these.iter().any(|(weak, tag)| !weak && tag == etag),
        };
        if !holds {
            return Ok(Verdict::Failed);
        }
    }
    match tags(headers, &header::IF_NONE_MATCH)? {
        Some(Tags::Any) => return Ok(Verdict::NotModified),
        Some(Tags::These(these)) if these.iter().any(|(_, tag)| tag == etag) => {
            return Ok(Verdict::NotModified);
        }
        _ => {}
    }
    // Of another state of the file, no part is worth anything (section 13.1.5). A date never is a strong validator here.
    if let Some(value) = headers.get(header::IF_RANGE)
        && value.as_bytes() != quoted(etag).as_bytes()
    {
        return Ok(Verdict::Whole);
    }
    let mut ranges = headers.get_all(header::RANGE).iter();
    Ok(match (ranges.next(), ranges.next()) {
        (Some(range), None) => part(range.to_str().unwrap_or_default(), size),
        _ => Verdict::Whole,
    })
}

/// One part of a file. Other units, several parts at once and nonsense are ignored, as RFC 9110 allows (section 14.2).
fn part(range: &str, size: u64) -> Verdict {
    let Some((unit, range)) = range.split_once('=') else {
        return Verdict::Whole;
    };
    let range = range.trim();
    if !unit.trim().eq_ignore_ascii_case("bytes") || range.contains(',') {
        return Verdict::Whole;
    }
    let Some((first, last)) = range.split_once('-') else {
        return Verdict::Whole;
    };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // A number that is too large to be one is beyond every file.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (start, end) = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(size)),
        (Some(first), None) if last.is_empty() => (first, size),
        // The last so many bytes.
        (None, Some(0)) if first.is_empty() => return Verdict::OutOfRange,
        (None, Some(length)) if first.is_empty() => (size.saturating_sub(length), size),
        _ => return Verdict::Whole,
    };
    if start >= size {
        return Verdict::OutOfRange;
    }
    Verdict::Part {
        start,
        length: end - start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.clone(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn one_range_is_a_part() {
        let at = |start, length| Verdict::Part { start, length };
        for (range, expected) in [
            ("bytes=0-0", at(0, 1)),
            ("bytes=0-9", at(0, 10)),
            ("bytes=0-", at(0, 10)),
            ("bytes=9-", at(9, 1)),
            ("bytes=3-5", at(3, 3)),
            ("bytes=3-500", at(3, 7)),
            ("bytes=3-99999999999999999999999", at(3, 7)),
            ("bytes=-4", at(6, 4)),
            ("bytes=-400", at(0, 10)),
            ("Bytes= 3-5", at(3, 3)),
            ("bytes=10-", Verdict::OutOfRange),
            ("bytes=99999999999999999999999-", Verdict::OutOfRange),
            ("bytes=-0", Verdict::OutOfRange),
            ("bytes=5-3", Verdict::Whole),
            ("bytes=0-1,3-4", Verdict::Whole),
            ("bytes=-", Verdict::Whole),
            ("bytes=a-b", Verdict::Whole),
            ("bytes=+1-2", Verdict::Whole),
            ("lines=1-2", Verdict::Whole),
            ("nonsense", Verdict::Whole),
        ] {
            assert_eq!(part(range, 10), expected, "{range}");
        }
        assert_eq!(part("bytes=0-", 0), Verdict::OutOfRange);
    }

    #[test]
    fn a_part_of_another_state_is_worth_nothing() {
        let range = (header::RANGE, "bytes=0-1");
        let judged = |value| {
            judge(
                &headers(&[range.clone(), (header::IF_RANGE, value)]),
                "a",
                10,
            )
            .unwrap()
        };
        assert_eq!(
            judged("\"a\""),
            Verdict::Part {
                start: 0,
                length: 2
            }
        );
        for other in ["\"b\"", "W/\"a\"", "Wed, 21 Oct 2015 07:28:00 GMT"] {
            assert_eq!(judged(other), Verdict::Whole, "{other}");
        }
    }

    #[test]
    fn who_has_it_already_is_told_so() {
        let none_match =
            |value| judge(&headers(&[(header::IF_NONE_MATCH, value)]), "a", 10).unwrap();
        for same in [
            "\"a\"",
            "W/\"a\"",
            "\"x\", \"a\"",
            "\"x\",\"a\" , \"y\"",
            "*",
        ] {
            assert_eq!(none_match(same), Verdict::NotModified, "{same}");
        }
        assert_eq!(none_match("\"b\""), Verdict::Whole);
        let matching = |value| judge(&headers(&[(header::IF_MATCH, value)]), "a", 10).unwrap();
        assert_eq!(matching("\"a\""), Verdict::Whole);
        assert_eq!(matching("*"), Verdict::Whole);
        assert_eq!(matching("W/\"a\""), Verdict::Failed);
        assert_eq!(matching("\"b\""), Verdict::Failed);
        assert!(judge(&headers(&[(header::IF_MATCH, "a")]), "a", 10).is_err());
        let many = "\"x\",".repeat(MAX_TAGS + 1);
        assert!(judge(&headers(&[(header::IF_MATCH, &many)]), "a", 10).is_err());
    }

    #[test]
    fn changes_have_conditions() {
        let change = |pairs: &[(HeaderName, &str)]| for_change(&headers(pairs));
        assert_eq!(change(&[]).unwrap(), Condition::Always);
        assert_eq!(
            change(&[(header::IF_MATCH, "\"a\", W/\"b\"")]).unwrap(),
            Condition::Etag(vec!["a".into()])
        );
        assert_eq!(
            change(&[(header::IF_MATCH, "*")]).unwrap(),
            Condition::Present
        );
        assert_eq!(
            change(&[(header::IF_NONE_MATCH, "*")]).unwrap(),
            Condition::Absent
        );
        assert!(change(&[(header::IF_NONE_MATCH, "\"a\"")]).is_err());
        assert!(change(&[(header::IF_NONE_MATCH, "*"), (header::IF_MATCH, "*")]).is_err());
    }
}
