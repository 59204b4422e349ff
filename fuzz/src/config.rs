//! Configuration: a file, and the environment.

use std::{
    cell::LazyCell,
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
};

use sandbox_executor::config::{Config, Loaded, Mistakes, Sources, load};
use tempfile::TempDir;

/// In the file and in the environment, and to be seen nowhere.
const SECRET: &str = "hunter2-of-the-fuzzer";

/// The first byte says what the file is, and whether it has the secret; a NUL byte ends it, and `NAME=value` lines
/// follow. What is taken keeps its promises and can be said again in other words; no message shows a secret.
pub fn target(data: &[u8]) {
    thread_local! {
        static PLACE: LazyCell<TempDir> = LazyCell::new(|| tempfile::tempdir().unwrap());
    }
    let [kind, data @ ..] = data else {
        return;
    };
    let lower = data.to_ascii_lowercase();
    let has = |part: &[u8]| lower.windows(part.len()).any(|window| window == part);
    // A token file can be anything that never ends; a secret of the fuzzer's own is none.
    if has(b"token_file") || has(b"hunter2") {
        return;
    }
    PLACE.with(|place| read(place.path(), *kind, data));
}

fn read(place: &Path, kind: u8, data: &[u8]) {
    let (text, lines) = match data.iter().position(|byte| *byte == 0) {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &data[..0]),
    };
    let (name, secret) = if kind & 1 == 0 {
        (
            "config.toml",
            format!("internal_api_token = \"{SECRET}\"\n"),
        )
    } else {
        ("config.yaml", format!("internal_api_token: {SECRET}\n"))
    };
    let file = place.join(name);
    let secret = if kind & 2 == 0 { String::new() } else { secret };
    fs::write(&file, [secret.as_bytes(), text].concat()).unwrap();

    let mut environment: BTreeMap<OsString, OsString> = lines
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let end = line.iter().position(|byte| *byte == b'=')?;
            let text = |bytes| OsStr::from_bytes(bytes).to_owned();
            Some((text(&line[..end]), text(&line[end + 1..])))
        })
        .collect();
    if kind & 4 != 0 {
        environment.insert("INTERNAL_API_TOKEN".into(), SECRET.into());
    }
    if kind & 24 == 24 {
        let url = format!("http://user:{SECRET}@plane:8000");
        environment.insert("CONTROL_PLANE_URL".into(), url.into());
    }
    let sources = Sources {
        file: Some(file),
        environment,
        ..Sources::default()
    };
    let loaded = load(&sources);
    assert!(!shown(&loaded).contains(SECRET), "{}", shown(&loaded));
    if let Ok(loaded) = loaded {
        hold_promises(&loaded.config);
        says_the_same_again(&loaded);
    }
}

/// All that anybody gets to see.
fn shown(loaded: &Result<Loaded, Mistakes>) -> String {
    match loaded {
        Ok(loaded) => [
            format!("{loaded:?}"),
            loaded.to_text(),
            loaded.to_json().to_string(),
            loaded.warnings.join("\n"),
        ]
        .concat(),
        Err(mistakes) => {
            assert!(mistakes.iter().count() > 0);
            format!("{mistakes:?} {mistakes}")
        }
    }
}

fn hold_promises(config: &Config) {
    assert!(config.require_auth <= config.token.is_some());
    assert!(config.max_body_bytes > 0 && config.max_body_bytes <= 1 << 30);
    assert!(config.workspace_path.is_absolute() && config.workspace_path.parent().is_some());
    assert!(config.capacity.running > 0);
    assert!(config.guest.uid != 0 && config.guest.gid != 0);
    assert!((1..=100).contains(&config.workspace_high_water));
    assert!(config.bwrap_path.is_absolute());
    for url in [&config.control_plane, &config.otlp_endpoint] {
        let Some(url) = url else { continue };
        assert!(matches!(url.scheme_str(), Some("http" | "https")));
        assert!(!url.authority().unwrap().as_str().contains('@'));
    }
}

/// Every setting, in a variable of its own.
fn says_the_same_again(loaded: &Loaded) {
    let mut environment = BTreeMap::new();
    for setting in &loaded.settings {
        let Some(value) = &setting.value else {
            continue;
        };
        let value = match &loaded.config.token {
            Some(token) if setting.key.secret => token.expose(),
            _ => value,
        };
        environment.insert(setting.key.variable().into(), value.into());
    }
    let sources = Sources {
        environment,
        ..Sources::default()
    };
    let again = load(&sources).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(
        format!("{:?}", again.config),
        format!("{:?}", loaded.config)
    );
    for (again, first) in again.settings.iter().zip(&loaded.settings) {
        assert_eq!((again.key, &again.value), (first.key, &first.value));
    }
}
