//! Reading what an operator points at, without letting a wrong path fill the memory.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Reads a file of UTF-8 text that has at most `max_bytes`.
pub(crate) fn read_text(path: &Path, max_bytes: usize) -> io::Result<String> {
    read_text_from(File::open(path)?, max_bytes)
}

/// The same for what is open already.
pub(crate) fn read_text_from(source: impl Read, max_bytes: usize) -> io::Result<String> {
    let mut text = String::new();
    // One byte more than allowed tells a text that ends at the cap from one that goes on.
    source
        .take(max_bytes as u64 + 1)
        .read_to_string(&mut text)?;
    if text.len() > max_bytes {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {max_bytes} bytes"),
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stands_at_the_cap_and_falls_one_byte_above() {
        assert_eq!(read_text_from(&b"1234"[..], 4).unwrap(), "1234");
        assert!(read_text_from(&b"12345"[..], 4).is_err());
        assert!(read_text_from(&b"\xff"[..], 4).is_err());
    }
}
