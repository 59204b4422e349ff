//! What was tried, and what came of it: for `doctor`.

use std::error::Error;

#[cfg(target_os = "linux")]
use executor_application::WarmPool;
use executor_application::{LanguageSupport, SandboxDescription, Wall, WallState};
use executor_domain::Language;

use crate::runtime::Runtime;

/// One thing that was tried, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was tried.
    pub name: String,
    /// Whether it holds.
    pub passed: bool,
    /// Whether the executor can do without.
    pub essential: bool,
    /// What was found; where it does not hold, why, and what to do.
    pub detail: String,
}

/// That no sandbox can be started, and why.
pub(crate) fn no_sandbox(error: &dyn Error) -> Vec<Check> {
    let source = error.source().map(|source| format!(": {source}"));
    vec![Check {
        name: "sandbox".into(),
        passed: false,
        essential: true,
        detail: format!("{error}{}", source.unwrap_or_default()),
    }]
}

/// What a sandbox that was started says of itself. `searched` says where interpreters were looked for, `refused` which
/// were found and do not run there, and why.
pub(crate) fn of(
    description: SandboxDescription,
    searched: &str,
    refused: &[(Language, String)],
) -> Vec<Check> {
    let tool = Check {
        name: description.isolation.into(),
        passed: true,
        essential: true,
        detail: description.tool_version,
    };
    let languages = Language::ALL.into_iter().map(|language| {
        let found = description
            .languages
            .iter()
            .find(|found| found.language == language);
        Check {
            name: language.as_str().into(),
            passed: found.is_some(),
            essential: false,
            detail: match (found, why_not(language, refused)) {
                (Some(found), _) => format!("{} {}", found.interpreter, found.version),
                (None, Some(why)) => why.to_owned(),
                (None, None) => format!("no interpreter in {searched}. Remedy: install it there"),
            },
        }
    });
    let walls = description.walls.iter().map(|wall| match &wall.state {
        WallState::On(how) => Check {
            name: wall.name.into(),
            passed: true,
            essential: true,
            detail: how.clone(),
        },
        WallState::Off(why) => Check {
            name: wall.name.into(),
            passed: false,
            essential: false,
            detail: why.clone(),
        },
    });
    std::iter::once(tool)
        .chain(languages)
        .chain(walls)
        .collect()
}

/// Which languages start warm.
#[cfg(target_os = "linux")]
pub(crate) fn warm_starts(pools: &[WarmPool]) -> Vec<Check> {
    let check = |pool: &WarmPool| Check {
        name: format!("warm_start_{}", pool.language),
        passed: pool.trouble.is_none(),
        essential: false,
        detail: match &pool.trouble {
            None => format!("at most {} sandboxes wait for jobs", pool.max),
            Some(why) => format!("runs start cold: {why}"),
        },
    };
    pools.iter().map(check).collect()
}

fn why_not(language: Language, refused: &[(Language, String)]) -> Option<&str> {
    refused
        .iter()
        .find(|(refused, _)| *refused == language)
        .map(|(_, why)| why.as_str())
}

/// The languages of these interpreters.
pub(crate) fn languages(runtimes: &[Runtime]) -> Vec<LanguageSupport> {
    runtimes
        .iter()
        .map(|runtime| LanguageSupport {
            language: runtime.language(),
            interpreter: runtime.interpreter.path().display().to_string(),
            version: runtime.version.clone(),
        })
        .collect()
}

/// Says in the log which walls do not stand.
pub(crate) fn warn_of_missing(walls: &[Wall]) {
    for Wall { name, state } in walls {
        if let WallState::Off(why) = state {
            tracing::warn!(wall = name, %why, "a wall is weaker on this host");
        }
    }
}
