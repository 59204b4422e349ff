//! Settings for people and programs: as text, as JSON, and as the documentation page.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    Loaded, Origin, Setting,
    keys::{self, Key, Preset},
};

impl Setting {
    fn shown(&self) -> String {
        match (&self.value, self.key.preset) {
            (Some(value), _) => value.clone(),
            (None, Preset::Unset(meaning)) => format!("({meaning})"),
            (None, Preset::Value(value)) => value.to_owned(),
        }
    }
}

impl Loaded {
    /// Every setting with its value and origin, one a line. Secrets are masked.
    pub fn to_text(&self) -> String {
        let rows: Vec<_> = self
            .settings
            .iter()
            .map(|setting| {
                (
                    setting.key.name,
                    setting.shown(),
                    setting.origin.to_string(),
                )
            })
            .collect();
        let names = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        let values = rows
            .iter()
            .map(|(_, value, _)| value.chars().count())
            .max()
            .unwrap_or(0);
        rows.iter()
            .fold(String::new(), |mut text, (name, value, origin)| {
                let _ = writeln!(text, "{name:names$}  {value:values$}  {origin}");
                text
            })
    }

    /// The same as JSON: name → value (text or null) and origin. Secrets are masked.
    pub fn to_json(&self) -> Value {
        self.settings
            .iter()
            .map(|setting| {
                let origin = match &setting.origin {
                    Origin::Default => json!({"kind": "default"}),
                    Origin::File(path) => json!({"kind": "file", "path": path.to_string_lossy()}),
                    Origin::Environment(name) => json!({"kind": "environment", "name": name}),
                    Origin::Flag(name) => json!({"kind": "flag", "name": name}),
                };
                let value = json!({"value": setting.value, "origin": origin});
                (setting.key.name.to_owned(), value)
            })
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

/// `docs/configuration.md`.
pub fn markdown() -> String {
    let mut page = include_str!("page.md").to_owned();
    for section in keys::SECTIONS {
        let _ = write!(
            page,
            "\n## {}\n\n| Variable | Value | Default | |\n| --- | --- | --- | --- |\n",
            section.title
        );
        for key in section.keys {
            let _ = writeln!(page, "{}", row(key));
        }
    }
    page
}

fn row(key: &Key) -> String {
    let default = match key.preset {
        Preset::Value(value) => format!("`{value}`"),
        Preset::Unset(meaning) => meaning.to_owned(),
    };
    let mut notes = key.doc.to_owned();
    if let Some(short) = key.short_flag {
        let _ = write!(notes, " Also `--{short}`.");
    }
    if key.secret {
        notes.push_str(" Never shown; has no flag.");
    }
    format!(
        "| `{}` | {} | {default} | {notes} |",
        key.variable(),
        key.kind.as_str().replace('|', " or "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_is_what_the_table_says() {
        assert!(
            include_str!("../../../../docs/configuration.md") == markdown(),
            "docs/configuration.md is not what the code says: \
             cargo run -- config --markdown > docs/configuration.md"
        );
    }
}
