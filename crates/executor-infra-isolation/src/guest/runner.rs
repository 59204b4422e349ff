//! The runners: programs of ours that an interpreter executes before, around and after a guest's code.
//!
//! An interpreter is started with a tiny *bootstrap* on its command line (see
//! [`Interpreter::command`](super::interpreter::Interpreter::command)). The bootstrap reads the runner from the first frame of
//! the channel, so that nothing has to be mounted into the sandbox for it. The payload of that frame starts with one byte
//! that says what follows:
//!
//! | byte | payload |
//! | --- | --- |
//! | `S` | source text, UTF-8 |
//! | `M` | Python only: code, compiled by *the same* interpreter and marshalled, which saves 3 ms per start |

use executor_domain::Language;
use thiserror::Error;

/// Says that source text follows.
const SOURCE_TAG: u8 = b'S';
/// Says that marshalled Python code follows.
const MARSHALLED_TAG: u8 = b'M';

const PYTHON_SOURCE: &str = include_str!("python/runner.py");
const NODE_SOURCE: &str = include_str!("node/runner.js");

/// A Python program that reads [`python_source`] on its standard input and writes the payload of a bootstrap frame to its
/// standard output, compiled. To be run as `python3 -I -c …` by the interpreter which the payload is meant for, once; the
/// result is good for as long as that interpreter is not replaced, because other versions have other code.
pub const PYTHON_COMPILE_PROGRAM: &str = include_str!("python/compile.py");

/// The source text of the Python runner, input of [`PYTHON_COMPILE_PROGRAM`].
///
/// A module that defines `main(channel)`: runs the guest whose frames come next on the binary file `channel` and ends the
/// process. An interpreter that was started ahead of its job may load it early and call `main` late.
pub const fn python_source() -> &'static str {
    PYTHON_SOURCE
}

/// What [`PYTHON_COMPILE_PROGRAM`] wrote is not what it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the interpreter did not compile the Python runner")]
pub struct NotCompiled;

/// The payload of a bootstrap frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap(Vec<u8>);

impl Bootstrap {
    /// The runner of a language as source text; `None` for shells, which have no channel.
    pub fn from_source(language: Language) -> Option<Self> {
        let source = match language {
            Language::Python => PYTHON_SOURCE,
            Language::JavaScript => NODE_SOURCE,
            Language::Shell => return None,
        };
        Some(Self([&[SOURCE_TAG], source.as_bytes()].concat()))
    }

    /// The Python runner as [`PYTHON_COMPILE_PROGRAM`] wrote it.
    pub fn from_compiler_output(output: Vec<u8>) -> Result<Self, NotCompiled> {
        // Every code object is far longer than this; the interpreter itself checks the rest.
        if output.first() == Some(&MARSHALLED_TAG) && output.len() > 64 {
            Ok(Self(output))
        } else {
            Err(NotCompiled)
        }
    }

    /// The payload.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_is_tagged_as_source() {
        let python = Bootstrap::from_source(Language::Python).unwrap();
        assert_eq!(python.as_bytes()[0], b'S');
        assert_eq!(&python.as_bytes()[1..], python_source().as_bytes());
        assert!(Bootstrap::from_source(Language::JavaScript).is_some());
        assert_eq!(Bootstrap::from_source(Language::Shell), None);
    }

    #[test]
    fn only_compiled_code_passes_for_compiled_code() {
        for bad in [
            vec![],
            vec![b'M'; 64],
            vec![b'S'; 1000],
            b"Traceback".repeat(20),
        ] {
            assert_eq!(Bootstrap::from_compiler_output(bad), Err(NotCompiled));
        }
        assert!(Bootstrap::from_compiler_output(vec![b'M'; 65]).is_ok());
    }
}
