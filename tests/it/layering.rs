//! The layering rule, read from the Cargo manifests:
//! data <- views <- {batch, speed, serving} <- the root package.

use std::path::Path;

use toml::{Table, Value};

/// Each crate with the crates of this workspace it may depend on.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("data", &[]),
    ("views", &["data"]),
    ("batch", &["data", "views"]),
    ("speed", &["data", "views"]),
    ("serving", &["data", "views"]),
];

const PREFIX: &str = "lambdalake-";

#[test]
fn crates_depend_only_on_the_layers_below() {
    for (name, allowed) in MAY_DEPEND_ON {
        for dependency in workspace_dependencies(&manifest(name)) {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name}/Cargo.toml depends on {PREFIX}{dependency}; it may depend on {allowed:?}"
            );
        }
    }
}

#[test]
fn every_crate_has_a_rule_and_the_root_knows_all() {
    let root = manifest("");
    let members: Vec<&str> = root["workspace"]["members"]
        .as_array()
        .expect("workspace.members is an array")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let ruled: Vec<&str> = MAY_DEPEND_ON.iter().map(|(name, _)| *name).collect();
    assert_eq!(members, ruled);
    let mut known = workspace_dependencies(&root);
    known.sort();
    let mut all = ruled;
    all.sort();
    assert_eq!(known, all);
}

fn manifest(folder: &str) -> Table {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join(folder).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).expect("a manifest");
    toml::from_str(&text).expect("a manifest is TOML")
}

/// Workspace crates a manifest names, without their prefix: for building and for tests, on
/// any target, also where a dependency was given another name.
fn workspace_dependencies(manifest: &Table) -> Vec<String> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let tables = targets
        .into_iter()
        .flat_map(|targets| targets.values())
        .filter_map(Value::as_table)
        .chain([manifest]);
    tables
        .flat_map(|table| {
            ["dependencies", "dev-dependencies", "build-dependencies"]
                .into_iter()
                .filter_map(|kind| table.get(kind)?.as_table())
        })
        .flatten()
        .filter_map(|(name, value)| {
            let renamed = value.get("package").and_then(Value::as_str);
            Some(renamed.unwrap_or(name).strip_prefix(PREFIX)?.to_owned())
        })
        .collect()
}
