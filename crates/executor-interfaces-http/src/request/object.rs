//! Members of a JSON object, found by name and kept as text until somebody asks for a type.

use std::fmt;

use serde::{
    Deserializer as _,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::text_of;
use crate::problems::Problems;

/// The known members of a JSON object. A member that is `null` counts as absent: many clients send what they do not set
/// like that.
#[derive(Default)]
pub(super) struct Object<'a> {
    members: Vec<(&'static str, Option<&'a RawValue>)>,
    /// What precedes a member's name in a problem.
    prefix: &'static str,
}

impl<'a> Object<'a> {
    /// Reads an object whose members may be these, and notes unknown and repeated ones. An error means that the text is
    /// no JSON object.
    pub(super) fn read(
        json: &'a str,
        known: &'static [&'static str],
        prefix: &'static str,
        problems: &mut Problems,
    ) -> serde_json::Result<Self> {
        let mut found: Vec<_> = known.iter().map(|name| (*name, None)).collect();
        members(json, |name, value| {
            match found.iter_mut().find(|(known, _)| *known == name) {
                Some((_, place @ None)) => *place = Some(value),
                Some((_, Some(_))) => {
                    problems.add(format_args!("{prefix}{name}"), "is given more than once");
                }
                None => problems.add(
                    format_args!("{prefix}{name}"),
                    "is not a field of this request",
                ),
            }
        })?;
        Ok(Self {
            members: found,
            prefix,
        })
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.members.iter().find(|(known, _)| *known == name)?;
        value.filter(|value| value.get() != "null")
    }

    /// The text of a string that may be absent.
    pub(super) fn text(&self, name: &str, problems: &mut Problems) -> Option<String> {
        match text_of(self.get(name)?) {
            Ok(text) => Some(text),
            Err(problem) => self.refuse(name, problem, problems),
        }
    }

    /// The text of a string that must be there.
    pub(super) fn required_text(&self, name: &str, problems: &mut Problems) -> Option<String> {
        if self.get(name).is_none() {
            return self.refuse(name, "is required", problems);
        }
        self.text(name, problems)
    }

    /// A whole number that may be absent, however it is spelled: `3`, `3.0` and `3e0` are one number, and whole, to JSON
    /// Schema, by which clients check what they send (draft 2020-12, validation, section 6.1.1).
    pub(super) fn number(&self, name: &str, problems: &mut Problems) -> Option<u64> {
        let value = self.get(name)?;
        match (kind_of(value), value.get()) {
            ("a number", text) => match text.parse().ok().or_else(|| respelled(text)) {
                Some(number) => Some(number),
                None if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                    self.refuse(name, "is too large", problems)
                }
                None => self.refuse(name, "must be a positive whole number", problems),
            },
            (other, _) => self.refuse(
                name,
                format_args!("must be a whole number, is {other}"),
                problems,
            ),
        }
    }

    /// The text of an object that may be absent.
    pub(super) fn object(&self, name: &str, problems: &mut Problems) -> Option<&'a RawValue> {
        let value = self.get(name)?;
        match kind_of(value) {
            "an object" => Some(value),
            other => self.refuse(
                name,
                format_args!("must be an object, is {other}"),
                problems,
            ),
        }
    }

    fn refuse<T>(
        &self,
        name: &str,
        problem: impl fmt::Display,
        problems: &mut Problems,
    ) -> Option<T> {
        problems.add(format_args!("{}{name}", self.prefix), problem);
        None
    }
}

/// A whole number that is spelled with a fraction or an exponent.
fn respelled(text: &str) -> Option<u64> {
    /// Beyond 2^53 not every whole number has a double of its own, and another one would be read than was written.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let number: f64 = text.parse().ok()?;
    let whole = (0.0..=EXACT).contains(&number) && number.fract() == 0.0;
    // Rust writes doubles without an exponent.
    whole.then(|| format!("{number:.0}").parse().ok()).flatten()
}

/// What a JSON value is, in words. Its first character says so.
pub(super) fn kind_of(value: &RawValue) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// Calls `each` with every member of a JSON object, in order, repeated ones included. The values are checked to be JSON
/// without recursion and stay where they are.
pub(super) fn members<'a>(
    json: &'a str,
    each: impl FnMut(String, &'a RawValue),
) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_map(EachMember(each))?;
    deserializer.end()
}

struct EachMember<F>(F);

impl<'a, F: FnMut(String, &'a RawValue)> Visitor<'a> for EachMember<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key()? {
            (self.0)(name, map.next_value()?);
        }
        Ok(())
    }
}
