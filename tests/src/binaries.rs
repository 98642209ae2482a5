//! The programs under test, built once a test run, beside the test itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// A directory that holds both programs; with it nothing is built. The benchmark uses it.
const DIRECTORY: &str = "ROLLCALL_TEST_BINARIES";

static BUILT: LazyLock<PathBuf> = LazyLock::new(|| match std::env::var_os(DIRECTORY) {
    Some(directory) => directory.into(),
    None => build(),
});

/// The path of a program or shared library of this workspace, up to date with its sources.
///
/// # Panics
/// If it cannot be built.
#[must_use]
pub fn path(program: &str) -> PathBuf {
    let path = BUILT.join(program);
    assert!(path.is_file(), "{} is not there", path.display());
    path
}

/// Builds into the directory that this test came from. Takes a moment if nothing changed.
fn build() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own path");
    // target/PROFILE/deps/NAME-HASH
    let profile = own.ancestors().nth(2).expect("a test lies in target/PROFILE/deps");
    let target = profile.parent().expect("a profile lies in target");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace");
    // The same packages as `cargo build` without arguments, so that nothing is compiled twice for other features.
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--locked", "--quiet", "--workspace", "--bins", "--lib", "--target-dir"])
        .arg(target);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    // cargo tells a test which package it is of. Some build scripts look at that, and would be run, and all that
    // depends on them compiled, a second time.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            cargo.env_remove(name);
        }
    }
    let status = cargo.current_dir(workspace).status().expect("cargo runs");
    assert!(status.success(), "the programs under test do not build: {status}");
    profile.to_owned()
}
