//! What a guest writes, while it writes.

use std::{fmt, sync::Arc};

/// One of the streams that a guest writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Hears what a guest writes, as it writes it.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
pub trait OutputListener: Send + Sync {
    /// The guest wrote this, after all that it wrote to the same stream before. MUST NOT block: whoever calls is about
    /// to read the guest's next bytes.
    fn wrote(&self, stream: OutputStream, bytes: &[u8]);

    /// The guest has written more to this stream than is kept: what was heard of it is all that will be, though the run
    /// goes on. Called once at most for each stream. MUST NOT block.
    fn truncated(&self, stream: OutputStream);
}

/// Whoever listens to a run, if anybody does.
#[derive(Clone, Default)]
pub struct Listener(Option<Arc<dyn OutputListener>>);

impl Listener {
    /// This one listens.
    pub fn new(listener: Arc<dyn OutputListener>) -> Self {
        Self(Some(listener))
    }

    /// Nobody listens.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Passes on what the guest wrote. Nothing is passed on where there is nothing.
    pub fn wrote(&self, stream: OutputStream, bytes: &[u8]) {
        if let Some(listener) = &self.0
            && !bytes.is_empty()
        {
            listener.wrote(stream, bytes);
        }
    }

    /// Passes on that a stream was cut.
    pub fn truncated(&self, stream: OutputStream) {
        if let Some(listener) = &self.0 {
            listener.truncated(stream);
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Listener(somebody)"
        } else {
            "Listener(nobody)"
        })
    }
}
