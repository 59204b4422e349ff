//! Where settings come from: defaults < file < environment < flags, merged by figment, which remembers who said what.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::{self, Write as _},
    path::{Path, PathBuf},
};

use figment::{
    Figment, Metadata, Profile, Provider, Source,
    providers::{Format, Toml, Yaml},
    value::{Dict, Empty, Map, Value},
};

use super::{
    Mistake,
    keys::{self, Key, Preset},
};
use crate::files::read_text;

/// Largest configuration file. Ours has a few dozen lines; this only keeps a wrong path from filling the memory.
const MAX_FILE_BYTES: usize = 1 << 20;

/// What an operator has said, and where.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A TOML or YAML file, told by its extension.
    pub file: Option<PathBuf>,
    /// Environment variables; those that are no settings do no harm, and empty ones count as unset.
    pub environment: BTreeMap<OsString, OsString>,
    /// Flags, by the name of their setting.
    pub flags: BTreeMap<&'static str, String>,
}

/// Who said what a setting is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// This file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// This flag.
    Flag(String),
}

impl Origin {
    fn of(key: &Key, metadata: Option<&Metadata>) -> Self {
        match metadata.and_then(|metadata| metadata.source.as_ref()) {
            Some(Source::File(path)) => Self::File(path.clone()),
            Some(Source::Custom(layer)) if layer == ENVIRONMENT => {
                Self::Environment(key.variable())
            }
            Some(Source::Custom(layer)) if layer == FLAGS => {
                Self::Flag(format!("--{}", key.flag().unwrap_or_default()))
            }
            _ => Self::Default,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

const DEFAULTS: &str = "defaults";
const ENVIRONMENT: &str = "environment";
const FLAGS: &str = "flags";

/// The settings of one source.
struct Layer {
    source: Source,
    settings: Dict,
}

impl Layer {
    fn new<T: Into<Value>>(
        name: &str,
        settings: impl IntoIterator<Item = (&'static str, T)>,
    ) -> Self {
        Self {
            source: Source::Custom(name.to_owned()),
            settings: settings
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect(),
        }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named("settings").source(self.source.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.settings.clone()))
    }
}

/// All sources, merged.
pub(crate) struct Merged(Figment);

impl Merged {
    /// Merges the sources. What cannot be read is reported and left out, so that the rest is looked at as well.
    pub(crate) fn new(sources: &Sources, mistakes: &mut Vec<Mistake>) -> Self {
        let defaults = keys::all().filter_map(|key| match key.preset {
            Preset::Value(value) => Some((key.name, value)),
            Preset::Unset(_) => None,
        });
        let mut figment = Figment::from(Layer::new(DEFAULTS, defaults));
        if let Some(path) = &sources.file {
            figment = figment.merge(file(path, mistakes));
        }
        let flags = sources
            .flags
            .iter()
            .map(|(name, value)| (*name, value.as_str()));
        let figment = figment
            .merge(environment(&sources.environment, mistakes))
            .merge(Layer::new(FLAGS, flags));
        Self(figment)
    }

    /// What the strongest source says of a setting.
    pub(crate) fn find(&self, key: &Key) -> Option<(Value, Origin)> {
        let value = self.0.find_value(key.name).ok()?;
        let origin = Origin::of(key, self.0.get_metadata(value.tag()));
        Some((value, origin))
    }
}

fn environment(variables: &BTreeMap<OsString, OsString>, mistakes: &mut Vec<Mistake>) -> Layer {
    let mut settings = Vec::new();
    for key in keys::all() {
        let variable = key.variable();
        match variables
            .get(variable.as_ref() as &std::ffi::OsStr)
            .map(|value| value.to_str())
        {
            None | Some(Some("")) => {}
            Some(Some(value)) => settings.push((key.name, value)),
            Some(None) => mistakes.push(Mistake::of(
                key,
                Origin::Environment(variable),
                "must be UTF-8",
            )),
        }
    }
    Layer::new(ENVIRONMENT, settings)
}

/// Reads a file. The text of a mistake never quotes the file: a line of it may hold the token.
fn file(path: &Path, mistakes: &mut Vec<Mistake>) -> Layer {
    let settings = match read(path) {
        Ok(settings) => settings,
        Err(wrong) => {
            mistakes.push(Mistake::elsewhere(Origin::File(path.to_owned()), wrong));
            Dict::new()
        }
    };
    let mut known = Dict::new();
    for (name, value) in settings {
        if matches!(value, Value::Empty(_, Empty::None | Empty::Unit)) {
            continue;
        }
        if keys::all().any(|key| key.name == name) {
            known.insert(name, value);
        } else {
            let mut wrong = format!("there is no setting {name:?}");
            if let Some(key) = nearest(&name) {
                let _ = write!(wrong, "; did you mean {}?", key.name);
            }
            mistakes.push(Mistake::elsewhere(Origin::File(path.to_owned()), wrong));
        }
    }
    Layer {
        source: Source::File(path.to_owned()),
        settings: known,
    }
}

fn read(path: &Path) -> Result<Dict, String> {
    let parse = match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => parse_toml,
        Some("yaml" | "yml") => parse_yaml,
        _ => return Err("must be named .toml, .yaml or .yml, so that its format is known".into()),
    };
    let text =
        read_text(path, MAX_FILE_BYTES).map_err(|error| format!("cannot be read: {error}"))?;
    parse(&text)
}

fn parse_toml(text: &str) -> Result<Dict, String> {
    Toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| {
            1 + text
                .bytes()
                .take(span.start)
                .filter(|byte| *byte == b'\n')
                .count()
        });
        format!("is not valid TOML: {} in line {line}", error.message())
    })
}

fn parse_yaml(text: &str) -> Result<Dict, String> {
    match Yaml::from_str(text) {
        Ok(Value::Dict(_, settings)) => Ok(settings),
        Ok(Value::Empty(..)) => Ok(Dict::new()),
        Ok(_) => Err("must hold one setting a line: `name: value`".into()),
        Err(error) => Err(format!("is not valid YAML: {error}")),
    }
}

/// The setting that somebody may have meant.
pub(crate) fn nearest(name: &str) -> Option<&'static Key> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    keys::all()
        .map(|key| (strsim::normalized_damerau_levenshtein(&name, key.name), key))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, key)| key)
}

/// Variables that look like ours and are not: typing errors that nobody would notice otherwise.
pub(crate) fn strangers(variables: &BTreeMap<OsString, OsString>) -> Vec<String> {
    variables
        .keys()
        .filter_map(|name| name.to_str())
        .filter(|name| name.starts_with("EXECUTOR_") && !made_by_kubernetes(name))
        .filter(|name| !keys::all().any(|key| key.variable() == **name))
        .map(|name| match nearest(name) {
            Some(key) => format!(
                "the environment variable {name} is not known; did you mean {}?",
                key.variable()
            ),
            None => format!("the environment variable {name} is not known"),
        })
        .collect()
}

/// What Kubernetes adds to every pod for a Service named `executor`.
fn made_by_kubernetes(name: &str) -> bool {
    name.starts_with("EXECUTOR_SERVICE_") || name.starts_with("EXECUTOR_PORT_")
}
