//! From text to values: one function for each shape. An error reads on from the setting's name: "must be …".

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use executor_domain::Language;
use http::Uri;
use tracing_subscriber::EnvFilter;

use crate::{logging::LogFormat, secret::Secret};

/// What is wrong with a value, without the value itself, which may be a secret.
pub(crate) type Wrong = String;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Longest duration that can be configured: 10 years. Far beyond use, and far from overflow when added to a clock.
const MAX_SECONDS: u64 = 3650 * DAY;

/// A name that somebody else gave us: one line of any text.
pub(crate) fn name(text: &str) -> Result<String, Wrong> {
    if text.contains(char::is_control) {
        Err("must not have control characters".into())
    } else {
        Ok(text.to_owned())
    }
}

/// `true` or `false`.
pub(crate) fn switch(text: &str) -> Result<bool, Wrong> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("must be true or false".into()),
    }
}

/// A whole number between two others.
pub(crate) fn number(floor: u64, ceiling: u64) -> impl Fn(&str) -> Result<u64, Wrong> {
    move |text| match text.parse() {
        Ok(number) if (floor..=ceiling).contains(&number) => Ok(number),
        _ => Err(format!(
            "must be a whole number between {floor} and {ceiling}"
        )),
    }
}

/// The same for numbers that are counted, not measured.
pub(crate) fn count(floor: u64, ceiling: u32) -> impl Fn(&str) -> Result<usize, Wrong> {
    move |text| {
        let number = number(floor, ceiling.into())(text)?;
        usize::try_from(number).map_err(|_| "is too large for this machine".into())
    }
}

/// A part of a whole, in percent.
pub(crate) fn percent(text: &str) -> Result<u8, Wrong> {
    match text.parse() {
        Ok(percent) if (1..=100).contains(&percent) => Ok(percent),
        _ => Err("must be a whole number between 1 and 100".into()),
    }
}

/// A whole number whose bounds are somebody else's business.
pub(crate) fn any_number(text: &str) -> Result<u64, Wrong> {
    text.parse().map_err(|_| "must be a whole number".into())
}

/// Languages, separated by commas, at least one.
pub(crate) fn languages(text: &str) -> Result<Vec<Language>, Wrong> {
    text.split(',')
        .map(|name| {
            Language::parse(name.trim()).map_err(|_| {
                "must be some of python, javascript and shell, separated by commas".into()
            })
        })
        .collect()
}

/// Names of Python modules, separated by commas.
pub(crate) fn python_modules(text: &str) -> Result<Vec<String>, Wrong> {
    let is_name = |name: &str| {
        name.split('.').all(|part| {
            part.starts_with(|c: char| c.is_alphabetic() || c == '_')
                && part.chars().all(|c| c.is_alphanumeric() || c == '_')
        })
    };
    let names = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    names
        .map(|name| {
            is_name(name).then(|| name.to_owned()).ok_or_else(|| {
                "must be names of Python modules, separated by commas, such as numpy,pandas".into()
            })
        })
        .collect()
}

/// Names of Node packages, or of modules in them, separated by commas. No paths: what a zygote loads is the host's.
pub(crate) fn node_packages(text: &str) -> Result<Vec<String>, Wrong> {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.~".contains(c))
    };
    let is_name = |name: &str| {
        let (is_scoped, rest) = match name.strip_prefix('@') {
            Some(rest) => (true, rest),
            None => (false, name),
        };
        rest.split('/').all(is_part) && (!is_scoped || rest.contains('/'))
    };
    text.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(|name| {
            is_name(name).then(|| name.to_owned()).ok_or_else(|| {
                "must be names of Node packages, separated by commas, such as lodash,@babel/core"
                    .into()
            })
        })
        .collect()
}

/// A TCP port.
pub(crate) fn port(text: &str) -> Result<u16, Wrong> {
    text.parse().map_err(|_| {
        let mut wrong = "must be a port number, 0 to 65535".to_owned();
        if text.starts_with("tcp://") {
            // https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
            wrong.push_str(
                "; Kubernetes sets this variable where a Service is named \"executor\": \
                 rename it, or set `enableServiceLinks: false` in the pod",
            );
        }
        wrong
    })
}

/// The id of a user or group that is not root's, nor the one that means "no id" (setreuid(2)).
pub(crate) fn unprivileged_id(text: &str) -> Result<u32, Wrong> {
    match text.parse() {
        Ok(id) if (1..u32::MAX).contains(&id) => Ok(id),
        _ => Err("must be an id between 1 and 4294967294: guests never run as root".into()),
    }
}

/// Bytes: a whole number, with KiB, MiB or GiB behind it or nothing.
pub(crate) fn bytes(text: &str) -> Result<u64, Wrong> {
    const UNITS: [(&str, u64); 5] = [
        ("", 1),
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
    ];
    with_unit(text, &UNITS)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "must be a number of bytes above 0, such as 1048576 or 1MiB".into())
}

/// A duration of at least a second: whole seconds, or a whole number with s, m, h or d behind it.
pub(crate) fn duration(text: &str) -> Result<Duration, Wrong> {
    seconds(text).map(Duration::from_secs)
}

/// The same in seconds.
pub(crate) fn seconds(text: &str) -> Result<u64, Wrong> {
    const UNITS: [(&str, u64); 5] = [("", 1), ("s", 1), ("m", MINUTE), ("h", HOUR), ("d", DAY)];
    with_unit(text, &UNITS)
        .filter(|seconds| (1..=MAX_SECONDS).contains(seconds))
        .ok_or_else(|| {
            "must be a duration of at least a second, such as 90, 90s, 15m, 24h or 7d".into()
        })
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// An address to listen on.
pub(crate) fn address(text: &str) -> Result<IpAddr, Wrong> {
    if text == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    text.parse()
        .map_err(|_| "must be an IP address such as 127.0.0.1, 0.0.0.0 or ::1, or localhost".into())
}

/// Any path.
pub(crate) fn path(text: &str) -> Result<PathBuf, Wrong> {
    if text.is_empty() || text.contains('\0') {
        Err("must be a path".into())
    } else {
        Ok(PathBuf::from(text))
    }
}

/// A path that starts at the root, for what must not depend on where the daemon was started.
pub(crate) fn absolute_path(text: &str) -> Result<PathBuf, Wrong> {
    let path = path(text)?;
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("must be an absolute path".into())
    }
}

/// The directory of workspaces.
pub(crate) fn workspace_path(text: &str) -> Result<PathBuf, Wrong> {
    let path = std::path::absolute(path(text)?).map_err(|_| "must be a path")?;
    if path.parent().is_none() {
        return Err("must not be the root of the file system: guests write there".into());
    }
    Ok(path)
}

/// A directory, or `none`.
pub(crate) fn directory_or_none(text: &str) -> Result<Option<PathBuf>, Wrong> {
    if text == "none" {
        return Ok(None);
    }
    let path = std::path::absolute(path(text)?).map_err(|_| "must be a path, or none")?;
    Ok(Some(path))
}

/// A bearer token: what fits into a header and has no end that an editor could have added.
pub(crate) fn token(text: &str) -> Result<Secret, Wrong> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(Secret::new(text.to_owned()))
    } else {
        Err("must consist of visible ASCII characters, without spaces, and not be empty".into())
    }
}

/// Where the control plane is; `None` for `none`.
pub(crate) fn control_plane(text: &str) -> Result<Option<Uri>, Wrong> {
    const EXAMPLE: &str = "must be an http or https URL such as http://control-plane:8000, or none";
    if text == "none" {
        return Ok(None);
    }
    let secret = "must not hold credentials: the token is INTERNAL_API_TOKEN";
    base_url(text, EXAMPLE, secret).map(Some)
}

/// Where traces are sent.
pub(crate) fn collector(text: &str) -> Result<Uri, Wrong> {
    const EXAMPLE: &str = "must be an http or https URL such as http://localhost:4318";
    let secret = "must not hold credentials: they go into OTEL_EXPORTER_OTLP_HEADERS";
    base_url(text, EXAMPLE, secret)
}

/// A URL to which paths are added.
fn base_url(text: &str, example: &str, credentials: &str) -> Result<Uri, Wrong> {
    let uri: Uri = text.parse().map_err(|_| example)?;
    let authority = uri.authority().ok_or(example)?;
    let scheme = uri.scheme_str().unwrap_or_default();
    if !["http", "https"].contains(&scheme) || authority.host().is_empty() {
        return Err(example.into());
    }
    if authority.as_str().contains('@') {
        return Err(credentials.into());
    }
    // A fragment never reaches `uri`: its parser drops it.
    if uri.query().is_some() || text.contains('#') {
        return Err("must end with its path: no query, no fragment".into());
    }
    Ok(uri)
}

/// Where an object store is, or where its objects are fetched from; without a slash at its end.
pub(crate) fn store_url(text: &str) -> Result<String, Wrong> {
    const EXAMPLE: &str = "must be an http or https URL such as https://s3.example.com";
    let secret = "must not hold credentials: they are S3_ACCESS_KEY and S3_SECRET_KEY";
    base_url(text, EXAMPLE, secret)?;
    Ok(text.trim_end_matches('/').to_owned())
}

/// A bucket (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>).
pub(crate) fn bucket(text: &str) -> Result<String, Wrong> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    let ends = |c: char| c.is_ascii_alphanumeric();
    if (3..=63).contains(&text.len())
        && text.chars().all(plain)
        && text.starts_with(ends)
        && text.ends_with(ends)
    {
        Ok(text.to_owned())
    } else {
        Err("must be a bucket's name: 3 to 63 lower-case letters, digits, - and .".into())
    }
}

/// What the keys of objects begin with: plain names with slashes between them.
pub(crate) fn key_prefix(text: &str) -> Result<String, Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && name.chars().all(plain);
    if text.len() <= 256 && text.split('/').all(is_name) {
        Ok(text.to_owned())
    } else {
        Err("must be names of letters, digits and - . _ with slashes between them, such as team/runs".into())
    }
}

/// A word of letters, digits and dashes.
pub(crate) fn word(text: &str) -> Result<String, Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if !text.is_empty() && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("must be a word of letters, digits and dashes".into())
    }
}

/// The path of a URL, with nothing in it that would need to be escaped.
pub(crate) fn url_path(text: &str) -> Result<String, Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~".contains(c);
    if text.starts_with('/') && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("must be a path such as /api/v1/internal, of letters, digits and - . _ ~".into())
    }
}

/// A filter of log lines. A single word that is no level would be taken for the name of a module, and silence
/// everything else.
pub(crate) fn log_level(text: &str) -> Result<String, Wrong> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let known = |directive: &str| {
        directive.contains(['=', '['])
            || LEVELS
                .iter()
                .any(|level| level.eq_ignore_ascii_case(directive))
    };
    if text.split(',').all(|part| known(part.trim())) && EnvFilter::builder().parse(text).is_ok() {
        Ok(text.to_owned())
    } else {
        Err("must be one of off, error, warn, info, debug, trace, or directives such as info,hyper=debug".into())
    }
}

/// How log lines look.
pub(crate) fn log_format(text: &str) -> Result<LogFormat, Wrong> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be text or json".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_units_and_bytes_do() {
        for (text, seconds) in [
            ("90", 90),
            ("90s", 90),
            ("15m", 900),
            ("24h", 86_400),
            ("7 d", 604_800),
            ("3650d", MAX_SECONDS),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text:?}");
        }
        for bad in [
            "",
            "0",
            "-1",
            "1.5",
            "h",
            "24H",
            "1h30m",
            "3651d",
            "99999999999999999999",
            "9999999999999999999d",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
        assert_eq!(bytes("10 MiB"), Ok(10 << 20));
        assert_eq!(bytes("1024"), Ok(1024));
        for bad in ["0", "", "MiB", "10MB", "18446744073709551615GiB"] {
            assert!(bytes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbers_stand_at_their_bounds() {
        let parse = number(1, 10);
        assert_eq!((parse("1"), parse("10")), (Ok(1), Ok(10)));
        assert!(parse("0").is_err() && parse("11").is_err() && parse("+").is_err());
        assert_eq!(port("0"), Ok(0));
        assert_eq!(port("65535"), Ok(65535));
        assert!(port("65536").is_err());
        assert!(port("tcp://10.0.0.1:80").unwrap_err().contains("Service"));
    }

    #[test]
    fn modules_are_names_and_nothing_else() {
        assert_eq!(
            python_modules("numpy, os.path,,_x"),
            Ok(vec!["numpy".into(), "os.path".into(), "_x".into()])
        );
        assert_eq!(python_modules(""), Ok(vec![]));
        for bad in ["numpy pandas", "a;b", "1a", "a..b", "../x"] {
            assert!(python_modules(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn packages_are_names_and_no_paths() {
        assert_eq!(
            node_packages("lodash, @babel/core,,date-fns/addDays"),
            Ok(vec![
                "lodash".into(),
                "@babel/core".into(),
                "date-fns/addDays".into()
            ])
        );
        assert_eq!(node_packages(""), Ok(vec![]));
        for bad in [
            "./x", "/etc/x", "../x", "a/../b", "a b", "@scope", "a/", "fs;", "@/x",
        ] {
            assert!(node_packages(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn guests_are_never_root() {
        assert_eq!(unprivileged_id("1"), Ok(1));
        for bad in ["0", "4294967295", "-1", "nobody"] {
            assert!(unprivileged_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_control_plane_is_an_address_and_nothing_more() {
        assert_eq!(control_plane("none"), Ok(None));
        for good in [
            "http://localhost:8000",
            "https://cp.example/base",
            "http://[::1]:1",
        ] {
            assert!(control_plane(good).unwrap().is_some(), "{good}");
        }
        for bad in [
            "",
            "localhost:8000",
            "/api",
            "ftp://cp",
            "http://",
            "http://user:hunter2@cp",
            "http://cp/?a=b",
            "http://cp/#a",
        ] {
            let wrong = control_plane(bad).unwrap_err();
            assert!(!wrong.contains("hunter2"), "{bad}");
        }
    }

    #[test]
    fn a_prefix_is_a_plain_path() {
        for good in ["/", "/api/v1/internal", "/a-b_c.d~e/"] {
            assert!(url_path(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "api",
            "/a?b",
            "/a#b",
            "/a b",
            "/a%20",
            "/é",
            "http://x/",
        ] {
            assert!(url_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_collector_is_a_plain_address() {
        for good in [
            "http://localhost:4318",
            "http://[::1]:4318/otlp/",
            "https://collector:4318",
        ] {
            assert!(collector(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "localhost:4318",
            "ftp://collector:4318",
            "http://",
            "http://user:secret@collector",
            "http://collector?a=b",
            "http://collector#a",
            "none",
        ] {
            let wrong = collector(bad).unwrap_err();
            assert!(!wrong.contains("secret"), "{bad}: {wrong}");
        }
    }

    #[test]
    fn a_bucket_and_its_prefix_are_plain() {
        assert_eq!(
            store_url("https://s3.example.com/"),
            Ok("https://s3.example.com".into())
        );
        for bad in [
            "s3.example.com",
            "ftp://s3",
            "http://a:hunter2@s3",
            "http://s3?a",
        ] {
            let wrong = store_url(bad).unwrap_err();
            assert!(!wrong.contains("hunter2"), "{bad}: {wrong}");
        }
        assert!(bucket("a-1.b").is_ok());
        for bad in ["", "ab", "Upper", "a/b", "-ab", "ab.", &"x".repeat(64)] {
            assert!(bucket(bad).is_err(), "{bad}");
        }
        assert!(key_prefix("team/runs_1.x").is_ok());
        for bad in ["", "/a", "a/", "a//b", "a/../b", "a b"] {
            assert!(key_prefix(bad).is_err(), "{bad}");
        }
        assert!(word("eu-central-1").is_ok());
        assert!(word("").is_err() && word("a/b").is_err());
    }

    #[test]
    fn a_misspelt_log_level_is_no_module() {
        for good in ["info", "WARN", "info,hyper=debug", "off", "[run]=trace"] {
            assert!(log_level(good).is_ok(), "{good}");
        }
        for bad in ["verbose", "inof", "info,debgu", "a=verbose", ""] {
            assert!(log_level(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_fit_into_a_header() {
        assert!(token("s3cr3t~!").is_ok());
        for bad in ["", "a b", "a\n", "é"] {
            assert!(token(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn workspaces_are_anywhere_but_at_the_root() {
        assert!(workspace_path("/").is_err());
        assert!(workspace_path("").is_err());
        assert!(workspace_path("ws").unwrap().is_absolute());
    }
}
