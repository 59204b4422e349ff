//! What can go wrong, by step.

use std::{error::Error, fmt, io, path::PathBuf, sync::Arc};

use executor_application::StoreError;
use rusqlite::ErrorCode;

/// Why a store cannot be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its directory cannot be made or used.
    #[error("cannot use the directory {}", path.display())]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error("{} is in use by another process: end that one, or give each a directory of its own", path.display())]
    InUse {
        /// Its directory.
        path: PathBuf,
    },
    /// A later version of this program has written it.
    #[error(
        "{} is of version {found}, and this program knows versions up to {known}: use the newer program, or another \
         directory",
        path.display()
    )]
    Newer {
        /// Its file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version that we know.
        known: i64,
    },
    /// It is a database of some other program.
    #[error("{} belongs to another program: use another directory", path.display())]
    Foreign {
        /// Its file.
        path: PathBuf,
    },
    /// What is in it cannot be trusted.
    #[error(
        "{} is damaged: move it and its companions away to start anew; results and undelivered reports in it are lost \
         then ({detail})",
        path.display()
    )]
    Damaged {
        /// Its file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The file system does not have what write-ahead logging needs.
    #[error("the file system of {} does not support shared memory: use a local one", path.display())]
    NoWriteAheadLog {
        /// Its file.
        path: PathBuf,
    },
    /// SQLite could not.
    #[error("cannot {step} {}", path.display())]
    Database {
        /// What we were doing.
        step: &'static str,
        /// Its file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: rusqlite::Error,
    },
    /// No thread could be started.
    #[error("cannot start a thread for the store")]
    Thread(#[source] io::Error),
}

/// What SQLite failed with, for all who were in the same transaction.
#[derive(Debug, Clone)]
pub(crate) struct Cause(Arc<rusqlite::Error>);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Cause {}

impl Cause {
    pub(crate) fn new(error: rusqlite::Error) -> Self {
        Self(Arc::new(error))
    }

    /// The same as the port says it.
    pub(crate) fn while_doing(&self, step: &'static str) -> StoreError {
        let source = Box::new(self.clone());
        match self.0.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreError::Full(source),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Damaged(source)
            }
            _ => match &*self.0 {
                // A column that is not what we wrote.
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::Utf8Error(..)
                | rusqlite::Error::IntegralValueOutOfRange(..) => StoreError::Damaged(source),
                _ => StoreError::Failed { step, source },
            },
        }
    }
}

/// The store has been closed, or its thread is gone.
pub(crate) fn closed(step: &'static str) -> StoreError {
    StoreError::Failed {
        step,
        source: "the store is closed".into(),
    }
}
