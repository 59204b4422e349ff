//! The store of executions, where no guest can see it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use executor_application::StoreError;
use executor_infra_store::{OpenError, SqliteStore, StoreOptions};

use crate::config::{Config, StatePlace, forbidden_for_state};

/// Why executions cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreFailure {
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Open(#[source] OpenError),
    /// It cannot be found out where it really is.
    #[error("failed to resolve {}", path.display())]
    Resolve {
        /// Its directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Guests would see it.
    #[error("{} {why}", path.display())]
    Exposed {
        /// Its directory, without links.
        path: PathBuf,
        /// Why it must not be there.
        why: String,
    },
    /// What an earlier process left unfinished cannot be brought to an end.
    #[error("what an earlier process left unfinished cannot be brought to an end")]
    Recover(#[source] StoreError),
}

/// Opens the store where the configuration says. `workspaces` is without links.
pub(super) fn open(
    config: &Config,
    workspaces: &Path,
    is_bound: bool,
) -> Result<Arc<SqliteStore>, StoreFailure> {
    let options = StoreOptions {
        ttl: config.result_ttl,
        max_bytes: config.max_state_bytes,
        reports: config.control_plane.is_some(),
    };
    let opened = match &config.state {
        StatePlace::Memory => {
            tracing::warn!("executions and results are kept in memory, and lost with the process");
            SqliteStore::in_memory(options)
        }
        StatePlace::Directory(directory) => {
            let opened = SqliteStore::open(directory, options);
            if opened.is_ok() {
                // Only now is there something to resolve, and nothing has been kept yet.
                let path = directory
                    .canonicalize()
                    .map_err(|source| StoreFailure::Resolve {
                        path: directory.clone(),
                        source,
                    })?;
                if let Some(why) = forbidden_for_state(&path, workspaces, is_bound) {
                    return Err(StoreFailure::Exposed { path, why });
                }
            }
            opened
        }
    };
    opened.map(Arc::new).map_err(StoreFailure::Open)
}
