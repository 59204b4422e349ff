//! What the query of a request about files may say.

use axum::{
    extract::{FromRequestParts, RawQuery},
    http::request::Parts,
};
use executor_application::ArchiveFormat;

use crate::{ApiState, error::ApiError, problems::Problems};

/// Entries of a page, unless somebody asks for another number, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// What the query of a request about files says. Unknown parameters are refused by name, as unknown fields are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    pub(super) recursive: bool,
    pub(crate) limit: usize,
    pub(super) cursor: Option<String>,
    pub(crate) archive: Option<ArchiveFormat>,
}

impl FromRequestParts<ApiState> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self, ApiError> {
        // It cannot fail.
        let RawQuery(text) = RawQuery::from_request_parts(parts, api)
            .await
            .unwrap_or(RawQuery(None));
        Self::parse(text.as_deref().unwrap_or_default()).map_err(ApiError::InvalidFields)
    }
}

impl Query {
    pub(crate) fn parse(text: &str) -> Result<Self, Problems> {
        let mut query = Self {
            recursive: false,
            limit: DEFAULT_LIMIT,
            cursor: None,
            archive: None,
        };
        let mut problems = Problems::default();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            match (&*name, &*value) {
                ("recursive", "true" | "1" | "") => query.recursive = true,
                ("recursive", "false" | "0") => query.recursive = false,
                ("recursive", _) => problems.add("recursive", "must be true or false"),
                ("limit", _) => match value.parse() {
                    Ok(limit) if (1..=MAX_LIMIT).contains(&limit) => query.limit = limit,
                    _ => problems.add(
                        "limit",
                        format_args!("must be a number between 1 and {MAX_LIMIT}"),
                    ),
                },
                ("cursor", _) => query.cursor = Some(value.into_owned()),
                ("archive", "tar") => query.archive = Some(ArchiveFormat::Tar),
                ("archive", "zip") => query.archive = Some(ArchiveFormat::Zip),
                ("archive", _) => problems.add("archive", "must be tar or zip"),
                _ => problems.add(name, "is not a parameter of this request"),
            }
        }
        if problems.is_empty() {
            Ok(query)
        } else {
            Err(problems)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_mistakes_are_named_together() {
        let query = Query::parse("recursive=true&limit=5&cursor=a%2Fb%20c&archive=zip").unwrap();
        assert_eq!(
            query,
            Query {
                recursive: true,
                limit: 5,
                cursor: Some("a/b c".into()),
                archive: Some(ArchiveFormat::Zip),
            }
        );
        assert_eq!(Query::parse("").unwrap().limit, DEFAULT_LIMIT);
        let wrong = Query::parse("recursive=maybe&limit=0&archive=rar&curser=x").unwrap_err();
        let text = wrong.to_string();
        for part in [
            "recursive must",
            "limit must",
            "archive must",
            "curser is not",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(Query::parse("limit=1001").is_err());
    }
}
