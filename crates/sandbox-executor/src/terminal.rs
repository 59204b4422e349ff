//! The only place that writes to stdout and stderr. What cannot be written is lost without a word: whoever closed the
//! other end does not want it.

use std::{
    borrow::Cow,
    error::Error,
    fmt::{Display, Write as _},
    io::{self, IsTerminal, Write},
};

use anstyle::{AnsiColor, Style};

/// For what went well.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// For what did not.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// For what is secondary.
pub(crate) const QUIET: Style = Style::new().dimmed();

/// Whether a person looks at stdout.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether a person looks at stderr.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Whether stderr shows colours, and nobody has asked for none.
pub(crate) fn stderr_has_colours() -> bool {
    anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never
}

/// Writes a line to stdout, without colours where nobody would see them.
pub(crate) fn out(line: impl Display) {
    let _ = writeln!(anstream::stdout().lock(), "{line}");
}

/// Writes a line to stderr, without colours where nobody would see them.
pub(crate) fn err(line: impl Display) {
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

/// Reports what ended the process, with all its causes.
pub(crate) fn failure(error: &(dyn Error + 'static)) {
    err(format_args!("{BAD}error{BAD:#}: {}", chain(error)));
}

/// An error and all its causes in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(line, ": {error}");
        cause = error.source();
    }
    line
}

/// Writes what a guest wrote to stdout: as it is for a program, made harmless for a terminal.
pub(crate) fn guest_out(bytes: &[u8]) {
    guest(&mut io::stdout().lock(), bytes, stdout_is_terminal());
}

/// The same for stderr.
pub(crate) fn guest_err(bytes: &[u8]) {
    guest(&mut io::stderr().lock(), bytes, stderr_is_terminal());
}

fn guest(to: &mut impl Write, bytes: &[u8], terminal: bool) {
    let bytes = if terminal {
        Cow::Owned(harmless(&String::from_utf8_lossy(bytes)).into_bytes())
    } else {
        Cow::Borrowed(bytes)
    };
    let _ = to.write_all(&bytes).and_then(|()| to.flush());
}

/// Text of a guest's for a terminal. Escape sequences can do more than colour: retitle windows, fill the clipboard, hide
/// lines, answer as if somebody typed. So every control character but newline and tab becomes visible.
pub(crate) fn harmless(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut clean, c| {
            if c.is_control() && !matches!(c, '\n' | '\t') {
                clean.extend(c.escape_default());
            } else {
                clean.push(c);
            }
            clean
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_never_gets_a_guests_control_characters() {
        let hostile = "a\x1b]52;c;aGk=\x07\tb\r\n\u{9b}31m";
        assert_eq!(
            harmless(hostile),
            "a\\u{1b}]52;c;aGk=\\u{7}\tb\\r\n\\u{9b}31m"
        );
        let mut terminal = Vec::new();
        guest(&mut terminal, b"\x1b[2J\xff", true);
        assert_eq!(terminal, "\\u{1b}[2J\u{fffd}".as_bytes());
    }

    #[test]
    fn a_program_gets_every_byte() {
        let mut pipe = Vec::new();
        guest(&mut pipe, b"\x1b[2J\xff\0", false);
        assert_eq!(pipe, b"\x1b[2J\xff\0");
    }
}
