//! In the place of the export of traces, where it was not built in.

use std::sync::Arc;

use executor_application::Traces;
use tracing_subscriber::{Layer, Registry};

use crate::{OtlpError, OtlpOptions};

/// Exports traces; in this build there is none.
#[derive(Debug)]
pub enum Otlp {}

impl Otlp {
    /// Refuses.
    ///
    /// # Errors
    ///
    /// Always: the feature `otlp` is not built in.
    pub fn start(_: &OtlpOptions) -> Result<Self, OtlpError> {
        Err(OtlpError::NotBuiltIn)
    }

    /// Never called.
    pub fn layer(&self) -> Box<dyn Layer<Registry> + Send + Sync> {
        match *self {}
    }

    /// Never called.
    pub fn traces(&self) -> Arc<dyn Traces> {
        match *self {}
    }

    /// Never called.
    pub fn stop(self) {
        match self {}
    }
}
