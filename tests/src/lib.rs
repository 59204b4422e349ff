//! What executables and suites of this package share.

pub mod sbpl;
