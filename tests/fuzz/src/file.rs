//! A file whose content is input: in memory where the system has such a place, because there are thousands a second.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;

/// The one folder of this process; removed at its end, but not after a crash.
fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<TempDir>> = OnceLock::new();
    let make = || {
        let name = |folder: &Path| tempfile::Builder::new().prefix("rollcall-fuzz-").tempdir_in(folder);
        name(Path::new("/dev/shm")).or_else(|_| name(&std::env::temp_dir())).ok()
    };
    FOLDER.get_or_init(make).as_ref().map(TempDir::path)
}

/// Writes a file of this name and content, over one that is there.
///
/// # Panics
/// If the system has no place for it.
pub fn write(name: &str, content: &[u8]) -> PathBuf {
    let path = folder().expect("no folder can be made in memory or among temporary files").join(name);
    std::fs::write(&path, content).expect("a file of input cannot be written");
    path
}
