//! The place of a request in a trace that spans programs (W3C Trace Context).

use core::fmt;

use thiserror::Error;

/// The text is no `traceparent` that we could be a child of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "must be a traceparent of W3C Trace Context: version-trace-parent-flags in lower-case hexadecimal"
)]
pub struct InvalidTraceParent;

/// Names one step of a trace, so that the next step can say whose child it is: the header `traceparent` of W3C Trace
/// Context, level 1 (<https://www.w3.org/TR/trace-context/#traceparent-header>). Neither id is all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

/// `00-` + 32 + `-` + 16 + `-` + 2.
const LENGTH: usize = 55;

impl TraceParent {
    /// A step of a trace; `None` where an id is 0, which means "none".
    pub const fn new(trace_id: u128, span_id: u64, flags: u8) -> Option<Self> {
        if trace_id == 0 || span_id == 0 {
            return None;
        }
        Some(Self {
            trace_id,
            span_id,
            flags,
        })
    }

    /// Parses the header. Of a version later than 00, what is known of it is read and the rest ignored, as the
    /// specification asks (section 3.2.4, "Versioning of traceparent"); version ff is none.
    pub fn parse(text: &str) -> Result<Self, InvalidTraceParent> {
        let (known, rest) = text.split_at_checked(LENGTH).ok_or(InvalidTraceParent)?;
        let mut parts = known.split('-');
        let version = hex(parts.next(), 2)?;
        let trace_id = hex(parts.next(), 32)?;
        let span_id = hex(parts.next(), 16)?;
        let flags = hex(parts.next(), 2)?;
        let well_ended = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        if !well_ended || parts.next().is_some() {
            return Err(InvalidTraceParent);
        }
        let span_id = u64::try_from(span_id).map_err(|_| InvalidTraceParent)?;
        let flags = u8::try_from(flags).map_err(|_| InvalidTraceParent)?;
        Self::new(trace_id, span_id, flags).ok_or(InvalidTraceParent)
    }

    /// The trace, which all its steps share.
    pub const fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The step.
    pub const fn span_id(&self) -> u64 {
        self.span_id
    }

    /// Bit 0: somebody records this trace. The others are handed on as they came.
    pub const fn flags(&self) -> u8 {
        self.flags
    }
}

/// So many lower-case hexadecimal digits, and nothing else: what `from_str_radix` takes beyond them is no `traceparent`.
fn hex(part: Option<&str>, digits: usize) -> Result<u128, InvalidTraceParent> {
    part.filter(|text| text.len() == digits)
        .filter(|text| {
            text.bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
        .and_then(|text| u128::from_str_radix(text, 16).ok())
        .ok_or(InvalidTraceParent)
}

/// As the header spells it, in version 00.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id, self.span_id, self.flags
        )
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";

    #[test]
    fn round_trips() {
        let parent = TraceParent::parse(HEADER).unwrap();
        assert_eq!(parent.trace_id(), 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(parent.span_id(), 0x00f0_67aa_0ba9_02b7);
        assert_eq!(parent.flags(), 1);
        assert_eq!(parent.to_string(), HEADER);
    }

    #[test]
    fn of_a_later_version_the_known_part_is_read() {
        let later = HEADER.replacen("00", "cc", 1);
        for text in [&later, &(later.clone() + "-what-comes-later")] {
            assert_eq!(TraceParent::parse(text).unwrap().to_string(), HEADER);
        }
        assert!(TraceParent::parse(&(later + "x")).is_err());
    }

    #[test]
    fn whatever_else_is_refused() {
        for stranger in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7",
            "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-0",
            "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01-",
            "ff-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01",
            "00-0AF7651916CD43DD8448EB211C80319C-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-+af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01",
            "00_0af7651916cd43dd8448eb211c80319c_00f067aa0ba902b7_01",
            "00-0af7651916cd43dd8448eb211c80319c00f067aa0ba902b7-01--",
            "0é-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01",
        ] {
            assert_eq!(
                TraceParent::parse(stranger),
                Err(InvalidTraceParent),
                "{stranger}"
            );
        }
    }
}
