//! The fences of `docs/architecture.md`, compared with what stands. A new dependency is a decision: it changes the table
//! here, and the page where the reason is.

#![allow(clippy::unwrap_used, reason = "this is how a test fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// What each crate may depend on, when built for use: `name`, or `name (linux)` for Linux alone, `name (not macos)`, or
/// `name (optional)`.
const DEPENDENCIES: &[(&str, &[&str])] = &[
    ("executor-domain", &["serde_json", "thiserror"]),
    (
        "executor-application",
        &[
            "async-trait",
            "executor-domain",
            "fastrand",
            "mockall (optional)",
            "sha2",
            "thiserror",
            "tokio",
            "tokio-util",
            "tracing",
        ],
    ),
    (
        "executor-guest",
        &[
            "libc (linux)",
            "nix (linux)",
            "rustix (linux)",
            "seccompiler (linux)",
            "serde",
            "serde_json",
        ],
    ),
    (
        "executor-infra-control-plane",
        &[
            "async-trait",
            "chrono",
            "executor-application",
            "executor-domain",
            "executor-outbound",
            "http-body-util",
            "httpdate",
            "hyper",
            "serde",
            "serde_json",
            "thiserror",
            "tokio",
        ],
    ),
    (
        "executor-outbound",
        &[
            "http-body-util",
            "hyper",
            "hyper-rustls (optional)",
            "hyper-util",
            "rustls (optional)",
            "rustls-graviola (optional)",
            "rustls-native-certs (optional) (not macos)",
            "thiserror",
        ],
    ),
    (
        "executor-infra-isolation",
        &[
            "async-trait",
            "command-fds (linux)",
            "executor-application",
            "executor-domain",
            "nix",
            "rustix",
            "executor-guest (linux)",
            "futures-util (linux)",
            "seccompiler (linux)",
            "serde",
            "serde_json",
            "thiserror",
            "tokio",
            "tokio-util",
            "tracing",
        ],
    ),
    (
        "executor-infra-object-store",
        &[
            "async-trait",
            "executor-application",
            "executor-domain",
            "executor-outbound",
            "hmac",
            "http-body-util",
            "hyper",
            "object_store",
            "sha2",
            "thiserror",
            "tokio",
            "tracing",
        ],
    ),
    (
        "executor-infra-telemetry",
        &[
            "async-trait (optional)",
            "executor-application",
            "executor-domain",
            "executor-outbound (optional)",
            "http-body-util (optional)",
            "opentelemetry (optional)",
            "opentelemetry-http (optional)",
            "opentelemetry-otlp (optional)",
            "opentelemetry_sdk (optional)",
            "prometheus-client",
            "rustix (linux)",
            "thiserror",
            "tokio (optional)",
            "tracing",
            "tracing-opentelemetry (optional)",
            "tracing-subscriber",
        ],
    ),
    (
        "executor-infra-store",
        &[
            "async-trait",
            "executor-application",
            "executor-domain",
            "rusqlite",
            "serde",
            "serde_json",
            "thiserror",
            "tokio",
            "tracing",
        ],
    ),
    (
        "executor-infra-workspace",
        &[
            "async-trait",
            "executor-application",
            "executor-domain",
            "infer",
            "mime_guess",
            "rustix",
            "sha2",
            "tar",
            "thiserror",
            "tokio",
            "tracing",
            "zip",
        ],
    ),
    (
        "executor-interfaces-http",
        &[
            "axum",
            "chrono",
            "executor-application",
            "executor-domain",
            "form_urlencoded",
            "futures-util",
            "http-body-util",
            "hyper",
            "hyper-util",
            "serde",
            "serde_json",
            "sha2",
            "subtle",
            "tokio",
            "tracing",
            "utoipa",
            "utoipa-axum",
            "uuid",
        ],
    ),
    (
        "sandbox-executor",
        &[
            "anstream",
            "anstyle",
            "clap",
            "clap_complete",
            "executor-application",
            "executor-domain",
            "executor-infra-control-plane",
            "executor-infra-isolation",
            "executor-infra-object-store (optional)",
            "executor-infra-telemetry",
            "executor-infra-store",
            "executor-infra-workspace",
            "executor-interfaces-http",
            "figment",
            "http",
            "http-body-util",
            "hyper",
            "hyper-util",
            "indicatif",
            "rustix",
            "sd-notify (linux)",
            "serde_json",
            "strsim",
            "thiserror",
            "tokio",
            "tracing",
            "tracing-subscriber",
            "uuid",
        ],
    ),
    (
        "sandbox-control-plane",
        &[
            "axum",
            "base64",
            "chrono",
            "clap",
            "executor-domain",
            "http-body-util",
            "hyper",
            "hyper-util",
            "rusqlite",
            "serde",
            "serde_json",
            "sha2",
            "subtle",
            "thiserror",
            "tokio",
            "tracing",
            "tracing-subscriber",
        ],
    ),
    (
        "sandbox-executor-tests",
        &[
            "landlock (linux)",
            "nix (linux)",
            "sandbox-executor",
            "seccompiler (linux)",
            "serde_json (linux)",
        ],
    ),
];

/// What `tokio` may do in the crates that must not touch the world.
const TOKIO_OF_APPLICATION: &[&str] = &["macros", "rt", "sync", "time"];

type Dependencies = BTreeMap<String, BTreeSet<String>>;

fn metadata() -> Metadata {
    MetadataCommand::new()
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .unwrap()
}

fn allowed() -> Dependencies {
    DEPENDENCIES
        .iter()
        .map(|(name, dependencies)| {
            let dependencies = dependencies.iter().map(|&name| name.to_owned());
            ((*name).to_owned(), dependencies.collect())
        })
        .collect()
}

fn found(metadata: &Metadata) -> Dependencies {
    metadata
        .workspace_packages()
        .into_iter()
        .map(|package| (package.name.to_string(), dependencies_of(package)))
        .collect()
}

fn dependencies_of(package: &Package) -> BTreeSet<String> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind != DependencyKind::Development)
        .map(|dependency| {
            let mut name = dependency.name.clone();
            if dependency.kind == DependencyKind::Build {
                name += " (build)";
            }
            if dependency.optional {
                name += " (optional)";
            }
            match dependency
                .target
                .as_ref()
                .map(ToString::to_string)
                .as_deref()
            {
                None => {}
                Some(r#"cfg(target_os = "linux")"#) => name += " (linux)",
                Some(r#"cfg(not(target_os = "macos"))"#) => name += " (not macos)",
                Some(other) => name.extend([" (", other, ")"]),
            }
            name
        })
        .collect()
}

/// Every crate and dependency that is on one side only, in words.
fn differences(allowed: &Dependencies, found: &Dependencies) -> Vec<String> {
    let none = BTreeSet::new();
    let crates: BTreeSet<_> = allowed.keys().chain(found.keys()).collect();
    let mut differences = Vec::new();
    for name in crates {
        if !allowed.contains_key(name) {
            differences.push(format!("{name} is a new crate"));
        }
        if !found.contains_key(name) {
            differences.push(format!("{name} is gone"));
        }
        let allowed = allowed.get(name).unwrap_or(&none);
        let found = found.get(name).unwrap_or(&none);
        let added = found.difference(allowed);
        differences.extend(
            added.map(|new| format!("{name} depends on {new}, which its row does not allow")),
        );
        let removed = allowed.difference(found);
        differences.extend(
            removed.map(|old| format!("{name} no longer depends on {old}: remove it from its row")),
        );
    }
    differences
}

/// Adapters, and the one crate that may know them.
fn is_adapter(name: &str) -> bool {
    name.starts_with("executor-infra-") || name.starts_with("executor-interfaces-")
}

const COMPOSITION_ROOT: &str = "sandbox-executor";

/// Every crate that sees an adapter and must not.
fn trespasses(dependencies: &Dependencies) -> Vec<String> {
    dependencies
        .iter()
        .filter(|(name, _)| *name != COMPOSITION_ROOT)
        .flat_map(|(name, dependencies)| {
            let adapters = dependencies
                .iter()
                .filter(|dependency| is_adapter(dependency));
            adapters.map(move |adapter| format!("{name} sees {adapter}"))
        })
        .collect()
}

#[test]
fn every_crate_depends_on_what_its_row_says() {
    let differences = differences(&allowed(), &found(&metadata()));
    assert!(
        differences.is_empty(),
        "{differences:#?}\nRead docs/architecture.md, then change either the manifest or the table in {}",
        file!()
    );
}

#[test]
fn nobody_but_the_composition_root_sees_an_adapter() {
    let found = found(&metadata());
    assert_eq!(trespasses(&found), [""; 0]);
    // Positive control: there are adapters, and somebody uses them.
    let root = &found[COMPOSITION_ROOT];
    assert_eq!(root.iter().filter(|name| is_adapter(name)).count(), 7);
}

#[test]
fn the_comparison_notices_what_is_added_moved_and_removed() {
    let with = |name: &str, dependency: &str| {
        let mut found = found(&metadata());
        found
            .entry(name.to_owned())
            .or_default()
            .insert(dependency.to_owned());
        found
    };
    let allowed = allowed();
    assert_eq!(
        differences(&allowed, &with("executor-domain", "rand")),
        ["executor-domain depends on rand, which its row does not allow"]
    );
    // The same crate, no longer for Linux alone.
    assert_eq!(
        differences(&allowed, &with("executor-infra-isolation", "seccompiler")),
        ["executor-infra-isolation depends on seccompiler, which its row does not allow"]
    );
    assert_eq!(
        differences(&allowed, &with("executor-extra", "serde")),
        [
            "executor-extra is a new crate",
            "executor-extra depends on serde, which its row does not allow"
        ]
    );
    let mut fewer = found(&metadata());
    fewer
        .get_mut("executor-domain")
        .unwrap()
        .remove("thiserror");
    fewer.remove("sandbox-executor-tests");
    assert_eq!(
        differences(&allowed, &fewer),
        [
            "executor-domain no longer depends on thiserror: remove it from its row",
            "sandbox-executor-tests is gone",
            "sandbox-executor-tests no longer depends on landlock (linux): remove it from its row",
            "sandbox-executor-tests no longer depends on nix (linux): remove it from its row",
            "sandbox-executor-tests no longer depends on sandbox-executor: remove it from its row",
            "sandbox-executor-tests no longer depends on seccompiler (linux): remove it from its row",
            "sandbox-executor-tests no longer depends on serde_json (linux): remove it from its row",
        ]
    );
    assert_eq!(
        trespasses(&with(
            "executor-interfaces-http",
            "executor-infra-workspace"
        )),
        ["executor-interfaces-http sees executor-infra-workspace"]
    );
}

#[test]
fn application_can_wait_and_nothing_else() {
    let metadata = metadata();
    let package = |name: &str| {
        let mut packages = metadata.workspace_packages().into_iter();
        packages.find(|package| package.name == name).unwrap()
    };
    let tokio = |name: &str| {
        let mut dependencies = package(name).dependencies.iter();
        dependencies.find(|found| found.name == "tokio" && found.kind == DependencyKind::Normal)
    };
    let application = tokio("executor-application").unwrap();
    assert!(!application.uses_default_features);
    assert_eq!(application.features, TOKIO_OF_APPLICATION);
    assert!(tokio("executor-domain").is_none());
}

/// The lines of a table of a manifest, without comments.
fn table(manifest: &str, header: &str) -> Vec<String> {
    manifest
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != header)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn unsafe_code_is_forbidden_in_every_crate_but_the_guests() {
    let metadata = metadata();
    let workspace = fs::read_to_string(metadata.workspace_root.join("Cargo.toml")).unwrap();
    let lints = table(&workspace, "[workspace.lints.rust]");
    assert!(
        lints.contains(&r#"unsafe_code = "forbid""#.to_owned()),
        "{lints:?}"
    );
    for package in metadata.workspace_packages() {
        let manifest = fs::read_to_string(&package.manifest_path).unwrap();
        if package.name.as_str() == "executor-guest" {
            // The one that may, and has to say of each block what makes it sound.
            let (rust, clippy) = ("[lints.rust]", "[lints.clippy]");
            for (header, lint) in [
                (rust, r#"unsafe_op_in_unsafe_fn = "deny""#),
                (clippy, r#"undocumented_unsafe_blocks = "deny""#),
                (clippy, r#"multiple_unsafe_ops_per_block = "deny""#),
            ] {
                assert!(
                    table(&manifest, header).contains(&lint.to_owned()),
                    "{lint}"
                );
            }
            continue;
        }
        assert_eq!(
            table(&manifest, "[lints]"),
            ["workspace = true"],
            "{}",
            package.name
        );
    }
}

#[test]
fn the_domain_has_no_standard_library() {
    let source = PathBuf::from(metadata().workspace_root).join("crates/executor-domain/src/lib.rs");
    let source = fs::read_to_string(source).unwrap();
    let code: Vec<_> = source
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//"))
        .collect();
    assert!(code.contains(&"#![no_std]"));
    assert!(!code.iter().any(|line| line.contains("extern crate std")));
}

#[test]
fn the_map_names_every_crate() {
    let metadata = metadata();
    let page = fs::read_to_string(metadata.workspace_root.join("docs/architecture.md")).unwrap();
    for package in metadata.workspace_packages() {
        let directory = package.manifest_path.parent().unwrap().file_name().unwrap();
        assert!(
            page.contains(directory),
            "docs/architecture.md does not name {directory}"
        );
    }
}
