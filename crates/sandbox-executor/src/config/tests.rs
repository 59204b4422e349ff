use std::{collections::BTreeMap, ffi::OsString, fs, os::unix::ffi::OsStringExt as _};

use tempfile::TempDir;

use super::*;

fn environment(variables: &[(&str, &str)]) -> Sources {
    Sources {
        environment: variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        ..Sources::default()
    }
}

fn file(name: &str, text: &str) -> (TempDir, Sources) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    let sources = Sources {
        file: Some(path),
        ..Sources::default()
    };
    (directory, sources)
}

fn mistakes(sources: &Sources) -> Vec<String> {
    match load(sources) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.iter().map(ToString::to_string).collect(),
    }
}

/// The only mistake.
fn mistake(sources: &Sources) -> String {
    let mistakes = mistakes(sources);
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    mistakes.into_iter().next().unwrap()
}

#[test]
fn no_mistake_shows_the_password_of_a_url() {
    for variable in [
        "CONTROL_PLANE_URL",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "EXECUTOR_PORT",
    ] {
        let sources = environment(&[(variable, "http://user:hunter2@plane:8000")]);
        let mistake = mistake(&sources);
        assert!(mistake.contains(variable), "{mistake}");
        assert!(!mistake.contains("hunter2"), "{mistake}");
    }
}

#[test]
fn languages_that_are_kept_warm_are_languages() {
    let said = |value| environment(&[("WARM_POOL_LANGUAGES", value)]);
    let languages = load(&said("shell, python")).unwrap().config.warm.languages;
    assert_eq!(languages, [Language::Shell, Language::Python]);
    for wrong in [",", "shell,", "ruby"] {
        let mistake = mistake(&said(wrong));
        assert!(
            mistake.contains("python, javascript and shell"),
            "{mistake}"
        );
    }
    let Loaded { warnings, .. } = load(&environment(&[
        ("WARM_POOL_LANGUAGES", "shell"),
        ("PYTHON_PRELOAD", "numpy"),
    ]))
    .unwrap();
    let [warning] = warnings.as_slice() else {
        panic!("{warnings:?}");
    };
    assert!(warning.contains("PYTHON_PRELOAD"), "{warning}");
}

#[test]
fn who_says_nothing_gets_the_documented_defaults() {
    let Loaded {
        config,
        settings,
        warnings,
    } = load(&Sources::default()).unwrap();
    assert_eq!(config.listen, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(config.limits, LimitPolicy::default());
    assert_eq!(config.capacity, Capacity::default());
    assert_eq!(config.workspace_path, PathBuf::from("/workspace"));
    assert_eq!(config.result_ttl, Duration::from_secs(24 * 3600));
    let state = PathBuf::from("/workspace/.state");
    assert_eq!(config.state, StatePlace::Directory(state));
    assert_eq!(config.max_state_bytes, 1 << 30);
    assert!(!config.async_by_default);
    assert_eq!(config.max_body_bytes, 16 << 20);
    assert_eq!(
        config.control_plane.unwrap().to_string(),
        "http://localhost:8000/"
    );
    assert!(config.token.is_none() && !config.require_auth);
    assert!(config.cancel_on_disconnect);
    assert_eq!(config.warm.languages, Language::ALL);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert!(settings.iter().all(|s| s.origin == Origin::Default));
}

#[test]
fn every_setting_of_the_table_is_read_once() {
    let settings = load(&Sources::default()).unwrap().settings;
    let read: Vec<_> = settings.iter().map(|setting| setting.key.name).collect();
    let table: Vec<_> = keys::all().map(|key| key.name).collect();
    assert_eq!(read, table);
}

#[test]
fn an_artifact_store_is_whole_or_not_there() {
    assert!(
        load(&Sources::default())
            .unwrap()
            .config
            .artifact_store
            .is_none()
    );
    let directory = TempDir::new().unwrap();
    let secret = directory.path().join("secret");
    fs::write(&secret, "hunter2\n").unwrap();
    let whole = [
        ("S3_ENDPOINT", "http://minio:9000/"),
        ("S3_BUCKET", "artifacts"),
        ("S3_ACCESS_KEY", "me-and-mine"),
        ("S3_SECRET_KEY_FILE", secret.to_str().unwrap()),
        ("S3_UPLOAD_TIMEOUT", "5s"),
    ];
    let loaded = load(&environment(&whole)).unwrap();
    for text in [
        loaded.to_text(),
        loaded.to_json().to_string(),
        format!("{loaded:?}"),
    ] {
        assert!(
            !text.contains("hunter2") && !text.contains("me-and-mine"),
            "{text}"
        );
    }
    let store = loaded.config.artifact_store.unwrap();
    assert_eq!(store.endpoint, "http://minio:9000");
    assert_eq!(store.secret_key.expose(), "hunter2");
    assert_eq!(store.upload_timeout, Duration::from_secs(5));
    assert_eq!(store.region, "us-east-1");

    let parts = mistakes(&environment(&whole[..1]));
    assert_eq!(parts.len(), 3, "{parts:#?}");
    for (part, needed) in parts
        .iter()
        .zip(["s3_bucket", "s3_access_key", "s3_secret_key"])
    {
        assert!(part.contains(needed), "{part}");
    }
    let without = mistakes(&environment(&whole[1..]));
    assert_eq!(without.len(), 3, "{without:#?}");
    let both = [
        whole[0],
        whole[1],
        whole[2],
        ("S3_SECRET_KEY", "x"),
        whole[3],
    ];
    assert!(mistake(&environment(&both)).contains("which of the two"));
}

#[test]
fn flags_beat_the_environment_which_beats_the_file_which_beats_defaults() {
    let (_directory, mut sources) = file("a.toml", "executor_port = 1\nmax_memory_mb = 64\n");
    let port = |sources: &Sources| {
        let loaded = load(sources).unwrap();
        let setting = loaded
            .settings
            .iter()
            .find(|setting| setting.key.name == "executor_port")
            .unwrap();
        (loaded.config.listen.port(), setting.origin.clone())
    };
    let path = sources.file.clone().unwrap();
    assert_eq!(port(&sources), (1, Origin::File(path)));
    sources
        .environment
        .insert("EXECUTOR_PORT".into(), "2".into());
    assert_eq!(
        port(&sources),
        (2, Origin::Environment("EXECUTOR_PORT".into()))
    );
    sources.flags.insert("executor_port", "3".into());
    assert_eq!(port(&sources), (3, Origin::Flag("--executor-port".into())));
    let limits = load(&sources).unwrap().config.limits;
    assert_eq!(limits.ceilings().max_memory_mb, 64);
}

#[test]
fn toml_and_yaml_say_the_same() {
    let toml = "executor_port = 9000\ncancel_on_disconnect = false\nresult_ttl = \"90s\"\nmax_output_bytes = 1024\n";
    let yaml = "executor_port: 9000\ncancel_on_disconnect: false\nresult_ttl: 90s\nmax_output_bytes: 1024\npod_name:\n";
    for (name, text) in [("a.toml", toml), ("a.yaml", yaml), ("a.yml", yaml)] {
        let (_directory, sources) = file(name, text);
        let config = load(&sources).unwrap().config;
        assert_eq!(config.listen.port(), 9000, "{name}");
        assert!(!config.cancel_on_disconnect, "{name}");
        assert_eq!(config.result_ttl, Duration::from_secs(90), "{name}");
        assert_eq!(config.limits.ceilings().max_output_bytes, 1024, "{name}");
    }
    let (_directory, empty) = file("a.yaml", "# nothing\n");
    assert!(load(&empty).is_ok());
}

#[test]
fn all_mistakes_come_at_once_with_their_places() {
    let (_directory, mut sources) = file(
        "a.toml",
        "executor_prot = 1\nmax_memory_mb = 1\nsession_id = 7\npod_name = [\"a\"]\n",
    );
    let path = sources.file.clone().unwrap();
    let file = format!("file {}", path.display());
    sources.environment = BTreeMap::from([
        ("EXECUTOR_PORT".into(), "http".into()),
        ("DEFAULT_TIMEOUT".into(), "2h".into()),
        ("GUEST_UID".into(), "0".into()),
        ("CONTAINER_ID".into(), OsString::from_vec(vec![0xff])),
    ]);
    sources.flags = BTreeMap::from([("log_format", "xml".into()), ("bwrap_path", "bwrap".into())]);
    assert_eq!(
        mistakes(&sources),
        [
            format!(
                "{file}: there is no setting \"executor_prot\"; did you mean executor_port?"
            ),
            "executor_port (environment variable EXECUTOR_PORT) must be a port number, 0 to 65535; is \"http\"".into(),
            format!("session_id ({file}) must be text: put it in quotes"),
            "default_timeout (environment variable DEFAULT_TIMEOUT) must be between 1 and 3600, is 7200".into(),
            "default_timeout (environment variable DEFAULT_TIMEOUT) must not be longer than max_timeout (3600 s), is 7200 s".into(),
            format!("max_memory_mb ({file}) must be between 16 and 4294967296, is 1"),
            "bwrap_path (flag --bwrap-path) must be an absolute path; is \"bwrap\"".into(),
            "guest_uid (environment variable GUEST_UID) must be an id between 1 and 4294967294: guests never run as root; is \"0\"".into(),
            "container_id (environment variable CONTAINER_ID) must be UTF-8".into(),
            format!("pod_name ({file}) must be a single value (text)"),
            "log_format (flag --log-format) must be text or json; is \"xml\"".into(),
        ]
    );
}

#[test]
fn an_unreadable_file_is_one_mistake_among_others() {
    let directory = TempDir::new().unwrap();
    let mut sources = environment(&[("EXECUTOR_PORT", "x")]);
    sources.file = Some(directory.path().join("missing.toml"));
    assert_eq!(mistakes(&sources).len(), 2);

    for (name, text) in [
        ("a.json", "{}"),
        ("a", ""),
        ("a.toml", "executor_port = "),
        ("a.yaml", "a: b: c"),
        ("a.yaml", "- a\n"),
        ("a.yaml", "a: 1\na: 2\n"),
    ] {
        let (_directory, sources) = file(name, text);
        mistake(&sources);
    }
}

#[test]
fn a_broken_file_does_not_show_its_secrets() {
    for (name, text) in [
        (
            "a.toml",
            "executor_port = 1\ninternal_api_token = \"hunter2\n",
        ),
        ("a.toml", "internal_api_token = hunter2\n"),
        ("a.toml", "internal_api_token = [\"hunter2\"]\n"),
        ("a.yaml", "internal_api_token: \"hunter2\n"),
        ("a.yaml", "internal_api_token hunter2\n"),
        ("a.yaml", "internal_api_token: hunter2: 1\n"),
        ("a.yaml", "internal_api_token: {a: hunter2}\n"),
        ("a.yaml", "internal_api_token: \"hunter2 \\n\"\n"),
    ] {
        let (_directory, sources) = file(name, text);
        let mistake = mistake(&sources);
        assert!(!mistake.contains("hunter2"), "{text:?}: {mistake}");
    }
    let (_directory, sources) = file("a.toml", "executor_port = 1\n\nx = \n");
    assert!(mistake(&sources).ends_with("in line 3"));
}

#[test]
fn empty_variables_are_unset_and_misspelt_ones_are_named() {
    let loaded = load(&environment(&[
        ("EXECUTOR_PORT", ""),
        ("INTERNAL_API_TOKEN", ""),
        ("EXECUTOR_PROT", "9000"),
        ("EXECUTOR_COLOUR", "red"),
        // From a Service named `executor`.
        ("EXECUTOR_SERVICE_HOST", "10.0.0.1"),
        ("EXECUTOR_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("HOME", "/root"),
    ]))
    .unwrap();
    assert_eq!(loaded.config.listen.port(), 8080);
    assert_eq!(
        loaded.warnings,
        [
            "the environment variable EXECUTOR_COLOUR is not known",
            "the environment variable EXECUTOR_PROT is not known; did you mean EXECUTOR_PORT?",
        ]
    );
}

#[test]
fn secrets_are_masked_wherever_settings_are_shown() {
    let loaded = load(&environment(&[("INTERNAL_API_TOKEN", "hunter2")])).unwrap();
    assert_eq!(loaded.config.token.as_ref().unwrap().expose(), "hunter2");
    for shown in [
        loaded.to_text(),
        loaded.to_json().to_string(),
        format!("{loaded:?}"),
    ] {
        assert!(shown.contains("****"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let wrong = mistake(&environment(&[("INTERNAL_API_TOKEN", "hunter2 ")]));
    assert!(!wrong.contains("hunter2"), "{wrong}");
}

#[test]
fn a_token_comes_from_a_file_or_directly_but_not_both() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("token");
    let name = path.to_str().unwrap();
    fs::write(&path, "hunter2\r\n").unwrap();
    let from_file = environment(&[("INTERNAL_API_TOKEN_FILE", name)]);
    let config = load(&from_file).unwrap().config;
    assert_eq!(config.token.unwrap().expose(), "hunter2");
    assert!(config.require_auth);

    let both = mistake(&environment(&[
        ("INTERNAL_API_TOKEN_FILE", name),
        ("INTERNAL_API_TOKEN", "other"),
    ]));
    assert!(both.contains("which of the two"), "{both}");

    for content in ["", "\n", "hunter2 x\n"] {
        fs::write(&path, content).unwrap();
        let wrong = mistake(&from_file);
        assert!(!wrong.contains("hunter2"), "{wrong}");
    }
    fs::write(&path, "x".repeat(5000)).unwrap();
    assert!(mistake(&from_file).contains("more than 4096 bytes"));
    fs::remove_file(&path).unwrap();
    assert!(mistake(&from_file).contains("cannot be read"));
}

#[test]
fn strangers_reach_the_port_only_with_a_token_or_out_loud() {
    // host, token, require_auth, allow_anonymous → callers must send the token, number of warnings; or the setting that
    // is mistaken.
    type Row<'a> = ([&'a str; 4], Result<(bool, usize), &'a str>);
    let table: [Row<'_>; 14] = [
        (["127.0.0.1", "", "", ""], Ok((false, 0))),
        (["::1", "", "", ""], Ok((false, 0))),
        (["::ffff:127.0.0.1", "", "", ""], Ok((false, 0))),
        (["localhost", "", "false", ""], Ok((false, 0))),
        (["127.0.0.1", "t", "", ""], Ok((true, 0))),
        (["127.0.0.1", "", "true", ""], Err("executor_require_auth")),
        (["0.0.0.0", "", "", ""], Err("executor_host")),
        (["::", "", "", "false"], Err("executor_host")),
        (["0.0.0.0", "", "false", ""], Err("executor_host")),
        (["0.0.0.0", "", "", "true"], Ok((false, 1))),
        (
            ["0.0.0.0", "", "true", "true"],
            Err("executor_require_auth"),
        ),
        (["0.0.0.0", "t", "", ""], Ok((true, 0))),
        (["0.0.0.0", "t", "", "true"], Ok((true, 0))),
        (["0.0.0.0", "t", "false", ""], Ok((false, 1))),
    ];
    for (row, expected) in table {
        let sources = environment(&[
            ("EXECUTOR_HOST", row[0]),
            ("INTERNAL_API_TOKEN", row[1]),
            ("EXECUTOR_REQUIRE_AUTH", row[2]),
            ("EXECUTOR_ALLOW_ANONYMOUS", row[3]),
        ]);
        match (load(&sources), expected) {
            (Ok(loaded), Ok((guarded, warnings))) => {
                assert_eq!(loaded.config.inbound_token().is_some(), guarded, "{row:?}");
                assert_eq!(loaded.warnings.len(), warnings, "{row:?}");
            }
            (Err(mistakes), Err(setting)) => {
                let settings: Vec<_> = mistakes.iter().map(|mistake| mistake.setting).collect();
                assert_eq!(settings, [Some(setting)], "{row:?}");
            }
            (got, _) => panic!("{row:?}: {got:?}"),
        }
    }
}

#[test]
fn a_shorter_longest_time_shortens_the_default() {
    let loaded = load(&environment(&[("MAX_TIMEOUT", "1m")])).unwrap();
    assert_eq!(loaded.config.limits.ceilings().default_timeout, 60);
    assert!(
        loaded
            .to_text()
            .lines()
            .any(|line| line
                .split_whitespace()
                .eq(["default_timeout", "60", "default"])),
        "{}",
        loaded.to_text()
    );
    let both = environment(&[("MAX_TIMEOUT", "1m"), ("DEFAULT_TIMEOUT", "2m")]);
    assert!(mistake(&both).contains("must not be longer"));
}

#[test]
fn state_is_kept_where_no_guest_sees_it_or_not_at_all() {
    let state = |variables: &[(&str, &str)]| load(&environment(variables)).unwrap().config.state;
    let directory = |path: &str| StatePlace::Directory(path.into());
    assert_eq!(
        state(&[("WORKSPACE_PATH", "/data"), ("SESSION_ID", "s")]),
        directory("/data.state")
    );
    assert_eq!(
        state(&[("STATE_PATH", "/var/state")]),
        directory("/var/state")
    );
    assert_eq!(state(&[("STATE_PATH", "none")]), StatePlace::Memory);
    for (path, bound) in [
        ("/workspace", false),
        ("/workspace/session", false),
        ("/workspace/.state", true),
        ("/usr/state", false),
    ] {
        let mut variables = vec![("STATE_PATH", path)];
        if bound {
            variables.push(("SESSION_ID", "s"));
        }
        let mistake = mistake(&environment(&variables));
        assert!(
            mistake.contains("state_path") && mistake.contains("guests")
                || mistake.contains("session"),
            "{mistake}"
        );
    }
    assert!(mistake(&environment(&[("MAX_STATE_BYTES", "63MiB")])).contains("at least"));
}
