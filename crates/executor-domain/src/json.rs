//! JSON that is carried, not understood: the domain checks that it is well formed and passes it on as text.

use alloc::{borrow::ToOwned, boxed::Box, string::String};
use core::fmt;

use serde_json::value::RawValue;
use thiserror::Error;

/// The text is not one well-formed JSON value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("is not valid JSON: {0}")]
pub struct InvalidJson(String);

/// One well-formed JSON value, as text. Never parsed into a tree: a deep or large value costs its bytes and no more.
#[derive(Clone)]
pub struct JsonText(Box<RawValue>);

impl JsonText {
    /// Accepts exactly one JSON value, with or without white space around it.
    pub fn parse(text: String) -> Result<Self, InvalidJson> {
        match RawValue::from_string(text) {
            Ok(raw) => Ok(Self(raw)),
            Err(error) => Err(InvalidJson(alloc::format!("{error}"))),
        }
    }

    /// The JSON value `null`.
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned())
    }

    /// The value as JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The value in the form in which an edge serialises it without parsing it again.
    pub const fn as_raw(&self) -> &RawValue {
        &self.0
    }
}

impl From<Box<RawValue>> for JsonText {
    fn from(raw: Box<RawValue>) -> Self {
        Self(raw)
    }
}

impl PartialEq for JsonText {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for JsonText {}

/// Without the value, which belongs to the caller and not in a log.
impl fmt::Debug for JsonText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JsonText({} bytes)", self.as_str().len())
    }
}

/// The event is not a JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("must be a JSON object")]
pub struct InvalidEvent;

/// The input of a handler: a JSON object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event(JsonText);

impl Event {
    /// Accepts a JSON object.
    pub fn new(json: JsonText) -> Result<Self, InvalidEvent> {
        if json.as_str().trim_start().starts_with('{') {
            Ok(Self(json))
        } else {
            Err(InvalidEvent)
        }
    }

    /// The event as JSON text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Default for Event {
    /// `{}`
    #[expect(clippy::expect_used, reason = "a literal that a test parses too")]
    fn default() -> Self {
        Self(JsonText::parse("{}".into()).expect("`{}` is JSON"))
    }
}

#[cfg(test)]
mod tests {
    use alloc::{format, string::ToString};

    use super::*;

    #[test]
    fn takes_one_value_and_nothing_else() {
        for good in ["null", " {\"a\": [1, 2.5e3, \"\\u00e9\"]} ", "[]", "\"\""] {
            assert!(JsonText::parse(good.to_string()).is_ok(), "{good}");
        }
        for bad in ["", "{", "NaN", "1 2", "{'a':1}", "[1,]", "nul"] {
            assert!(JsonText::parse(bad.to_string()).is_err(), "{bad}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        assert!(JsonText::parse(deep).is_ok());
    }

    #[test]
    fn an_event_is_an_object() {
        assert_eq!(Event::default().as_str(), "{}");
        let object = JsonText::parse(" {\"a\":1}".to_string()).unwrap();
        assert!(Event::new(object).is_ok());
        for other in ["null", "[]", "1", "\"{\""] {
            let json = JsonText::parse(other.to_string()).unwrap();
            assert_eq!(Event::new(json), Err(InvalidEvent), "{other}");
        }
    }

    #[test]
    fn debug_does_not_show_the_value() {
        let json = JsonText::parse("\"hunter2\"".to_string()).unwrap();
        assert!(!format!("{json:?}").contains("hunter2"));
    }
}
