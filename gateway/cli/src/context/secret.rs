//! An API key.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The largest file that can be one with a key, bytes.
const MAX: u64 = 4096;

/// A key, which no `Debug` shows: `ID:SECRET`, or the secret alone.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub(crate) struct Secret(String);

impl Secret {
    /// A key as it is written, without white space around it.
    ///
    /// # Errors
    /// It cannot be sent.
    pub(crate) fn new(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.is_empty() {
            return Err("there is no key in it, expected ID:SECRET");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("this is no key, expected one line ID:SECRET");
        }
        Ok(Self(text.to_owned()))
    }

    /// The key in a file.
    ///
    /// # Errors
    /// The file cannot be read or holds something else.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let file = std::fs::File::open(path)?;
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, MAX), &mut text)?;
        Self::new(&text).map_err(invalid)
    }

    /// To be sent to the gateway, and nowhere else.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Secret {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A warning, if others can read a file that holds a key. Pipes and the like, which are no files, are nobody else's.
pub(super) fn too_open(path: &Path) -> Option<String> {
    let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    let mode = metadata.permissions().mode() & 0o777;
    let path = path.display();
    (mode & 0o077 != 0)
        .then(|| format!("{path} holds a key and others may read it (mode {mode:o}): chmod 600 {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_word_that_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for (text, expected) in
            [("id:s3cret\n", true), (" s3cret", true), ("", false), ("a b", false), ("a\nb", false)]
        {
            std::fs::write(&path, text).unwrap();
            let read = Secret::read(&path);
            assert_eq!(read.is_ok(), expected, "{text:?}");
            assert!(!format!("{read:?}").contains("s3cret"));
        }
        assert!(Secret::read(&folder.path().join("none")).is_err());
    }

    #[test]
    fn a_file_that_others_read_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, expected) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(too_open(file.path()).is_some(), expected, "{mode:o}");
        }
    }
}
