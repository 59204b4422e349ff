//! Files that a run left behind.

use alloc::{string::String, vec::Vec};

use crate::Timestamp;

/// What kind of file an artifact is, told from its name alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArtifactKind {
    /// A file like any other.
    Artifact,
    /// `*.log`
    Log,
    /// Below `output/` or `outputs/`.
    Output,
}

impl ArtifactKind {
    /// The kind of a file, by its path within the workspace.
    pub fn of_path(path: &str) -> Self {
        if path.starts_with("output/") || path.starts_with("outputs/") {
            Self::Output
        } else if matches!(path.rsplit_once('.'), Some((_, "log"))) {
            Self::Log
        } else {
            Self::Artifact
        }
    }

    /// The name as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Artifact => "artifact",
            Self::Log => "log",
            Self::Output => "output",
        }
    }
}

/// One regular file of the workspace that a run created or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Path within the workspace, `/` between its parts, never absolute and never with `..`.
    pub path: String,
    /// Size in bytes when it was scanned.
    pub size: u64,
    /// Media type, by content and name.
    pub mime_type: String,
    /// Last change of the content.
    pub created_at: Timestamp,
    /// `sha256:` and 64 hexadecimal digits.
    pub checksum: String,
    /// Where it can be fetched from beyond its session; `None` where it was not uploaded.
    pub url: Option<String>,
}

impl Artifact {
    /// What kind of file this is.
    pub fn kind(&self) -> ArtifactKind {
        ArtifactKind::of_path(&self.path)
    }
}

/// What a scan found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Artifacts {
    /// Files created or changed, by path.
    pub files: Vec<Artifact>,
    /// One line for each thing that was left out and why (links, devices, what was beyond a bound), for a person.
    pub skipped: Vec<String>,
    /// One line for each file that was to be uploaded and was not, and why, for a person.
    pub not_uploaded: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_follow_the_name() {
        for (path, kind) in [
            ("plots/summary.png", ArtifactKind::Artifact),
            ("run.log", ArtifactKind::Log),
            ("a/b.log", ArtifactKind::Log),
            ("output/x.csv", ArtifactKind::Output),
            ("outputs/x.log", ArtifactKind::Output),
            ("my/output/x.csv", ArtifactKind::Artifact),
            ("outputs", ArtifactKind::Artifact),
        ] {
            assert_eq!(ArtifactKind::of_path(path), kind, "{path}");
        }
    }
}
