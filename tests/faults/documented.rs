//! docs/faults.md and the tests it names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn text(path: &str) -> String {
    let path = workspace().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The tests the document names, as folder, file and function.
fn named() -> Vec<[String; 3]> {
    let document = text("docs/faults.md");
    let quoted = document.split('`').skip(1).step_by(2);
    quoted
        .filter_map(|name| {
            let parts: Vec<String> = name.split("::").map(str::to_owned).collect();
            <[String; 3]>::try_from(parts).ok().filter(|[folder, ..]| folder != "folder")
        })
        .collect()
}

/// The files of a module: its own, and those of the modules in it.
fn files(place: &Path, module: &str) -> Vec<PathBuf> {
    let inner = std::fs::read_dir(place.join(module)).into_iter().flatten();
    let inner = inner.map(|entry| entry.unwrap().path());
    inner.chain([place.join(format!("{module}.rs"))]).collect()
}

#[test]
fn every_test_that_the_document_names_exists_and_no_test_of_faults_is_left_out() {
    let named = named();
    assert!(named.len() > 25, "{named:?}");
    for [folder, file, name] in &named {
        let places: &[&str] = match folder.as_str() {
            "faults" | "acceptance" | "brokers" | "soak" => &[&format!("tests/{folder}")],
            "cluster" | "http" => &[&format!("gateway/tests/{folder}")],
            "connections" => &["gateway/tests"],
            "agent" => &["node-agent/tests"],
            "unit" => &["gateway/src", "gateway/src/http", "proto/trust/src"],
            other => panic!("docs/faults.md: {other} is none of the places it explains"),
        };
        let mut paths = places.iter().flat_map(|place| files(&workspace().join(place), file));
        let has = |path: PathBuf| {
            std::fs::read_to_string(path).is_ok_and(|source| source.contains(&format!("fn {name}(")))
        };
        assert!(
            paths.any(has),
            "docs/faults.md names {folder}::{file}::{name}, which is in none of {places:?}"
        );
    }
    let known: BTreeSet<&str> = named.iter().map(|[_, _, name]| name.as_str()).collect();
    for entry in std::fs::read_dir(workspace().join("tests/faults")).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("documented.rs") {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        for test in source.split("#[test]\nfn ").skip(1) {
            let name = test.split('(').next().unwrap();
            assert!(known.contains(name), "docs/faults.md does not name {name} of {}", path.display());
        }
    }
}
